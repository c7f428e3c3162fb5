"""The layers against NumPy cells written from the paper, every scheme; see tests/oracles."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recdrop
from tests.helpers import OURS, largest_difference, oracle, random_key, specs, with_key

TOLERANCE = 1e-12

CELLS = [("rnn", {}), ("lstm", {}), ("gru", {}), ("gru", {"reset_after": False})]
SCHEMES = [(cell, args, spec) for cell, args in CELLS for spec in specs(cell)]


def relu(cell):
    return {"nonlinearity" if cell == "rnn" else "activation": "relu"}


def check(layer, x, hx=None, lengths=None):
    lengths = lengths or [x.shape[0]] * x.shape[1]
    key = random_key(4)
    output, state = with_key(layer, key)(x, hx)
    expected = [e for e in oracle(layer, x, lengths, key, hx) if e is not None]
    assert largest_difference((output, *state), expected) < TOLERANCE


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("cell", "args", "spec"), SCHEMES)
def test_every_scheme(cell, args, spec, activation, training):
    options = args | (relu(cell) if activation == "relu" else {})
    layer = OURS[cell](3, 5, recurrent_dropout=spec, dtype=torch.float64, **options).train(training)
    check(layer, torch.randn(6, 4, 3).double())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    "sites",
    [("update", "hidden"), ("hidden", "state"), ("update", "state"), ("update", "hidden", "state")],
)
def test_combined_sites_each_with_its_own_rate_sampling_and_rescaling(cell, sites, training):
    drops = {
        "update": recdrop.RecurrentDropout(0.3, "update", "step", "test"),
        "hidden": recdrop.RecurrentDropout(0.2, "hidden", "sequence", "train", tied=False),
        "state": recdrop.RecurrentDropout(0.1, "state", "step"),
    }
    layer = OURS[cell](
        3, 5, recurrent_dropout=[drops[s] for s in sites], dtype=torch.float64
    ).train(training)
    check(layer, torch.randn(6, 4, 3).double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("cell", "args"), [*CELLS, ("lstm", {"proj_size": 2})])
def test_layers_directions_projection_and_initial_states(cell, args, layers, bidirectional, bias):
    site = "hidden" if cell == "rnn" else "update"
    drops = [recdrop.RecurrentDropout(0.3, site)]
    if cell == "lstm":
        drops.append(recdrop.RecurrentDropout(0.3, "hidden", "sequence", tied=False))
    layer = OURS[cell](
        3, 5, layers, bias=bias, bidirectional=bidirectional,
        recurrent_dropout=drops, dtype=torch.float64, **args,
    )  # fmt: skip
    stacked = layers * (1 + bidirectional)
    h_0 = torch.randn(stacked, 4, layer.proj_size or 5).double()
    hx = (h_0, torch.randn(stacked, 4, 5).double()) if cell == "lstm" else h_0
    check(layer, torch.randn(6, 4, 3).double(), hx)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("cell", "args"), [*CELLS, ("lstm", {"proj_size": 2})])
@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_packed_rows_have_the_masks_of_their_place_in_the_batch(
    cell, args, bidirectional, sampling
):
    site = "hidden" if cell == "rnn" else "state"
    spec = recdrop.RecurrentDropout(0.3, site, sampling, "test")
    layer = OURS[cell](
        3, 5, 2, bidirectional=bidirectional, recurrent_dropout=spec, dtype=torch.float64, **args
    )
    lengths = [2, 6, 1, 4]
    x = torch.randn(6, 4, 3).double()
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    h_0 = torch.randn(4 if bidirectional else 2, 4, layer.proj_size or 5).double()
    hx = (h_0, torch.randn(*h_0.shape[:2], 5).double()) if cell == "lstm" else h_0
    with recdrop.hold_masks(1):
        key = recdrop.rng.draw_key(layer._owner)
        output, state = layer(packed, hx)
    expected = [e for e in oracle(layer, x, lengths, key, hx) if e is not None]
    state = state if isinstance(state, tuple) else (state,)
    assert largest_difference((pad_packed_sequence(output)[0], *state), expected) < TOLERANCE


def test_unbatched_input_is_row_0():
    layer = recdrop.LSTM(3, 5, recurrent_dropout=0.5, dtype=torch.float64)
    x = torch.randn(6, 2, 3).double()
    with recdrop.hold_masks(1):
        batched = layer(x)[0][:, 0]
        alone = layer(x[:, 0])[0]
    torch.testing.assert_close(alone, batched, rtol=0, atol=1e-15)


def test_the_harness_covers_every_cell_and_site():
    seen = set(itertools.chain.from_iterable([(cell, s.site)] for cell, _, s in SCHEMES))
    assert len(seen) == 1 + 3 + 3
