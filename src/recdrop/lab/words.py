"""The words that a net over sentences knows, and their vectors.

* A word is looked up as it is written, then in small letters; else it is ``<unk>``.
* With given vectors the known words are those of the texts that have one, and the first of the
  file besides; the vector of ``<unk>`` is zero, as is what lies beyond a sentence's ends.
* Without any, they are the training texts' own in small letters, and their vectors are learned.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from recdrop.lab.config import LabelledData, TaggedData, TextData
from recdrop.lab.errors import BadInput
from recdrop.lab.vectors import coverage, embedding_for, load_vectors
from recdrop.lab.vocabulary import UNKNOWN, Vocabulary


class Words(NamedTuple):
    """What is known.

    Attributes:
        vocabulary: V words, ``<unk>`` last.
        vectors: float32 [V, D]; None where they are learned.
        source: Name and SHA-256 of the file of vectors and what it covers of the training texts,
            ready for JSON.
    """

    vocabulary: Vocabulary
    vectors: Tensor | None = None
    source: dict[str, str | float] | None = None

    @property
    def stored(self) -> bytes | None:
        """Content of a run's ``vectors.safetensors``, where vectors were given."""
        return None if self.vectors is None else safetensors.torch.save({"vectors": self.vectors})

    def ids(self, words: Iterable[str]) -> list[int]:
        """The id of each word."""
        known = self.vocabulary.ids
        unknown = known[UNKNOWN]
        return [known.get(word, known.get(word.lower(), unknown)) for word in words]

    def unknown_share(self, words: Iterable[str]) -> float:
        """The share of words that are unknown, from 0 to 1; of none it is 0."""
        ids = self.ids(words)
        return ids.count(self.vocabulary.ids[UNKNOWN]) / max(1, len(ids))


def read_words(
    train: Counter[str], others: Iterable[str], data: TaggedData | LabelledData, path: Path | None
) -> Words:
    """The words of some texts.

    Args:
        train: How often each is in the training texts, as written.
        others: Those of the validation and test texts; they count where vectors are given.
        data: Which are kept.
        path: A file of vectors; None to learn them.

    Raises:
        BadInput: The file is refused by the rules of `recdrop.lab.vectors`, or has no word of the
            training texts; without one, none of their words is there often enough.
        StorageFailed: The system refused to read.
    """
    if path is None:
        counts: Counter[str] = Counter()
        for word, count in train.items():
            counts[word.lower()] += count
        limits = TextData(min_count=data.min_count)
        known = Vocabulary.of_counts(list(counts), list(counts.values()), "words", limits)
        if known.symbols == (UNKNOWN,):
            raise BadInput(
                f"data.min_count: none of the {len(counts):,} different words of the training "
                f"texts is there {data.min_count} times, so the net would know no word; put blanks "
                "between the words, give more texts, or a smaller min_count"
            )
        return Words(known)
    vectors = load_vectors(path)
    found = coverage(train, vectors)
    if not found.known_types:
        raise BadInput(
            f"{path}: no word of the training text has a vector in it; is it of the same language?"
        )
    forms = (form for word in chain(train, others) for form in (word, word.lower()))
    wanted = dict.fromkeys(form for form in forms if form in vectors.rows)
    wanted |= dict.fromkeys(islice(vectors.rows, data.more_vectors))
    wanted.pop(UNKNOWN, None)
    symbols = (*wanted, UNKNOWN)
    source = {"name": path.name, "sha256": vectors.sha256, "words": len(vectors)}
    source |= {"known_tokens": found.token_share, "known_types": found.type_share}
    return Words(Vocabulary(symbols), embedding_for(symbols, vectors).values, source)


class WordTable(nn.Module):
    """Ids to vectors; id V, behind the last word, is what lies beyond a text: zero.

    Args:
        words: V.
        width: D of learned vectors; given ones have their own.
        given: float32 [V, D], or None.
        tune: Whether given vectors are trained on. If not they are no part of ``state_dict``.
    """

    def __init__(self, words: int, width: int, given: Tensor | None, *, tune: bool) -> None:
        super().__init__()
        self.border = words
        self.width = width if given is None else given.shape[1]
        table = torch.zeros(words + 1, self.width)
        if given is not None:
            table[:words] = given
        if given is not None and not tune:
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = nn.Parameter(table)
        self._start = table[:words].clone() if given is not None and tune else None

    def start(self) -> None:
        """Bring given vectors, and the zero at the end, back over whatever start was drawn."""
        with torch.no_grad():
            if self._start is not None:
                self.table[: self.border] = self._start
                self._start = None
            self.table[self.border] = 0

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] to float32 [..., D]."""
        return nn.functional.embedding(ids, self.table, padding_idx=self.border)
