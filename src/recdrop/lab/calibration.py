"""Is a classifier as often right as it says? Reliability diagram and expected calibration error."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recdrop.lab import predict
from recdrop.lab.drawing import COLOURS, INK, drawing, picture, sheet
from recdrop.lab.errors import BadInput
from recdrop.lab.runs import read_text
from recdrop.lab.storage import is_there, make_folder, write_whole
from recdrop.lab.tasks.reading import described, with_columns
from recdrop.lab.trained import open_classifier

BINS = 10
_NUMBERS, _PICTURE = "calibration.json", "calibration.svg"


class Bin(NamedTuple):
    """Texts that the net was about equally sure of.

    Attributes:
        texts: Their number.
        confidence: Mean probability of the label that was told; 0 where there are none.
        accuracy: Share of them that were right; 0 likewise.
    """

    texts: int
    confidence: float
    accuracy: float


class Calibration(NamedTuple):
    """How sure a net was, and how right.

    Attributes:
        bins: By probability of the label told, `BINS` of equal width over [0, 1].
        accuracy: Share of texts that were right.
        confidence: Mean probability of the label told.
        error: Expected calibration error: the mean distance of a bin's two, by its texts
            (Naeini et al. 2015, Guo et al. 2017).
        nats: Mean negative logarithm of the right label's probability.
    """

    bins: tuple[Bin, ...]
    accuracy: float
    confidence: float
    error: float
    nats: float


class Measured(NamedTuple):
    """What was measured on what.

    Attributes:
        source: The run, its net, the texts and where masks came from, ready for JSON.
        told: By name of the nets, without dropout first.
    """

    source: dict[str, Any]
    told: dict[str, Calibration]


def calibrated(gold: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> Calibration:
    """Hold what was said against what is right.

    Args:
        gold: The right labels.
        probabilities: Of every label, for each text; as many.
    """
    best = [max(p, key=lambda label: p[label]) for p in probabilities]
    sure = np.array([p[label] for p, label in zip(probabilities, best, strict=True)])
    right = np.array([label == told for label, told in zip(gold, best, strict=True)], dtype=float)
    of = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(mine.sum()), float(sure[mine].mean()), float(right[mine].mean()))
        if (mine := of == i).any()
        else Bin(0, 0.0, 0.0)
        for i in range(BINS)
    )
    error = sum(one.texts * abs(one.confidence - one.accuracy) for one in bins) / len(gold)
    truth = np.array([p[label] for p, label in zip(probabilities, gold, strict=True)])
    nats = float(-np.log(np.maximum(truth, 1e-12)).mean())
    return Calibration(bins, float(right.mean()), float(sure.mean()), error, nats)


def measure(
    run: Path,
    data: Path,
    samples: int,
    seed: int,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Measured:
    """A classifier without dropout, and with so many nets.

    Args:
        run: Its folder.
        data: Labelled texts.
        samples: Nets to ask.
        seed: Where their masks come from.
        text_column: Name or number; None: the run's own.
        label_column: Likewise.

    Raises:
        BadInput: There is no classifier, or the texts are refused or have labels that it has not.
        StorageFailed: The system refused to read.
    """
    trained = open_classifier(run)
    trained = trained._replace(run=with_columns(trained.run, text_column, label_column))
    rows = predict.labelled_for(trained, data)
    gold, texts = [row.label for row in rows], [row.text for row in rows]
    told = {}
    for name, number in (("without dropout", 0), (f"mean of {samples} nets", samples)):
        answers = predict.classify(trained, texts, number, seed, together=True)
        told[name] = calibrated(gold, [one.probabilities for one in answers])
    source = {
        "run": {"name": trained.run.name, "seed": trained.run.seed, "update": trained.update},
        "data": {"name": data.name} | described(rows),
        "samples": samples,
        "seed": seed,
    }
    return Measured(source, told)


def check_free(folder: Path) -> None:
    """Refuse a folder where files of a calibration's names are somebody's own.

    Raises:
        BadInput: A file would be replaced; it is named.
        StorageFailed: The system refused to read.
    """
    there = [name for name in (_NUMBERS, _PICTURE) if is_there(folder / name)]
    if there and not _is_ours(read_text(folder / _NUMBERS)):
        raise BadInput(
            f"{folder / there[0]} is there and no calibration of recdrop's, which would replace "
            "it; choose another folder with --out, or move it"
        )


def _is_ours(numbers: str | None) -> bool:
    try:
        told = json.loads(numbers or "null")
    except ValueError:
        return False
    return isinstance(told, dict) and "calibration" in told


def write(folder: Path, measured: Measured) -> list[Path]:
    """Write the numbers and the picture.

    Raises:
        BadInput: A file is in the folder's place, or see `check_free`.
        StorageFailed: The system refused.
    """
    make_folder(folder)
    check_free(folder)
    values = {
        name: one._asdict() | {"bins": [b._asdict() for b in one.bins]}
        for name, one in measured.told.items()
    }
    numbers, drawn = folder / _NUMBERS, folder / _PICTURE
    write_whole(numbers, json.dumps(measured.source | {"calibration": values}, indent=2) + "\n")
    write_whole(drawn, _drawn(measured.told))
    return [numbers, drawn]


def _drawn(told: Mapping[str, Calibration]) -> bytes:
    with drawing():
        figure, axes = sheet(4.0)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="as sure as right")
        for (name, one), colour in zip(
            told.items(), (COLOURS["none"], COLOURS["ours"]), strict=False
        ):
            there = [b for b in one.bins if b.texts]
            most = max(b.texts for b in there)
            axes.plot(
                [b.confidence for b in there],
                [b.accuracy for b in there],
                color=colour,
                linewidth=1.3,
                label=f"{name}: error {one.error:.1%}",
            )
            axes.scatter(
                [b.confidence for b in there],
                [b.accuracy for b in there],
                [8 + 60 * b.texts / most for b in there],
                color=colour,
            )
        axes.set(xlabel="probability of the label told", ylabel="share that is right")
        least = min(b.confidence for one in told.values() for b in one.bins if b.texts)
        axes.set(xlim=(min(0.3, math.floor(10 * least) / 10), 1.0), ylim=(0.0, 1.0))
        axes.set_title("Reliability; areas are numbers of texts")
        axes.legend(loc="upper left")
        return picture("calibration", "Reliability diagram", figure).svg
