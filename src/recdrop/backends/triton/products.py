"""A tile's recurrent products: what the gates see of h, [BB rows, H], times its units' weights.

A product is as large as it can be made, so that every tensor core of a program has a part of its
own. Forward all gates stand side by side, [BB, S BU]. Backward, and where each gate sees h through
a mask of its own (``V`` views), they are a batch, [S, BB, BU]; the product of one gate is a batch
of parts of H. S is the number of gates up to a power of 2, as Triton wants it. Weights are read at
every step, BK of H at a time, or once for all steps (``KEEP``), where they fit on the chip.
"""

import triton
import triton.language as tl

from recdrop.backends.triton.cells import drop, factor

# ------------------------------------------------------------------------------------ side by side


@triton.jit
def _side_by_side(w_hh, unit, H, G: tl.constexpr, BU: tl.constexpr):
    """Columns of G gates for each unit from ``unit`` on: weights [S BU], and which are live."""
    S: tl.constexpr = 4 if G == 3 else G
    column = tl.arange(0, S * BU)
    gate = column % S
    u = unit + column // S
    return w_hh + gate * (H * H) + u * H, (u < H) & (gate < G)


@triton.jit
def _columns(w, k, H, live_w):
    """[K, S BU] of `_side_by_side`."""
    live = live_w[None, :] & (k < H)[:, None]
    return tl.load(w[None, :] + k[:, None], mask=live, other=0.0)


@triton.jit
def _rows(a, k, H, live_b):
    """[BB, K]. Other programs have written it.

    .cg asks for the second cache (Triton drops it of some asynchronous copies); what orders the
    two is the wait of `kernels` alone.
    """
    live = live_b[:, None] & (k < H)[None, :]
    return tl.load(a[:, None] + k[None, :], mask=live, other=0.0, cache_modifier=".cg")


@triton.jit
def _apart(y, BB: tl.constexpr, BU: tl.constexpr, S: tl.constexpr):
    """The gates of [BB, S BU], side by side for each unit: [BB, BU] each; beyond S anything."""
    if S == 2:
        y0, y1 = tl.split(tl.reshape(y, (BB, BU, 2)))
        return y0, y1, y0, y1
    else:
        even, odd = tl.split(tl.reshape(y, (BB, BU, 2, 2)))
        y0, y2 = tl.split(even)
        y1, y3 = tl.split(odd)
        return y0, y1, y2, y3


# ----------------------------------------------------------------------------------------- batches


@triton.jit
def _parts(first, H, G: tl.constexpr, KEEP: tl.constexpr, BK: tl.constexpr):
    """Of each of a batch of products: gate [S, 1], k [S or 1, K], which are live [S, K].

    One gate's H is cut, BK of it where weights are kept, else 4 BK from ``first`` on.
    """
    if G > 1:
        S: tl.constexpr = 4 if G == 3 else G
        gate = tl.arange(0, S)[:, None]
        k = first + tl.arange(0, BK)[None, :]
    else:
        WIDTH: tl.constexpr = BK if KEEP else 4 * BK
        CUT: tl.constexpr = 16 if WIDTH < 64 else WIDTH // 4  # a product takes no less than 16
        part = tl.arange(0, WIDTH // CUT)[:, None]
        gate = part * 0
        k = first + part * CUT + tl.arange(0, CUT)[None, :]
    return gate, k, (k < H) & (gate < G)


@triton.jit
def _batch_columns(w, gate, k, live, w_k, H, live_w):
    """[S, K, BU]."""
    at = w[None, None, :] + (gate * (H * H) + k * w_k)[:, :, None]
    return tl.load(at, mask=live[:, :, None] & live_w[None, None, :], other=0.0)


@triton.jit
def _kept(w, w_k, H, live_w, G: tl.constexpr, BK: tl.constexpr):
    gate, k, live = _parts(0, H, G, True, BK)
    return _batch_columns(w, gate, k, live, w_k, H, live_w)


@triton.jit
def _batch(
    a, a_stride, w, w_k, kept, H, live_b, live_w,
    G: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The products of G gates over H, or of parts of one gate's H, [S, BB, BU].

    ``a`` [BB] points to rows, ``a_stride`` apart for each gate; ``w`` [BU] to columns, whose
    elements are ``w_k`` apart.
    """
    if KEEP:
        gate, k, live = _parts(0, H, G, True, BK)
        seen = _batch_rows(a, gate * a_stride + k, live, live_b)
        return tl.dot(seen, kept, input_precision=PRECISION)
    else:
        STEP: tl.constexpr = BK if G > 1 else 4 * BK
        S: tl.constexpr = 4 if G == 3 or G == 1 else G
        total = tl.zeros((S, a.shape[0], w.shape[0]), tl.float32)
        for first in range(0, H, STEP):
            gate, k, live = _parts(first, H, G, False, BK)
            seen = _batch_rows(a, gate * a_stride + k, live, live_b)
            weights = _batch_columns(w, gate, k, live, w_k, H, live_w)
            total = tl.dot(seen, weights, total, input_precision=PRECISION)
        return total


@triton.jit
def _batch_rows(a, at, live, live_b):
    """[S, BB, K]; see `_rows`."""
    live = live[:, None, :] & live_b[None, :, None]
    return tl.load(a[None, :, None] + at[:, None, :], mask=live, other=0.0, cache_modifier=".cg")


@triton.jit
def _apart_of_batch(y, BB: tl.constexpr, BU: tl.constexpr, S: tl.constexpr):
    """`_apart` of [S, BB, BU]."""
    return _apart(tl.reshape(tl.permute(y, (1, 2, 0)), (BB, BU * S)), BB, BU, S)


# ----------------------------------------------------------------------------------------- forward


@triton.jit
def kept_weights(
    w_hh, unit, H, G: tl.constexpr, V: tl.constexpr, PAPER: tl.constexpr,
    BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """What `gate_products` of G gates and `candidate_product` keep on the chip."""
    u = unit + tl.arange(0, BU)
    live = u < H
    if G == 1 or V > 1:
        gates = _kept(w_hh + u * H, 1, H, live, G, BK)
    else:
        w, live_w = _side_by_side(w_hh, unit, H, G, BU)
        gates = _columns(w, tl.arange(0, BK), H, live_w)
    candidate = gates
    if PAPER:
        candidate = _kept(w_hh + (u + 2 * H) * H, 1, H, live, 1, BK)
    return gates, candidate


@triton.jit
def gate_products(
    a, view_stride, w_hh, unit, kept, H, live_b,
    G: tl.constexpr, V: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """W_hh times what each of G gates sees of h: four tiles [BB, BU], beyond G anything."""
    S: tl.constexpr = 4 if G == 3 else G
    if G == 1 or V > 1:
        u = unit + tl.arange(0, BU)
        y = _batch(
            a, view_stride, w_hh + u * H, 1, kept[0], H, live_b, u < H, G, KEEP, PRECISION, BK
        )
        if G == 1:
            total = tl.sum(y, 0)
            return total, total, total, total
        else:
            return _apart_of_batch(y, BB, BU, S)
    else:
        w, live_w = _side_by_side(w_hh, unit, H, G, BU)
        if KEEP:
            y = tl.dot(_rows(a, tl.arange(0, BK), H, live_b), kept[0], input_precision=PRECISION)
        else:
            y = tl.zeros((BB, BU * S), tl.float32)
            for first in range(0, H, BK):
                k = first + tl.arange(0, BK)
                seen = _rows(a, k, H, live_b)
                y = tl.dot(seen, _columns(w, k, H, live_w), y, input_precision=PRECISION)
        return _apart(y, BB, BU, S)


@triton.jit
def candidate_product(
    a, w_hh, u, kept, H, live_b, KEEP: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr
):
    """U (r * d(h)) of the paper's GRU, Eq. 11: [BB, BU]."""
    w = w_hh + (u + 2 * H) * H
    return tl.sum(_batch(a, 0, w, 1, kept[1], H, live_b, u < H, 1, KEEP, PRECISION, BK), 0)


# ---------------------------------------------------------------------------------------- backward


@triton.jit
def kept_rows(w_hh, u, H, P: tl.constexpr, PAPER: tl.constexpr, BK: tl.constexpr):
    """What `through_products` of P gates and `through_candidate` keep on the chip."""
    gates = _kept(w_hh + u, H, H, u < H, P, BK)
    candidate = gates
    if PAPER:
        candidate = _kept(w_hh + 2 * H * H + u, H, H, u < H, 1, BK)
    return gates, candidate


@triton.jit
def through_products(
    a, w_hh, u, kept, H, live_b, place, hidden, units,
    HIDDEN: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradient of h_t through the products of P gates at the step after, which ``place`` names."""
    unit, t, row, key = place
    y = _batch(a, H, w_hh + u, H, kept[0], H, live_b, u < H, P, KEEP, PRECISION, BK)
    if V == 1:
        return drop(tl.sum(y, 0), HIDDEN, hidden, place, BU)
    else:
        each = _apart_of_batch(y, BB, BU, 4 if P == 3 else P)
        total = tl.zeros((BB, BU), tl.float32)
        for v in tl.static_range(P):
            m = factor(HIDDEN, hidden, (v * units + unit, t, row, key), BU)
            total += each[v] * m
        return total


@triton.jit
def through_candidate(
    a, w_hh, u, kept, H, live_b, KEEP: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr
):
    """Gradient of r * d(h) through the candidate's product of the paper's GRU: [BB, BU]."""
    w = w_hh + 2 * H * H + u
    return tl.sum(_batch(a, 0, w, H, kept[1], H, live_b, u < H, 1, KEEP, PRECISION, BK), 0)
