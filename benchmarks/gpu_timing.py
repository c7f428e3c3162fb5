"""One cell at one shape on a card: first parity, then its timings, also in a CUDA graph."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import recdrop
from benchmarks import parity
from benchmarks.cases import RATE, Kind, Pass, Shape, our_layer, stock_layer
from benchmarks.gpu_card import Card, ieee, tf32
from benchmarks.timing import Budget, Timing, Work, compare, interleave
from recdrop import RecurrentDropout
from recdrop.backends.triton import plan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SPECS = (
    RecurrentDropout(RATE),
    RecurrentDropout(RATE, "hidden", "sequence"),
    RecurrentDropout(RATE, "state"),
)
TARGET, AIM = 1.5, 1.0  # of cuDNN's time
STEPS = "a launch for each step"


class InARow:
    """Some passes without waiting in between.

    Args:
        one: A pass.
        passes: How many.
    """

    def __init__(self, one: Pass, passes: int) -> None:
        self.one, self.passes = one, passes

    def prepare(self) -> None:
        """Nothing: each pass drops the gradients of the one before."""

    def run(self) -> None:
        """All of them."""
        for _ in range(self.passes):
            self.one.prepare()
            self.one.run()


class Replayed:
    """A pass in a CUDA graph, replayed some times without waiting in between.

    Args:
        one: A pass on a card; captured here, after it has run on a stream of its own, as torch asks
            for.
        passes: How many replays.
    """

    def __init__(self, one: Pass, passes: int) -> None:
        self.one, self.passes = one, passes
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            InARow(one, 3).run()
        torch.cuda.current_stream().wait_stream(side)
        one.prepare()  # so that the gradients are the graph's own memory
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            one.run()

    def prepare(self) -> None:
        """Nothing: a replay writes over the gradients of the one before."""

    def run(self) -> None:
        """All of them."""
        for _ in range(self.passes):
            self.graph.replay()


def check(
    card: Card, kind: Kind, shape: Shape, dtype: torch.dtype, spec: RecurrentDropout
) -> dict[str, float]:
    """The largest errors of ours and of the reference in the same type, of tensors' largest values.

    Raises:
        ParityError: Ours is more than twice as far from the reference in float64; with TF32
            products, six times.
    """

    def results(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
        layer = our_layer(kind, shape, backend, spec).to(card.device, dtype)
        with recdrop.hold_masks(0):
            return Pass(layer, kind, shape).results()

    with ieee():
        truth = results("reference", torch.float64)
    errors: dict[str, float] = {}
    # Triton cuts TF32 operands off, where torch rounds them: twice as far in one product, and in
    # 200 steps of a GRU up to 4.8 times, as emulated on a CPU.
    modes = {"": (ieee, 2)} | ({" tf32": (tf32, 6)} if dtype == torch.float32 else {})
    for mode, (products, factor) in modes.items():
        with products():
            own, ours = (results(b, dtype) for b in ("reference", card.backend))
        worst = [0.0, 0.0]
        for name, true in truth.items():
            size = float(true.abs().max())
            mine, its = (float((r[name].double() - true).abs().max()) / size for r in (ours, own))
            if not mine <= factor * max(its, 2 * torch.finfo(dtype).eps):
                raise parity.ParityError(
                    f"{spec}{mode}: {name} is off by {mine:.2g} of its largest value, the "
                    f"reference in that type by {its:.2g}"
                )
            worst = [max(worst[0], mine), max(worst[1], its)]
        errors |= {f"ours{mode}": worst[0], f"reference{mode}": worst[1]}
    return errors


def timed(
    card: Card,
    kind: Kind,
    shape: Shape,
    dtype: torch.dtype,
    specs: Sequence[RecurrentDropout],
    budget: Budget,
    passes: int,
) -> dict[str, Timing]:
    """Seconds of one pass, in turns: cuDNN's layer first, then ours with each scheme."""
    layers = _layers(card, kind, shape, dtype, specs)
    return _in_turns(
        card,
        {name: InARow(Pass(layer, kind, shape), passes) for name, layer in layers.items()},
        budget,
        passes,
    )


def replayed(
    card: Card, kind: Kind, shape: Shape, dtype: torch.dtype, budget: Budget, passes: int
) -> dict[str, Timing] | str | None:
    """Seconds of one pass in a CUDA graph: cuDNN's layer, then ours with this paper's dropout.

    Ours as it is planned, and once more with a launch for each step: which of them is faster
    settles the plan's rule.

    Returns:
        What the device said where one cannot be captured; None of a trial, which has no graphs.
    """
    if card.trial:
        return None
    layers = _layers(card, kind, shape, dtype, SPECS[:1])
    layers[STEPS] = our_layer(kind, shape, card.backend, SPECS[0]).to(card.device, dtype)
    graphs: dict[str, Work] = {}
    for name, layer in layers.items():
        try:
            with tf32(), in_steps() if name == STEPS else nullcontext():  # as captured, so replayed
                graphs[name] = Replayed(Pass(layer, kind, shape), passes)
        except Exception as error:  # whatever it is, what was timed before is kept
            whose = {"stock": "cuDNN", STEPS: f"ours, {STEPS}"}.get(name, "ours")
            return f"{whose}: {str(error).strip().partition(chr(10))[0]}"
    return _in_turns(card, graphs, budget, passes)


def in_steps() -> AbstractContextManager[Any]:
    """Inside, every step is a launch of its own, whatever the shape."""
    return patch.object(plan, "MOST_TURNS", 0)


def alone(card: Card, kind: Kind, shape: Shape, dtype: torch.dtype) -> float:
    """Seconds of the loop in Python with this paper's dropout, the best of three passes."""
    layer = our_layer(kind, shape, "reference", SPECS[0]).to(card.device, dtype)
    with tf32():
        seconds = interleave({"loop": Pass(layer, kind, shape)}, Budget(3, 0.0), card.clock)
    return min(seconds["loop"])


def nodes_of(layer: nn.RNNBase, kind: Kind, shape: Shape) -> list[str]:
    """Names of what computed a layer's output, nearest first: whether it was cuDNN shows there."""
    node, names = Pass(layer, kind, shape).forward().grad_fn, []
    while node is not None and len(names) < 5:
        names.append(type(node).__name__)
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def _layers(
    card: Card, kind: Kind, shape: Shape, dtype: torch.dtype, specs: Sequence[RecurrentDropout]
) -> dict[str, nn.RNNBase]:
    """The layer of cuDNN first, then ours with each scheme, on the card."""
    stock = stock_layer(kind, shape).to(card.device, dtype)
    if not card.trial:
        _pack(stock)
    return {"stock": stock} | {
        str(spec): our_layer(kind, shape, card.backend, spec).to(card.device, dtype)
        for spec in specs
    }


def _in_turns(
    card: Card, contenders: dict[str, Work], budget: Budget, passes: int
) -> dict[str, Timing]:
    with tf32():
        seconds = interleave(contenders, budget, card.clock)
    return compare({name: [s / passes for s in runs] for name, runs in seconds.items()})


def _pack(layer: nn.RNNBase) -> None:
    """Put a layer's weights into one piece of memory, as cuDNN wants them, in any type.

    torch does so itself, but not in bfloat16, where cuDNN would copy them at every call.
    """
    from torch.backends.cudnn import rnn

    with torch.no_grad():
        torch._VF._cudnn_rnn_flatten_weight(
            [weight for weight in layer._flat_weights if weight is not None],
            4 if layer.bias else 2,
            layer.input_size,
            rnn.get_cudnn_mode(layer.mode),
            layer.hidden_size,
            layer.proj_size,
            layer.num_layers,
            layer.batch_first,
            layer.bidirectional,
        )
