"""Runs small enough for tests."""

import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from recdrop.lab.config import (
    Adam,
    Dropout,
    LanguageModel,
    LanguageModelRun,
    PlateauDecay,
    Run,
    Schedule,
    Sgd,
    StopRule,
    TemporalOrderData,
    TemporalOrderModel,
    TemporalOrderRun,
    TextData,
)
from recdrop.lab.records import Result
from recdrop.lab.runs import run_cell

LOCK = "process 1 on a machine since 2026-11-29"  # of a run that was begun
DATA = TemporalOrderData(length=6, low=2, high=4, train=32, test=50, batch=8)
OURS = Dropout(rate=0.5, site="update", sampling="step", rescale="test")
GAL = Dropout(rate=0.25, site="hidden", sampling="sequence", rescale="train")
MOON = Dropout(rate=0.5, site="state", sampling="sequence", rescale="test")


def tiny_model(*dropout: Dropout, **changes: Any) -> TemporalOrderModel:
    values: dict[str, Any] = {"hidden": 5, "init_range": 0.1, "output_init_range": 0.2}
    return TemporalOrderModel(**(values | {"recurrent_dropout": dropout} | changes))


def tiny_run(**changes: Any) -> TemporalOrderRun:
    """Two epochs of four updates, a row of metrics every two; about 20 ms."""
    values: dict[str, Any] = {
        "name": "ours-step-tiny",
        "scale": "quick",
        "data": DATA,
        "model": tiny_model(OURS),
        "optim": Adam(lr=0.01, clip_norm=5.0),
        "schedule": Schedule(epochs=2, log_every=2, keep="last"),
        "seed": 3,
    }
    return TemporalOrderRun(**(values | changes))


def endless_run(**changes: Any) -> TemporalOrderRun:
    """Never ends by itself, with a row of metrics every few milliseconds."""
    schedule = Schedule(epochs=1_000_000, log_every=1, evaluate_every=1_000, keep="last")
    return tiny_run(**({"schedule": schedule} | changes))


def stopping(train_score: float, **rule: Any) -> Schedule:
    """The tiny schedule with a stop rule."""
    stop = StopRule(train_score=train_score, **rule)
    return Schedule(epochs=2, log_every=2, keep="last", stop=stop)


WORDS = ["a", "bit", "of", "text", "with", "nine", "words", "in", "it"]


def write_text(folder: Path, lines: int = 60) -> Path:
    """A folder with three texts of a few words each, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(5)
    for name, share in (("train", lines), ("valid", lines // 4), ("test", lines // 4)):
        text = [" ".join(source.choices(WORDS, k=6)) for _ in range(share)]
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def tiny_words(**changes: Any) -> LanguageModelRun:
    """Three epochs of 17 updates (of the text of 60 lines), every kind of dropout on."""
    values: dict[str, Any] = {
        "task": "word-lm",
        "name": "words",
        "data": TextData(batch=4, window=6),
        "model": LanguageModel(
            embedding=6,
            hidden=7,
            init_range=0.3,
            dropout_in=0.2,
            dropout_out=0.3,
            recurrent_dropout=(OURS, GAL),
        ),
        "optim": Sgd(lr=0.5, clip_norm=1.0, decay=PlateauDecay(divide_by=1.5)),
        "schedule": Schedule(epochs=3, log_every=5),
        "seed": 2,
    }
    return LanguageModelRun(**(values | changes))


TASKS = ("temporal-order", "word-lm", "char-lm", "ner", "sentiment")


class Given(NamedTuple):
    """A run and what it reads."""

    run: Run
    data: Path | None = None
    files: Mapping[str, Path] = MappingProxyType({})

    def train(self, folder: Path, **how: Any) -> Result:
        return run_cell(folder, self.run, self.data, files=self.files, **how)


def tiny_of(task: str, folder: Path, *, short: bool = False) -> Given:
    """A tiny run of a task, or one of few updates. The last two go through two stages."""
    from tests.lab import test_ner, test_sentiment

    if task == "temporal-order":
        return Given(tiny_run(schedule=Schedule(epochs=2 if short else 30, log_every=3)))
    if task == "ner":
        run = test_ner.tiny()
        if short:
            chunks = [{"words": 3}, {"words": 5, "after": 1}]
            data = {"batch": 64, "chunks": chunks}
            run = test_ner.tiny(data=data, schedule={"epochs": 2, "log_every": 1})
        return Given(run, test_ner.write(folder / "names"))
    if task == "sentiment":
        run = test_sentiment.tiny()
        if short:
            run = test_sentiment.tiny(data={"batch": 32}, schedule={"epochs": 2, "log_every": 1})
        weak = test_sentiment.weak_texts(folder / "weak.tsv")
        return Given(run, test_sentiment.write_texts(folder / "texts"), {"pretrain": weak})
    text = write_text(folder / "text", lines=40 if short else 200)
    data = TextData(batch=4, window=12 if short else 6)
    if task == "char-lm":
        data = TextData(symbols="characters", batch=4, window=60 if short else 24)
    epochs = Schedule(epochs=2 if short else 3, log_every=1 if short else 5)
    return Given(tiny_words(task=task, data=data, schedule=epochs), text)
