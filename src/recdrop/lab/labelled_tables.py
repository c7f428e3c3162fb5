"""One table of texts with labels; the rules are in `recdrop.lab.labelled`."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

from recdrop.lab.errors import BadInput
from recdrop.lab.files import TextFile
from recdrop.lab.vocabulary import shown

Column = str | int | None
"""A column by its name or its number from 1; None: see the rules."""

SUFFIXES = (".tsv", ".csv", ".jsonl")
_TEXT = ("text", "tweet", "sentence")
_LABEL = ("label", "sentiment", "class")
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


def read_table(
    path: Path, text_column: Column, label_column: Column, *, to_train: bool
) -> list[Labelled]:
    """Read a table; see `recdrop.lab.labelled.read_labelled`."""
    file = TextFile.open(path)
    columns = _column(text_column), _column(label_column)
    if _suffix(file) == ".jsonl":
        return _read_objects(file, *columns)
    return _read_cells(file, *columns, to_train=to_train)


def alone_at_the_top(rows: Sequence[Labelled]) -> bool:
    """Whether the first row has a label that no other has, and each of the others is there twice.

    So it is where a header was read as a row.
    """
    others = Counter(row.label for row in rows)
    return others.pop(rows[0].label) == 1 and min(others.values(), default=0) > 1


def _suffix(file: TextFile) -> str:
    suffix = file.path.suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    first = next((line for line in file.lines() if line and not line.isspace()), "")
    if first.startswith("{"):
        return ".jsonl"
    if "\t" in first:
        return ".tsv"
    raise BadInput(
        f"{file.path}: expected texts with labels, but its first line has neither a tab nor JSON; "
        f"a table is named {', '.join(SUFFIXES)}"
    )


def _column(given: Column) -> Column:
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def row_of(path: Path, line: int, text: str, label: str) -> Labelled:
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


def _read_cells(
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

    rows = [] if titled else [row_of(file.path, first, names[text], names[label])]
    for line, cells in table:
        if len(cells) != len(names):
            raise BadInput(
                f"{file.path}:{line}: {_columns(cells)}, expected {len(names)} as in line {first}"
            )
        rows.append(row_of(file.path, line, cells[text], cells[label]))
    if bare and len({row.text for row in rows}) < len({row.label for row in rows}):
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
            rows.append(row_of(file.path, line, text, label))
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
