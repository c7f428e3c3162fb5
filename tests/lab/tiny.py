"""Runs small enough for tests."""

import random
from pathlib import Path
from typing import Any

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


def tiny_of(task: str, folder: Path) -> tuple[Run, Path | None]:
    """A tiny run of a task, and its data. The last two go through two stages."""
    from tests.lab import test_ner, test_sentiment

    if task == "temporal-order":
        return tiny_run(schedule=Schedule(epochs=30, log_every=3)), None
    if task == "ner":
        return test_ner.tiny(), test_ner.write(folder / "names")
    if task == "sentiment":
        return test_sentiment.tiny(), test_sentiment.write_texts(folder / "texts")
    symbols = "words" if task == "word-lm" else "characters"
    data = TextData(symbols=symbols, batch=4, window=6 if task == "word-lm" else 24)
    return tiny_words(task=task, data=data), write_text(folder / "text", lines=200)
