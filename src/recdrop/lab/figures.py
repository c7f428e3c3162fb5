"""The picture of Table 1: learning curves above, test accuracy below, one column per length."""

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from recdrop.lab.paper.table1 import QUICK_NOTE, Cell, Sampling, Scheme
from recdrop.lab.report import CellReport, percent
from recdrop.lab.storage import write_whole

CHANCE = 0.25  # of four classes

# Okabe and Ito's colours, told apart with any colour vision; the marker says the scheme once more.
_STYLE: dict[Scheme, tuple[str, str, str]] = {
    "ours": ("this paper: update, Eq. 9", "#0072B2", "o"),
    "gal": ("Gal: hidden state, Eq. 7", "#E69F00", "s"),
    "moon": ("Moon et al.: memory, Eq. 8", "#D55E00", "^"),
    "moon-inverted": ("Moon et al., inverted, Eq. 18", "#7A7A7A", "D"),
}
_LINE: dict[Sampling, Any] = {"step": "-", "sequence": (0, (4, 1.6))}
_HATCH: dict[Sampling, str] = {"step": "", "sequence": "////"}
_SAMPLING: dict[Sampling, str] = {"step": "per step", "sequence": "per sequence"}
_RC: dict[Any, Any] = {
    "svg.hashsalt": "recdrop",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
}


def write_figure(folder: Path, reports: Sequence[CellReport]) -> None:
    """Write ``table1.svg`` and ``table1.png``; the same runs give the same SVG.

    Args:
        folder: The table's output folder.
        reports: From `recdrop.lab.report.gather`.

    Raises:
        StorageFailed: They cannot be written.
    """
    with mpl.rc_context(_RC):
        figure = draw(reports)
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            file = io.BytesIO()
            figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
            write_whole(folder / f"table1.{suffix}", file.getvalue())


def draw(reports: Sequence[CellReport]) -> Figure:
    """The picture.

    Args:
        reports: From `recdrop.lab.report.gather`; the paper's cells without runs are named as such,
            others are left out.
    """
    reports = [report for report in reports if report.runs or report.cell.printed] or reports
    lengths = sorted({report.cell.length for report in reports})
    figure = Figure(figsize=(5.0 * len(lengths) + 0.4, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(lengths), squeeze=False, sharey="row")
    for column, length in enumerate(lengths):
        of_length = [report for report in reports if report.cell.length == length]
        _curves(axes[0, column], of_length)
        _bars(axes[1, column], of_length)
    axes[0, 0].set_ylabel("training accuracy, masks on")
    axes[1, 0].set_ylabel("test accuracy, deterministic net")
    title = "Table 1, Temporal Order"
    if any(trained.run.scale == "quick" for report in reports for trained in report.runs):
        title += f"  ({QUICK_NOTE})"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.legend(handles=_legend(reports), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _curves(axes: Axes, reports: Sequence[CellReport]) -> None:
    for report in reports:
        _, colour, marker = _STYLE[report.cell.scheme]
        for trained in report.runs:
            if not trained.rows:
                continue
            axes.plot(
                [row.update for row in trained.rows],
                [row.train_accuracy for row in trained.rows],
                color=colour,
                linestyle=_LINE[report.cell.sampling],
                linewidth=1.4,
                marker=marker,
                markersize=4.5,
                markevery=(0.02, 0.11),  # of the diagonal: evenly along the drawn curve
                clip_on=False,
            )
    _frame(axes, f"{_span(reports[0].cell)}: learning curves")
    axes.set_xlabel("updates (logarithmic)")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _bars(axes: Axes, reports: Sequence[CellReport]) -> None:
    for place, report in enumerate(reports):
        _, colour, _ = _STYLE[report.cell.scheme]
        tested = [outcome.test_accuracy for outcome in report.outcomes]
        if tested:
            middle = statistics.median(tested)
            axes.bar(
                place,
                middle,
                width=0.72,
                color=colour,
                edgecolor="white",
                hatch=_HATCH[report.cell.sampling],
            )
            top = _free_above(middle, report.cell) + 0.015
            axes.text(place, top, percent(middle), ha="center", va="bottom", fontsize=7.5)
            if len(tested) > 1:
                axes.plot([place] * len(tested), tested, "_", color="black", markersize=7)
        else:
            axes.text(
                place, 0.03, report.status, rotation=90, ha="center", va="bottom", color="#666666"
            )
        _printed(axes, place, report.cell)
    _frame(axes, f"{_span(reports[0].cell)}: test accuracy beside the paper's")
    axes.set_xticks(range(len(reports)), [_short(report.cell) for report in reports], fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(reports) - 0.4)


def _printed(axes: Axes, place: int, cell: Cell) -> None:
    """Mark the paper's number; an arrow where it printed less than."""
    value = _value(cell)
    if value is None or cell.printed is None:
        return
    ends = [place - 0.44, place + 0.44]
    axes.plot(ends, [value, value], color="black", linewidth=1.8, zorder=3)
    if cell.printed.test.startswith("<"):
        axes.plot(place + 0.3, value - 0.025, "v", color="black", markersize=5, zorder=3)


def _value(cell: Cell) -> float | None:
    """The paper's test accuracy as a share, the bound where it printed less than."""
    return float(cell.printed.test.strip("<%")) / 100 if cell.printed else None


def _free_above(bar: float, cell: Cell) -> float:
    """The top of a bar, or of the paper's mark where that is in the way of the bar's number."""
    value = _value(cell)
    return value if value is not None and bar < value < bar + 0.09 else bar


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_ylim(0, 1.06)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.axhline(CHANCE, color="#888888", linewidth=0.9, linestyle=":")


def _legend(reports: Sequence[CellReport]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=told)
        for scheme, (told, colour, marker) in _STYLE.items()
        if any(report.cell.scheme == scheme for report in reports)
    ]
    if len(handles) % 2:
        handles.append(Line2D([], [], linestyle="none", label=" "))  # two rows: columns stay whole
    for sampling, told in _SAMPLING.items():
        handles.append(Line2D([], [], color="#444444", linestyle=_LINE[sampling], label=told))
    handles.append(Line2D([], [], color="black", linewidth=1.8, label="printed in the paper"))
    handles.append(Line2D([], [], color="#888888", linestyle=":", label="chance"))
    return handles


def _span(cell: Cell) -> str:
    name = "" if cell.span.isdecimal() else f"{cell.span.capitalize()}, "
    return f"{name}{cell.length} steps"


def _short(cell: Cell) -> str:
    scheme = {"moon-inverted": "Moon,\ninverted"}.get(cell.scheme, cell.scheme.capitalize())
    return f"{scheme}\nper\n{cell.sampling}"
