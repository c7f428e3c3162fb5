"""Layers and directions over padded batches, one row and one step at a time."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .cells import (
    Activation,
    Array,
    Weights,
    gru_reset_after_step,
    gru_reset_before_step,
    lstm_step,
    relu,
    rnn_step,
)
from .philox import keep_mask

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
ACTIVATIONS: dict[str, Activation] = {"tanh": np.tanh, "relu": relu}


class Drop(NamedTuple):
    """Dropout at one site; every layer and direction draws its own masks.

    Attributes:
        rate: probability of dropping, in [0, 1).
        site: "update", "hidden" or "state".
        sampling: "step" or "sequence".
        rescale: "train" divides by keep in training (Eq. 18), "test" multiplies by keep in
            evaluation (Eq. 3).
        tied: whether all gates see one mask; False is for the hidden site only.
    """

    rate: float
    site: str = "update"
    sampling: str = "step"
    rescale: str = "train"
    tied: bool = True


def run(
    cell: str,
    x: npt.ArrayLike,
    lengths: Sequence[int],
    weights: Mapping[str, npt.ArrayLike],
    h0: npt.ArrayLike | None = None,
    c0: npt.ArrayLike | None = None,
    *,
    num_layers: int,
    bidirectional: bool,
    activation: str = "tanh",
    reset_after: bool = True,
    drops: Sequence[Drop] = (),
    training: bool = True,
    key: int = 0,
    rows: Sequence[int] | None = None,
) -> tuple[Array, Array, Array | None]:
    """Runs a stack of L layers and D directions, without dropout between layers.

    Args:
        cell: "rnn", "lstm" or "gru".
        x: padded inputs [T, B, I]; what lies beyond a row's length is never read.
        lengths: length of each row, in any order.
        weights: parameters under torch's names, such as "weight_hh_l0_reverse".
        h0: initial hidden values [L*D, B, W], zeros if not given.
        c0: initial cells of an LSTM [L*D, B, H], zeros if not given.
        num_layers: L.
        bidirectional: whether D is 2.
        activation: "tanh" or "relu".
        reset_after: which GRU: torch's, or the paper's with the reset before the product.
        drops: what is dropped, at distinct sites.
        training: whether masks are drawn.
        key: the masks' 64-bit key.
        rows: index in the original batch of each row, 0 ... B-1 if not given.

    Returns:
        Output [T, B, D*W], zero beyond each row's length; h_n [L*D, B, W]; c_n [L*D, B, H] of an
        LSTM, else None.
    """
    layer_x = np.array(x, dtype=np.float64)
    steps, batch = layer_x.shape[:2]
    rows = range(batch) if rows is None else rows
    directions = 2 if bidirectional else 1
    first = _layer_weights(weights, 0, 0)
    units, width = len(first.w_ih) // GATES[cell], first.w_hh.shape[1]
    # Both hold the initial values until their row has been run, then the final ones.
    h_n = _initial(h0, (num_layers * directions, batch, width))
    c_n = _initial(c0, (num_layers * directions, batch, units))

    for layer in range(num_layers):
        outputs = np.zeros((directions, steps, batch, width))
        for direction in range(directions):
            index = layer * directions + direction
            own = _layer_weights(weights, layer, direction)
            sites = {
                drop.site: _draw(
                    drop,
                    _mask_shape(drop, cell, own),
                    key=key,
                    layer=layer,
                    direction=direction,
                    steps=steps,
                    rows=rows,
                    training=training,
                )
                for drop in drops
            }
            for b, length in enumerate(lengths):
                h, c = h_n[index, b], c_n[index, b]
                for t in range(length) if direction == 0 else reversed(range(length)):
                    here = {site: multiplier[t, b] for site, multiplier in sites.items()}
                    h, c = _step(cell, reset_after, layer_x[t, b], h, c, own, activation, here)
                    outputs[direction, t, b] = h
                h_n[index, b], c_n[index, b] = h, c
        layer_x = np.concatenate(list(outputs), axis=-1)
    return layer_x, h_n, c_n if cell == "lstm" else None


def _step(
    cell: str,
    reset_after: bool,
    x: Array,
    h: Array,
    c: Array,
    weights: Weights,
    activation: str,
    sites: Mapping[str, Array],
) -> tuple[Array, Array]:
    """Advances one row by one step of any cell; a cell without c passes it through."""
    f = ACTIVATIONS[activation]
    if cell == "lstm":
        return lstm_step(x, h, c, weights, f, **sites)
    if cell == "gru":
        gru_step = gru_reset_after_step if reset_after else gru_reset_before_step
        return gru_step(x, h, weights, f, **sites), c
    return rnn_step(x, h, weights, f, **sites), c


def _mask_shape(drop: Drop, cell: str, weights: Weights) -> tuple[int, ...]:
    """Returns the shape of one row's mask: [W] or untied [G, W] for h_{t-1}, [H] elsewhere."""
    gates, width = GATES[cell], weights.w_hh.shape[1]
    if drop.site == "hidden":
        return (width,) if drop.tied else (gates, width)
    return (len(weights.w_ih) // gates,)


def _draw(
    drop: Drop,
    shape: tuple[int, ...],
    *,
    key: int,
    layer: int,
    direction: int,
    steps: int,
    rows: Sequence[int],
    training: bool,
) -> Array:
    """Returns d as a multiplier at every position, [T, B, *shape]: Eq. 3, or Eq. 18 for "train".

    In evaluation it is the multiplier's mean: keep for "test", 1 for "train". A rate of 0 drops
    nothing, so it draws nothing either. An untied mask has unit = gate * W + j.
    """
    keep = 1 - drop.rate
    divisor = {"train": keep, "test": 1.0}[drop.rescale]
    if not training or drop.rate == 0:
        return np.full((steps, len(rows), *shape), keep / divisor)
    mask = keep_mask(
        key,
        drop.rate,
        drop.site,
        drop.sampling,
        layer=layer,
        direction=direction,
        steps=steps,
        rows=rows,
        units=math.prod(shape),
    )
    return mask.reshape(steps, len(rows), *shape) / divisor


def _layer_weights(weights: Mapping[str, npt.ArrayLike], layer: int, direction: int) -> Weights:
    """Picks the parameters of one layer and direction by torch's names."""
    suffix = f"_l{layer}" + ("_reverse" if direction == 1 else "")
    required = [
        np.asarray(weights[name + suffix], np.float64) for name in ("weight_ih", "weight_hh")
    ]
    optional = [
        np.asarray(weights[name + suffix], np.float64) if name + suffix in weights else None
        for name in ("bias_ih", "bias_hh", "weight_hr")
    ]
    return Weights(*required, *optional)


def _initial(given: npt.ArrayLike | None, shape: tuple[int, int, int]) -> Array:
    """Returns a copy of the given initial values, or zeros."""
    return np.zeros(shape) if given is None else np.array(given, np.float64)
