"""Temporal Order: which two bits were marked, and in which order (Table 1).

Every step shows a random bit and a marker. Two steps are marked; the class is the pair of their
bits in order. The generator is the authors' (stas-semeniuta/drop-rnn @fec39a29): the paper's
symbols {A, B, C, D} are bit and marker as two inputs.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

import recdrop
from recdrop.lab.config import Dropout, Model, TemporalOrderData

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


def batches(sequences: Sequences, size: int, generator: Generator) -> Iterator[Sequences]:
    """Batches without end, epoch after epoch.

    As in the authors' code a batch always holds the same sequences; only the order of the batches
    changes.

    Args:
        sequences: Whole batches.
        size: Sequences of a batch.
        generator: Source of the order.
    """
    inputs = sequences.inputs.split(size, dim=1)
    labels = sequences.labels.split(size)
    while True:
        for k in torch.randperm(len(labels), generator=generator).tolist():
            yield Sequences(inputs[k], labels[k])


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

    def __call__(self, inputs: Tensor) -> Tensor:
        """Typed `nn.Module.__call__`."""
        return super().__call__(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the four classes; see the class."""
        _, (h_n, _) = self.lstm(inputs)
        return self.readout(h_n[-1])


def recurrent_dropout(spec: Dropout) -> recdrop.RecurrentDropout:
    """The library's own spec of a run's.

    The library warns of inverted dropout on the memory, whose growth is the very thing that those
    cells of the table show; so this one warning is not repeated here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="site='state' with rescale='train'")
        return recdrop.RecurrentDropout(
            spec.rate, site=spec.site, sampling=spec.sampling, rescale=spec.rescale
        )


@torch.no_grad()
def initialise(net: TemporalOrderNet, model: Model, generator: Generator) -> None:
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


@torch.no_grad()
def accuracy(net: TemporalOrderNet, sequences: Sequences, *, masks: bool) -> float:
    """Share of sequences whose class is right.

    Args:
        net: Left in the mode it was in.
        sequences: What to classify.
        masks: True: dropout acts as in training. False: the deterministic net.
    """
    was_training = net.training
    net.train(masks)
    try:
        parts = zip(
            sequences.inputs.split(_EVALUATION_BATCH, dim=1),
            sequences.labels.split(_EVALUATION_BATCH),
            strict=True,
        )
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in parts)
    finally:
        net.train(was_training)
    return right / len(sequences.labels)
