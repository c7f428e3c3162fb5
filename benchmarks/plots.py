"""The plots of docs/benchmarks, as SVG that is the same byte by byte for the same reports."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import part_name
from benchmarks.timing import geometric_mean

# Okabe and Ito's colour-blind-safe set.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#999999")
GREY = "#555555"
mpl.rcParams |= {"svg.hashsalt": "recdrop", "svg.fonttype": "none", "font.size": 10}

Report = dict[str, Any]


def ratios(reports: list[Report], folder: Path) -> list[Path]:
    """For each number of threads: the LSTM's ratios by case, and the other cells' below."""
    pictures = []
    for report in reports:
        cells = list(dict.fromkeys(result["cell"] for result in report["results"]))
        panels = [lstm_bars] * ("LSTM" in cells) + [other_bars] * (cells != ["LSTM"])
        size = (10, 3.6 * len(panels))
        figure, grid = plt.subplots(
            len(panels), 1, figsize=size, layout="constrained", squeeze=False
        )
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel(axes, report["results"])
        figure.suptitle(
            f"Forward + backward with recurrent dropout, torch without = 1; {_threads(report)}"
        )
        name = f"ratios-{report['machine']['threads']}.svg"
        pictures.append(_save(figure, folder / name))
    return pictures


def lstm_bars(axes: Axes, results: list[Report]) -> None:
    """A group of bars for each case, one for each scheme."""
    mine = [r for r in results if r["cell"] == "LSTM"]
    groups = {
        f"{v['site']} per {v['sampling']}": [r["variants"][at]["ratio"] for r in mine]
        for at, v in enumerate(mine[0]["variants"])
    }
    _bars(axes, [r["case"] for r in mine], groups)
    axes.set_title("LSTM", fontsize=10)
    axes.axhline(1.05, color=GREY, ls="--", lw=1, label="target, each: 1.05")
    _legend(axes)


def other_bars(axes: Axes, results: list[Report]) -> None:
    """A group of bars for each case, one for each cell: the mean over its schemes."""
    others = [r for r in results if r["cell"] != "LSTM"]
    cases = list(dict.fromkeys(r["case"] for r in others))
    groups = {
        cell: [
            geometric_mean(v["ratio"] for v in r["variants"]) for r in others if r["cell"] == cell
        ]
        for cell in dict.fromkeys(r["cell"] for r in others)
    }
    _bars(axes, cases, groups)
    axes.set_title("other cells and layouts, geometric mean over the schemes", fontsize=10)
    axes.axhline(0.85, color=GREY, ls="--", lw=1, label="target, mean: 0.85")
    _legend(axes)


def growth(reports: list[Report], folder: Path) -> list[Path]:
    """Time and ratio over each axis; a line for each number of threads."""
    if not reports:
        return []
    series = {_threads(report): report["points"] for report in reports}
    return [_growth(series, "torch", reports[0]["limit"], folder / "growth.svg")]


def gpu_growth(reports: list[Report], folder: Path) -> list[Path]:
    """For each card time and ratio over each axis; a line for each type."""
    pictures = []
    for report in reports:
        points = report["points"]
        series = {
            dtype: [p for p in points if p["dtype"] == dtype]
            for dtype in dict.fromkeys(p["dtype"] for p in points)
        }
        name = f"gpu_growth-{report['machine']['gpu'].lower().replace(' ', '-')}.svg"
        pictures.append(_growth(series, "cuDNN", report["limit"], folder / name))
    return pictures


def _growth(series: dict[str, list[Report]], other: str, limit: float, path: Path) -> Path:
    """Time on top, ratio below, one column for each axis."""
    names = list(dict.fromkeys(p["axis"] for points in series.values() for p in points))
    figure, grid = plt.subplots(
        2, len(names), figsize=(3.4 * len(names), 6), layout="constrained", squeeze=False
    )
    for column, axis in enumerate(names):
        times, quotients = grid[0][column], grid[1][column]
        for (label, every), colour in zip(
            series.items(), (COLOURS[0], COLOURS[2], COLOURS[4]), strict=False
        ):
            points = [p for p in every if p["axis"] == axis]
            sizes = [p["size"] for p in points]
            for who, line in (("ours", "o-"), ("stock", "s--")):
                ms = [p[who]["min"] * 1e3 for p in points]
                named = f"{'recdrop' if who == 'ours' else other}, {label}"
                times.plot(sizes, ms, line, color=colour, ms=4, lw=1.4, label=named)
            ratio = [p["ours"]["ratio"] for p in points]
            quotients.plot(sizes, ratio, "o-", color=colour, ms=4, lw=1.4, label=label)
        times.set_yscale("log")
        times.set_title(f"over {axis}", fontsize=10)
        quotients.axhline(limit, color=GREY, ls="--", lw=1, label="limit")
        quotients.set_ylim(bottom=0)
        for axes in (times, quotients):
            axes.set_xscale("log")
            axes.set_xlabel(axis)
            _clean(axes)
    grid[0][0].set_ylabel("ms, forward + backward")
    grid[1][0].set_ylabel(f"ratio to {other}")
    for axes in grid[:, 0]:
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle("LSTM, update site per step at 0.25; all else as in the word LM")
    return _save(figure, path)


def floor(reports: list[Report], folder: Path) -> list[Path]:
    """One stacked bar for each case and number of threads, torch's whole pass as a line on it."""
    if not reports:
        return []
    bars = [(r, report) for report in reports for r in report["results"]]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.7 * len(bars)), layout="constrained")
    labels = [
        f"{r['case']}, {_threads(report)}\n{r['measured']['update'] * 1e3:.1f} ms"
        for r, report in bars
    ]
    for at, (result, _) in enumerate(bars):
        whole, left = result["measured"]["update"], 0.0
        for (name, seconds), colour in zip(result["parts"].items(), COLOURS, strict=False):
            # A negative part (our product beat torch.mm) has no length; the table has its value.
            share = max(seconds, 0.0) / whole
            label = "" if at else part_name(name, result)
            axes.barh(at, share, left=left, color=colour, label=label, height=0.6)
            left += share
        share = result["measured"]["stock"] / whole
        label = "" if at else "torch without dropout"
        axes.plot([share, share], [at - 0.4, at + 0.4], color="black", lw=2, label=label)
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("share of forward + backward with update dropout per step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return [_save(figure, folder / "floor.svg")]


def _bars(axes: Axes, names: list[str], groups: dict[str, list[float]]) -> None:
    width = 0.8 / len(groups)
    for at, (group, colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        label, heights = group
        places = [i + (at - (len(groups) - 1) / 2) * width for i in range(len(heights))]
        axes.bar(places, heights, width, color=colour, label=label)
    axes.axhline(1, color=GREY, lw=1)
    axes.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axes.set_ylabel("ratio to torch")
    _clean(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _threads(report: Report) -> str:
    count = report["machine"]["threads"]
    return "1 thread" if count == 1 else f"{count} threads"
