"""Legend of dimensions, named array types, and the small records that equations work on.

======  ==================================================================
``T``   steps of a sequence
``B``   batch: sequences side by side
``I``   input features
``H``   hidden units: the width of g, of the gates and of an LSTM's c
``W``   width of h: ``proj_size`` of a projected LSTM, else H
``G``   gates (RNN 1, GRU 3, LSTM 4); ``GH`` is all of them stacked
``P``   projected width
======  ==================================================================

Shapes are checked in the tests only, by jaxtyping's import hook; at run time, and where jaxtyping
is not installed, the names below are plain tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float
else:
    try:
        from jaxtyping import Float
    except ImportError:

        class Float:
            """Stands in for jaxtyping: ``Float[Tensor, "B H"]`` is then just ``Tensor``."""

            def __class_getitem__(cls, item: Any) -> Any:
                """Drop the shape."""
                return item[0]


Cell = Literal["rnn", "lstm", "gru"]
Site = Literal["update", "hidden", "state"]
Sampling = Literal["step", "sequence"]
Rescale = Literal["train", "test"]
ActivationName = Literal["tanh", "relu"]
Activation = Callable[[Tensor], Tensor]

PreX = Float[Tensor, "B GH"]
Hidden = Float[Tensor, "B W"]
SeenHidden = Float[Tensor, "B W"] | Float[Tensor, "G B W"]
CellValue = Float[Tensor, "B H"]
RecurrentWeight = Float[Tensor, "GH W"]


class HiddenState(NamedTuple):
    """State of an RNN or a GRU: h, shape [B, H]."""

    h: Hidden


class LSTMState(NamedTuple):
    """State of an LSTM: h, shape [B, W], and the memory c, shape [B, H]."""

    h: Hidden
    c: CellValue


class RecurrentWeights(NamedTuple):
    """What one step multiplies its state with.

    Attributes:
        w_hh: [GH, W], all gates stacked in torch's order.
        b_hn: [H], the bias that torch's GRU puts inside the reset product; None elsewhere, where
            biases are already part of the input projection.
        w_hr: [P, H], the projection of an LSTM with ``proj_size``; else None.
    """

    w_hh: RecurrentWeight
    b_hn: Float[Tensor, " H"] | None = None
    w_hr: Float[Tensor, "P H"] | None = None


@dataclass(frozen=True, slots=True)
class SiteFactors:
    """What dropout multiplies by at each site of one step; None leaves the value as it is.

    A factor is a mask (with its rescaling) in training and a number in evaluation.

    Attributes:
        on_hidden: number, [B, W], or [G, B, W] with one mask per gate (untied).
        on_update: number or [B, H].
        on_state: number or [B, H].
    """

    on_hidden: Tensor | float | None = None
    on_update: Tensor | float | None = None
    on_state: Tensor | float | None = None

    def hidden(self, h: Tensor) -> Tensor:
        """Gal & Ghahramani's site: d(h), what the gates see of the last hidden value."""
        return h if self.on_hidden is None else h * self.on_hidden

    def update(self, g: Tensor) -> Tensor:
        """This paper's site: d(g), the candidate update."""
        return g if self.on_update is None else g * self.on_update

    def state(self, c: Tensor) -> Tensor:
        """Moon et al.'s site: the memory itself."""
        return c if self.on_state is None else c * self.on_state
