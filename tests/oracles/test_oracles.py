"""The oracles against published vectors, hand-computed values and the paper's closed forms."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from .cells import (
    Array,
    Weights,
    gru_reset_after_step,
    gru_reset_before_step,
    lstm_step,
    relu,
    rnn_step,
    sigmoid,
)
from .philox import KNOWN_ANSWERS, SITE_CODES, KeyWords, Words, keep_mask, philox4x32_10, threshold
from .stack import GATES, Drop, run

INPUTS, UNITS = 3, 5
LENGTHS = [4, 6, 1, 5]
STEPS, ROWS = max(LENGTHS), len(LENGTHS)
FULL = [STEPS] * ROWS
KEY = -0x0123456789ABCDEF

# The numbers behind the hand-computed steps: sigmoid(LN3) = 3/4, tanh(LN2) = 3/5.
LN2, LN3 = math.log(2), math.log(3)
X, H_PREV = np.array([[1.0]]), np.array([[2.0]])

equal = np.testing.assert_array_equal
close = partial(np.testing.assert_allclose, rtol=1e-14, atol=1e-14)
draw = partial(keep_mask, layer=0, direction=0)
one_layer = partial(run, num_layers=1, bidirectional=False)

every_cell = pytest.mark.parametrize(
    ("cell", "reset_after"), [("rnn", True), ("lstm", True), ("gru", True), ("gru", False)]
)
# With z = 3/4: how much of h_{t-1} each GRU carries over.
every_gru = pytest.mark.parametrize(
    ("step", "carried"), [(gru_reset_before_step, 1 / 4), (gru_reset_after_step, 3 / 4)]
)
every_sampling = pytest.mark.parametrize("sampling", ["step", "sequence"])
# The multiplier of what is kept in training when keep = 3/4.
every_rescale = pytest.mark.parametrize(("rescale", "scale"), [("train", 4 / 3), ("test", 1)])


def one_unit(*sums: float) -> Weights:
    """Weights of one unit whose gates sum to the given values at X and H_PREV."""
    s = np.array(sums)[:, None]
    return Weights(s / 2, s / 8, s[:, 0] / 16, s[:, 0] * 3 / 16)


def random_weights(
    cell: str, *, num_layers: int = 1, bidirectional: bool = False, width: int = UNITS
) -> dict[str, Array]:
    """Parameters under torch's names; a width other than UNITS makes a projection."""
    rng = np.random.default_rng(0)
    stacked, directions = GATES[cell] * UNITS, 1 + bidirectional
    weights: dict[str, Array] = {}
    for layer in range(num_layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            inputs = INPUTS if layer == 0 else directions * width
            weights["weight_ih" + suffix] = rng.normal(size=(stacked, inputs))
            weights["weight_hh" + suffix] = rng.normal(size=(stacked, width))
            weights["bias_ih" + suffix] = rng.normal(size=stacked)
            weights["bias_hh" + suffix] = rng.normal(size=stacked)
            if width != UNITS:
                weights["weight_hr" + suffix] = rng.normal(size=(width, UNITS))
    return weights


def random_batch() -> Array:
    """Inputs [T, B, I] whose padding would poison whatever read it."""
    x = np.random.default_rng(1).normal(size=(STEPS, ROWS, INPUTS))
    for b, length in enumerate(LENGTHS):
        x[length:, b] = np.nan
    return x


def drops_of(cell: str, sampling: str = "step") -> list[Drop]:
    """Drops at every site the cell has."""
    sites = ["hidden"] if cell == "rnn" else ["hidden", "update", "state"]
    return [Drop(0.3, site, sampling) for site in sites]


def open_lstm(suffix: str = "_l0") -> dict[str, Array]:
    """An LSTM whose i, f, o are 1, as in Eqs. 14-19; with relu, g_t = x_t and h_t = c_t."""
    zero, forced = np.zeros((UNITS, UNITS)), np.full(UNITS, 1000.0)
    return {
        "weight_ih" + suffix: np.concatenate([zero, zero, np.eye(UNITS), zero]),
        "weight_hh" + suffix: np.zeros((4 * UNITS, UNITS)),
        "bias_ih" + suffix: np.concatenate([forced, forced, np.zeros(UNITS), forced]),
    }


def open_gates_run(drop: Drop, *, training: bool) -> tuple[Array, Array, Array]:
    """Runs the open LSTM; returns c_0 [B, H], g [T, B, H] and every c_t [T, B, H]."""
    rng = np.random.default_rng(2)
    c0, g = (rng.uniform(0.5, 1, size=(n, ROWS, UNITS)) for n in (1, STEPS))
    h, _, c_n = one_layer(
        "lstm",
        g,
        FULL,
        open_lstm(),
        c0=c0,
        activation="relu",
        drops=[drop],
        training=training,
        key=KEY,
    )
    equal(h[-1:], c_n)
    return c0[0], g, h


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: Words, key: KeyWords, output: Words) -> None:
    """Ints and arrays reproduce kat_vectors."""
    assert philox4x32_10(counter, key) == output
    c0, c1, c2, c3 = (np.array([word, word], dtype=np.uint64) for word in counter)
    equal(philox4x32_10((c0, c1, c2, c3), key), np.array([output, output]).T)


@pytest.mark.parametrize("key", [0, -1, 2**63 - 1, -(2**63), KEY])
@pytest.mark.parametrize("site", SITE_CODES)
@every_sampling
def test_keep_mask_is_its_scalar_definition(key: int, site: str, sampling: str) -> None:
    """Each element compares one word of one scalar call."""
    rows = [7, 0, 2**32 - 1]
    mask = keep_mask(key, 0.4, site, sampling, layer=3, direction=1, steps=3, rows=rows, units=6)
    code = {"update": 0, "hidden": 1, "state": 2}[site] + 4 * 1 + 8 * 3
    high, low = divmod(key % 2**64, 2**32)
    for t, b, unit in np.ndindex(3, len(rows), 6):
        counter = (unit // 4, t if sampling == "step" else 0, rows[b], code)
        word = philox4x32_10(counter, (low, high))[unit % 4]
        assert mask[t, b, unit] == (word < round(0.6 * 2**32))


@pytest.mark.parametrize(
    ("rate", "kept"),
    [
        (0.5, [True, False, False, False]),
        (0.3, [True, False, False, True]),
        (0.2, [True, False, True, True]),
        (1 - 0x6627E8D5 / 2**32, [False, False, False, False]),
        (1 - 0x6627E8D6 / 2**32, [True, False, False, False]),
    ],
)
def test_keep_mask_of_the_zero_counter(rate: float, kept: list[bool]) -> None:
    """The first published output, 6627e8d5 e169c58d bc57ac4c 9b00dbd8, compared by hand."""
    assert draw(0, rate, "update", "step", steps=1, rows=[0], units=4).tolist() == [[kept]]


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.0, 2**32 - 1),
        (0.5, 2**31),
        (0.75, 2**30),
        (1 - 2.5 / 2**32, 2),
        (1 - 3.5 / 2**32, 4),
        (1 - 0.25 / 2**32, 1),
    ],
)
def test_threshold(rate: float, words: int) -> None:
    """Halves go to even, and neither side is ever empty."""
    assert threshold(rate) == words


def test_keep_mask_sampling() -> None:
    """Per sequence is the step mask of t = 0 at every t; per step is not constant."""
    step, sequence = (
        draw(KEY, 0.5, "state", sampling, steps=9, rows=range(4), units=33)
        for sampling in ("step", "sequence")
    )
    equal(sequence, np.broadcast_to(step[0], step.shape))
    assert len(np.unique(step.reshape(9, -1), axis=0)) == 9


def test_keep_mask_coordinates() -> None:
    """A row's mask depends on its index, not its place, and on every other coordinate."""
    some = partial(draw, rate=0.5, sampling="step", steps=4, rows=[3, 1], units=32)
    base = some(KEY, site="update")
    whole = draw(KEY, 0.5, "update", "step", steps=5, rows=range(4), units=35)
    equal(base, whole[:4, [3, 1], :32])
    others = [
        some(1, site="update"),
        some(KEY, site="hidden"),
        some(KEY, site="state"),
        some(KEY, site="update", layer=1),
        some(KEY, site="update", direction=1),
    ]
    assert len({mask.tobytes() for mask in [base, *others]}) == 6


def test_keep_mask_frequency() -> None:
    """The share of kept units is keep, within five standard deviations."""
    mask = draw(KEY, 0.2, "hidden", "step", steps=50, rows=range(20), units=100)
    assert abs(mask.mean() - 0.8) < 5 * math.sqrt(0.8 * 0.2 / mask.size)


def test_sigmoid() -> None:
    """Right where it is rational, and saturated without a warning."""
    close(sigmoid(np.array([-1e4, -LN3, 0, LN3, 1e4])), [0, 1 / 4, 1 / 2, 3 / 4, 1])


def test_rnn_step() -> None:
    """Eq. 1, then Eq. 2 with h_{t-1} doubled, whose share of the sum is a quarter."""
    close(rnn_step(X, H_PREV, one_unit(LN2)), 3 / 5)
    close(rnn_step(X, H_PREV, one_unit(LN2), relu, hidden=2.0), 5 / 4 * LN2)
    close(rnn_step(X, H_PREV, one_unit(-LN2), relu), 0)


def test_lstm_step() -> None:
    """Eqs. 4-6: i = 3/4, f = 1/2, g = 3/5, o = 1/4, and c_{t-1} such that c_t = LN2."""
    c_prev = 2 * (LN2 - X * 9 / 20)
    h, c = lstm_step(X, H_PREV, c_prev, one_unit(LN3, 0, LN2, -LN3))
    close(c, LN2)
    close(h, 1 / 4 * 3 / 5)


def test_lstm_step_sites_relu_and_projection() -> None:
    """Eqs. 8 and 9: state on the whole cell and so on h_t, update on g_t alone."""
    weights = one_unit(LN3, 0, 2, -LN3)._replace(w_hr=np.array([[7.0]]))
    h, c = lstm_step(X, H_PREV, 4 * X, weights, relu, update=0.5, state=3.0)
    close(c, 3 * (1 / 2 * 4 + 3 / 4 * (0.5 * 2)))
    close(h, 7 * (1 / 4 * c))


def test_gru_reset_before_step() -> None:
    """Eqs. 10-12 with r = 1/4 and z = 3/4: U_g sees r * h_{t-1} = 1/2."""
    candidate = 1 + 2 / 8 * (1 / 4 * 2) + 1 / 2
    close(
        gru_reset_before_step(X, H_PREV, one_unit(-LN3, LN3, 2), relu),
        1 / 4 * 2 + 3 / 4 * candidate,
    )


def test_gru_resets_before_the_product() -> None:
    """Eq. 11 with two units that U_g swaps: each sees the other's r * h_{t-1}, not its own r."""
    r, swap = np.array([-LN3, LN3]), np.eye(2)[::-1]
    weights = Weights(
        w_ih=np.zeros((6, 1)),
        w_hh=np.concatenate([np.zeros((4, 2)), swap]),
        b_ih=np.concatenate([r, np.zeros(4)]),
    )
    h = gru_reset_before_step(X, np.array([[8.0, 16.0]]), weights, relu)
    close(h, [[1 / 2 * 8 + 1 / 2 * (3 / 4 * 16), 1 / 2 * 16 + 1 / 2 * (1 / 4 * 8)]])


def test_gru_reset_after_step() -> None:
    """The form of torch.nn.GRU: r also multiplies b_hn = 3/8, and z keeps the old value."""
    candidate = 1 + 1 / 8 + 1 / 4 * (2 / 8 * 2 + 3 / 8)
    close(
        gru_reset_after_step(X, H_PREV, one_unit(-LN3, LN3, 2), relu),
        1 / 4 * candidate + 3 / 4 * 2,
    )


@every_gru
def test_gru_sites(step: Callable[..., Array], carried: float) -> None:
    """Eq. 13: update on the candidate alone, state on the new h_t."""
    weights = one_unit(0, LN3, 2)
    share_of_candidate = step(X, H_PREV, weights, relu) - carried * 2
    dropped = step(X, H_PREV, weights, relu, update=0.5, state=3.0)
    close(dropped, 3 * (0.5 * share_of_candidate + carried * 2))


@every_gru
def test_gru_hidden_spares_the_carried_value(step: Callable[..., Array], carried: float) -> None:
    """With d(h_{t-1}) = 0, three quarters of each sum remain, and z still lets h_{t-1} by."""
    close(step(X, H_PREV, one_unit(0, 4 / 3 * LN3, 0), hidden=0.0), carried * 2)


@every_cell
def test_untied_hidden_reaches_its_own_gate(cell: str, reset_after: bool) -> None:
    """Dropping h_{t-1} for one gate is zeroing that gate's rows of W_hh."""
    rng, gates = np.random.default_rng(3), GATES[cell]
    w_ih, w_hh = (rng.normal(size=(gates * UNITS, n)) for n in (INPUTS, UNITS))
    x, h, c = (rng.normal(size=(2, n)) for n in (INPUTS, UNITS, UNITS))
    gru_step = gru_reset_after_step if reset_after else gru_reset_before_step
    step: Callable[..., Array] = {
        "rnn": partial(rnn_step, x, h),
        "lstm": partial(lstm_step, x, h, c),
        "gru": partial(gru_step, x, h),
    }[cell]
    for gate in range(gates):
        hidden, zeroed = np.ones((gates, 2, UNITS)), w_hh.copy()
        hidden[gate] = 0
        zeroed[gate * UNITS : (gate + 1) * UNITS] = 0
        dropped = step(Weights(w_ih, w_hh), hidden=hidden)
        equal(dropped, step(Weights(w_ih, zeroed)))
        assert not np.allclose(dropped, step(Weights(w_ih, w_hh)))


@every_cell
def test_reverse_is_forward_on_the_flipped_row(cell: str, reset_after: bool) -> None:
    """The reverse half runs over each row's own steps, last first; beyond them lie zeros."""
    x, weights = random_batch(), random_weights(cell, bidirectional=True)
    both, h_n, _ = run(
        cell, x, LENGTHS, weights, num_layers=1, bidirectional=True, reset_after=reset_after
    )
    reverse = {k.removesuffix("_reverse"): v for k, v in weights.items() if k.endswith("_reverse")}
    for b, length in enumerate(LENGTHS):
        flipped = x[:length, [b]][::-1]
        output, last, _ = one_layer(cell, flipped, [length], reverse, reset_after=reset_after)
        equal(both[:length, b, UNITS:], output[::-1, 0])
        equal(both[length:, b], 0)
        equal(h_n[1, b], last[0, 0])
        equal(h_n[:, b], [both[length - 1, b, :UNITS], both[0, b, UNITS:]])


@every_cell
@every_sampling
def test_a_row_alone_is_the_row_in_its_batch(cell: str, reset_after: bool, sampling: str) -> None:
    """Neither neighbours nor padding reach a row, given its index in the original batch."""
    deep = partial(
        run,
        num_layers=2,
        bidirectional=True,
        reset_after=reset_after,
        drops=drops_of(cell, sampling),
        key=KEY,
    )
    x, weights = random_batch(), random_weights(cell, num_layers=2, bidirectional=True)
    output, h_n, c_n = deep(cell, x, LENGTHS, weights)
    assert (c_n is not None) == (cell == "lstm")
    for b, length in enumerate(LENGTHS):
        alone, h_b, c_b = deep(cell, x[:length, [b]], [length], weights, rows=[b])
        equal(output[:length, b], alone[:, 0])
        equal(h_n[:, b], h_b[:, 0])
        if c_n is not None and c_b is not None:
            equal(c_n[:, b], c_b[:, 0])


@every_gru
def test_which_gru(step: Callable[..., Array], carried: float) -> None:
    """`reset_after` picks the form of torch.nn.GRU, else the paper's."""
    x, weights = random_batch()[:1], random_weights("gru")
    reset_after = carried == 3 / 4
    h, _, _ = one_layer("gru", x, [1] * ROWS, weights, reset_after=reset_after)
    close(h[0], step(x[0], np.zeros((ROWS, UNITS)), Weights(*weights.values())))


def test_layers_chain() -> None:
    """Two layers are one layer on the concatenated outputs of another."""
    x, weights = random_batch(), random_weights("gru", num_layers=2, bidirectional=True)
    second = {k.replace("_l1", "_l0"): v for k, v in weights.items() if "_l1" in k}
    middle, _, _ = run("gru", x, LENGTHS, weights, num_layers=1, bidirectional=True)
    chained, last, _ = run("gru", middle, LENGTHS, second, num_layers=1, bidirectional=True)
    whole, h_n, _ = run("gru", x, LENGTHS, weights, num_layers=2, bidirectional=True)
    equal(whole, chained)
    equal(h_n[2:], last)


@every_cell
def test_windows_of_a_sequence(cell: str, reset_after: bool) -> None:
    """With per-sequence masks, windows that pass their state on equal one long call."""
    x = np.random.default_rng(4).normal(size=(STEPS, ROWS, INPUTS))
    dropped = partial(
        one_layer,
        cell,
        weights=random_weights(cell),
        reset_after=reset_after,
        drops=drops_of(cell, "sequence"),
        key=KEY,
    )
    whole, h_n, c_n = dropped(x, FULL)
    first, h_2, c_2 = dropped(x[:2], [2] * ROWS)
    second, h_6, c_6 = dropped(x[2:], [STEPS - 2] * ROWS, h0=h_2, c0=c_2)
    equal(whole, np.concatenate([first, second]))
    equal(h_n, h_6)
    equal(c_n, c_6)


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_masks_have_the_width_of_the_projection(tied: bool) -> None:
    """A first step from a given h_0, with the mask drawn here; untied unit = gate * W + j."""
    rng, width = np.random.default_rng(5), 2
    x, h0, c0 = (rng.normal(size=(1, 2, n)) for n in (INPUTS, width, UNITS))
    weights = random_weights("lstm", width=width)
    drops = [Drop(0.5, "hidden", tied=tied)]
    h, _, c = one_layer("lstm", x, [1, 1], weights, h0, c0, drops=drops, key=KEY, rows=[4, 9])

    units = width if tied else 4 * width
    mask = draw(KEY, 0.5, "hidden", "step", steps=1, rows=[4, 9], units=units)[0]
    hidden = mask if tied else np.stack([mask[:, [2 * gate, 2 * gate + 1]] for gate in range(4)])
    expected = lstm_step(x[0], h0[0], c0[0], Weights(*weights.values()), hidden=hidden / 0.5)
    assert c is not None
    close(h[0], expected[0])
    close(c[0], expected[1])


@every_cell
def test_nothing_dropped(cell: str, reset_after: bool) -> None:
    """Rate 0, and evaluation with rescale "train", are exactly the plain cell."""
    layer = partial(
        one_layer, cell, random_batch(), LENGTHS, random_weights(cell), reset_after=reset_after
    )
    drops = drops_of(cell)
    plain, _, _ = layer()
    equal(plain, layer(drops=drops, training=False)[0])
    equal(plain, layer(drops=[drop._replace(rate=0.0, rescale="test") for drop in drops])[0])
    assert not np.allclose(plain, layer(drops=drops)[0])


def test_eq_17_the_state_site_forgets() -> None:
    """In evaluation, h_t = p^{t+1} h_0 + the sum of p^{t-i+1} g_i, with p = keep."""
    c0, g, c = open_gates_run(Drop(0.25, "state", rescale="test"), training=False)
    for t in range(STEPS):
        expected = 0.75 ** (t + 1) * c0 + sum(0.75 ** (t - i + 1) * g[i] for i in range(t + 1))
        close(c[t], expected)


def test_eq_19_the_update_site_remembers() -> None:
    """In evaluation, h_t = h_0 + p * the sum of g_i; the p printed before h_0 is a slip."""
    c0, g, c = open_gates_run(Drop(0.25, "update", rescale="test"), training=False)
    close(c, c0 + 0.75 * np.cumsum(g, axis=0))


@every_sampling
@every_rescale
def test_update_in_training(sampling: str, rescale: str, scale: float) -> None:
    """With open gates, c_t = c_0 + the sum of d(g_i): Eq. 3, or Eq. 18."""
    c0, g, c = open_gates_run(Drop(0.25, "update", sampling, rescale), training=True)
    mask = draw(KEY, 0.25, "update", sampling, steps=STEPS, rows=range(ROWS), units=UNITS)
    close(c, c0 + np.cumsum(scale * mask * g, axis=0))


@every_rescale
def test_state_in_training(rescale: str, scale: float) -> None:
    """A dropped step erases all before it; with rescale "train" the rest grows as p^-k."""
    c0, g, c = open_gates_run(Drop(0.25, "state", "step", rescale), training=True)
    mask = draw(KEY, 0.25, "state", "step", steps=STEPS, rows=range(ROWS), units=UNITS)
    # Whether what entered at step i survives to the end.
    survives = np.cumprod(mask[::-1], axis=0)[::-1]
    growth = scale ** np.arange(STEPS, 0, -1)[:, None, None]
    close(c[-1], survives[0] * growth[0] * c0 + np.sum(survives * growth * g, axis=0))


def test_each_layer_draws_its_own_mask() -> None:
    """With open gates, each layer adds up what its own mask lets through."""
    g = np.random.default_rng(7).uniform(0.5, 1, size=(STEPS, ROWS, UNITS))
    weights = open_lstm() | open_lstm("_l1")
    drops = [Drop(0.5, rescale="test")]
    expected = g
    for layer in range(2):
        mask = draw(
            KEY, 0.5, "update", "step", layer=layer, steps=STEPS, rows=range(ROWS), units=UNITS
        )
        expected = np.cumsum(mask * expected, axis=0)
    double = partial(run, num_layers=2, bidirectional=False, activation="relu")
    close(double("lstm", g, FULL, weights, drops=drops, key=KEY)[0], expected)


def test_reverse_masks_use_the_position_in_the_row() -> None:
    """In reverse, c_t - c_{t+1} = mask at t * g_t, with t counted from the row's start."""
    g = np.random.default_rng(6).uniform(0.5, 1, size=(STEPS, ROWS, UNITS))
    output, _, _ = run(
        "lstm",
        g,
        LENGTHS,
        open_lstm() | open_lstm("_l0_reverse"),
        num_layers=1,
        bidirectional=True,
        activation="relu",
        drops=[Drop(0.5, rescale="test")],
        key=KEY,
    )
    mask = draw(KEY, 0.5, "update", "step", direction=1, steps=STEPS, rows=range(ROWS), units=UNITS)
    reverse = output[..., UNITS:]
    for b, length in enumerate(LENGTHS):
        added = reverse[:length, b] - np.append(reverse[1:length, b], np.zeros((1, UNITS)), axis=0)
        close(added, mask[:length, b] * g[:length, b])
