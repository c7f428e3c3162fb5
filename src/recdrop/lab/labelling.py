"""``recdrop tag``, ``classify``, ``calibrate``, and the evaluation of taggers and classifiers."""

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, field_validator

from recdrop.lab.console import (
    console,
    counted,
    note,
    say,
    standard_input,
    standard_output,
)
from recdrop.lab.errors import BadInput
from recdrop.lab.files import LONGEST, TextFile

_BLOCK = 1 << 20  # bytes read from a pipe at a time
_AT_A_TIME = 256  # lines of a file


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False
    """One JSON object a line."""
    uncertainty: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Ask so many nets with other masks (at least 2), and tell the doubt in nats: the entropy of
    their mean, and the part of it that they disagree about."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Where the masks come from."""

    @field_validator("uncertainty")
    @classmethod
    def _spread(cls, nets: int) -> int:
        if nets == 1:
            raise ValueError("one net has no spread, expected 0 or at least 2, got 1")
        return nets


# --------------------------------------------------------------------------------------------- tag


class TagOptions(_Options):
    """What `tag` takes."""

    columns: Annotated[bool, Parameter(negative="")] = False
    """The file has columns, as for training, and the word in the first; else it has a sentence a
    line."""
    tokens: Literal["blanks", "newswire"] = "blanks"
    """Words of a sentence are what stands between blanks: `Rome.` is one; newswire splits
    punctuation from raw text."""


def tag(
    run: Path,
    file: Path | None = None,
    /,
    *,
    options: Annotated[TagOptions | None, Parameter(name="*")] = None,
):
    """Find names: a word and its tag a line, a blank line behind each sentence, an empty one too.

    Of columns every line has its answer, blank ones and borders of documents among them.

    Parameters
    ----------
    run
        Folder of a trained tagger.
    file
        Sentences. Without it, lines of standard input, answered as they come; columns once it ends.
    """
    from recdrop.lab import predict
    from recdrop.lab.conll import BORDER, gaps, read_columns
    from recdrop.lab.skipgram import split_newswire
    from recdrop.lab.trained import open_tagger

    options = options or TagOptions()
    if options.columns and options.tokens != "blanks":
        raise BadInput("--tokens: with --columns each line is a word already; give one of the two")
    trained, doubt = open_tagger(run), options.uncertainty > 0

    def tell(sentences: Sequence[Sequence[str]], behind: Iterable[str], before: str = "") -> None:
        asked = predict.tag(
            trained, [one for one in sentences if one], options.uncertainty, options.seed
        )
        tagged = iter(asked)
        told = [next(tagged) if one else predict.Tagged((), (), ()) for one in sentences]
        if options.json_lines:
            _write(_tagged_json(one, doubt=doubt) for one in told)
        else:
            _write(chain([before], _tagged_lines(told, behind, doubt=doubt)))

    if options.columns:
        wanted = "columns, answered once all are there"
        columns = _piped(wanted) if file is None else TextFile.open(file)
        sentences = [one.words for one in read_columns(columns, tagged=False)]
        behind = gaps(columns, "\t".join([BORDER, "O", *["0.0000"] * (2 * doubt)]))
        before = next(behind)
        for first in range(0, len(sentences), _AT_A_TIME):
            tell(sentences[first : first + _AT_A_TIME], behind, before)
            before = ""
        return 0
    split = split_newswire if options.tokens == "newswire" else str.split
    for lines in read_lines(file, "sentences, one a line"):
        tell([split(line) for line in lines], repeat("\n"))
    return 0


def _tagged_lines(told: Sequence[Any], behind: Iterable[str], *, doubt: bool) -> Iterator[str]:
    """Columns, with what stands behind each sentence."""
    from recdrop.lab.conll import column_lines

    columns = [[one.tags for one in told]]
    if doubt:
        for part in ("entropy", "information"):
            columns.append([[f"{x:.4f}" for x in getattr(one, part)] for one in told])
    ends = iter(behind)
    for line in column_lines([one.words for one in told], *columns):
        yield next(ends) if line == "\n" else line


def _tagged_json(told: Any, *, doubt: bool) -> str:
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
    if doubt:
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
    trained = open_classifier(run)
    for lines in read_lines(file, "texts, one a line"):
        classified = predict.classify(trained, lines, options.uncertainty, options.seed)
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
    unknown = trained.words.unknown_share(chain.from_iterable(one.words for one in sentences))
    out = console()
    say(out, f"{run}: the net after {counted(trained.update, 'update')}, of {data}")
    total = scores.overall
    say(
        out,
        f"{counted(scores.tokens, 'word')}, {unknown:.1%} unknown, "
        f"{scores.accuracy:.2%} with the right tag; "
        f"{counted(total.wanted, 'entity', 'entities')}, {total.found:,} found, "
        f"{total.right:,} of them right",
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


def evaluate_classifier(
    run: Path, data: Path, text_column: str | None, label_column: str | None
) -> int:
    """Tell label scores of a file of labelled texts."""
    from recdrop.lab import predict
    from recdrop.lab.label_scores import accuracy, f1_of, labels_to_score, mean_f1
    from recdrop.lab.tasks.reading import with_columns, words_of
    from recdrop.lab.trained import open_classifier

    trained = open_classifier(run)
    trained = trained._replace(run=with_columns(trained.run, text_column, label_column))
    rows = predict.labelled_for(trained, data)
    gold = [row.label for row in rows]
    found = [one.label for one in predict.classify(trained, [row.text for row in rows])]
    words = chain.from_iterable(words_of((row.text for row in rows), trained.run.data))
    unknown = trained.words.unknown_share(words)
    out, scored = console(), labels_to_score(gold, found, trained.labels)
    say(out, f"{run}: the net after {counted(trained.update, 'update')}, of {data}")
    say(
        out,
        f"mean F1 of {' and '.join(scored)} {100 * mean_f1(gold, found, trained.labels):.2f}, "
        f"accuracy {accuracy(gold, found):.2%}, {counted(len(rows), 'text')}, "
        f"{unknown:.1%} of their words unknown",
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
    text_column: str | None = None
    """The text's column, by name or number. Default: the run's."""
    label_column: str | None = None
    """The label's column, likewise."""
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

    calibration.check_free(options.out)
    measured = calibration.measure(
        run,
        options.data,
        options.samples,
        options.seed,
        text_column=options.text_column,
        label_column=options.label_column,
    )
    out = console()
    for name, one in measured.told.items():
        say(
            out,
            f"{name}: accuracy {one.accuracy:.2%}, mean confidence {one.confidence:.2%}, "
            f"expected calibration error {one.error:.2%}, nats {one.nats:.4f}",
        )
    for path in calibration.write(options.out, measured):
        say(out, f"Written: {path}")
    return 0


# ------------------------------------------------------------------------------- lines in and out


def read_lines(file: Path | None, what: str) -> Iterator[list[str]]:
    """A file's lines, some at a time; a pipe's as they come.

    Args:
        file: None for standard input.
        what: Is awaited there; told to whoever sits at a terminal.

    Raises:
        BadInput: One is not UTF-8, has a NUL, or is longer than `LONGEST`; those before it have
            been given, but of a file with a NUL none.
    """
    if file is None:
        yield from _coming(what)
        return
    some: list[str] = []
    try:
        for line in TextFile.open(file).lines(LONGEST):
            some.append(line)
            if len(some) == _AT_A_TIME:
                yield some
                some = []
    except BadInput:
        yield some
        raise
    yield some


def _input(what: str) -> int:
    """The handle of standard input; whoever sits at a terminal is told what it is for."""
    stdin = standard_input()
    if stdin.isatty():
        note(f"Type {what}; Ctrl-D at the start of a line ends.")
    return stdin.fileno()


def _piped(what: str) -> TextFile:
    """All of standard input, once it has ended."""
    handle = _input(what)
    parts = iter(lambda: _block(handle), b"")
    return TextFile.of(Path("standard input"), b"".join(parts))


def _block(handle: int) -> bytes:
    try:
        return os.read(handle, _BLOCK)
    except OSError as error:
        raise BadInput(f"standard input cannot be read ({error.strerror}); give a file") from None


def _coming(what: str) -> Iterator[list[str]]:
    handle = _input(what)
    begun, done, block = b"", 0, b"\n"
    while block:
        returned, block = block.endswith(b"\r"), _block(handle)
        fresh = block[1:] if returned and block.startswith(b"\n") else block  # one end of two
        fresh = fresh.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, begun = (begun + fresh).split(b"\n")
        if begun and (not block or len(begun) > LONGEST):
            whole.append(begun)
        lines: list[str] = []
        for number, line in enumerate(whole, done + 1):
            try:
                lines.append(_decoded(line, number))
            except BadInput:
                yield lines
                raise
        yield lines
        done += len(lines)


def _decoded(line: bytes, number: int) -> str:
    line = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"")
    try:
        if len(line) > LONGEST:
            raise ValueError(f"the line is too long; expected {LONGEST:,} bytes at most")
        if b"\0" in line:
            raise ValueError("NUL is not text")
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"standard input:{number}: not UTF-8 ({error.reason})") from None
    except ValueError as error:
        raise BadInput(f"standard input:{number}: {error}") from None


def _write(texts: Iterable[str]) -> None:
    out = standard_output()
    out.writelines(texts)
    out.flush()
