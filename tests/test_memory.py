"""The paper's claims about memory, Eqs. 14-19, as formulas and in the layers themselves."""

import numpy as np
import pytest
import torch

import recdrop
from recdrop import RecurrentDropout, memory
from recdrop.memory import retention_curve

KEEP = 0.75
T = 12


@pytest.fixture
def g():
    return torch.randn(T, 3).double()


@pytest.fixture
def h_0():
    return torch.randn(3).double()


def opened(layer, *, g=None):
    """Force all gates open and cut the recurrent products; with g, the candidate is g."""
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.zero_()
            if name.startswith("bias_ih"):
                for gate in (0, 1, 3) if layer.cell == "lstm" else (0, 1):
                    p.unflatten(0, (-1, layer.hidden_size))[gate] = 50.0
                if g is not None:
                    p.unflatten(0, (-1, layer.hidden_size))[2] = g
    return layer


def cells(spec, g_bias=50.0, units=64, training=True):
    """The c after 1 ... T steps of an LSTM with gates at 1 and g = tanh(50) = 1, [T, units]."""
    lstm = opened(recdrop.LSTM(1, units, recurrent_dropout=spec, dtype=torch.float64), g=g_bias)
    lstm.train(training)
    x = torch.zeros(T, 1, 1).double()
    with recdrop.hold_masks(1):
        return torch.stack([lstm(x[:t])[1][1][0, 0] for t in range(1, T + 1)])


def test_eq_14_to_16_unroll_to_eq_17(h_0, g):
    torch.testing.assert_close(
        memory.moon_steps(h_0, g, KEEP), memory.moon_closed_form(h_0, g, KEEP)
    )


def test_eq_17_is_the_formula_as_printed(h_0, g):
    t = T - 1
    printed = KEEP ** (t + 1) * h_0 + sum(KEEP ** (t - i + 1) * g[i] for i in range(t + 1))
    torch.testing.assert_close(memory.moon_closed_form(h_0, g, KEEP)[t], printed)


def test_eq_19_without_its_slip_on_h_0(h_0, g):
    corrected = memory.update_closed_form(h_0, g, KEEP)
    steps, h = [], h_0
    for update in g:  # the recursion that Eq. 19 sums: dropout on the update only, in evaluation
        h = h + KEEP * update
        steps.append(h)
    torch.testing.assert_close(corrected, torch.stack(steps))
    printed = KEEP * h_0 + KEEP * g.cumsum(0)
    assert not torch.allclose(corrected, printed)
    torch.testing.assert_close(
        memory.update_closed_form(torch.zeros(3).double(), g, KEEP), KEEP * g.cumsum(0)
    )


def test_eq_18_has_the_right_mean_and_an_exploding_second_moment():
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(T, 200_000, generator=generator) < KEEP).double()
    h_0, g = torch.ones(200_000).double(), torch.zeros(T, 200_000).double()
    h = memory.moon_inverted_steps(h_0, g, masks, KEEP)
    lags = torch.arange(1, T + 1).double()
    torch.testing.assert_close(h.mean(1), torch.ones(T).double(), rtol=0.05, atol=0)
    torch.testing.assert_close(h.square().mean(1).sqrt(), KEEP ** (-lags / 2), rtol=0.05, atol=0)
    assert torch.equal(memory.inverted_dropout(h_0, masks[0], KEEP), masks[0] / KEEP)


def test_the_layers_state_site_in_evaluation_is_eq_17():
    c = cells(RecurrentDropout(1 - KEEP, "state"), training=False)
    expected = memory.moon_closed_form(torch.zeros(64).double(), torch.ones(T, 64).double(), KEEP)
    torch.testing.assert_close(c, expected)
    torch.testing.assert_close(c[-1, 0], sum(KEEP ** torch.arange(1.0, T + 1)).double())


def test_the_layers_update_site_in_evaluation_is_eq_19():
    c = cells(RecurrentDropout(1 - KEEP, "update", rescale="test"), training=False)
    expected = memory.update_closed_form(torch.zeros(64).double(), torch.ones(T, 64).double(), KEEP)
    torch.testing.assert_close(c, expected)
    torch.testing.assert_close(c[-1, 0], torch.tensor(KEEP * T).double())


@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_update_in_training_has_the_mean_of_evaluation(sampling):
    spec = RecurrentDropout(1 - KEEP, "update", sampling, "test")
    trained, tested = cells(spec, units=4096), cells(spec, units=1, training=False)
    # One sequence mask: variance keep (1 - keep) t**2; masks per step: keep (1 - keep) t.
    t = torch.arange(1.0, T + 1).double()
    variance = KEEP * (1 - KEEP) * (t**2 if sampling == "sequence" else t)
    five_sigma = 5 * (variance / 4096).sqrt()
    assert ((trained.mean(1) - tested[:, 0]).abs() < five_sigma).all()
    torch.testing.assert_close(trained.var(1), variance, rtol=0.15, atol=0)


def test_update_per_sequence_keeps_or_loses_a_unit_for_the_whole_sequence():
    c = cells(RecurrentDropout(1 - KEEP, "update", "sequence", "test"))
    t = torch.arange(1.0, T + 1).double()[:, None]
    assert ((c == 0) | torch.isclose(c, t)).all()
    assert ((c == 0) == (c[0] == 0)).all()


@pytest.mark.filterwarnings("ignore:site='state'")
@pytest.mark.parametrize(
    ("spec", "mode", "rate"),
    [
        (RecurrentDropout(1 - KEEP, "update"), "evaluation", 1.0),
        (RecurrentDropout(1 - KEEP, "update", rescale="test"), "evaluation", 1.0),
        (RecurrentDropout(1 - KEEP, "update"), "train_rms", 1.0),
        (RecurrentDropout(1 - KEEP, "update", "sequence"), "train_mean", 1.0),
        (RecurrentDropout(1 - KEEP, "hidden"), "train_rms", 1.0),
        (RecurrentDropout(1 - KEEP, "state"), "evaluation", KEEP),
        (("state", "train"), "train_rms", KEEP**-0.5),
        (("state", "train"), "evaluation", 1.0),
        (RecurrentDropout(1 - KEEP, "state"), "train_rms", KEEP**0.5),
        (RecurrentDropout(1 - KEEP, "state", "sequence"), "train_rms", 1.0),
    ],
)
def test_retention_with_open_gates(spec, mode, rate):
    if isinstance(spec, tuple):
        spec = RecurrentDropout(1 - KEEP, spec[0], rescale=spec[1])
    lstm = opened(recdrop.LSTM(1, 512, recurrent_dropout=spec, dtype=torch.float64))
    with torch.no_grad():
        lstm.weight_ih_l0[1024:1536] = 0.1
    curve = retention_curve(lstm, torch.zeros(9, 4, 1).double(), keys=16)
    expected = rate ** torch.arange(9).double()
    exact = mode == "evaluation" or rate == 1.0
    torch.testing.assert_close(getattr(curve, mode), expected, rtol=1e-9 if exact else 0.06, atol=0)


@pytest.mark.parametrize("cell", [recdrop.RNN, recdrop.LSTM, recdrop.GRU])
@pytest.mark.parametrize("args", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.3}])
def test_retention_equals_a_jacobian_by_autograd(cell, args):
    layer = cell(3, 4, dtype=torch.float64, recurrent_dropout=0.3, **args).eval()
    x = torch.randn(6, 2, 3).double()
    curve = retention_curve(layer, x, start=2)
    norms = []
    for t in range(3, 7):
        jacobian = torch.autograd.functional.jacobian(
            lambda x_2, t=t: _state(layer, torch.cat((x[:2], x_2[None], x[3:])), t), x[2]
        )
        norms.append(jacobian.square().sum().sqrt())
    expected = torch.stack(norms) / norms[0]
    if not args:
        torch.testing.assert_close(curve.evaluation, expected)
    else:
        assert curve.evaluation.shape == (4,)
        assert curve.evaluation.isfinite().all()
    assert layer.training is False


def _state(layer, x, t):
    state = layer(x[:t])[1]
    return (state[1] if isinstance(state, tuple) else state)[-2 if layer.bidirectional else -1]


def test_retention_leaves_generator_and_mode_alone_and_is_a_function_of_its_seed():
    lstm = recdrop.LSTM(3, 8, recurrent_dropout=0.5)
    x = torch.randn(5, 2, 3)
    before = torch.get_rng_state()
    a, b, c = (retention_curve(lstm, x, keys=3, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert lstm.training
    assert torch.equal(a.train_mean, b.train_mean)
    assert not torch.equal(a.train_mean, c.train_mean)


def test_retention_with_dropout_between_layers_is_over_keys_and_leaves_the_generator_alone():
    lstm = recdrop.LSTM(3, 8, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    before = torch.get_rng_state()
    a, b = (retention_curve(lstm, x, keys=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.train_mean, b.train_mean)
    assert a.keys == 3
    assert not torch.equal(a.train_mean, a.train_rms)


def test_retention_takes_our_layers_only():
    with pytest.raises(TypeError, match="got LSTM"):
        retention_curve(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))  # pyright: ignore


@pytest.mark.parametrize(
    ("args", "message"),
    [({"start": 5}, r"\[0, 5\).*got 5"), ({"start": -1}, "got -1"), ({"keys": 0}, "got 0")],
)
def test_retention_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        retention_curve(recdrop.LSTM(3, 4), torch.randn(5, 2, 3), **args)


def test_retention_counts_in_integers():
    lstm, x = recdrop.LSTM(3, 4, recurrent_dropout=0.5), torch.randn(5, 2, 3)
    for name, value in (("start", True), ("start", 1.0), ("keys", 2.5), ("seed", "3")):
        with pytest.raises(TypeError, match=f"{name} must be an integer, got {value!r}"):
            retention_curve(lstm, x, **{name: value})
    a, b = (retention_curve(lstm, x, keys=2, seed=seed) for seed in (3, np.int64(3)))
    assert torch.equal(a.train_mean, b.train_mean)
    with pytest.raises(ValueError, match="no row"):
        retention_curve(lstm, torch.randn(5, 0, 3))


def test_retention_leaves_generators_of_other_devices_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    retention_curve(recdrop.LSTM(3, 4, recurrent_dropout=0.5), torch.randn(5, 2, 3), keys=2)
    assert not seeded


def test_retention_says_when_nothing_reaches_the_memory():
    lstm = recdrop.LSTM(3, 4)
    torch.nn.init.zeros_(lstm.weight_ih_l0)
    with pytest.raises(ValueError, match="does not depend on the input at step 1"):
        retention_curve(lstm, torch.randn(5, 2, 3), start=1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(5, 2, 3), torch.tensor([5, 2]))
    with pytest.raises(ValueError, match="dense input"):
        retention_curve(lstm, packed)  # pyright: ignore[reportArgumentType]
