"""Rows of units as wide as the kernels take them, and cut again to a layer's own.

Triton loads many values at once of rows that begin at a multiple of 16, else each by itself. The
units behind a layer's own have no weights, so that states and gradients of them stay 0 (but for a
row with a value that is not finite, all of which is NaN two steps later).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from recdrop.backends.ops import Inputs
from recdrop.backends.triton.plan import tiles


def wide(units: int) -> int:
    """H of the kernels for a layer of so many units: the next multiple of 16."""
    return tiles(units, 16) * 16


def widened(given: Inputs, gates: int) -> Inputs:
    """Contiguous, with rows as the kernels take them; the units behind the layer's own stay 0."""
    contiguous: list[Any] = [t if t is None else t.contiguous() for t in given]
    at = Inputs(*contiguous)
    hidden = wide(at.h0.shape[1])
    return at._replace(
        h0=wide_rows(at.h0, hidden),
        c0=wide_rows(at.c0, hidden),
        w_ih=_wide_blocks(at.w_ih, gates, hidden),
        w_hh=wide_rows(_wide_blocks(at.w_hh, gates, hidden), hidden),
        b_ih=_wide_blocks(at.b_ih, gates, hidden),
        b_hh=_wide_blocks(at.b_hh, gates, hidden),
    )


def wide_rows(t: Tensor | None, hidden: int) -> Any:
    """[..., units] as [..., H], contiguous."""
    if t is None or t.shape[-1] == hidden:
        return t if t is None else t.contiguous()
    return F.pad(t, (0, hidden - t.shape[-1]))


def _wide_blocks(t: Tensor | None, gates: int, hidden: int) -> Any:
    """[G units, ...] as [GH, ...]."""
    if t is None or t.shape[0] == gates * hidden:
        return t
    each = t.unflatten(0, (gates, -1))
    return F.pad(each, (0, 0) * (t.ndim - 1) + (0, hidden - each.shape[1])).flatten(0, 1)


def cut_rows(t: Tensor, units: int) -> Tensor:
    """[..., H] as [..., units], contiguous."""
    return t[..., :units].contiguous()


def cut_blocks(t: Tensor, gates: int, units: int) -> Tensor:
    """[GH, ...] as [G units, ...]."""
    return t.unflatten(0, (gates, -1))[:, :units].flatten(0, 1)
