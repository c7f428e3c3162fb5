"""The folder of one run: what was asked, what happened, what came out.

======================  ============================================================
``config.json``         the `Run`; once it is there, training has begun
``data.json``           names, SHA-256 and sizes of the files that it learns from
``vocabulary.json``     the symbols or words that a net knows
``vectors.safetensors`` their vectors, where such were given
``env.json``            versions, threads, processor, date of the last sitting
``metrics.jsonl``       one `Row` a line, appended as training goes
``checkpoints/``        see `recdrop.lab.checkpoint`
``result.json``         the `Result`, written last and whole: the run is finished
``failed.json``         the `Failure`, where training diverged
``lock``                held while the run is worked on
======================  ============================================================

Running a folder again goes on where it stopped, to the same bits; once it is finished it returns
what is there.
"""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import recdrop
from recdrop.lab.checkpoint import Checkpoint, Checkpoints, Damaged, Tensors
from recdrop.lab.config import Record, Run, parse_run
from recdrop.lab.environment import DeviceName, environment
from recdrop.lab.errors import BadInput, Diverged, StorageFailed
from recdrop.lab.records import Failure, Progress, Result, Row
from recdrop.lab.settings import differences, faults
from recdrop.lab.storage import is_lock, is_there, locked, make_folder, storage, write_whole
from recdrop.lab.tasks import Prepared, digests, prepare
from recdrop.lab.tasks.task import Stopping, never
from recdrop.lab.train import train
from recdrop.lab.world import World

RecordT = TypeVar("RecordT", bound=Record)

SAVE_EVERY = 60.0  # seconds: so much is lost at most


class Watcher:
    """Hears how a run goes; this one does nothing."""

    def read(self, notes: Sequence[str]) -> None:
        """The data are read, and this is to be told of them."""

    def prepared(self, run: Run, steps: int, progress: Progress) -> None:
        """Training starts or goes on; an epoch has ``steps`` updates."""

    def updated(self, progress: Progress) -> None:
        """An update is done."""

    def row(self, row: Row) -> None:
        """A row of metrics is stored."""

    def warned(self, message: str) -> None:
        """Something is not as it should be, but training goes on."""


def run_cell(
    directory: Path,
    run: Run,
    data: Path | None = None,
    *,
    files: Mapping[str, Path] = MappingProxyType({}),
    device: DeviceName = "cpu",
    watcher: Watcher | None = None,
    stopping: Stopping = never,
    save_every: float = SAVE_EVERY,
) -> Result:
    """Train a run into its folder: from the start, or on from where it stopped.

    Args:
        directory: The run's own folder; made if it is missing.
        run: What to train.
        data: Where its texts are, for tasks that read any.
        files: What else it reads; see `recdrop.lab.tasks.prepare`.
        device: Where it trains.
        watcher: Hears how it goes.
        stopping: See `recdrop.lab.train.train`; True saves and raises its `Interrupted`.
        save_every: Seconds between two checkpoints; there is one more at every new best.

    Returns:
        What it came to; in a process that only helps without the scores of evaluation.

    Raises:
        BadInput: The folder holds another run, one of other data or files that are no run's,
            another process works on it, or the device cannot be had or cannot run the net.
        Diverged: A loss or gradient was not finite; ``failed.json`` keeps the message.
        StorageFailed: Something could not be read or written.
        PeerLost: Another process of the run ended or hangs.
    """
    watcher = watcher or Watcher()
    if is_there(directory / "result.json"):  # which a disk that is full can tell too
        done = finished(directory, run)
        if done is not None:
            _check_learned_from(directory, run, data, files, watcher)
            return done
    _check_free(directory)
    with World(device) as world, locked(directory) if world.leads else nullcontext():
        done = finished(directory, run)
        if done is not None:
            return done
        prepared = prepare(run, data, files, world)
        folder = _Folder(directory, watcher, save_every) if world.leads else None
        journal = folder or _Silent()
        start = None
        if folder is not None:
            folder.describe(run, prepared, device)
            start = folder.resumed()
        if world.size > 1:
            start = _shared(start, directory, world)
        watcher.read(prepared.notes)
        progress = start.progress if start else Progress(lr=run.optim.lr)
        watcher.prepared(run, prepared.task.steps, progress)
        begun = time.monotonic() - progress.seconds
        with folder.opened(progress.log_bytes) if folder else nullcontext():
            try:
                outcome = train(run, prepared.task, journal, start, stopping=stopping, world=world)
            except Diverged as error:
                if folder:
                    folder.write("failed.json", Failure(kind="diverged", message=str(error)))
                raise
            except recdrop.BackendUnsupported as error:
                raise BadInput(f"--device {device}: {error}; --device cpu trains without") from None
        seconds = round(time.monotonic() - begun, 3)
        result = Result(name=run.name, seed=run.seed, outcome=outcome, seconds=seconds)
        if folder:
            folder.write("result.json", result)
        return result


def _check_learned_from(
    directory: Path, run: Run, data: Path | None, files: Mapping[str, Path], watcher: Watcher
) -> None:
    """Refuse other data than a finished run's; those that are gone are told.

    Raises:
        BadInput: They are others, or none of the task.
        StorageFailed: The system refused to read.
    """
    stored = read_sources(directory)
    if data is None or not stored:
        return
    gone = [str(path) for path in (data, *files.values()) if not is_there(path)]
    if gone:
        watcher.warned(f"{' and '.join(gone)}: gone, and not compared with what it learned from")
        return
    then = {part: of for part, of in _digests(stored).items() if part != "vocabulary"}
    _check_same(directory, then, digests(run, data, files))


def _digests(sources: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each part of what was read, whatever its file is called."""
    return {
        part: one["sha256"]
        for part, one in sources.items()
        if isinstance(one, dict) and "sha256" in one
    }


def _check_same(directory: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    other = [part for part in {**then, **now} if then.get(part) != now.get(part)]
    if other:
        raise BadInput(
            f"{directory / 'data.json'} does not agree with the data given now: they are other "
            f"than those the run began with ({', '.join(other)}). Give the same data, or choose "
            "another folder"
        )


def _check_free(directory: Path) -> None:
    """Refuse a folder where files of a run's names were there before any run was.

    Raises:
        BadInput: Such a file, a config.json that is no run's, or a file in the folder's place.
        StorageFailed: The system refused to read.
    """
    make_folder(directory)
    lock = read_text(directory / "lock")
    if read_run(directory) is not None or (lock is not None and is_lock(lock)):
        return
    names = (*_FILES, "metrics.jsonl", "checkpoints")
    # A run that is killed before it writes its lock leaves that, empty, and nothing else.
    for name in names if lock == "" else (*names, "lock"):
        if is_there(directory / name):
            raise BadInput(
                f"{directory / name} is there, but no run: its config.json is missing. A run would "
                "replace the file; choose another folder with --out, or move it"
            )


_FILES = (
    "config.json",
    "data.json",
    "env.json",
    "failed.json",
    "result.json",
    "vectors.safetensors",
    "vocabulary.json",
)


class _Folder:
    """The journal of a run that is worked on."""

    def __init__(self, directory: Path, watcher: Watcher, save_every: float) -> None:
        self.directory, self.watcher, self.save_every = directory, watcher, save_every
        self.metrics = directory / "metrics.jsonl"
        self.saved = time.monotonic()

    def describe(self, run: Run, prepared: Prepared, device: DeviceName) -> None:
        """Write what is known beforehand, or compare it with what is there."""
        for stale in ("failed.json", *(f"{name}.tmp" for name in _FILES)):
            with storage(self.directory / stale):
                (self.directory / stale).unlink(missing_ok=True)
        begun = read_text(self.directory / "config.json") is not None
        sources = read_sources(self.directory) if begun else None
        if sources is None:
            content = json.dumps(prepared.sources, indent=2) + "\n"
            write_whole(self.directory / "data.json", content)
        else:
            _check_same(self.directory, _digests(sources), _digests(prepared.sources))
        if prepared.vocabulary is not None:
            self._same("vocabulary.json", prepared.vocabulary, begun=begun)
        if prepared.vectors is not None:
            path = self.directory / "vectors.safetensors"
            with storage(path):
                there = path.read_bytes() if path.is_file() else None
            if there != prepared.vectors:
                write_whole(path, prepared.vectors)
        if not begun:
            self.write("config.json", run)
        write_whole(self.directory / "env.json", json.dumps(environment(device), indent=2) + "\n")

    def _same(self, name: str, content: str, *, begun: bool) -> None:
        stored = read_text(self.directory / name) if begun else None
        if stored is None:
            write_whole(self.directory / name, content)
        elif stored != content:
            raise BadInput(
                f"{self.directory / name} does not agree with the data given now: they are other "
                "files than those the run began with. Give the same data, or choose another folder"
            )

    def write(self, name: str, record: BaseModel) -> None:
        """Write a record."""
        write_whole(self.directory / name, record.model_dump_json(indent=2) + "\n")

    def resumed(self) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one."""
        self.checkpoints = Checkpoints(self.directory)
        start, told = self.checkpoints.newest(clean=True)
        if told:
            where = f"update {start.progress.update}" if start else "the beginning"
            self.watcher.warned(f"{'; '.join(told)}; going on from {where}")
        return start

    @contextmanager
    def opened(self, length: int) -> Iterator[None]:
        """Hold the log open, cut to what the checkpoint knows of it."""
        with storage(self.metrics):
            # Not buffered: what a full disk refuses would be refused once more when it is closed.
            self.file = self.metrics.open("ab", buffering=0)
        with self.file:
            with storage(self.metrics):
                there = self.metrics.stat().st_size
                if there < length:
                    raise StorageFailed(
                        f"{self.metrics}: has {there} bytes of the {length} that the checkpoint "
                        "knows of; without them the run's record would have a hole. Put them back, "
                        "or choose another folder to begin anew"
                    )
                self.file.truncate(length)
            yield

    def log(self, row: Row) -> int:
        line = row.model_dump_json().encode() + b"\n"
        with storage(self.metrics, needed=len(line)):
            if self.file.write(line) < len(line):  # cut short; the next start removes the piece
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            length = self.file.tell()
        self.watcher.row(row)
        return length

    def save(self, checkpoint: Checkpoint) -> None:
        with storage(self.metrics):
            os.fsync(self.file.fileno())
        self.checkpoints.save(checkpoint)
        self.saved = time.monotonic()

    def best(self, update: int) -> Tensors:
        try:
            return self.checkpoints.load(update).weights
        except Damaged as error:
            raise StorageFailed(f"{error}; run again to go on from an older checkpoint") from None

    def ticked(self, progress: Progress) -> bool:
        self.watcher.updated(progress)
        return time.monotonic() - self.saved >= self.save_every


class _Silent:
    """The journal of a process that only helps."""

    def log(self, row: Row) -> int:
        raise RuntimeError(f"only the leading process writes, not {row}")

    def save(self, checkpoint: Checkpoint) -> None:
        raise RuntimeError(f"only the leading process saves, not {checkpoint.progress}")

    def best(self, update: int) -> Tensors:
        raise RuntimeError(f"only the leading process reads update {update}")

    def ticked(self, progress: Progress) -> bool:
        return False


def _shared(start: Checkpoint | None, directory: Path, world: World) -> Checkpoint | None:
    """The leader's checkpoint, which the others read from the folder that all see."""
    (update,) = world.from_leader([-1 if start is None else start.progress.update])
    if update < 0 or world.leads:
        return start
    try:
        return Checkpoints(directory).load(int(update))
    except Damaged as error:
        raise StorageFailed(f"process {world.rank}: {error}") from None


def run_directory(folder: Path, name: str, seed: int) -> Path:
    """Where a run of a table lies.

    Args:
        folder: The table's output folder.
        name: The cell.
        seed: The run's seed.
    """
    return folder / "runs" / name / f"seed-{seed}"


def finished(directory: Path, run: Run) -> Result | None:
    """The stored result of a run; None if it has yet to be trained, or trained to the end.

    Raises:
        BadInput: The folder holds another run, or no run's config.json.
        StorageFailed: A file cannot be read.
    """
    stored = read_run(directory)
    if stored is None:
        return None
    told = differences(stored, run)
    if told:
        raise BadInput(
            f"{directory} holds another run; it differs in {'; '.join(told)}. "
            "Choose another folder, or remove this one"
        )
    return read_record(directory / "result.json", Result)


def read_run(directory: Path) -> Run | None:
    """What a folder was asked to train, or None where it holds no run.

    Raises:
        BadInput: The file is no run's; all faults are told.
        StorageFailed: It cannot be read.
    """
    path = directory / "config.json"
    text = read_text(path)
    try:
        return None if text is None else parse_run(text)
    except ValidationError as error:
        raise BadInput(f"{path} describes no run: {'; '.join(faults(error))}") from error


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """A stored record, or None where there is no such file.

    Raises:
        StorageFailed: It cannot be read, or is not such a record; all faults are told.
    """
    text = read_text(path)
    return None if text is None else _parsed(kind, text, str(path))


def read_rows(directory: Path) -> list[Row]:
    """The metrics of a run, whole lines only: a kill may leave half of one at the end."""
    path = directory / "metrics.jsonl"
    lines = (read_text(path) or "").split("\n")[:-1]
    return [_parsed(Row, line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def read_environment(directory: Path) -> dict[str, str | int] | None:
    """What a run ran on, or None where it was not stored."""
    return _object(directory / "env.json")


def read_sources(directory: Path) -> dict[str, Any] | None:
    """What a run read, or None where it was not stored."""
    return _object(directory / "data.json")


def _object(path: Path) -> dict[str, Any] | None:
    text = read_text(path)
    try:
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise StorageFailed(f"{path}: {error}") from error


def read_text(path: Path) -> str | None:
    """A small text file, or None where there is none.

    Raises:
        StorageFailed: It cannot be read.
    """
    with storage(path):
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None


def _parsed(kind: type[RecordT], text: str, place: str) -> RecordT:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise StorageFailed(f"{place}: {'; '.join(faults(error))}") from error
