"""The Triton kernels: one tile of rows and units through steps of a recurrence, and back.

A program owns a tile [BB rows, BU units] of the state. In a step it multiplies what the gates see
of h_{t-1} with its units' columns of W_hh, and runs the cell of ``equations/`` on the result:
product, cell and masks in one launch. Masks are drawn where they are used, from `recdrop.rng`'s
coordinates; none is stored. Everything but the operands of products is float32.

Arrays over time have one row for each running row of each step, step t's from ``offsets[t]`` on.
``N`` such rows in all, ``T`` steps, ``B`` rows of the batch, ``H`` units, ``G`` gates, ``V`` views
of h: G where each gate has a mask of its own, else 1.

What a cell or a site does is a compile-time constant: ``UPDATE``, ``HIDDEN`` and ``STATE`` are one
of the four below, ``CELL`` and ``RELU`` name the equations.
"""

import triton
import triton.language as tl

# What a site does.
NOTHING = tl.constexpr(0)
SCALE = tl.constexpr(1)  # multiplies every unit, in evaluation
MASK_SEQUENCE = tl.constexpr(2)
MASK_STEP = tl.constexpr(3)

RNN = tl.constexpr(0)
LSTM = tl.constexpr(1)
GRU = tl.constexpr(2)
GRU_PAPER = tl.constexpr(3)

# Codes of `rng.SITE_CODE`.
_UPDATE = tl.constexpr(0)
_HIDDEN = tl.constexpr(1)
_STATE = tl.constexpr(2)


@triton.jit
def _sigmoid(x):
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    # As near to 1 as a float32 can tell: backward takes 1 - y^2 of it. Near 0 that formula has only
    # the digits of 1, so there the series to x^9; its next term is below the last place.
    y = x * x
    series = 1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835))))
    size = tl.abs(x)
    far = 1 - tl.div_rn(2.0, 1 + tl.exp(2 * size))
    return tl.where(size < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def _f(x, RELU: tl.constexpr):
    if RELU:
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        return _tanh(x)


@triton.jit
def _slope(y, RELU: tl.constexpr):
    """The derivative of f where its value is y."""
    if RELU:
        return tl.where(y > 0, 1.0, 0.0)
    else:
        return 1 - y * y


@triton.jit
def _words(unit, t, row, where, key, ALIGNED: tl.constexpr, BU: tl.constexpr):
    """The Philox word of each unit and row, [BB, BU].

    ``unit`` is the first of BU consecutive units; where it is a multiple of 4 (``ALIGNED``), one
    call serves four of them.
    """
    low = (key & 0xFFFFFFFF).to(tl.uint32)
    high = ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    units = unit // 4 + tl.arange(0, BU // 4) if ALIGNED else (unit + tl.arange(0, BU)) // 4
    c2 = row.to(tl.uint32)[:, None] + tl.zeros_like(units).to(tl.uint32)[None, :]
    c0 = units.to(tl.uint32)[None, :] + tl.zeros_like(c2)
    c1 = tl.zeros_like(c2) + t.to(tl.uint32)
    c3 = tl.zeros_like(c2) + where.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, low, high, 10)
    if ALIGNED:
        return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    else:
        at = ((unit + tl.arange(0, BU)) % 4)[None, :]
        return tl.where(at == 0, w0, tl.where(at == 1, w1, tl.where(at == 2, w2, w3)))


@triton.jit
def _factor(
    ACTS: tl.constexpr, threshold, scale, unit, t, row, where, key, ALIGNED: tl.constexpr,
    BU: tl.constexpr,
):  # fmt: skip
    """What a site multiplies a tile with, [BB, BU]: its scale where the unit is kept, else 0."""
    if ACTS == SCALE:
        return scale
    else:
        if ACTS == MASK_SEQUENCE:
            t = t * 0
        words = _words(unit, t, row, where, key, ALIGNED, BU)
        return tl.where(words < threshold.to(tl.uint32), scale, 0.0)


@triton.jit
def _drop(
    value, ACTS: tl.constexpr, threshold, scale, unit, t, row, where, key, ALIGNED: tl.constexpr,
    BU: tl.constexpr,
):  # fmt: skip
    """A tile after a site."""
    if ACTS == NOTHING:
        return value
    else:
        return value * _factor(ACTS, threshold, scale, unit, t, row, where, key, ALIGNED, BU)


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
        # .cg: other programs have written it; what orders the two is `_wait_for_all`.
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
def _kept(w, gate_stride, w_k, H, live_u, G: tl.constexpr, BK: tl.constexpr):
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
    a, view_stride, w0, w1, w2, w3, H, live_b,
    G: tl.constexpr, UNTIED: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`_products` with the weights of `_kept`."""
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
def _wait_for_all(barrier, arrivals):
    """Every program comes here before any leaves. All must be resident at once."""
    tl.debug_barrier()
    tl.atomic_add(barrier, 1, sem="release", scope="gpu")
    while tl.atomic_add(barrier, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()


@triton.jit
def _store_seen(
    seen, h_t, t_next, row, unit, at, live, key, where, threshold, scale, view_stride, H,
    HIDDEN: tl.constexpr, V: tl.constexpr, ALIGNED: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """What the gates see of h_t at the step after: Eq. 7, one view or one for each gate."""
    if HIDDEN == NOTHING:
        tl.store(seen + at, h_t.to(seen.dtype.element_ty), mask=live)
    else:
        for v in tl.static_range(V):
            d = h_t * _factor(
                HIDDEN, threshold, scale, v * H + unit, t_next, row, where, key, ALIGNED, BU
            )
            tl.store(seen + v * view_stride + at, d.to(seen.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["first", "count", "t_up", "t_hidden", "t_state", "layer_code"])
def forward(
    pre_x,  # [N, GH] W_ih x plus the biases outside the recurrent product
    w_hh,  # [GH, H]
    b_hn,  # [H] torch's GRU: the candidate's recurrent bias; else unused
    offsets,  # int32 [T + 1] first row of each step
    rows,  # int64 [B] coordinates of the masks
    key_at,  # int64 scalar; unused without masks
    seen,  # [2, V, B, H] what the gates see; the half of step ``first`` is given, the other written
    operand,  # [B, H] the paper's GRU: r * d(h), between its two products
    state,  # float32 [B, H] in: LSTM's c, a GRU's h before ``first``; out: after the last step
    h,  # [N, H] written
    gates,  # [N, GH] written, after their nonlinearities; not of an RNN
    inner,  # float32 [N, H] written: the LSTM's c, U_n h + b_hn of torch's GRU
    barrier,  # int32 scalar, 0; unused in one step
    first, count,  # steps in the order of time's direction
    T, B, H,
    t_up, t_hidden, t_state,  # thresholds
    s_up, s_hidden, s_state,  # scales
    layer_code,  # 4 * direction + 8 * layer
    CELL: tl.constexpr, RELU: tl.constexpr, REVERSE: tl.constexpr,
    UPDATE: tl.constexpr, HIDDEN: tl.constexpr, STATE: tl.constexpr,
    V: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_B_HN: tl.constexpr, ALIGNED: tl.constexpr,
    PHASE: tl.constexpr, PHASES: tl.constexpr,  # from and to; the paper's GRU: 0 gates, 1 candidate
    TURNS: tl.constexpr,  # tiles of a program
    PERSISTENT: tl.constexpr,  # all programs run at once and wait for each other after each step
    KEEP: tl.constexpr,  # a program has one tile, whose weights stay on the chip: BK holds all of H
    PRECISION: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Steps ``first`` to ``first + count`` of one layer and direction, Eqs. 1-13."""
    G: tl.constexpr = 1 if CELL == RNN else (4 if CELL == LSTM else 3)
    UNTIED: tl.constexpr = V > 1
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    across = tl.cdiv(H, BU)
    key = tl.load(key_at)
    view_stride = B * H
    gate_stride = H * H  # of w_hh
    if KEEP:  # of this program's one tile
        kept_u = program % across * BU + tl.arange(0, BU)
        w0, w1, w2, w3 = _kept(w_hh + kept_u * H, gate_stride, 1, H, kept_u < H, G, BK)
    up_code = layer_code + _UPDATE
    hid_code = layer_code + _HIDDEN
    state_code = layer_code + _STATE
    arrivals = 0
    for s in tl.range(first, first + count, num_stages=1):  # no load goes ahead of the wait
        t = T - 1 - s if REVERSE else s
        t_next = t - 1 if REVERSE else t + 1
        at = tl.load(offsets + t)
        running = tl.load(offsets + t + 1) - at
        now = seen + (s % 2) * V * view_stride
        after = seen + ((s + 1) % 2) * V * view_stride
        for phase in tl.static_range(PHASE, PHASES):
            for turn in tl.range(0, TURNS, num_stages=1):
                tile = program + turn * programs  # beyond the last one nothing is live
                b = tile // across * BB + tl.arange(0, BB)
                unit = tile % across * BU
                u = unit + tl.arange(0, BU)
                live_u = u < H
                row = tl.load(rows + b, mask=b < B, other=0) if HAS_ROWS else b
                own = b[:, None] * H + u[None, :]
                w = w_hh + u * H
                live_b = b < running
                live = live_b[:, None] & live_u[None, :]
                n = (at + b).to(tl.int64)
                of_h = n[:, None] * H + u[None, :]
                of_gates = n[:, None] * (G * H) + u[None, :]
                a = now + b * H

                if CELL == GRU_PAPER:
                    if phase == 0:
                        if KEEP:
                            y0, y1, y2, y3 = _products_kept(
                                a, view_stride, w0, w1, w2, w3, H, live_b, 2, UNTIED, PRECISION, BK
                            )
                        else:
                            y0, y1, y2, y3 = _products(
                                a, view_stride, w, gate_stride, 1, H, live_b, live_u, 2, UNTIED,
                                PRECISION, BB, BU, BK,
                            )  # fmt: skip
                        x_r = tl.load(pre_x + of_gates, mask=live, other=0.0)
                        r = _sigmoid(x_r + y0)  # Eq. 10
                        z = _sigmoid(tl.load(pre_x + of_gates + H, mask=live, other=0.0) + y1)
                        h_seen = tl.load(now + (V - 1) * view_stride + own, mask=live, other=0.0,
                                         cache_modifier=".cg")  # fmt: skip
                        tl.store(gates + of_gates, r.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + H, z.to(gates.dtype.element_ty), mask=live)
                        reset = r * h_seen.to(tl.float32)
                        tl.store(operand + own, reset.to(operand.dtype.element_ty), mask=live)
                    else:
                        if KEEP:
                            reset = _operand(operand + b * H, H, live_b, BK)
                            y2 = tl.dot(reset, w2, input_precision=PRECISION)
                        else:
                            y2 = _product(
                                operand + b * H, w + 2 * gate_stride, 1, H, live_b, live_u,
                                PRECISION, BB, BU, BK,
                            )  # fmt: skip
                        z = tl.load(gates + of_gates + H, mask=live, other=0.0).to(tl.float32)
                        h_prev = tl.load(state + own, mask=live, other=0.0)
                        x_g = tl.load(pre_x + of_gates + 2 * H, mask=live, other=0.0)
                        g = _f(x_g + y2, RELU)  # Eq. 11
                        tl.store(gates + of_gates + 2 * H, g.to(gates.dtype.element_ty), mask=live)
                        g = _drop(  # Eq. 13
                            g, UPDATE, t_up, s_up, unit, t, row, up_code, key, True, BU
                        )
                        h_t = (1 - z) * h_prev + z * g  # Eq. 12
                        h_t = _drop(
                            h_t, STATE, t_state, s_state, unit, t, row, state_code, key, True, BU
                        )
                        tl.store(state + own, h_t, mask=live)
                else:
                    if KEEP:
                        y0, y1, y2, y3 = _products_kept(
                            a, view_stride, w0, w1, w2, w3, H, live_b, G, UNTIED, PRECISION, BK
                        )
                    else:
                        y0, y1, y2, y3 = _products(
                            a, view_stride, w, gate_stride, 1, H, live_b, live_u, G, UNTIED,
                            PRECISION, BB, BU, BK,
                        )  # fmt: skip
                    x0 = tl.load(pre_x + of_gates, mask=live, other=0.0)
                    if CELL == RNN:
                        h_t = _f(x0 + y0, RELU)  # Eq. 1
                    elif CELL == LSTM:
                        i = _sigmoid(x0 + y0)  # Eq. 4
                        f = _sigmoid(tl.load(pre_x + of_gates + H, mask=live, other=0.0) + y1)
                        g = _f(tl.load(pre_x + of_gates + 2 * H, mask=live, other=0.0) + y2, RELU)
                        o = _sigmoid(tl.load(pre_x + of_gates + 3 * H, mask=live, other=0.0) + y3)
                        tl.store(gates + of_gates, i.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + H, f.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + 2 * H, g.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + 3 * H, o.to(gates.dtype.element_ty), mask=live)
                        g = _drop(  # Eq. 9, this paper
                            g, UPDATE, t_up, s_up, unit, t, row, up_code, key, True, BU
                        )
                        c = f * tl.load(state + own, mask=live, other=0.0) + i * g  # Eq. 5
                        c = _drop(  # Eq. 8, Moon et al.
                            c, STATE, t_state, s_state, unit, t, row, state_code, key, True, BU
                        )
                        tl.store(state + own, c, mask=live)
                        tl.store(inner + of_h, c, mask=live)
                        h_t = o * _f(c, RELU)  # Eq. 6
                    else:
                        r = _sigmoid(x0 + y0)
                        z = _sigmoid(tl.load(pre_x + of_gates + H, mask=live, other=0.0) + y1)
                        if HAS_B_HN:
                            y2 += tl.load(b_hn + u, mask=live_u, other=0.0).to(tl.float32)[None, :]
                        x_g = tl.load(pre_x + of_gates + 2 * H, mask=live, other=0.0)
                        g = _f(x_g + r * y2, RELU)
                        tl.store(gates + of_gates, r.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + H, z.to(gates.dtype.element_ty), mask=live)
                        tl.store(gates + of_gates + 2 * H, g.to(gates.dtype.element_ty), mask=live)
                        tl.store(inner + of_h, y2, mask=live)
                        g = _drop(g, UPDATE, t_up, s_up, unit, t, row, up_code, key, True, BU)
                        h_t = (1 - z) * g + z * tl.load(state + own, mask=live, other=0.0)
                        h_t = _drop(
                            h_t, STATE, t_state, s_state, unit, t, row, state_code, key, True, BU
                        )
                        tl.store(state + own, h_t, mask=live)
                if CELL != GRU_PAPER or phase == 1:
                    tl.store(h + of_h, h_t.to(h.dtype.element_ty), mask=live)
                    _store_seen(
                        after, h_t, t_next, row, unit, own, live, key, hid_code,
                        t_hidden, s_hidden, view_stride, H, HIDDEN, V, ALIGNED, BU,
                    )  # fmt: skip
            if PERSISTENT:
                arrivals += programs
                _wait_for_all(barrier, arrivals)


@triton.jit(do_not_specialize=["t_up", "t_hidden", "t_state", "layer_code", "first", "count"])
def backward(
    w_hh,  # [GH, H]
    offsets,  # int32 [T + 1]
    rows,  # int64 [B]
    key_at,  # int64 scalar
    h0,  # [B, H]
    c0,  # [B, H] of an LSTM
    h,  # [N, H]
    gates,  # [N, GH]
    inner,  # float32 [N, H]
    dh_out,  # [N, H] gradient of h; unused where HAS_DH is false
    dh,  # float32 [B, H] in: gradient of h_n; out: what reaches h_0 past the product
    dc,  # float32 [B, H] in: gradient of c_n; out: of c_0
    d_in,  # [N, GH] written: gradient of pre_x
    d_rec,  # [N, GH] written: gradient of the recurrent product; d_in but for torch's GRU
    barrier,  # int32 scalar, 0; unused in one step
    first, count,  # steps, the last step first
    T, B, H,
    t_up, t_hidden, t_state,
    s_up, s_hidden, s_state,
    layer_code,
    CELL: tl.constexpr, RELU: tl.constexpr, REVERSE: tl.constexpr,
    UPDATE: tl.constexpr, HIDDEN: tl.constexpr, STATE: tl.constexpr,
    V: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_DH: tl.constexpr, ALIGNED: tl.constexpr,
    PHASE: tl.constexpr, PHASES: tl.constexpr,  # from and to; the paper's GRU: 0 candidate, 1 gates
    TURNS: tl.constexpr,  # tiles of a program
    PERSISTENT: tl.constexpr,  # all programs run at once and wait for each other after each step
    KEEP: tl.constexpr,  # a program has one tile, whose weights stay on the chip: BK holds all of H
    PRECISION: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient of the steps that `forward` ran, from the last one on."""
    G: tl.constexpr = 1 if CELL == RNN else (4 if CELL == LSTM else 3)
    P: tl.constexpr = 2 if CELL == GRU_PAPER else G  # gates that see h itself
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    across = tl.cdiv(H, BU)
    key = tl.load(key_at)
    gate_stride = H * H
    if KEEP:  # of this program's one tile
        kept_u = program % across * BU + tl.arange(0, BU)
        w0, w1, w2, w3 = _kept(w_hh + kept_u, gate_stride, H, H, kept_u < H, G, BK)
    up_code = layer_code + _UPDATE
    hid_code = layer_code + _HIDDEN
    state_code = layer_code + _STATE
    arrivals = 0
    for s in tl.range(first, first + count, num_stages=1):  # no load goes ahead of the wait
        t = s if REVERSE else T - 1 - s
        t_after = t - 1 if REVERSE else t + 1  # the step whose product saw this one's h
        t_before = t + 1 if REVERSE else t - 1
        at = tl.load(offsets + t)
        running = tl.load(offsets + t + 1) - at
        # h and c of the step before: rows that it did not run start from the initial state.
        has_before = (t_before >= 0) & (t_before < T)
        at_before = tl.load(offsets + t_before, mask=has_before, other=0)
        end_before = tl.load(offsets + t_before + 1, mask=has_before, other=0)
        has_after = (t_after >= 0) & (t_after < T)
        at_after = tl.load(offsets + t_after, mask=has_after, other=0)
        end_after = tl.load(offsets + t_after + 1, mask=has_after, other=0)
        for phase in tl.static_range(PHASE, PHASES):
            for turn in tl.range(0, TURNS, num_stages=1):
                tile = program + turn * programs  # beyond the last one nothing is live
                b = tile // across * BB + tl.arange(0, BB)
                unit = tile % across * BU
                u = unit + tl.arange(0, BU)
                live_u = u < H
                row = tl.load(rows + b, mask=b < B, other=0) if HAS_ROWS else b
                own = b[:, None] * H + u[None, :]
                w = w_hh + u
                live_b = b < running
                live = live_b[:, None] & live_u[None, :]
                n = (at + b).to(tl.int64)
                of_h = n[:, None] * H + u[None, :]
                of_gates = n[:, None] * (G * H) + u[None, :]
                run_before = (b < end_before - at_before)[:, None] & live
                of_before = (at_before + b).to(tl.int64)[:, None] * H + u[None, :]

                if CELL != GRU_PAPER or phase == 0:
                    grad = tl.load(dh + own, mask=live, other=0.0)
                    if HAS_DH:
                        grad += tl.load(dh_out + of_h, mask=live, other=0.0)
                    run_after = live_b & (b < end_after - at_after)
                    a = d_rec + (at_after + b).to(tl.int64) * (G * H)
                    if s > 0 and KEEP:
                        y0, y1, y2, y3 = _products_kept(
                            a, H, w0, w1, w2, w3, H, run_after, P, True, PRECISION, BK
                        )
                        if V > 1:
                            grad += y0 * _factor(
                                HIDDEN, t_hidden, s_hidden, unit, t_after, row, hid_code, key,
                                ALIGNED, BU,
                            )  # fmt: skip
                            grad += y1 * _factor(
                                HIDDEN, t_hidden, s_hidden, H + unit, t_after, row, hid_code, key,
                                ALIGNED, BU,
                            )  # fmt: skip
                            if P > 2:
                                grad += y2 * _factor(
                                    HIDDEN, t_hidden, s_hidden, 2 * H + unit, t_after, row,
                                    hid_code, key, ALIGNED, BU,
                                )  # fmt: skip
                            if P > 3:
                                grad += y3 * _factor(
                                    HIDDEN, t_hidden, s_hidden, 3 * H + unit, t_after, row,
                                    hid_code, key, ALIGNED, BU,
                                )  # fmt: skip
                        else:
                            if P > 1:
                                y0 += y1
                            if P > 2:
                                y0 += y2
                            if P > 3:
                                y0 += y3
                            y0 = _drop(
                                y0, HIDDEN, t_hidden, s_hidden, unit, t_after, row, hid_code, key,
                                ALIGNED, BU,
                            )  # fmt: skip
                            grad += y0
                    elif s > 0:
                        if V > 1:
                            for v in tl.static_range(P):
                                through = _product(
                                    a + v * H, w + v * gate_stride, H, H, run_after, live_u,
                                    PRECISION, BB, BU, BK,
                                )  # fmt: skip
                                grad += through * _factor(
                                    HIDDEN, t_hidden, s_hidden, v * H + unit, t_after, row,
                                    hid_code, key, ALIGNED, BU,
                                )  # fmt: skip
                        else:
                            through = _product(
                                a, w, H, P * H, run_after, live_u, PRECISION, BB, BU, BK
                            )
                            through = _drop(
                                through, HIDDEN, t_hidden, s_hidden, unit, t_after, row, hid_code,
                                key, ALIGNED, BU,
                            )  # fmt: skip
                            grad += through

                    if CELL == RNN:
                        y = tl.load(h + of_h, mask=live, other=0.0).to(tl.float32)
                        d0 = grad * _slope(y, RELU)
                        carry = tl.zeros_like(grad)
                    elif CELL == LSTM:
                        i = tl.load(gates + of_gates, mask=live, other=0.0).to(tl.float32)
                        f = tl.load(gates + of_gates + H, mask=live, other=0.0).to(tl.float32)
                        g = tl.load(gates + of_gates + 2 * H, mask=live, other=0.0).to(tl.float32)
                        o = tl.load(gates + of_gates + 3 * H, mask=live, other=0.0).to(tl.float32)
                        fc = _f(tl.load(inner + of_h, mask=live, other=0.0), RELU)
                        c_prev = tl.load(c0 + own, mask=live, other=0.0).to(tl.float32)
                        c_before = tl.load(inner + of_before, mask=run_before, other=0.0)
                        c_prev = tl.where(run_before, c_before, c_prev)
                        dc_t = tl.load(dc + own, mask=live, other=0.0) + grad * o * _slope(fc, RELU)
                        dc_t = _drop(
                            dc_t, STATE, t_state, s_state, unit, t, row, state_code, key, True, BU
                        )
                        update = g
                        dg = dc_t * i
                        if UPDATE != NOTHING:
                            m = _factor(UPDATE, t_up, s_up, unit, t, row, up_code, key, True, BU)
                            update = g * m
                            dg = dg * m
                        d0 = dc_t * update * i * (1 - i)
                        d1 = dc_t * c_prev * f * (1 - f)
                        d2 = dg * _slope(g, RELU)
                        d3 = grad * fc * o * (1 - o)
                        tl.store(dc + own, dc_t * f, mask=live)
                        carry = tl.zeros_like(grad)
                    else:
                        z = tl.load(gates + of_gates + H, mask=live, other=0.0).to(tl.float32)
                        g = tl.load(gates + of_gates + 2 * H, mask=live, other=0.0).to(tl.float32)
                        h_prev = tl.load(h0 + own, mask=live, other=0.0).to(tl.float32)
                        h_before = tl.load(h + of_before, mask=run_before, other=0.0).to(tl.float32)
                        h_prev = tl.where(run_before, h_before, h_prev)
                        grad = _drop(
                            grad, STATE, t_state, s_state, unit, t, row, state_code, key, True, BU
                        )
                        update = g
                        opened = grad * z if CELL == GRU_PAPER else grad * (1 - z)
                        if UPDATE != NOTHING:
                            m = _factor(UPDATE, t_up, s_up, unit, t, row, up_code, key, True, BU)
                            update = g * m
                            opened = opened * m
                        d2 = opened * _slope(g, RELU)
                        if CELL == GRU_PAPER:
                            d1 = grad * (update - h_prev) * z * (1 - z)
                            carry = grad * (1 - z)
                        else:
                            r = tl.load(gates + of_gates, mask=live, other=0.0).to(tl.float32)
                            u_n = tl.load(inner + of_h, mask=live, other=0.0)
                            d1 = grad * (h_prev - update) * z * (1 - z)
                            d0 = d2 * u_n * r * (1 - r)
                            carry = grad * z
                            to = d_rec.dtype.element_ty
                            tl.store(d_rec + of_gates, d0.to(to), mask=live)
                            tl.store(d_rec + of_gates + H, d1.to(to), mask=live)
                            tl.store(d_rec + of_gates + 2 * H, (d2 * r).to(to), mask=live)
                    tl.debug_barrier()  # the value was read above, perhaps by another thread
                    tl.store(dh + own, carry, mask=live)
                    if CELL != GRU_PAPER:
                        tl.store(d_in + of_gates, d0.to(d_in.dtype.element_ty), mask=live)
                    if CELL != RNN:
                        tl.store(d_in + of_gates + H, d1.to(d_in.dtype.element_ty), mask=live)
                        tl.store(d_in + of_gates + 2 * H, d2.to(d_in.dtype.element_ty), mask=live)
                    if CELL == LSTM:
                        tl.store(d_in + of_gates + 3 * H, d3.to(d_in.dtype.element_ty), mask=live)

                if CELL == GRU_PAPER and phase == 1:  # through r * d(h) into r and h, Eq. 11
                    if KEEP:
                        d_g = _operand(d_in + n * (G * H) + 2 * H, H, live_b, BK)
                        d_operand = tl.dot(d_g, w2, input_precision=PRECISION)
                    else:
                        d_operand = _product(
                            d_in + n * (G * H) + 2 * H, w + 2 * gate_stride, H, H, live_b, live_u,
                            PRECISION, BB, BU, BK,
                        )  # fmt: skip
                    r = tl.load(gates + of_gates, mask=live, other=0.0).to(tl.float32)
                    h_prev = tl.load(h0 + own, mask=live, other=0.0).to(tl.float32)
                    h_before = tl.load(h + of_before, mask=run_before, other=0.0).to(tl.float32)
                    h_seen = tl.where(run_before, h_before, h_prev)
                    d_seen = d_operand * r
                    if HIDDEN != NOTHING:
                        m = _factor(
                            HIDDEN, t_hidden, s_hidden, (V - 1) * H + unit, t, row, hid_code, key,
                            ALIGNED, BU,
                        )  # fmt: skip
                        h_seen = h_seen * m
                        d_seen = d_seen * m
                    d0 = d_operand * h_seen * r * (1 - r)
                    tl.store(d_in + of_gates, d0.to(d_in.dtype.element_ty), mask=live)
                    tl.store(dh + own, tl.load(dh + own, mask=live, other=0.0) + d_seen, mask=live)
            if PERSISTENT:
                arrivals += programs
                _wait_for_all(barrier, arrivals)


@triton.jit(do_not_specialize=["threshold", "layer_code"])
def see(
    initial,  # [B, H], or [V, B, H] where INITIAL_VIEWS: h_0, or a gradient on its way to it
    h,  # [N, H]; unused where FIRST
    offsets,  # int32 [T + 1]
    rows,  # int64 [B]
    key_at,  # int64 scalar
    out,  # [V, N, H], or where FIRST [V, B, H]; written
    T, B, H, N,
    threshold, scale, layer_code,
    REVERSE: tl.constexpr, HIDDEN: tl.constexpr, V: tl.constexpr, HAS_ROWS: tl.constexpr,
    ALIGNED: tl.constexpr, FIRST: tl.constexpr, INITIAL_VIEWS: tl.constexpr,
    BB: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """What the gates see of h_{t-1}, Eq. 7, at every step, or where FIRST at each row's first.

    One program for each step, tile of rows and tile of units.
    """
    t = tl.program_id(0)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    unit = tl.program_id(2) * BU
    u = unit + tl.arange(0, BU)
    row = tl.load(rows + b, mask=b < B, other=0) if HAS_ROWS else b
    key = tl.load(key_at)
    t_before = t + 1 if REVERSE else t - 1
    has_before = (t_before >= 0) & (t_before < T)
    at = tl.load(offsets + t)
    live = (b < tl.load(offsets + t + 1) - at)[:, None] & (u < H)[None, :]
    at_before = tl.load(offsets + t_before, mask=has_before, other=0)
    end_before = tl.load(offsets + t_before + 1, mask=has_before, other=0)
    run_before = (b < end_before - at_before)[:, None] & live
    own = b[:, None] * H + u[None, :]
    of_before = (at_before + b).to(tl.int64)[:, None] * H + u[None, :]
    if FIRST:
        live = live & (run_before == 0)
        target = own
        view_stride = tl.cast(B, tl.int64) * H
    else:
        target = (at + b).to(tl.int64)[:, None] * H + u[None, :]
        view_stride = tl.cast(N, tl.int64) * H
    for v in tl.static_range(V):
        start = initial + v * B * H if INITIAL_VIEWS else initial
        value = tl.load(start + own, mask=live & (run_before == 0), other=0.0).to(tl.float32)
        if not FIRST:
            before = tl.load(h + of_before, mask=run_before, other=0.0).to(tl.float32)
            value = tl.where(run_before, before, value)
        value = _drop(
            value, HIDDEN, threshold, scale, v * H + unit, t, row, layer_code + _HIDDEN, key,
            ALIGNED, BU,
        )  # fmt: skip
        tl.store(out + v * view_stride + target, value.to(out.dtype.element_ty), mask=live)
