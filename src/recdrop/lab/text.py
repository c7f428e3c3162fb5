r"""Texts as ids: which files, how they become symbols, how these become ids.

What a file must be, and how it is read:

* A text file by the rules of `recdrop.lab.files`. One with nothing but blanks is refused.
* **Words** are the pieces between blanks (whatever Unicode calls a blank). Each line is ended by
  one ``<eos>``, the last one also where its line end is missing; a blank line is a lone ``<eos>``.
  Blanks after the last line end are no line (Mikolov's character files have some).
* A word ``<eos>`` in a text is that same symbol, and ends a line; a line that has one at its end
  gets no second. A word ``<unk>`` is the unknown symbol.
* **Spaced** characters, as in Mikolov's character files (``t h e _ c a t``), are words; only
  prompts and printing differ, see `recdrop.lab.vocabulary`. The first thousand words of the
  training text decide; another text is refused where its first thousand decide otherwise.
* **Characters** are the code points, ``\n`` among them; nothing is added.
* Without an ``<unk>``, a file with a symbol that the vocabulary lacks is refused with its line.
  With one, a file is refused if everything in it is unknown (blanks do not count): it is surely
  the wrong file.
* One file alone is split: the last 20th is the test set, the 20th before it the validation set,
  counted in lines where it is words, else in characters. No part may be blank.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdrop.lab.config import TaskName, TextData
from recdrop.lab.errors import BadInput
from recdrop.lab.files import LINE_END, TextFile
from recdrop.lab.storage import storage
from recdrop.lab.vocabulary import EOS, UNKNOWN, Splitting, Vocabulary, shown

_LOOKED_AT = 1_000  # words that "auto" goes by, see TextData


# -------------------------------------------------------------------------------------- the corpus


class Source(NamedTuple):
    """Where a text came from.

    Attributes:
        name: The file's, without its folder.
        sha256: Of its bytes, in hexadecimal.
        tokens: Symbols in it, or in its part where one file was split.
        unknown: How many of these are ``<unk>``.
    """

    name: str
    sha256: str
    tokens: int
    unknown: int


class Corpus(NamedTuple):
    """A text in three parts.

    Attributes:
        vocabulary: Of the whole training text.
        train: int64 [N], the share that is trained on.
        valid: int64 [N].
        test: int64 [N].
        files: The source of each part, by its name.
    """

    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor
    files: dict[str, Source]

    @property
    def splitting(self) -> Splitting:
        """How the texts became symbols."""
        return self.vocabulary.splitting


def read_corpus(path: Path, task: TaskName, data: TextData) -> Corpus:
    """Read a text to train on.

    Args:
        path: A folder with a training, a validation and a test text, or one file, which is split.
        task: In a character model ``ptb.char.train.txt`` goes before ``ptb.train.txt``, and
            ``"auto"`` may mean characters.
        data: How it is read.

    Raises:
        BadInput: A file is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    symbols = "words" if data.symbols == "auto" and task != "char-lm" else data.symbols
    with storage(path):
        first, *others = corpus_files(path, task)
    whole = _read(first, symbols)
    others = [_read(file, whole.splitting) for file in others]
    parts = [whole, *others] if others else _split(whole)
    whole = parts[0]
    counts = whole.counts().tolist()
    vocabulary = Vocabulary.of_counts(whole.symbols, counts, whole.splitting, data)
    ids = [_encoded(part, vocabulary, alone=bool(others) or not part.start) for part in parts]
    sources = [
        Source(part.path.name, part.sha256, len(tokens), unknown_in(tokens, vocabulary))
        for part, tokens in zip(parts, ids, strict=True)
    ]
    share = max(1, int(data.share * len(ids[0])))
    # A copy of the share, so that the rest is let go.
    train = ids[0][:share].clone() if share < len(ids[0]) else ids[0]
    return Corpus(
        vocabulary,
        train=train,
        valid=ids[1],
        test=ids[2],
        files=dict(zip(("train", "valid", "test"), sources, strict=True)),
    )


def read_text(path: Path, vocabulary: Vocabulary) -> Tensor:
    """Read another text with the vocabulary of a run.

    Returns:
        int64 [N].

    Raises:
        BadInput: It is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    return _encoded(_read(path, vocabulary.splitting), vocabulary, alone=True)


def unknown_in(tokens: Tensor, vocabulary: Vocabulary) -> int:
    """How many symbols of a text are ``<unk>``; none where the vocabulary is closed."""
    return 0 if vocabulary.unknown is None else int((tokens == vocabulary.unknown).sum())


def unknown_shares(sources: Mapping[str, Any]) -> str:
    """Such as ``train 4.84%, test 5.5%``, of the texts that have any ``<unk>``.

    Args:
        sources: What a ``data.json`` has: a `Source` of each text as an object, and others.
    """
    return ", ".join(
        f"{name} {100 * one['unknown'] / one['tokens']:.3g}%"
        for name, one in sources.items()
        if isinstance(one, dict) and one.get("unknown")
    )


def corpus_files(path: Path, task: TaskName) -> list[Path]:
    """The three files of a folder, or the one file, which may be missing.

    Raises:
        BadInput: The folder has not all three.
    """
    names = ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens"]
    if task == "char-lm":
        names.insert(1, "ptb.char.{}.txt")
    if not path.is_dir():
        return [path]
    for name in names:
        files = [path / name.format(part) for part in ("train", "valid", "test")]
        if files[0].is_file():
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise BadInput(
                    f"{path} has {files[0].name} but not {' and '.join(missing)}; "
                    "give all three, or the one file alone, and it is split 90/5/5"
                )
            return files
    trains = ", ".join(name.format("train") for name in names)
    raise BadInput(
        f"{path} has no training text; looked for {trains}, each with its valid and test. "
        "The Penn Treebank's are in Mikolov's simple-examples.tgz, folder data; "
        "a single file of one's own can be given as such"
    )


# --------------------------------------------------------------------------------- reading a file


class _Text(NamedTuple):
    """A file or a part of one, in ids of its own.

    Attributes:
        path: The file.
        sha256: Of the whole of it.
        splitting: How it became symbols.
        symbols: Of the whole file, by first appearance; not all need be in a part.
        ids: Whole numbers [N], places in ``symbols``.
        line_ends: int64; where in the whole file's ids each line ends.
        start: Where in the whole file's ids this part starts.
    """

    path: Path
    sha256: str
    splitting: Splitting
    symbols: list[str]
    ids: NDArray[np.integer]
    line_ends: NDArray[np.int64]
    start: int = 0

    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.ids, minlength=len(self.symbols))

    def present(self) -> NDArray[np.int64]:
        """The ids that occur, rising."""
        return np.flatnonzero(self.counts())

    def line(self, at: int) -> int:
        """The line of the file, from 1, that this part's id number ``at`` is in."""
        return 1 + int(np.searchsorted(self.line_ends, self.start + at))

    def not_blank(self, what: str) -> "_Text":
        symbols = (self.symbols[i] for i in self.present())
        if all(symbol == EOS or symbol.isspace() for symbol in symbols):
            raise BadInput(f"{self.path}: {what} is empty or all blank; expected text")
        return self


def _read(path: Path, symbols: Literal[Splitting, "auto"]) -> _Text:
    file = TextFile.open(path)
    splitting = _recognised(file) if symbols == "auto" else symbols
    read = _read_characters(file) if splitting == "characters" else _read_words(file, splitting)
    read = read.not_blank("the file")
    if symbols == "spaced" and _recognised(file) != "spaced":
        raise BadInput(
            f"{path} has words of several letters; expected single symbols between blanks, "
            "t h e _ c a t, as in the text that is trained on"
        )
    return read


def _recognised(file: TextFile) -> Splitting:
    words = (word for word in chain.from_iterable(file.words()) if word != LINE_END)
    spaced = all(len(word) == 1 for word in islice(words, _LOOKED_AT))
    return "spaced" if spaced else "characters"


def _read_characters(file: TextFile) -> _Text:
    symbols: list[str] = []
    id_of = np.full(0x110000, -1, np.int32)  # by code point
    blocks = [np.empty(0, np.uint8)]
    for block in file.blocks():
        for char in dict.fromkeys(block):
            if id_of[ord(char)] < 0:
                id_of[ord(char)] = len(symbols)
                symbols.append(char)
        ids = id_of[np.frombuffer(block.encode("utf-32-le"), "<u4")]
        blocks.append(ids.astype(np.min_scalar_type(len(symbols))))  # a byte each, mostly
    ids = np.concatenate(blocks)
    feed = id_of[ord("\n")]
    line_ends = np.flatnonzero(ids == feed) if feed >= 0 else np.empty(0, np.int64)
    return _Text(file.path, file.sha256, "characters", symbols, ids, line_ends)


def _read_words(file: TextFile, splitting: Splitting) -> _Text:
    id_of: defaultdict[str, int] = defaultdict()
    id_of.default_factory = id_of.__len__  # a new word gets the next id
    blocks = [np.empty(0, np.int32)]
    for words in file.words():
        blocks.append(np.fromiter(map(id_of.__getitem__, words), np.int32, len(words)))
    ids = np.concatenate(blocks)
    end, written = id_of[LINE_END], id_of.get(EOS, -1)
    symbols = list(id_of)
    ends = ids == end
    line_ends = np.flatnonzero(ends)
    if written >= 0:  # the text's own <eos> is the same symbol; a line's end gets no second
        kept = ~ends
        kept[1:] |= ids[:-1] != written
        kept[0] = True
        line_ends = np.cumsum(kept)[line_ends] - 1
        ids = ids[kept]
        end, other = sorted((end, written))
        ids[ids == other] = end
    symbols[end] = EOS
    return _Text(file.path, file.sha256, splitting, symbols, ids, line_ends)


def _split(text: _Text) -> list[_Text]:
    """A training, a validation and a test part of one file; see the rules above."""
    if text.splitting == "characters":
        unit, stops = "characters", range(1, len(text.ids) + 1)
    else:
        unit, stops = "lines", np.flatnonzero(text.ids == text.symbols.index(EOS)) + 1
    held = len(stops) // 20
    if held == 0:
        raise BadInput(
            f"{text.path} has {len(stops)} {unit}; to be split 90/5/5 a file needs at least 20. "
            "Give a longer one, or a folder with train.txt, valid.txt and test.txt"
        )
    cuts = [0, int(stops[-2 * held - 1]), int(stops[-held - 1]), len(text.ids)]
    what = ("its first 90 % (training)", "its next 5 % (validation)", "its last 5 % (test)")
    return [
        text._replace(ids=text.ids[start:stop], start=start).not_blank(part)
        for part, (start, stop) in zip(what, pairwise(cuts), strict=True)
    ]


# ---------------------------------------------------------------------------- from symbols to ids


def _encoded(text: _Text, vocabulary: Vocabulary, *, alone: bool) -> Tensor:
    """A text in ids of a vocabulary.

    Args:
        text: N symbols.
        vocabulary: Any.
        alone: Whether it is refused if all of it is unknown; a part of a file can be so.

    Returns:
        int64 [N].

    Raises:
        BadInput: It has a symbol that the vocabulary lacks, without an ``<unk>`` for it, or nothing
            that it has.
    """
    unknown = vocabulary.unknown
    present = text.present()
    missing = [i for i in present if text.symbols[i] not in vocabulary.ids]
    if missing and unknown is None:
        at = int(np.flatnonzero(np.isin(text.ids, missing))[0])
        raise BadInput(
            f"{text.path}:{text.line(at)}: {shown(text.symbols[text.ids[at]])} is not in the "
            f"vocabulary, which has no {UNKNOWN}; is this the right file? "
            "To train with one: data.unknown=true"
        )
    table = np.full(len(text.symbols), -1 if unknown is None else unknown, np.int64)
    for i in present:
        table[i] = vocabulary.ids.get(text.symbols[i], table[i])
    meaningless = (vocabulary.eos, unknown)
    if alone and all(table[i] in meaningless or text.symbols[i].isspace() for i in present):
        raise BadInput(
            f"{text.path}: nothing in it is in the vocabulary of {len(vocabulary)} symbols; "
            "is this the right file, and data.min_count not too high?"
        )
    return torch.from_numpy(table[text.ids])
