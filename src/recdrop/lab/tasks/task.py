"""What the training loop knows of a task."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Generator, Tensor, nn


class Part(NamedTuple):
    """One update's share of a task, where the net is; nothing of it has been waited for.

    Attributes:
        objective: Scalar; its gradients are followed.
        nats: Scalar, detached: cross entropy, summed over the predictions.
        predictions: Their number.
        right: Number of them that were right; 0 where the score does not count them.
    """

    objective: Tensor
    nats: Tensor
    predictions: int
    right: Tensor | int = 0


class Measured(NamedTuple):
    """A look at a set with the deterministic net.

    Attributes:
        loss: Nats per prediction.
        score: The task's own figure.
    """

    loss: float
    score: float


Stopping = Callable[[], bool]  # asked now and then by what takes long: whether to give it up


class Abandoned(Exception):
    """A look was given up, for somebody asked to stop; nothing has changed."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Task(Protocol):
    """A net and its data.

    Everything random in it is a function of the run's seed and the epoch, or drawn from torch's own
    generator, so that what `carried` returns is all that resuming needs.

    Attributes:
        steps: Updates of the epoch that has begun.
        stages: Epochs, from 0, that begin a further stage of training: from the best net so far,
            with nothing compared to the looks before. Patience ends a stage.
        watched: The set that `look` looks at: ``"valid"``, or ``"test"`` where there is no other.
        higher_is_better: Of the score.
    """

    steps: int
    stages: Sequence[int]
    watched: str
    higher_is_better: bool

    @property
    def net(self) -> nn.Module:
        """The net, in training mode between calls."""
        ...

    def begin(self, epoch: int) -> None:
        """Start an epoch, the first is 0: its order is set, carried state is zero."""
        ...

    def part(self, step: int) -> Part:
        """Forward of update ``step`` of the epoch, with masks; called for each in turn."""
        ...

    def score(self, nats: float, count: int, right: int) -> float:
        """The score of sums over training batches."""
        ...

    def look(self, stopping: Stopping = never) -> Measured:
        """The watched set, whole, by the deterministic net; carried state is left alone.

        Raises:
            Abandoned: ``stopping`` said so.
        """
        ...

    def conclude(self, stopping: Stopping = never) -> dict[str, float]:
        """Everything to be told of the net as it is, by name, ``watched`` among it.

        Raises:
            Abandoned: ``stopping`` said so.
        """
        ...

    def carried(self) -> dict[str, Tensor]:
        """State that goes from one update to the next, beyond the net's."""
        ...

    def carry(self, tensors: dict[str, Tensor]) -> None:
        """Take `carried`'s state back, after `begin`.

        Raises:
            KeyError: A tensor is missing.
            ValueError: One has the wrong shape.
        """
        ...


def stream(seed: int, purpose: str) -> Generator:
    """A generator of its own for each purpose of a run, so that none shifts another.

    Args:
        seed: The run's seed.
        purpose: Any name; data, start and order do not depend on the dropout of the run.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
