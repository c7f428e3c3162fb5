"""Runs small enough for tests."""

from typing import Any

from recdrop.lab.config import (
    Adam,
    Dropout,
    Model,
    Run,
    Schedule,
    StopRule,
    TemporalOrderData,
)
from recdrop.lab.train import Outcome

DATA = TemporalOrderData(length=6, low=2, high=4, train=32, test=50, batch=8)
OURS = Dropout(rate=0.5, site="update", sampling="step", rescale="test")
MOON = Dropout(rate=0.5, site="state", sampling="sequence", rescale="test")


def tiny_run(**changes: Any) -> Run:
    """Four windows of two updates; about 20 ms."""
    values: dict[str, Any] = {
        "name": "ours-step-tiny",
        "scale": "quick",
        "data": DATA,
        "model": Model(hidden=5, init_range=0.1, output_init_range=0.2),
        "dropout": (OURS,),
        "optim": Adam(lr=0.01, clip_norm=5.0),
        "schedule": Schedule(max_updates=8, window=2, evaluate_every=4),
        "seed": 3,
    }
    return Run(**(values | changes))


def endless_run(**changes: Any) -> Run:
    """Never ends by itself, with a row of metrics every few milliseconds."""
    schedule = Schedule(max_updates=1_000_000, window=1, evaluate_every=1_000)
    return tiny_run(**({"schedule": schedule} | changes))


def stopping(window_accuracy: float, **rule: Any) -> Schedule:
    """The tiny schedule with a stop rule."""
    stop = StopRule(train_accuracy=window_accuracy, **rule)
    return Schedule(max_updates=8, window=2, evaluate_every=4, stop=stop)


def outcome(**changes: Any) -> Outcome:
    """An outcome made by hand."""
    values: dict[str, Any] = {
        "updates": 1_000,
        "stopped_by": "rule",
        "updates_to_99": 900,
        "train_accuracy": 0.9925,
        "test_accuracy": 0.9996,
        "train_accuracy_deterministic": 1.0,
        "test_accuracy_masked": 0.99,
    }
    return Outcome(**(values | changes))
