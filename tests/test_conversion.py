"""`from_torch`, `to_torch` and `convert`."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import recdrop
from recdrop import RecurrentDropout
from tests.helpers import OURS, TORCHS, tensors

X = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cell", OURS)
def test_from_torch_copies_everything_and_draws_no_number(cell):
    args = {
        "num_layers": 2,
        "bias": False,
        "batch_first": True,
        "dropout": 0.5,
        "bidirectional": True,
    }
    args |= {"proj_size": 2} if cell == "lstm" else {}
    args |= {"nonlinearity": "relu"} if cell == "rnn" else {}
    theirs = TORCHS[cell](3, 5, dtype=torch.float64, **args).eval()
    theirs.weight_hh_l1.requires_grad_(False)
    before = torch.get_rng_state()
    ours = recdrop.from_torch(theirs, recurrent_dropout=0.4)
    assert torch.equal(torch.get_rng_state(), before)
    assert not ours.training
    for (n, p), (m, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (n, p.dtype, p.requires_grad) == (m, q.dtype, q.requires_grad)
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()
    for a, b in zip(tensors(ours(X.double())), tensors(theirs(X.double())), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize("tied", [True, False])
def test_to_torch_computes_what_evaluation_computes(cell, tied):
    spec = RecurrentDropout(0.4, "hidden", rescale="test", tied=tied)
    args = {"nonlinearity": "relu"} if cell == "rnn" else {}
    ours = OURS[cell](3, 5, 2, bidirectional=True, recurrent_dropout=spec, **args).double().eval()
    theirs = recdrop.to_torch(ours)
    assert type(theirs) is TORCHS[cell]
    assert not theirs.training
    for a, b in zip(tensors(ours(X.double())), tensors(theirs(X.double())), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert torch.equal(ours.bias_hh_l0, theirs.bias_hh_l0)
    assert torch.equal(ours.weight_hh_l0 * 0.6, theirs.weight_hh_l0)


def test_to_torch_of_train_rescaling_is_a_copy():
    ours = recdrop.LSTM(
        3, 5, recurrent_dropout=[RecurrentDropout(0.4), RecurrentDropout(0.2, "hidden")]
    )
    theirs = recdrop.to_torch(ours)
    for a, b in zip(tensors(ours.eval()(X)), tensors(theirs.eval()(X)), strict=True):
        assert torch.equal(a, b)
    assert repr(recdrop.from_torch(theirs)) == "LSTM(3, 5)"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (recdrop.LSTM(3, 5, recurrent_dropout=RecurrentDropout(0.4, rescale="test")), "update"),
        (recdrop.GRU(3, 5, recurrent_dropout=RecurrentDropout(0.4, "state")), "state"),
        (recdrop.LSTM(3, 5, activation="relu"), "relu"),
        (recdrop.GRU(3, 5, activation="relu"), "relu"),
        (recdrop.GRU(3, 5, reset_after=False), "reset_after"),
    ],
)
def test_to_torch_refuses_what_torch_cannot_compute(layer, message):
    with pytest.raises(ValueError, match=f"to_torch: .*{message}"):
        recdrop.to_torch(layer)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 3)
        self.encoder = nn.ModuleList([nn.LSTM(3, 5), nn.GRU(5, 5)])
        self.same = self.encoder[0]
        self.head = nn.Sequential(nn.RNN(5, 5))

    def forward(self, x):
        x = self.encoder[0](self.embed(x))[0]
        return self.head[0](self.encoder[1](x)[0])[0]


def test_convert_replaces_every_layer_and_keeps_the_parameters():
    model = Model()
    ids = torch.randint(10, (6, 4))
    expected = model(ids)
    state = model.state_dict()
    before = list(model.parameters())
    assert recdrop.convert(model, recurrent_dropout=0.4) is model
    assert all(p is q for p, q in zip(model.parameters(), before, strict=True))
    assert isinstance(model.encoder[0], recdrop.LSTM)
    assert isinstance(model.encoder[1], recdrop.GRU)
    assert isinstance(model.head[0], recdrop.RNN)
    assert model.same is model.encoder[0]
    assert model.head[0].recurrent_dropout[0].site == "hidden"
    assert not torch.equal(model(ids), expected)
    assert torch.equal(model.eval()(ids), expected)
    model.load_state_dict(state, strict=True)


def test_an_optimiser_made_before_convert_still_trains_the_model():
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    recdrop.convert(model, recurrent_dropout=0.4)
    before = model.encoder[0].weight_hh_l0.detach().clone()
    model(torch.randint(10, (6, 4))).sum().backward()
    optimiser.step()
    assert not torch.equal(model.encoder[0].weight_hh_l0, before)


def test_convert_of_a_layer_returns_the_new_layer():
    new = recdrop.convert(nn.LSTM(3, 5), recurrent_dropout=0.4)
    assert isinstance(new, recdrop.LSTM)


def test_convert_changes_nothing_when_it_fails():
    model = Model()
    with pytest.raises(ValueError, match="plain RNN"):
        recdrop.convert(model, recurrent_dropout=RecurrentDropout(0.4, "update"))
    assert type(model.encoder[0]) is nn.LSTM


def test_convert_refuses_hooks_and_models_without_layers():
    lstm = nn.LSTM(3, 5)
    lstm.register_forward_hook(lambda *a: None)
    with pytest.raises(ValueError, match="encoder has hooks"):
        recdrop.convert(nn.ModuleDict({"encoder": lstm}), recurrent_dropout=0.4)
    with pytest.raises(ValueError, match="found no torch.nn.RNN, LSTM or GRU"):
        recdrop.convert(nn.Linear(3, 5), recurrent_dropout=0.4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "hook",
    [nn.utils.weight_norm, lambda *at: prune.l1_unstructured(*at, amount=0.5)],
    ids=["weight_norm", "prune"],
)
def test_weights_that_a_hook_computes_are_refused(hook):
    for layer, change in (
        (nn.LSTM(3, 5), recdrop.from_torch),
        (recdrop.LSTM(3, 5), recdrop.to_torch),
    ):
        hook(layer, "weight_hh_l0")
        with pytest.raises(ValueError, match="the layer has hooks"):
            change(layer)


def test_hooks_are_not_lost_in_silence():
    for layer, change in (
        (nn.LSTM(3, 5), recdrop.from_torch),
        (recdrop.LSTM(3, 5), recdrop.to_torch),
    ):
        handle = layer.register_forward_hook(lambda *a: None)
        with pytest.raises(ValueError, match="the layer has hooks, which would be lost"):
            change(layer)
        handle.remove()
        change(layer)


def test_specs_that_can_be_read_once_are_for_every_layer():
    model = nn.Sequential(nn.LSTM(3, 4), nn.GRU(4, 4))
    recdrop.convert(model, iter([RecurrentDropout(0.5)]), backend="reference")
    for layer in model:
        assert layer.recurrent_dropout == (RecurrentDropout(0.5),)
        assert layer.backend == "reference"


def test_a_parametrised_layer_is_told_how_to_become_plain():
    for layer, change in (
        (nn.LSTM(3, 5), recdrop.from_torch),
        (recdrop.LSTM(3, 5), recdrop.to_torch),
    ):
        nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        with pytest.raises(TypeError, match="remove_parametrizations"):
            change(layer)


def test_other_things_are_refused_by_name():
    with pytest.raises(TypeError, match="convert takes a torch.nn.Module, got str"):
        recdrop.convert("model", 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="explain_backend takes .* got LSTM"):
        recdrop.explain_backend(nn.LSTM(3, 5), X)  # pyright: ignore[reportArgumentType]


def test_subclasses_are_left_alone_with_a_warning():
    class Special(nn.LSTM):
        pass

    model = nn.ModuleDict({"a": Special(3, 5), "b": nn.LSTM(3, 5)})
    with pytest.warns(UserWarning, match="leaves a as it is: Special"):
        recdrop.convert(model, recurrent_dropout=0.4)
    assert type(model["a"]) is Special
    assert type(model["b"]) is recdrop.LSTM
    with pytest.raises(TypeError, match="got Special"):
        recdrop.from_torch(Special(3, 5))
    with pytest.raises(TypeError, match="got LSTM"):
        recdrop.to_torch(nn.LSTM(3, 5))  # pyright: ignore[reportArgumentType]
