r"""Texts with labels: tables, and folders of them.

A file is UTF-8, see `recdrop.lab.files`. What it holds is told by its suffix:

* ``.tsv``: a tab separates; quotes are text.
* ``.csv``: commas, quotes as in RFC 4180; a quoted text may have line breaks.
* ``.jsonl``: one JSON object a line; keys that are not asked for are passed over. The label is a
  text or a whole number.
* Any other suffix: JSON lines if the first line begins with ``{``, else TSV if it has a tab; if
  neither, the file is refused.

Which columns:

* A first row with a column ``text``, ``tweet`` or ``sentence`` and one ``label``, ``sentiment`` or
  ``class`` (in any case; the first of these that is there) is a header. JSON has these keys.
* Without a header there are two or three columns: the last is the text, the one before it the label
  (SemEval's files are id, label, text). Where so fewer texts than labels differ, the columns are
  surely in another order, and the file is refused.
* So is one whose first row has a usual name for text or label only: it may be a header or not. To
  be trained on, one whose first row has a label that no other has, while each of the others is
  there twice or more: that row is surely a header with names of its own.
* A column can be given, by its name, and then the first row is a header, or by its number from 1.
  Where only one is given, the other one needs its usual name in a header. Where both are given by
  number, the first row is a header only if it has the usual names of both.

Which rows:

* A blank line is no row, but for a line break in quotes. All rows have equally many columns.
* Blanks around texts and labels are dropped. Neither may be blank, nor have more than 131,072
  characters (``csv``'s own limit): a quote that is never closed ends there. A label has no tab, no
  line break and no other control character: answers have one on each line.
* A line that breaks these rules is refused with its number, that of a row's first line.

A folder with ``LABEL.txt`` for each label, one text a line, is labelled texts too, in the order of
their names; columns mean nothing there.

Three parts are a folder with train, valid and test of one suffix, the first of ``.tsv``, ``.csv``
and ``.jsonl`` that has a train. Anything else is split: the different texts are put in the order of
their SHA-256; of these the last 20th is the test set and the 20th before it the validation set. So
equal texts are in one part, and the order of the rows, which may be by label, does not matter.
Within a part it stays.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

from recdrop.lab.errors import BadInput
from recdrop.lab.files import TextFile
from recdrop.lab.storage import storage
from recdrop.lab.vocabulary import shown

Column = str | int | None
"""A column by its name or its number from 1; None: see the rules above."""

_TEXT = ("text", "tweet", "sentence")
_LABEL = ("label", "sentiment", "class")
_SUFFIXES = (".tsv", ".csv", ".jsonl")
_LONGEST = 131_072
_CONTROLS = ("Cc", "Zl", "Zp")  # Unicode's categories of controls, ends of lines and of paragraphs


class Labelled(NamedTuple):
    """A text with its label.

    Attributes:
        text: Not blank.
        label: Not blank.
        line: Where it begins in its file, from 1.
    """

    text: str
    label: str
    line: int


# ----------------------------------------------------------------------------------------- reading


def read_labelled(
    path: Path,
    text_column: Column = None,
    label_column: Column = None,
    *,
    to_train: bool = False,
) -> list[Labelled]:
    """Read one set of labelled texts.

    Args:
        path: A table, or a folder with a file for each label.
        text_column: Of the table.
        label_column: Of the table.
        to_train: Whether its labels are to be learned, and so must not be a header's.

    Raises:
        BadInput: It is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    with storage(path):
        files = _label_files(path) if path.is_dir() else []
    if files:
        rows = [
            _row(file, line, text, file.stem)
            for file in files
            for line, text in enumerate(TextFile.open(file).lines(), 1)
            if text and not text.isspace()
        ]
    else:
        file = TextFile.open(path)
        columns = _column(text_column), _column(label_column)
        if _suffix(file) == ".jsonl":
            rows = _read_objects(file, *columns)
        else:
            rows = _read_table(file, *columns, to_train=to_train)
    if not rows:
        raise BadInput(f"{path} has no rows; expected texts with labels")
    return rows


def read_splits(
    path: Path, text_column: Column = None, label_column: Column = None
) -> dict[str, list[Labelled]]:
    """Read labelled texts to train on.

    Args:
        path: A folder with train, valid and test, or what `read_labelled` reads, which is split.
        text_column: Of every table.
        label_column: Of every table.

    Returns:
        The rows of ``"train"``, ``"valid"`` and ``"test"``.

    Raises:
        BadInput: A file is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    for suffix in _SUFFIXES:
        files = {part: path / f"{part}{suffix}" for part in ("train", "valid", "test")}
        with storage(path):
            missing = [file.name for file in files.values() if not file.is_file()]
        if files["train"].name in missing:
            continue
        if missing:
            raise BadInput(
                f"{path} has train{suffix} but not {' and '.join(missing)}; "
                "give all three, or the one file alone, and it is split 90/5/5"
            )
        return {
            part: read_labelled(file, text_column, label_column, to_train=part == "train")
            for part, file in files.items()
        }
    return _split(path, read_labelled(path, text_column, label_column, to_train=True))


def labels_of(rows: Iterable[Labelled]) -> tuple[str, ...]:
    """The different labels, in alphabetical order."""
    return tuple(sorted({row.label for row in rows}))


def labels_to_train(rows: Sequence[Labelled], path: Path) -> tuple[str, ...]:
    """The different labels of a training set, in alphabetical order.

    Args:
        rows: The set.
        path: Where it came from, for messages.

    Raises:
        BadInput: There is only one: nothing can be learned.
    """
    labels = labels_of(rows)
    if len(labels) < 2:
        raise BadInput(
            f"{path}: all {len(rows)} texts to train on have the label {''.join(labels)!r}; "
            "expected two labels or more"
        )
    return labels


def alone_at_the_top(rows: Sequence[Labelled]) -> bool:
    """Whether the first row has a label that no other has, and each of the others is there twice.

    So it is where a header was read as a row.
    """
    others = Counter(row.label for row in rows)
    return others.pop(rows[0].label) == 1 and min(others.values(), default=0) > 1


def _label_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("[!.]*.txt") if file.is_file())
    parts = {"train", "valid", "test"} & {file.stem for file in files}
    if parts:
        raise BadInput(
            f"{folder} has {' and '.join(sorted(parts))}.txt, which are no labels; parts of "
            "labelled texts are tables: train.tsv, train.csv or train.jsonl"
        )
    table = next((f"train{s}" for s in _SUFFIXES if (folder / f"train{s}").is_file()), None)
    if len(files) < 2 and table:
        raise BadInput(f"{folder} is a folder of parts; give one of its files, such as {table}")
    if len(files) < 2:
        raise BadInput(
            f"{folder} has no labelled texts; looked for train.tsv, train.csv, train.jsonl, each "
            "with its valid and test, and for one LABEL.txt for each of two labels or more. "
            "SemEval's and Sentiment140's tweets are on these tasks' own pages; "
            "a single file of one's own can be given as such"
        )
    return files


def _split(path: Path, rows: list[Labelled]) -> dict[str, list[Labelled]]:
    """A training, a validation and a test part of one set; see the rules above."""
    texts = sorted({row.text for row in rows}, key=lambda text: sha256(text.encode()).digest())
    held = len(texts) // 20
    if held == 0:
        raise BadInput(
            f"{path} has {len(texts)} different texts; to be split 90/5/5 it needs at least 20. "
            "Give more, or a folder with train.tsv, valid.tsv and test.tsv"
        )
    part_of = dict.fromkeys(texts[-held:], "test")
    part_of |= dict.fromkeys(texts[-2 * held : -held], "valid")
    parts: dict[str, list[Labelled]] = {"train": [], "valid": [], "test": []}
    for row in rows:
        parts[part_of.get(row.text, "train")].append(row)
    return parts


def _suffix(file: TextFile) -> str:
    suffix = file.path.suffix.lower()
    if suffix in _SUFFIXES:
        return suffix
    first = next((line for line in file.lines() if line and not line.isspace()), "")
    if first.startswith("{"):
        return ".jsonl"
    if "\t" in first:
        return ".tsv"
    raise BadInput(
        f"{file.path}: expected texts with labels, but its first line has neither a tab nor JSON; "
        f"a table is named {', '.join(_SUFFIXES)}"
    )


def _column(given: Column) -> Column:
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def _row(path: Path, line: int, text: str, label: str) -> Labelled:
    """A row, if its text and label keep the rules."""
    for what, value in (("text", text), ("label", label)):
        if len(value) > _LONGEST:
            raise BadInput(
                f"{path}:{line}: the {what} has {len(value):,} characters, expected at most "
                f"{_LONGEST:,}; is this the right column?"
            )
        if not value or value.isspace():
            raise BadInput(f"{path}:{line}: the {what} is blank; fill it in or leave the row out")
    label = label.strip()
    if not label.isprintable() and any(category(char) in _CONTROLS for char in label):
        raise BadInput(
            f"{path}:{line}: the label {shown(label)} has a tab, a line break or another control "
            "character; expected a name on one line: take it out, or give another column"
        )
    return Labelled(text.strip(), sys.intern(label), line)


# ------------------------------------------------------------------------------------------ tables


def _read_table(
    file: TextFile, text_column: Column, label_column: Column, *, to_train: bool
) -> list[Labelled]:
    table = _cells_of_csv(file) if _suffix(file) == ".csv" else _cells_of_tsv(file)
    first, names = next(table, (0, []))
    if not names:
        return []
    where = f"{file.path}:{first}"
    header = [name.strip().lower() for name in names]
    titled = _titled(header, text_column, label_column)
    bare = not titled and text_column is None and label_column is None
    if bare:
        _check_bare(where, header)
        text_column, label_column = len(names), len(names) - 1
    text = _place(where, header, titled, "text", text_column, _TEXT)
    label = _place(where, header, titled, "label", label_column, _LABEL)
    if text == label:
        raise BadInput(f"{where}: text and label are both column {text + 1}; give two columns")

    rows = [] if titled else [_row(file.path, first, names[text], names[label])]
    for line, cells in table:
        if len(cells) != len(names):
            raise BadInput(
                f"{file.path}:{line}: {_columns(cells)}, expected {len(names)} as in line {first}"
            )
        rows.append(_row(file.path, line, cells[text], cells[label]))
    if bare and len({row.text for row in rows}) < len(labels_of(rows)):
        raise BadInput(
            f"{file.path} has fewer different texts than labels: without a header the last column "
            f"is the text, the one before it the label; {_give_both(label + 1, text + 1)}"
        )
    if bare and to_train and alone_at_the_top(rows):
        raise BadInput(
            f"{where}: is this a header? No other row has its label {shown(rows[0].label)}, and "
            f"each other label is there twice or more; {_give_both(text + 1, label + 1)}"
        )
    return rows


def _titled(header: list[str], text_column: Column, label_column: Column) -> bool:
    """Whether the first row is a header."""
    given = (text_column, label_column)
    if any(isinstance(column, str) for column in given):
        return True
    usual = [not set(names).isdisjoint(header) for names in (_TEXT, _LABEL)]
    return usual[given.index(None)] if given.count(None) == 1 else all(usual)


def _check_bare(where: str, header: list[str]) -> None:
    """Refuse a first row that may be a header or not, or tells no columns."""
    for known, usual, other, others in (
        ("text", _TEXT, "label", _LABEL),
        ("label", _LABEL, "text", _TEXT),
    ):
        found = next((name for name in usual if name in header), None)
        if found is not None:
            raise BadInput(
                f"{where}: is this a header? A column {found} is there for the {known}, but none "
                f"of {', '.join(others)}; if it is, name the other one with --{other}-column; "
                "if not, give both by number"
            )
    if len(header) not in (2, 3):
        raise BadInput(
            f"{where}: {_columns(header)} and no header; expected label and text, or id, label and "
            f"text; {_give_both(2, 1)}"
        )


def _give_both(text: int, label: int) -> str:
    """What to do where columns, such as these, are to be given."""
    return (
        "if the file has a header, give --text-column and --label-column by name, else by number, "
        f"such as --text-column {text} --label-column {label}"
    )


def _place(
    where: str, header: list[str], titled: bool, what: str, column: Column, usual: Sequence[str]
) -> int:
    """Which column of a table holds the text or the label, from 0."""
    if isinstance(column, int):
        if 1 <= column <= len(header):
            return column - 1
        raise BadInput(f"{where}: {_columns(header)}, so none has the number {column}")
    wanted = usual if column is None else (column.strip().lower(),)
    for name in wanted if titled else ():
        if name in header:
            return header.index(name)
    there = f"the columns are {', '.join(map(shown, header[:20]))}" if titled else "no header"
    raise BadInput(
        f"{where}: no column {' or '.join(wanted)} ({there}); give its name or number with "
        f"--{what}-column"
    )


def _columns(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'s' if len(cells) != 1 else ''}"


def _cells_of_tsv(file: TextFile) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(file.lines(), 1):
        if content and not content.isspace():
            yield line, content.split("\t")


def _cells_of_csv(file: TextFile) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for line in file.lines()), strict=True)
    first = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0] and not cells[0].isspace()):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(
            f"{file.path}:{first}: not CSV ({error}); is a quote not closed, or not doubled?"
        ) from None


# -------------------------------------------------------------------------------------------- JSON


def _read_objects(file: TextFile, text_column: Column, label_column: Column) -> list[Labelled]:
    for column in (text_column, label_column):
        if isinstance(column, int):
            raise BadInput(f"{file.path} is JSON; it has keys, and no column number {column}")
    text_keys = (text_column,) if isinstance(text_column, str) else _TEXT
    label_keys = (label_column,) if isinstance(label_column, str) else _LABEL
    rows = []
    for line, content in enumerate(file.lines(), 1):
        if content and not content.isspace():
            where = f"{file.path}:{line}"
            found = _object(where, content)
            label = _value(where, found, "label", label_keys)
            if type(label) is int:
                label = str(label)
            text = _value(where, found, "text", text_keys)
            for what, value in (("text", text), ("label", label)):
                if not isinstance(value, str):
                    raise BadInput(
                        f"{where}: the {what} is of type {type(value).__name__}; expected a string"
                    )
                if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                    raise BadInput(f"{where}: the {what} has a NUL or half of a surrogate pair")
            rows.append(_row(file.path, line, text, label))
    return rows


def _object(where: str, content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from None
    except (RecursionError, ValueError):
        raise BadInput(f"{where}: JSON too deep, or a number too long, to be read") from None
    if not isinstance(found, dict):
        raise BadInput(f"{where}: expected a JSON object with text and label on each line")
    return found


def _value(where: str, found: dict[str, Any], what: str, keys: Sequence[str]) -> Any:
    for key in keys:
        if key in found:
            return found[key]
    there = ", ".join(map(shown, list(found)[:20])) or "none"
    raise BadInput(f"{where}: no {what}: no key {' or '.join(keys)}; the keys are {there}")
