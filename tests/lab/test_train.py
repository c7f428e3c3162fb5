"""The training loop: rows, looks, schedules, determinism, divergence."""

import math

import pytest
import torch

from recdrop.lab.checkpoint import Checkpoint
from recdrop.lab.config import (
    Adam,
    ExponentialDecay,
    PlateauDecay,
    RmsProp,
    Schedule,
    Sgd,
    StopRule,
)
from recdrop.lab.errors import BadInput, Diverged
from recdrop.lab.records import Progress, Row
from recdrop.lab.tasks import prepare
from recdrop.lab.tasks.language_model import LanguageModelTask
from recdrop.lab.tasks.task import Measured, Part, never, stream
from recdrop.lab.tasks.temporal_order import TemporalOrderTask
from recdrop.lab.text import read_corpus
from recdrop.lab.train import Interrupted, train
from recdrop.lab.world import World
from tests.lab.tiny import DATA, stopping, tiny_model, tiny_run, tiny_words, write_text


class Memory:
    """A journal that keeps everything in memory and saves after every `every` updates."""

    def __init__(self, every=None):
        self.rows: list[Row] = []
        self.saved: dict[int, Checkpoint] = {}
        self.every = every

    def log(self, row):
        self.rows.append(row)
        return len(self.rows)

    def save(self, checkpoint):
        weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
        state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
        update = checkpoint.progress.update
        self.saved[update] = Checkpoint(weights, state, checkpoint.progress)

    def best(self, update):
        return self.saved[update].weights

    def ticked(self, progress):
        return self.every is not None and progress.update % self.every == 0


def trained(journal=None, start=None, **changes):
    journal = journal or Memory()
    run = tiny_run(**changes)
    outcome = train(run, prepare(run, None, {}, World()).task, journal, start)
    return journal.rows, outcome


def test_rows_of_training_and_looks_at_each_epochs_end():
    rows, outcome = trained()
    assert [(r.update, r.epoch, r.split) for r in rows] == [
        (2, 1, "train"),
        (4, 1, "train"),
        (4, 1, "test"),
        (6, 2, "train"),
        (8, 2, "train"),
        (8, 2, "test"),
    ]
    assert (outcome.updates, outcome.epochs, outcome.stopped_by) == (8, 2, "epochs")
    assert outcome.best_update is None
    assert outcome.scores["test"] == rows[-1].score
    assert outcome.scores["train"] == rows[-2].score
    assert set(outcome.scores) == {"train", "test", "train_deterministic", "test_masked"}


def test_the_last_row_of_an_epoch_may_be_shorter_and_looks_may_be_rarer():
    rows, _ = trained(schedule=Schedule(epochs=3, log_every=3, evaluate_every=2, keep="last"))
    assert [r.update for r in rows if r.split == "train"] == [3, 4, 7, 8, 11, 12]
    assert [r.update for r in rows if r.split == "test"] == [8, 12]


def test_a_row_is_the_mean_over_its_batches():
    every, _ = trained(schedule=Schedule(epochs=1, log_every=1, keep="last"))
    pairs, _ = trained(schedule=Schedule(epochs=1, log_every=2, keep="last"))
    single = [r.loss for r in every if r.split == "train"]
    assert [r.loss for r in pairs if r.split == "train"] == pytest.approx(
        [(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-12
    )


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


@pytest.mark.parametrize("optim", [Adam(lr=0.01), Sgd(lr=0.1), RmsProp(lr=0.01)])
def test_going_on_from_any_checkpoint_gives_the_same_bits(optim):
    whole = Memory(every=1)
    rows, outcome = trained(whole, optim=optim)
    last = whole.saved[8]
    for update in range(1, 8):
        start = whole.saved[update]
        part = Memory(every=1)
        new, again = trained(part, start, optim=optim)
        assert rows[: start.progress.log_bytes] + new == rows
        assert again == outcome
        assert_same(part.saved[8], last)


def assert_same(one: Checkpoint, other: Checkpoint):
    for mine, theirs in ((one.weights, other.weights), (one.state, other.state)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    ignored = {"seconds": 0.0, "log_bytes": 0}
    assert one.progress.model_copy(update=ignored) == other.progress.model_copy(update=ignored)


def test_being_asked_to_stop_saves_and_says_where():
    journal, asked = Memory(), iter([False, False, True])
    run = tiny_run()
    with pytest.raises(Interrupted, match="at update 3, epoch 1"):
        train(run, TemporalOrderTask(run), journal, stopping=lambda: next(asked))
    rows, outcome = trained(Memory(), journal.saved[3])
    assert (journal.rows + rows, outcome) == trained()


def test_who_asks_to_stop_is_heard_during_an_evaluation_too(tmp_path):
    run = tiny_words()
    corpus = read_corpus(write_text(tmp_path), "word-lm", run.data)
    whole, asked = Memory(), []
    expected = train(
        run, LanguageModelTask(run, corpus), whole, stopping=lambda: bool(asked.append(1))
    )
    updates, look, paper_style = 3 * 17, 6, 4  # windows of the validation text, as of the test text
    assert len(asked) == updates + 3 * look + 2 * (look + paper_style)
    for stop in range(1, len(asked) + 1, 3):
        first, asks = Memory(), iter([False] * (stop - 1) + [True])
        with pytest.raises(Interrupted):
            train(run, LanguageModelTask(run, corpus), first, stopping=lambda a=asks: next(a))
        start, rest = first.saved[max(first.saved)], Memory()
        rest.saved |= first.saved
        assert train(run, LanguageModelTask(run, corpus), rest, start) == expected
        assert first.rows[: start.progress.log_bytes] + rest.rows == whole.rows


def test_a_checkpoint_of_another_configuration_or_world_is_refused():
    journal = Memory(every=1)
    trained(journal)
    with pytest.raises(BadInput, match="does not fit"):
        trained(Memory(), journal.saved[2], model=tiny_model(hidden=6))
    start = journal.saved[2]
    shared = start._replace(progress=start.progress.model_copy(update={"processes": 2}))
    with pytest.raises(BadInput, match="begun by 2 processes"):
        trained(Memory(), shared)
    on_gpu = start._replace(state=start.state | {"0.rng.cuda": start.state["0.rng"]})
    with pytest.raises(BadInput, match="goes on where it was begun, on the CPU or on a GPU"):
        trained(Memory(), on_gpu)
    del start.state["0.rng"]
    with pytest.raises(BadInput, match="does not fit"):
        trained(Memory(), start)


def test_the_stop_rule_needs_its_rows_in_a_row():
    _, outcome = trained(schedule=stopping(0.0, rows=3))
    assert (outcome.updates, outcome.stopped_by) == (6, "rule")
    _, outcome = trained(schedule=stopping(1.0))
    assert outcome.stopped_by == "epochs"


def test_the_stop_rule_may_ask_the_watched_set_too():
    rows, outcome = trained(schedule=stopping(0.0, score=1.0))
    assert outcome.stopped_by == "epochs"
    assert [r.update for r in rows if r.split == "test"] == [2, 4, 6, 8]


class Scripted:
    """A task whose looks give the scores of a script; lower is better."""

    watched, higher_is_better, steps = "valid", False, 2

    def __init__(self, scores, stages=(), losses=None):
        self.stages, self.losses = stages, losses or [0.5] * len(scores)
        self.net = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.net.weight)
        self.scores = list(scores)
        self.looks = 0

    def begin(self, epoch):
        self.epoch = epoch

    def part(self, step):
        loss = self.net(torch.ones(1, 1)).sum()
        return Part(loss, torch.tensor(1.0), 1)

    def score(self, nats, count, right):
        return nats / count

    def look(self, stopping=never):
        self.looks += 1
        return Measured(self.losses[self.looks - 1], self.scores[self.looks - 1])

    def conclude(self, stopping=never):
        return {"valid": self.net.weight.item()}

    def carried(self):
        return {}

    def carry(self, tensors):
        pass


def scripted(scores, optim, stages=(), losses=None, **schedule):
    run = tiny_run(optim=optim, schedule=Schedule(epochs=len(scores), **schedule))
    journal = Memory()
    return journal, train(run, Scripted(scores, stages, losses), journal)


def test_the_rate_is_divided_after_each_look_without_a_new_best():
    decay = PlateauDecay(divide_by=2)
    scores = [5.0, 4.0, 4.5, 4.2, 3.9, 3.9]
    journal, outcome = scripted(scores, Sgd(lr=1.0, decay=decay))
    train_rows = [r for r in journal.rows if r.split == "train"]
    assert [r.lr for r in train_rows] == [1.0, 1.0, 1.0, 0.5, 0.25, 0.25]
    assert outcome.best_update == 10
    assert outcome.updates == 12


def test_the_best_net_is_kept_and_the_last_ones_scores_are_told_too():
    journal, outcome = scripted([5.0, 4.0, 4.5], Sgd(lr=1.0))
    assert outcome.best_update == 4
    assert outcome.scores == {"train": 1.0, "valid": -4.0, "valid_last": -6.0}
    assert {4, 6} <= journal.saved.keys()
    _, outcome = scripted([5.0, 4.0, 4.5], Sgd(lr=1.0), keep="last")
    assert outcome.best_update is None
    assert outcome.scores == {"train": 1.0, "valid": -6.0}


def test_of_equal_scores_the_lower_loss_is_the_better_one():
    """Scores of few texts stand still while the net still learns."""
    losses = [0.9, 0.8, 0.85, 0.7, 0.6, 0.1]
    journal, outcome = scripted([5.0] * 5 + [6.0], Sgd(lr=1.0), losses=losses, patience=2)
    assert (outcome.updates, outcome.stopped_by) == (12, "epochs")
    assert outcome.best_update == 10
    assert journal.saved[10].progress.best_loss == 0.6
    _, outcome = scripted([5.0] * 4, Sgd(lr=1.0), losses=[0.9, 0.8, 0.9, 0.8], patience=2)
    assert (outcome.best_update, outcome.stopped_by) == (4, "patience")


def test_a_stage_begins_with_the_best_net_of_the_one_before():
    scores = [5.0, 3.0, 4.0, 6.0, 7.0]  # smaller is better; the weight falls by 1 at each update
    journal, outcome = scripted(scores, Sgd(lr=1.0), stages=(3,))
    assert journal.saved[4].progress.best_update == 4
    # Two updates an epoch: the second epoch's net goes on after the third.
    assert outcome.scores["valid_stage1"] == -4.0
    assert outcome.best_update == 8  # of the second stage alone, though worse than the first's
    assert outcome.scores["valid"] == -6.0
    assert outcome.scores["valid_last"] == -8.0


def test_patience_ends_a_stage_and_the_last_one_the_run():
    scores = [5.0, 6.0, 6.0, 6.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    journal, outcome = scripted(scores, Sgd(lr=1.0), stages=(6,), patience=2)
    assert [row.epoch for row in journal.rows if row.split == "valid"] == [1, 2, 3, 7, 8, 9, 10]
    assert outcome.scores["valid_stage1"] == -2.0
    assert (outcome.epochs, outcome.stopped_by) == (10, "patience")
    _, cut = scripted([5.0, 6.0, 6.0, 6.0], Sgd(lr=1.0), stages=(6,), patience=2)
    assert (cut.epochs, cut.stopped_by) == (3, "patience")  # the second stage was not asked for
    assert "valid_stage1" not in cut.scores


def test_going_on_behind_a_stage_gives_the_same(tmp_path):
    scores = [5.0, 3.0, 4.0, 6.0, 7.0]
    run = tiny_run(optim=Adam(lr=0.1), schedule=Schedule(epochs=5))
    whole = Memory(every=1)
    expected = train(run, Scripted(scores, (3,)), whole)
    for update, start in whole.saved.items():
        again, task = Memory(), Scripted(scores, (3,))
        again.saved |= whole.saved
        task.looks = sum(row.split == "valid" for row in whole.rows[: start.progress.log_bytes])
        assert train(run, task, again, start) == expected, update


def test_the_rate_falls_after_every_epoch_from_a_given_one_on():
    decay = ExponentialDecay(factor=0.5, start=2)
    journal, _ = scripted([3.0, 2.0, 1.0, 0.5], Sgd(lr=1.0, decay=decay))
    assert [r.lr for r in journal.rows if r.split == "train"] == [1.0, 1.0, 0.5, 0.25]


def test_patience_and_the_smallest_rate_end_a_run():
    scores = [5.0, 4.0, 4.1, 4.2, 4.3, 4.0]
    _, outcome = scripted(scores, Sgd(lr=1.0), patience=2)
    assert (outcome.epochs, outcome.stopped_by) == (4, "patience")
    halving = Sgd(lr=1.0, decay=PlateauDecay(divide_by=2))
    _, outcome = scripted(scores, halving, min_lr=0.2)
    assert (outcome.epochs, outcome.stopped_by) == (5, "min_lr")


def test_a_score_that_is_not_finite_stops_the_run():
    with pytest.raises(Diverged, match="the valid set has loss .* and score nan"):
        scripted([5.0, math.nan], Sgd(lr=1.0))


def test_it_learns():
    """A short task with room: accuracy with masks on must come from learning, not from luck."""
    schedule = Schedule(
        epochs=50, log_every=40, evaluate_every=50, keep="last", stop=StopRule(train_score=0.95)
    )
    data = DATA.model_copy(update={"length": 4, "low": 1, "high": 2, "train": 320, "test": 200})
    _, outcome = trained(
        data=data,
        schedule=schedule,
        model=tiny_model(hidden=24, init_range=0.3, output_init_range=0.3),
        optim=Adam(lr=0.01, clip_norm=5.0),
    )
    assert outcome.stopped_by == "rule"
    assert outcome.scores["test"] > 0.9


def test_plain_sgd_with_clipping_moves_by_at_most_the_clipped_step():
    start, _ = trained(optim=Sgd(lr=1e-12))
    moved, _ = trained(optim=Sgd(lr=0.5, clip_norm=1e-9))
    free, _ = trained(optim=Sgd(lr=0.5))
    assert [r.loss for r in moved] == pytest.approx([r.loss for r in start], abs=1e-6)
    assert [r.loss for r in free] != pytest.approx([r.loss for r in start], abs=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named_before_anything_is_stepped(value):
    run = tiny_run()
    task = TemporalOrderTask(run)
    with torch.no_grad():
        task.net.lstm.get_parameter("weight_hh_l0")[0, 0] = value
        task.net.lstm.get_parameter("weight_ih_l0").fill_(value)
    before = {name: tensor.clone() for name, tensor in task.net.state_dict().items()}
    journal = Memory(every=1)
    with pytest.raises(Diverged) as caught:
        train(run, task, journal)
    assert "ours-step-tiny, seed 3: the " in str(caught.value)
    assert "at update 1 (batch 1 of epoch 1)" in str(caught.value)
    assert "lstm.weight_" in str(caught.value)
    assert journal.saved == {}
    for name, tensor in task.net.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7, 7, 7), before[name].nan_to_num(7, 7, 7))


def test_an_input_that_is_not_finite_stops_before_a_step():
    run, journal = tiny_run(), Memory(every=1)
    task = TemporalOrderTask(run)
    before = task.net.readout.weight.clone()
    task.net.lstm.register_forward_pre_hook(lambda _, args: (args[0] * math.nan, *args[1:]))
    told = r"the loss is nan at update 1 \(batch 1 of epoch 1\).* none of the net's own: the batch"
    with pytest.raises(Diverged, match=told):
        train(run, task, journal)
    assert torch.equal(task.net.readout.weight, before)
    assert journal.saved == {}


@pytest.mark.parametrize("clip", [1e-3, 0.02, 1e6])
def test_all_gradients_are_clipped_together(clip):
    """Such that a step is never longer than rate times norm, and points where it would anyway."""
    moved = {}
    for norm in (clip, None):
        run = tiny_run(optim=Sgd(lr=0.5, clip_norm=norm), model=tiny_model())
        task = TemporalOrderTask(run)
        before = torch.cat([p.detach().clone().flatten() for p in task.net.parameters()])
        asked = iter([True])
        with pytest.raises(Interrupted):
            train(run, task, Memory(), stopping=lambda asked=asked: next(asked))
        after = torch.cat([p.detach().flatten() for p in task.net.parameters()])
        moved[norm] = (before - after) / 0.5
    whole = moved[None].norm().item()
    assert whole > 0.03
    expected = moved[None] * min(1.0, clip / whole)
    torch.testing.assert_close(moved[clip], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_named(value):
    run = tiny_run()
    task = TemporalOrderTask(run)
    task.net.readout.bias.register_hook(lambda grad: grad * value)
    before = task.net.readout.weight.clone()
    with pytest.raises(Diverged, match=r"gradient's norm is .*readout\.bias"):
        train(run, task, Memory())
    assert torch.equal(task.net.readout.weight, before)


def test_what_is_not_finite_is_not_saved():
    """A step so large that the weight itself overflows, which loss and gradient do not show."""
    run, journal = tiny_run(optim=Sgd(lr=2e38), schedule=Schedule(epochs=3)), Memory(every=1)
    with pytest.raises(Diverged, match="weight is not finite after update 2; it was not saved"):
        train(run, Scripted([5.0, 4.0, 3.0]), journal)
    assert list(journal.saved) == [1]
    assert journal.saved[1].weights["weight"].isfinite().all()


def test_progress_survives_json_exactly():
    progress = Progress(lr=0.1 + 0.2, nats=1 / 3, best=math.pi, seconds=1e-9)
    assert Progress.model_validate_json(progress.model_dump_json()) == progress
