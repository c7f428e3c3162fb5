"""The cells on tiles, and their gradients: Eqs. 1-13, as ``equations/`` has them.

A tile is [BB rows, BU units], float32. What a site does is a compile-time constant, one of the four
below; ``site`` is its numbers (threshold, scale, code), ``place`` where a tile's masks stand (first
unit, step, rows, key). Masks are drawn where they are used, from `recdrop.rng`'s coordinates; none
is stored.
"""

import triton
import triton.language as tl

# What a site does.
NOTHING = tl.constexpr(0)
SCALE = tl.constexpr(1)  # multiplies every unit, in evaluation
MASK_SEQUENCE = tl.constexpr(2)
MASK_STEP = tl.constexpr(3)


# ---------------------------------------------------------------------------------- nonlinearities


@triton.jit
def sigmoid(x):
    """Its division is not rounded: rounded ones of all gates take an LSTM's registers."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """As near to 1 as a float32 can tell, for backward takes 1 - y^2 of it.

    Its division is rounded. Near 0 that formula has only the digits of 1; there the series to x^9,
    whose next term is below the last place.
    """
    y = x * x
    series = 1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835))))
    size = tl.abs(x)
    far = 1 - tl.div_rn(2.0, 1 + tl.exp(2 * size))
    return tl.where(size < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def activate(x, RELU: tl.constexpr):
    """The equations' f."""
    if RELU:
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        return tanh(x)


@triton.jit
def slope(y, RELU: tl.constexpr):
    """The derivative of f where its value is y."""
    if RELU:
        return tl.where(y > 0, 1.0, 0.0)
    else:
        return 1 - y * y


# ----------------------------------------------------------------------------------------- dropout


@triton.jit
def _words(unit, t, row, where, key, BU: tl.constexpr):
    """The Philox word of each unit and row, [BB, BU].

    ``unit`` is the first of BU consecutive units. Each unit makes the call that it shares with
    three others: to hand their words to other threads takes longer than the call.
    """
    low = (key & 0xFFFFFFFF).to(tl.uint32)
    high = ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    units = (unit + tl.arange(0, BU)) // 4
    c2 = row.to(tl.uint32)[:, None] + tl.zeros_like(units).to(tl.uint32)[None, :]
    c0 = units.to(tl.uint32)[None, :] + tl.zeros_like(c2)
    c1 = tl.zeros_like(c2) + t.to(tl.uint32)
    c3 = tl.zeros_like(c2) + where.to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, low, high, 10)
    at = ((unit + tl.arange(0, BU)) % 4)[None, :]
    return tl.where(at == 0, w0, tl.where(at == 1, w1, tl.where(at == 2, w2, w3)))


@triton.jit
def factor(ACTS: tl.constexpr, site, place, BU: tl.constexpr):
    """What a site multiplies a tile with, [BB, BU]: its scale where the unit is kept, else 0."""
    threshold, scale, code = site
    if ACTS == SCALE:
        return scale
    else:
        unit, t, row, key = place
        if ACTS == MASK_SEQUENCE:
            t = t * 0
        words = _words(unit, t, row, code, key, BU)
        return tl.where(words < threshold.to(tl.uint32), scale, 0.0)


@triton.jit
def drop(value, ACTS: tl.constexpr, site, place, BU: tl.constexpr):
    """A tile after a site."""
    if ACTS == NOTHING:
        return value
    else:
        return value * factor(ACTS, site, place, BU)


# ------------------------------------------------------------------------------------------- cells
# Gates come as what their nonlinearities take and leave as what these give.


@triton.jit
def lstm(
    i, f, g, o, c, place, update, state,
    RELU: tl.constexpr, UPDATE: tl.constexpr, STATE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Gates, c_t and h_t, from c_{t-1}."""
    i = sigmoid(i)  # Eq. 4
    f = sigmoid(f)
    g = activate(g, RELU)
    o = sigmoid(o)
    c = f * c + i * drop(g, UPDATE, update, place, BU)  # Eq. 5; Eq. 9, this paper
    c = drop(c, STATE, state, place, BU)  # Eq. 8, Moon et al.
    return i, f, g, o, c, o * activate(c, RELU)  # Eq. 6


@triton.jit
def gru(
    r, z, x_n, u_n, h, place, update, state,
    RELU: tl.constexpr, UPDATE: tl.constexpr, STATE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """torch's: reset after the product U_n h, z holds the old value. Gates and h_t."""
    r = sigmoid(r)
    z = sigmoid(z)
    n = activate(x_n + r * u_n, RELU)
    h = (1 - z) * drop(n, UPDATE, update, place, BU) + z * h
    return r, z, n, drop(h, STATE, state, place, BU)


@triton.jit
def gru_paper(
    z, g, h, place, update, state,
    RELU: tl.constexpr, UPDATE: tl.constexpr, STATE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """The paper's, behind its second product: candidate and h_t. ``z`` is a gate already."""
    g = activate(g, RELU)  # Eq. 11
    h = (1 - z) * h + z * drop(g, UPDATE, update, place, BU)  # Eq. 12; Eq. 13, this paper
    return g, drop(h, STATE, state, place, BU)


# --------------------------------------------------------------------------------------- gradients
# Of what the nonlinearities took, from ``grad`` of h_t and the gates as they left.


@triton.jit
def lstm_gradient(
    grad, dc, i, f, g, o, c, c_prev, place, update, state,
    RELU: tl.constexpr, UPDATE: tl.constexpr, STATE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Of i, f, g, o, and of c_{t-1}; ``dc`` is what reaches c_t from the step after."""
    y = activate(c, RELU)
    dc = drop(dc + grad * o * slope(y, RELU), STATE, state, place, BU)
    kept = g
    dg = dc * i
    if UPDATE != NOTHING:
        m = factor(UPDATE, update, place, BU)
        kept = g * m
        dg = dg * m
    d_i = dc * kept * i * (1 - i)
    d_f = dc * c_prev * f * (1 - f)
    return d_i, d_f, dg * slope(g, RELU), grad * y * o * (1 - o), dc * f


@triton.jit
def gru_gradient(
    grad, z, g, h_prev, place, update, state, PAPER: tl.constexpr,
    RELU: tl.constexpr, UPDATE: tl.constexpr, STATE: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Of z, of the candidate, and of h_{t-1} past all products."""
    grad = drop(grad, STATE, state, place, BU)
    new = z if PAPER else 1 - z  # shares of h_t: the candidate's, and h_{t-1}'s
    old = 1 - z if PAPER else z
    kept = g
    dg = grad * new
    if UPDATE != NOTHING:
        m = factor(UPDATE, update, place, BU)
        kept = g * m
        dg = dg * m
    gap = kept - h_prev if PAPER else h_prev - kept
    return grad * gap * z * (1 - z), dg * slope(g, RELU), grad * old
