"""What a run leaves behind, line by line and at its end. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from recdrop.lab.config import Count, Record

Split = Literal["train", "valid", "test"]
Stop = Literal["epochs", "patience", "min_lr", "rule"]


class Row(Record):
    """One line of ``metrics.jsonl``.

    Attributes:
        update: Updates done.
        epoch: The epoch it belongs to, from 1.
        split: ``"train"``: mean over the batches since the row before, each before its update,
            masks on. Else the whole set, by the deterministic net.
        loss: Cross entropy in nats of one prediction, mean.
        score: The task's own figure: accuracy, perplexity, bits per character, F1.
        lr: Learning rate of the last update; 0 once it has decayed below all numbers.
    """

    update: Count
    epoch: Count
    split: Split
    loss: float
    score: float
    lr: Annotated[float, Field(ge=0)]


class Progress(Record):
    """Where training is: with the tensors of a checkpoint all that going on exactly needs.

    Attributes:
        processes: That share the run.
        update: Updates done.
        epoch: Epochs ended.
        step: Updates done in the epoch under way.
        lr: Learning rate.
        nats: Cross entropy of the row under way, summed.
        count: Its predictions.
        right: Those of them that were right.
        streak: Rows in a row that reached the stop rule's training score.
        train_score: Of the last row, if any.
        best: Best score of the watched set so far, if any.
        best_loss: The lowest loss with that score.
        best_update: When.
        waited: Looks since.
        looked_at: Update of the last look, if any.
        earlier: Scores of each ended stage's best net; their names end in ``_stage1`` and so on.
        stopped_by: Why training has ended, if it has.
        log_bytes: Length of ``metrics.jsonl``.
        seconds: Training time so far.
    """

    processes: Count = 1
    update: Annotated[int, Field(ge=0)] = 0
    epoch: Annotated[int, Field(ge=0)] = 0
    step: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(ge=0)]
    nats: float = 0.0
    count: int = 0
    right: int = 0
    streak: int = 0
    train_score: float | None = None
    best: float | None = None
    best_loss: float | None = None
    best_update: int | None = None
    waited: int = 0
    looked_at: int | None = None
    earlier: dict[str, float] = Field(default_factory=dict)
    stopped_by: Stop | None = None
    log_bytes: int = 0
    seconds: float = 0.0


class Outcome(Record):
    """Where a run ended.

    Attributes:
        updates: Updates done.
        epochs: Epochs begun.
        stopped_by: The number of epochs asked for, or which rule of the schedule.
        best_update: Of the best look, where the schedule keeps the best net.
        scores: The task's figures, by name: ``valid`` and ``test`` of the net that is kept, and
            whatever else the task tells.
    """

    updates: Count
    epochs: Count
    stopped_by: Stop
    best_update: Count | None
    scores: dict[str, float]


class Result(Record):
    """``result.json``: what a finished run came to.

    Attributes:
        name: The run's.
        seed: The run's.
        outcome: Scores and updates.
        seconds: Time that training took, all sittings together, wall clock.
    """

    name: str
    seed: int
    outcome: Outcome
    seconds: Annotated[float, Field(ge=0)]


class Failure(Record):
    """``failed.json``: why a run has no result.

    Attributes:
        kind: What happened.
        message: In words, with run and update.
    """

    kind: str
    message: str


class Event(Record):
    """What a worker tells its driver; each field where it is known.

    Attributes:
        steps: Updates of an epoch, told once training starts or goes on.
        update: Updates done.
        row: A row of metrics that was stored.
        warning: What is not as it should be.
    """

    steps: Count | None = None
    update: Annotated[int, Field(ge=0)] | None = None
    row: Row | None = None
    warning: str | None = None
