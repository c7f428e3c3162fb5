"""What the paper's tables have in common: cells, the schemes they compare, their numbers.

Labels of sources, here and in each table: P the paper (arXiv 1603.05118v2), C the authors' code
(stas-semeniuta/drop-rnn @fec39a29), ours a choice of this project.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, TypeVar, cast

from recdrop.lab.config import (
    Dropout,
    LanguageModelRun,
    NerRun,
    Run,
    Scale,
    SentimentRun,
    TemporalOrderRun,
)
from recdrop.lab.settings import changed

TableName = Literal["table1", "table2", "figure2", "table3", "table4", "table5"]
Scheme = Literal["none", "moon", "gal", "ours", "moon-inverted", "ours-gal"]
Sampling = Literal["step", "sequence"]
Site = Literal["update", "hidden", "state"]

SITES: dict[Scheme, Site] = {
    "moon": "state",  # P, Eq. 8
    "gal": "hidden",  # P, Eq. 7; one mask for all gates, as printed
    "ours": "update",  # P, Eq. 9
    "moon-inverted": "state",  # ours, Eq. 18 in place of Eq. 3
}
_SHORT: dict[Scheme, str] = {
    "none": "None",
    "moon": "Moon",
    "gal": "Gal",
    "ours": "This paper",
    "moon-inverted": "Moon, inverted",
    "ours-gal": "This paper + Gal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        name: Names the run and its folder.
        scheme: Whose dropout.
        sampling: A mask per step or per sequence; None where nothing is dropped. Of two schemes
            together, the first one's.
        rate: What part is dropped.
        block: Part of the table that it stands in, as a heading.
        dropout: The same as a layer takes it.
        beyond: Whether the paper has no such cell.
        baseline: Name of the same net without recurrent dropout; None if it is that, or has none.
    """

    name: str
    scheme: Scheme
    sampling: Sampling | None
    rate: float
    block: str
    dropout: tuple[Dropout, ...]
    beyond: bool = False
    baseline: str | None = None

    @property
    def label(self) -> str:
        """In words, within its block."""
        how = f" {self.how}" if self.sampling else ""
        return f"{_SHORT[self.scheme]}{how}"

    @property
    def how(self) -> str:
        """Rate and sampling in words."""
        return f"{self.rate:g} per {self.sampling}" if self.sampling else "rate 0"


CellT = TypeVar("CellT", bound=Cell)
RunT = TypeVar("RunT", TemporalOrderRun, LanguageModelRun, NerRun, SentimentRun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[CellT]):
    """A table or figure of the paper, as a report reads it.

    Attributes:
        key: Its name in a run.
        title: Its heading.
        score: What its numbers are.
        measures: Names of the scores that it has columns for, each with the column's heading.
        cells: The grid that some runs belong to; without any, the paper's.
        printed: The paper's own numbers of a cell by measure, letter by letter; may be empty.
        run: A cell as a run: the protocol that stored runs are held against.
        scales: What a reader must know of each scale that is not the paper's.
        pictured: The measure that the bars show; None: the last one.
        reads: What a run must have read: parts of its ``data.json``, with the SHA-256 of the
            paper's own file; None for any.
        pretraining: First epochs, whose looks are at another set and no part of the curves.
        notes: How to read it.
    """

    key: TableName
    title: str
    score: Literal["accuracy", "perplexity", "bits per character", "F1"]
    measures: Mapping[str, str]
    cells: Callable[[Sequence[Run]], tuple[CellT, ...]]
    printed: Callable[[CellT], Mapping[str, str]]
    run: Callable[[CellT, Scale], Run]
    scales: Mapping[Scale, str]
    pictured: str | None = None
    reads: Mapping[str, str | None] = field(default_factory=dict)
    pretraining: int = 0
    notes: tuple[str, ...] = ()

    def told(self, value: float) -> str:
        """A score as the table shows it."""
        if self.score == "accuracy":
            return percent(value)
        if self.score == "F1":
            return f"{100 * value:.2f}%"
        return f"{value:.1f}" if self.score == "perplexity" else f"{value:.3f}"

    def spread(self, value: float) -> str:
        """A standard deviation of scores, to the same decimals."""
        if self.score in ("accuracy", "F1"):
            return f"{value * 100:.{1 if self.score == 'accuracy' else 2}f}"
        return self.told(value)

    @property
    def higher_is_better(self) -> bool:
        """Of its scores."""
        return self.score in ("accuracy", "F1")


AnyTable = Table[Any]


def percent(share: float) -> str:
    """A share in percent to one decimal, rounded down: only a whole one is ``100%``."""
    return "100%" if share == 1 else f"{math.floor(share * 1000 + 1e-6) / 10:.1f}%"


def number(printed: str) -> float:
    """A printed number as a score; where less than it is printed, that bound."""
    bare = printed.removeprefix("<")
    return float(bare.removesuffix("%")) / 100 if bare.endswith("%") else float(bare)


def stopped(run: RunT, max_epochs: int) -> RunT:
    """A run that ends after so many epochs if its own schedule would go on.

    Raises:
        BadInput: ``max_epochs`` is below 1.
    """
    return cast(RunT, changed(run, {"schedule": {"epochs": min(max_epochs, run.schedule.epochs)}}))


def choose(cells: Sequence[CellT], patterns: Iterable[str]) -> tuple[CellT, ...]:
    """The cells that shell-style patterns name, in the grid's order.

    Args:
        cells: The grid.
        patterns: Each one or more patterns with commas between. A cell is chosen if one matches and
            none with a leading ``!`` does; only such ones, or none at all, start from every cell.

    Raises:
        ValueError: A pattern matches no cell, or none is left.
    """
    parts = [part.strip() for pattern in patterns for part in pattern.split(",")]
    parts = [part for part in parts if part]
    names = [cell.name for cell in cells]
    idle = [p for p in parts if not any(fnmatchcase(name, p.removeprefix("!")) for name in names)]
    wanted = [p for p in parts if not p.startswith("!")] or ["*"]
    refused = [p.removeprefix("!") for p in parts if p.startswith("!")]
    chosen = tuple(
        cell
        for cell in cells
        if any(fnmatchcase(cell.name, p) for p in wanted)
        and not any(fnmatchcase(cell.name, p) for p in refused)
    )
    if idle or not chosen:
        fault = f"{', '.join(idle)} matches no cell" if idle else "no cell is left"
        raise ValueError(f"{fault}; the cells are {', '.join(names)}")
    return chosen
