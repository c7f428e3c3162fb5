"""What peers got wrong, each once: the mistake in the name, its absence in the test.

Pitfalls of peers with weight dropping, layer normalisation and zoneout do not apply here. Others
are tested where they belong: gradients ignoring the mask and gradients of final states in
test_gradients, copies and checkpoints in test_layers, keys in test_rng.
"""

import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import recdrop
from recdrop import RecurrentDropout
from tests.helpers import OURS, SITES, TORCHS, tensors
from tests.oracles import philox

X = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
ALL = [(cell, site) for cell in OURS for site in SITES[cell]]


def test_moon_with_its_default_rescaling_does_not_explode():
    """Inverted scaling reached 1.9e7 at t = 35 elsewhere; forget bias 1, rate 0.5."""
    lstm = recdrop.LSTM(3, 256, recurrent_dropout=RecurrentDropout(0.5, "state", "sequence"))
    with torch.no_grad():
        lstm.bias_ih_l0[256:512] = 1.0
    _, (_, c_n) = lstm(torch.randn(100, 4, 3))
    assert c_n.abs().max() < 10
    with pytest.warns(UserWarning, match="grow"):
        lstm.recurrent_dropout = RecurrentDropout(0.5, "state", "sequence", "train")
    _, (_, c_n) = lstm(torch.randn(100, 4, 3))
    assert c_n.abs().max() > 1e4


@pytest.mark.parametrize(("cell", "site"), ALL)
def test_test_rescaling_multiplies_in_evaluation_at_the_same_place(cell, site):
    """One step, where the value at the site enters linearly: evaluation is the mean over masks."""
    keep = 0.7
    layer = OURS[cell](
        3, 1, recurrent_dropout=RecurrentDropout(1 - keep, site, rescale="test"),
        dtype=torch.float64, **({"nonlinearity": "relu"} if cell == "rnn" else {}),
    )  # fmt: skip
    with torch.no_grad():
        for p in layer.parameters():
            p.abs_()
        if site == "hidden" and cell != "rnn":
            layer.weight_hh_l0.mul_(1e-4)  # small enough for the gates to be linear in it
    x = torch.ones(1, 4000, 3).double()
    h = torch.ones(1, 4000, 1).double()
    state = (h, h) if cell == "lstm" else h
    memory = -1  # c of an LSTM, h of the others
    trained, tested = (tensors(layer.train(t)(x, state))[memory].flatten() for t in (True, False))
    spread = trained.std() / 4000**0.5
    assert abs(trained.mean() - tested[0]) < 5 * spread
    assert spread > 0


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_scheme_is_the_one_it_says(cell):
    """A library cites this paper and drops h; here each site leaves its own trace."""
    layer = OURS[cell](3, 64, recurrent_dropout=RecurrentDropout(0.5, "update"))
    x = torch.randn(1, 4, 3)
    h = torch.randn(1, 4, 64)
    state = (h, h) if cell == "lstm" else h
    plain = recdrop.from_torch(recdrop.to_torch(layer))
    out, expected = tensors(layer(x, state))[-1], tensors(plain(x, state))[-1]
    differ = (out - expected).abs() > 1e-6
    assert 0.3 < differ.float().mean() <= 1
    layer.recurrent_dropout = RecurrentDropout(0.5, "hidden")
    zero = (h * 0, h) if cell == "lstm" else h * 0
    for a, b in zip(tensors(layer(x, zero)), tensors(plain(x, zero)), strict=True):
        torch.testing.assert_close(a, b)  # d(0) = 0: the hidden site sees nothing else
    layer.recurrent_dropout = RecurrentDropout(0.5, "state")
    assert ((tensors(layer(x, state))[-1] == 0).float().mean() - 0.5).abs() < 0.15


def test_masks_follow_the_batch_and_are_not_stored():
    lstm = recdrop.LSTM(3, 8, recurrent_dropout=0.5)
    assert list(lstm.buffers()) == []
    for batch in (1, 7, 3):
        assert lstm(torch.randn(5, batch, 3))[0].shape == (5, batch, 8)
    spec = RecurrentDropout(0.5, "state", "sequence")
    lstm.recurrent_dropout = spec
    dropped = lstm(torch.randn(5, 7, 3))[1][1][0] == 0
    assert len({tuple(row.tolist()) for row in dropped}) > 1


@pytest.mark.parametrize(("cell", "site"), ALL)
def test_two_calls_differ_and_a_seed_repeats_them(cell, site):
    layer = OURS[cell](3, 8, recurrent_dropout=RecurrentDropout(0.5, site))
    torch.manual_seed(1)
    a, b = layer(X)[0], layer(X)[0]
    torch.manual_seed(1)
    assert torch.equal(layer(X)[0], a)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("cell", OURS)
def test_masks_across_windows_are_the_callers_choice(cell):
    """Fresh at every call, as the authors' code has it, or held."""
    site = "hidden" if cell == "rnn" else "update"
    layer = OURS[cell](3, 8, recurrent_dropout=RecurrentDropout(0.5, site, "sequence"))
    assert not torch.equal(layer(X)[0], layer(X)[0])
    with recdrop.hold_masks():
        assert torch.equal(layer(X)[0], layer(X)[0])


@pytest.mark.parametrize(("cell", "site"), ALL)
def test_evaluation_drops_nothing_and_draws_nothing(cell, site):
    theirs = TORCHS[cell](3, 8)
    ours = recdrop.from_torch(
        theirs,
        recurrent_dropout=RecurrentDropout(0.5, site, rescale=None if site == "state" else "train"),
    ).eval()
    before = torch.get_rng_state()
    a, b = ours(X)[0], ours(X)[0]
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)
    if site != "state":
        assert torch.equal(a, theirs(X)[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_sequence_mask_is_constant_over_time_and_varies_over_the_batch(batch_first):
    """Locked dropout locks the wrong axis elsewhere; here in both layouts."""
    spec = RecurrentDropout(0.5, "state", "sequence")
    gru = recdrop.GRU(3, 32, batch_first=batch_first, recurrent_dropout=spec)
    out = gru(torch.randn(7, 5, 3))[0]
    dropped = (out if not batch_first else out.transpose(0, 1)) == 0
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert len({tuple(row.tolist()) for row in dropped[0]}) == dropped.shape[1]


def test_a_checkpoint_of_torch_loads_with_dropout_set():
    for cell, ours in OURS.items():
        theirs = TORCHS[cell](3, 5, 2, bidirectional=True)
        layer = ours(3, 5, 2, bidirectional=True, recurrent_dropout=0.5)
        layer.load_state_dict(theirs.state_dict(), strict=True)
        theirs.load_state_dict(layer.state_dict(), strict=True)


def test_it_runs_without_any_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ours in OURS.values():
            layer = ours(3, 5, 2, dropout=0.2, bidirectional=True, recurrent_dropout=0.5)
            layer(X)[0].sum().backward()
            layer.eval()(X)


@pytest.mark.parametrize("cell", OURS)
def test_unsorted_packing_keeps_rows_and_states_in_place(cell):
    theirs = TORCHS[cell](3, 5, bidirectional=True)
    ours = recdrop.from_torch(theirs, backend="reference")
    packed = pack_padded_sequence(X, torch.tensor([2, 6, 1, 4]), enforce_sorted=False)
    h = torch.randn(2, 4, 5)
    state = (h, h.sin()) if cell == "lstm" else h
    for a, b in zip(tensors(ours(packed, state)), tensors(theirs(packed, state)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", OURS)
def test_default_states_are_zeros(cell):
    layer = OURS[cell](3, 5, backend="reference")
    h = torch.zeros(1, 4, 5)
    for a, b in zip(
        tensors(layer(X)), tensors(layer(X, (h, h) if cell == "lstm" else h)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cell", OURS)
def test_gradients_in_eval_mode_equal_torchs(cell):
    theirs = TORCHS[cell](3, 5).eval()
    ours = recdrop.from_torch(theirs, recurrent_dropout=0.5)
    grads = []
    for layer in (theirs, ours):
        x = X.clone().requires_grad_()
        layer(x)[0].sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_between_layer_dropout_with_one_layer_warns_as_torch_does():
    for ours in OURS.values():
        with pytest.warns(UserWarning, match="num_layers greater than 1"):
            ours(3, 5, dropout=0.5)


def test_masks_do_not_depend_on_width_of_the_batch_or_length():
    """A mask is a function of coordinates: more rows or steps leave the others as they are."""
    gru = recdrop.GRU(3, 32, recurrent_dropout=RecurrentDropout(0.5, "state"))
    x = torch.randn(9, 6, 3)
    with recdrop.hold_masks(2):
        whole = gru(x)[0]
        part = gru(x[:4, :2])[0]
    torch.testing.assert_close(part, whole[:4, :2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_masks_do_not_depend_on_threads(threads):
    gru = recdrop.GRU(3, 32, recurrent_dropout=RecurrentDropout(0.5, "state"))
    for p in gru.parameters():
        torch.nn.init.constant_(p, 0.01)
    torch.set_num_threads(threads)
    with recdrop.hold_masks(2):
        key = recdrop.rng.draw_key(gru._owner)
        kept = gru(torch.ones(9, 6, 3))[0] != 0
    expected = philox.keep_mask(
        int(key), 0.5, "state", "step", layer=0, direction=0, steps=9, rows=range(6), units=32
    )
    assert np.array_equal(kept.numpy(), expected)
