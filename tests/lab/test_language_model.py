import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import recdrop
from recdrop.lab.config import Dropout, LanguageModel, LanguageModelRun, Schedule, Sgd, TextData
from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.language_model import (
    LanguageModelNet,
    LanguageModelTask,
    evaluate,
    initialise,
    paper_style,
    paper_windows,
)
from recdrop.lab.tasks.net import ForwardDropout, deterministic, recurrent_dropout
from recdrop.lab.tasks.streams import training_streams
from recdrop.lab.text import Corpus
from recdrop.lab.vocabulary import Vocabulary

FALSE_ALARM = 1e-6
V = 9
WORDS = Vocabulary(("<eos>", *"abcdefgh"))
CELLS: list[dict[str, Any]] = [
    {"cell": "rnn"},
    {"cell": "lstm"},
    {"cell": "gru"},
    {"cell": "gru", "reset_after": False},
]
OURS = (Dropout(rate=0.5),)


def text(length: int, seed: int = 0, symbols: int = V) -> Tensor:
    return torch.randint(symbols, (length,), generator=torch.Generator().manual_seed(seed))


def tiny_model(**changes: Any) -> LanguageModel:
    values: dict[str, Any] = {"embedding": 4, "hidden": 5, "init_range": 0.8}
    return LanguageModel(**(values | changes))


def tiny_net(seed: int = 1, dtype: torch.dtype = torch.float64, **changes: Any) -> LanguageModelNet:
    model = tiny_model(**changes)
    net = LanguageModelNet(V, model).to(dtype)
    initialise(net, model, torch.Generator().manual_seed(seed))
    return net


def tiny_task(
    length: int = 50,
    data: dict[str, Any] | None = None,
    rank: int = 0,
    size: int = 1,
    task: str = "word-lm",
    lengths: tuple[int, int] = (60, 70),
    vocabulary: Vocabulary = WORDS,
    seed: int = 0,
    **model: Any,
) -> LanguageModelTask:
    run = LanguageModelRun(
        task=task,  # pyright: ignore[reportArgumentType]
        data=TextData(**({"batch": 2, "window": 3} | (data or {}))),
        model=tiny_model(**model),
        optim=Sgd(lr=0.5),
        schedule=Schedule(epochs=1),
        seed=seed,
    )
    valid, test = (text(n, 7 + n) for n in lengths)
    return LanguageModelTask(run, Corpus(vocabulary, text(length), valid, test, {}), rank, size)


# ------------------------------------------------------------------------------------- the streams


@pytest.mark.parametrize(
    ("length", "batch", "window", "stride"),
    [(50, 2, 3, None), (7, 2, 3, None), (50, 3, 4, 2), (50, 1, 6, 1), (103, 4, 5, 5), (9, 2, 3, 1)],
)
def test_rows_are_whole_contiguous_windows_with_their_shifted_copies(length, batch, window, stride):
    tokens = list(range(100, 100 + length))
    shifts = list(range(0, window, stride or window))
    windows = 0  # as many as fit, counted one by one
    while (windows + 1) * batch * window + shifts[-1] + 1 <= length:
        windows += 1
    data = TextData(batch=batch, window=window, stride=stride)
    streams = training_streams(torch.tensor(tokens), data)
    assert streams.windows == windows
    row = 0
    for k, shift in itertools.product(range(batch), shifts):
        begin = k * windows * window + shift
        inputs, targets = zip(*(streams.read(step) for step in range(windows)), strict=True)
        assert torch.cat(inputs)[:, row].tolist() == tokens[begin : begin + windows * window]
        assert torch.cat(targets)[:, row].tolist() == tokens[begin + 1 :][: windows * window]
        row += 1
    assert row == len(streams.starts)
    read = torch.cat([part.flatten() for step in range(windows) for part in streams.read(step)])
    assert streams.unread == length - len(read.unique())


def test_the_authors_numbers_of_windows():
    train, valid, test = 929_589, 73_760, 82_430  # tokens of Mikolov's PTB, each line ended
    lstm = TextData(batch=32, window=35)
    streams = training_streams(torch.zeros(train, dtype=torch.int64), lstm)
    assert (streams.windows, len(streams.starts)) == (829, 32)
    assert 829 * 32 * 35 == 928_480
    assert streams.unread == 929_589 - 928_480 - 1
    assert [paper_windows(n, 32, 35) for n in (train, valid, test)] == [829, 65, 73]
    rnn = training_streams(
        torch.zeros(train, dtype=torch.int64), TextData(batch=32, window=15, stride=5)
    )
    assert len(rnn.starts) == 96
    assert [paper_windows(n, 96, 15) for n in (valid, test)] == [51, 57]


def test_a_text_that_fills_no_window_is_refused_with_what_it_would_need():
    data = TextData(batch=2, window=3)
    assert training_streams(text(7), data).windows == 1
    with pytest.raises(BadInput, match=r"has 6 symbols; 2 streams .* need 7: lower data.batch"):
        training_streams(text(6), data)
    with pytest.raises(BadInput, match="need 9"):
        training_streams(text(8), TextData(batch=2, window=3, stride=1))


# ----------------------------------------------------------------------------------------- the net


@pytest.mark.parametrize("cell", CELLS)
def test_the_net_is_its_parts(cell: dict[str, Any]):
    net = tiny_net(**cell, layers=2, dropout_in=0.5, dropout_out=0.5, recurrent_dropout=()).eval()
    layers: Any = net.rnn
    assert (layers.cell, layers.num_layers) == (cell["cell"], 2)
    assert layers.reset_after is cell.get("reset_after", True)
    symbols = text(12).view(4, 3)
    logits, state = net(symbols)
    output, last = layers(net.embedding(symbols))
    torch.testing.assert_close(logits, net.output(output))
    last = last if isinstance(last, tuple) else (last,)
    for mine, other in zip(state, last, strict=True):
        assert torch.equal(mine, other)
    first, between = net(symbols[:1], net.zero_state(3))
    second, end = net(symbols[1:], between)
    torch.testing.assert_close(torch.cat([first, second]), logits)
    torch.testing.assert_close(end, state)


@pytest.mark.parametrize("which", ["dropout_in", "dropout_out", "recurrent_dropout"])
def test_each_dropout_acts_in_training_only(which: str):
    net = tiny_net(**{which: OURS if which == "recurrent_dropout" else 0.5})
    symbols = text(60).view(20, 3)
    one, other = (net(symbols)[0] for _ in range(2))
    assert not torch.equal(one, other)
    net.eval()
    assert torch.equal(net(symbols)[0], net(symbols)[0])


def test_forward_dropout_is_inverted_and_where_it_should_be():
    net = tiny_net(dropout_in=0.5, dropout_out=0.75)
    seen: dict[str, Tensor] = {}
    net.rnn.register_forward_hook(lambda _m, given, out: seen.update(x=given[0], h=out[0]))
    symbols = text(300).view(100, 3)
    hidden, _ = net.hidden(symbols)
    ratio = seen["x"] / net.embedding(symbols)
    assert set(ratio.unique().tolist()) == {0.0, 2.0}
    assert set((hidden / seen["h"]).unique().round(decimals=9).tolist()) == {0.0, 4.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_forward_dropout_keeps_one_minus_rate(rate: float, dtype: torch.dtype):
    drop, ones = ForwardDropout(rate), torch.ones(500, 400, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    out = drop(ones)
    assert out.dtype == dtype
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate), dtype=dtype).item()}
    kept = int(out.count_nonzero())
    assert stats.binomtest(kept, ones.numel(), 1 - rate).pvalue > FALSE_ALARM
    (grad,) = torch.autograd.grad(out.sum(), ones)
    assert torch.equal(grad, out)
    assert drop.eval()(ones) is ones
    assert ForwardDropout(0.0)(ones) is ones


def test_every_field_of_a_spec_arrives():
    spec = Dropout(rate=0.3, site="hidden", sampling="sequence", rescale="test", tied=False)
    wanted = recdrop.RecurrentDropout(0.3, "hidden", "sequence", "test", tied=False)
    assert recurrent_dropout(spec) == wanted
    combined: Any = tiny_net(recurrent_dropout=(spec, *OURS)).rnn
    assert combined.recurrent_dropout == (wanted, recdrop.RecurrentDropout(0.5))


@pytest.mark.parametrize("cell", CELLS)
def test_everything_starts_uniform_but_the_second_bias_is_zero(cell: dict[str, Any]):
    model = tiny_model(**cell, embedding=50, hidden=60, layers=2, init_range=0.05)
    net = LanguageModelNet(200, model)
    initialise(net, model, torch.Generator().manual_seed(0))
    uniform = stats.uniform(-0.05, 0.1).cdf
    for name, parameter in net.named_parameters():
        values = parameter.detach().flatten().numpy()
        if "bias_hh" in name:
            assert not values.any()
        else:
            assert stats.kstest(values, uniform).pvalue > FALSE_ALARM, name


def test_the_start_depends_on_the_seed_only():
    def start(**changes: Any) -> Tensor:
        return nn.utils.parameters_to_vector(tiny_task(**changes).net.parameters())

    assert torch.equal(start(), start(recurrent_dropout=OURS, dropout_in=0.2))
    assert not torch.equal(start(), start(seed=1))


def test_the_mode_comes_back_after_an_error():
    net = tiny_net()
    with pytest.raises(IndexError), deterministic(net):
        net(torch.tensor([[V]]))
    assert net.training
    assert torch.is_grad_enabled()


# ------------------------------------------------------------------------------------ the training


def naive_parts(
    task: LanguageModelTask, places: set[int]
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Objective and gradients of each window, a step and a row at a time."""
    net, data, tokens = task.net, task.run.data, task.corpus.train.tolist()
    shifts = range(0, data.window, data.stride or data.window)
    begins = [k * task.steps * data.window + s for k in range(data.batch) for s in shifts]
    states: list[Any] = [None] * len(begins)
    parts = []
    for step in range(task.steps):
        if step in places:
            states = [None] * len(begins)
        total = torch.zeros(())
        for row, begin in enumerate(begins):
            state = states[row]
            for t in range(step * data.window, (step + 1) * data.window):
                x = net.embedding(torch.tensor([[tokens[begin + t]]]))
                output, state = net.rnn(x, state)
                log_p = F.log_softmax(net.output(output)[0, 0], dim=0)
                total = total - log_p[tokens[begin + t + 1]]
            states[row] = (
                tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            )
        objective = total / len(begins)
        parts.append((objective, torch.autograd.grad(objective, list(net.parameters()))))
    return parts


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("data", [{}, {"stride": 1}, {"resets": 3}, {"resets": 1_000}])
def test_the_objective_is_the_naive_one(cell: dict[str, Any], data: dict[str, Any]):
    task = tiny_task(45, data, **cell)
    assert task.steps == 7
    places = {3: {0, 2, 4}, 1_000: set(range(7))}.get(data.get("resets", 1), {0})
    task.begin(0)
    for step, (objective, grads) in enumerate(naive_parts(task, places)):
        part = task.part(step)
        assert part.predictions == 3 * len(task._streams.starts)
        torch.testing.assert_close(part.objective, objective)
        torch.testing.assert_close(part.nats, objective.detach() * part.predictions / 3)
        assert not part.nats.requires_grad
        mine = torch.autograd.grad(part.objective, list(task.net.parameters()))
        torch.testing.assert_close(mine, grads, rtol=1e-4, atol=1e-6)


def test_windows_with_the_state_carried_are_one_long_call():
    task = tiny_task(50)
    task.begin(0)
    parts = [task.part(step).nats.item() for step in range(task.steps)]
    tokens, along = task.corpus.train, 3 * task.steps
    inputs = torch.stack([tokens[:along], tokens[along : 2 * along]], dim=1)
    targets = torch.stack([tokens[1 : along + 1], tokens[along + 1 : 2 * along + 1]], dim=1)
    logits, state = task.net(inputs)
    whole = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert parts == pytest.approx(whole.view(task.steps, -1).sum(1).tolist(), rel=1e-5)
    torch.testing.assert_close(task.carried(), dict(zip("hc", state, strict=True)))
    task.begin(1)
    assert task.part(0).nats.item() == parts[0]


@pytest.mark.parametrize("data", [{"batch": 4}, {"batch": 4, "stride": 1}])
def test_shares_of_the_rows_make_up_the_whole(data: dict[str, Any]):
    whole, *shares = (tiny_task(60, data, rank, size) for rank, size in [(0, 1), (0, 2), (1, 2)])
    read = [task._streams.read(1)[0] for task in (whole, *shares)]
    assert torch.equal(read[0], torch.cat(read[1:], dim=1))
    assert whole.steps == shares[0].steps == shares[1].steps
    for step in range(whole.steps):
        part, *parts = (task.part(step) for task in (whole, *shares))
        assert part.predictions == sum(p.predictions for p in parts)
        torch.testing.assert_close(part.nats, parts[0].nats + parts[1].nats)
        torch.testing.assert_close(part.objective, (parts[0].objective + parts[1].objective) / 2)
    with pytest.raises(BadInput, match="4 streams cannot be shared by 3 processes"):
        tiny_task(60, {"batch": 4}, 0, 3)


@pytest.mark.parametrize("cell", CELLS)
def test_carried_state_and_generator_are_all_that_going_on_needs(cell: dict[str, Any]):
    drop = (Dropout(rate=0.5, site="hidden"),)
    first, second = (tiny_task(60, **cell, recurrent_dropout=drop) for _ in range(2))
    first.begin(3)
    for step in range(4):
        first.part(step)
    carried, masks = first.carried(), torch.random.get_rng_state()
    wanted = [first.part(step).nats for step in range(4, 8)]
    second.begin(3)
    second.carry({name: tensor.clone() for name, tensor in carried.items()})
    torch.random.set_rng_state(masks)
    assert [second.part(step).nats for step in range(4, 8)] == wanted
    wrong = {name: tensor[:, :1] for name, tensor in carried.items()}
    with pytest.raises(
        ValueError, match=r"carried h has the shape \[1, 1, 5\], expected \[1, 2, 5"
    ):
        second.carry(wrong)
    with pytest.raises(KeyError):
        second.carry({})


def test_it_learns_a_text_that_repeats():
    task = tiny_task(200, {"batch": 4, "window": 5}, hidden=16)
    tokens = torch.arange(400) % V
    task.corpus = task.corpus._replace(train=tokens, valid=tokens)
    task._streams = task._streams._replace(tokens=tokens)
    before = task.look()
    optimiser = torch.optim.Adam(task.net.parameters(), lr=0.02)
    for epoch in range(12):
        task.begin(epoch)
        for step in range(task.steps):
            optimiser.zero_grad()
            task.part(step).objective.backward()
            optimiser.step()
    after = task.look()
    assert before.score > 5
    assert after.score < 1.2
    assert after.score == pytest.approx(math.exp(after.loss))


# ---------------------------------------------------------------------------------- the evaluation


@torch.no_grad()
def naive_nats(net: LanguageModelNet, tokens: list[int], streams: int, start: int | None):
    """Cross entropies of a text, one symbol at a time, and which symbols were predicted."""
    text = tokens if start is None else [start, *tokens]
    count = len(text) - 1
    nats, predicted = 0.0, []
    sizes = [count // streams + (k < count % streams) for k in range(min(streams, count))]
    for begin, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
        state = None
        for i in range(begin, begin + size):
            logits, state = net(torch.tensor([[text[i]]]), state)
            nats -= float(F.log_softmax(logits[0, 0], dim=0)[text[i + 1]])
            predicted.append(i + 1)
    return nats, predicted


@pytest.mark.parametrize("streams", [1, 2, 3, 7, 29, 30, 31, 1_000])
@pytest.mark.parametrize("start", [0, None])
def test_every_symbol_is_predicted_once(streams: int, start: int | None):
    net = tiny_net(dropout_in=0.5, dropout_out=0.5, recurrent_dropout=OURS)
    tokens = text(30)
    got = evaluate(net, tokens, streams, 4, start)
    net.eval()
    nats, predicted = naive_nats(net, tokens.tolist(), min(streams, 30), start)
    assert predicted == list(range(1, 30 + (start is not None)))
    assert got == (pytest.approx(nats, rel=1e-12), len(predicted))


@pytest.mark.parametrize("cell", CELLS)
def test_the_window_of_an_evaluation_does_not_matter(cell: dict[str, Any]):
    net = tiny_net(**cell, layers=2)
    results = [evaluate(net, text(41), 3, window, 0)[0] for window in (1, 2, 5, 13, 100)]
    assert results == pytest.approx([results[0]] * 5, rel=1e-12)
    alone, among_two = (evaluate(net, text(41), streams, 5, 0)[0] for streams in (1, 2))
    assert alone != pytest.approx(among_two, rel=1e-6)  # the second stream begins anew


@pytest.mark.parametrize("training", [True, False])
def test_a_look_leaves_everything_as_it_was(training: bool):
    task = tiny_task(50, recurrent_dropout=OURS, dropout_in=0.5)
    task.part(0)
    task.net.train(training)
    carried, masks = task.carried(), torch.random.get_rng_state()
    assert task.look() == task.look()
    task.conclude()
    assert task.net.training is training
    assert torch.equal(torch.random.get_rng_state(), masks)
    for name, tensor in task.carried().items():
        assert tensor is carried[name]


def naive_paper_style(net: LanguageModelNet, tokens: list[int], rows: int, window: int, most: int):
    """The authors' figure in NumPy, from the logits of whole streams."""
    windows = 0
    while (windows + 1) * rows * window <= len(tokens) - window:
        windows += 1
    size, losses = windows * window, np.zeros((windows, rows, window))
    for k in range(rows):
        with torch.no_grad():
            logits, _ = net(torch.tensor(tokens[k * size : (k + 1) * size])[:, None])
        for t in range(size):
            p = np.exp(logits[t, 0].numpy())
            p /= p.sum()
            losses[t // window, k, t % window] = -np.log(p[tokens[k * size + t + 1]] + 1e-6)
    return np.exp(losses.mean((1, 2)))[:most].mean(), windows


@pytest.mark.parametrize(
    ("length", "most"), [(60, None), (60, 4), (63, None), (12, None), (66, 99)]
)
def test_the_authors_figure_is_that_of_a_naive_reading(length: int, most: int | None):
    net = tiny_net(dropout_out=0.5)
    with torch.no_grad():
        net.output.weight *= 30  # improbable symbols, so that the 1e-6 counts
    got = paper_style(net, text(length), 3, 3, most)
    wanted, windows = naive_paper_style(net.eval(), text(length).tolist(), 3, 3, most or 10**6)
    assert windows == paper_windows(length, 3, 3)
    assert got == pytest.approx(wanted, rel=1e-9)


def test_the_authors_figure_lies_above_but_for_its_eps_and_needs_a_window():
    net = tiny_net()
    tokens = text(120)
    nats, count = evaluate(net, tokens[1:61], 1, 60, int(tokens[0]))
    assert paper_style(net, tokens, 1, 60) == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert paper_style(net, tokens, 1, 3, 20) > math.exp(nats / count) * 1.001
    with pytest.raises(BadInput, match=r"has 11 symbols; .* need 12: give more text"):
        paper_style(net, text(11), 3, 3)


def test_what_is_told_at_the_end():
    task = tiny_task(50, lengths=(60, 70))
    scores = task.conclude()
    assert set(scores) == {"valid", "test", "valid_paper_style", "test_paper_style"}
    assert scores["valid"] == task.look().score
    for name, tokens in (("valid", task.corpus.valid), ("test", task.corpus.test)):
        nats, count = evaluate(task.net, tokens, 2, 3, 0)
        assert count == len(tokens)
        assert scores[name] == math.exp(nats / count)
    most = paper_windows(60, 2, 3)
    assert most < paper_windows(70, 2, 3)
    wanted = paper_style(task.net, task.corpus.test, 2, 3, most)
    assert scores["test_paper_style"] == wanted != paper_style(task.net, task.corpus.test, 2, 3)
    assert set(tiny_task(50, lengths=(60, 5)).conclude()) == {"valid", "test", "valid_paper_style"}
    assert set(tiny_task(50, lengths=(5, 60)).conclude()) == {"valid", "test"}
    assert set(tiny_task(50, task="char-lm").conclude()) == {"valid", "test"}


def test_scores():
    words, characters = (tiny_task(50, task=name) for name in ("word-lm", "char-lm"))
    assert words.score(10 * math.log(50), 10, 0) == pytest.approx(50)
    assert characters.score(10 * math.log(8), 10, 0) == pytest.approx(3)
    assert math.isfinite(words.score(1e9, 1, 0))
    assert math.isnan(words.score(math.nan, 1, 0))
    assert not words.higher_is_better
    assert words.watched == "valid"


def test_what_a_text_starts_after():
    raw = tiny_task(
        50, vocabulary=Vocabulary(("a", "\n", *"bcdefgh"), "characters"), task="char-lm"
    )
    nats, count = evaluate(raw.net, raw.corpus.valid, 2, 3, 1)
    assert (count, raw.look().loss) == (60, nats / count)
    task = tiny_task(50, vocabulary=Vocabulary(tuple("abcdefghi"), "characters"), task="char-lm")
    nats, count = evaluate(task.net, task.corpus.valid, 2, 3, None)
    assert count == 59
    assert task.look().loss == nats / count
    with pytest.raises(BadInput, match="the test text has 0 symbols, evaluation needs 1"):
        tiny_task(50, lengths=(1, 0))
    with pytest.raises(BadInput, match="the text has 1 symbol, evaluation needs 2"):
        evaluate(task.net, text(1), 1, 1, None)
