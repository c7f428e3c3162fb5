"""The recurrent product, for a hidden value that all gates share or that each gate sees masked."""

import torch
from torch import Tensor

from recdrop._types import RecurrentWeight, SeenHidden


def recurrent_product(h_seen: SeenHidden, w_hh: RecurrentWeight) -> Tensor:
    """U h for all gates of ``w_hh``, [B, GH].

    Args:
        h_seen: d(h_{t-1}): [B, W] where all gates see the same; [G, B, W] where an untied mask
            gives each gate its own view.
        w_hh: [GH, W], gates stacked.
    """
    if h_seen.ndim == 2:
        return h_seen @ w_hh.T
    per_gate = w_hh.unflatten(0, (h_seen.shape[0], -1))
    return torch.einsum("gbw,ghw->bgh", h_seen, per_gate).flatten(1)
