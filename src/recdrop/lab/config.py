"""What a run is: frozen, checked values. Nothing here imports torch.

Reading a configuration reports every fault at once; see `faults`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Accuracy = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Scale = Literal["quick", "paper"]


class Record(BaseModel):
    """A frozen record: unknown keys, NaN, infinities and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class TemporalOrderData(Record):
    """Sequences with two marked bits; positions count from 0.

    Attributes:
        length: Steps of a sequence.
        low: Last position of the first marker, which starts at 0; the second starts here.
        high: Last position of the second marker.
        collide: Whether both markers may fall on ``low``, as in the authors' code; else the second
            starts at ``low + 1``.
        train: Sequences of the fixed training set, whole batches.
        test: Sequences of the test set.
        batch: Sequences per update.
    """

    length: Annotated[int, Field(ge=3, le=100_000)]
    low: Annotated[int, Field(ge=0)]
    high: Annotated[int, Field(ge=0)]
    collide: bool = True
    train: Count = 6_400
    test: Count = 10_000
    batch: Count = 32

    @model_validator(mode="after")
    def _fits(self) -> "TemporalOrderData":
        first = self.low if self.collide else self.low + 1
        if not first <= self.high < self.length:
            raise ValueError(
                f"the second marker needs {first} <= high < length, "
                f"got high {self.high}, length {self.length}"
            )
        if self.train % self.batch:
            raise ValueError(
                f"train must be whole batches of {self.batch} sequences, got {self.train}"
            )
        return self


class Model(Record):
    """One LSTM layer and a linear readout of its last h.

    Attributes:
        hidden: Units of the layer.
        init_range: Its weights and biases start uniform in ±this.
        output_init_range: The readout's start uniform in ±this.
    """

    hidden: Annotated[int, Field(ge=1, le=65_536)]
    init_range: Positive
    output_init_range: Positive


class Dropout(Record):
    """One `recdrop.RecurrentDropout`, field by field."""

    rate: Rate
    site: Literal["update", "hidden", "state"]
    sampling: Literal["step", "sequence"]
    rescale: Literal["train", "test"]


class Sgd(Record):
    """Plain stochastic gradient descent.

    Attributes:
        lr: Learning rate.
        clip_norm: Largest L2 norm of all gradients together; None does not clip.
    """

    kind: Literal["sgd"] = "sgd"
    lr: Positive
    clip_norm: Positive | None = None


class Adam(Record):
    """Adam with torch's defaults for everything else.

    Attributes:
        lr: Learning rate.
        clip_norm: Largest L2 norm of all gradients together; None does not clip.
    """

    kind: Literal["adam"] = "adam"
    lr: Positive
    clip_norm: Positive | None = None


class StopRule(Record):
    """When training ends before its cap.

    Attributes:
        train_accuracy: Accuracy with masks on that a window must reach.
        windows: So many windows in a row must reach it.
        test_accuracy: What the deterministic net must then reach on the test set, if anything.
    """

    train_accuracy: Accuracy
    windows: Count = 1
    test_accuracy: Accuracy | None = None


class Schedule(Record):
    """How long to train, and how often to look.

    Attributes:
        max_updates: Cap on the number of updates, whole windows.
        window: Updates that one row of metrics averages over. Accuracy with masks on is that of the
            window's own training batches, each taken before its update: it costs nothing, and
            disjoint windows do not profit from a lucky peak of a running mean.
        evaluate_every: Updates between two looks at the test set, whole windows; there is one more
            whenever the stop rule asks and at the end.
        stop: The stop rule; None trains to the cap.
    """

    max_updates: Count
    window: Count
    evaluate_every: Count
    stop: StopRule | None = None

    @model_validator(mode="after")
    def _whole_windows(self) -> "Schedule":
        for name in ("max_updates", "evaluate_every"):
            if getattr(self, name) % self.window:
                raise ValueError(
                    f"{name} must be whole windows of {self.window} updates, "
                    f"got {getattr(self, name)}"
                )
        return self


class Run(Record):
    """One training run: the same value gives the same bits on one machine and thread count.

    Attributes:
        task: What is learned.
        name: Cell of a table; letters, digits and dashes, for it names a folder.
        scale: Whether the protocol is the paper's own or a quick one; reports say which.
        data: What it is learned from.
        model: The net.
        dropout: Dropout inside the recurrence, distinct sites.
        optim: The optimiser.
        schedule: How long.
        seed: Start of every random stream.
    """

    task: Literal["temporal_order"] = "temporal_order"
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
    scale: Scale
    data: TemporalOrderData
    model: Model
    dropout: tuple[Dropout, ...] = ()
    optim: Annotated[Sgd | Adam, Field(discriminator="kind")]
    schedule: Schedule
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _distinct_sites(self) -> "Run":
        sites = [drop.site for drop in self.dropout]
        if len(set(sites)) < len(sites):
            raise ValueError(f"dropout takes each site once, got {sites}")
        return self


def faults(error: ValidationError) -> list[str]:
    """Every fault of a record as one line: place, what is wrong, what was given."""
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        complete = fault["type"] == "value_error" or isinstance(fault["input"], dict | Record)
        told = message if complete else f"{message}, got {fault['input']!r}"
        lines.append(f"{place}: {told}" if place else told)
    return lines


def differences(stored: Run, asked: Run) -> list[str]:
    """What differs between two runs, one line for each field."""
    old, new = _flat(stored.model_dump(mode="json")), _flat(asked.model_dump(mode="json"))
    return [
        f"{place}: stored {old.get(place)!r}, asked {new.get(place)!r}"
        for place in sorted(old.keys() | new.keys())
        if old.get(place) != new.get(place)
    ]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {place: value}
    parts = [_flat(item, f"{place}.{key}" if place else str(key)) for key, item in items]
    return {k: v for part in parts for k, v in part.items()}
