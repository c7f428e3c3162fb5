"""What lies in the run folders below a folder, sorted into the paper's tables. Never trains."""

import math
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from recdrop.lab.config import Run, Scale
from recdrop.lab.errors import BadInput, LabError
from recdrop.lab.paper import figure2, table1, table2, table3, table4, table5
from recdrop.lab.paper.grid import AnyTable, Cell
from recdrop.lab.records import Failure, Result, Row
from recdrop.lab.runs import (
    read_environment,
    read_record,
    read_rows,
    read_run,
    read_sources,
)
from recdrop.lab.settings import differences

TABLES: tuple[AnyTable, ...] = (
    table1.TABLE,
    table2.TABLE,
    figure2.TABLE,
    table3.TABLE,
    table4.TABLE,
    table5.TABLE,
)
SCALES: tuple[Scale, ...] = ("paper", "tenth", "small", "quick")


@dataclass(frozen=True, slots=True)
class Difference:
    """What recurrent dropout changes in a score, over pairs of runs with the same seed.

    Attributes:
        mean: Of score with it less score without.
        reach: Half of the mean's 95% interval (Student's t); None for fewer than two pairs.
        pairs: How many.
    """

    mean: float
    reach: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """What lies in one run folder.

    Attributes:
        place: The folder, as seen from where the reading started.
        run: What was asked.
        rows: Metrics, oldest first.
        result: What came out; None if it was not trained to the end.
        failure: Why it never will be.
        environment: What it ran on.
        sources: What it read, as its ``data.json`` says; None where that is not there.
    """

    place: str
    run: Run
    rows: list[Row]
    result: Result | None
    failure: Failure | None
    environment: dict[str, str | int] | None
    sources: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """``finished``, ``unfinished``, or what went wrong."""
        if self.result is not None:
            return "finished"
        return self.failure.kind if self.failure else "unfinished"

    @property
    def looks(self) -> list[Row]:
        """Rows of looks, each of which ends an epoch; those of stages may differ in updates."""
        return [row for row in self.rows if row.split != "train"]

    def epoch_of(self, look: int | None) -> int | None:
        """The epoch that the look after so many updates ended; None if there was none."""
        return next((row.epoch for row in self.looks if row.update == look), None)

    def epochs(self, rows: Sequence[Row]) -> list[float]:
        """Epochs that were over, in parts, at rows of a run that has looked at least once."""
        ends = [(0, 0), *((row.update, row.epoch) for row in self.looks)]
        last = ends[-1][0] - ends[-2][0], ends[-1][1] - ends[-2][1]
        ends.append((ends[-1][0] + last[0], ends[-1][1] + last[1]))  # the epoch under way
        updates, epochs = zip(*ends, strict=True)
        return np.interp([row.update for row in rows], updates, epochs).tolist()

    def updates_to(self, score: float) -> int | None:
        """Updates until a row of training metrics reached a score; None if none did."""
        trained = (row for row in self.rows if row.split == "train")
        return next((row.update for row in trained if row.score >= score), None)


@dataclass(frozen=True, slots=True)
class CellReport:
    """A cell of a grid and its runs, by seed; none at all if it was not run."""

    cell: Cell
    runs: tuple[RunReport, ...]

    @property
    def finished(self) -> list[Result]:
        """The results there are."""
        return [one.result for one in self.runs if one.result is not None]

    @property
    def status(self) -> str:
        """``finished`` if any run is, else what is known in words."""
        told = sorted({one.status for one in self.runs})
        if "finished" in told:
            return "finished"
        return ", ".join(told) if told else "not run"

    def scores(self, measure: str) -> dict[int, float]:
        """One score of every finished run that has it, by seed."""
        found = {done.seed: done.outcome.scores.get(measure) for done in self.finished}
        return {seed: score for seed, score in found.items() if score is not None}

    def mean(self, measure: str) -> float | None:
        """Mean over the finished runs; None where there is none."""
        scores = self.scores(measure)
        return statistics.fmean(scores.values()) if scores else None

    def deviation(self, measure: str) -> float | None:
        """Standard deviation over seeds (n - 1); None for fewer than two."""
        scores = self.scores(measure)
        return statistics.stdev(scores.values()) if len(scores) > 1 else None


@dataclass(frozen=True, slots=True)
class TableReport:
    """A table of the paper at one scale.

    Attributes:
        table: The table.
        scale: Of all these runs.
        cells: The whole grid.
    """

    table: AnyTable
    scale: Scale
    cells: tuple[CellReport, ...]

    @property
    def runs(self) -> list[RunReport]:
        """All of them."""
        return [one for cell in self.cells for one in cell.runs]

    @property
    def key(self) -> str:
        """Such as ``table2-tenth``: names pictures and places in the page."""
        return f"{self.table.key}-{self.scale}"

    @property
    def warning(self) -> str | None:
        """What has to be said wherever numbers of this scale are shown; None at the paper's."""
        other = f"{self.scale} scale, not the paper's protocol"
        return None if self.scale == "paper" else self.table.scales.get(self.scale, other)

    def blocks(self) -> dict[str, list[CellReport]]:
        """The cells by block of the table, in its order."""
        found: dict[str, list[CellReport]] = {}
        for cell in self.cells:
            found.setdefault(cell.cell.block, []).append(cell)
        return found

    def difference(self, one: CellReport, measure: str) -> Difference | None:
        """A cell against its baseline; None where no seed was run to the end with both."""
        base = next((each for each in self.cells if each.cell.name == one.cell.baseline), None)
        if base is None:
            return None
        with_it, without = one.scores(measure), base.scores(measure)
        found = [score - without[seed] for seed, score in with_it.items() if seed in without]
        if not found:
            return None
        pairs, reach = len(found), None
        if pairs > 1:
            quantile = float(stdtrit(pairs - 1, 0.975))  # two sides of 2.5% each
            reach = quantile * statistics.stdev(found) / math.sqrt(pairs)
        return Difference(statistics.fmean(found), reach, pairs)

    def means(self) -> dict[str, dict[str, float]]:
        """Mean scores by cell and measure, of what was run."""
        return {
            one.cell.name: {
                measure: mean
                for measure in self.table.measures
                if (mean := one.mean(measure)) is not None
            }
            for one in self.cells
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found.

    Attributes:
        tables: In the paper's order, each at each scale that was run.
        others: Runs that belong to no cell of a table.
        unread: What could not be read, each in a sentence.
    """

    tables: tuple[TableReport, ...]
    others: tuple[RunReport, ...]
    unread: tuple[str, ...]

    @property
    def runs(self) -> list[RunReport]:
        """All of them."""
        return [*(one for table in self.tables for one in table.runs), *self.others]


def gather(folder: Path) -> Report:
    """Read every run folder below a folder, itself included.

    A folder that cannot be read is told in the report and leaves the others alone.

    Args:
        folder: Any; a folder below it, or behind a link there, is a run's if it has a
            ``config.json``.

    Raises:
        BadInput: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    runs, unread = [], []
    for directory in _run_folders(folder):
        place = os.fsencode(os.path.relpath(directory, folder)).decode(errors="replace")
        try:
            runs += _read(directory, place)
        except LabError as error:
            unread.append(f"{place}: {error}")
    if not runs and not unread:
        raise BadInput(
            f"{folder}: no run in it. Expected folders with a config.json, which recdrop train and "
            "recdrop reproduce make"
        )
    return _sorted(runs, unread)


def _run_folders(folder: Path) -> Iterator[Path]:
    """Links are followed, and no folder is seen twice."""
    root = folder.resolve()
    seen = {root}
    for place, below, names in os.walk(folder, followlinks=True):
        here = Path(place)
        if "config.json" in names:
            below[:] = set(below) - {"checkpoints", "pictures", "tensorboard"}  # a run's own
            yield here
        found = {name: (here / name).resolve() for name in sorted(below)}
        below.clear()
        for name, real in found.items():
            known = (here / name).is_symlink() and real.is_relative_to(root)  # by its own name
            if real not in seen and not known:
                seen.add(real)
                below.append(name)


def _read(directory: Path, place: str) -> Iterable[RunReport]:
    run = read_run(directory)
    if run is None:
        return []
    return [
        RunReport(
            place,
            run,
            read_rows(directory),
            read_record(directory / "result.json", Result),
            read_record(directory / "failed.json", Failure),
            read_environment(directory),
            read_sources(directory),
        )
    ]


def _sorted(runs: Sequence[RunReport], unread: list[str]) -> Report:
    tables, taken = [], set()
    for table in TABLES:
        for scale in SCALES:
            found = [one for one in runs if (one.run.table, one.run.scale) == (table.key, scale)]
            if not found:
                continue
            cells = []
            for cell in table.cells([one.run for one in found]):
                mine = [one for one in found if one.run.name == cell.name]
                taken |= {one.place for one in mine}
                cells.append(CellReport(cell, _once(mine, unread)))
            if any(cell.runs for cell in cells):
                tables.append(TableReport(table, scale, tuple(cells)))
    others = tuple(one for one in runs if one.place not in taken)
    return Report(tuple(tables), others, tuple(unread))


def _once(runs: Iterable[RunReport], unread: list[str]) -> tuple[RunReport, ...]:
    """Each seed once: of several folders the first that is finished, or else the first."""
    chosen: dict[int, RunReport] = {}
    for one in sorted(runs, key=lambda one: (one.result is None, one.place)):
        if one.run.seed in chosen:
            kept = chosen[one.run.seed].place
            unread.append(f"{one.place}: left out, {kept} is the same cell with the same seed")
        else:
            chosen[one.run.seed] = one
    return tuple(chosen[seed] for seed in sorted(chosen))


def deviations(table: TableReport, cell: Cell, one: RunReport) -> list[str]:
    """How a run differs from its cell's protocol, a line for each setting and for each thing read.

    Its length aside.
    """
    return _other_sources(table, one) + [
        line.replace("stored", "protocol", 1).replace("asked", "here", 1)
        for line in differences(_protocol(table, cell, one), one.run)
        if not line.startswith("schedule.epochs:")
    ]


_READ = {"vectors": "vectors of words", "weak_labels": "weakly labelled texts"}


def _other_sources(table: TableReport, one: RunReport) -> list[str]:
    if one.sources is None:
        return []
    told = []
    for key, sha256 in table.table.reads.items():
        source = one.sources.get(key)
        found = source.get("sha256") if isinstance(source, dict) else None
        if source is None:
            told.append(f"without {_READ.get(key, key)}")
        elif sha256 not in (None, found):
            told.append(f"another {key} set than the paper's")
    return told


def stopped(table: TableReport, cell: Cell, one: RunReport) -> str | None:
    """``stopped at N updates`` where a run had fewer epochs than its protocol and used them up."""
    if one.result is None or one.result.outcome.stopped_by != "epochs":
        return None
    short = one.run.schedule.epochs < _protocol(table, cell, one).schedule.epochs
    return f"stopped at {one.result.outcome.updates:,} updates" if short else None


def _protocol(table: TableReport, cell: Cell, one: RunReport) -> Run:
    return table.table.run(cell, table.scale).model_copy(update={"seed": one.run.seed})


def summary(report: Report) -> dict[str, Any]:
    """The numbers of the tables, ready for JSON."""
    return {"tables": [_table_summary(table) for table in report.tables]}


def _table_summary(table: TableReport) -> dict[str, Any]:
    return {
        "table": table.table.key,
        "scale": table.scale,
        "warning": table.warning,
        "score": table.table.score,
        "cells": [_cell_summary(table, cell) for cell in table.cells],
    }


def _cell_summary(table: TableReport, cell: CellReport) -> dict[str, Any]:
    return {
        "name": cell.cell.name,
        "status": cell.status,
        "dropout": [drop.model_dump() for drop in cell.cell.dropout],
        "paper": dict(table.table.printed(cell.cell)),
        "mean": {measure: cell.mean(measure) for measure in table.table.measures},
        "deviation": {measure: cell.deviation(measure) for measure in table.table.measures},
        "baseline": cell.cell.baseline,
        "difference": {
            measure: asdict(found)
            for measure in table.table.measures
            if (found := table.difference(cell, measure)) is not None
        },
        "runs": [
            {
                "seed": one.run.seed,
                "status": one.status,
                "message": one.failure.message if one.failure else None,
                "result": one.result.model_dump(mode="json") if one.result else None,
            }
            for one in cell.runs
        ],
    }
