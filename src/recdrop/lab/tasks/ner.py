"""Named entities: a tag for each word from a window of words around it (Table 4).

The paper's network where the run says so; see `recdrop.lab.paper.table4` for what it leaves open.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from recdrop.lab.config import NerRun, Tagger
from recdrop.lab.conll import Scores, Sentence, score
from recdrop.lab.tasks.net import ForwardDropout, deterministic, recurrent_layers, uniform_start
from recdrop.lab.tasks.rows import AT_A_TIME, batches_of, in_order, nothing, packed
from recdrop.lab.tasks.task import Abandoned, Measured, Part, Stopping, never, stream
from recdrop.lab.words import Words, WordTable

SHAPES = ("small", "Capitalised", "CAPITALS", "mIxed", "with a digit")


def shape_of(word: str) -> int:
    """How a word is written: its place in `SHAPES`."""
    if any(char.isdigit() for char in word):
        return 4
    if not any(char.isupper() for char in word):
        return 0
    if word[0].isupper() and not any(char.isupper() for char in word[1:]):
        return 1
    return 2 if word.isupper() else 3


class TaggerNet(nn.Module):
    """Vectors of a window of words, recurrent layers, a linear layer over the tags.

    Args:
        words: Known words, V.
        tags: Their number, K.
        model: Everything else.
        vectors: float32 [V, D], or None to learn them.

    Shapes:
        ids, shapes int64 [B, T, window], lengths int64 [B]; returns logits as packed rows [N, K].
    """

    def __init__(self, words: int, tags: int, model: Tagger, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.window, self.capitals = model.window, model.capitals
        self.table = WordTable(words, model.embedding, vectors, tune=model.tune)
        width = model.window * (self.table.width + len(SHAPES) * model.capitals)
        self.dropout_in = ForwardDropout(model.dropout_in)
        self.rnn = recurrent_layers(
            model, width, activation=model.activation, bidirectional=model.bidirectional
        )
        self.dropout_out = ForwardDropout(model.dropout_out)
        self.output = nn.Linear(model.hidden * (1 + model.bidirectional), tags)

    def __call__(self, ids: Tensor, shapes: Tensor, lengths: Tensor) -> PackedSequence:
        """Typed `nn.Module.__call__`."""
        return super().__call__(ids, shapes, lengths)

    def forward(self, ids: Tensor, shapes: Tensor, lengths: Tensor) -> PackedSequence:
        """Logits of every tag; see the class."""
        rows = packed(ids, lengths)
        seen = self.table(rows.data)
        if self.capitals:  # beyond a sentence's ends there is no shape at all
            written = functional.one_hot(packed(shapes, lengths).data, len(SHAPES) + 1)
            seen = torch.cat([seen, written[..., : len(SHAPES)].to(seen.dtype)], dim=-1)
        hidden, _ = self.rnn(rows._replace(data=self.dropout_in(seen.flatten(1))))
        return hidden._replace(data=self.output(self.dropout_out(hidden.data)))

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.output.weight.device


class Sentences(NamedTuple):
    """Sentences in one row of ids, with borders between them as wide as a window looks.

    Attributes:
        ids: int64 [N].
        shapes: int64 [N], see `shape_of`.
        tags: int64 [N], -1 where it is not known; empty where there are none.
        starts: int64 [S], where each sentence begins.
        lengths: int64 [S].
    """

    ids: Tensor
    shapes: Tensor
    tags: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(
        cls,
        texts: Sequence[Sequence[str]],
        words: Words,
        window: int,
        tags: Sequence[Sequence[str]] | None = None,
        known_tags: Sequence[str] = (),
    ) -> "Sentences":
        """Sentences of words, with their tags where there are any.

        Args:
            texts: The words of each.
            words: Which are known.
            window: Of the net.
            tags: The tags of each; those that are not known become -1.
            known_tags: By id.
        """
        border = window // 2
        ids: list[int] = [len(words.vocabulary)] * border
        shapes: list[int] = [len(SHAPES)] * border
        told: list[int] = [] if tags is None else [-1] * border
        place = {tag: i for i, tag in enumerate(known_tags)}
        starts = []
        for number, text in enumerate(texts):
            starts.append(len(ids))
            ids += [*words.ids(text), *[len(words.vocabulary)] * border]
            shapes += [*map(shape_of, text), *[len(SHAPES)] * border]
            if tags is not None:
                told += [*(place.get(tag, -1) for tag in tags[number]), *[-1] * border]
        lengths = [len(text) for text in texts]
        return cls(
            *(torch.tensor(one, dtype=torch.int64) for one in (ids, shapes, told, starts, lengths))
        )

    def cut(self, values: Tensor) -> list[Tensor]:
        """Values [N, ...] of every place, sentence by sentence."""
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [values[start : start + length] for start, length in spans]

    def batches(
        self, window: int, most: int
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
        """All sentences, ``most`` at a time, for evaluation.

        Yields:
            The places [N] of their words, as packed rows have them, and a net's arguments.
        """
        for numbers in in_order(self.lengths, most):
            lengths = self.lengths[numbers]
            ids, shapes, places = self.rows(self.starts[numbers], lengths, window)
            yield packed(places, lengths).data, (ids, shapes, lengths)

    def rows(self, starts: Tensor, lengths: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and shapes of the windows of some stretches, [B, T, window], and their places [B, T].

        Places behind a stretch's end are its last word's.
        """
        steps = torch.minimum(torch.arange(int(lengths.max())), lengths.unsqueeze(1) - 1)
        places = starts.unsqueeze(1) + steps
        around = places.unsqueeze(2) + torch.arange(-(window // 2), window // 2 + 1)
        return self.ids[around], self.shapes[around], places


class NerTask:
    """The net and its sentences; a `recdrop.lab.tasks.task.Task`.

    Args:
        run: What to train.
        sets: Sentences of ``train``, ``valid`` and ``test``, with tags of ``run.data.scheme``.
        words: Known words.
        tags: Known tags.
        rank: Of this process.
        size: Number of processes; each takes its share of every batch.
    """

    watched = "valid"
    higher_is_better = True

    def __init__(
        self,
        run: NerRun,
        sets: dict[str, list[Sentence]],
        words: Words,
        tags: Sequence[str],
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.run, self.tags, self.words = run, tuple(tags), words
        self.rank, self.size = rank, size
        self.stages: Sequence[int] = [stage.after for stage in run.data.chunks[1:]]
        self._sets = {
            name: Sentences.of(
                [one.words for one in part],
                words,
                run.model.window,
                [one.tags for one in part],
                tags,
            )
            for name, part in sets.items()
        }
        self._gold = {name: [one.tags for one in part] for name, part in sets.items()}
        self.net = TaggerNet(len(words.vocabulary), len(self.tags), run.model, words.vectors)
        uniform_start(self.net, run.model.init_range, stream(run.seed, "start"))
        self.net.table.start()
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Cut the sentences anew, and put the pieces in this epoch's order."""
        generator = stream(self.run.seed, f"order {epoch}")
        words = next(s.words for s in reversed(self.run.data.chunks) if s.after <= epoch)
        train = self._sets["train"]
        self._starts, self._lengths = pieces(train.starts, train.lengths, words, generator)
        self._batches = batches_of(self._lengths, self.run.data.batch, generator)
        self.steps = len(self._batches)

    def part(self, step: int) -> Part:
        """Cross entropy of this process's rows of a batch; the objective is its mean per word."""
        batch = self._batches[step]
        total, mine = int(self._lengths[batch].sum()), batch[self.rank :: self.size]
        if not len(mine):  # the last batch may have fewer rows than there are processes
            return nothing(self.net)
        train, lengths = self._sets["train"], self._lengths[mine]
        ids, shapes, places = train.rows(self._starts[mine], lengths, self.run.model.window)
        targets = packed(train.tags[places], lengths).data
        ids, shapes, targets = (
            x.to(self.net.device, non_blocking=True) for x in (ids, shapes, targets)
        )
        logits = self.net(ids, shapes, lengths)
        nats = functional.cross_entropy(logits.data, targets, reduction="sum")
        right = (logits.data.argmax(-1) == targets).sum()
        return Part(nats * (self.size / total), nats.detach(), len(targets), right)

    def score(self, nats: float, count: int, right: int) -> float:
        """Of training batches: the share of words with the right tag."""
        return right / count

    def look(self, stopping: Stopping = never) -> Measured:
        """Loss per word and F1 of the validation set's whole sentences."""
        nats, count, scores = self.measure("valid", stopping)
        return Measured(nats / count, scores.overall.f1)

    def conclude(self, stopping: Stopping = never) -> dict[str, float]:
        """F1 on both sets; on the test set also its parts."""
        told = {"valid": self.measure("valid", stopping)[2].overall.f1}
        overall = self.measure("test", stopping)[2].overall
        return told | {
            "test": overall.f1,
            "test_precision": overall.precision,
            "test_recall": overall.recall,
        }

    def measure(self, name: str, stopping: Stopping = never) -> tuple[float, int, Scores]:
        """Nats, words, and scores of one of the sets by the deterministic net.

        Words whose tag the training set lacks do not count in nats.
        """
        part = self._sets[name]
        predicted = torch.zeros_like(part.ids)
        nats, count = 0.0, 0
        for places, logits in tag_logits(self.net, part, stopping):
            targets = part.tags[places].to(logits.device)
            nats += functional.cross_entropy(
                logits, targets, reduction="sum", ignore_index=-1
            ).item()
            count += int((targets >= 0).sum())
            predicted[places] = logits.argmax(-1).cpu()
        found = [[self.tags[int(i)] for i in row] for row in part.cut(predicted)]
        return nats, max(count, 1), score(self._gold[name], found)

    def carried(self) -> dict[str, Tensor]:
        """Nothing: every piece starts from zero."""
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried."""


def pieces(
    starts: Tensor, lengths: Tensor, words: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sentences cut into pieces; the first of each is of a random length.

    Args:
        starts: int64 [S].
        lengths: int64 [S].
        words: Longest piece; None leaves them whole.
        generator: Where the first lengths come from.

    Returns:
        Starts and lengths of the pieces, each word in exactly one.
    """
    if words is None:
        return starts, lengths
    first = torch.randint(1, words + 1, lengths.shape, generator=generator).minimum(lengths)
    number = 1 + (lengths - first + words - 1) // words
    of = torch.repeat_interleave(torch.arange(len(lengths)), number)
    rank = torch.arange(len(of)) - (number.cumsum(0) - number)[of]
    begin = (rank > 0) * (first[of] + (rank - 1) * words)
    end = (first[of] + rank * words).minimum(lengths[of])
    return starts[of] + begin, end - begin


def tag_logits(
    net: TaggerNet, sentences: Sentences, stopping: Stopping = never
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the deterministic net says of whole sentences, some at a time.

    Yields:
        Places [N] in ``sentences.ids``, and the logits [N, K] there.

    Raises:
        Abandoned: ``stopping`` said so.
    """
    for places, (ids, shapes, lengths) in sentences.batches(net.window, AT_A_TIME):
        if stopping():
            raise Abandoned
        with deterministic(net):
            logits = net(ids.to(net.device), shapes.to(net.device), lengths).data
        yield places, logits
