"""The LSTM, Eqs. 4-9."""

from recdrop._types import Activation, LSTMState, PreX, RecurrentWeights, SiteFactors
from recdrop.equations.product import recurrent_product


def lstm_step(
    pre_x: PreX, prev: LSTMState, weights: RecurrentWeights, drop: SiteFactors, f: Activation
) -> LSTMState:
    """One LSTM step, Eqs. 4-6, with a dropout site for each scheme that the paper compares.

    ``pre_x`` is [B, 4H] in torch's order i, f, g, o. With a projection (torch's ``proj_size``; not
    in the paper) h is W_hr times Eq. 6's h.
    """
    h_prev = drop.hidden(prev.h)  # Eq. 7, Gal: what every gate sees
    gates = pre_x + recurrent_product(h_prev, weights.w_hh)  # Eq. 4
    i, f_gate, g, o = gates.chunk(4, dim=-1)
    update = drop.update(f(g))  # Eq. 9, this paper
    c = drop.state(f_gate.sigmoid() * prev.c + i.sigmoid() * update)  # Eq. 5; Eq. 8, Moon et al.
    h = o.sigmoid() * f(c)  # Eq. 6
    return LSTMState(h if weights.w_hr is None else h @ weights.w_hr.T, c)
