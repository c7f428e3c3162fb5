"""Many runs on this machine: worker processes, each with one torch thread.

The folders are the ledger, this only places work: a finished run is left alone, an interrupted one
goes on where it stopped, so that nothing is lost whoever is killed.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from rich.console import Console

from recdrop.lab.config import Run
from recdrop.lab.environment import DeviceName
from recdrop.lab.errors import BadInput
from recdrop.lab.progress import Ledger, label, view, work
from recdrop.lab.records import Event
from recdrop.lab.runs import finished
from recdrop.lab.signals import Stopped, stop_signals
from recdrop.lab.storage import locked

_POLL = 0.2  # seconds between two looks at signals and clocks
_GRACE = 10.0  # seconds a stopped worker has for its last checkpoint before it is killed
_TRIES = 4  # of one run whose worker is killed


@dataclass(frozen=True, slots=True)
class Job:
    """A run, its folder, where its texts are, what else it reads, and on which device."""

    directory: Path
    run: Run
    data: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    device: DeviceName = "cpu"


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


def sweep(folder: Path, jobs: Sequence[Job], workers: int, console: Console) -> list[Lost]:
    """Train runs, the longest first; finished ones are not trained again.

    A run that fails does not stop the others; one whose worker is killed goes on in another worker,
    three times at most. SIGINT, SIGTERM and SIGUSR1 have every worker save and end.

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
        waiting.sort(key=lambda job: work(job.run), reverse=True)
        ledger = Ledger([job.run for job in waiting], workers)
        kept = len(jobs) - len(waiting)
        if kept:
            console.print(f"{kept} of {len(jobs)} runs were finished before", highlight=False)
        with stop_signals() as stop, view(ledger, console) as shown, _Workers(ledger) as pool:
            while (waiting or pool.running) and not stop():
                while waiting and len(pool.running) < workers:
                    pool.start(waiting.pop(0))
                waiting[:0] = pool.listen()
                shown.refresh()
        if stop.number is not None:
            done = len(jobs) - len(_unfinished(jobs))
            raise Stopped(
                stop.number,
                f"{done} of {len(jobs)} runs are finished, the others are kept as far as they "
                "have come; the same command goes on",
            )
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
        self._tries: dict[Path, int] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.running:
            with suppress(ProcessLookupError):
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
        data = None if job.data is None else str(job.data)
        run = job.run.model_dump(mode="json")
        task = {
            "directory": str(job.directory),
            "run": run,
            "data": data,
            "files": {name: str(path) for name, path in job.files.items()},
            "device": job.device,
        }
        with suppress(BrokenPipeError):  # it died at once, which `listen` finds out
            _pipe(process.stdin).write(json.dumps(task).encode() + b"\n")
            _pipe(process.stdin).flush()
        self._ledger.started(job.run)

    def listen(self) -> list[Job]:
        """Take what the workers said within a short time.

        Returns:
            Jobs whose workers were killed and that are to be given to others.
        """
        again = []
        for key, _ in self._selector.select(_POLL):
            worker: _Worker = key.data
            said = os.read(key.fd, 65_536)
            if not said:
                again += self._end(worker)
                continue
            *lines, worker.rest = (worker.rest + said).split(b"\n")
            for line in lines:
                self._take(worker, line)
        return again

    def _take(self, worker: _Worker, line: bytes) -> None:
        try:
            self._ledger.heard(worker.job.run, Event.model_validate_json(line))
        except ValidationError:
            worker.errors.write(line + b"\n")  # not ours: shown if the worker fails

    def _end(self, worker: _Worker) -> list[Job]:
        job, code = worker.job, worker.process.wait()
        tries = self._tries[job.directory] = self._tries.get(job.directory, 0) + 1
        again = code < 0 and tries < _TRIES
        if again:
            warning = f"its worker was killed by {signal.Signals(-code).name}; another goes on"
            self._ledger.heard(job.run, Event(warning=warning))
        elif code or finished(job.directory, job.run) is None:
            worker.errors.seek(0)
            said = worker.errors.read().decode(errors="replace").strip()
            self.lost.append(_lost(job, code, said))
        self._close(worker)
        if again:
            return [job]
        self._ledger.ended(job.run)
        return []

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
    if code in (2, 3, 4, 143):
        return Lost(job, code, said)
    return Lost(job, 1, f"{name}: its worker ended with exit code {code}: {last}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("a worker was started without its pipes")
    return pipe
