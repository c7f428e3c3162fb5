"""Table 1 from its run folders: `table.md`, `result.json` and a picture. Never trains."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recdrop.lab.config import Run
from recdrop.lab.errors import StorageFailed
from recdrop.lab.paper.table1 import QUICK_NOTE, Cell
from recdrop.lab.progress import duration
from recdrop.lab.runs import (
    Failure,
    Result,
    read_environment,
    read_record,
    read_rows,
    run_directory,
)
from recdrop.lab.storage import write_whole
from recdrop.lab.train import Outcome, Row

HEADER = (
    "cell",
    "train",
    "paper",
    "test",
    "paper",
    "updates",
    "updates to 99%",
)


@dataclass(frozen=True, slots=True)
class Trained:
    """What lies in one run folder.

    Attributes:
        run: What was asked.
        rows: Metrics, oldest first.
        result: What came out; None if it was not trained to the end.
        failure: Why it never will be.
        environment: What it ran on.
    """

    run: Run
    rows: list[Row]
    result: Result | None
    failure: Failure | None
    environment: dict[str, str | int] | None

    @property
    def status(self) -> str:
        """``finished``, ``unfinished``, or what went wrong."""
        if self.result is not None:
            return "finished"
        return self.failure.kind if self.failure else "unfinished"


@dataclass(frozen=True, slots=True)
class CellReport:
    """A cell of the grid and its runs, by seed; none at all if it was not run."""

    cell: Cell
    runs: tuple[Trained, ...]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the finished runs."""
        return [trained.result.outcome for trained in self.runs if trained.result]

    @property
    def status(self) -> str:
        """``finished`` if any run is, else what is known in words."""
        if self.outcomes:
            return "finished"
        told = sorted({trained.status for trained in self.runs})
        return ", ".join(told) if told else "not run"


def gather(folder: Path, cells: Sequence[Cell]) -> list[CellReport]:
    """Read the run folders of a table.

    Args:
        folder: The table's output folder.
        cells: The grid; cells without a folder are reported as not run.

    Raises:
        StorageFailed: A file cannot be read or is not what it should be.
    """
    return [CellReport(cell, tuple(_runs(folder, cell))) for cell in cells]


def write_tables(folder: Path, reports: Sequence[CellReport]) -> None:
    """Write ``table.md`` and ``result.json``.

    Args:
        folder: The table's output folder.
        reports: From `gather`.

    Raises:
        StorageFailed: They cannot be written.
    """
    write_whole(folder / "table.md", markdown(reports))
    text = json.dumps(summary(reports), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "result.json", text + "\n")


def table(reports: Sequence[CellReport]) -> list[tuple[str, ...]]:
    """The table as text, a tuple of `HEADER`'s columns for each cell."""
    return [_line(report) for report in reports]


def notes(reports: Sequence[CellReport]) -> list[str]:
    """What a reader of the table has to know, most important first."""
    runs = _all_runs(reports)
    told = [QUICK_NOTE] if any(run.scale == "quick" for run in runs) else []
    if any(not run.data.collide for run in runs):
        told.append("markers never collide: not the authors' generator")
    told.append(
        "train: masks on, mean over the training batches of the last window; test: deterministic "
        "net; percentages are rounded down"
    )
    told.append("the paper prints Gal and ours in one block of columns; “-”: not in the paper")
    if any(len(report.outcomes) > 1 for report in reports):
        told.append("several seeds: median [lowest, highest]")
    return told


def markdown(reports: Sequence[CellReport]) -> str:
    """The table with its notes, the environment and the time, as Markdown."""
    lines = ["# Table 1: accuracy on Temporal Order", ""]
    quick = [note for note in notes(reports) if note == QUICK_NOTE]
    lines += [f"**{note}**\n" for note in quick]
    lines += ["| " + " | ".join(HEADER) + " |", "| :-- |" + " --: |" * (len(HEADER) - 1)]
    lines += ["| " + " | ".join(line) + " |" for line in table(reports)]
    lines += ["", *(f"- {note}" for note in notes(reports) if note != QUICK_NOTE)]
    lines += [f"- {line}" for line in _circumstances(reports)]
    lines += ["", "![Learning curves and test accuracy](table1.svg)", ""]
    return "\n".join(lines)


def summary(reports: Sequence[CellReport]) -> dict[str, Any]:
    """All numbers, ready for JSON."""
    return {
        "table": "table1",
        "scale": sorted({run.scale for run in _all_runs(reports)}),
        "notes": notes(reports),
        "cells": [_cell_summary(report) for report in reports],
        "training_seconds": _seconds(reports),
        "environments": _environments(reports),
    }


def _runs(folder: Path, cell: Cell) -> Iterable[Trained]:
    parent = run_directory(folder, cell.name, 0).parent
    names = [path.name for path in parent.glob("seed-*")] if parent.is_dir() else []
    seeds = [int(name.removeprefix("seed-")) for name in names if name[5:].isdecimal()]
    for seed in sorted(seeds):
        directory = run_directory(folder, cell.name, seed)
        run = read_record(directory / "config.json", Run)
        if run is None:
            continue  # a kill before the first file
        if (run.name, run.seed) != (cell.name, seed):
            raise StorageFailed(f"{directory}: holds {run.name}, seed {run.seed}")
        yield Trained(
            run,
            read_rows(directory),
            read_record(directory / "result.json", Result),
            read_record(directory / "failed.json", Failure),
            read_environment(directory),
        )


def _line(report: CellReport) -> tuple[str, ...]:
    printed, outcomes = report.cell.printed, report.outcomes
    paper = (printed.train, printed.test) if printed else ("-", "-")
    name = report.cell.name
    if not outcomes:
        return name, report.status, paper[0], report.status, paper[1], "-", "-"
    updates = _spread([o.updates for o in outcomes], "{:,.0f}".format)
    if all(o.stopped_by == "cap" for o in outcomes):
        updates += " (cap)"
    return (
        name,
        _spread([o.train_accuracy for o in outcomes], percent),
        paper[0],
        _spread([o.test_accuracy for o in outcomes], percent),
        paper[1],
        updates,
        _to_99(outcomes),
    )


def _to_99(outcomes: Sequence[Outcome]) -> str:
    reached = [o.updates_to_99 for o in outcomes if o.updates_to_99 is not None]
    if not reached:
        return "never"
    told = _spread(reached, "{:,.0f}".format)
    return told if len(outcomes) == 1 else f"{told}, {len(reached)} of {len(outcomes)} seeds"


def _spread(values: Sequence[float], told: Callable[[float], str]) -> str:
    middle = told(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{told(min(values))}, {told(max(values))}]"


def percent(share: float) -> str:
    """A share in percent to one decimal, rounded down: only a whole one is ``100%``."""
    return "100%" if share == 1 else f"{math.floor(share * 1000 + 1e-6) / 10:.1f}%"


def _cell_summary(report: CellReport) -> dict[str, Any]:
    cell, outcomes = report.cell, report.outcomes
    reached = [o.updates_to_99 for o in outcomes if o.updates_to_99 is not None]
    return {
        "name": cell.name,
        "status": report.status,
        "dropout": cell.dropout.model_dump(),
        "paper": {"train": cell.printed.train, "test": cell.printed.test} if cell.printed else None,
        "median": {
            "train_accuracy": _median([o.train_accuracy for o in outcomes]),
            "test_accuracy": _median([o.test_accuracy for o in outcomes]),
            "updates": _median([o.updates for o in outcomes]),
            "updates_to_99": _median(reached),
        },
        "runs": [
            {
                "seed": trained.run.seed,
                "status": trained.status,
                "message": trained.failure.message if trained.failure else None,
                **(trained.result.model_dump(exclude={"name", "seed"}) if trained.result else {}),
            }
            for trained in report.runs
        ],
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _all_runs(reports: Sequence[CellReport]) -> list[Run]:
    return [trained.run for report in reports for trained in report.runs]


def _seconds(reports: Sequence[CellReport]) -> float:
    results = [trained.result for report in reports for trained in report.runs]
    return round(sum(result.seconds for result in results if result), 3)


def _environments(reports: Sequence[CellReport]) -> list[dict[str, str | int]]:
    """Each environment once, without its date, in order of appearance."""
    found: list[dict[str, str | int]] = []
    for trained in (trained for report in reports for trained in report.runs):
        place = {k: v for k, v in (trained.environment or {}).items() if k != "date"}
        if place and place not in found:
            found.append(place)
    return found


def _circumstances(reports: Sequence[CellReport]) -> list[str]:
    told = [
        f"recdrop {e['recdrop']}, torch {e['torch']}, Python {e['python']}, {e['cpu']} "
        f"({e['cores']} cores), {e['threads']} thread(s) for each run"
        for e in _environments(reports)
    ]
    dates = sorted(
        str(trained.environment["date"])
        for report in reports
        for trained in report.runs
        if trained.environment
    )
    when = f"; started {dates[0]} to {dates[-1]}" if dates else ""
    return [*told, f"training time of all runs together: {duration(_seconds(reports))}{when}"]
