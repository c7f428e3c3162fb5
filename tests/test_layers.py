"""What stock layers do besides computing, with dropout inside the recurrence switched on."""

import copy
import io
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import recdrop
from recdrop import RecurrentDropout
from recdrop.backends import BACKENDS
from tests.helpers import OURS, TORCHS, tensors


@pytest.fixture(params=OURS)
def cell(request):
    return request.param


@pytest.fixture
def layer(cell):
    return OURS[cell](3, 5, 2, bidirectional=True, recurrent_dropout=0.4)


@pytest.fixture
def x():
    return torch.randn(6, 4, 3)


def held(layer, *args):
    with recdrop.hold_masks(1):
        return tensors(layer(*args))


def test_constructor_positions_are_torchs(cell):
    args = {
        "rnn": (3, 5, 2, "relu", False, True, 0.5, True),
        "lstm": (3, 5, 2, False, True, 0.5, True, 2, "cpu", torch.float64),
        "gru": (3, 5, 2, False, True, 0.5, True),
    }[cell]
    # torch's RNN and GRU take device and dtype by position in their signature, not in fact.
    rest = {} if cell == "lstm" else {"device": "cpu", "dtype": torch.float64}
    ours, theirs = OURS[cell](*args, **rest), TORCHS[cell](*args, **rest)
    for name in ("bias", "batch_first", "dropout", "bidirectional", "proj_size", "mode"):
        assert getattr(ours, name) == getattr(theirs, name)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert next(ours.parameters()).dtype == torch.float64


def test_batch_first(cell, x):
    a = OURS[cell](3, 5, recurrent_dropout=0.4)
    b = OURS[cell](3, 5, recurrent_dropout=0.4, batch_first=True)
    b.load_state_dict(a.state_dict())
    first, second = held(a, x), held(b, x.transpose(0, 1))
    assert torch.equal(first[0], second[0].transpose(0, 1))
    for s, t in zip(first[1:], second[1:], strict=True):
        assert torch.equal(s, t)


@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_equals_padded_where_all_are_long(cell, x, batch_first):
    layer = OURS[cell](3, 5, 2, batch_first=batch_first, recurrent_dropout=0.4)
    given = x.transpose(0, 1) if batch_first else x
    packed = pack_padded_sequence(given, torch.tensor([6] * 4), batch_first)
    with recdrop.hold_masks(1):
        output, state = layer(packed)
        dense, dense_state = layer(given)
    torch.testing.assert_close(pad_packed_sequence(output, batch_first)[0], dense)
    torch.testing.assert_close(state, dense_state)


def test_packed_rows_equal_the_rows_alone(cell, x):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4)
    lengths = [2, 6, 1, 4]
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    with recdrop.hold_masks(1):
        output, _ = layer(packed)
        assert isinstance(output, PackedSequence)
        padded = pad_packed_sequence(output)[0]
        dense = layer(x)[0]
    for row, n in enumerate(lengths):
        torch.testing.assert_close(padded[:n, row], dense[:n, row])


def test_unbatched_with_a_state(cell, x):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4)
    h = torch.randn(1, 4, 5)
    hx = (h, h.cos()) if cell == "lstm" else h
    alone = (h[:, 0], h.cos()[:, 0]) if cell == "lstm" else h[:, 0]
    batched, single = held(layer, x, hx), held(layer, x[:, 0], alone)
    for b, s in zip(batched, single, strict=True):
        torch.testing.assert_close(b[:, 0], s)


def test_state_dict_is_strict_both_ways(cell, layer):
    theirs = TORCHS[cell](3, 5, 2, bidirectional=True)
    theirs.load_state_dict(layer.state_dict(), strict=True)
    layer.load_state_dict(theirs.state_dict(), strict=True)
    assert list(layer.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_have_masks_of_their_own(layer, x, how):
    def saved():
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    twin = {
        "deepcopy": lambda: copy.deepcopy(layer),
        "copy": lambda: copy.copy(layer),
        "pickle": lambda: pickle.loads(pickle.dumps(layer)),  # noqa: S301  our own bytes
        "torch.save": saved,
    }[how]()
    assert twin.recurrent_dropout == layer.recurrent_dropout
    assert repr(twin) == repr(layer)
    for a, b in zip(held(layer, x), held(twin, x), strict=True):
        assert torch.equal(a, b)
    with recdrop.hold_masks(1):
        assert not torch.equal(layer(x)[0], twin(x)[0])


def test_functional_call_uses_the_given_parameters(layer, x):
    other = {name: p + 0.1 for name, p in layer.named_parameters()}
    with recdrop.hold_masks(1):
        called = tensors(torch.func.functional_call(layer, other, (x,)))
    before = held(layer, x)
    layer.load_state_dict(other)
    for a, b, c in zip(called, held(layer, x), before, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_functional_call_on_the_stock_path(cell, x):
    layer = OURS[cell](3, 5)
    other = {name: p + 0.1 for name, p in layer.named_parameters()}
    called = tensors(torch.func.functional_call(layer, other, (x,)))
    theirs = TORCHS[cell](3, 5)
    theirs.load_state_dict(other)
    for a, b in zip(called, tensors(theirs(x)), strict=True):
        assert torch.equal(a, b)


def test_parametrizations_and_moves(cell, x):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    layer(x)[0].sum().backward()
    plain = OURS[cell](3, 5, recurrent_dropout=0.4).double().float()
    plain.to("cpu").half().float()
    assert plain(x)[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_are_kept(cell, dtype):
    layer = OURS[cell](3, 5, 2, recurrent_dropout=0.4, dtype=dtype)
    out = tensors(layer(torch.randn(6, 4, 3, dtype=dtype)))
    assert {o.dtype for o in out} == {dtype}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("cell", "args"), [("rnn", {}), ("lstm", {}), ("lstm", {"proj_size": 2}), ("gru", {})]
)
def test_cpu_autocast_is_no_worse_than_stock(cell, args, x, packed):
    theirs = TORCHS[cell](3, 5, 2, **args)
    ours = recdrop.from_torch(theirs, recurrent_dropout=0.4)
    given = pack_padded_sequence(x, torch.tensor([6, 4, 4, 1])) if packed else x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            expected = tensors(theirs(given))
        except RuntimeError as error:
            if "could not create a primitive" not in str(error):
                raise
            pytest.skip("torch's own layer does not run in bfloat16 on this processor")
        got = tensors(ours(given))
        sum(o.float().sum() for o in got).backward()
    # c is never less precise than torch's.
    assert [g.dtype for g in got[:2]] == [e.dtype for e in expected[:2]]
    assert {g.dtype for g in got[2:]} <= {torch.float32}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    with recdrop.hold_masks(1):
        precise = tensors(ours(given))
    with torch.autocast("cpu", dtype=torch.bfloat16), recdrop.hold_masks(1):
        for g, e in zip(tensors(ours(given)), precise, strict=True):
            torch.testing.assert_close(g.float(), e, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_input_of_another_type_under_autocast(cell, x, dtype, packed):
    """float64 stays; what is low already gives as low results as torch's layers."""
    own = torch.float64 if dtype == torch.float64 else torch.float32
    theirs = TORCHS[cell](3, 5, 2, dtype=own)
    ours = recdrop.from_torch(theirs, recurrent_dropout=0.4)
    given = x.to(dtype)
    if packed:
        given = pack_padded_sequence(given, torch.tensor([6, 4, 4, 1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = tensors(theirs(given))
        for backend in ("auto", "reference"):
            ours.backend = backend
            assert [t.dtype for t in tensors(ours(given))] == [t.dtype for t in expected]


def test_a_saved_layer_loads_with_weights_only(x, tmp_path):
    layer = recdrop.LSTM(3, 5, recurrent_dropout=0.4)
    torch.save(layer, tmp_path / "layer.pt")
    with torch.serialization.safe_globals([recdrop.LSTM, recdrop.RecurrentDropout]):
        loaded = torch.load(tmp_path / "layer.pt", weights_only=True)
    assert torch.equal(loaded.eval()(x)[0], layer.eval()(x)[0])
    loaded.train()
    with recdrop.hold_masks(1):
        assert torch.equal(loaded(x)[0], loaded(x)[0])


def test_an_exported_program_loads_in_another_process(x, tmp_path):
    layer = recdrop.LSTM(3, 5, recurrent_dropout=0.4).eval()
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    torch.save(x, tmp_path / "x.pt")
    code = f"""
import torch, recdrop.layers
from pathlib import Path
at = Path({str(tmp_path)!r})
program = torch.export.load(at / "layer.pt2").module()
torch.save(program(torch.load(at / "x.pt"))[0], at / "output.pt")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), layer(x)[0])


# Dynamo reads .grad of what crosses a graph break.
ACROSS_A_BREAK = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@ACROSS_A_BREAK
@pytest.mark.parametrize("what", ["training", "eval", "rate 0", "packed"])
def test_compile_gives_the_same_bits(cell, x, what):
    torch.compiler.reset()
    layer = OURS[cell](3, 5, recurrent_dropout=0.0 if what == "rate 0" else 0.4)
    layer.train(what != "eval")
    given = pack_padded_sequence(x, torch.tensor([6, 4, 4, 1])) if what == "packed" else x
    # The default compiler once; what it compiles around the layer is the same for all.
    usual = (cell, what) == ("lstm", "training")
    compiled = torch.compile(layer, backend="inductor" if usual else "aot_eager")
    results = []
    for f in (layer, compiled):
        torch.manual_seed(3)
        layer.zero_grad()
        out = tensors(f(given))
        sum(o.sum() for o in out).backward()
        results.append([*out, *(p.grad.clone() for p in layer.parameters())])
    # Where nothing is dropped, eager runs torch's own kernel, which cannot be part of a graph.
    tolerance = {"rtol": 0, "atol": 0} if what in ("training", "packed") else {}
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    if what == "training":
        assert not torch.equal(tensors(compiled(given))[0], results[1][0])


@ACROSS_A_BREAK
def test_compiled_model_draws_held_masks(x):
    torch.compiler.reset()
    lstm = recdrop.LSTM(3, 5, recurrent_dropout=0.4)
    compiled = torch.compile(lstm, backend="aot_eager")
    expected = held(lstm, x)
    for a, b in zip(held(compiled, x), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_draws_the_same_masks_again(cell, x, reentrant):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4)
    x.requires_grad_()
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(2)
        layer.zero_grad()
        if checkpointed:
            out = torch.utils.checkpoint.checkpoint(
                lambda x: layer(x)[0], x, use_reentrant=reentrant
            )
        else:
            out = layer(x)[0]
        torch.randn(7)  # the generator moves on before backward
        out.square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_empty_batch(cell):
    layer = OURS[cell](3, 5, 2, bidirectional=True, recurrent_dropout=0.4)
    out = tensors(layer(torch.randn(6, 0, 3)))
    expected = tensors(TORCHS[cell](3, 5, 2, bidirectional=True)(torch.randn(6, 0, 3)))
    assert [o.shape for o in out] == [e.shape for e in expected]


def test_nan_stays_in_its_row(cell, x):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4)
    x[2, 1] = torch.nan
    out = layer(x)[0]
    assert out[2:, 1].isnan().all()
    assert out[:2].isfinite().all()
    assert out[:, [0, 2, 3]].isfinite().all()


def test_repr_shows_what_is_set():
    assert repr(recdrop.LSTM(3, 5)) == "LSTM(3, 5)"
    spec = RecurrentDropout(0.5, "hidden", tied=False)
    shown = repr(
        recdrop.GRU(
            3, 5, recurrent_dropout=spec, reset_after=False, activation="relu", backend="reference"
        )
    )
    for part in ("activation='relu'", "reset_after=False", repr(spec), "backend='reference'"):
        assert part in shown
    assert "nonlinearity='relu'" in repr(recdrop.RNN(3, 5, nonlinearity="relu"))
    two = (RecurrentDropout(0.5), RecurrentDropout(0.1, "hidden"))
    assert repr(two) in repr(recdrop.LSTM(3, 5, recurrent_dropout=two))


@pytest.mark.parametrize("reset_after", [True, False])
def test_the_two_grus_differ(reset_after):
    gru = recdrop.GRU(3, 5, reset_after=reset_after)
    theirs = nn.GRU(3, 5)
    theirs.load_state_dict(gru.state_dict())
    x = torch.randn(6, 4, 3)
    assert torch.equal(gru(x)[0], theirs(x)[0]) == reset_after


def test_named_backends_never_fall_back(cell, x):
    layer = OURS[cell](3, 5, backend="reference")
    assert "reference: runs this call" in recdrop.explain_backend(layer, x)
    layer.backend = "stock"
    layer(x)
    layer.recurrent_dropout = 0.4
    with pytest.raises(recdrop.BackendUnsupported, match="backend='stock'.*rate 0.4"):
        layer(x)
    layer.eval()(x)
    with pytest.raises(ValueError, match="backend must be one of.*got 'cuda'"):
        layer.backend = "cuda"


def test_stock_says_what_torch_lacks(x):
    for layer, lack in (
        (recdrop.GRU(3, 5, reset_after=False, backend="stock"), "reset_after=False"),
        (recdrop.LSTM(3, 5, activation="relu", backend="stock"), "activation='relu'"),
    ):
        with pytest.raises(recdrop.BackendUnsupported, match=lack):
            layer(x)


def test_explain_backend_draws_nothing_and_says_why(x):
    lstm = recdrop.LSTM(3, 5, recurrent_dropout=0.25)
    before = torch.get_rng_state()
    text = recdrop.explain_backend(lstm, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert "stock: no: " in text
    assert "update at rate 0.25" in text
    runs = "native" if BACKENDS["native"].missing() is None else "reference"
    assert f"{runs}: runs this call" in text
    lstm.backend = "stock"
    assert "reference: not asked" in recdrop.explain_backend(lstm, x)


def test_functional_equals_the_layer(cell, x):
    layer = OURS[cell](3, 5, 2, recurrent_dropout=0.4)
    h = torch.zeros(2, 4, 5)
    f = getattr(recdrop.functional, cell)
    with recdrop.hold_masks(1):
        key = recdrop.rng.draw_key(layer._owner)
        expected = tensors(layer(x))
    got = f(
        x, (h, h) if cell == "lstm" else h, list(layer.parameters()),
        num_layers=2, training=True, recurrent_dropout=0.4, key=key,
    )  # fmt: skip
    for a, b in zip(tensors(got), expected, strict=True):
        assert torch.equal(a, b)


def test_a_schedule_changes_the_rate_between_steps(x):
    lstm = recdrop.LSTM(3, 64, recurrent_dropout=0.0)
    zeros = []
    for rate in (0.0, 0.25, 0.75):
        lstm.recurrent_dropout = RecurrentDropout(rate, "state")
        _, (_, c_n) = lstm(x)
        zeros.append(float((c_n == 0).float().mean()))
    assert zeros[0] == 0
    assert zeros[0] < zeros[1] < zeros[2]


@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_masks_differ_between_rows_layers_and_directions(sampling):
    spec = RecurrentDropout(0.5, "state", sampling)
    lstm = recdrop.LSTM(3, 64, 2, bidirectional=True, recurrent_dropout=spec)
    _, (_, c_n) = lstm(torch.randn(5, 3, 3))
    dropped = (c_n == 0).flatten(0, 1)
    for a, b in itertools.combinations(range(len(dropped)), 2):
        assert not torch.equal(dropped[a], dropped[b])
