"""What the Triton backend is tried with, in its interpreter and on a card."""

import pytest
import torch

from recdrop import RecurrentDropout
from recdrop.backends import reference
from recdrop.testing import Reference, evaluate

CELLS = [
    pytest.param("rnn", {}, id="rnn"),
    pytest.param("lstm", {}, id="lstm"),
    pytest.param("gru", {}, id="gru"),
    pytest.param("gru", {"reset_after": False}, id="paper's gru"),
]
ALL_SITES = (
    RecurrentDropout(0.4, "hidden", "step", tied=False),
    RecurrentDropout(0.3, "update", "sequence", "test"),
    RecurrentDropout(0.2, "state", "step"),
)


def of_cell(cell, specs):
    return tuple(s for s in specs if cell != "rnn" or s.site == "hidden")


def assert_as_near_as_the_reference(run, call, dtype):
    """In 16 bits: at most twice the reference's own error in that type."""
    truth = Reference.of(call).truth
    own, tried = (evaluate(each, call, dtype) for each in (reference.run, run))
    for name, true in truth.items():
        size = float(true.abs().max())
        error, allowed = (float((r[name].double() - true).abs().max()) for r in (tried, own))
        assert tried[name].dtype == dtype
        assert error <= 2 * max(allowed, 2 * torch.finfo(dtype).eps * size), name
