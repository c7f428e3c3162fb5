"""Temporal Order: which two bits were marked, and in which order (Table 1).

Every step shows a random bit and a marker. Two steps are marked; the class is the pair of their
bits in order. The generator is the authors' (stas-semeniuta/drop-rnn @fec39a29): the paper's
symbols {A, B, C, D} are bit and marker as two inputs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

import recdrop
from recdrop.lab.config import Dropout, TemporalOrderData, TemporalOrderModel, TemporalOrderRun
from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.net import recurrent_dropout
from recdrop.lab.tasks.task import Measured, Part, Stopping, never, stream

FEATURES = 2  # bit and marker
CLASSES = 4  # AA, AB, BA, BB

_EVALUATION_BATCH = (
    1_000  # the fastest of 500 to 10,000 on one core; the values do not depend on it
)


class Sequences(NamedTuple):
    """Labelled sequences.

    Attributes:
        inputs: float32 [T, N, 2]; channel 0 the bit, channel 1 the marker, both 0 or 1.
        labels: int64 [N]; twice the first marked bit plus the second.
    """

    inputs: Tensor
    labels: Tensor


def generate(data: TemporalOrderData, count: int, generator: Generator) -> Sequences:
    """Draw sequences.

    The first marker is uniform in [0, low], the second in [low, high], all ends included. Both may
    fall on ``low`` (Short: 1 in 36, Medium: 1 in 121): then one step is marked, its bit counts
    twice. Without ``data.collide`` the second is uniform in [low + 1, high].

    Args:
        data: Length and ranges.
        count: Number of sequences, N.
        generator: Source of every draw.
    """
    bits = torch.randint(2, (data.length, count), generator=generator)
    start = data.low if data.collide else data.low + 1
    first = torch.randint(0, data.low + 1, (count,), generator=generator)
    second = torch.randint(start, data.high + 1, (count,), generator=generator)
    rows = torch.arange(count)
    inputs = torch.zeros(data.length, count, FEATURES)
    inputs[..., 0] = bits
    inputs[first, rows, 1] = 1.0
    inputs[second, rows, 1] = 1.0
    return Sequences(inputs, 2 * bits[first, rows] + bits[second, rows])


class TemporalOrderNet(nn.Module):
    """An LSTM whose last h is read out linearly.

    Args:
        hidden: Units of the LSTM, H.
        dropout: What is dropped inside the recurrence.

    Shapes:
        inputs [T, B, 2]; returns logits [B, 4].
    """

    def __init__(self, hidden: int, dropout: tuple[Dropout, ...]) -> None:
        super().__init__()
        specs = tuple(map(recurrent_dropout, dropout))
        self.lstm = recdrop.LSTM(FEATURES, hidden, recurrent_dropout=specs)
        self.readout = nn.Linear(hidden, CLASSES)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.readout.weight.device

    def __call__(self, inputs: Tensor) -> Tensor:
        """Typed `nn.Module.__call__`."""
        return super().__call__(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the four classes; see the class."""
        _, (h_n, _) = self.lstm(inputs)
        return self.readout(h_n[-1])


@torch.no_grad()
def initialise(net: TemporalOrderNet, model: TemporalOrderModel, generator: Generator) -> None:
    """Uniform start of everything, biases included, as in the authors' code.

    torch's LSTM adds two biases where Eq. 4 has one: ``bias_ih`` is drawn, ``bias_hh`` is zero.

    Args:
        net: Changed in place.
        model: Ranges.
        generator: Source of every draw.
    """
    for parameter in net.lstm.parameters():
        nn.init.uniform_(parameter, -model.init_range, model.init_range, generator=generator)
    for parameter in net.readout.parameters():
        bound = model.output_init_range
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    nn.init.zeros_(net.lstm.get_parameter("bias_hh_l0"))


class TemporalOrderTask:
    """The net and its sequences; a `recdrop.lab.tasks.task.Task`.

    As in the authors' code a batch always holds the same sequences; only the order of the batches
    changes from epoch to epoch.

    Args:
        run: What to train.
        rank: Of this process.
        size: Number of processes; each takes its share of every batch.

    Raises:
        BadInput: A batch cannot be shared equally.
    """

    stages: Sequence[int] = ()
    watched = "test"
    higher_is_better = True

    def __init__(self, run: TemporalOrderRun, rank: int = 0, size: int = 1) -> None:
        data = run.data
        if data.batch % size:
            raise BadInput(
                f"data.batch: {data.batch} sequences cannot be shared by {size} processes"
            )
        self.net = TemporalOrderNet(run.model.hidden, run.model.recurrent_dropout)
        initialise(self.net, run.model, stream(run.seed, "start"))
        self.train_set = generate(data, data.train, stream(run.seed, "train set"))
        self.test_set = generate(data, data.test, stream(run.seed, "test set"))
        self.steps = data.train // data.batch
        self._seed = run.seed
        self._share = slice(rank * data.batch // size, (rank + 1) * data.batch // size)
        self._inputs = self.train_set.inputs.split(data.batch, dim=1)
        self._labels = self.train_set.labels.split(data.batch)
        self._order: list[int] = []

    def begin(self, epoch: int) -> None:
        """Shuffle the batches."""
        order = torch.randperm(self.steps, generator=stream(self._seed, f"order {epoch}"))
        self._order = order.tolist()

    def part(self, step: int) -> Part:
        """One batch; the objective is its mean cross entropy."""
        k = self._order[step]
        logits = self.net(self._inputs[k][:, self._share].to(self.net.device, non_blocking=True))
        labels = self._labels[k][self._share].to(self.net.device, non_blocking=True)
        loss = nn.functional.cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).sum()
        return Part(loss, loss.detach() * len(labels), len(labels), right)

    def score(self, nats: float, count: int, right: int) -> float:
        """Accuracy."""
        return right / count

    def look(self, stopping: Stopping = never) -> Measured:
        """Loss and accuracy on the test set."""
        return measure(self.net, self.test_set, masks=False)

    def conclude(self, stopping: Stopping = never) -> dict[str, float]:
        """Accuracies on both sets, the deterministic net's and, where told, with masks on."""
        return {
            "test": self.look().score,
            "train_deterministic": measure(self.net, self.train_set, masks=False).score,
            "test_masked": measure(self.net, self.test_set, masks=True).score,
        }

    def carried(self) -> dict[str, Tensor]:
        """Nothing: every sequence starts from zero."""
        return {}

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


@torch.no_grad()
def measure(net: TemporalOrderNet, sequences: Sequences, *, masks: bool) -> Measured:
    """Mean cross entropy in nats, and the share of sequences whose class is right.

    Args:
        net: Left in the mode it was in.
        sequences: What to classify.
        masks: True: dropout acts as in training. False: the deterministic net.
    """
    was_training = net.training
    net.train(masks)
    nats, right = 0.0, 0
    try:
        for inputs, labels in zip(
            sequences.inputs.split(_EVALUATION_BATCH, dim=1),
            sequences.labels.split(_EVALUATION_BATCH),
            strict=True,
        ):
            logits = net(inputs.to(net.device))
            wanted = labels.to(net.device)
            nats += nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            right += int((logits.argmax(1) == wanted).sum())
    finally:
        net.train(was_training)
    return Measured(nats / len(sequences.labels), right / len(sequences.labels))
