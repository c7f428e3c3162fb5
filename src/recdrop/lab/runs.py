"""The folder of one run: what was asked, what happened, what came out.

======================  ============================================================
``config.json``         the `Run`, written first
``env.json``            versions, threads, processor, date
``metrics.jsonl``       one `Row` a line, appended as training goes
``result.json``         the `Result`, written last and whole: the run is finished
``failed.json``         the `Failure`, where training diverged
``lock``                held while the run is worked on
======================  ============================================================
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from recdrop.lab.config import Record, Run, differences, faults
from recdrop.lab.environment import environment
from recdrop.lab.errors import BadInput, Diverged, StorageFailed
from recdrop.lab.storage import locked, storage, write_whole
from recdrop.lab.train import Outcome, Row, train

RecordT = TypeVar("RecordT", bound=Record)


class Result(Record):
    """What a finished run came to.

    Attributes:
        name: The run's.
        seed: The run's.
        outcome: Accuracies and updates.
        seconds: Time it took, wall clock.
    """

    name: str
    seed: int
    outcome: Outcome
    seconds: float


class Failure(Record):
    """Why a run has no result and never will.

    Attributes:
        kind: What happened.
        message: In words, with run and update.
    """

    kind: str
    message: str


def run_cell(directory: Path, run: Run, on_row: Callable[[Row], None] | None = None) -> Result:
    """Train a run into its folder, once.

    A finished run is not trained again: its stored result is returned. An unfinished one starts
    over from the beginning and its old metrics are discarded; exact resumption needs checkpoints,
    which this version does not write.

    Args:
        directory: The run's own folder; made if it is missing.
        run: What to train.
        on_row: Called with each row of metrics once it is stored.

    Raises:
        BadInput: The folder holds another run, or another process works on it.
        Diverged: A loss or gradient was not finite; ``failed.json`` keeps the message.
        StorageFailed: Something could not be read or written.
    """
    with locked(directory):
        done = finished(directory, run)
        if done is not None:
            return done
        for stale in ("metrics.jsonl", "failed.json", *_temporary(directory)):
            with storage(directory / stale):
                (directory / stale).unlink(missing_ok=True)
        write_whole(directory / "config.json", _json(run))
        write_whole(directory / "env.json", json.dumps(environment(), indent=2) + "\n")
        start = time.monotonic()
        try:
            outcome = _recorded(directory / "metrics.jsonl", run, on_row)
        except Diverged as error:
            failure = Failure(kind="diverged", message=str(error))
            write_whole(directory / "failed.json", _json(failure))
            raise
        seconds = round(time.monotonic() - start, 3)
        result = Result(name=run.name, seed=run.seed, outcome=outcome, seconds=seconds)
        write_whole(directory / "result.json", _json(result))
        return result


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
        BadInput: The folder holds another run.
        StorageFailed: A file cannot be read.
    """
    stored = read_record(directory / "config.json", Run)
    if stored is None:
        return None
    told = differences(stored, run)
    if told:
        raise BadInput(
            f"{directory} holds another run; it differs in {'; '.join(told)}. "
            "Choose another folder, or remove this one"
        )
    return read_record(directory / "result.json", Result)


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """A stored record, or None where there is no such file.

    Raises:
        StorageFailed: It cannot be read, or is not such a record; all faults are told.
    """
    text = _text(path)
    return None if text is None else _parsed(kind, text, str(path))


def read_rows(directory: Path) -> list[Row]:
    """The metrics of a run, whole lines only: a kill may leave half of one at the end."""
    path = directory / "metrics.jsonl"
    lines = (_text(path) or "").split("\n")[:-1]
    return [_parsed(Row, line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def read_environment(directory: Path) -> dict[str, str | int] | None:
    """What a run ran on, or None where it was not stored."""
    path = directory / "env.json"
    text = _text(path)
    try:
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise StorageFailed(f"{path}: {error}") from error


def _recorded(path: Path, run: Run, on_row: Callable[[Row], None] | None) -> Outcome:
    with storage(path):
        file = path.open("a", encoding="utf-8")

    def record(row: Row) -> None:
        with storage(path):
            file.write(row.model_dump_json() + "\n")
            file.flush()
        if on_row is not None:
            on_row(row)

    with storage(path), file:
        return train(run, record)


def _text(path: Path) -> str | None:
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


def _json(record: BaseModel) -> str:
    return record.model_dump_json(indent=2) + "\n"


def _temporary(directory: Path) -> list[str]:
    with storage(directory):
        return [path.name for path in directory.glob("*.tmp")]
