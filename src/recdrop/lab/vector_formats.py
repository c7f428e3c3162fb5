r"""Word vectors in the files of other programs.

Which it is shows in the content, not in the name:

* **word2vec text**: a first line with two whole numbers, words and width; then the rows.
* **word2vec binary**: the same first line; then each word, a blank, its numbers as little-endian
  float32, and a line feed or not. It is taken for one where the first row is none of text, and
  bytes show that a text does not have.
* **GloVe text**: rows only. The width is that of the first row, whose word has no blank in it.

What a file must be:

* A row of text is a word and D numbers with blanks or tabs between them. A word may have blanks in
  it (GloVe has some), but its last piece is not a number: such a row is too wide. Rows that are
  too wide or too narrow are refused. A last number that was cut short is still a number.
* Words are UTF-8 without NUL; a byte order mark at the start of the file is dropped. Line ends are
  ``\n`` or ``\r\n``; blank lines do not count.
* The number of words that a first line tells is exact.
* Of a word that is there twice the first row counts, and it is told.
* Numbers that are not finite in float32 are refused.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdrop.lab.errors import BadInput
from recdrop.lab.vocabulary import shown

_WIDEST = 16_384  # numbers of a row
_LONGEST = 1 << 20  # bytes of a row
_LONGEST_WORD = 10_000  # bytes, in a binary file
_BLOCK = 1 << 22  # bytes of a binary file at a time, several rows at least

_HEADER = re.compile(rb"(\d{1,15})[ \t]+(\d{1,15})[ \t\r]*")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f]")


class Rows(NamedTuple):
    """What is in a file.

    Attributes:
        words: All different.
        values: float32 [V, D], finite.
        notes: What there is to tell of them, a line each.
    """

    words: tuple[str, ...]
    values: Tensor
    notes: tuple[str, ...]


def read_rows(path: Path, file: BinaryIO) -> Rows:
    """Read a file of the formats above from its start.

    Memory stays at what is returned and some MB, whatever the file's size.

    Args:
        path: Its name, for messages.
        file: It.

    Raises:
        BadInput: It is refused by the rules above.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_LONGEST)
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise BadInput(f"{path} is compressed; unpack it first")
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    first, _, rest = head[start:].partition(b"\n")
    header = _HEADER.fullmatch(first)
    if header is None:
        kept = _Kept(_most(path, file, first, size), _width(first))
        file.seek(start)
        _read_text(path, file, kept, None)
        return kept.rows()
    count, width = map(int, header.groups())
    if not 1 <= width <= _WIDEST or count == 0:
        raise BadInput(
            f"{path}:1: expected at least one word and a width of 1 to {_WIDEST:,}, "
            f"got {count:,} words of width {width:,}"
        )
    binary = _width(rest.partition(b"\n")[0]) != width and not _is_text(rest)
    least = count * ((4 if binary else 2) * width + 2) - 1  # the last line feed may be missing
    if least > size:
        raise BadInput(
            f"{path}:1: {count:,} words of width {width:,} take at least {least:,} bytes, "
            f"the file has {size:,}; is it whole?"
        )
    kept = _Kept(count, width)
    file.seek(start + len(first) + 1)
    (_read_binary if binary else _read_text)(path, file, kept, count)
    return kept.rows()


def _most(path: Path, file: BinaryIO, first: bytes, size: int) -> int:
    """Rows that a file without a first line of numbers has at most."""
    width = _width(first)
    if not 1 <= width <= _WIDEST:
        got = shown(first[:100].decode(errors="replace")) if size else "an empty file"
        raise BadInput(
            f"{path}:1: expected a word and 1 to {_WIDEST:,} numbers, or two whole numbers, "
            f"how many words and how wide; got {got}"
        )
    file.seek(0)
    lines = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    return min(lines, 1 + size // (2 * width + 2))  # so that blank lines take no memory


def _width(row: bytes) -> int:
    """Numbers at the end of a row, behind at least one piece of a word."""
    pieces = row.split()[1:]
    for count, piece in enumerate(reversed(pieces)):
        if not _NUMBER.fullmatch(piece):
            return count
    return len(pieces)


def _is_text(sample: bytes) -> bool:
    """Whether nothing at a file's start shows that it is not text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return not _NO_TEXT.search(sample)


class _Fault(Exception):
    """What is wrong with a row; the message does not yet say where it is."""


class _Kept:
    """Words and vectors, taken one after another.

    Args:
        most: So many rows at most.
        width: Numbers of each.
    """

    def __init__(self, most: int, width: int) -> None:
        self.width = width
        self._values = np.empty((most, width), np.float32)
        self._row_of: dict[str, int] = {}
        self._repeated: dict[str, None] = {}

    def take(self, word: bytes, numbers: NDArray[np.float32]) -> None:
        """Take a row.

        Raises:
            _Fault: It cannot be.
        """
        try:
            told = word.decode()
        except UnicodeDecodeError as error:
            quoted = shown(word.decode(errors="replace"))
            raise _Fault(f"the word {quoted} is not UTF-8 ({error.reason})") from None
        if not told or "\0" in told or "\n" in told:
            raise _Fault(f"expected a word, got {shown(told)}")
        finite = np.isfinite(numbers)
        if not finite.all():
            at = int(finite.argmin())
            raise _Fault(
                f"number {at + 1} of {shown(told)} is {numbers[at]}; expected finite float32"
            )
        row = len(self._row_of)
        if self._row_of.setdefault(told, row) == row:
            self._values[row] = numbers
        else:
            self._repeated[told] = None

    def rows(self) -> Rows:
        """What was taken."""
        repeated = [shown(word) for word in self._repeated]
        more = f" and {len(repeated) - 1:,} more" if len(repeated) > 1 else ""
        told = (
            f"there more than once, the first row counts: {repeated[0]}{more}" if repeated else ""
        )
        values = torch.from_numpy(self._values[: len(self._row_of)])
        return Rows(tuple(self._row_of), values, (told,) if told else ())


# -------------------------------------------------------------------------------------------- text


def _read_text(path: Path, file: BinaryIO, kept: _Kept, count: int | None) -> None:
    """Take the rows of a text; ``count`` is its first line's, if it has one, which was read."""
    seen = 0
    for number, line in enumerate(_lines(file), 1 if count is None else 2):
        row = line.rstrip().replace(b"\t", b" ")
        if not row:
            continue
        seen += 1
        try:
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                raise _Fault("a row of a mebibyte or more; are these word vectors?")
            if count is not None and seen > count:
                raise _Fault(f"line 1 says {count:,} words, here is one more")
            _take_row(row, kept)
        except _Fault as fault:
            raise BadInput(f"{path}:{number}: {fault}") from None
    if count is not None and seen < count:
        raise BadInput(f"{path}:1: it says {count:,} words, {seen:,} are there; is the file whole?")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; one that is too long in pieces."""
    return iter(lambda: file.readline(_LONGEST), b"")


def _take_row(row: bytes, kept: _Kept) -> None:
    start, _, rest = row.partition(b" ")
    try:
        numbers = np.fromstring(rest, np.float32, sep=" ")
    except ValueError:
        numbers = np.empty(0, np.float32)
    if len(numbers) == kept.width and rest.count(b" ") == kept.width - 1:
        kept.take(start, numbers)
    else:  # blanks in the word, several in a row, or a fault
        kept.take(*_split(row, kept.width))


def _split(row: bytes, width: int) -> tuple[bytes, NDArray[np.float32]]:
    """The word and the numbers of any row.

    Raises:
        _Fault: There are more numbers, or fewer.
    """
    pieces, got = row.split(), _width(row)
    if got != width:
        before = shown(pieces[-got - 1].decode(errors="replace"))
        raise _Fault(f"expected {width} numbers, got {got} behind {before}")
    with np.errstate(over="ignore"):  # what it becomes is told
        return b" ".join(pieces[:-width]), np.array(pieces[-width:], np.float32)


# ------------------------------------------------------------------------------------------ binary


def _read_binary(path: Path, file: BinaryIO, kept: _Kept, count: int) -> None:
    """Take the rows of a binary file, whose first line was read."""
    buffer, at, size = b"", 0, 4 * kept.width
    for number in range(1, count + 1):
        if len(buffer) - at < _LONGEST_WORD + size:
            buffer, at = buffer[at:] + file.read(_BLOCK), 0
        blank = buffer.find(b" ", at, at + _LONGEST_WORD)
        begun, at, start = buffer[at : max(blank, at)], blank + 1 + size, blank + 1
        try:
            if blank < 0 and len(buffer) >= _LONGEST_WORD:
                raise _Fault("no blank behind a word; is the width in line 1 right?")
            if blank < 0 or len(buffer) < at:
                raise _Fault("the file ends here; is it whole?")
            kept.take(begun.removeprefix(b"\n"), np.frombuffer(buffer, "<f4", kept.width, start))
        except _Fault as fault:
            raise BadInput(f"{path}: word {number:,} of {count:,}: {fault}") from None
    if (buffer[at:] + file.read(2)).strip(b"\r\n"):
        raise BadInput(f"{path}: more follows the {count:,} words that line 1 tells")
