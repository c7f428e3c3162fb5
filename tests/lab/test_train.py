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


def test_a_window_below_the_rule_starts_the_count_again():
    capped = {"max_updates": 80, "window": 2, "evaluate_every": 80}
    reached = [row.train_accuracy for row in trained(schedule=Schedule(**capped))[0]]
    rule = StopRule(train_accuracy=sorted(reached)[len(reached) // 2], windows=2)
    enough = [accuracy >= rule.train_accuracy for accuracy in reached]
    wanted = next(k for k in range(1, len(enough)) if enough[k - 1] and enough[k])
    assert sum(enough[:wanted]) > 1  # a count that forgets to start again stops before
    _, outcome = trained(schedule=Schedule(**capped, stop=rule))
    assert outcome.updates == 2 * (wanted + 1)


def test_the_stop_rule_may_ask_the_test_set_too():
    rows, outcome = trained(schedule=stopping(0.0, test_accuracy=1.0))
    assert outcome.stopped_by == "cap"
    assert all(row.test_accuracy is not None for row in rows)


def test_it_learns():
    """A short task with room: accuracy with masks on must come from learning, not from luck."""
    schedule = Schedule(
        max_updates=3_000,
        window=50,
        evaluate_every=3_000,
        stop=StopRule(train_accuracy=0.99, windows=2),
    )
    data = DATA.model_copy(update={"length": 4, "low": 1, "high": 2, "train": 320, "test": 200})
    rows, outcome = trained(
        data=data,
        schedule=schedule,
        model=Model(hidden=24, init_range=0.3, output_init_range=0.3),
        optim=Adam(lr=0.01, clip_norm=5.0),
    )
    assert outcome.stopped_by == "rule"
    assert outcome.test_accuracy > 0.99
    assert outcome.train_accuracy_deterministic > 0.99
    assert 0.9 < outcome.test_accuracy_masked < outcome.test_accuracy
    assert outcome.updates_to_99 == next(r.update for r in rows if r.train_accuracy >= 0.99)
    assert outcome.updates_to_99 < outcome.updates


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


def test_a_gradient_that_is_not_finite_is_not_stepped_with(monkeypatch):
    monkeypatch.setattr(  # its value is 0, its gradient 0 times infinity
        "torch.nn.functional.cross_entropy", lambda logits, _: (0 * logits).abs().sqrt().sum()
    )
    with pytest.raises(Diverged, match=r"the gradient's norm is nan at update 1"):
        trained()


def test_99_percent_may_never_be_reached():
    _, outcome = trained(schedule=stopping(1.0))
    assert outcome.updates_to_99 is None
