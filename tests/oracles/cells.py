"""One step of each cell, written gate by gate from the paper's equations.

A step accepts one row or a batch of rows. Dimensions: B rows, I inputs, H units, W the width of
h (the projection's size if there is one, else H), G gates. Every step takes a multiplier per
dropout site, 1 where nothing is dropped:

* hidden: on h_{t-1} wherever W_hh multiplies it, Eqs. 2 and 7. [B, W], or [G, B, W] with one
  multiplier per gate.
* update: on the candidate g_t after its activation, Eqs. 9 and 13. [B, H].
* state: on the new cell c_t of an LSTM, Eq. 8, or the new h_t of a GRU. [B, H].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Multiplier = Array | float
Activation = Callable[[Array], Array]


class Weights(NamedTuple):
    """Parameters of one layer and direction in torch's layout.

    Attributes:
        w_ih: what multiplies x_t, [G*H, I]; gates i, f, g, o for an LSTM, r, z, n for a GRU.
        w_hh: what multiplies h_{t-1}, [G*H, W].
        b_ih: bias beside w_ih, [G*H].
        b_hh: bias beside w_hh, [G*H].
        w_hr: projection of an LSTM's h_t, [W, H].
    """

    w_ih: Array
    w_hh: Array
    b_ih: Array | None = None
    b_hh: Array | None = None
    w_hr: Array | None = None


def sigmoid(x: Array) -> Array:
    """Returns 1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def relu(x: Array) -> Array:
    """Returns max(x, 0)."""
    return np.maximum(x, 0.0)


def rnn_step(
    x: Array, h_prev: Array, weights: Weights, f: Activation = np.tanh, *, hidden: Multiplier = 1.0
) -> Array:
    """Eq. 2: h_t = f(W_h [x_t, d(h_{t-1})] + b_h).

    Args:
        x: input x_t, [B, I].
        h_prev: hidden value h_{t-1}, [B, W].
        weights: the layer's parameters, G = 1.
        f: activation.
        hidden: multiplier of h_{t-1}.

    Returns:
        h_t, [B, W].
    """
    (b,) = _bias_sums(weights, 1)
    (h_seen,) = _per_gate(hidden, h_prev, 1)
    return f(x @ weights.w_ih.T + h_seen @ weights.w_hh.T + b)


def lstm_step(
    x: Array,
    h_prev: Array,
    c_prev: Array,
    weights: Weights,
    f: Activation = np.tanh,
    *,
    hidden: Multiplier = 1.0,
    update: Multiplier = 1.0,
    state: Multiplier = 1.0,
) -> tuple[Array, Array]:
    """Eqs. 4-6, with the dropout of Eq. 7 (hidden), Eq. 8 (state) and Eq. 9 (update).

    With a projection, h_t = W_hr (o_t * f(c_t)).

    Args:
        x: input x_t, [B, I].
        h_prev: hidden value h_{t-1}, [B, W].
        c_prev: cell c_{t-1}, [B, H].
        weights: the layer's parameters, G = 4.
        f: activation of the candidate and of the cell.
        hidden: multiplier of h_{t-1} in all four gates.
        update: multiplier of g_t.
        state: multiplier of c_t; the product is carried and feeds h_t.

    Returns:
        h_t [B, W] and c_t [B, H].
    """
    w_i, w_f, w_g, w_o = np.split(weights.w_ih, 4)
    u_i, u_f, u_g, u_o = np.split(weights.w_hh, 4)
    b_i, b_f, b_g, b_o = _bias_sums(weights, 4)
    h_i, h_f, h_g, h_o = _per_gate(hidden, h_prev, 4)

    i_t = sigmoid(x @ w_i.T + h_i @ u_i.T + b_i)
    f_t = sigmoid(x @ w_f.T + h_f @ u_f.T + b_f)
    o_t = sigmoid(x @ w_o.T + h_o @ u_o.T + b_o)
    g_t = f(x @ w_g.T + h_g @ u_g.T + b_g)

    c_t = state * (f_t * c_prev + i_t * (update * g_t))
    h_t = o_t * f(c_t)
    return h_t if weights.w_hr is None else h_t @ weights.w_hr.T, c_t


def gru_reset_before_step(
    x: Array,
    h_prev: Array,
    weights: Weights,
    f: Activation = np.tanh,
    *,
    hidden: Multiplier = 1.0,
    update: Multiplier = 1.0,
    state: Multiplier = 1.0,
) -> Array:
    """Eqs. 10, 11 and 13: the paper's GRU, which resets h_{t-1} before the product with U_g.

    Args:
        x: input x_t, [B, I].
        h_prev: hidden value h_{t-1}, [B, H].
        weights: the layer's parameters, G = 3.
        f: activation of the candidate.
        hidden: multiplier of h_{t-1} in the gates and the candidate, not in (1 - z_t) * h_{t-1}.
        update: multiplier of g_t.
        state: multiplier of h_t.

    Returns:
        h_t, [B, H].
    """
    w_r, w_z, w_g = np.split(weights.w_ih, 3)
    u_r, u_z, u_g = np.split(weights.w_hh, 3)
    b_r, b_z, b_g = _bias_sums(weights, 3)
    h_r, h_z, h_g = _per_gate(hidden, h_prev, 3)

    z_t = sigmoid(x @ w_z.T + h_z @ u_z.T + b_z)
    r_t = sigmoid(x @ w_r.T + h_r @ u_r.T + b_r)
    g_t = f(x @ w_g.T + (r_t * h_g) @ u_g.T + b_g)
    return state * ((1 - z_t) * h_prev + z_t * (update * g_t))


def gru_reset_after_step(
    x: Array,
    h_prev: Array,
    weights: Weights,
    f: Activation = np.tanh,
    *,
    hidden: Multiplier = 1.0,
    update: Multiplier = 1.0,
    state: Multiplier = 1.0,
) -> Array:
    """Eq. 13 in `torch.nn.GRU`'s form: it resets U_n h_{t-1} + b_hn, and z_t keeps the old value.

    n_t = f(W_n x_t + b_in + r_t * (U_n d(h_{t-1}) + b_hn)),
    h_t = (1 - z_t) * d(n_t) + z_t * h_{t-1}.

    Args:
        x: input x_t, [B, I].
        h_prev: hidden value h_{t-1}, [B, H].
        weights: the layer's parameters, G = 3.
        f: activation of the candidate.
        hidden: multiplier of h_{t-1} in the gates and the candidate, not in z_t * h_{t-1}.
        update: multiplier of n_t.
        state: multiplier of h_t.

    Returns:
        h_t, [B, H].
    """
    w_r, w_z, w_n = np.split(weights.w_ih, 3)
    u_r, u_z, u_n = np.split(weights.w_hh, 3)
    b_r, b_z, _ = _bias_sums(weights, 3)
    b_in = np.split(_bias(weights.b_ih, weights), 3)[2]
    b_hn = np.split(_bias(weights.b_hh, weights), 3)[2]
    h_r, h_z, h_n = _per_gate(hidden, h_prev, 3)

    r_t = sigmoid(x @ w_r.T + h_r @ u_r.T + b_r)
    z_t = sigmoid(x @ w_z.T + h_z @ u_z.T + b_z)
    n_t = f(x @ w_n.T + b_in + r_t * (h_n @ u_n.T + b_hn))
    return state * ((1 - z_t) * (update * n_t) + z_t * h_prev)


def _bias(bias: Array | None, weights: Weights) -> Array:
    """Returns the bias [G*H], zeros if the layer has none."""
    return np.zeros(len(weights.w_ih)) if bias is None else bias


def _bias_sums(weights: Weights, gates: int) -> Sequence[Array]:
    """Returns the paper's one bias per gate, [H] each: the sum of torch's two."""
    return np.split(_bias(weights.b_ih, weights) + _bias(weights.b_hh, weights), gates)


def _per_gate(hidden: Multiplier, h_prev: Array, gates: int) -> Array:
    """Returns d(h_{t-1}) as each gate sees it, [G, B, W], Eq. 7."""
    return np.broadcast_to(hidden * h_prev, (gates, *h_prev.shape))
