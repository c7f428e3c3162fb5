"""What a call must be: types, dtypes, devices and shapes, in `torch.nn`'s classes of error."""

import torch
from torch import Tensor

from recdrop._types import Cell
from recdrop.backends.call import GATES, autocast_dtype


def check_tensors(
    cell: Cell, input: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> None:
    """Types, devices and dtypes, for `recdrop.functional.recurrence`.

    Raises:
        TypeError: No tensor, or another number of states.
        RuntimeError: Another device, or a state of another dtype.
        ValueError: Input and weights of two dtypes.
    """
    parts = 2 if cell == "lstm" else 1
    if len(state) != parts or not all(isinstance(s, Tensor) for s in state):
        wanted = "a pair (h_0, c_0) of tensors" if cell == "lstm" else "one tensor h_0"
        got = [type(s).__name__ for s in state]
        raise TypeError(f"{cell.upper()}: expected hx to be {wanted}, got {got}")
    if not isinstance(input, Tensor):
        raise TypeError(f"{cell.upper()}: expected input to be a tensor, got {_type_of(input)}")
    if not weights:
        raise RuntimeError(f"{cell.upper()}: expected a flat list of weights, got none")
    for weight in weights:
        if not isinstance(weight, Tensor):
            raise TypeError(
                f"{cell.upper()}: expected a flat list of tensors as weights, got one with a "
                f"{_type_of(weight)}"
            )
    dtype = weights[0].dtype
    for other in (*state, *weights):
        if other.device != input.device:
            raise RuntimeError(
                f"{cell.upper()}: expected all tensors on the device of the input, {input.device}, "
                f"got one on {other.device}"
            )
    if autocast_dtype(input) is not None:
        return
    if input.dtype != dtype:
        raise ValueError(
            f"{cell.upper()}: input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
        )
    for s in state:
        if s.dtype != dtype:
            raise RuntimeError(
                f"{cell.upper()}: expected an initial state of dtype {dtype}, got {s.dtype}"
            )


def check_shapes(
    cell: Cell,
    input: Tensor,
    state: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    bias: bool,
    num_layers: int,
    bidirectional: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Shapes of what `check_tensors` has passed.

    Raises:
        RuntimeError: Another shape, or another number of weights.
    """
    dims = 3 if batch_sizes is None else 2
    if input.ndim != dims:
        raise RuntimeError(f"input must have {dims} dimensions, got {input.ndim}")
    if input.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0, got 0")
    directions = 2 if bidirectional else 1
    stacked = num_layers * directions
    each = 2 + 2 * bias
    projected = cell == "lstm" and len(weights) == stacked * (each + 1)
    if len(weights) != stacked * (each + projected):
        raise RuntimeError(
            f"expected {stacked * each} weights ({each} for each layer and direction), "
            f"got {len(weights)}"
        )
    if weights[0].ndim != 2 or weights[1].ndim != 2:
        raise RuntimeError(
            "expected weight_ih and weight_hh to be 2-D, "
            f"got {list(weights[0].shape)} and {list(weights[1].shape)}"
        )
    gate_width, h_width = weights[1].shape
    hidden = gate_width // GATES[cell]
    if projected and h_width >= hidden:
        raise RuntimeError(
            f"a projection must make h narrower than the {hidden} units of c, got {h_width}"
        )
    width = input.shape[-1]
    if width != weights[0].shape[-1]:
        raise RuntimeError(
            "input.size(-1) must be equal to input_size. "
            f"Expected {weights[0].shape[-1]}, got {width}"
        )
    batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
    for name, s, units in zip(("h_0", "c_0"), state, (h_width, hidden), strict=False):
        if s.shape != (stacked, batch, units):
            raise RuntimeError(
                f"Expected hidden size {(stacked, batch, units)} of {name}, got {list(s.shape)}"
            )
    expected = _weight_shapes(gate_width, h_width, hidden, bias, projected)
    for at, weight in enumerate(weights):
        place, kind = divmod(at, each + projected)
        below = width if place < directions else h_width * directions
        wanted = (gate_width, below) if kind == 0 else expected[kind]
        if weight.shape != wanted:
            raise RuntimeError(
                f"weight {kind} of layer {place // directions} must have shape {wanted}, "
                f"got {list(weight.shape)}"
            )


def checked_key(key: Tensor) -> Tensor:
    """A key given by the caller.

    Raises:
        TypeError: It is no int64 scalar.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.ndim != 0:
        raise TypeError(f"key must be an int64 scalar tensor, got {key!r}")
    return key.cpu()


def _weight_shapes(
    gate_width: int, h_width: int, hidden: int, bias: bool, projected: bool
) -> list[tuple[int, ...]]:
    biases: list[tuple[int, ...]] = [(gate_width,), (gate_width,)] if bias else []
    projection: list[tuple[int, ...]] = [(h_width, hidden)] if projected else []
    return [(), (gate_width, h_width), *biases, *projection]


def _type_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
