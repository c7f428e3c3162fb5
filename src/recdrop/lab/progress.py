"""How far a sweep is: bars on a terminal, a plain line every ten seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from recdrop.lab.config import Run
from recdrop.lab.train import Row

_PLAIN_INTERVAL = 10.0  # seconds between two plain lines


@dataclass(slots=True)
class _Part:
    """One run of a sweep.

    Attributes:
        run: The run.
        started: When its first row of metrics was awaited, in seconds of the monotonic clock.
        ended: When it ended.
        row: Its newest metrics.
    """

    run: Run
    started: float | None = None
    ended: float | None = None
    row: Row | None = None

    @property
    def running(self) -> bool:
        return self.started is not None and self.ended is None

    @property
    def steps_left(self) -> int:
        """Time steps of a sequence still to be computed if nothing stops it before its cap."""
        if self.ended is not None:
            return 0
        done = self.row.update if self.row else 0
        return (self.run.schedule.max_updates - done) * self.run.data.length


class Ledger:
    """What a sweep has done, and how long the rest takes at most.

    Args:
        runs: All runs to be trained.
        workers: How many at a time.
    """

    def __init__(self, runs: list[Run], workers: int) -> None:
        self._parts = {_key(run): _Part(run) for run in runs}
        self._workers = workers
        self._start = time.monotonic()

    def started(self, run: Run) -> None:
        """A worker took the run."""
        self._parts[_key(run)].started = time.monotonic()

    def row(self, run: Run, row: Row) -> None:
        """The run came so far."""
        self._parts[_key(run)].row = row

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

    def running(self) -> list[tuple[Run, Row | None]]:
        """Runs being trained, with their newest metrics."""
        return [(part.run, part.row) for part in self._parts.values() if part.running]

    def seconds_left(self) -> float | None:
        """Seconds until the end if every run goes to its cap; None before the first metrics.

        Seconds per step of a sequence are those measured so far, so that a run of another length
        can be judged too.
        """
        now = time.monotonic()
        seconds = steps = 0.0
        for part in self._parts.values():
            if part.started is not None and part.row is not None:
                seconds += (part.ended or now) - part.started
                steps += part.row.update * part.run.data.length
        if not steps:
            return None
        left = [part.steps_left for part in self._parts.values()]
        return max(sum(left) / self._workers, max(left, default=0)) * seconds / steps


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
        if self._ledger.elapsed - self._last < _PLAIN_INTERVAL:
            return
        self._last = self._ledger.elapsed
        told = [f"{self._ledger.elapsed:.0f} s: {_overall(self._ledger)}"]
        told += [f"{label(run)} {_position(run, row)}" for run, row in self._ledger.running()]
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
        self._all = progress.add_task("all cells", total=ledger.total, told="")

    def refresh(self) -> None:
        """Bring the bars up to date."""
        running = {_key(run): (run, row) for run, row in self._ledger.running()}
        for gone in self._bars.keys() - running.keys():
            self._progress.remove_task(self._bars.pop(gone))
        for key, (run, row) in running.items():
            if key not in self._bars:
                total = run.schedule.max_updates
                self._bars[key] = self._progress.add_task(label(run), total=total, told="")
            done = row.update if row else 0
            told = _position(run, row)
            self._progress.update(self._bars[key], completed=done, told=told)
        self._progress.update(self._all, completed=self._ledger.done, told=_overall(self._ledger))


@contextmanager
def view(ledger: Ledger, console: Console) -> Iterator[PlainView | LiveView]:
    """The view that fits where the output goes."""
    if not console.is_terminal:
        yield PlainView(ledger, console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
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
    return f"{ledger.done} of {ledger.total} done{told}"


def _position(run: Run, row: Row | None) -> str:
    if row is None:
        return "starting"
    cap = run.schedule.max_updates
    return f"{row.update:,} of at most {cap:,} updates, {row.train_accuracy:.0%} right"
