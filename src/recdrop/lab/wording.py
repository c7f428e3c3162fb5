"""Numbers of a report as text: the same words on the console, in Markdown and on the page."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from recdrop.lab.console import counted
from recdrop.lab.paper.claims import CLAIMS
from recdrop.lab.paper.grid import number
from recdrop.lab.paper.judging import AnyTable, Claim, Scores, Verdict, judge, printed_scores
from recdrop.lab.results import (
    TABLES,
    CellReport,
    Difference,
    RunReport,
    TableReport,
    deviations,
    stopped,
)

NOT_IN_THE_PAPER = "-"


class Value(NamedTuple):
    """One measure of one cell.

    Attributes:
        measured: Mean over seeds, or why there is none.
        spread: ``± sd`` where there are several seeds.
        printed: In the paper; ``-`` if it is not there.
        difference: Measured less printed, at the paper's scale only.
    """

    measured: str
    spread: str
    printed: str
    difference: str

    @property
    def whole(self) -> str:
        """Mean and spread."""
        return f"{self.measured} {self.spread}".rstrip()


class Line(NamedTuple):
    """One cell of a table.

    Attributes:
        name: The cell's.
        label: In words, within its block.
        beyond: Whether the paper has no such cell.
        run: Whether there is any score.
        values: By measure, in the table's order.
        more: Seeds, and how long it took; see `more_header`.
        remark: What a reader must know of it.
    """

    name: str
    label: str
    beyond: bool
    run: bool
    values: tuple[Value, ...]
    more: tuple[str, ...]
    remark: str


class ConsoleTable(NamedTuple):
    """A table for the console.

    Attributes:
        title: Its heading.
        header: Names of the columns.
        rows: Of the cells with runs.
        notes: What a reader has to know, most important first.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


class Judged(NamedTuple):
    """A claim with what became of it.

    Attributes:
        claim: The claim.
        printed: On the paper's own numbers.
        measured: On ours.
    """

    claim: Claim
    printed: Verdict
    measured: Verdict


def title(table: TableReport) -> str:
    """The heading of a table, with its scale where that is not the paper's."""
    scale = "" if table.scale == "paper" else f" ({table.scale} scale)"
    return f"{table.table.title}{scale}"


def more_header(table: TableReport) -> tuple[str, ...]:
    """The columns behind the scores."""
    if table.table.score == "accuracy":
        return "seeds", "updates", "updates to 99%"
    return "seeds", "best epoch"


def blocks(table: TableReport) -> dict[str, list[Line]]:
    """Every cell of the grid, by block."""
    return {block: [line(table, cell) for cell in cells] for block, cells in table.blocks().items()}


def line(table: TableReport, cell: CellReport) -> Line:
    """One cell."""
    return Line(
        name=cell.cell.name,
        label=cell.cell.label,
        beyond=cell.cell.beyond,
        run=bool(cell.finished),
        values=tuple(_value(table, cell, measure) for measure in table.table.measures),
        more=_more(table, cell),
        remark="; ".join(_remarks(table, cell)),
    )


def _value(table: TableReport, cell: CellReport, measure: str) -> Value:
    told = table.table
    printed = told.printed(cell.cell).get(measure, NOT_IN_THE_PAPER)
    mean, deviation = cell.mean(measure), cell.deviation(measure)
    if mean is None:
        return Value("-" if cell.finished else cell.status, "", printed, "")
    spread = "" if deviation is None else f"± {told.spread(deviation)}"
    difference = ""
    if table.scale == "paper" and told.score != "accuracy" and printed != NOT_IN_THE_PAPER:
        difference = _signed(table, mean - number(printed))
    return Value(told.told(mean), spread, printed, difference)


def _more(table: TableReport, cell: CellReport) -> tuple[str, ...]:
    done = [one for one in cell.runs if one.result is not None]
    if not done:
        return ("-",) * len(more_header(table))
    seeds = str(len(done))
    if table.table.score != "accuracy":
        return seeds, best_epoch(done)
    updates = _median([result.outcome.updates for result in cell.finished])
    reached = [found for one in done if (found := one.updates_to(0.99)) is not None]
    to_99 = _median(reached) if reached else "never"
    if 0 < len(reached) < len(done):
        to_99 += f", {len(reached)} of {len(done)} seeds"
    return seeds, updates, to_99


def best_epoch(done: Sequence[RunReport]) -> str:
    """Such as ``12 of 37``; of several seeds the median, the least and the most; or ``-``."""
    best, epochs = [], []
    for one in done:
        epoch = None if one.result is None else one.epoch_of(one.result.outcome.best_update)
        if one.result is not None and epoch is not None:
            best.append(epoch)
            epochs.append(one.result.outcome.epochs)
    if not best:
        return "-"
    return f"{best[0]} of {epochs[0]}" if len(best) == 1 else _median(best)


def _median(values: Sequence[int]) -> str:
    middle = f"{statistics.median(values):,.0f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):,}, {max(values):,}]"


def _remarks(table: TableReport, cell: CellReport) -> list[str]:
    told = [found for one in cell.runs if (found := stopped(table, cell.cell, one)) is not None]
    told = list(dict.fromkeys(told))
    for one in cell.runs:
        if cell.finished and one.result is None:
            told.append(f"seed {one.run.seed} {one.status}")
    if any(deviations(table, cell.cell, one) for one in cell.runs):
        told.append("other settings than the protocol's, see the notes")
    return told


def notes(table: TableReport) -> list[str]:
    """What a reader of the table has to know, most important first; the scale is told apart."""
    told = [
        f"not the protocol: {setting} ({', '.join(names)})"
        for setting, names in _deviations(table).items()
    ]
    told += list(table.table.notes)
    if table.table.score == "accuracy":
        told.append("several seeds: mean ± standard deviation; of updates median [least, most]")
    else:
        told.append("several seeds: mean ± standard deviation")
    return told


def _deviations(table: TableReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in table.cells:
        for one in cell.runs:
            for setting in deviations(table, cell.cell, one):
                names = found.setdefault(setting, [])
                names += [] if cell.cell.name in names else [cell.cell.name]
    everywhere = len([cell for cell in table.cells if cell.runs])
    return {
        setting: ["every cell"] if len(names) == everywhere > 1 else names
        for setting, names in found.items()
    }


def console_table(table: TableReport) -> ConsoleTable:
    """A table for the console: cells with runs line by line, the others in a note."""
    header = ["cell"]
    for heading in table.table.measures.values():
        header += [heading, "paper"]
    rows, idle = [], []
    for cell in table.cells:
        if not cell.runs:
            idle.append(cell.cell.name)
            continue
        told = line(table, cell)
        columns = [column for value in told.values for column in (value.whole, value.printed)]
        rows.append((told.name, *columns, *told.more, told.remark))
    remarks = any(row[-1] for row in rows)
    if not remarks:
        rows = [row[:-1] for row in rows]
    return ConsoleTable(
        title(table),
        (*header, *more_header(table), *(["remark"] if remarks else [])),
        rows,
        [
            *([table.warning] if table.warning else []),
            *([f"not run: {', '.join(idle)}"] if idle else []),
            *notes(table),
        ],
    )


def gains(table: TableReport) -> tuple[list[str], list[tuple[str, ...]]]:
    """What recurrent dropout changes, here and in the paper: headings, and a row for each cell.

    A row has the cell's name, then for each measure our difference and the paper's, then how many
    pairs of runs it rests on. Empty where no cell and its baseline were both run.
    """
    header = ["cell"]
    for heading in table.table.measures.values():
        header += [heading, "paper"]
    rows = []
    for cell in table.cells:
        found = [table.difference(cell, measure) for measure in table.table.measures]
        if not any(found):
            continue
        row, pairs = [cell.cell.name], max(one.pairs for one in found if one is not None)
        for measure, ours in zip(table.table.measures, found, strict=True):
            row += [_difference(table, ours), _printed_difference(table, cell, measure)]
        rows.append((*row, str(pairs)))
    return ([*header, "pairs"], rows) if rows else ([], [])


def _difference(table: TableReport, ours: Difference | None) -> str:
    """Such as ``+0.40 (−0.24 to +1.03)``."""
    if ours is None:
        return "-"
    told = _signed(table, ours.mean)
    if ours.reach is None:
        return told
    low, high = (_signed(table, ours.mean + reach) for reach in (-ours.reach, ours.reach))
    return f"{told} ({low} to {high})"


def _printed_difference(table: TableReport, cell: CellReport, measure: str) -> str:
    printed = printed_scores(table.table)
    both = [
        printed.get(name or "", {}).get(measure) for name in (cell.cell.name, cell.cell.baseline)
    ]
    with_it, without = both
    if with_it is None or without is None:
        return NOT_IN_THE_PAPER
    return _signed(table, with_it - without)


def _signed(table: TableReport, gap: float) -> str:
    """A difference of scores, to the table's decimals."""
    told = table.table.spread(abs(gap))
    return told if not float(told) else f"{'−' if gap < 0 else '+'}{told}"


def claims(table: TableReport) -> list[Judged]:
    """The paper's claims about a table, on its numbers and on ours."""
    return _judged(table.table, table.means())


def claims_not_run(tables: Sequence[TableReport]) -> dict[str, list[Judged]]:
    """The paper's claims about the other tables, by title, where there is any table at all."""
    there = {told.table.key for told in tables}
    others = [table for table in TABLES if there and table.key not in there]
    return {table.title: found for table in others if (found := _judged(table, None))}


def _judged(table: AnyTable, measured: Scores | None) -> list[Judged]:
    printed = printed_scores(table)
    nothing = Verdict(None, "no runs")
    return [
        Judged(
            claim,
            judge(claim, table, printed),
            nothing if measured is None else judge(claim, table, measured),
        )
        for claim in CLAIMS
        if claim.table == table.key
    ]


def other_scores(table: TableReport) -> tuple[list[str], list[tuple[str, ...]]]:
    """Scores that the table has no column for: their names, and a row for each cell with any."""
    names = sorted(
        {name for cell in table.cells for done in cell.finished for name in done.outcome.scores}
        - set(table.table.measures)
    )
    rows = [
        (cell.cell.name, *(_value(table, cell, name).whole for name in names))
        for cell in table.cells
        if cell.finished
    ]
    return (names, rows) if names else ([], [])


def environments(runs: Iterable[RunReport]) -> list[str]:
    """What the runs ran on, each place once with how many of them and when."""
    found: dict[str, list[str]] = {}
    for one in runs:
        if one.environment:
            place = ", ".join(f"{k} {v}" for k, v in one.environment.items() if v and k != "date")
            found.setdefault(place, []).append(str(one.environment.get("date", "")))
    return [f"{counted(len(dates), 'run')}{_between(dates)}: {p}" for p, dates in found.items()]


def _between(dates: Sequence[str]) -> str:
    known = sorted(date for date in dates if date)
    if not known:
        return ""
    return f", started {known[0]}" + (f" to {known[-1]}" if known[-1] != known[0] else "")


def failures(runs: Iterable[RunReport]) -> list[str]:
    """What has no result, and why, in a sentence each."""
    return [
        f"{one.place}: {one.failure.message if one.failure else _unfinished(one)}"
        for one in runs
        if one.result is None
    ]


def _unfinished(one: RunReport) -> str:
    if not one.rows:
        return "unfinished, no metrics yet"
    last = one.rows[-1]
    return f"unfinished, {last.update:,} updates so far (epoch {last.epoch})"


def run_count(runs: Sequence[RunReport]) -> str:
    """How many runs there are, and how many of them are finished."""
    return f"{counted(len(runs), 'run')}, {sum(one.result is not None for one in runs)} finished"


def seconds(runs: Iterable[RunReport]) -> float:
    """Training time of the finished runs together."""
    return sum(one.result.seconds for one in runs if one.result is not None)
