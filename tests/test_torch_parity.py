"""Where nothing is dropped: torch.nn bitwise on stock, and within rounding on the reference."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import recdrop
from recdrop import RecurrentDropout
from tests.helpers import OURS, TORCHS, tensors

BOUND = {torch.float64: 1e-12, torch.float32: 1e-6}


def options():
    """Every combination of what stock layers take."""
    for cell in OURS:
        variants = {
            "rnn": [{}, {"nonlinearity": "relu"}],
            "lstm": [{}, {"proj_size": 3}],
            "gru": [{}],
        }[cell]
        for args, layers, bias, batch_first, both in itertools.product(
            variants, (1, 3), (True, False), (True, False), (True, False)
        ):
            yield (
                cell,
                {
                    **args,
                    "num_layers": layers,
                    "bias": bias,
                    "batch_first": batch_first,
                    "bidirectional": both,
                },
            )


def inputs(kind, layer, dtype):
    """Input and an initial state of one kind."""
    x = torch.randn(6, 4, 5, dtype=dtype)
    rows, stacked = 4, layer.num_layers * (1 + layer.bidirectional)
    if kind.startswith("packed"):
        lengths = [6, 5, 5, 2] if kind == "packed" else [2, 6, 1, 4]
        given = x.transpose(0, 1) if layer.batch_first else x
        x = pack_padded_sequence(
            given, torch.tensor(lengths), layer.batch_first, enforce_sorted=kind == "packed"
        )
    elif kind == "unbatched":
        x, rows = x[:, 0], 0
    elif layer.batch_first:
        x = x.transpose(0, 1)
    if kind == "no state":
        return x, None
    shape = (stacked, rows) if rows else (stacked,)
    h_0 = torch.randn(*shape, layer.proj_size or layer.hidden_size, dtype=dtype)
    if not isinstance(layer, (torch.nn.LSTM, recdrop.LSTM)):
        return x, h_0
    return x, (h_0, torch.randn(*shape, layer.hidden_size, dtype=dtype))


def results_and_gradients(layer, x, hx):
    """Everything that comes out, and every parameter's gradient."""
    layer.zero_grad()
    out = tensors(layer(x, hx))
    sum(
        (o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)).sum() for o in out
    ).backward()
    return [*out, *(p.grad for p in layer.parameters())]


KINDS = ("dense", "no state", "unbatched", "packed", "packed unsorted")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cell", "args"), list(options()))
def test_every_option_of_torch(cell, args, kind, dtype):
    theirs = TORCHS[cell](5, 7, dtype=dtype, **args)
    auto = OURS[cell](5, 7, dtype=dtype, **args)
    auto.load_state_dict(theirs.state_dict(), strict=True)
    reference = OURS[cell](5, 7, dtype=dtype, backend="reference", **args)
    theirs.load_state_dict(auto.state_dict(), strict=True)
    reference.load_state_dict(theirs.state_dict(), strict=True)
    x, hx = inputs(kind, theirs, dtype)
    expected = results_and_gradients(theirs, x, hx)
    for e, a in zip(expected, results_and_gradients(auto, x, hx), strict=True):
        assert torch.equal(e, a)
    for e, r in zip(expected, results_and_gradients(reference, x, hx), strict=True):
        # The bound is on values; a gradient sums T * B of them and is held to it relatively.
        scale = max(1.0, float(e.detach().abs().max()))
        assert float((e - r).detach().abs().max()) <= BOUND[dtype] * scale


@pytest.mark.parametrize("cell", OURS)
def test_between_layer_dropout_is_torchs_on_both_backends(cell):
    theirs = TORCHS[cell](5, 7, 3, dropout=0.5)
    x = torch.randn(6, 4, 5)
    expected = None
    for layer in (
        theirs,
        recdrop.from_torch(theirs),
        recdrop.from_torch(theirs, backend="reference"),
    ):
        torch.manual_seed(0)
        output = layer(x)[0]
        expected = output if expected is None else expected
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize(
    "what", ["rate 0", "train rescaling in eval", "rate 0 with test rescaling"]
)
def test_where_nothing_is_dropped_torch_does_the_work_and_no_number_is_drawn(cell, what):
    site = "hidden" if cell == "rnn" else "update"
    spec = {
        "rate 0": 0.0,
        "train rescaling in eval": RecurrentDropout(0.5, site),
        "rate 0 with test rescaling": RecurrentDropout(0.0, site, rescale="test"),
    }[what]
    theirs = TORCHS[cell](5, 7)
    layer = recdrop.from_torch(theirs, recurrent_dropout=spec).train(
        what != "train rescaling in eval"
    )
    x = torch.randn(6, 4, 5)
    before = torch.get_rng_state()
    got = tensors(layer(x))
    assert torch.equal(torch.get_rng_state(), before)
    for g, e in zip(got, tensors(theirs(x)), strict=True):
        assert torch.equal(g, e)
    assert "stock: runs this call" in recdrop.explain_backend(layer, x)


@pytest.mark.parametrize("cell", OURS)
def test_test_rescaling_in_eval_draws_no_number(cell):
    spec = RecurrentDropout(0.5, "hidden", rescale="test")
    layer = OURS[cell](5, 7, recurrent_dropout=spec).eval()
    before = torch.get_rng_state()
    layer(torch.randn(6, 4, 5, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cell", OURS)
def test_initialisation_is_torchs(cell):
    torch.manual_seed(0)
    theirs = TORCHS[cell](5, 7, 2)
    torch.manual_seed(0)
    ours = OURS[cell](5, 7, 2, recurrent_dropout=0.5)
    for (n, p), (m, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert n == m
        assert torch.equal(p, q)
