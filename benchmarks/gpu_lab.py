"""What a card is for: an epoch of Table 2's word model, and a sweep whose workers share the card.

``python -m benchmarks.gpu_lab --data PTB_FOLDER`` trains through the lab as ``recdrop reproduce
table2 --scale paper`` does, and writes ``benchmarks/results/gpu_lab-<card>.json``:

- an epoch with this paper's dropout and without any recurrent one, in seconds, and the perplexity
  of the validation text after it; ``--cpu`` times one on the CPU as well;
- a few cells, with 1, 2, 4 and 8 workers at a time: how many epochs of a cell they end per second,
  once all are at work.

``--trial`` runs the program's path on the CPU, on a toy text.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.cases import slug
from benchmarks.gpu_card import NO_DEVICE, Card, nvidia_smi
from benchmarks.machine import RESULTS, SCRATCH, save
from recdrop.lab.config import LanguageModelRun, Run
from recdrop.lab.console import console
from recdrop.lab.environment import DeviceName
from recdrop.lab.errors import LabError
from recdrop.lab.paper import table2
from recdrop.lab.paper.grid import choose
from recdrop.lab.records import Progress, Row
from recdrop.lab.runs import Watcher, finished, read_sources, run_cell, run_directory
from recdrop.lab.sweep import Job, sweep
from recdrop.lab.text import corpus_files

EPOCH_CELLS = ("none-forward", "ours-step-25-forward")
SWEPT = ("ours-*", "!ours-gal-*")  # eight that cost the same
WORKERS = (1, 2, 4, 8)
EPOCHS = 2  # the first one compiles


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Raises:
        SystemExit: There is no CUDA device or no text, or a run failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_lab", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with Mikolov's Penn Treebank")
    parser.add_argument("--device", choices=get_args(DeviceName), default="cuda")
    parser.add_argument("--cpu", action="store_true", help="an epoch on the CPU as well")
    parser.add_argument("--workers", type=int, nargs="+", help="at a time; default: 1 2 4 8")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each run")
    parser.add_argument("--results", type=Path, help="folder for the JSON file")
    parser.add_argument("--trial", action="store_true", help="the path only, on the CPU")
    args = parser.parse_args(argv)
    if args.trial:
        args.device, args.workers = "cpu", args.workers or [1, 2]
    elif args.data is None:
        raise SystemExit("--data is missing: a folder with Mikolov's files of the Penn Treebank")
    elif args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(NO_DEVICE)
    args.workers = args.workers or list(WORKERS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _measure(args, Path(folder))
    except LabError as error:
        raise SystemExit(str(error)) from None


def _measure(args: argparse.Namespace, folder: Path) -> None:
    toy = toy_text(folder / "toy")
    data: Path = toy if args.trial else args.data
    corpus_files(data, "word-lm")  # all of them are there, or it is told at once
    on_card = args.device == "cuda"
    card = Card(trial=not on_card)
    name = card.name if on_card or args.trial else "cpu"
    chosen = [cell.name for cell in choose(table2.cells(), SWEPT)][: 2 if args.trial else None]
    report: dict[str, Any] = {
        "machine": card.described() | {"gpu": name, "mps": _mps()},
        "settings": {"epochs": args.epochs, "swept": chosen, "device": args.device},
        "sources": {},
        "epochs": [],
        "sweeps": [],
    }
    whole = on_card and args.workers == list(WORKERS) and args.epochs == EPOCHS
    path = (args.results or (RESULTS if whole else SCRATCH)) / f"gpu_lab-{slug(name)}.json"
    devices: list[DeviceName] = [args.device, *(["cpu"] if args.cpu and on_card else [])]
    for device in devices:
        for cell in EPOCH_CELLS:
            where = folder / "epochs" / device / cell
            report["epochs"].append(epoch(where, data, cell, args.epochs, device))
            report["sources"] = read_sources(where)
            save(report, path)
    if on_card:  # kernels are compiled and kept, for all that are timed
        swept(folder / "warm", toy, chosen, max(args.workers), 1, args.device)
    for workers in args.workers:
        where = folder / f"workers-{workers}"
        found = swept(where, data, chosen, workers, args.epochs, args.device)
        report["sweeps"].append(found | {"clocks": nvidia_smi() if on_card else None})
        first = report["sweeps"][0]
        print(
            f"{workers} at a time: {found['rate']:.3g} epochs of a cell per second, "
            f"{found['rate'] / first['rate']:.2f} times those of {first['workers']}",
            flush=True,
        )
        save(report, path)
    report["table2"] = whole_table(max(found["rate"] for found in report["sweeps"]))
    save(report, path)
    print(
        f"At the best of these the {report['table2']['cells']} cells of Table 2 take "
        f"{report['table2']['hours_at_most']:.3g} hours, or less where the learning rate ends them"
    )


class Stopwatch(Watcher):
    """Hears when epochs begin and end.

    Args:
        clock: Tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun, self._trained = 0.0, 0.0
        self.steps = 0
        self.epochs: list[dict[str, float]] = []

    def prepared(self, run: Run, steps: int, progress: Progress) -> None:
        """Training starts."""
        self._begun, self.steps = self._clock(), steps

    def row(self, row: Row) -> None:
        """The last training row before a look is the end of the epoch's updates."""
        now = self._clock()
        if row.split == "train":
            self._trained = now
            return
        self.epochs.append(
            {
                "train": self._trained - self._begun,
                "look": now - self._trained,
                "perplexity": row.score,
            }
        )
        self._begun = now


def epoch(folder: Path, data: Path, cell: str, epochs: int, device: DeviceName) -> dict[str, Any]:
    """Seconds of each epoch of a cell: its updates, and the look at the validation text."""
    run, watch = _run(cell, epochs), Stopwatch()
    run_cell(folder, run, data, device=device, watcher=watch)
    last = watch.epochs[-1]
    print(
        f"{cell} on {device}: an epoch {last['train']:.2f} s, the first one "
        f"{watch.epochs[0]['train']:.2f} s, {watch.steps / last['train']:.1f} updates per second; "
        f"validation {last['look']:.2f} s, perplexity {last['perplexity']:.1f} after {epochs}",
        flush=True,
    )
    return {
        "cell": cell,
        "device": device,
        "threads": torch.get_num_threads(),
        "updates": watch.steps,
        "words_per_update": run.data.batch * run.data.window,
        "epochs": watch.epochs,
        "clocks": nvidia_smi() if device == "cuda" else None,
    }


def swept(
    folder: Path, data: Path, cells: Sequence[str], workers: int, epochs: int, device: DeviceName
) -> dict[str, Any]:
    """Train some cells, so many at a time, and tell how many epochs all of them end per second.

    Raises:
        SystemExit: A run failed.
    """
    runs = [_run(cell, epochs) for cell in cells]
    jobs = [
        Job(run_directory(folder, run.name, run.seed), run, data, device=device) for run in runs
    ]
    folder.mkdir(parents=True)
    start = time.monotonic()
    lost = sweep(folder, jobs, workers, console())
    seconds = time.monotonic() - start
    if lost:
        raise SystemExit("\n".join(one.message for one in lost))
    results = [result for job in jobs if (result := finished(job.directory, job.run))]
    ended = sum(result.outcome.epochs for result in results)
    each = sum(result.seconds for result in results) / ended
    return {
        "workers": workers,
        "cells": len(results),
        "epochs": ended,
        "seconds": seconds,
        # While all are at work: a worker's start, which so few epochs do not outweigh, is left out.
        "rate": min(workers, len(results)) / each,
        "epoch_of_a_cell": each,
    }


def whole_table(rate: float) -> dict[str, float]:
    """What all of Table 2 takes at so many epochs of a cell per second, if no cell ends early."""
    cells = table2.cells()
    epochs = sum(table2.run(cell, "paper").schedule.epochs for cell in cells)
    return {"cells": len(cells), "epochs": epochs, "hours_at_most": epochs / rate / 3600}


def toy_text(folder: Path) -> Path:
    """A folder with three texts of random words, of a few updates; always the same."""
    folder.mkdir(parents=True)
    source, words = random.Random(0), [f"w{n}" for n in range(50)]  # noqa: S311  no secret
    for name, lines in (("train", 250), ("valid", 130), ("test", 130)):
        text = "".join(" ".join(source.choices(words, k=9)) + "\n" for _ in range(lines))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def _run(cell: str, epochs: int) -> LanguageModelRun:
    (found,) = choose(table2.cells(), [cell])
    return table2.run(found, "paper", max_epochs=epochs)


def _mps() -> bool:
    """Whether NVIDIA's Multi-Process Service seems to run, through which processes share a card."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108  its own
    return (Path(pipes) / "control").exists()


if __name__ == "__main__":
    main()
