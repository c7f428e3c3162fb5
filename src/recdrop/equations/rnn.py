"""The simple recurrent network, Eqs. 1-2."""

from recdrop._types import Activation, HiddenState, PreX, RecurrentWeights, SiteFactors
from recdrop.equations.product import recurrent_product


def rnn_step(
    pre_x: PreX, prev: HiddenState, weights: RecurrentWeights, drop: SiteFactors, f: Activation
) -> HiddenState:
    """One step of a plain RNN, Eq. 1, with the paper's dropout on h_{t-1}, Eq. 2."""
    h_prev = drop.hidden(prev.h)  # Eq. 2
    return HiddenState(f(pre_x + recurrent_product(h_prev, weights.w_hh)))  # Eq. 1
