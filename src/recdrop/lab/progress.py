"""How far runs are: bars on a terminal, a plain line every ten seconds elsewhere."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from recdrop.lab.config import LanguageModelRun, Run, TaskName, TemporalOrderRun
from recdrop.lab.records import Event, Row

_ROWS = {"temporal-order": "sequences", "ner": "pieces", "sentiment": "texts"}
_PLAIN_INTERVAL = 10.0  # seconds between two plain lines


def own_measure(name: str) -> str | None:
    """Accuracy, precision or recall, where a score's name says so; else it is its task's."""
    found = re.search(r"_(accuracy|precision|recall)(?=_|$)", name)
    return found and found[1]


class Measure(NamedTuple):
    """What the scores of a task are.

    Attributes:
        name: Of a set's.
        training: Of a training row's.
        short: Both, where there is little room.
        is_share: Whether they are told in percent.
    """

    name: str
    training: str
    short: str
    is_share: bool

    def told(self, score: float) -> str:
        """A score in digits."""
        return f"{score:.2%}" if self.is_share else f"{score:.5g}"


MEASURES: dict[TaskName, Measure] = {
    "temporal-order": Measure("accuracy", "accuracy", "accuracy", is_share=True),
    "word-lm": Measure("perplexity", "perplexity", "perplexity", is_share=False),
    "char-lm": Measure("bits per character", "bits per character", "bits", is_share=False),
    "ner": Measure("F1", "words right", "F1 (training: words right)", is_share=True),
    "sentiment": Measure(
        "mean F1", "texts right", "mean F1 (training: texts right)", is_share=True
    ),
}


def predictions(run: Run) -> tuple[int, str]:
    """Predictions of one update, and what they are of."""
    if not isinstance(run, LanguageModelRun):
        return run.data.batch, _ROWS[run.task]
    copies = run.data.window // (run.data.stride or run.data.window)
    unit = "tokens" if run.task == "word-lm" else "characters"
    return run.data.batch * run.data.window * copies, unit


def work(run: Run) -> float:
    """About how much computing a run is, in units of its own task, if it goes to its last epoch."""
    model, data = run.model, run.data
    if isinstance(run, TemporalOrderRun):
        return run.schedule.epochs * run.data.train * run.data.length * model.hidden**2
    return run.schedule.epochs * getattr(data, "share", 1.0) * model.hidden**2


@dataclass(slots=True)
class _Part:
    """One run.

    Attributes:
        run: The run.
        work: See `work`.
        steps: Updates of an epoch, once they are known.
        first: Updates done when it was taken up.
        update: Updates done.
        started: When it was taken up, in seconds of the monotonic clock.
        ended: When it ended.
        rows: Newest row of metrics of each split.
    """

    run: Run
    work: float
    steps: int | None = None
    first: int = 0
    update: int = 0
    started: float | None = None
    ended: float | None = None
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.started is not None and self.ended is None

    @property
    def cap(self) -> int | None:
        """Updates at most."""
        return self.steps and self.steps * self.run.schedule.epochs

    @property
    def epochs(self) -> float:
        """Epochs done; those of one stage may have more updates than those of another."""
        if not self.steps:
            return 0.0
        looked = self.rows.get("valid") or self.rows.get("test")
        if looked is None:
            return self.update / self.steps
        since = (self.update - looked.update) / self.steps
        return looked.epoch + max(0.0, min(since, self.run.schedule.evaluate_every - 1e-3))

    @property
    def done(self) -> float:
        """Work done since it was taken up."""
        return self.work * (self.update - self.first) / self.cap if self.cap else 0.0

    @property
    def left(self) -> float:
        """Work left if nothing ends it early."""
        if self.ended is not None:
            return 0.0
        return self.work * max(0.0, 1 - self.epochs / self.run.schedule.epochs)

    @property
    def seconds(self) -> float:
        """Since it was taken up."""
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started


class Ledger:
    """What has been done, and how long the rest takes at most.

    Args:
        runs: All runs to be trained.
        workers: How many at a time.
    """

    def __init__(self, runs: list[Run], workers: int) -> None:
        self._parts = {_key(run): _Part(run, work(run)) for run in runs}
        self._workers = workers
        self._start = time.monotonic()
        self.warnings: list[str] = []

    def started(self, run: Run) -> None:
        """A worker took the run."""
        self._parts[_key(run)].started = time.monotonic()

    def heard(self, run: Run, event: Event) -> None:
        """Something happened to the run."""
        part = self._parts[_key(run)]
        if event.steps is not None:
            part.steps, part.first = event.steps, event.update or 0
            part.started = time.monotonic()
        if event.update is not None:
            part.update = event.update
        if event.row is not None:
            part.rows[event.row.split] = event.row
        if event.warning is not None:
            self.warnings.append(f"{label(run)}: {event.warning}")

    def ended(self, run: Run) -> None:
        """The run ended, one way or another."""
        self._parts[_key(run)].ended = time.monotonic()

    @property
    def done(self) -> int:
        """Runs that ended."""
        return sum(part.ended is not None for part in self._parts.values())

    @property
    def total(self) -> int:
        """All runs."""
        return len(self._parts)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def running(self) -> list[_Part]:
        """Runs being trained."""
        return [part for part in self._parts.values() if part.running]

    def seconds_left(self) -> float | None:
        """Seconds until the end if no run ends early; None before the first updates."""
        parts = self._parts.values()
        done = sum(part.done for part in parts)
        if not done:
            return None
        seconds = sum(part.seconds for part in parts if part.done)
        left = [part.left for part in parts]
        return max(sum(left) / self._workers, max(left, default=0.0)) * seconds / done


class PlainView:
    """A line about every ten seconds.

    Args:
        ledger: What to tell.
        console: Where.
    """

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self._ledger = ledger
        self._console = console
        self._last = ledger.elapsed

    def refresh(self) -> None:
        """Tell, if it is time."""
        _warn(self._ledger, self._console)
        if self._ledger.elapsed - self._last < _PLAIN_INTERVAL:
            return
        self._last = self._ledger.elapsed
        told = [f"{self._ledger.elapsed:.0f} s: {_overall(self._ledger)}"]
        told += [f"{label(p.run)} {', '.join(_position(p))}" for p in self._ledger.running()]
        self._console.print("; ".join(told), markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """One bar for each run at work and one for all.

    Args:
        ledger: What to show.
        progress: rich's display, started.
    """

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self._ledger = ledger
        self._progress = progress
        self._bars: dict[tuple[str, int], TaskID] = {}
        self._all = progress.add_task(
            "all runs", total=ledger.total, told="", visible=ledger.total > 1
        )

    def refresh(self) -> None:
        """Bring the bars up to date."""
        _warn(self._ledger, self._progress.console)
        running = {_key(part.run): part for part in self._ledger.running()}
        for gone in self._bars.keys() - running.keys():
            self._progress.remove_task(self._bars.pop(gone))
        for key, part in running.items():
            if key not in self._bars:
                self._bars[key] = self._progress.add_task(label(part.run), total=None, told="")
            self._progress.update(
                self._bars[key], completed=part.update, total=part.cap, told=self._told(part)
            )
        self._progress.update(self._all, completed=self._ledger.done, told=_overall(self._ledger))

    def _told(self, part: _Part) -> str:
        """Where a run is, in two lines, to fit a terminal of 80 columns beside a bar."""
        epoch, *numbers = _position(part)
        if self._ledger.total == 1:
            epoch = ", ".join(filter(None, (epoch, _overall(self._ledger))))
        return "\n".join([epoch, "; ".join(numbers)] if numbers else [epoch])


def _warn(ledger: Ledger, console: Console) -> None:
    while ledger.warnings:
        text = f"warning: {ledger.warnings.pop(0)}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def view(ledger: Ledger, console: Console) -> Iterator[PlainView | LiveView]:
    """The view that fits where the output goes."""
    if not console.is_terminal or console.is_dumb_terminal:  # where rich draws no bar
        yield PlainView(ledger, console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),  # what is left of the line
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        yield LiveView(ledger, progress)


def label(run: Run) -> str:
    """Name of a run; its seed is told where it is not the first."""
    return f"{run.name} seed {run.seed}" if run.seed else run.name


def duration(seconds: float) -> str:
    """Seconds in words of a fitting unit: ``40 s``, ``5 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _key(run: Run) -> tuple[str, int]:
    return run.name, run.seed


def _overall(ledger: Ledger) -> str:
    left = ledger.seconds_left()
    told = "" if left is None else f", at most {duration(left)} left"
    return f"{ledger.done} of {ledger.total} done{told}" if ledger.total > 1 else told[2:]


def _position(part: _Part) -> list[str]:
    """Its epoch, its speed, its scores, as far as they are known."""
    if part.steps is None:
        return ["starting"]
    epochs = part.run.schedule.epochs
    told = [f"epoch {min(int(part.epochs) + 1, epochs)} of at most {epochs:,}"]
    if part.update > part.first:
        each, unit = predictions(part.run)
        rate = each * (part.update - part.first) / part.seconds
        told.append(f"{rate:,.0f} {unit}/s")
    if part.rows:
        scores = [f"{split} {_score(part.run, row)}" for split, row in part.rows.items()]
        told.append(f"{MEASURES[part.run.task].short}: {', '.join(scores)}")
    return told


def _score(run: Run, row: Row) -> str:
    return f"{row.score:.1%}" if MEASURES[run.task].is_share else f"{row.score:.4g}"
