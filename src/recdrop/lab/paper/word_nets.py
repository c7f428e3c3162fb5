"""The grid that Tables 4 and 5 share: three recurrent nets, with and without recurrent dropout.

Sources are labelled as in `recdrop.lab.paper.grid`.
"""

from dataclasses import dataclass
from typing import Literal

from recdrop.lab.config import Dropout, ExponentialDecay, RmsProp
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


def rmsprop(lr: float) -> RmsProp:
    """The optimiser of both tables.

    Its epsilon is ours, for P does not say. Libraries of the time (Lasagne, Keras) had 1e-6 under
    the root, which is about 1e-3 beside it. With 1e-6 beside it nets of relu leave all bounds on
    sentences longer than their pieces: Table 4's LSTM of 256 units comes to 1e10 nats on validation
    at P's rate, and to F1 0.77 and then to infinity at a tenth of it; with 1e-3, to 0.11 nats and
    F1 0.81 after three epochs (seed 0).

    Args:
        lr: Learning rate.
    """
    return RmsProp(
        lr=lr,
        rho=0.9,  # P
        eps=1e-3,
        clip_norm=10.0,  # ours, as in Table 2
        decay=ExponentialDecay(factor=0.99),  # P, after every epoch
    )


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
        block=f"The {net.upper()}",  # its own tables and pictures
        dropout=(drop,) if rate else (),
        baseline=f"{net}-none" if rate else None,
        net=net,
    )
