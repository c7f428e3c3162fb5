"""What is timed: shapes, cells, schemes of dropout, and the layers and passes made of them."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import recdrop
from recdrop import RecurrentDropout
from recdrop._types import Cell, Sampling, Site

RATE = 0.25
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
ALL_SITES: tuple[Site, ...] = get_args(Site)


@dataclass(frozen=True, slots=True)
class Shape:
    """T steps, B rows, I inputs, H hidden units; one layer, one direction."""

    steps: int
    batch: int
    inputs: int
    hidden: int

    def small(self) -> "Shape":
        """The same shape, cut to what can be compared with the reference in float64 at once."""
        return Shape(*(min(n, most) for n, most in zip(self.sizes, (6, 5, 7, 18), strict=True)))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, B, I, H."""
        return self.steps, self.batch, self.inputs, self.hidden


SHAPES: dict[str, Shape] = {
    "word LM": Shape(35, 32, 256, 256),
    "char LM": Shape(100, 32, 256, 1024),
    "Temporal Order": Shape(15, 32, 2, 256),
    "small net": Shape(50, 64, 32, 64),
    "medium LM": Shape(35, 20, 650, 650),
    "time series": Shape(200, 16, 64, 128),
    "small batch": Shape(100, 8, 256, 256),
    "one sequence": Shape(200, 1, 64, 128),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A cell in a layout, each compared with torch's layer of the same cell and layout.

    Attributes:
        cell: Which equations.
        reset_after: Which GRU; torch's layer is always the one with True.
        packed: Whether the input is a PackedSequence, of random lengths from T/2 to T.
        projected: Whether h has H/2 units.
        mean: Target: the geometric mean of all ratios is at most this.
        worst: Target: every ratio is at most this; None for none.
    """

    cell: Cell
    reset_after: bool = True
    packed: bool = False
    projected: bool = False
    mean: float = 0.85
    worst: float | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where this cell can drop."""
        return ("hidden",) if self.cell == "rnn" else ALL_SITES

    @property
    def is_stock(self) -> bool:
        """Whether torch's layer computes the same function when nothing is dropped."""
        return self.reset_after


KINDS: dict[str, Kind] = {
    "LSTM": Kind("lstm", mean=0.95, worst=1.05),
    "GRU": Kind("gru"),
    "GRU, reset before": Kind("gru", reset_after=False),
    "RNN": Kind("rnn"),
    "packed LSTM": Kind("lstm", packed=True),
    "projected LSTM": Kind("lstm", projected=True),
}


def slug(name: str) -> str:
    """A name of a shape or a kind as the command line takes it."""
    return name.lower().replace(",", "").replace(" ", "-")


def schemes(kind: Kind, sites: tuple[Site, ...] = ALL_SITES) -> list[RecurrentDropout]:
    """Each of the sites that the kind has, per step and per sequence."""
    return [
        RecurrentDropout(RATE, site, sampling)
        for site in kind.sites
        if site in sites
        for sampling in SAMPLINGS
    ]


def stock_layer(kind: Kind, shape: Shape) -> nn.RNNBase:
    """The layer of torch, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind.cell == "lstm":
            projected = shape.hidden // 2 if kind.projected else 0
            return nn.LSTM(shape.inputs, shape.hidden, proj_size=projected)
        return (nn.GRU if kind.cell == "gru" else nn.RNN)(shape.inputs, shape.hidden)


def our_layer(
    kind: Kind, shape: Shape, backend: str, spec: RecurrentDropout | None = None
) -> nn.RNNBase:
    """The layer of recdrop with the weights of `stock_layer`; without a spec it drops nothing."""
    options: dict[str, Any] = {
        "recurrent_dropout": () if spec is None else spec,
        "backend": backend,
    }
    if kind.cell == "lstm":
        projected = shape.hidden // 2 if kind.projected else 0
        layer = recdrop.LSTM(shape.inputs, shape.hidden, proj_size=projected, **options)
    elif kind.cell == "gru":
        options["reset_after"] = kind.reset_after
        layer = recdrop.GRU(shape.inputs, shape.hidden, **options)
    else:
        layer = recdrop.RNN(shape.inputs, shape.hidden, **options)
    layer.load_state_dict(stock_layer(kind, shape).state_dict())
    return layer


def lengths(shape: Shape) -> Tensor:
    """Lengths of a packed batch, from T/2 to T, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    shortest = max(1, shape.steps // 2)
    drawn = torch.randint(shortest, shape.steps + 1, (shape.batch,), generator=generator)
    drawn[0] = shape.steps
    return drawn


def make_input(kind: Kind, shape: Shape) -> Tensor | PackedSequence:
    """Normal input, a leaf that takes a gradient, the same at every call."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape.steps, shape.batch, shape.inputs, generator=generator)
    if not kind.packed:
        return x.requires_grad_()
    packed = pack_padded_sequence(x, lengths(shape), enforce_sorted=False)
    return packed._replace(data=packed.data.detach().requires_grad_())


class Pass:
    """Forward and backward of one layer: gradients of the input and of every parameter.

    Args:
        layer: torch's or ours, in training mode; the input goes where its weights are.
        kind: Says whether the input is packed.
        shape: Of the input.
    """

    def __init__(self, layer: nn.RNNBase, kind: Kind, shape: Shape) -> None:
        self.layer = layer
        like = next(layer.parameters())
        given = make_input(kind, shape)
        self.input = _leaf(given, like)
        with torch.no_grad():
            output = self.forward()
        generator = torch.Generator().manual_seed(3)
        self.upstream = torch.randn(output.shape, generator=generator).to(like)

    @property
    def leaf(self) -> Tensor:
        """The input's values."""
        return self.input.data if isinstance(self.input, PackedSequence) else self.input

    def prepare(self) -> None:
        """Drop the gradients of the last pass."""
        self.layer.zero_grad(set_to_none=True)
        self.leaf.grad = None

    def forward(self) -> Tensor:
        """Output only; its graph is built where gradients are on."""
        output = self.layer(self.input)[0]
        return output.data if isinstance(output, PackedSequence) else output

    def run(self) -> None:
        """Forward and backward."""
        self.forward().backward(self.upstream)

    def results(self) -> dict[str, Tensor]:
        """Output and every gradient of one pass, by name."""
        self.prepare()
        output = self.forward()
        output.backward(self.upstream)
        leaves = {"x": self.leaf} | dict(self.layer.named_parameters())
        grads = {f"gradient of {name}": _grad(leaf) for name, leaf in leaves.items()}
        return {"output": output.detach()} | grads


def with_size(shape: Shape, axis: str, size: int) -> Shape:
    """The shape with another T, B or H."""
    return replace(shape, **{{"T": "steps", "B": "batch", "H": "hidden"}[axis]: size})


def _leaf(given: Tensor | PackedSequence, like: Tensor) -> Tensor | PackedSequence:
    """The input's values where ``like`` is and in its type, as a leaf."""
    if isinstance(given, Tensor):
        return given.detach().to(like).requires_grad_()
    return given._replace(data=given.data.detach().to(like).requires_grad_())


def _grad(leaf: Tensor) -> Tensor:
    # A layer that lost a gradient must fail the comparison, not pass it.
    return torch.full_like(leaf, torch.nan) if leaf.grad is None else leaf.grad
