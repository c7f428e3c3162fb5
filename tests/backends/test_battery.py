"""One battery for all backends, and the proof that it can fail."""

import dataclasses

import pytest
import torch

from recdrop import RecurrentDropout
from recdrop.backends import BACKENDS, reference
from recdrop.backends.stack import run_stack
from recdrop.testing import CASES, Reference, assert_matches_reference, make_call, schemes

OTHERS = ["stock", "native"]  # test_triton.py runs the battery on triton's kernels
CELLS = [
    ("rnn", {}),
    ("rnn", {"activation": "relu"}),
    ("lstm", {}),
    ("lstm", {"activation": "relu"}),
    ("gru", {}),
    ("gru", {"activation": "relu"}),
    ("gru", {"reset_after": False}),
]
SCHEMES = {cell: [(), *schemes(cell)] for cell in ("rnn", "lstm", "gru")}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_battery(cell, args, case, training):
    """Every scheme on every backend that takes it, in both dtypes, against one reference run."""
    taken = dict.fromkeys(OTHERS, 0)
    for drops in SCHEMES[cell]:
        call = make_call(CASES[case], cell, drops, training=training, **args)
        expected = Reference.of(call)
        for backend in OTHERS:
            if BACKENDS[backend].why_not(call) is None:
                for dtype in (torch.float32, torch.float64):
                    assert_matches_reference(backend, call, dtype=dtype, expected=expected)
                taken[backend] += 1
    stock_cell = cell == "rnn" or not args
    assert taken.pop("stock") >= int(stock_cell)  # it must take rate 0 where torch has the cell
    for backend, number in taken.items():
        assert number == len(SCHEMES[cell]) or BACKENDS[backend].missing()


def faulty_runs():
    """Planted faults, each a backend with one mistake."""

    def lost_gradient(call):
        weights = (call.weights[0], call.weights[1].detach(), *call.weights[2:])
        return reference.run(dataclasses.replace(call, weights=weights))

    def lost_state_gradient(call):
        return reference.run(dataclasses.replace(call, state=tuple(s.detach() for s in call.state)))

    def other_site(call):
        sites = {"update": "hidden", "hidden": "update", "state": "update"}
        drops = tuple(
            RecurrentDropout(s.rate, sites[s.site], s.sampling, s.rescale)
            for s in call.recurrent_dropout
        )
        return reference.run(dataclasses.replace(call, recurrent_dropout=drops))

    def no_mask(call):
        return reference.run(dataclasses.replace(call, recurrent_dropout=()))

    def other_key(call):
        return reference.run(call.with_key(call.key + 1))

    def other_sampling(call):
        drops = tuple(dataclasses.replace(s, sampling="sequence") for s in call.recurrent_dropout)
        return reference.run(dataclasses.replace(call, recurrent_dropout=drops))

    def other_rescaling(call):
        drops = tuple(dataclasses.replace(s, rescale="test") for s in call.recurrent_dropout)
        return reference.run(dataclasses.replace(call, recurrent_dropout=drops))

    def forward_only_mask(call):
        def scan(part):
            steps, final = reference.scan(part)
            plain = dataclasses.replace(part, call=dataclasses.replace(call, recurrent_dropout=()))
            plain_steps, plain_final = reference.scan(plain)
            return (
                tuple(p + (s - p).detach() for s, p in zip(steps, plain_steps, strict=True)),
                tuple(p + (s - p).detach() for s, p in zip(final, plain_final, strict=True)),
            )

        return run_stack(call, scan)

    def lost_final_state(call):
        output, (h, c) = reference.run(call)
        return output, (h, c.detach())

    def slightly_off(call):
        output, final = reference.run(call)
        return output * (1 + 2e-6), final

    def poisoned(call):
        output, final = reference.run(call)
        return torch.where(torch.zeros_like(output).bool(), output, torch.nan), final

    return [f for name, f in locals().items() if callable(f)]


@pytest.mark.parametrize("fault", faulty_runs(), ids=lambda f: f.__name__)
def test_the_battery_rejects(fault):
    call = make_call(CASES["odd"], "lstm", [RecurrentDropout(0.4)])
    assert_matches_reference(reference.run, call)
    with pytest.raises(AssertionError, match="differs from the reference"):
        assert_matches_reference(fault, call)


def test_the_battery_rejects_sorted_rows_instead_of_the_callers():
    call = make_call(CASES["packed"], "lstm", [RecurrentDropout(0.4)])

    def sorted_rows(call):
        return reference.run(dataclasses.replace(call, rows=None))

    with pytest.raises(AssertionError, match="differs from the reference"):
        assert_matches_reference(sorted_rows, call)
