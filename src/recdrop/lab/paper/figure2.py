"""Figure 2: learning curves of the word model with and without this paper's dropout.

The paper's curves were read off the vector paths of its picture. Sources are labelled as in
`recdrop.lab.paper.grid`.
"""

import json
from importlib.resources import files
from typing import NamedTuple

from recdrop.lab.config import LanguageModelRun, Scale
from recdrop.lab.paper import language_models, table2
from recdrop.lab.paper.grid import Table
from recdrop.lab.paper.language_models import TENTH_NOTE, Cell

EPOCHS = 37  # P, as many as the picture shows
NAMES = ("none", "ours-step-25")  # P, 0.25 per step, no forward dropout
_POINTS_AN_EPOCH = {"train": 8, "valid": 1}  # a point every 100 updates, by the picture's axis

# Read off the picture: exp of the lowest and of the last point of the validation curves.
PRINTED = {
    "none": {"valid": "127.2", "valid_last": "142.9"},
    "ours-step-25": {"valid": "108.2", "valid_last": "108.2"},
}


class Curve(NamedTuple):
    """A curve of the picture.

    Attributes:
        epochs: Where its points stand.
        nats: Cross entropy of a word there; training with masks on.
    """

    epochs: list[float]
    nats: list[float]


def cells() -> tuple[Cell, ...]:
    """The two curves as cells of Table 2."""
    return tuple(cell for cell in language_models.cells() if cell.name in NAMES)


def run(
    cell: Cell, scale: Scale, seed: int = 0, *, max_epochs: int | None = None
) -> LanguageModelRun:
    """A curve as a run: Table 2's protocol for as long as the picture shows.

    Args:
        cell: The cell.
        scale: As of Table 2.
        seed: Start of its random streams.
        max_epochs: Stop here even if the picture goes on; reports say so.

    Raises:
        ValueError: There is no such scale.
    """
    epochs = EPOCHS if max_epochs is None else min(EPOCHS, max_epochs)
    return table2.run(cell, scale, seed, max_epochs=epochs, table="figure2")


def papers_curves() -> dict[str, dict[str, Curve]]:
    """The paper's curves by cell and set, ``train`` or ``valid``."""
    text = files("recdrop.lab.paper").joinpath("figure2_curves.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    return {
        name: {split: _curve(stored[name][split], each) for split, each in _POINTS_AN_EPOCH.items()}
        for name in NAMES
    }


def _curve(values: list[float | None], each: int) -> Curve:
    points = [(k / each, nats) for k, nats in enumerate(values, 1) if nats is not None]
    return Curve([epoch for epoch, _ in points], [nats for _, nats in points])


TABLE = Table(
    key="figure2",
    title="Figure 2: learning curves of words, Penn Treebank",
    score="perplexity",
    measures={"valid": "valid, best", "valid_last": "valid, last"},
    cells=lambda _: cells(),
    printed=lambda cell: PRINTED.get(cell.name, {}),
    run=run,
    scales={"tenth": TENTH_NOTE},
    reads=table2.READS,
    notes=(
        "the paper's numbers are read off its picture, which is another run than Table 2's",
        "train: masks on; ours is a mean over the updates between two points, the paper's the "
        "last batch",
    ),
)
