"""``recdrop tag``, ``classify``, ``calibrate``, and the evaluation of taggers and classifiers."""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from recdrop.lab.console import console, say
from recdrop.lab.errors import BadInput

_BLOCK = 1 << 20  # bytes read from a pipe at a time
_AT_A_TIME = 256  # lines of a file
_LONGEST = 100_000  # bytes of a line, as `recdrop.lab.conll` has it


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False
    """One JSON object a line."""
    uncertainty: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Ask so many nets with other masks (at least 2), and tell the doubt in nats: the entropy of
    their mean, and the part of it that they disagree about."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Where the masks come from."""

    @property
    def samples(self) -> int:
        """Nets to ask.

        Raises:
            BadInput: It is one, which has no spread.
        """
        if self.uncertainty == 1:
            raise BadInput("--uncertainty: one net has no spread, expected 0 or at least 2, got 1")
        return self.uncertainty


# --------------------------------------------------------------------------------------------- tag


class TagOptions(_Options):
    """What `tag` takes."""

    columns: Annotated[bool, Parameter(negative="")] = False
    """The file has columns, as for training, and the word in the first; else it has a sentence a
    line, words between blanks."""


def tag(
    run: Path,
    file: Path | None = None,
    /,
    *,
    options: Annotated[TagOptions | None, Parameter(name="*")] = None,
):
    """Find names: a word and its tag a line, a blank line behind each sentence, an empty one too.

    Parameters
    ----------
    run
        Folder of a trained tagger.
    file
        Sentences. Without it, lines of standard input, answered as they come.
    """
    from recdrop.lab import predict
    from recdrop.lab.conll import Sentence, read_columns
    from recdrop.lab.trained import open_tagger

    options = options or TagOptions()
    samples, trained = options.samples, open_tagger(run)

    def tell(sentences: list[Sentence]) -> None:
        words = [one.words for one in sentences if one.words]
        tagged = iter(predict.tag(trained, words, samples, options.seed))
        each = (next(tagged) if one.words else predict.Tagged((), (), ()) for one in sentences)
        _write(map(_tagged_json if options.json_lines else _tagged_lines, each))

    if options.columns:
        if file is None:
            raise BadInput("--columns needs a file")
        sentences = read_columns(file, tagged=False)
        for first in range(0, len(sentences), _AT_A_TIME):
            tell(sentences[first : first + _AT_A_TIME])
        return 0
    for number, lines in _lines(file):
        tell([Sentence(tuple(line.split()), (), number + i) for i, line in enumerate(lines)])
    return 0


def _tagged_lines(told: Any) -> str:
    doubt = [told.entropy, told.information] if told.entropy else []
    rows = zip(told.words, told.tags, *([f"{x:.4f}" for x in part] for part in doubt), strict=True)
    return "".join("\t".join(row) + "\n" for row in rows) + "\n"


def _tagged_json(told: Any) -> str:
    names = [
        {
            "kind": one.kind,
            "start": one.start,
            "stop": one.stop,
            "text": " ".join(told.words[one.start : one.stop]),
        }
        for one in told.entities
    ]
    values = {"words": told.words, "tags": told.tags, "entities": names}
    values["probability"] = [round(p, 6) for p in told.sure]
    if told.entropy:
        values["entropy"] = [round(x, 6) for x in told.entropy]
        values["information"] = [round(x, 6) for x in told.information]
    return json.dumps(values, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------------------------------- classify


class ClassifyOptions(_Options):
    """What `classify` takes."""


def classify(
    run: Path,
    file: Path | None = None,
    /,
    *,
    options: Annotated[ClassifyOptions | None, Parameter(name="*")] = None,
):
    """Label texts, one a line: the label, a tab, and the probability of every label.

    Parameters
    ----------
    run
        Folder of a trained classifier.
    file
        Texts. Without it, lines of standard input, answered as they come.
    """
    from recdrop.lab import predict
    from recdrop.lab.trained import open_classifier

    options = options or ClassifyOptions()
    samples, trained = options.samples, open_classifier(run)
    for _, lines in _lines(file):
        classified = predict.classify(trained, lines, samples, options.seed)
        _write(_classified(told, as_json=options.json_lines) for told in classified)
    return 0


def _classified(told: Any, *, as_json: bool) -> str:
    if as_json:
        values: dict[str, Any] = {"label": told.label, "probabilities": told.probabilities}
        if told.spread:
            values |= {"spread": told.spread, "entropy": told.entropy}
            values["information"] = told.information
        return json.dumps(values, ensure_ascii=False) + "\n"
    parts = [f"{name}={p:.4f}" for name, p in told.probabilities.items()]
    if told.spread:
        parts += [f"entropy={told.entropy:.4f}", f"information={told.information:.4f}"]
    return f"{told.label}\t{' '.join(parts)}\n"


# --------------------------------------------------------------------------------------- evaluate


def evaluate_tagger(run: Path, data: Path, column: int | None) -> int:
    """Tell entity scores of a file of columns, as conlleval does."""
    from recdrop.lab import predict
    from recdrop.lab.conll import converted, read_columns, score
    from recdrop.lab.trained import open_tagger

    trained = open_tagger(run)
    sentences = read_columns(data, trained.run.data.column if column is None else column)
    scheme = trained.run.data.scheme
    gold = [converted(one.tags, scheme) for one in sentences]
    found = predict.tag(trained, [one.words for one in sentences])
    scores = score(gold, [one.tags for one in found])
    out = console()
    say(out, f"{run}: the net after {trained.update:,} updates, of {data}")
    total = scores.overall
    say(
        out,
        f"{scores.tokens:,} words, {scores.accuracy:.2%} with the right tag; {total.wanted:,} "
        f"entities, {total.found:,} found, {total.right:,} of them right",
    )
    width = max(len(name) for name in ("overall", *scores.kinds))
    for name, one in {"overall": total, **scores.kinds}.items():
        precision, recall, f1 = one.percent
        say(
            out,
            f"{name:<{width}}  precision {precision:6.2f}  recall {recall:6.2f}  F1 {f1:6.2f}  "
            f"{one.wanted:,}",
        )
    return 0


def evaluate_classifier(run: Path, data: Path) -> int:
    """Tell label scores of a file of labelled texts."""
    from recdrop.lab import predict
    from recdrop.lab.label_scores import accuracy, f1_of, labels_to_score, mean_f1
    from recdrop.lab.labelled import read_labelled
    from recdrop.lab.trained import open_classifier

    trained = open_classifier(run)
    how = trained.run.data
    rows = read_labelled(data, how.text_column, how.label_column)
    strange = sorted({row.label for row in rows} - set(trained.labels))
    if strange:
        raise BadInput(
            f"{data} has labels that the run has not: {', '.join(strange)}; it has "
            f"{', '.join(trained.labels)}"
        )
    gold = [row.label for row in rows]
    found = [one.label for one in predict.classify(trained, [row.text for row in rows])]
    out, scored = console(), labels_to_score(trained.labels)
    say(out, f"{run}: the net after {trained.update:,} updates, of {data}")
    say(
        out,
        f"mean F1 of {' and '.join(scored)} {100 * mean_f1(gold, found, scored):.2f}, "
        f"accuracy {accuracy(gold, found):.2%}, {len(rows):,} texts",
    )
    width = max(map(len, trained.labels))
    for label in trained.labels:
        number = gold.count(label)
        say(out, f"{label:<{width}}  F1 {100 * f1_of(gold, found, label):6.2f}  {number:,}")
    return 0


# --------------------------------------------------------------------------------------- calibrate


class CalibrateOptions(BaseModel):
    """What `calibrate` takes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    data: Path
    """Labelled texts that were not trained on."""
    out: Path
    """Folder for calibration.svg and calibration.json."""
    samples: Annotated[int, Field(ge=2, le=10_000)] = 20
    """Nets to ask beside the one without dropout."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Where the masks come from."""


def calibrate(run: Path, /, *, options: Annotated[CalibrateOptions, Parameter(name="*")]):
    """How often a classifier is right where it says it is so sure, with and without sampling.

    Parameters
    ----------
    run
        Folder of a trained classifier.
    """
    from recdrop.lab import calibration

    told = calibration.measure(run, options.data, options.samples, options.seed)
    out = console()
    for name, one in told.items():
        say(
            out,
            f"{name}: accuracy {one.accuracy:.2%}, mean confidence {one.confidence:.2%}, "
            f"expected calibration error {one.error:.2%}, nats {one.nats:.4f}",
        )
    for path in calibration.write(options.out, told):
        say(out, f"Written: {path}")
    return 0


# ------------------------------------------------------------------------------- lines in and out


def _lines(file: Path | None) -> Iterator[tuple[int, list[str]]]:
    """Lines with the number of their first: a file's some at a time, a pipe's as they come.

    Raises:
        BadInput: One is not UTF-8, has a NUL, or is longer than `_LONGEST`.
    """
    if file is None:
        yield from _coming()
        return
    from recdrop.lab.files import TextFile

    lines: list[str] = []
    first = 1
    for line in TextFile.open(file).lines(_LONGEST):
        lines.append(line)
        if len(lines) == _AT_A_TIME:
            yield first, lines
            first, lines = first + len(lines), []
    if lines:
        yield first, lines


def _coming() -> Iterator[tuple[int, list[str]]]:
    if sys.stdin is None:  # closed by whoever started this
        raise BadInput("there is no standard input; give a file")
    begun, first, block = b"", 1, b"\n"
    while block:
        block = os.read(sys.stdin.fileno(), _BLOCK)
        *whole, begun = (begun + block).split(b"\n")
        if begun and (not block or len(begun) > _LONGEST):
            whole.append(begun)
        lines: list[str] = []
        for number, line in enumerate(whole, first):
            try:
                lines.append(_decoded(line, number))
            except BadInput:
                yield first, lines
                raise
        yield first, lines
        first += len(lines)


def _decoded(line: bytes, number: int) -> str:
    line = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").removesuffix(b"\r")
    try:
        if len(line) > _LONGEST:
            raise ValueError(f"the line is too long; expected {_LONGEST:,} bytes at most")
        if b"\0" in line:
            raise ValueError("NUL is not text")
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"standard input:{number}: not UTF-8 ({error.reason})") from None
    except ValueError as error:
        raise BadInput(f"standard input:{number}: {error}") from None


def _write(texts: Iterable[str]) -> None:
    sys.stdout.writelines(texts)
    sys.stdout.flush()
