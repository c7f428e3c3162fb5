"""The training loop: batches in, rows of metrics out."""

import hashlib
import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, nn

from recdrop.lab.config import Accuracy, Adam, Count, Record, Run, Sgd
from recdrop.lab.errors import Diverged
from recdrop.lab.tasks.temporal_order import (
    Sequences,
    TemporalOrderNet,
    accuracy,
    batches,
    generate,
    initialise,
)


class Row(Record):
    """One row of metrics.

    Attributes:
        update: Updates done when the window ended.
        loss: Cross entropy in nats, mean over the window's batches.
        train_accuracy: With masks on, mean over the window's batches.
        test_accuracy: Of the deterministic net, where the test set was looked at.
    """

    update: Count
    loss: float
    train_accuracy: Accuracy
    test_accuracy: Accuracy | None = None


class Outcome(Record):
    """Where a run ended.

    Attributes:
        updates: Updates done.
        stopped_by: The stop rule or the cap.
        updates_to_99: End of the first window with 99 % training accuracy with masks on, if any.
        train_accuracy: With masks on, of the last window.
        test_accuracy: Of the deterministic net.
        train_accuracy_deterministic: Of the deterministic net on the training set.
        test_accuracy_masked: With masks on, on the test set.
    """

    updates: Count
    stopped_by: Literal["rule", "cap"]
    updates_to_99: Count | None
    train_accuracy: Accuracy
    test_accuracy: Accuracy
    train_accuracy_deterministic: Accuracy
    test_accuracy_masked: Accuracy


def stream(seed: int, purpose: str) -> Generator:
    """A generator of its own for each purpose of a run, so that none shifts another.

    Args:
        seed: The run's seed.
        purpose: Any name; data, start and order do not depend on the dropout of the run.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def train(run: Run, record: Callable[[Row], None]) -> Outcome:
    """Train to the stop rule or the cap.

    torch's global CPU generator, from which the masks come, is seeded here and restored after.

    Args:
        run: What to train.
        record: Called with each row as its window ends.

    Raises:
        Diverged: A loss or gradient was not finite; it was not stepped with.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(stream(run.seed, "masks").get_state())
        trainer = _Trainer(run)
        while True:
            row = trainer.window()
            record(row)
            if row.test_accuracy is not None and trainer.stopped_by is not None:
                return trainer.outcome(row.test_accuracy)


class _Trainer:
    """A net in training: one window of updates at a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.train_set = generate(run.data, run.data.train, stream(run.seed, "train set"))
        self.test_set = generate(run.data, run.data.test, stream(run.seed, "test set"))
        self.net = TemporalOrderNet(run.model.hidden, run.dropout)
        initialise(self.net, run.model, stream(run.seed, "start"))
        self.batches = batches(self.train_set, run.data.batch, stream(run.seed, "order"))
        self.parameters = list(self.net.parameters())
        self.optimiser = _optimiser(run.optim, self.parameters)
        self.updates = 0
        self.updates_to_99: int | None = None
        self.train_accuracy = 0.0
        self.streak = 0  # windows in a row that reached the stop rule's training accuracy
        self.stopped_by: Literal["rule", "cap"] | None = None

    def window(self) -> Row:
        """Train one window and look at what it reached."""
        schedule = self.run.schedule
        losses, rights = zip(
            *(self.update(batch) for batch in itertools.islice(self.batches, schedule.window)),
            strict=True,
        )
        self.train_accuracy = sum(rights) / (schedule.window * self.run.data.batch)
        if self.updates_to_99 is None and self.train_accuracy >= 0.99:
            self.updates_to_99 = self.updates
        return Row(
            update=self.updates,
            loss=sum(losses) / schedule.window,
            train_accuracy=self.train_accuracy,
            test_accuracy=self.look(),
        )

    def update(self, batch: Sequences) -> tuple[float, int]:
        """One update.

        Returns:
            The loss of the batch in nats, and how many of its sequences were right, both before it.
        """
        logits = self.net(batch.inputs)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        value = loss.item()
        self._refuse_unless_finite("the loss", value)
        self.optimiser.zero_grad()
        loss.backward()
        limit = self.run.optim.clip_norm
        norm = nn.utils.clip_grad_norm_(self.parameters, math.inf if limit is None else limit)
        self._refuse_unless_finite("the gradient's norm", norm.item())
        self.optimiser.step()
        self.updates += 1
        return value, int((logits.argmax(1) == batch.labels).sum())

    def look(self) -> float | None:
        """Decide whether to stop; test accuracy where it is due, asked for, or the last."""
        schedule, stop = self.run.schedule, self.run.schedule.stop
        reached = stop is not None and self.train_accuracy >= stop.train_accuracy
        self.streak = self.streak + 1 if reached else 0
        asked = stop is not None and self.streak >= stop.windows
        last = self.updates >= schedule.max_updates
        if not (asked or last or self.updates % schedule.evaluate_every == 0):
            return None
        tested = accuracy(self.net, self.test_set, masks=False)
        if stop is not None and asked and tested >= (stop.test_accuracy or 0.0):
            self.stopped_by = "rule"
        elif last:
            self.stopped_by = "cap"
        return tested

    def outcome(self, test_accuracy: float) -> Outcome:
        """Where the run ended, with the two accuracies that only the end is asked for."""
        if self.stopped_by is None:
            raise RuntimeError("a run has an outcome only once it has stopped")
        return Outcome(
            updates=self.updates,
            stopped_by=self.stopped_by,
            updates_to_99=self.updates_to_99,
            train_accuracy=self.train_accuracy,
            test_accuracy=test_accuracy,
            train_accuracy_deterministic=accuracy(self.net, self.train_set, masks=False),
            test_accuracy_masked=accuracy(self.net, self.test_set, masks=True),
        )

    def _refuse_unless_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{self.run.name}, seed {self.run.seed}: {what} is {value} at update "
                f"{self.updates + 1}; stopped before it was used"
            )


def _optimiser(optim: Sgd | Adam, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if optim.kind == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr)
    return torch.optim.Adam(parameters, lr=optim.lr, fused=True)  # 10 % of an update at H 64
