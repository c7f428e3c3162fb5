"""What a run ran on: versions, threads, processor, date."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import recdrop

DeviceName = Literal["cpu", "cuda"]


def environment(device: DeviceName = "cpu") -> dict[str, str | int]:
    """Versions, threads, processors and the date in UTC, ready for JSON.

    ``gpu`` is the card that is used; empty on a CPU.
    """
    import torch  # here, for files are read without it

    return {
        "recdrop": recdrop.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "",
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "date": now(),
    }


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
