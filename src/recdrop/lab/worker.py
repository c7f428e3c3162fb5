"""One run in a process of its own: ``python -m recdrop.lab.worker``.

The driver writes one line to standard input, ``{"directory": …, "run": …, "data": …, "files": …,
"device": …}``, and keeps the pipe open; when it closes, however the driver ended, the worker saves
and ends too. What happens goes to standard output, one `Event` a line; what went wrong is one line
on standard error and the exit code.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from recdrop.lab.config import Run, parse_run
from recdrop.lab.errors import LabError
from recdrop.lab.records import Event, Progress, Row
from recdrop.lab.runs import Watcher, run_cell
from recdrop.lab.signals import Stopped, stop_signals, stop_with_parent
from recdrop.lab.train import Interrupted

_GRACE = 10.0  # seconds for the last checkpoint once the driver is gone
_INTERVAL = 1.0  # seconds between two events of mere progress


class _Teller(Watcher):
    """Tells the driver."""

    def __init__(self) -> None:
        self.told = 0.0

    def prepared(self, run: Run, steps: int, progress: Progress) -> None:
        self._tell(Event(steps=steps, update=progress.update))

    def updated(self, progress: Progress) -> None:
        if time.monotonic() - self.told >= _INTERVAL:
            self._tell(Event(update=progress.update))

    def row(self, row: Row) -> None:
        self._tell(Event(update=row.update, row=row))

    def warned(self, message: str) -> None:
        self._tell(Event(warning=message))

    def _tell(self, event: Event) -> None:
        self.told = time.monotonic()
        with suppress(
            OSError
        ):  # the driver is gone, but the last checkpoint is still to be written
            os.write(1, event.model_dump_json(exclude_none=True).encode() + b"\n")


def main() -> int:
    """Run what standard input names.

    Returns:
        0, or the exit code of what went wrong.
    """
    task = json.loads(_first_line())
    torch.set_num_threads(1)
    with stop_signals() as stopping:
        stop_with_parent(stopping, _GRACE)
        try:
            run, data = parse_run(json.dumps(task["run"])), task["data"]
            where = Path(task["directory"])
            files = {name: Path(path) for name, path in task["files"].items()}
            watcher = _Teller()
            run_cell(
                where,
                run,
                data and Path(data),
                files=files,
                device=task["device"],
                watcher=watcher,
                stopping=stopping,
            )
        except Interrupted as error:
            stopped = Stopped(stopping.number or 0, str(error))
            sys.stderr.write(f"{stopped}\n")
            return stopped.exit_code
        except LabError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
    return 0


def _first_line() -> bytes:
    """Up to the first line feed, and not a byte more: the rest is for `stop_with_parent`."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
