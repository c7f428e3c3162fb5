r"""Own word vectors: skip-gram with negative sampling (Mikolov et al., 2013), on the CPU.

The loss of a word x at whose side, in the same line, stands a word y is, with ``negatives`` words
z drawn by count^0.75, -log σ(x·y) - Σ log σ(-x·z). Vectors of the words as x are the result.

As in word2vec.c: rare words are left out before anything else; of a word with share s of the text
each occurrence stays with probability t + √t, t = subsample / s; the window of each is drawn from 1
to ``window``; the learning rate falls linearly to 1/10,000 of its start; vectors start uniform in
±1/(2 width) for x, at zero for y and z.

Unlike it, so that it is matrix products:

* 8 words in a row, a chunk, share 32 words z. Each of their terms has the weight that makes the
  sum over them as large as ``negatives`` for each pair, in expectation. A z that is one of the
  words near by counts as any other.
* Several chunks from anywhere in a million words make one step: all its gradients are taken at the
  same vectors, then added up. There are the fewer chunks, the more often the most frequent word is
  met, for its gradients add up; word2vec.c steps after each pair.
* Sentences are lines, however long; word2vec.c cuts them after 1,000 words.

The same texts, settings and number of threads give the same bits. All texts are in memory as four
bytes a word.

Texts follow the rules of `recdrop.lab.files`. Words are the pieces between blanks, or **newswire**:
what `_NEWSWIRE` finds, which is about how CoNLL-2003 was split, or **tweets**, as
`recdrop.lab.tweets` cuts them. ``<unk>`` gets no vector, ``<eos>`` ends a line.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from recdrop.lab.config import Count, Record
from recdrop.lab.errors import BadInput, Diverged
from recdrop.lab.files import TextFile
from recdrop.lab.tweets import tokenise
from recdrop.lab.vectors import Vectors, sealed
from recdrop.lab.vocabulary import EOS, UNKNOWN

_CHUNK = 8  # words x in a row
_SHARED = 32  # words z that they share
_SPAN = 1 << 20  # words that steps take their chunks from
_TOGETHER = 100  # pairs that one word may be in, in expectation, in one step
_MOST = 128  # chunks of a step
_TOLD = 200  # steps between two positions

_NEWSWIRE = re.compile(
    r"<unk>|<eos>"
    r"|\w+(?=n't\b)|n't\b"  # did n't
    r"|(?:[^\W\d_]\.){2,}(?:-\w+)*"  # U.S. a.m. U.S.-led
    r"|[OD]'\w+|'(?:s|re|ve|ll|d|m)\b"  # O'Brien, Italy 's
    r"|\w+(?:[-.,/&:]\w+)*"  # two-day 155,221 1/2 S&P
    r"|\.\d+|-{2,}|\.{2,}"  # .500 -- ...
    r"|\S",
    re.IGNORECASE,
)


class SkipGram(Record):
    """How word vectors are trained.

    Attributes:
        width: Numbers of a vector.
        window: Words to each side at most.
        negatives: Drawn words for each pair.
        min_count: Words that the texts have less often get no vector.
        subsample: Share of the text above which words are thinned out; 0: none are.
        epochs: Times that the texts are read.
        learning_rate: At the start.
        lowercase: Whether the texts are read in lower case.
        tokens: Words are what stands between ``"blanks"``, or ``"newswire"`` or ``"tweets"`` are
            split.
        seed: Of everything drawn.
    """

    width: Annotated[int, Field(ge=1, le=4_096)] = 100
    window: Annotated[int, Field(ge=1, le=100)] = 5
    negatives: Annotated[int, Field(ge=1, le=1_000)] = 5
    min_count: Count = 5
    subsample: Annotated[float, Field(ge=0, le=1)] = 1e-3
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 5
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.025
    lowercase: bool = True
    tokens: Literal["blanks", "newswire", "tweets"] = "blanks"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Position(NamedTuple):
    """Where training is.

    Attributes:
        done: Words read, those thinned out among them.
        total: Words to be read in all epochs.
    """

    done: int
    total: int


class _Corpus(NamedTuple):
    """Texts as ids.

    Attributes:
        words: By falling count, then by first appearance.
        counts: int64 [V].
        ids: int32 [N]; -1 ends a line.
        sources: Name and SHA-256 of each file.
    """

    words: tuple[str, ...]
    counts: Tensor
    ids: NDArray[np.int32]
    sources: tuple[str, ...]


def train_vectors(
    texts: Sequence[Path],
    settings: SkipGram,
    heard: Callable[[Position], None] = lambda position: None,
) -> Vectors:
    """Train word vectors.

    Args:
        texts: Files, each once an epoch, in this order.
        settings: How.
        heard: Is told several times a second how far it is.

    Returns:
        Words by falling count; the notes tell the settings and the texts.

    Raises:
        BadInput: A text is missing or refused, or no word is there often enough.
        Diverged: A vector is not finite.
        StorageFailed: The system refused to read.
    """
    corpus = _read(texts, settings)
    if len(corpus.words) < 2:
        raise BadInput(
            f"{', '.join(map(str, texts))}: fewer than two words are there {settings.min_count} "
            "times or more; give longer texts or a smaller min_count"
        )
    training = _Training(corpus, settings)
    for position in training.steps():
        heard(position)
    notes = (f"skip-gram: {settings.model_dump_json()}", *corpus.sources)
    return sealed(corpus.words, training.inputs, notes)


# -------------------------------------------------------------------------------------- the texts


def split_newswire(text: str) -> list[str]:
    """The words of raw newswire: punctuation is apart, numbers and abbreviations are whole.

    Example:
        >>> split_newswire("The U.S. didn't pay 1,500 dlrs.")
        ['The', 'U.S.', 'did', "n't", 'pay', '1,500', 'dlrs', '.']
    """
    return _NEWSWIRE.findall(text)


def _words(line: str, settings: SkipGram) -> list[str]:
    if settings.tokens == "tweets":  # which need the case: of tags, of :D
        return tokenise(line, lower=settings.lowercase)
    line = line.lower() if settings.lowercase else line
    return split_newswire(line) if settings.tokens == "newswire" else line.split()


def _read(texts: Sequence[Path], settings: SkipGram) -> _Corpus:
    """The texts in ids, without rare words."""
    row_of: defaultdict[str, int] = defaultdict()
    row_of.default_factory = row_of.__len__  # a new word gets the next row
    ends = row_of[EOS]
    read = array("i")
    sources = []
    for path in texts:
        file = TextFile.open(path)
        sources.append(f"text: {path.name}, SHA-256 {file.sha256}")
        for line in file.lines():
            read.extend(map(row_of.__getitem__, _words(line, settings)))
            read.append(ends)
    rows = np.frombuffer(read, np.int32)
    counts = np.bincount(rows, minlength=len(row_of))
    counts[[ends, row_of[UNKNOWN]] if UNKNOWN in row_of else ends] = 0
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= settings.min_count]
    id_of = np.full(len(row_of), -2, np.int32)
    id_of[order] = np.arange(len(order))
    id_of[ends] = -1
    ids = id_of[rows]
    words = list(row_of)
    return _Corpus(
        tuple(words[row] for row in order),
        torch.from_numpy(counts[order]),
        ids[ids > -2],
        tuple(sources),
    )


# ----------------------------------------------------------------------------------- the training


class _Chunks(NamedTuple):
    """Some words as chunks of P, each with W more on either side.

    Attributes:
        words: int64 [C, P + 2W], ids.
        lines: int64 [C, P + 2W]; two words are in the same line where these are equal.
        reach: int64 [C, P], the window of each word x.
    """

    words: Tensor
    lines: Tensor
    reach: Tensor


class _Training:
    """The two tables and what changes them.

    Attributes:
        inputs: float32 [V, D], the vectors of words x.
        outputs: float32 [V, D], those of words y and z.
    """

    def __init__(self, corpus: _Corpus, settings: SkipGram) -> None:
        self._ids, self._settings = corpus.ids, settings
        self._random = torch.Generator().manual_seed(settings.seed)
        size = (len(corpus.words), settings.width)
        self.inputs = (torch.rand(size, generator=self._random) - 0.5) / settings.width
        self.outputs = torch.zeros(size)
        self._total = int(corpus.counts.sum())
        share = corpus.counts / self._total
        thin = settings.subsample / share.double()
        self._kept = thin + thin.sqrt() if settings.subsample else torch.ones_like(thin)
        drawn = corpus.counts.double() ** 0.75
        self._drawn = (drawn / drawn.sum()).cumsum(0)
        # Pairs of one word x with the word z that is met most often.
        met = (settings.window + 1) * settings.negatives * float(self._drawn[0])
        self._size = max(1, min(_MOST, round(_TOGETHER / met / _CHUNK)))
        width = _CHUNK + 2 * settings.window
        apart = torch.arange(width) - settings.window - torch.arange(_CHUNK)[:, None]
        self._apart = torch.where(apart == 0, width, apart.abs())  # from itself: too far

    def steps(self) -> Iterator[Position]:
        """Train; where it is, now and then.

        Raises:
            Diverged: A vector is not finite.
        """
        total, done = self._settings.epochs * self._total, 0
        for _ in range(self._settings.epochs):
            for start in range(0, len(self._ids), _SPAN):
                ids = torch.from_numpy(self._ids[start : start + _SPAN].astype(np.int64))
                words = int((ids >= 0).sum())
                chunks = self._chunks_of(ids)
                picks = torch.randperm(len(chunks.words), generator=self._random).split(self._size)
                for number, pick in enumerate(picks):
                    now = done + words * number // len(picks)
                    rate = self._settings.learning_rate * max(1e-4, 1 - now / total)
                    self._step(chunks.words[pick], chunks.lines[pick], chunks.reach[pick], rate)
                    if number % _TOLD == 0:
                        yield Position(now, total)
                done += words
                if not (self.inputs.isfinite().all() and self.outputs.isfinite().all()):
                    raise Diverged(
                        f"vectors are not finite after {done:,} of {total:,} words; "
                        f"try a learning rate below {self._settings.learning_rate}"
                    )
        yield Position(total, total)

    def _chunks_of(self, ids: Tensor) -> _Chunks:
        """A part of the texts, thinned out; the last chunk is filled up."""
        window = self._settings.window
        draws = torch.rand(len(ids), generator=self._random, dtype=torch.float64)
        stays = (ids >= 0) & (draws < self._kept[ids])  # what -1 looks up does not count
        words, lines = ids[stays], (ids < 0).cumsum(0)[stays]
        count = max(1, -(-len(words) // _CHUNK))
        place = slice(window, window + len(words))
        padded = torch.zeros(count * _CHUNK + 2 * window, dtype=torch.int64)
        line = -1 - torch.arange(len(padded))  # each filler is in a line of its own
        padded[place], line[place] = words, lines
        size = _CHUNK + 2 * window
        reach = torch.randint(1, window + 1, (count, _CHUNK), generator=self._random)
        return _Chunks(padded.unfold(0, size, _CHUNK), line.unfold(0, size, _CHUNK), reach)

    def _step(self, words: Tensor, lines: Tensor, reach: Tensor, rate: float) -> None:
        """Change the tables by the gradients of B chunks, P words x each, W more on either side.

        Args:
            words: int64 [B, P + 2W].
            lines: int64 [B, P + 2W].
            reach: int64 [B, P].
            rate: The learning rate.
        """
        middle = slice(self._settings.window, self._settings.window + _CHUNK)
        near = self._apart <= reach[:, :, None]  # [B, P, P + 2W]
        near &= lines[:, middle, None] == lines[:, None, :]
        draws = torch.rand(len(words), _SHARED, generator=self._random, dtype=torch.float64)
        drawn = torch.searchsorted(self._drawn, draws).clamp_max(len(self.inputs) - 1)
        centres, others = words[:, middle].flatten(), torch.cat([words, drawn], 1)
        x = self.inputs.index_select(0, centres).view(len(words), _CHUNK, -1)
        yz = self.outputs.index_select(0, others.flatten()).view(*others.shape, -1)
        # The gradient by the scores, times -rate: (1 - σ) for each pair, -σ for each z.
        change = torch.sigmoid(x @ yz.mT).neg_()
        weight = near.sum(2, keepdim=True) * (self._settings.negatives / _SHARED)
        change[:, :, : words.shape[1]].add_(1).mul_(near)
        change[:, :, words.shape[1] :].mul_(weight)
        change *= rate
        self.inputs.index_add_(0, centres, (change @ yz).flatten(0, 1))
        self.outputs.index_add_(0, others.flatten(), (change.mT @ x).flatten(0, 1))
