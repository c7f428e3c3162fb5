"""The grid that Tables 2 and 3 share: schemes, samplings, rates, with and without forward dropout.

Sources are labelled as in `recdrop.lab.paper.grid`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from recdrop.lab.config import Dropout, LanguageModelRun
from recdrop.lab.paper import grid
from recdrop.lab.paper.grid import SITES, Sampling, Scheme, stopped
from recdrop.lab.settings import changed

RATES = (0.25, 0.5)  # P
SAMPLINGS: tuple[Sampling, ...] = ("step", "sequence")  # P
SCHEMES: tuple[Scheme, ...] = ("moon", "gal", "ours")  # P, in the order of the columns
FORWARD = {True: (0.2, 0.5), False: (0.0, 0.0)}  # P, of the embedding and the output; inverted (C)
BLOCKS = {False: "Without forward dropout", True: "With forward dropout"}
COMBINED = "With forward dropout: schemes combined (ours, not in the paper)"
TENTH_NOTE = "tenth scale: trained on the first tenth of the text, not the paper's protocol"

# Ours. The paper calls its scheme and Gal's complementary but never joins them. Gal's masks are per
# sequence, as Gal's are; the rates are the paper's smaller one, and less where two schemes and
# forward dropout may be too much noise.
_COMBINATIONS: tuple[tuple[Sampling, float], ...] = (
    ("step", 0.25),
    ("sequence", 0.25),
    ("step", 0.1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(grid.Cell):
    """One cell of the grid.

    Attributes:
        forward: Whether forward dropout is on.
    """

    forward: bool


def cells() -> tuple[Cell, ...]:
    """The paper's 26 cells, a baseline first in each half, then combined schemes."""
    found: list[Cell] = []
    for forward in (False, True):
        found.append(_cell("none", None, 0.0, forward))
        for scheme, sampling, rate in itertools.product(SCHEMES, SAMPLINGS, RATES):
            found.append(_cell(scheme, sampling, rate, forward))
    return (*found, *(_cell("ours-gal", *how, True) for how in _COMBINATIONS))


def _cell(scheme: Scheme, sampling: Sampling | None, rate: float, forward: bool) -> Cell:
    combined = scheme == "ours-gal"
    parts = [scheme, *([sampling, f"{100 * rate:g}"] if sampling else [])]
    return Cell(
        name="-".join(parts + ["forward"] * forward),
        scheme=scheme,
        sampling=sampling,
        rate=rate,
        block=COMBINED if combined else BLOCKS[forward],
        dropout=_dropout(scheme, sampling, rate),
        beyond=combined,
        baseline=None if scheme == "none" else "none" + "-forward" * forward,
        forward=forward,
    )


def _dropout(scheme: Scheme, sampling: Sampling | None, rate: float) -> tuple[Dropout, ...]:
    """Recurrent dropout, scaled by Eq. 3 throughout (P, C); a sequence is a window (C)."""
    if sampling is None:
        return ()
    if scheme == "ours-gal":
        return (*_dropout("ours", sampling, rate), *_dropout("gal", "sequence", rate))
    return (Dropout(rate=rate, site=SITES[scheme], sampling=sampling, rescale="test"),)


def printed(rows: str) -> dict[str, dict[str, str]]:
    """The paper's numbers by cell.

    Args:
        rows: The paper's table as lines: what, then valid and test of Moon, Gal and ours. A
            baseline is the same for all three.
    """
    numbers: dict[str, dict[str, str]] = {}
    for row in rows.split("\n"):
        what, *values = row.split() or [""]
        for scheme, valid, test in zip(SCHEMES, values[::2], values[1::2], strict=False):
            name = what if what.startswith("none") else f"{scheme}-{what}"
            numbers[name] = {"valid": valid, "test": test}
    return numbers


def scaled(
    run: LanguageModelRun, patience: int = 5, max_epochs: int | None = None
) -> LanguageModelRun:
    """A run of the paper's protocol at its own scale: ``tenth`` takes the first tenth of the text.

    Args:
        run: The run under the paper's protocol, but for its scale.
        patience: Epochs without a new best that end a run at ``tenth`` scale.
        max_epochs: Stop here even if the protocol goes on; reports say so.

    Raises:
        ValueError: There is no such scale.
    """
    if run.scale not in ("paper", "tenth"):
        raise ValueError(f"{run.table} has the scales paper and tenth, got {run.scale}")
    if run.scale == "tenth":
        tenth = {"data": {"share": 0.1}, "schedule": {"patience": patience}}
        run = cast(LanguageModelRun, changed(run, tenth))
    return run if max_epochs is None else stopped(run, max_epochs)


def notes(cells: Sequence[Cell]) -> tuple[str, ...]:
    """How to read a table of this grid."""
    combined = ", ".join(cell.name for cell in cells if cell.beyond)
    return (
        "valid and test: deterministic net of the best look at the validation text, all tokens",
        "per sequence: one mask for each window and row",
        f"ours, not in the paper: {combined}; their Gal masks are per sequence, at the same rate",
    )
