"""Monte Carlo dropout: what it computes, and all that it leaves alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import recdrop
from recdrop import RecurrentDropout


class Model(nn.Module):
    """Everything that has a mode."""

    def __init__(self, *specs: RecurrentDropout, forward: float = 0.0, between: float = 0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(forward)
        layers = 2 if between else 1
        self.rnn = recdrop.LSTM(3, 5, layers, dropout=between, recurrent_dropout=specs)
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        x = self.norm(x.flatten(0, 1)).view_as(x)
        return self.out(self.rnn(self.drop(x))[0])


OURS = RecurrentDropout(0.5)
MOON = RecurrentDropout(0.5, "state")
CASES = {
    "ours": ((OURS,), {}),
    "ours and Moon": ((OURS, MOON), {}),
    "forward": ((), {"forward": 0.5}),
    "between layers": ((), {"between": 0.5}),
    "all": ((OURS, RecurrentDropout(0.25, "hidden", "sequence")), {"forward": 0.3, "between": 0.5}),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def x():
    return torch.randn(6, 2, 3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("learning", [False, True])
def test_everything_is_left_as_it_was(case, training, learning, x):
    """The statistics of a batch norm that is in training mode too."""
    specs, args = CASES[case]
    model = Model(*specs, **args).train(training)
    model.norm.train(learning)
    model.out.train(not training)
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kept, random = model.rnn.recurrent_dropout, torch.get_rng_state()
    told = recdrop.mc_dropout(model, x, samples=4)
    assert told.spread.max() > 0
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.rnn.recurrent_dropout == kept
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not told.mean.requires_grad


def test_generators_of_devices_that_the_model_does_not_use_are_left_alone(x, monkeypatch):
    seeded = []
    for name in ("manual_seed_all", "manual_seed"):
        monkeypatch.setattr(torch.cuda, name, lambda seed: seeded.append(seed))
    recdrop.mc_dropout(Model(OURS, forward=0.5), x, samples=3)
    assert seeded == []


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_stock_layers_that_drop_between_theirs_are_sampled_too(layer, x):
    model = layer(3, 4, 2, dropout=0.5).eval()
    told = recdrop.mc_dropout(model, x, samples=5, probabilities=False)
    assert told.spread.max() > 0.01
    assert not model.training
    again = recdrop.mc_dropout(model, x, samples=5, probabilities=False)
    assert torch.equal(told.mean, again.mean)
    with pytest.raises(ValueError, match="nothing in the model drops"):
        recdrop.mc_dropout(layer(3, 4), x)


def test_a_model_that_fails_is_left_as_it_was_too(x):
    model = Model(OURS, forward=0.5).eval()
    model.norm.train()
    model.out = nn.Linear(6, 4).eval()  # after the norm has seen the input
    random, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        recdrop.mc_dropout(model, x, samples=4)
    assert [name for name, module in model.named_modules() if module.training] == ["norm"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.rnn.recurrent_dropout == (OURS,)
    assert torch.equal(torch.get_rng_state(), random)


class Buffered(Model):
    """With a buffer that each call replaces, and one that several places of memory share."""

    def __init__(self):
        super().__init__(OURS)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("shared", torch.ones(1).expand(4))

    def forward(self, x):
        self.mean = 0.9 * self.mean + x.mean()
        return super().forward(x) + self.shared


def test_buffers_of_all_kinds_and_a_graph_that_holds_some(x):
    model = Buffered()
    loss = model(x).sum()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    own = dict(model.named_buffers())
    recdrop.mc_dropout(model, x, samples=3)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value is own[name] for name, value in model.named_buffers())
    loss.backward()  # what it saved is untouched


@pytest.mark.parametrize("sampling", ["sequence", "step", None])
def test_it_is_what_its_definition_says(sampling, x):
    model = Model(OURS, forward=0.3).eval()
    told = recdrop.mc_dropout(model, x, samples=7, seed=3, sampling=sampling)
    again = recdrop.mc_dropout(model, x, samples=7, seed=3, sampling=sampling)
    other = recdrop.mc_dropout(model, x, samples=7, seed=4, sampling=sampling)
    for one, two in zip(told, again, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)
    assert not torch.equal(told.mean, other.mean)

    model.rnn.recurrent_dropout = RecurrentDropout(0.5, sampling=sampling or "step")
    model.rnn.train()
    model.drop.train()
    seeds = torch.randint(2**62, (7,), generator=torch.Generator().manual_seed(3)).tolist()
    outputs = []
    for seed in seeds:
        torch.manual_seed(seed)
        with recdrop.hold_masks(seed), torch.no_grad():
            outputs.append(model(x).double().softmax(-1))
    p = torch.stack(outputs)
    torch.testing.assert_close(told.mean.double(), p.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(told.spread.double(), p.std(0), rtol=1e-4, atol=1e-6)
    entropy = -(p.mean(0) * p.mean(0).log()).sum(-1)
    own = -(p * p.log()).sum(-1).mean(0)
    assert told.entropy is not None
    assert told.information is not None
    torch.testing.assert_close(told.entropy.double(), entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(told.information.double(), entropy - own, rtol=1e-3, atol=1e-6)


def test_masks_of_a_sample_hold_from_call_to_call():
    class Windows(nn.Module):
        def __init__(self, rnn):
            super().__init__()
            self.rnn = rnn

        def forward(self, x):
            first, state = self.rnn(x[:4])
            return torch.cat([first, self.rnn(x[4:], state)[0]])

    rnn = recdrop.LSTM(3, 5, recurrent_dropout=0.5).eval()
    x = torch.randn(9, 2, 3)
    whole = recdrop.mc_dropout(rnn, x, samples=5, probabilities=False)
    windows = recdrop.mc_dropout(Windows(rnn), x, samples=5, probabilities=False)
    torch.testing.assert_close(whole.mean, windows.mean)
    torch.testing.assert_close(whole.spread, windows.spread)
    assert whole.entropy is None
    assert whole.information is None


def test_packed_rows_in_and_out():
    rnn = recdrop.GRU(3, 5, recurrent_dropout=0.5).eval()
    rows = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    told = recdrop.mc_dropout(rnn, rows, samples=3, probabilities=False)
    assert told.mean.shape == (6, 5)


def test_many_samples_come_to_the_mean_over_masks():
    """With one step from zero, c = i g d: the mean over d is that of the undropped net."""
    rnn = recdrop.LSTM(3, 64, recurrent_dropout=0.5).eval()
    x = torch.randn(1, 8, 3)
    told = recdrop.mc_dropout(rnn, x, samples=400, probabilities=False)
    undropped = rnn(x)[0]
    error = (told.mean - undropped).abs() / (told.spread / 400**0.5 + 1e-3 * undropped.abs())
    assert error.mean() < 1.2  # about 0.8 for a normal deviate
    assert error.max() < 6


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples(samples, x):
    with pytest.raises(ValueError, match="at least 2"):
        recdrop.mc_dropout(Model(OURS), x, samples=samples)


def test_nothing_to_sample(x):
    with pytest.raises(ValueError, match="nothing in the model drops"):
        recdrop.mc_dropout(Model(RecurrentDropout(0.0)), x)


def test_samples_are_counted(x):
    for samples in (2.5, "3", True):
        with pytest.raises(TypeError, match=f"integer, got {samples!r}"):
            recdrop.mc_dropout(Model(RecurrentDropout(0.5)), x, samples)


def test_what_is_asked_for_is_checked(x):
    with pytest.raises(TypeError, match="seed must be an integer, got 'a'"):
        recdrop.mc_dropout(Model(OURS), x, seed="a")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"takes a torch.nn.Module, got function"):
        recdrop.mc_dropout(lambda x: x, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="sampling must be .* got 'steps'"):
        recdrop.mc_dropout(nn.Dropout(0.5), x, sampling="steps")  # pyright: ignore
    with pytest.raises(TypeError, match="also must hold classes of modules, got 'Own'"):
        recdrop.mc_dropout(nn.Dropout(0.5), x, also="Own")  # pyright: ignore[reportArgumentType]
    model = Model(OURS)
    seeds = (recdrop.mc_dropout(model, x, seed=seed).mean for seed in (3, np.int64(3)))
    torch.testing.assert_close(*seeds, rtol=0, atol=0)


class Own(nn.Module):
    """A dropout that torch does not know."""

    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    ("model", "also"),
    [
        (lambda: nn.MultiheadAttention(8, 2, dropout=0.5), ()),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True), ()),
        (
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True), 2
            ),
            (),
        ),
        (Own, (Own,)),
    ],
    ids=["attention", "encoder layer", "encoder", "own"],
)
def test_other_models_are_sampled_too(model, also):
    model, x = model().eval(), torch.randn(5, 2, 8)
    given = (x, x, x) if isinstance(model, nn.MultiheadAttention) else x
    fast = torch.backends.mha.get_fastpath_enabled()
    assert (recdrop.mc_dropout(model, given, also=also).spread > 0).all()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not any(module.training for module in model.modules())


def test_calls_of_several_threads_do_not_meet(x):
    model = Model(OURS, forward=0.5).eval()
    before = torch.get_rng_state()
    alone = [recdrop.mc_dropout(model, x, samples, seed=samples) for samples in (5, 12)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            together = pool.map(
                lambda samples: recdrop.mc_dropout(model, x, samples, seed=samples), (5, 12)
            )
            for one, other in zip(alone, together, strict=True):
                assert torch.equal(one.mean, other.mean)
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_output_that_is_no_tensor(x):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = recdrop.LSTM(3, 5, recurrent_dropout=0.5)

        def forward(self, x):
            return {"out": self.rnn(x)[0]}

    with pytest.raises(TypeError, match="got dict"):
        recdrop.mc_dropout(Odd(), x)
