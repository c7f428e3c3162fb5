"""Many runs on this machine: worker processes, each with one torch thread."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from rich.console import Console

from recdrop.lab.config import Run
from recdrop.lab.errors import BadInput, LabError
from recdrop.lab.progress import Ledger, label, view
from recdrop.lab.runs import finished
from recdrop.lab.storage import locked
from recdrop.lab.train import Row

_POLL = 0.2  # seconds between two looks at signals and clocks
_GRACE = 3.0  # seconds a stopped worker has before it is killed


@dataclass(frozen=True, slots=True)
class Job:
    """A run and its folder."""

    directory: Path
    run: Run


@dataclass(frozen=True, slots=True)
class Lost:
    """A run that ended without a result.

    Attributes:
        job: The run.
        exit_code: Of its worker: see `recdrop.lab.errors`; 1 for a crash or a kill.
        message: What happened, one line.
    """

    job: Job
    exit_code: int
    message: str


class Stopped(LabError):
    """A signal ended the sweep; every worker is gone, every finished run is kept.

    Attributes:
        exit_code: 128 plus the signal's number.
    """

    def __init__(self, number: int, done: int, total: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}; {done} of {total} cells are finished and "
            "kept, the same command goes on with the others"
        )
        self.exit_code = 128 + number


def sweep(folder: Path, jobs: Sequence[Job], workers: int, console: Console) -> list[Lost]:
    """Train runs, the longest first; finished ones are not trained again.

    A run that fails does not stop the others. SIGINT and SIGTERM stop every worker.

    Args:
        folder: Held while the sweep goes on, so that a second driver is turned away.
        jobs: What to train, each in a folder of its own.
        workers: Processes at a time.
        console: Where progress is told.

    Returns:
        The runs that ended without a result.

    Raises:
        BadInput: A folder holds another run, or another driver holds ``folder``; all are named.
        StorageFailed: A folder cannot be read or written.
        Stopped: A signal came.
    """
    with locked(folder):
        waiting = _unfinished(jobs)
        waiting.sort(key=_longest, reverse=True)
        ledger = Ledger([job.run for job in waiting], workers)
        kept = len(jobs) - len(waiting)
        if kept:
            console.print(f"{kept} of {len(jobs)} cells were finished before", highlight=False)
        with _signals() as received, view(ledger, console) as shown, _Workers(ledger) as pool:
            while (waiting or pool.running) and not received:
                while waiting and len(pool.running) < workers:
                    pool.start(waiting.pop(0))
                pool.listen()
                shown.refresh()
        if received:
            done = len(jobs) - len(_unfinished(jobs))
            raise Stopped(received[0], done, len(jobs))
        return pool.lost


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    left, refused = [], []
    for job in jobs:
        try:
            if finished(job.directory, job.run) is None:
                left.append(job)
        except BadInput as error:
            refused.append(str(error))
    if refused:
        raise BadInput("\n".join(refused))
    return left


def _longest(job: Job) -> int:
    return job.run.schedule.max_updates * job.run.data.length


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of being ended by them."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(n, lambda number, _: received.append(number)) for n in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@dataclass(slots=True)
class _Worker:
    """A process at work on a job.

    Attributes:
        job: The job.
        process: Its standard input stays open: the worker ends when it closes.
        errors: Its standard error, a file without a name.
        rest: What came after the last whole line of its output.
    """

    job: Job
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    rest: bytes = field(default=b"")


class _Workers:
    """The processes of a sweep; none outlives the block.

    Args:
        ledger: Is told of every start, row and end.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.running: list[_Worker] = []
        self.lost: list[Lost] = []
        self._ledger = ledger
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.running:
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in list(self.running):
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
            self._close(worker)
        self._selector.close()

    def start(self, job: Job) -> None:
        """Give a job to a new process.

        It has a session of its own, so that Ctrl-C reaches the driver only, and ``-P`` keeps
        modules in the user's folder from shadowing ours.
        """
        with ExitStack() as closing:
            errors = closing.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "recdrop.lab.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            closing.pop_all()  # from here on `_close` does it
        worker = _Worker(job, process, errors)
        self.running.append(worker)
        self._selector.register(_pipe(process.stdout), selectors.EVENT_READ, worker)
        task = {"directory": str(job.directory), "run": job.run.model_dump(mode="json")}
        with suppress(BrokenPipeError):  # it died at once, which `listen` finds out
            _pipe(process.stdin).write(json.dumps(task).encode() + b"\n")
            _pipe(process.stdin).flush()
        self._ledger.started(job.run)

    def listen(self) -> None:
        """Take what the workers said within a short time."""
        for key, _ in self._selector.select(_POLL):
            worker: _Worker = key.data
            said = os.read(key.fd, 65_536)
            if not said:
                self._end(worker)
                continue
            *lines, worker.rest = (worker.rest + said).split(b"\n")
            for line in lines:
                self._take(worker, line)

    def _take(self, worker: _Worker, line: bytes) -> None:
        try:
            self._ledger.row(worker.job.run, Row.model_validate_json(line))
        except ValidationError:
            worker.errors.write(line + b"\n")  # not ours: shown if the worker fails

    def _end(self, worker: _Worker) -> None:
        code = worker.process.wait()
        if code or finished(worker.job.directory, worker.job.run) is None:
            worker.errors.seek(0)
            said = worker.errors.read().decode(errors="replace").strip()
            self.lost.append(_lost(worker.job, code, said))
        self._ledger.ended(worker.job.run)
        self._close(worker)

    def _close(self, worker: _Worker) -> None:
        worker.process.wait()
        self._selector.unregister(_pipe(worker.process.stdout))
        for pipe in (worker.process.stdin, worker.process.stdout, worker.errors):
            with suppress(BrokenPipeError):
                _pipe(pipe).close()
        self.running.remove(worker)


def _lost(job: Job, code: int, said: str) -> Lost:
    name = label(job.run)
    last = said.splitlines()[-1] if said else "it said nothing"
    if code < 0:
        return Lost(job, 1, f"{name}: its worker was killed by {signal.Signals(-code).name}")
    if code in (2, 3, 4):
        return Lost(job, code, said)
    return Lost(job, 1, f"{name}: its worker ended with exit code {code}: {last}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("a worker was started without its pipes")
    return pipe
