"""The grid that Tables 4 and 5 share: three recurrent nets, with and without recurrent dropout.

Sources are labelled as in `recdrop.lab.paper.grid`.
"""

from dataclasses import dataclass
from typing import Literal

from recdrop.lab.config import Dropout
from recdrop.lab.paper import grid
from recdrop.lab.paper.grid import Sampling

Net = Literal["rnn", "lstm", "gru"]

NETS: tuple[Net, ...] = ("rnn", "lstm", "gru")  # P, in the order of the tables
RATE = 0.25  # P


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(grid.Cell):
    """One cell of the grid.

    Attributes:
        net: Which recurrent layer.
    """

    net: Net

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.net.upper()}, {self.how}"


def cells(sampling: Sampling) -> tuple[Cell, ...]:
    """The paper's six cells.

    Args:
        sampling: Of the table's recurrent dropout.
    """
    return tuple(_cell(net, sampling, rate) for net in NETS for rate in (0.0, RATE))


def _cell(net: Net, sampling: Sampling, rate: float) -> Cell:
    site = "hidden" if net == "rnn" else "update"  # P, Eq. 2; Eqs. 9 and 13
    # P, Eq. 3: the paper scales all of its recurrent dropout in evaluation.
    drop = Dropout(rate=rate, site=site, sampling=sampling, rescale="test")
    return Cell(
        name=f"{net}-25" if rate else f"{net}-none",
        scheme="ours" if rate else "none",
        sampling=sampling if rate else None,
        rate=rate,
        block="All cells",
        dropout=(drop,) if rate else (),
        net=net,
    )
