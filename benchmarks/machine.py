"""Where figures come from, and where they go: the machine, the processes, the JSON files."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recdrop.lab.environment import environment, usable_cores

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "out" / "benchmarks"  # for parts of the suite: they must not replace the whole
BUSY = 0.1  # cores; more than that in other hands is worth a warning
ISA = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "amx_tile", "asimd")


def machine() -> dict[str, Any]:
    """Processor, instruction sets, versions, threads, commit, date, and how busy it is now."""
    return environment() | {
        "instruction_sets": _instruction_sets(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "commit": _commit(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


class Watch:
    """The machine at the start of a run, and how much of it others used until the end.

    Args:
        threads: How many the run uses.
    """

    def __init__(self, threads: int) -> None:
        self.where = machine() | {"threads": threads}
        load = self.where["load_average"]
        print(f"\n{self.where['cpu']}, {threads} threads, load average {load}", flush=True)
        self._start = time.monotonic(), _busy_seconds(), _own_seconds()

    def finished(self) -> dict[str, Any]:
        """The machine, with the number of cores that other processes kept busy meanwhile.

        Measured where Linux tells; None elsewhere. With several threads one busy neighbour is
        enough to spoil a figure, as every product waits for the slowest thread.
        """
        wall, busy, own = self._start
        now = _busy_seconds()
        if busy is None or now is None:
            return self.where | {"cores_used_by_others": None}
        ours = _own_seconds() - own
        others = max(0.0, (now - busy - ours) / (time.monotonic() - wall))
        if others > BUSY:
            print(f"other processes used {others:.2f} cores meanwhile: do not trust these figures")
        return self.where | {"cores_used_by_others": others}


def thread_counts(words: list[str]) -> list[int]:
    """What ``--threads`` means: numbers, and ``all`` for every usable core; each once."""
    counts = [usable_cores() if word == "all" else int(word) for word in words]
    return list(dict.fromkeys(counts))


def in_own_processes(program: Callable[[int], None], counts: list[int]) -> None:
    """Run a program for each number of threads; for more than one, each in a fresh process.

    torch's pools keep the threads that they once had, so a second count in the same process is not
    what a user of that count gets.

    Args:
        program: Takes the number of threads, which is set before it is called.
        counts: The numbers.

    Raises:
        SystemExit: One of them failed.
    """
    if len(counts) == 1:
        _start(program, counts[0])
        return
    context = multiprocessing.get_context("spawn")
    for count in counts:
        child = context.Process(target=_start, args=(program, count))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(child.exitcode)


def save(report: dict[str, Any], path: Path) -> None:
    """Write JSON: numbers in five digits, the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_rounded(report), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"written: {path}", flush=True)


def _start(program: Callable[[int], None], count: int) -> None:
    torch.set_num_threads(count)
    program(count)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []  # not Linux
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    flags = set(next(lines, "").split())
    return [name for name in ISA if name in flags]


def _busy_seconds() -> float | None:
    """CPU time of everything on this machine, stolen time included; None if not on Linux."""
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def _commit() -> str | None:
    """The commit, + where the tree differs from it; without git COMMIT of the environment."""
    try:
        commit, changes = (
            subprocess.run(  # noqa: S603  fixed words
                ["git", *words],  # noqa: S607  whichever git the user has
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "src"))
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT")
    return commit + ("+" if changes else "")
