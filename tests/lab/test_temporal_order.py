import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator

import recdrop
from recdrop.lab.config import Dropout, TemporalOrderData
from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.net import recurrent_dropout
from recdrop.lab.tasks.temporal_order import (
    TemporalOrderNet,
    TemporalOrderTask,
    generate,
    initialise,
    measure,
)
from tests.lab.tiny import DATA, MOON, OURS, tiny_model, tiny_run

N = 36_000
SHORT = TemporalOrderData(length=15, low=5, high=10)
APART = TemporalOrderData(length=15, low=5, high=10, collide=False)
FALSE_ALARM = 1e-6


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def positions(inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """First and last marked step of each sequence, read off the marker channel."""
    marker = inputs[..., 1].numpy()
    first = marker.argmax(0)
    last = len(marker) - 1 - marker[::-1].argmax(0)
    return first, last


def test_labels_are_the_marked_bits_in_order():
    inputs, labels = generate(SHORT, 500, seeded())
    for n in range(500):
        bits, marker = inputs[:, n, 0].tolist(), inputs[:, n, 1].tolist()
        marked = [int(bit) for bit, mark in zip(bits, marker, strict=True) if mark == 1.0]
        assert len(marked) in (1, 2)
        assert labels[n] == 2 * marked[0] + marked[-1]
        assert set(bits) | set(marker) <= {0.0, 1.0}


@pytest.mark.parametrize(("data", "start"), [(SHORT, 5), (APART, 6)])
def test_markers_are_uniform_between_inclusive_ends(data: TemporalOrderData, start: int):
    inputs, _ = generate(data, N, seeded())
    assert inputs.shape == (15, N, 2)
    first, last = positions(inputs)
    assert set(first) == set(range(6))
    assert set(last) == set(range(start, 11))
    for values in (first, last):
        counts = np.unique(values, return_counts=True)[1]
        assert stats.chisquare(counts).pvalue > FALSE_ALARM
    assert abs(stats.spearmanr(first, last).statistic) < 5 / N**0.5


def test_one_in_36_collides_and_then_both_bits_are_the_same():
    inputs, labels = generate(SHORT, N, seeded(1))
    first, last = positions(inputs)
    together = first == last
    assert stats.binomtest(int(together.sum()), N, 1 / 36).pvalue > FALSE_ALARM
    assert set(first[together]) == {5}
    assert set(labels.numpy()[together]) == {0, 3}


def test_without_collisions_there_are_always_two_markers():
    inputs, _ = generate(APART, N, seeded())
    assert (inputs[..., 1].sum(0) == 2).all()


def test_bits_and_classes_are_fair():
    inputs, labels = generate(SHORT, N, seeded())
    ones = inputs[..., 0].sum(1).long().tolist()
    assert min(stats.binomtest(k, N, 0.5).pvalue for k in ones) > FALSE_ALARM
    apart = labels[inputs[..., 1].sum(0) == 2]
    assert stats.chisquare(torch.bincount(apart, minlength=4).numpy()).pvalue > FALSE_ALARM


def test_the_generator_alone_decides():
    state = torch.random.get_rng_state()
    a, b, c = (generate(DATA, 100, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(a.labels, b.labels)
    assert not torch.equal(a.inputs, c.inputs)


def order_of(task: TemporalOrderTask, epoch: int) -> list[int]:
    """Which batch each update of an epoch reads, by its labels and loss."""
    task.begin(epoch)
    return [int(k) for k in task._order]


def test_an_epoch_is_every_batch_once_in_an_order_of_its_own():
    orders = [order_of(TemporalOrderTask(tiny_run()), epoch) for epoch in (0, 1, 2)]
    assert all(sorted(order) == list(range(4)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert order_of(TemporalOrderTask(tiny_run()), 2) == orders[2]


def test_the_objective_is_the_mean_over_one_batch_and_shares_make_up_the_whole():
    run = tiny_run(model=tiny_model())
    whole = TemporalOrderTask(run)
    halves = [TemporalOrderTask(run, rank, 2) for rank in range(2)]
    for task in (whole, *halves):
        task.begin(0)
    for step in range(4):
        part, shares = whole.part(step), [half.part(step) for half in halves]
        k = whole._order[step]
        logits = whole.net(whole.train_set.inputs[:, 8 * k : 8 * k + 8])
        labels = whole.train_set.labels[8 * k : 8 * k + 8]
        naive = -logits.log_softmax(1)[torch.arange(8), labels]
        torch.testing.assert_close(part.objective, naive.mean())
        torch.testing.assert_close(part.nats, naive.sum().detach())
        assert part.predictions == 8 == sum(share.predictions for share in shares)
        assert part.right == sum(share.right for share in shares)
        torch.testing.assert_close((shares[0].objective + shares[1].objective) / 2, part.objective)
    with pytest.raises(BadInput, match="8 sequences cannot be shared by 3"):
        TemporalOrderTask(run, 0, 3)


def test_everything_starts_uniform_but_the_second_bias_is_zero():
    net = TemporalOrderNet(64, (OURS,))
    initialise(net, tiny_model(hidden=64, init_range=0.05, output_init_range=0.1), seeded())
    bounds = {name: float(p.detach().abs().max()) for name, p in net.named_parameters()}
    assert bounds.pop("lstm.bias_hh_l0") == 0.0
    for name, bound in bounds.items():
        wanted = 0.1 if name.startswith("readout") else 0.05
        assert bound <= wanted
        if name != "readout.bias":  # only four values
            assert bound > 0.9 * wanted
    weights = net.lstm.get_parameter("weight_hh_l0").detach().flatten().numpy()
    assert stats.kstest(weights, stats.uniform(-0.05, 0.1).cdf).pvalue > FALSE_ALARM


def test_the_net_reads_the_last_hidden_value():
    net = TemporalOrderNet(4, (OURS,)).eval()
    x = generate(DATA, 3, seeded()).inputs
    output, _ = net.lstm(x)
    assert torch.equal(net(x), net.readout(output[-1]))


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_counts_right_answers_and_leaves_the_mode(training: bool):
    net = TemporalOrderNet(16, (OURS,)).train(training)
    sequences = generate(DATA, 2_500, seeded())
    got = measure(net, sequences, masks=False).score
    assert net.training is training
    with torch.no_grad():
        right = net.eval()(sequences.inputs).argmax(1) == sequences.labels
    assert got == right.double().mean().item()


def test_accuracy_with_masks_drops_and_without_does_not():
    net = TemporalOrderNet(16, (MOON,))
    initialise(net, tiny_model(hidden=16, init_range=1.0, output_init_range=1.0), seeded())
    torch.nn.init.zeros_(net.readout.bias)  # else one class always wins
    sequences = generate(DATA, 4_000, seeded())
    assert len({measure(net, sequences, masks=False).score for _ in range(3)}) == 1
    assert len({measure(net, sequences, masks=True).score for _ in range(3)}) > 1


def test_the_inverted_memory_is_built_without_its_warning():
    inverted = Dropout(rate=0.5, site="state", sampling="step", rescale="train")
    spec = recurrent_dropout(inverted)  # warnings are errors here
    assert spec.rescale == "train"
    with pytest.warns(UserWarning, match="site='state'"):
        recdrop.RecurrentDropout(0.5, site="state", rescale="train")


def test_other_warnings_are_not_silenced(monkeypatch: pytest.MonkeyPatch):
    def noisy(*_: object, **__: object) -> None:
        warnings.warn("something else", stacklevel=2)

    monkeypatch.setattr(recdrop, "RecurrentDropout", noisy)
    with pytest.warns(UserWarning, match="something else"):
        recurrent_dropout(OURS)


def test_every_field_of_the_spec_arrives():
    spec = recurrent_dropout(Dropout(rate=0.3, site="hidden", sampling="sequence", rescale="test"))
    assert spec == recdrop.RecurrentDropout(0.3, "hidden", "sequence", "test")
