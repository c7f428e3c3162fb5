"""Bad input: torch.nn's exception class, and a message with what was expected and what came."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import recdrop
from tests.helpers import OURS, TORCHS

X = torch.zeros(4, 2, 3)


def states(cell, *shape, dtype=torch.float32):
    h = torch.zeros(*shape, dtype=dtype)
    return (h, h) if cell == "lstm" else h


def run_both(cell, args, call, error, message):
    """Both raise the same class; ours with the message."""
    for dropped in (0.0, 0.4):
        with pytest.raises(error, match=message):
            call(OURS[cell](3, 5, recurrent_dropout=dropped, **args))
    with pytest.raises(error):
        call(TORCHS[cell](3, 5, **args))


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 4, 2, 3), ValueError, "Expected input to be 2D or 3D, got 4D"),
        (torch.zeros(3), ValueError, "Expected input to be 2D or 3D, got 1D"),
        (torch.zeros(4, 2, 7), RuntimeError, "Expected 3, got 7"),
        (torch.zeros(4, 7), RuntimeError, "Expected 3, got 7"),
        (torch.zeros(0, 2, 3), RuntimeError, "larger than 0"),
        (torch.zeros(0, 3), RuntimeError, "larger than 0"),
        (X.double(), ValueError, r"torch.float64.*torch.float32"),
        (X.long(), ValueError, r"torch.int64.*torch.float32"),
    ],
)
def test_input(cell, x, error, message):
    run_both(cell, {}, lambda layer: layer(x), error, message)


@pytest.mark.parametrize("cell", OURS)
def test_packed_input_of_another_width(cell):
    packed = pack_padded_sequence(torch.zeros(4, 2, 7), torch.tensor([4, 2]))
    run_both(cell, {}, lambda layer: layer(packed), RuntimeError, "Expected 3, got 7")


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (X, (1, 2, 6), r"Expected hidden size \(1, 2, 5\).*got \[1, 2, 6\]"),
        (X, (2, 2, 5), r"Expected hidden size \(1, 2, 5\).*got \[2, 2, 5\]"),
        (X, (1, 3, 5), r"Expected hidden size \(1, 2, 5\).*got \[1, 3, 5\]"),
        (X, (2, 5), "batched 3-D input.*got 2-D"),
        (X[:, 0], (1, 1, 5), "unbatched 2-D input.*got 3-D"),
    ],
)
def test_initial_state(cell, x, shape, message):
    hx = states(cell, *shape)
    run_both(cell, {}, lambda layer: layer(x, hx), RuntimeError, message)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cell", OURS)
def test_initial_state_of_another_batch_with_packed_input(cell, rows):
    packed = pack_padded_sequence(X, torch.tensor([2, 4]), enforce_sorted=False)
    with pytest.raises(RuntimeError, match=f"initial state of 2 rows.*got {rows}"):
        OURS[cell](3, 5)(packed, states(cell, 1, rows, 5))


@pytest.mark.parametrize("cell", OURS)
def test_initial_state_of_another_dtype(cell):
    hx = states(cell, 1, 2, 5, dtype=torch.float64)
    run_both(cell, {}, lambda layer: layer(X, hx), RuntimeError, "torch.float32.*torch.float64")


# torch raises AttributeError or IndexError here, by accident of the first method it calls.
@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize("x", [np.zeros((4, 2, 3)), [[1.0]], None, "x"])
def test_input_that_is_no_tensor(cell, x):
    with pytest.raises(TypeError, match="expected input to be a Tensor or a PackedSequence, got"):
        OURS[cell](3, 5)(x)


@pytest.mark.parametrize("cell", OURS)
def test_state_of_the_wrong_kind(cell):
    h = torch.zeros(1, 2, 5)
    for hx in (h if cell == "lstm" else (h, h), np.zeros((1, 2, 5)), (h, None)):
        with pytest.raises(TypeError, match="expected hx to be"):
            OURS[cell](3, 5)(X, hx)


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "greater than zero"),
        ({"hidden_size": -1}, ValueError, "greater than zero"),
        ({"hidden_size": 2.5}, TypeError, "int, got: float"),
        ({"input_size": "3"}, TypeError, "int, got: str"),
        ({"num_layers": 0}, ValueError, "greater than zero"),
        ({"num_layers": 1.5}, TypeError, "int, got: float"),
        ({"dropout": 1.5}, ValueError, r"range \[0, 1\]"),
        ({"dropout": True}, ValueError, r"range \[0, 1\]"),
        ({"bias": 1}, TypeError, "bool, got: int"),
        ({"batch_first": "yes"}, TypeError, "bool, got: str"),
    ],
)
def test_options_that_torch_checks(cell, options, error, message):
    with pytest.raises(error):
        TORCHS[cell](**{"input_size": 3, "hidden_size": 5, **options})
    with pytest.raises(error, match=message):
        OURS[cell](**{"input_size": 3, "hidden_size": 5, **options})


@pytest.mark.parametrize("rate", [1.5, 1.0, -0.1, True, float("nan")])
@pytest.mark.parametrize("cell", OURS)
def test_rates_are_refused_as_torch_refuses_its_dropout(cell, rate):
    with pytest.raises(ValueError, match=r"recurrent_dropout must be a number in \[0, 1\).*got"):
        OURS[cell](3, 5, recurrent_dropout=rate)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: recdrop.RNN(3, 5, nonlinearity="gelu"), ValueError, "nonlinearity 'gelu'"),
        (lambda: recdrop.LSTM(3, 5, activation="gelu"), ValueError, "activation 'gelu'"),
        (lambda: recdrop.GRU(3, 5, activation=None), ValueError, "activation None"),
        (lambda: recdrop.GRU(3, 5, reset_after=1), TypeError, "bool, got: int"),
        (lambda: recdrop.LSTM(3, 5, proj_size=5), ValueError, "smaller than hidden_size"),
        (lambda: recdrop.LSTM(3, 5, backend="gpu"), ValueError, "one of.*got 'gpu'"),
        (lambda: recdrop.LSTM(3, 5, backend=None), ValueError, "one of.*got None"),
    ],
)
def test_our_own_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def lstm_call(**changes):
    h = torch.zeros(1, 2, 5)
    weights = [torch.zeros(20, 3), torch.zeros(20, 5), torch.zeros(20), torch.zeros(20)]
    args = {"input": X, "hx": (h, h), "weights": weights, **changes}
    return recdrop.functional.lstm(**args)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": []}, RuntimeError, "got none"),
        ({"weights": [torch.zeros(20, 3)]}, RuntimeError, "expected 4 weights.*got 1"),
        (
            {"weights": [torch.zeros(20, 3), torch.zeros(20, 5), torch.zeros(20), torch.zeros(19)]},
            RuntimeError,
            r"must have shape \(20,\), got \[19\]",
        ),
        (
            {"weights": [torch.zeros(16, 3), torch.zeros(20, 5), torch.zeros(20), torch.zeros(20)]},
            RuntimeError,
            r"must have shape \(20, 3\), got \[16, 3\]",
        ),
        ({"weights": [torch.zeros(20)] * 4}, RuntimeError, "2-D"),
        ({"activation": "gelu"}, ValueError, "'gelu'"),
        ({"input": X[0]}, RuntimeError, "3 dimensions, got 2"),
        ({"hx": (torch.zeros(1, 2, 5),)}, TypeError, "pair"),
        ({"hx": None}, TypeError, "pair"),
        (
            {"weights": recdrop.LSTM(3, 5).all_weights},
            TypeError,
            "flat list.*got one with a .*list",
        ),
        (
            {"weights": [*recdrop.LSTM(3, 5).parameters(), torch.zeros(5, 5)]},
            RuntimeError,
            "narrower than the 5 units of c, got 5",
        ),
        ({"dropout": 2.0}, ValueError, "dropout must be in .*got 2.0"),
        ({"training": True, "recurrent_dropout": 0.5, "key": 3}, TypeError, "int64 scalar.*got 3"),
        ({"num_layers": 2}, RuntimeError, "expected 8 weights.*got 4"),
    ],
)
def test_functional(changes, error, message):
    with pytest.raises(error, match=message):
        lstm_call(**changes)


def test_the_report_takes_no_commands():
    ended = subprocess.run(
        [sys.executable, "-m", "recdrop", "train", "char-lm"], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("python -m recdrop takes no arguments")
    assert ended.stdout == ""


def test_the_lab_says_what_it_needs():
    """What ``recdrop`` meets where only the library was installed."""
    code = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("cyclopts", "rich") else real(name)
import recdrop.lab.cli
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.endswith(
        "ImportError: recdrop's lab needs cyclopts, rich, which the library alone does not: "
        "pip install 'recdrop[lab]'\n"
    )


def test_weights_may_be_any_iterable():
    lstm = recdrop.LSTM(3, 5)
    h = torch.zeros(1, X.shape[1], 5)
    output, _ = recdrop.functional.lstm(X, (h, h), lstm.parameters())
    assert torch.equal(output, lstm(X)[0])


def test_tensors_on_different_devices():
    lstm = recdrop.LSTM(3, 5, recurrent_dropout=0.4)
    with pytest.raises(RuntimeError, match="device of the input, meta, got one on cpu"):
        lstm(X.to("meta"))
