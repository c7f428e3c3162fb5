"""Gradients in float64 against finite differences, for every scheme and activation."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence

import recdrop
from tests.helpers import OURS, specs, tensors

CELLS = [("rnn", {}), ("lstm", {}), ("gru", {}), ("gru", {"reset_after": False})]
SCHEMES = [(cell, args, spec) for cell, args in CELLS for spec in specs(cell)]


def as_function(layer, *, packed=False):
    """The layer as a function of its input, its state and its parameters, masks held."""
    names = [name for name, _ in layer.named_parameters()]

    def f(x, *rest):
        parts = 2 if layer.cell == "lstm" else 1
        hx = rest[:parts] if parts == 2 else rest[0]
        weights = dict(zip(names, rest[parts:], strict=True))
        if packed:
            x = pack_padded_sequence(x, torch.tensor([1, 3]), enforce_sorted=False)
        with recdrop.hold_masks(3):
            return tensors(torch.func.functional_call(layer, weights, (x, hx)))

    parts = 2 if layer.cell == "lstm" else 1
    stacked = layer.num_layers * (1 + layer.bidirectional)
    widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    leaves = [
        torch.randn(3, 2, layer.input_size, dtype=torch.float64),
        *(torch.randn(stacked, 2, w, dtype=torch.float64) for w in widths[:parts]),
        *(p.detach().clone() for p in layer.parameters()),
    ]
    return f, [leaf.requires_grad_() for leaf in leaves]


def layer_of(cell, args, spec, activation="tanh", **options):
    relu = (
        {} if activation == "tanh" else {"nonlinearity" if cell == "rnn" else "activation": "relu"}
    )
    return OURS[cell](
        2, 3, recurrent_dropout=spec, dtype=torch.float64, backend="reference",
        **args, **relu, **options,
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("cell", "args", "spec"), SCHEMES)
def test_gradcheck(cell, args, spec, activation):
    f, leaves = as_function(layer_of(cell, args, spec, activation))
    assert gradcheck(f, leaves)


@pytest.mark.filterwarnings("ignore:site='state'")
@pytest.mark.parametrize("sampling", ["step", "sequence"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradcheck_of_the_inverted_state(cell, sampling):
    spec = recdrop.RecurrentDropout(0.3, "state", sampling, "train")
    f, leaves = as_function(layer_of(cell, {}, spec))
    assert gradcheck(f, leaves)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradcheck_of_all_sites_at_once(cell):
    spec = [recdrop.RecurrentDropout(0.3, site) for site in ("update", "hidden", "state")]
    f, leaves = as_function(layer_of(cell, {}, spec))
    assert gradcheck(f, leaves)


@pytest.mark.parametrize("cell", OURS)
def test_gradcheck_of_layers_directions_and_packing(cell):
    site = "hidden" if cell == "rnn" else "state"
    spec = recdrop.RecurrentDropout(0.3, site, rescale="test")
    args = {"proj_size": 2} if cell == "lstm" else {}
    layer = layer_of(cell, args, spec, num_layers=2, bidirectional=True)
    f, leaves = as_function(layer, packed=True)
    assert gradcheck(f, leaves)


@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_gradgradcheck(cell, args):
    sites = ("hidden",) if cell == "rnn" else ("update", "hidden", "state")
    spec = [recdrop.RecurrentDropout(0.3, site) for site in sites]
    layer = layer_of(cell, args, spec)
    f, leaves = as_function(layer)
    assert gradgradcheck(f, leaves)


@pytest.mark.parametrize("cell", OURS)
def test_gradients_flow_in_eval_mode(cell):
    layer = OURS[cell](
        2, 3, recurrent_dropout=recdrop.RecurrentDropout(0.3, "hidden", rescale="test")
    )
    x = torch.randn(3, 2, 2, requires_grad=True)
    layer.eval()(x)[0].sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min()) > 0
