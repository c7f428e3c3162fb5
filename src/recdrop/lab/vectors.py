"""Word vectors that somebody has trained: files, a cache of these, what they cover.

* The formats of other programs: `recdrop.lab.vector_formats`. Our own is safetensors with
  ``values``, float32 [V, D], and ``words``, UTF-8 with a line feed between two; under a seal, for
  safetensors itself notices few flipped bits. Which it is shows in a file's content.
* A word is looked up as it is, then in lower case. ``<unk>`` is never found, even where a file has
  a row for it: the vector of what is unknown is zero (ours: the paper does not say).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recdrop.lab.errors import BadInput, StorageFailed
from recdrop.lab.storage import storage, write_whole
from recdrop.lab.vector_formats import read_rows
from recdrop.lab.vocabulary import UNKNOWN, shown

_FORMAT = "recdrop-vectors 1"


# ---------------------------------------------------------------------------------- what one has


@dataclass(frozen=True, eq=False)
class Vectors:
    """Words and a vector for each.

    Attributes:
        words: All different.
        values: float32 [V, D], a row for each word; finite.
        sha256: Of the file that they are in, in hexadecimal.
        notes: What there is to tell of them, a line each.
    """

    words: tuple[str, ...]
    values: Tensor
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        """Numbers of a vector, D."""
        return self.values.shape[1]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word."""
        return {word: i for i, word in enumerate(self.words)}

    def find(self, word: str) -> int | None:
        """The row of a word as it is, else in lower case, else None; ``<unk>`` has none."""
        lower = word.lower()
        return None if lower == UNKNOWN else self.rows.get(word, self.rows.get(lower))


class Coverage(NamedTuple):
    """How much of a text has vectors.

    Attributes:
        tokens: Words of the text.
        known_tokens: Those with a vector.
        types: Different words.
        known_types: Those with a vector.
    """

    tokens: int
    known_tokens: int
    types: int
    known_types: int

    @property
    def token_share(self) -> float:
        """Part of the tokens that has a vector; 0 for no text."""
        return self.known_tokens / max(1, self.tokens)

    @property
    def type_share(self) -> float:
        """Part of the types that has a vector; 0 for no text."""
        return self.known_types / max(1, self.types)


class Embedding(NamedTuple):
    """The vectors of some words.

    Attributes:
        values: float32 [N, D]; zeros where a word has none.
        known: bool [N].
    """

    values: Tensor
    known: Tensor


def coverage(counts: Mapping[str, int], vectors: Vectors) -> Coverage:
    """How much of a text has vectors.

    Args:
        counts: How often each word is in it.
        vectors: Any.
    """
    known = [count for word, count in counts.items() if vectors.find(word) is not None]
    return Coverage(sum(counts.values()), sum(known), len(counts), len(known))


def embedding_for(words: Sequence[str], vectors: Vectors) -> Embedding:
    """The vectors of words, such as a vocabulary's symbols, in their order."""
    found = [vectors.find(word) for word in words]
    known = torch.tensor([row is not None for row in found], dtype=torch.bool)
    rows = torch.tensor([row for row in found if row is not None], dtype=torch.int64)
    values = torch.zeros(len(words), vectors.width)
    values[known] = vectors.values[rows]
    return Embedding(values, known)


def nearest(word: str, vectors: Vectors, count: int = 10) -> list[tuple[str, float]]:
    """The words whose vectors have the largest cosine with one word's.

    Args:
        word: It is looked up by the rule above, and not among the answers.
        vectors: Any.
        count: At most so many answers.

    Returns:
        Words and cosines, the largest first.

    Raises:
        BadInput: The word has no vector.
    """
    row = vectors.find(word)
    if row is None:
        raise BadInput(f"{shown(word)} has no vector, as it is or in lower case")
    values = vectors.values
    lengths = values.norm(dim=1).clamp_min(1e-30)
    cosines = values @ (values[row] / lengths[row]) / lengths
    cosines[row] = -torch.inf
    best = cosines.topk(min(count, len(vectors) - 1))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(vectors.words[i], cosine) for i, cosine in pairs]


# --------------------------------------------------------------------------------- reading a file


def read_vectors(path: Path) -> Vectors:
    """Read word vectors of any of the formats above.

    Memory stays at what is returned and some MB, whatever the file's size.

    Args:
        path: The file.

    Returns:
        Rows in the file's order.

    Raises:
        BadInput: The file is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    with storage(path), _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if _is_own(file):
            return _read_own(path, sha256)
        words, values, notes = read_rows(path, file)
    return Vectors(words, values, sha256, notes)


def _opened(path: Path) -> BufferedReader:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise BadInput(f"{path}: {what}; expected word vectors")
    return path.open("rb")


# ---------------------------------------------------------------------------------- our own files


def sealed(words: tuple[str, ...], values: Tensor, notes: tuple[str, ...] = ()) -> Vectors:
    """Vectors that are in no file yet; the digest is that of the one that `save_vectors` writes."""
    digest = hashlib.sha256()
    for part in _parts(Vectors(words, values, "", notes), ""):
        digest.update(part)
    return Vectors(words, values, digest.hexdigest(), notes)


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Write our own format; after any kill the file is the old one or the new one.

    Raises:
        StorageFailed: The system refused.
    """
    write_whole(path, _parts(vectors, ""))


def _parts(vectors: Vectors, source: str) -> list[bytes | memoryview]:
    """What a file of our own consists of; ``source`` is the digest of the one it stands for."""
    words = "\n".join(vectors.words).encode()
    notes = json.dumps(vectors.notes)
    seal = _seal(source, notes, vectors.values, words)
    values = _bytes(vectors.values)
    end = len(values)
    header = {
        "__metadata__": {"format": _FORMAT, "source": source, "notes": notes, "seal": seal},
        "values": {"dtype": "F32", "shape": list(vectors.values.shape), "data_offsets": [0, end]},
        "words": {"dtype": "U8", "shape": [len(words)], "data_offsets": [end, end + len(words)]},
    }
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)  # so that the numbers lie aligned
    return [len(told).to_bytes(8, "little"), told, values, words]


def _seal(source: str, notes: str, values: Tensor, words: bytes) -> str:
    digest = hashlib.sha256(json.dumps([source, notes, list(values.shape)]).encode())
    digest.update(words)
    digest.update(_bytes(values))
    return digest.hexdigest()


def _bytes(values: Tensor) -> memoryview:
    """The little-endian bytes of float32; no copy where they lie so."""
    return np.ascontiguousarray(values.numpy(), "<f4").reshape(-1).view(np.uint8).data


def _is_own(file: BinaryIO) -> bool:
    """Whether a file starts as safetensors: the length of a header, and the header."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_own(path: Path, sha256: str | None) -> Vectors:
    """Read a file of our own; its numbers stay on the disk until they are used.

    Args:
        path: It is there.
        sha256: The file's; None: that of the file which it stands for.

    Raises:
        BadInput: It is not whole, or none of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            if told.get("format") != _FORMAT:
                raise BadInput(f"{path}: expected word vectors, as {_FORMAT!r} in its metadata")
            values, letters = file.get_tensor("values"), file.get_tensor("words")
        if values.dtype != torch.float32 or values.ndim != 2 or values.numel() == 0:
            raise BadInput(f"{path}: expected values in float32 [V, D]")
        notes, source = told.get("notes", ""), told.get("source", "")
        raw = letters.numpy().tobytes()
        if told.get("seal") != _seal(source, notes, values, raw):
            raise BadInput(f"{path} is damaged: its SHA-256 is not its own; get it or make it anew")
        words = tuple(raw.decode().split("\n"))
        vectors = Vectors(words, values, sha256 or source, tuple(json.loads(notes)))
    except (SafetensorError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: these are not word vectors ({error})") from None
    finite = torch.stack(values.aminmax()).isfinite().all()
    if not len(vectors.rows) == len(words) == len(values) or not finite:
        raise BadInput(f"{path}: expected a finite vector for each of different words")
    return vectors


# -------------------------------------------------------------------------------------- the cache


def load_vectors(path: Path, cache_folder: Path | None = None) -> Vectors:
    """Read word vectors, at the second time from a cache, which takes seconds for any size.

    The cache is a file of our own, named after the SHA-256 of the source's whole path, size and
    time of change: a changed source is read anew. A damaged one is written anew; where it cannot
    be written, it is done without. It may be removed at any time. Vectors in our own format need
    none. All words are read and kept: where few are wanted of a huge file, see `read_vectors`.

    Args:
        path: The file.
        cache_folder: Made if it is missing. None: ``recdrop/vectors`` in the user's cache folder
            (``$XDG_CACHE_HOME``, else ``~/.cache``).

    Raises:
        BadInput: The file is missing, or refused by the rules above.
        StorageFailed: The system refused to read it.
    """
    with storage(path), _opened(path) as file:
        own, status = _is_own(file), os.fstat(file.fileno())
    if own:
        return read_vectors(path)
    key = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    name = f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.safetensors"
    try:
        cached = (cache_folder or _cache_folder()) / name
    except RuntimeError:  # the user has no home
        return read_vectors(path)
    with suppress(BadInput, OSError):
        return _read_own(cached, None)
    vectors = read_vectors(path)
    with suppress(StorageFailed, OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, _parts(vectors, vectors.sha256))
    return vectors


def _cache_folder() -> Path:
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (told if told.is_absolute() else Path.home() / ".cache") / "recdrop" / "vectors"
