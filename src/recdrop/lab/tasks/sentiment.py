"""A label for a whole text, from the last step of a recurrent net (Table 5).

The paper's network where the run says so; see `recdrop.lab.paper.table5` for what it leaves open.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from recdrop.lab.config import Classifier, SentimentRun
from recdrop.lab.label_scores import accuracy, mean_f1
from recdrop.lab.tasks.net import ForwardDropout, deterministic, recurrent_layers, uniform_start
from recdrop.lab.tasks.rows import AT_A_TIME, batches_of, in_order, nothing, packed
from recdrop.lab.tasks.task import Abandoned, Measured, Part, Stopping, never, stream
from recdrop.lab.words import Words, WordTable


class ClassifierNet(nn.Module):
    """Vectors of words, recurrent layers, a linear layer over the labels behind the last step.

    Args:
        words: Known words, V.
        labels: Their number, K.
        model: Everything else.
        vectors: float32 [V, D], or None to learn them.
        weak_labels: Number of the labels of pre-training, which has an output layer of its own.

    Shapes:
        ids int64 [B, T], lengths int64 [B]; returns logits [B, K].
    """

    def __init__(
        self,
        words: int,
        labels: int,
        model: Classifier,
        vectors: Tensor | None = None,
        weak_labels: int = 0,
    ) -> None:
        super().__init__()
        self.table = WordTable(words, model.embedding, vectors, tune=model.tune)
        self.dropout_in = ForwardDropout(model.dropout_in)
        self.rnn = recurrent_layers(
            model,
            self.table.width,
            activation=model.activation,
            bidirectional=model.bidirectional,
        )
        self.dropout_out = ForwardDropout(model.dropout_out)
        width = model.hidden * (1 + model.bidirectional)
        self.output = nn.Linear(width, labels)
        self.weak_output = nn.Linear(width, weak_labels) if weak_labels else None

    def __call__(self, ids: Tensor, lengths: Tensor, *, weak: bool = False) -> Tensor:
        """Typed `nn.Module.__call__`."""
        return super().__call__(ids, lengths, weak=weak)

    def forward(self, ids: Tensor, lengths: Tensor, *, weak: bool = False) -> Tensor:
        """Logits, of the weak labels if told; see the class."""
        rows = packed(ids, lengths)
        _, last = self.rnn(rows._replace(data=self.dropout_in(self.table(rows.data))))
        h = last[0] if isinstance(last, tuple) else last  # [layers * directions, B, H]
        ends = h[-2:] if self.rnn.bidirectional else h[-1:]
        output = self.weak_output if weak else self.output
        if output is None:
            raise ValueError("the net was made without weak labels")
        return output(self.dropout_out(torch.cat(tuple(ends), dim=-1)))

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.output.weight.device


class Texts(NamedTuple):
    """Texts as ids.

    Attributes:
        ids: int64 [N], one text after another; an empty one is a single ``<unk>``.
        starts: int64 [S], where each begins.
        lengths: int64 [S].
        labels: int64 [S], -1 where it is not known.
    """

    ids: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        texts: Sequence[Sequence[str]],
        words: Words,
        labels: Sequence[str] | None = None,
        known_labels: Sequence[str] = (),
    ) -> "Texts":
        """Texts of words, with their labels where there are any."""
        rows = [words.ids(text or [""]) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        place = {label: i for i, label in enumerate(known_labels)}
        told = [-1] * len(rows) if labels is None else [place.get(one, -1) for one in labels]
        return cls(
            torch.tensor([i for row in rows for i in row], dtype=torch.int64),
            lengths.cumsum(0) - lengths,
            lengths,
            torch.tensor(told, dtype=torch.int64),
        )

    def batches(self, most: int) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """All texts, ``most`` at a time, for evaluation: their numbers, a net's arguments."""
        for numbers in in_order(self.lengths, most):
            yield numbers, self.rows(numbers)

    def rows(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [B, T] and lengths [B] of some texts; behind an end its last word is repeated."""
        lengths = self.lengths[numbers]
        steps = torch.minimum(torch.arange(int(lengths.max())), lengths.unsqueeze(1) - 1)
        return self.ids[self.starts[numbers].unsqueeze(1) + steps], lengths


class Stage(NamedTuple):
    """What one stage of training learns from and is measured on.

    Attributes:
        labels: By id.
        train: What is trained on.
        valid: What is looked at.
    """

    labels: tuple[str, ...]
    train: Texts
    valid: Texts


class SentimentTask:
    """The net and its texts; a `recdrop.lab.tasks.task.Task`.

    Args:
        run: What to train.
        stages: Of weak labels first, if any; the last one is the task itself.
        tests: Texts that the net is measured on in the end, by name.
        words: Known words.
        rank: Of this process.
        size: Number of processes; each takes its share of every batch.
    """

    watched = "valid"
    higher_is_better = True

    def __init__(
        self,
        run: SentimentRun,
        stages: Sequence[Stage],
        tests: dict[str, Texts],
        words: Words,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.run, self._all, self._tests, self.words = run, tuple(stages), tests, words
        self.rank, self.size = rank, size
        self.labels = stages[-1].labels
        self.stages: Sequence[int] = [run.data.pretraining] * (len(stages) - 1)
        self.net = ClassifierNet(
            len(words.vocabulary),
            len(self.labels),
            run.model,
            words.vectors,
            len(stages[0].labels) if len(stages) > 1 else 0,
        )
        uniform_start(self.net, run.model.init_range, stream(run.seed, "start"))
        self.net.table.start()
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Put the texts of the stage in this epoch's order."""
        self._weak = len(self._all) > 1 and epoch < self.stages[0]
        self._stage = self._all[0 if self._weak else -1]
        self.net.output.requires_grad_(not self._weak)  # what waits takes no steps of the optimiser
        if self.net.weak_output is not None:
            self.net.weak_output.requires_grad_(self._weak)
        generator = stream(self.run.seed, f"order {epoch}")
        self._batches = batches_of(self._stage.train.lengths, self.run.data.batch, generator)
        self.steps = len(self._batches)

    def part(self, step: int) -> Part:
        """Cross entropy of this process's rows of a batch; the objective is its mean per text."""
        batch = self._batches[step]
        mine = batch[self.rank :: self.size]
        if not len(mine):  # the last batch may have fewer rows than there are processes
            return nothing(self.net)
        ids, lengths = self._stage.train.rows(mine)
        targets = self._stage.train.labels[mine].to(self.net.device, non_blocking=True)
        logits = self.net(ids.to(self.net.device, non_blocking=True), lengths, weak=self._weak)
        nats = functional.cross_entropy(logits, targets, reduction="sum")
        right = (logits.argmax(-1) == targets).sum()
        return Part(nats * (self.size / len(batch)), nats.detach(), len(mine), right)

    def score(self, nats: float, count: int, right: int) -> float:
        """Of training batches: the share of texts with the right label."""
        return right / count

    def look(self, stopping: Stopping = never) -> Measured:
        """Loss per text and mean F1 of the stage's validation set."""
        return self._measure(self._stage.valid, self._stage.labels, stopping, weak=self._weak)[0]

    def conclude(self, stopping: Stopping = never) -> dict[str, float]:
        """Mean F1 on the validation set and on every test set, and shares of right labels."""
        if self._weak:
            return {"valid": self.look(stopping).score}
        told = {}
        for name, texts in {"valid": self._stage.valid, **self._tests}.items():
            measured, right = self._measure(texts, self.labels, stopping)
            told |= {name: measured.score, f"{name}_accuracy": right}
        return told

    def _measure(
        self, texts: Texts, labels: Sequence[str], stopping: Stopping, *, weak: bool = False
    ) -> tuple[Measured, float]:
        predicted = torch.empty(len(texts.lengths), dtype=torch.int64)
        nats = 0.0
        for numbers, logits in label_logits(self.net, texts, stopping, weak=weak):
            targets = texts.labels[numbers].to(logits.device)
            nats += functional.cross_entropy(logits, targets, reduction="sum").item()
            predicted[numbers] = logits.argmax(-1).cpu()
        gold = [labels[int(i)] for i in texts.labels]
        found = [labels[int(i)] for i in predicted]
        return Measured(nats / len(gold), mean_f1(gold, found, labels)), accuracy(gold, found)

    def carried(self) -> dict[str, Tensor]:
        """Nothing: every text starts from zero."""
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried."""


def label_logits(
    net: ClassifierNet, texts: Texts, stopping: Stopping = never, *, weak: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the deterministic net says of texts, some at a time: numbers [B] and logits [B, K].

    Raises:
        Abandoned: ``stopping`` said so.
    """
    for numbers, (ids, lengths) in texts.batches(AT_A_TIME):
        if stopping():
            raise Abandoned
        with deterministic(net):
            logits = net(ids.to(net.device), lengths, weak=weak)
        yield numbers, logits
