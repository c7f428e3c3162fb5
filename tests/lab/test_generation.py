import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from recdrop.lab.config import LanguageModel
from recdrop.lab.errors import BadInput
from recdrop.lab.generation import generate
from recdrop.lab.tasks.language_model import LanguageModelNet, initialise

FALSE_ALARM = 1e-6
V = 7


def small_net(**changes: Any) -> LanguageModelNet:
    values: dict[str, Any] = {"embedding": 4, "hidden": 5, "init_range": 1.0, "dropout_out": 0.5}
    model = LanguageModel(**(values | changes))
    net = LanguageModelNet(V, model)
    initialise(net, model, seeded(1))
    return net


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(net: LanguageModelNet, length: int = 20, seed: int = 0, **changes: Any) -> list[int]:
    values: dict[str, Any] = {"start": 0, "generator": seeded(seed)}
    return list(generate(net, changes.pop("prompt", [1, 2]), length, **(values | changes)))


def after(net: LanguageModelNet, text: list[int]) -> torch.Tensor:
    """Logits after a whole text, read at once by the deterministic net."""
    net.eval()
    with torch.no_grad():
        return net(torch.tensor(text)[:, None])[0][-1, 0]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_cold_text_is_the_likeliest_after_all_that_came_before(cell: str):
    net = small_net(cell=cell)
    text = [0, 1, 2]
    for symbol in some(net, 10, temperature=0):
        assert symbol == int(after(net, text).argmax())
        text.append(symbol)


def test_without_a_prompt_the_start_symbol_comes_first_and_without_both_there_is_nothing():
    net = small_net()
    assert some(net, 1, prompt=[], temperature=0) == [int(after(net, [0]).argmax())]
    assert some(net, 1, prompt=[3], start=None, temperature=0) == [int(after(net, [3]).argmax())]
    with pytest.raises(BadInput, match="give a prompt"):
        some(net, prompt=[], start=None)


@pytest.mark.parametrize(
    ("temperature", "top_k", "unknown"),
    [(1.0, None, None), (0.5, None, None), (2.0, 3, None), (1.0, None, 2), (1.0, V, 2)],
)
def test_symbols_come_as_often_as_they_are_likely(temperature, top_k, unknown):
    net = small_net()
    logits = after(net, [0, 1, 2]).double().numpy() / temperature
    if unknown is not None:
        logits[unknown] = -math.inf
    if top_k is not None:
        logits[np.argsort(logits)[: V - top_k]] = -math.inf
    likely = np.exp(logits - logits.max())
    likely /= likely.sum()
    generator, options = seeded(), {"temperature": temperature, "top_k": top_k, "unknown": unknown}
    counts = Counter(some(net, 1, generator=generator, **options)[0] for _ in range(2_000))
    assert set(counts) <= set(np.flatnonzero(likely).tolist())
    possible = likely > 0
    observed = np.array([counts[k] for k in range(V)])[possible]
    assert stats.chisquare(observed, 2_000 * likely[possible]).pvalue > FALSE_ALARM


def test_the_generator_alone_decides():
    net = small_net()
    state = torch.random.get_rng_state()
    assert some(net, seed=7) == some(net, seed=7) != some(net, seed=8)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_unknown_is_chosen_only_where_there_is_no_other():
    net = small_net()
    with torch.no_grad():
        net.output.bias[4] = 100.0
    assert some(net, temperature=0) == [4] * 20
    assert 4 not in some(net, temperature=0, unknown=4)
    assert 4 not in some(net, 50, top_k=1, unknown=4)
    model = LanguageModel(embedding=2, hidden=2, init_range=0.1)
    assert some(LanguageModelNet(1, model), 3, prompt=[], unknown=0) == [0, 0, 0]


@pytest.mark.parametrize("temperature", [1e-320, 1e-5, 1e300])
def test_extreme_temperatures(temperature: float):
    net = small_net()
    symbols = some(net, 50, temperature=temperature)
    if temperature < 1:
        assert symbols == some(net, 50, temperature=0)
    else:
        assert len(set(symbols)) == V


def test_the_net_and_the_reader_are_left_as_they_were():
    net = small_net()
    net.train()
    symbols: Iterator[int] = generate(net, [1], 3, generator=seeded(), start=0)
    next(symbols)
    assert net.training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("temperature", -0.1, "temperature must be a number, 0 or more; got -0.1"),
        ("temperature", math.nan, "got nan"),
        ("temperature", math.inf, "got inf"),
        ("top_k", 0, "top_k must be 1 or more; got 0"),
        ("length", -1, "length must be 0 or more; got -1"),
        ("prompt", [V], "from 0 to 6"),
        ("prompt", [-1], "from 0 to 6"),
    ],
)
def test_what_is_out_of_range_is_refused_before_the_first_symbol(option, value, told):
    arguments = {"prompt": [1], "length": 2} | {"generator": seeded(), "start": 0, option: value}
    with pytest.raises(BadInput, match=told):
        generate(small_net(), **arguments)
