r"""Text files as they come: what they must be, and their blocks, words and lines.

The rules that all readers share:

* UTF-8. A byte order mark at the start is dropped. Bad UTF-8 and NUL are refused with their line.
  Line ends are ``\n``, ``\r\n`` or ``\r``; all are read as ``\n``.
* A line may be of any length where the reader's rules name none; the text is never whole in memory
  as strings.
"""

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recdrop.lab.errors import BadInput
from recdrop.lab.storage import storage

LONGEST = 100_000  # bytes of a line that is one row of data, where a reader says so
LINE_END = "\0"  # cannot be in a text, for NUL is refused

_BLOCK = 1 << 20  # bytes decoded at a time


class TextFile(NamedTuple):
    """A file's bytes, without byte order mark and with line feeds as line ends.

    Attributes:
        path: The file.
        sha256: Of its bytes as they were, in hexadecimal.
        content: No NUL is in it; whether it is UTF-8 shows when it is read.
    """

    path: Path
    sha256: str
    content: bytes

    @classmethod
    def open(cls, path: Path) -> "TextFile":
        """Load a file; at most two copies of it are in memory at a time.

        Raises:
            BadInput: It is missing, a folder, or has a NUL.
            StorageFailed: The system refused to read.
        """
        with storage(path):
            if path.is_dir():
                raise BadInput(f"{path} is a folder; expected a text file in UTF-8")
            if path.exists() and not path.is_file():
                raise BadInput(
                    f"{path} is no regular file; write its text to one, or give it on standard "
                    "input to a command that reads that"
                )
            if not path.is_file():
                raise BadInput(f"{path}: no such file; expected a text file in UTF-8")
            return cls.of(path, path.read_bytes())

    @classmethod
    def of(cls, path: Path, content: bytes) -> "TextFile":
        """Take bytes that came from somewhere else.

        Args:
            path: What faults name as their place.
            content: The bytes.

        Raises:
            BadInput: There is a NUL.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        content = content.removeprefix(codecs.BOM_UTF8)
        content = content.replace(b"\r\n", b"\n")
        content = content.replace(b"\r", b"\n")
        file = cls(path, sha256, content)
        nul = content.find(b"\0")
        if nul >= 0:
            raise file._refused(nul, "NUL is not text; is this a text file, and in UTF-8?")
        return file

    def blocks(self) -> Iterator[str]:
        """The text in pieces, none of them empty.

        Raises:
            BadInput: It is not UTF-8.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        size = len(self.content)
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            try:
                block = decoder.decode(self.content[start:stop], final=stop == size)
            except UnicodeDecodeError as error:  # its object ends where this block does
                raise self._not_utf8(stop - len(error.object), error) from None
            if block:
                yield block

    def words(self) -> Iterator[list[str]]:
        """The words in lists; a word `LINE_END` after every line.

        Raises:
            BadInput: It is not UTF-8.
        """
        begun, last = "", LINE_END
        for block in self.blocks():
            spread = block.replace("\n", f" {LINE_END} ")
            words = (begun + spread).split()
            begun = "" if spread[-1].isspace() else words.pop()
            if words:
                last = words[-1]
                yield words
        if begun:
            yield [begun, LINE_END]
        elif last != LINE_END:
            yield [LINE_END]

    def lines(self, longest: int | None = None) -> Iterator[str]:
        """The lines, without their ends.

        Args:
            longest: Bytes that a line may have; None: any number.

        Raises:
            BadInput: One is not UTF-8, or too long; those before it have been given.
        """
        view, start = memoryview(self.content), 0
        while start < len(view):
            stop = self.content.find(b"\n", start)
            stop = len(view) if stop < 0 else stop
            if longest is not None and stop - start > longest:
                why = f"the line is too long, {stop - start:,} bytes; expected {longest:,} at most"
                raise self._refused(start + longest, why)
            try:
                yield str(view[start:stop], "utf-8")
            except UnicodeDecodeError as error:
                raise self._not_utf8(start, error) from None
            start = stop + 1

    def _not_utf8(self, start: int, error: UnicodeDecodeError) -> BadInput:
        """What to raise for bytes that begin at ``start``."""
        why = f"not UTF-8 ({error.reason}); save the text so"
        return self._refused(start + error.start, why)

    def _refused(self, at: int, why: str) -> BadInput:
        line = 1 + self.content.count(b"\n", 0, at)
        byte = at - self.content.rfind(b"\n", 0, at)
        return BadInput(f"{self.path}:{line}: byte {byte} of the line: {why}")
