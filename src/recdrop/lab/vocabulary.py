"""Symbols and their ids: the vocabulary of a text, its file, prompts and printing.

* The vocabulary is that of the whole training text, by falling count, then by first appearance.
  ``<eos>`` and ``<unk>`` stay, however rare. An ``<unk>`` that is wanted and not in the text comes
  last.
* In spaced characters ``_`` is shown as a blank, the blanks between symbols mean nothing.

How files become symbols: `recdrop.lab.text`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from recdrop.lab.config import Record, TextData
from recdrop.lab.errors import BadInput
from recdrop.lab.settings import faults

Splitting = Literal["words", "spaced", "characters"]
EOS = "<eos>"
UNKNOWN = "<unk>"

_SCHEMA = 1


def _readable(schema: int) -> int:
    if schema > _SCHEMA:
        raise ValueError(f"{schema} is of a newer recdrop, this one reads up to {_SCHEMA}")
    return schema


class _Stored(Record):
    version: Annotated[int, AfterValidator(_readable), Field(alias="schema", ge=1)]
    splitting: Splitting
    closed: bool
    symbols: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text; the id of each is its place.

    Attributes:
        symbols: All different.
        splitting: How a text becomes symbols: ``"words"``, ``"spaced"`` or ``"characters"``.
        closed: Symbols that it lacks are refused, even if the text itself has an ``<unk>``.

    Example:
        >>> vocabulary = Vocabulary(("the", "<eos>", "cat", "<unk>"))
        >>> vocabulary.encode(["the", "dog", "<eos>"])
        [0, 3, 1]
    """

    symbols: tuple[str, ...]
    splitting: Splitting = "words"
    closed: bool = False

    def __post_init__(self) -> None:
        if len(self.ids) < len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if self.ids[s] != i)
            raise ValueError(f"the symbol {shown(twice)} is there twice")

    @classmethod
    def of_counts(
        cls, symbols: Sequence[str], counts: Sequence[int], splitting: Splitting, data: TextData
    ) -> "Vocabulary":
        """The vocabulary of a training text, by the rules above.

        Args:
            symbols: By first appearance.
            counts: How often each is there; those that are not do not count.
            splitting: How the text became symbols.
            data: Which of them are told apart.
        """
        order = sorted(range(len(symbols)), key=lambda i: -counts[i])  # equal counts stay in order
        ranked = [symbols[i] for i in order if counts[i]]
        often = [symbols[i] for i in order if counts[i] >= data.min_count]
        added = [UNKNOWN] if data.unknown and UNKNOWN not in ranked else []
        special = {EOS, UNKNOWN}.intersection(ranked)
        kept = [symbol for symbol in often if symbol not in special]
        if data.vocabulary is not None:
            kept = kept[: max(0, data.vocabulary - len(special) - len(added))]
        kept = special.union(kept)
        told_apart = [symbol for symbol in ranked if symbol in kept] + added
        return cls(tuple(told_apart), splitting, closed=not data.unknown)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def eos(self) -> int | None:
        """Id of ``<eos>``; None where line ends are characters."""
        return None if self.splitting == "characters" else self.ids.get(EOS)

    @property
    def start(self) -> int | None:
        """Id of what a text begins after: ``<eos>``, or the line feed of characters, if any."""
        return self.ids.get("\n") if self.splitting == "characters" else self.ids.get(EOS)

    @property
    def unknown(self) -> int | None:
        """Id of what stands for every symbol that is not here; None: such are refused."""
        return None if self.closed else self.ids.get(UNKNOWN)

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """The ids of symbols.

        Raises:
            BadInput: One is not here and there is no ``<unk>`` for it.
        """
        ids = []
        for symbol in symbols:
            known = self.ids.get(symbol, self.unknown)
            if known is None:
                raise BadInput(f"{shown(symbol)} is not in the vocabulary, which has no {UNKNOWN}")
            ids.append(known)
        return ids

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The symbols of ids."""
        return [self.symbols[i] for i in ids]

    @cached_property
    def sha256(self) -> str:
        """Digest of `to_json`, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The content of a vocabulary file, one symbol a line."""
        head = {"schema": _SCHEMA, "splitting": self.splitting, "closed": self.closed}
        return json.dumps(head | {"symbols": self.symbols}, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, content: str | bytes, name: Path | str) -> "Vocabulary":
        """A vocabulary from `to_json`'s text.

        Args:
            content: The text, or its UTF-8.
            name: The file that it came from, for messages.

        Raises:
            BadInput: It is none; every fault is told.
        """
        try:
            stored = _Stored.model_validate_json(content)
            return cls(stored.symbols, stored.splitting, stored.closed)
        except ValidationError as error:
            told = "; ".join(faults(error))
        except ValueError as error:
            told = str(error)
        raise BadInput(f"{name} is not a vocabulary: {told}")


def encode_line(text: str, vocabulary: Vocabulary) -> list[int]:
    """The ids of a prompt; no ``<eos>`` is added, but a line break in it is one.

    Args:
        text: Any; in spaced characters each run of blanks is one ``_``.
        vocabulary: The run's.

    Raises:
        BadInput: It has a symbol that the vocabulary lacks, without an ``<unk>`` for it.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if vocabulary.splitting == "words":
        return vocabulary.encode(text.replace("\n", f" {EOS} ").split())
    if vocabulary.splitting == "spaced":
        text = re.sub(r"[^\S\n]+", "_", text)
        return vocabulary.encode(EOS if char == "\n" else char for char in text)
    return vocabulary.encode(text)


def decode_text(ids: Iterable[int], vocabulary: Vocabulary) -> str:
    """Ids as they are printed: ``<eos>`` is a line break, words have blanks between them."""
    ends = vocabulary.eos
    symbols = ["\n" if i == ends else vocabulary.symbols[i] for i in ids]
    if vocabulary.splitting == "words":
        return " ".join(symbols).replace(" \n", "\n").replace("\n ", "\n")
    text = "".join(symbols)
    return text.replace("_", " ") if vocabulary.splitting == "spaced" else text


def shown(symbol: str) -> str:
    """A symbol as messages quote it, a long one cut short."""
    told = repr(symbol)
    return told if len(told) <= 60 else f"{told[:57]}..."
