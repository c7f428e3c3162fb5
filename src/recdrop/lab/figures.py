"""What is drawn of a report: learning curves, and bars beside the paper's, block by block.

The same runs give the same SVG, byte for byte. Each picture is as wide as a phone, so that a page
may set several side by side or one below the other.
"""

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from recdrop.lab.drawing import COLOURS, INK, Picture, drawing, picture, sheet
from recdrop.lab.paper.figure2 import papers_curves
from recdrop.lab.paper.grid import Cell, Sampling, Scheme, number
from recdrop.lab.paper.word_nets import Cell as WordNetCell
from recdrop.lab.paper.word_nets import Net
from recdrop.lab.results import CellReport, RunReport, TableReport

CHANCE = 0.25  # of Temporal Order's four classes

_TOLD: dict[Scheme, str] = {
    "none": "no recurrent dropout",
    "moon": "Moon: state, Eq. 8",
    "gal": "Gal: hidden, Eq. 7",
    "ours": "this paper: update, Eq. 9",
    "moon-inverted": "Moon, inverted, Eq. 18",
    "ours-gal": "this paper + Gal",
}
_OF_NET: dict[Net, str] = {
    "rnn": "this paper: hidden, Eq. 2",
    "lstm": _TOLD["ours"],
    "gru": "this paper: update, Eq. 13",
}
_LINE: dict[Sampling | None, Any] = {None: ":", "step": "-", "sequence": (0, (4, 1.6))}
_MARKER: dict[float, str] = {0.5: "o"}  # of the larger rate, where both are drawn


def pictures(table: TableReport) -> list[Picture]:
    """Everything that is drawn of a table.

    Args:
        table: With runs; a block of the table that has none gets its bars only where the paper
            printed numbers.
    """
    drawn: list[Picture] = []
    with drawing():
        if _is_figure2(table):
            return _figure2(table)
        for place, (block, cells) in enumerate(table.blocks().items(), 1):
            name = f"{table.key}-{place}"
            if any(one.rows for cell in cells for one in cell.runs):
                caption = f"{_head(table)}, {_lower(block)}: learning curves"
                drawn.append(picture(f"{name}-curves", caption, _curves(table, block, cells)))
            if any(cell.runs or table.table.printed(cell.cell) for cell in cells):
                caption = f"{_head(table)}, {_lower(block)}: test, measured beside the paper's"
                drawn.append(picture(f"{name}-bars", caption, _bars(table, block, cells)))
        if table.key == "table2-paper":
            drawn += _figure2(table)
    return drawn


def curve(one: RunReport, name: str) -> Picture | None:
    """Loss of one run over its epochs; None where there is nothing to draw.

    Args:
        one: The run.
        name: Of the picture's files.
    """
    if not one.looks:
        return None
    with drawing():
        figure, axes = sheet(3.2)
        _nats(axes, [one], COLOURS["ours"], legend=True)
        axes.set(title="Learning curves", xlabel="epochs", ylabel="nats per prediction")
        axes.legend()
        return picture(name, "Loss in training, masks on, and of the deterministic net", figure)


# -------------------------------------------------------------------------------------- Figure 2


def _is_figure2(table: TableReport) -> bool:
    return table.table.key == "figure2"


def _figure2(table: TableReport) -> list[Picture]:
    """Figure 2 over the paper's, where one of its two cells has been trained."""
    papers = papers_curves()
    cells = [cell for cell in table.cells if cell.cell.name in papers]
    if not any(one.looks for cell in cells for one in cell.runs):
        return []
    figure, axes = sheet(4.4)
    for cell in cells:
        colour = COLOURS[cell.cell.scheme]
        for split, line in (("train", "-"), ("valid", "--")):
            theirs = papers[cell.cell.name][split]
            axes.plot(*theirs, line, color=colour, alpha=0.45, linewidth=0.8)
        _nats(axes, cell.runs, colour)
    axes.set(xlabel="epochs", ylabel="nats per word", ylim=(2.9, 6.1))
    _title(axes, table, "Figure 2, ours over the paper's")
    handles: list[Any] = [
        Patch(color=COLOURS[cell.cell.scheme], label=cell.cell.label) for cell in cells
    ]
    handles += [
        Line2D([], [], color=INK, linestyle="-", label="training, masks on"),
        Line2D([], [], color=INK, linestyle="--", label="validation"),
        Line2D([], [], color=INK, linewidth=2.0, label="measured"),
        Line2D([], [], color=INK, linewidth=0.8, alpha=0.45, label="the paper's"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    caption = f"{_head(table)}: learning curves without forward dropout, over the paper's Figure 2"
    return [picture(f"{table.key}-figure2", caption, figure)]


def _nats(axes: Axes, runs: Iterable[RunReport], colour: str, *, legend: bool = False) -> None:
    """Loss over epochs: training solid, looks dashed."""
    for one in runs:
        if not one.looks:
            continue
        looked = one.looks[0].split
        for split, line, width in (("train", "-", 1.2), (looked, "--", 1.8)):
            rows = [row for row in one.rows if row.split == split]
            epochs = one.epochs(rows)
            told = {"train": "training, masks on"}.get(split, f"{split}, deterministic")
            label = told if legend else None
            axes.plot(
                epochs, [row.loss for row in rows], line, color=colour, linewidth=width, label=label
            )


# ------------------------------------------------------------------------------- learning curves


def _curves(table: TableReport, block: str, cells: Sequence[CellReport]) -> Figure:
    figure, axes = sheet(4.0)
    accuracy = table.table.score == "accuracy"
    for cell in cells:
        for one in cell.runs:
            points = _of_accuracy(one) if accuracy else _of_epochs(table, one)
            _curve(axes, cell, one, points)
    if accuracy:
        _accuracy(axes)
        axes.set(xlabel="updates (logarithmic)", ylabel="training accuracy, masks on")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.tick_params(axis="x", labelsize=8)
    else:
        axes.set(xlabel="epochs", ylabel=f"validation {table.table.score}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _zoom(axes, table, cells)
    _title(axes, table, f"{_of_block(block)}: learning curves")
    figure.legend(handles=_legend(cells), loc="outside lower center", ncols=2)
    return figure


def _curve(axes: Axes, cell: CellReport, one: RunReport, points: list[tuple[float, float]]) -> None:
    colour = COLOURS[cell.cell.scheme]
    accuracy = one.run.task == "temporal-order"
    axes.plot(
        [at for at, _ in points],
        [score for _, score in points],
        color=colour,
        linestyle=_LINE[cell.cell.sampling],
        linewidth=1.3,
        marker=None if accuracy else _MARKER.get(cell.cell.rate),
        markersize=3.5,
        markevery=(0.02, 0.11),  # of the diagonal: evenly along the drawn curve
    )


def _of_accuracy(one: RunReport) -> list[tuple[float, float]]:
    return [(row.update, row.score) for row in one.rows if row.split == "train"]


def _of_epochs(table: TableReport, one: RunReport) -> list[tuple[float, float]]:
    return [(row.epoch, row.score) for row in one.looks if row.epoch > table.table.pretraining]


def _zoom(axes: Axes, table: TableReport, cells: Sequence[CellReport]) -> None:
    """Leave out the steep first epochs: what is compared happens near the best scores."""
    runs = [one for cell in cells for one in cell.runs]
    scores = [[score for _, score in _of_epochs(table, one)] for one in runs]
    if table.table.higher_is_better:
        best = [max(of_one) for of_one in scores if of_one]
        if best:
            below = [max(of_one) - statistics.median(of_one) for of_one in scores if of_one]
            room = max(0.05, 1.5 * (max(best) - min(best)), 2 * max(below))
            axes.set_ylim(max(best) - room, max(best) + 0.1 * room)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        return
    best = [min(of_one) for of_one in scores if of_one]
    if not best:
        return
    low, high = min(best), max(best)
    room = max(0.35 * low, 1.3 * (high - low)) if low > 5 else max(0.12 * low, 1.3 * (high - low))
    axes.set_ylim(low - 0.05 * room, low + room)


def _told(scheme: Scheme, cells: Sequence[CellReport]) -> str:
    """A scheme in words; of the paper's own, where in the cells' net."""
    nets: list[Net] = [one.cell.net for one in cells if isinstance(one.cell, WordNetCell)]
    return _OF_NET[nets[0]] if scheme == "ours" and nets else _TOLD[scheme]


def _legend(cells: Sequence[CellReport]) -> list[Line2D]:
    run = [cell for cell in cells if cell.runs]
    schemes = {cell.cell.scheme for cell in run}
    samplings = {cell.cell.sampling for cell in run}
    rates = {cell.cell.rate for cell in run} - {0.0}
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[scheme],
            linestyle=":" if scheme == "none" else "-",
            linewidth=1.6,
            label=_told(scheme, run),
        )
        for scheme in _TOLD
        if scheme in schemes
    ]
    handles += [
        Line2D([], [], color=INK, linestyle=line, label=f"per {sampling}")
        for sampling, line in _LINE.items()
        if sampling is not None and sampling in samplings
    ]
    if len(rates) > 1:
        handles += [
            Line2D([], [], color=INK, linewidth=0, marker=marker, markersize=3.5, label=told)
            for rate, marker in _MARKER.items()
            if rate in rates
            for told in (f"rate {rate:g}",)
        ]
    return handles


# ------------------------------------------------------------------------------------------ bars


def _bars(table: TableReport, block: str, cells: Sequence[CellReport]) -> Figure:
    """Measured above printed, a pair for each cell, under its scheme's heading."""
    measure = table.table.pictured or list(table.table.measures)[-1]
    heading = table.table.measures[measure] if table.table.pictured else measure
    schemes: list[Scheme] = list(dict.fromkeys(cell.cell.scheme for cell in cells))
    figure, axes = sheet(1.25 + 0.36 * len(cells) + 0.26 * len(schemes))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    place, ticks, labels, ends = 0.0, [], [], [0.0]
    for scheme in schemes:
        told, colour = _told(scheme, cells), COLOURS[scheme]
        axes.text(0, place, f" {told}", color=colour, weight="bold", va="center", fontsize=8.5)
        for cell in (one for one in cells if one.cell.scheme == scheme):
            place += 1.0
            ends += _pair(axes, place, table, cell, measure, colour)
            ticks.append(place)
            labels.append(_of_its_scheme(cell.cell))
        place += 0.95
    axes.set_ylim(place - 0.4, -0.5)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.14 * max(ends) or 1)
    axes.set_xlabel(f"{heading} {table.table.score}")
    if table.table.higher_is_better:
        axes.set_xlim(0, 1.14)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    _title(axes, table, f"{_of_block(block)}: {heading}")
    handles = [
        Patch(facecolor=COLOURS["none"], label="measured"),
        Patch(facecolor="none", edgecolor=INK, linewidth=0.8, label="printed in the paper"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _pair(
    axes: Axes, place: float, table: TableReport, cell: CellReport, measure: str, colour: str
) -> list[float]:
    """Both bars of a cell, each with its number; returns where they end."""
    ends = []
    mean, printed = cell.mean(measure), table.table.printed(cell.cell).get(measure)
    if mean is not None:
        several = list(cell.scores(measure).values())
        told = table.table.told(mean)
        _bar(axes, place - 0.19, mean, told, after=max(several), facecolor=colour)
        if len(several) > 1:
            axes.plot(several, [place - 0.19] * len(several), "|", color=INK, markersize=6)
        ends.append(mean)
    else:
        told = textwrap.shorten(cell.status, 30, placeholder="…")
        axes.text(
            0, place - 0.19, f" {told}", va="center", fontsize=7.5, style="italic", alpha=0.8,
            parse_math=False,  # it comes from a file
        )  # fmt: skip
    if printed is not None:
        value = number(printed)
        _bar(axes, place + 0.19, value, printed, facecolor="none", edgecolor=INK, linewidth=0.8)
        ends.append(value)
    return ends


def _bar(
    axes: Axes, place: float, value: float, told: str, *, after: float = 0.0, **style: Any
) -> None:
    """A bar with its number behind it, or behind a mark further out."""
    axes.barh(place, value, height=0.34, **style)
    axes.annotate(
        told,
        (max(value, after), place),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
    )


def _of_its_scheme(cell: Cell) -> str:
    return cell.label if isinstance(cell, WordNetCell) else cell.how


# ---------------------------------------------------------------------------------------- common


def _thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _accuracy(axes: Axes) -> None:
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.axhline(CHANCE, color=INK, linewidth=0.8, linestyle=(0, (1, 3)))


def _title(axes: Axes, table: TableReport, title: str) -> None:
    """The title, with what must be said of the scale."""
    axes.set_title(title)
    if table.warning is not None:
        told = textwrap.fill(table.warning, 70)
        axes.annotate(
            told, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points",
            fontsize=7.5, color=COLOURS["moon"], weight="bold", va="bottom",
        )  # fmt: skip
        axes.set_title(title, pad=7 + 10 * len(told.split("\n")))


def _head(table: TableReport) -> str:
    scale = "" if table.scale == "paper" else f" ({table.scale} scale)"
    return f"{table.table.title.partition(':')[0]}{scale}"


def _of_block(block: str) -> str:
    return block.partition(":")[0] if ":" not in block else "Combined schemes"


def _lower(block: str) -> str:
    return block[:1].lower() + block[1:]
