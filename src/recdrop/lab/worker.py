"""One run in a process of its own: ``python -m recdrop.lab.worker``.

The driver writes one line to standard input, ``{"directory": …, "run": …}``, and keeps the pipe
open; when it closes, however the driver ended, the worker ends too. Rows of metrics go to standard
output, one JSON object a line; what went wrong is one line on standard error and the exit code.
"""

import json
import os
import sys
import threading
from pathlib import Path

import torch

from recdrop.lab.config import Run
from recdrop.lab.errors import LabError
from recdrop.lab.runs import run_cell
from recdrop.lab.train import Row

_ORPHANED = 143  # as if the driver had stopped it


def main() -> int:
    """Run what standard input names.

    Returns:
        0, or the exit code of what went wrong.
    """
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(1)
    try:
        run = Run.model_validate_json(json.dumps(task["run"]))
        run_cell(Path(task["directory"]), run, on_row=_tell)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _tell(row: Row) -> None:
    sys.stdout.write(row.model_dump_json() + "\n")
    sys.stdout.flush()


def _end_with_driver() -> None:
    # Not sys.stdin.read(): its buffer's lock would be held when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
