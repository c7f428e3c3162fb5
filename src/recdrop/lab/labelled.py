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
and ``.jsonl`` that has a train. Anything else is split, label by label: among the different texts
with the same label, in the order of their SHA-256, the k-th of n has the rank k / n, from k = 0. Of
all, in the order of their ranks and then of their SHA-256, the last 20th is the test set and the
20th before it the validation set. So each label has about its share of both, one of few texts has
them in the training set first, equal texts are in one part, and the order of the rows, which may be
by label, does not matter. Within a part it stays. A text that is there with several labels counts
as one of a label of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from recdrop.lab.errors import BadInput
from recdrop.lab.files import TextFile
from recdrop.lab.labelled_tables import SUFFIXES, Column, Labelled, read_table, row_of
from recdrop.lab.storage import storage


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
            row_of(file, line, text, file.stem)
            for file in files
            for line, text in enumerate(TextFile.open(file).lines(), 1)
            if text and not text.isspace()
        ]
    else:
        rows = read_table(path, text_column, label_column, to_train=to_train)
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
    for suffix in SUFFIXES:
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


def _label_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("[!.]*.txt") if file.is_file())
    parts = {"train", "valid", "test"} & {file.stem for file in files}
    if parts:
        raise BadInput(
            f"{folder} has {' and '.join(sorted(parts))}.txt, which are no labels; parts of "
            "labelled texts are tables: train.tsv, train.csv or train.jsonl"
        )
    table = next((f"train{s}" for s in SUFFIXES if (folder / f"train{s}").is_file()), None)
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
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.text].add(row.label)
    texts = sorted(labels, key=lambda text: sha256(text.encode()).digest())
    alike: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for text in texts:
        alike[frozenset(labels[text])].append(text)
    ranks = {text: k / len(those) for those in alike.values() for k, text in enumerate(those)}
    texts.sort(key=ranks.__getitem__)
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
