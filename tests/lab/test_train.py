"""The training loop: windows, stopping, determinism, divergence."""

import math

import pytest
import torch

from recdrop.lab.config import Adam, Model, Schedule, Sgd, StopRule
from recdrop.lab.errors import Diverged
from recdrop.lab.train import Row, stream, train
from tests.lab.tiny import DATA, stopping, tiny_run


def trained(**changes):
    rows: list[Row] = []
    outcome = train(tiny_run(**changes), rows.append)
    return rows, outcome


def test_rows_are_windows_and_the_test_set_is_looked_at_when_due():
    rows, outcome = trained()
    assert [row.update for row in rows] == [2, 4, 6, 8]
    assert [row.test_accuracy is not None for row in rows] == [False, True, False, True]
    assert outcome.updates == 8
    assert outcome.stopped_by == "cap"
    assert outcome.test_accuracy == rows[-1].test_accuracy
    assert outcome.train_accuracy == rows[-1].train_accuracy
    assert all(math.isfinite(row.loss) for row in rows)


def test_the_same_run_gives_the_same_bits_and_leaves_torchs_generator_alone():
    before = torch.random.get_rng_state()
    first = trained()
    torch.random.manual_seed(99)
    second = trained()
    assert first == second
    torch.random.set_rng_state(before)
    trained()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trained(seed=4) != first


def test_streams_have_purposes_of_their_own():
    draws = [torch.rand(3, generator=stream(seed, p)) for seed in (0, 1) for p in ("a", "b")]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(torch.rand(3, generator=stream(0, "a")), draws[0])


def test_the_stop_rule_needs_its_windows_in_a_row():
    _, outcome = trained(schedule=stopping(0.0, windows=3))
    assert (outcome.updates, outcome.stopped_by) == (6, "rule")
    _, outcome = trained(schedule=stopping(1.0))
    assert outcome.stopped_by == "cap"


def test_the_stop_rule_may_ask_the_test_set_too():
    rows, outcome = trained(schedule=stopping(0.0, test_accuracy=1.0))
    assert outcome.stopped_by == "cap"
    assert all(row.test_accuracy is not None for row in rows)


def test_it_learns():
    """A short task with room: accuracy with masks on must come from learning, not from luck."""
    schedule = Schedule(
        max_updates=2_000, window=50, evaluate_every=2_000, stop=StopRule(train_accuracy=0.95)
    )
    data = DATA.model_copy(update={"length": 4, "low": 1, "high": 2, "train": 320, "test": 200})
    _, outcome = trained(
        data=data,
        schedule=schedule,
        model=Model(hidden=24, init_range=0.3, output_init_range=0.3),
        optim=Adam(lr=0.01, clip_norm=5.0),
    )
    assert outcome.stopped_by == "rule"
    assert outcome.test_accuracy > 0.9
    assert outcome.test_accuracy >= outcome.test_accuracy_masked - 0.05


def test_plain_sgd_with_clipping_moves_by_at_most_the_clipped_step():
    start, _ = trained(optim=Sgd(lr=1e-12))
    moved, _ = trained(optim=Sgd(lr=0.5, clip_norm=1e-9))
    free, _ = trained(optim=Sgd(lr=0.5))
    assert [r.loss for r in moved] == pytest.approx([r.loss for r in start], abs=1e-6)
    assert [r.loss for r in free] != pytest.approx([r.loss for r in start], abs=1e-4)


def test_divergence_names_run_and_update(monkeypatch):
    monkeypatch.setattr(
        "torch.nn.functional.cross_entropy", lambda logits, _: logits.sum() * math.nan
    )
    with pytest.raises(Diverged, match=r"ours-step-tiny, seed 3: the loss is nan at update 1"):
        trained()


def test_updates_to_99_is_the_first_window_that_reached_it():
    _, outcome = trained(schedule=stopping(1.0))
    assert outcome.updates_to_99 is None
