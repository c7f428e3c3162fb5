"""The Triton kernels: one tile of rows and units through steps of a recurrence, and back.

A program owns a tile [BB rows, BU units] of the state, or several in turn. In a step it multiplies
what the gates see of h_{t-1} with its units' columns of W_hh, and runs a cell of `cells` on the
result: product, cell and masks in one launch. Everything but the operands of products is float32.

Arrays over time have one row for each running row of each step, step t's from ``offsets[t]`` on.
``N`` such rows in all, ``T`` steps, ``B`` rows of the batch, ``H`` units, ``G`` gates, ``V`` views
of h: G where each gate has a mask of its own, else 1. H is a multiple of 16: the layer's own
``units``, and behind them such as have no weights and stay 0.

What a cell or a site does is a compile-time constant: ``UPDATE``, ``HIDDEN`` and ``STATE`` are one
of four in `cells`, ``CELL`` and ``RELU`` name the equations.
"""

import triton
import triton.language as tl

from recdrop.backends.triton.cells import (
    NOTHING,
    activate,
    drop,
    factor,
    gru,
    gru_gradient,
    gru_paper,
    lstm,
    lstm_gradient,
    sigmoid,
    slope,
)
from recdrop.backends.triton.products import (
    candidate_product,
    gate_products,
    kept_rows,
    kept_weights,
    through_candidate,
    through_products,
)

RNN = tl.constexpr(0)
LSTM = tl.constexpr(1)
GRU = tl.constexpr(2)
GRU_PAPER = tl.constexpr(3)

# Codes of `rng.SITE_CODE`.
_UPDATE = tl.constexpr(0)
_HIDDEN = tl.constexpr(1)
_STATE = tl.constexpr(2)


# ----------------------------------------------------------------------------------- tiles, memory


@triton.jit
def _tile(tile, across, B, H, rows, HAS_ROWS: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr):
    """Rows [BB], first unit, units [BU], the rows' coordinates of masks, places in [B, H]."""
    b = tile // across * BB + tl.arange(0, BB)
    unit = tile % across * BU
    u = unit + tl.arange(0, BU)
    row = tl.load(rows + b, mask=b < B, other=0) if HAS_ROWS else b
    return b, unit, u, row, b[:, None] * H + u[None, :]


@triton.jit
def _read(array, at, live):
    return tl.load(array + at, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _write(array, at, value, live):
    tl.store(array + at, value.to(array.dtype.element_ty), mask=live)


@triton.jit
def _before(initial, over_time, own, of_before, run_before, live):
    """A state before a step: of the step before, for rows that it did not run the initial one."""
    first = _read(initial, own, live)
    return tl.where(run_before, _read(over_time, of_before, run_before), first)


@triton.jit
def _wait_for_all(barrier, arrivals):
    """Every program comes here before any leaves. All must be resident at once."""
    tl.debug_barrier()
    tl.atomic_add(barrier, 1, sem="release", scope="gpu")
    while tl.atomic_add(barrier, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()


@triton.jit
def _show(
    seen, h_t, own, live, place, hidden, view_stride, units,
    HIDDEN: tl.constexpr, V: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """What the gates see of h_t at the step after, Eq. 7: one view, or one for each gate."""
    if HIDDEN == NOTHING:
        _write(seen, own, h_t, live)
    else:
        unit, t, row, key = place
        for v in tl.static_range(V):
            m = factor(HIDDEN, hidden, (v * units + unit, t, row, key), BU)
            _write(seen, v * view_stride + own, h_t * m, live)


# ----------------------------------------------------------------------------------------- kernels
#
# Of what differs between calls only H is specialised: the compiler knows that 16 divides it.

_PLAIN = ("first", "count", "T", "B", "N", "units", "layer_code")
_PLAIN += ("t_up", "t_hidden", "t_state", "threshold")


@triton.jit(do_not_specialize=_PLAIN)
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
    T, B, H, units,
    t_up, t_hidden, t_state,  # thresholds
    s_up, s_hidden, s_state,  # scales
    layer_code,  # 4 * direction + 8 * layer
    CELL: tl.constexpr, RELU: tl.constexpr, REVERSE: tl.constexpr,
    UPDATE: tl.constexpr, HIDDEN: tl.constexpr, STATE: tl.constexpr,
    V: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_B_HN: tl.constexpr,
    PHASE: tl.constexpr, PHASES: tl.constexpr,  # from and to; the paper's GRU: 0 gates, 1 candidate
    TURNS: tl.constexpr,  # tiles of a program
    PERSISTENT: tl.constexpr,  # all programs run at once and wait for each other after each step
    KEEP: tl.constexpr,  # a program has one tile, whose weights stay on the chip: BK holds all of H
    PRECISION: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Steps ``first`` to ``first + count`` of one layer and direction, Eqs. 1-13."""
    G: tl.constexpr = 1 if CELL == RNN else (4 if CELL == LSTM else 3)
    FIRST: tl.constexpr = 2 if CELL == GRU_PAPER else G  # gates of the first product
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    across = tl.cdiv(H, BU)
    key = tl.load(key_at)
    view_stride = B * H
    kept = (0, 0)
    if KEEP:  # of this program's one tile
        kept = kept_weights(w_hh, program % across * BU, H, FIRST, V, CELL == GRU_PAPER, BU, BK)
    update = (t_up, s_up, layer_code + _UPDATE)
    hidden = (t_hidden, s_hidden, layer_code + _HIDDEN)
    memory = (t_state, s_state, layer_code + _STATE)
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
                b, unit, u, row, own = _tile(tile, across, B, H, rows, HAS_ROWS, BB, BU)
                place = (unit, t, row, key)
                live_b = b < running
                live_u = u < H
                live = live_b[:, None] & live_u[None, :]
                n = (at + b).to(tl.int64)
                of_h = n[:, None] * H + u[None, :]
                g0 = n[:, None] * (G * H) + u[None, :]  # of the first gate
                g1 = g0 + H
                g2 = g1 + H
                g3 = g2 + H
                # What needs no other program is on its way while the product is made, whose
                # barriers lie between these reads and what is written in their place.
                if phase == 0:
                    x0 = _read(pre_x, g0, live)
                    if CELL != RNN:
                        x1 = _read(pre_x, g1, live)
                    if FIRST > 2:
                        x2 = _read(pre_x, g2, live)
                        past = _read(state, own, live)
                    if CELL == LSTM:
                        x3 = _read(pre_x, g3, live)
                    if HAS_B_HN:
                        bias = _read(b_hn, u, live_u)[None, :]
                    y0, y1, y2, y3 = gate_products(
                        now + b * H, view_stride, w_hh, unit, kept, H, live_b,
                        FIRST, V, KEEP, PRECISION, BB, BU, BK,
                    )  # fmt: skip
                if CELL == RNN:
                    h_t = activate(x0 + y0, RELU)  # Eq. 1
                elif CELL == LSTM:
                    i, f, g, o, c, h_t = lstm(
                        x0 + y0, x1 + y1, x2 + y2, x3 + y3, past,
                        place, update, memory, RELU, UPDATE, STATE, BU,
                    )  # fmt: skip
                    _write(gates, g0, i, live)
                    _write(gates, g1, f, live)
                    _write(gates, g2, g, live)
                    _write(gates, g3, o, live)
                    _write(state, own, c, live)
                    _write(inner, of_h, c, live)
                elif CELL == GRU:
                    if HAS_B_HN:
                        y2 += bias
                    r, z, g, h_t = gru(
                        x0 + y0, x1 + y1, x2, y2, past,
                        place, update, memory, RELU, UPDATE, STATE, BU,
                    )  # fmt: skip
                    _write(gates, g0, r, live)
                    _write(gates, g1, z, live)
                    _write(gates, g2, g, live)
                    _write(inner, of_h, y2, live)
                    _write(state, own, h_t, live)
                elif phase == 0:
                    r = sigmoid(x0 + y0)  # Eq. 10
                    z = sigmoid(x1 + y1)
                    h_seen = tl.load(
                        now + (V - 1) * view_stride + own, mask=live, other=0.0,
                        cache_modifier=".cg",
                    )  # fmt: skip
                    _write(gates, g0, r, live)
                    _write(gates, g1, z, live)
                    _write(operand, own, r * h_seen.to(tl.float32), live)
                else:
                    past = _read(state, own, live)
                    y2 = candidate_product(
                        operand + b * H, w_hh, u, kept, H, live_b, KEEP, PRECISION, BK
                    )
                    g, h_t = gru_paper(
                        _read(gates, g1, live),
                        _read(pre_x, g2, live) + y2,
                        past,
                        place,
                        update,
                        memory,
                        RELU,
                        UPDATE,
                        STATE,
                        BU,
                    )
                    _write(gates, g2, g, live)
                    _write(state, own, h_t, live)
                if CELL != GRU_PAPER or phase == 1:
                    _write(h, of_h, h_t, live)
                    _show(
                        after, h_t, own, live, (unit, t_next, row, key), hidden, view_stride, units,
                        HIDDEN, V, BU,
                    )  # fmt: skip
            if PERSISTENT:
                arrivals += programs
                _wait_for_all(barrier, arrivals)


@triton.jit(do_not_specialize=_PLAIN)
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
    T, B, H, units,
    t_up, t_hidden, t_state,
    s_up, s_hidden, s_state,
    layer_code,
    CELL: tl.constexpr, RELU: tl.constexpr, REVERSE: tl.constexpr,
    UPDATE: tl.constexpr, HIDDEN: tl.constexpr, STATE: tl.constexpr,
    V: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_DH: tl.constexpr,
    PHASE: tl.constexpr, PHASES: tl.constexpr,  # from and to; the paper's GRU: 0 candidate, 1 gates
    TURNS: tl.constexpr,  # tiles of a program
    PERSISTENT: tl.constexpr,  # all programs run at once and wait for each other after each step
    KEEP: tl.constexpr,  # a program has one tile, whose weights stay on the chip: BK holds all of H
    PRECISION: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradient of the steps that `forward` ran, from the last one on."""
    G: tl.constexpr = 1 if CELL == RNN else (4 if CELL == LSTM else 3)
    P: tl.constexpr = 2 if CELL == GRU_PAPER else G  # gates that see h itself
    PAPER: tl.constexpr = CELL == GRU_PAPER
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    across = tl.cdiv(H, BU)
    key = tl.load(key_at)
    kept = (0, 0)
    if KEEP:  # of this program's one tile
        kept_u = program % across * BU + tl.arange(0, BU)
        kept = kept_rows(w_hh, kept_u, H, P, PAPER, BK)
    update = (t_up, s_up, layer_code + _UPDATE)
    hidden = (t_hidden, s_hidden, layer_code + _HIDDEN)
    memory = (t_state, s_state, layer_code + _STATE)
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
                b, unit, u, row, own = _tile(tile, across, B, H, rows, HAS_ROWS, BB, BU)
                place = (unit, t, row, key)
                live_b = b < running
                live = live_b[:, None] & (u < H)[None, :]
                n = (at + b).to(tl.int64)
                of_h = n[:, None] * H + u[None, :]
                g0 = n[:, None] * (G * H) + u[None, :]  # of the first gate
                g1 = g0 + H
                g2 = g1 + H
                g3 = g2 + H
                run_before = (b < end_before - at_before)[:, None] & live
                of_before = (at_before + b).to(tl.int64)[:, None] * H + u[None, :]
                if phase == 0:
                    grad = _read(dh, own, live)
                    if HAS_DH:
                        grad += _read(dh_out, of_h, live)
                    if s > 0:
                        grad += through_products(
                            d_rec + (at_after + b).to(tl.int64) * (G * H), w_hh, u, kept, H,
                            live_b & (b < end_after - at_after),
                            (unit, t_after, row, key), hidden, units, HIDDEN,
                            P, V, KEEP, PRECISION, BB, BU, BK,
                        )  # fmt: skip
                    # All else is read after the product, as its threads hold it: read before, each
                    # value changes threads, by more than twice as many barriers of a program.
                    past = tl.zeros_like(grad)  # what reaches h_{t-1} past all products
                    if CELL == RNN:
                        d0 = grad * slope(_read(h, of_h, live), RELU)
                        _write(d_in, g0, d0, live)
                    elif CELL == LSTM:
                        d0, d1, d2, d3, dc_prev = lstm_gradient(
                            grad, _read(dc, own, live),
                            _read(gates, g0, live), _read(gates, g1, live),
                            _read(gates, g2, live), _read(gates, g3, live),
                            _read(inner, of_h, live),
                            _before(c0, inner, own, of_before, run_before, live),
                            place, update, memory, RELU, UPDATE, STATE, BU,
                        )  # fmt: skip
                        _write(d_in, g0, d0, live)
                        _write(d_in, g1, d1, live)
                        _write(d_in, g2, d2, live)
                        _write(d_in, g3, d3, live)
                    else:
                        d1, d2, past = gru_gradient(
                            grad, _read(gates, g1, live), _read(gates, g2, live),
                            _before(h0, h, own, of_before, run_before, live),
                            place, update, memory, PAPER, RELU, UPDATE, STATE, BU,
                        )  # fmt: skip
                        _write(d_in, g1, d1, live)
                        _write(d_in, g2, d2, live)
                        if CELL == GRU:
                            r = _read(gates, g0, live)
                            d0 = d2 * _read(inner, of_h, live) * r * (1 - r)
                            _write(d_in, g0, d0, live)
                            _write(d_rec, g0, d0, live)
                            _write(d_rec, g1, d1, live)
                            _write(d_rec, g2, d2 * r, live)
                    tl.debug_barrier()  # the values were read above, perhaps by other threads
                    if CELL == LSTM:
                        _write(dc, own, dc_prev, live)
                    _write(dh, own, past, live)
                else:  # the paper's GRU: through r * d(h) into r and h, Eq. 11
                    past = _read(dh, own, live)
                    d_operand = through_candidate(
                        d_in + n * (G * H) + 2 * H, w_hh, u, kept, H, live_b, KEEP, PRECISION, BK
                    )
                    r = _read(gates, g0, live)
                    h_seen = _before(h0, h, own, of_before, run_before, live)
                    d_seen = d_operand * r
                    if HIDDEN != NOTHING:
                        seen_at = ((V - 1) * units + unit, t, row, key)
                        m = factor(HIDDEN, hidden, seen_at, BU)
                        h_seen = h_seen * m
                        d_seen = d_seen * m
                    _write(d_in, g0, d_operand * h_seen * r * (1 - r), live)
                    _write(dh, own, past + d_seen, live)
            if PERSISTENT:
                arrivals += programs
                _wait_for_all(barrier, arrivals)


@triton.jit(do_not_specialize=_PLAIN)
def see(
    initial,  # [B, H], or [V, B, H] where INITIAL_VIEWS: h_0, or a gradient on its way to it
    h,  # [N, H]; unused where FIRST
    offsets,  # int32 [T + 1]
    rows,  # int64 [B]
    key_at,  # int64 scalar
    out,  # [V, N, H], or where FIRST [V, B, H]; written
    T, B, H, units, N,
    threshold, scale, layer_code,
    REVERSE: tl.constexpr, HIDDEN: tl.constexpr, V: tl.constexpr, HAS_ROWS: tl.constexpr,
    FIRST: tl.constexpr, INITIAL_VIEWS: tl.constexpr,
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
    hidden = (threshold, scale, layer_code + _HIDDEN)
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
        place = (v * units + unit, t, row, key)
        value = drop(value, HIDDEN, hidden, place, BU)
        _write(out, v * view_stride + target, value, live)
