"""The two GRUs: the paper's, Eqs. 10-13, and the one of torch and cuDNN.

They are different functions of the same weights: the paper's resets h before the product and lets z
open the update; torch's resets after the product and lets z hold the old value.
"""

from recdrop._types import Activation, HiddenState, PreX, RecurrentWeights, SiteFactors
from recdrop.equations.product import recurrent_product


def gru_paper_step(
    pre_x: PreX, prev: HiddenState, weights: RecurrentWeights, drop: SiteFactors, f: Activation
) -> HiddenState:
    """One step of the paper's GRU (``reset_after=False``), ``pre_x`` [B, 3H] as r, z, g."""
    h_prev = drop.hidden(prev.h)  # Gal's site: all products, never the carried value below
    h_rz, h_g = (h_prev, h_prev) if h_prev.ndim == 2 else (h_prev[:2], h_prev[2])
    u_rz, u_g = weights.w_hh.tensor_split((weights.w_hh.shape[0] // 3 * 2,))
    x_rz, x_g = pre_x.tensor_split((u_rz.shape[0],), dim=-1)
    r, z = (x_rz + recurrent_product(h_rz, u_rz)).sigmoid().chunk(2, dim=-1)  # Eq. 10
    g = f(x_g + recurrent_product(r * h_g, u_g))  # Eq. 11
    return HiddenState(drop.state((1 - z) * prev.h + z * drop.update(g)))  # Eq. 12, Eq. 13


def gru_step(
    pre_x: PreX, prev: HiddenState, weights: RecurrentWeights, drop: SiteFactors, f: Activation
) -> HiddenState:
    """One step of torch's GRU (``reset_after=True``), ``pre_x`` [B, 3H] in torch's order r, z, n.

    ``weights.b_hn`` is the candidate's recurrent bias, which this variant resets with the product.
    """
    h_prev = drop.hidden(prev.h)
    u_r, u_z, u_n = recurrent_product(h_prev, weights.w_hh).chunk(3, dim=-1)
    x_r, x_z, x_n = pre_x.chunk(3, dim=-1)
    r, z = (x_r + u_r).sigmoid(), (x_z + u_z).sigmoid()
    n = f(x_n + r * (u_n if weights.b_hn is None else u_n + weights.b_hn))
    return HiddenState(
        drop.state((1 - z) * drop.update(n) + z * prev.h)
    )  # Eq. 13, z as torch has it
