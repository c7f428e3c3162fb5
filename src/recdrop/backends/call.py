"""What a backend is given: one checked call, and the scans over time that it is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from recdrop._types import ActivationName, Cell
from recdrop.dropout import RecurrentDropout

GATES: dict[Cell, int] = {"rnn": 1, "lstm": 4, "gru": 3}


class LayerWeights(NamedTuple):
    """One layer and direction, as torch lays it out.

    Attributes:
        w_ih: [GH, I] of the first layer, [GH, D * W] above it.
        w_hh: [GH, W].
        b_ih: [GH] or None.
        b_hh: [GH] or None.
        w_hr: [P, H] of a projected LSTM, else None.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    """One checked call of a stack of layers; time-major, batched.

    Attributes:
        cell: Which equations.
        x: Input [T, B, I]; of a packed call [N, I], N the sum of all lengths.
        batch_sizes: int64 [T] on the CPU, the rows still running at each step, of a packed call
            (rows sorted by falling length); else None.
        rows: int64 [B], each row's place in the caller's batch before sorting; None: in order.
        state: (h0,) or (h0, c0), [L * D, B, W] and [L * D, B, H], rows in the order of ``x``.
        weights: torch's flat list: layer by layer, forward before reverse, each as `LayerWeights`.
        bias: Whether the list has biases.
        num_layers: L.
        bidirectional: Whether D is 2.
        dropout: Rate between layers, per element, as torch has it.
        activation: f of the cell.
        reset_after: Which GRU.
        recurrent_dropout: Specs with distinct sites.
        training: Whether masks are drawn.
        key: int64 scalar that starts all masks; None where none is drawn. On the CPU, but for a GPU
            on the device while a CUDA graph is captured or `torch.compile` traces.
    """

    cell: Cell
    x: Tensor
    batch_sizes: Tensor | None
    rows: Tensor | None
    state: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    bias: bool
    num_layers: int
    bidirectional: bool
    dropout: float
    activation: ActivationName
    reset_after: bool
    recurrent_dropout: tuple[RecurrentDropout, ...]
    training: bool
    key: Tensor | None

    @property
    def acting(self) -> tuple[RecurrentDropout, ...]:
        """The specs that change any value in this call."""
        return tuple(spec for spec in self.recurrent_dropout if spec.acts(self.training))

    @property
    def is_stock(self) -> bool:
        """Whether torch has this cell: tanh LSTM, tanh GRU reset after the product, any RNN."""
        return self.cell == "rnn" or (self.activation == "tanh" and self.reset_after)

    @property
    def is_projected(self) -> bool:
        """Whether h is narrower than the memory, an LSTM's with ``proj_size``."""
        return self.state[0].shape[-1] != self.state[-1].shape[-1]

    def with_key(self, key: Tensor) -> "Recurrence":
        """The same call with the key that starts its masks."""
        return replace(self, key=key)

    def to(self, dtype: torch.dtype) -> "Recurrence":
        """The same call in another floating-point type."""
        return replace(
            self,
            x=self.x.to(dtype),
            state=tuple(s.to(dtype) for s in self.state),
            weights=tuple(w.to(dtype) for w in self.weights),
        )

    def layer_weights(self) -> Iterator[LayerWeights]:
        """The flat list, one layer and direction at a time."""
        projected = self.is_projected
        each = 2 + 2 * self.bias + projected
        for start in range(0, len(self.weights), each):
            part = self.weights[start : start + each]
            b_ih, b_hh = part[2:4] if self.bias else (None, None)
            yield LayerWeights(part[0], part[1], b_ih, b_hh, part[-1] if projected else None)


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One layer and direction over time.

    Dense and packed input look the same here: step t's rows lie together, ``batch_sizes[t]`` of
    them, and are the first rows of the state.

    Attributes:
        call: The call that this is part of: cell, activation, dropout, key.
        x: Input of all steps, [N, I].
        state: (h0,) or (h0, c0), [B, W] and [B, H].
        weights: Of this layer and direction.
        layer: From 0; a coordinate of the masks.
        direction: 0 forward, 1 reverse; a coordinate of the masks.
    """

    call: Recurrence
    x: Tensor
    state: tuple[Tensor, ...]
    weights: LayerWeights
    layer: int
    direction: int

    @property
    def batch_sizes(self) -> list[int]:
        """Rows of each step, T of them."""
        if self.call.batch_sizes is None:
            return [self.call.x.shape[1]] * self.call.x.shape[0]
        return [int(n) for n in self.call.batch_sizes]

    @property
    def rows(self) -> Tensor:
        """int64 [B], the rows' coordinates of the masks."""
        if self.call.rows is not None:
            return self.call.rows
        return torch.arange(self.state[0].shape[0], device=self.x.device)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast computes in on the device of ``x``; None where it is off, or leaves float64."""
    device = x.device.type
    if x.dtype == torch.float64:
        return None
    # Not while a graph is traced: Dynamo cannot look there in torch 2.11, which our GPU tests meet.
    if not torch.compiler.is_compiling() and not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


# Runs one Scan: the states after each step, h first, as [N, W] and [N, H], and the last one.
ScanFunction = Callable[[Scan], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
RunFunction = Callable[[Recurrence], tuple[Tensor, tuple[Tensor, ...]]]
