"""Who is compared in ``peers.py``: each builds an LSTM with recurrent dropout, and its pass.

Keras and Flax are imported only inside their own builders, as they may be missing.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.cases import KINDS, RATE, Pass, Shape, our_layer, stock_layer
from recdrop import RecurrentDropout
from recdrop.backends import BACKENDS

LSTM = KINDS["LSTM"]


class MissingPeerError(Exception):
    """This contender is not there, for the reason given."""


class Peer(Protocol):
    """A forward and backward pass; ``output`` is what the last one put out, T * B * H values."""

    output: Any

    def prepare(self) -> None:
        """Drop the gradients of the last pass."""
        ...

    def run(self) -> None:
        """Gradients of the input and of every parameter."""
        ...


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table.

    Attributes:
        scheme: Its dropout in our words; empty for none.
        build: Makes the pass for a shape; raises `MissingPeerError`.
    """

    scheme: str
    build: Callable[[Shape], Peer]


class TorchPeer(Pass):
    """A pass of a layer of torch or ours that keeps its output."""

    def forward(self) -> Tensor:
        """Output, kept as well."""
        self.output = super().forward()
        return self.output


class CellLoop(nn.RNNBase):
    """What people write: `torch.nn.LSTMCell` in a loop, a mask on h at every step."""

    def __init__(self, inputs: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.cell = nn.LSTMCell(inputs, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Output [T, B, H] of input [T, B, I]."""
        h = c = x.new_zeros(x.shape[1], self.cell.hidden_size)
        outputs = []
        for x_t in x:
            h, c = self.cell(x_t, (nn.functional.dropout(h, RATE), c))
            outputs.append(h)
        return (torch.stack(outputs),)


def stock(shape: Shape) -> Peer:
    """The layer of torch, which drops nothing."""
    return TorchPeer(stock_layer(LSTM, shape), LSTM, shape)


def ours(backend: str, spec: RecurrentDropout) -> Callable[[Shape], Peer]:
    """A backend of recdrop with a scheme."""

    def build(shape: Shape) -> Peer:
        if backend not in BACKENDS:
            raise MissingPeerError(f"no backend {backend!r}")
        missing = BACKENDS[backend].missing()
        if missing is not None:
            raise MissingPeerError(missing)
        return TorchPeer(our_layer(LSTM, shape, backend, spec), LSTM, shape)

    return build


def cell_loop(shape: Shape) -> Peer:
    """The loop over `torch.nn.LSTMCell`."""
    return TorchPeer(CellLoop(shape.inputs, shape.hidden), LSTM, shape)


class KerasOnTorch:
    """Keras' LSTM with eager torch below it.

    Args:
        shape: T, B, I, H; Keras takes [B, T, I].
    """

    output: Any

    def __init__(self, shape: Shape) -> None:
        keras = keras_on("torch")
        steps, batch, inputs, hidden = shape.sizes
        self.layer = keras.layers.LSTM(hidden, return_sequences=True, recurrent_dropout=RATE)
        self.layer.build((batch, steps, inputs))
        self.x = torch.randn(batch, steps, inputs, requires_grad=True)
        self.upstream = torch.randn(batch, steps, hidden)
        self.parameters = [variable.value for variable in self.layer.trainable_variables]

    def prepare(self) -> None:
        """Drop the gradients of the last pass."""
        for leaf in (self.x, *self.parameters):
            leaf.grad = None

    def run(self) -> None:
        """Forward and backward."""
        self.output = self.layer(self.x, training=True)
        self.output.backward(self.upstream)


class OnJax:
    """A pass compiled by `jax.jit`: gradients of sum(output * upstream), and the output.

    Args:
        shape: T, B, I, H; input is [B, T, I].
        apply: The output and the next state of (parameters, state, x); the state holds seeds.
        parameters: Of the layer.
        state: The first state.
    """

    output: Any

    def __init__(self, shape: Shape, apply: Callable[..., Any], parameters: Any, state: Any):
        self.jax = importlib.import_module("jax")
        steps, batch, inputs, hidden = shape.sizes
        normal = self.jax.random.normal
        keys = self.jax.random.split(self.jax.random.key(0))
        self.x = normal(keys[0], (batch, steps, inputs))
        upstream = normal(keys[1], (batch, steps, hidden))
        self.parameters, self.state = parameters, state

        def loss(parameters: Any, x: Any, state: Any) -> tuple[Any, tuple[Any, Any]]:
            output, state = apply(parameters, state, x)
            return (output * upstream).sum(), (output, state)

        self.step = self.jax.jit(self.jax.grad(loss, argnums=(0, 1), has_aux=True))

    def prepare(self) -> None:
        """Nothing: gradients are values here."""

    def run(self) -> None:
        """Forward and backward, to the end of the computation."""
        result = self.step(self.parameters, self.x, self.state)
        _, (self.output, self.state) = self.jax.block_until_ready(result)


def keras_on_jax(shape: Shape) -> Peer:
    """Keras' LSTM, stateless, compiled."""
    wanted("jax")
    keras = keras_on("jax")
    steps, batch, inputs, hidden = shape.sizes
    layer = keras.layers.LSTM(hidden, return_sequences=True, recurrent_dropout=RATE)
    layer.build((batch, steps, inputs))

    def apply(parameters: Any, state: Any, x: Any) -> Any:
        return layer.stateless_call(parameters, state, x, training=True)

    return OnJax(
        shape,
        apply,
        [variable.value for variable in layer.trainable_variables],
        [variable.value for variable in layer.non_trainable_variables],
    )


def flax(shape: Shape) -> Peer:
    """Flax' LSTM cell with dropout on h; ``split_rngs`` draws a mask at every step."""
    jax, linen = wanted("jax"), wanted("flax.linen")

    class Cell(linen.RNNCellBase):
        features: int

        @linen.compact
        def __call__(self, carry: Any, x: Any) -> Any:
            c, h = carry
            h = linen.Dropout(RATE, deterministic=False)(h)
            return linen.OptimizedLSTMCell(self.features)((c, h), x)

        @linen.nowrap
        def initialize_carry(self, rng: Any, input_shape: Any) -> Any:
            cell = linen.OptimizedLSTMCell(self.features, parent=None)
            return cell.initialize_carry(rng, input_shape)

        @property
        def num_feature_axes(self) -> int:
            return 1

    steps, batch, inputs, hidden = shape.sizes
    layer = linen.RNN(Cell(hidden), split_rngs={"params": False, "dropout": True})
    key = jax.random.key(0)
    x = jax.numpy.zeros((batch, steps, inputs))
    parameters = layer.init({"params": key, "dropout": key}, x)

    def apply(parameters: Any, key: Any, x: Any) -> Any:
        key, own = jax.random.split(key)
        return layer.apply(parameters, x, rngs={"dropout": own}), key

    return OnJax(shape, apply, parameters, key)


def keras_on(backend: str) -> Any:
    """Keras on a backend, which it looks up when it is imported."""
    os.environ["KERAS_BACKEND"] = backend
    return wanted("keras")


def wanted(module: str) -> Any:
    """A module that may be missing.

    Raises:
        MissingPeerError: It is.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPeerError(f"not installed: {error.name}") from None


_GAL = RecurrentDropout(RATE, "hidden", "sequence")
_KERAS = RecurrentDropout(RATE, "hidden", "sequence", tied=False)
CONTENDERS: dict[str, Contender] = {
    "stock": Contender("", stock),
    "recdrop native": Contender("update per step", ours("native", RecurrentDropout(RATE))),
    "recdrop native, Gal": Contender("hidden per sequence", ours("native", _GAL)),
    "recdrop native, as Keras": Contender("hidden per sequence, each gate", ours("native", _KERAS)),
    "recdrop reference": Contender("update per step", ours("reference", RecurrentDropout(RATE))),
    "loop of LSTMCell": Contender("hidden per step", cell_loop),
    "Keras on torch": Contender("hidden per sequence, each gate", KerasOnTorch),
    "Keras on JAX": Contender("hidden per sequence, each gate", keras_on_jax),
    "Flax": Contender("hidden per step", flax),
}
