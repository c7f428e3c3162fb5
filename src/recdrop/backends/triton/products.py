"""A tile's recurrent products: what the gates see of h, [BB rows, K], times its units' weights.

Weights are read at every step, or once for all steps (``KEEP``), where they fit on the chip.
``UNTIED`` and ``V`` views: each gate sees h through a mask of its own.
"""

import triton
import triton.language as tl

from recdrop.backends.triton.cells import drop, factor


@triton.jit
def _products(
    a, view_stride, w, gate_stride, w_k, k_total, live_b, live_u,
    G: tl.constexpr, UNTIED: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Up to four products of one operand, or of one view each, with G blocks of weights.

    ``a`` [BB] points to rows of consecutive k, ``w`` [BU] to the units' weights, ``w_k`` apart.
    """
    s0 = tl.zeros((BB, BU), tl.float32)
    s1 = tl.zeros((BB, BU), tl.float32)
    s2 = tl.zeros((BB, BU), tl.float32)
    s3 = tl.zeros((BB, BU), tl.float32)
    for first in range(0, k_total, BK):
        k = first + tl.arange(0, BK)
        a_at = a[:, None] + k[None, :]
        w_at = w[None, :] + k[:, None] * w_k
        a_live = live_b[:, None] & (k < k_total)[None, :]
        w_live = live_u[None, :] & (k < k_total)[:, None]
        # Other programs have written it: .cg asks for the second cache (Triton drops it of some
        # asynchronous copies); what orders the two is the wait of `kernels` alone.
        seen = tl.load(a_at, mask=a_live, other=0.0, cache_modifier=".cg")
        s0 = tl.dot(seen, tl.load(w_at, mask=w_live, other=0.0), s0, input_precision=PRECISION)
        if G > 1:
            if UNTIED:
                seen = tl.load(a_at + view_stride, mask=a_live, other=0.0, cache_modifier=".cg")
            each = tl.load(w_at + gate_stride, mask=w_live, other=0.0)
            s1 = tl.dot(seen, each, s1, input_precision=PRECISION)
        if G > 2:
            if UNTIED:
                seen = tl.load(a_at + 2 * view_stride, mask=a_live, other=0.0, cache_modifier=".cg")
            each = tl.load(w_at + 2 * gate_stride, mask=w_live, other=0.0)
            s2 = tl.dot(seen, each, s2, input_precision=PRECISION)
        if G > 3:
            if UNTIED:
                seen = tl.load(a_at + 3 * view_stride, mask=a_live, other=0.0, cache_modifier=".cg")
            each = tl.load(w_at + 3 * gate_stride, mask=w_live, other=0.0)
            s3 = tl.dot(seen, each, s3, input_precision=PRECISION)
    return s0, s1, s2, s3


@triton.jit
def _product(
    a, w, w_k, k_total, live_b, live_u, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One product; see `_products`."""
    s0, _s1, _s2, _s3 = _products(
        a, 0, w, 0, w_k, k_total, live_b, live_u, 1, False, PRECISION, BB, BU, BK
    )
    return s0


@triton.jit
def kept_weights(w, gate_stride, w_k, H, live_u, G: tl.constexpr, BK: tl.constexpr):
    """The units' weights of G blocks, [BK, BU] each, to stay on the chip over all steps."""
    k = tl.arange(0, BK)
    at = w[None, :] + k[:, None] * w_k
    live = live_u[None, :] & (k < H)[:, None]
    w0 = tl.load(at, mask=live, other=0.0)
    w1 = w0
    w2 = w0
    w3 = w0
    if G > 1:
        w1 = tl.load(at + gate_stride, mask=live, other=0.0)
    if G > 2:
        w2 = tl.load(at + 2 * gate_stride, mask=live, other=0.0)
    if G > 3:
        w3 = tl.load(at + 3 * gate_stride, mask=live, other=0.0)
    return w0, w1, w2, w3


@triton.jit
def _operand(a, H, live_b, BK: tl.constexpr):
    k = tl.arange(0, BK)
    live = live_b[:, None] & (k < H)[None, :]
    return tl.load(a[:, None] + k[None, :], mask=live, other=0.0, cache_modifier=".cg")


@triton.jit
def _products_kept(
    a, view_stride, kept, H, live_b,
    G: tl.constexpr, UNTIED: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`_products` with the weights of `kept_weights`."""
    w0, w1, w2, w3 = kept
    seen = _operand(a, H, live_b, BK)
    s0 = tl.dot(seen, w0, input_precision=PRECISION)
    s1 = s0
    s2 = s0
    s3 = s0
    if G > 1:
        if UNTIED:
            seen = _operand(a + view_stride, H, live_b, BK)
        s1 = tl.dot(seen, w1, input_precision=PRECISION)
    if G > 2:
        if UNTIED:
            seen = _operand(a + 2 * view_stride, H, live_b, BK)
        s2 = tl.dot(seen, w2, input_precision=PRECISION)
    if G > 3:
        if UNTIED:
            seen = _operand(a + 3 * view_stride, H, live_b, BK)
        s3 = tl.dot(seen, w3, input_precision=PRECISION)
    return s0, s1, s2, s3


@triton.jit
def gate_products(
    a, view_stride, w, gate_stride, w_k, kept, H, live_b, live_u,
    G: tl.constexpr, UNTIED: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The products of G gates, from weights on the chip where KEEP."""
    if KEEP:
        return _products_kept(a, view_stride, kept, H, live_b, G, UNTIED, PRECISION, BK)
    else:
        return _products(
            a, view_stride, w, gate_stride, w_k, H, live_b, live_u, G, UNTIED, PRECISION, BB, BU, BK
        )


@triton.jit
def candidate_product(
    a, w, w_k, kept, H, live_b, live_u, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The second product of the paper's GRU."""
    if KEEP:
        return tl.dot(_operand(a, H, live_b, BK), kept[2], input_precision=PRECISION)
    else:
        return _product(a, w, w_k, H, live_b, live_u, PRECISION, BB, BU, BK)


@triton.jit
def through_products(
    a, w, kept, H, live_b, live_u, place, hidden, units,
    HIDDEN: tl.constexpr, ALIGNED: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradient of h_t through the products of P gates at the step after, which ``place`` names."""
    unit, t, row, key = place
    gate_stride = H * H
    total = tl.zeros((BB, BU), tl.float32)
    if V > 1:
        if KEEP:
            each = _products_kept(a, H, kept, H, live_b, P, True, PRECISION, BK)
        for v in tl.static_range(P):
            if KEEP:
                y = each[v]
            else:
                y = _product(
                    a + v * H, w + v * gate_stride, H, H, live_b, live_u, PRECISION, BB, BU, BK
                )
            total += y * factor(HIDDEN, hidden, (v * units + unit, t, row, key), ALIGNED, BU)
    else:
        if KEEP:
            each = _products_kept(a, H, kept, H, live_b, P, True, PRECISION, BK)
            for v in tl.static_range(P):
                total += each[v]
        else:
            total = _product(a, w, H, P * H, live_b, live_u, PRECISION, BB, BU, BK)
        total = drop(total, HIDDEN, hidden, place, ALIGNED, BU)
    return total
