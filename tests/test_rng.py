"""Masks: the definition against the published vectors and the oracle, and their statistics."""

import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import recdrop
from recdrop import rng
from tests.helpers import OURS, random_key, tensors
from tests.oracles import philox

# No test of a statistic may fail by chance more often than this; seeds are fixed on top.
FALSE_ALARM = 1e-6


def signed(key):
    return torch.tensor(key - 2**64 if key >= 2**63 else key)


def draw(key, rate=0.4, site="update", layer=0, direction=0, steps=64, rows=64, units=64):
    return rng.keep_mask(
        signed(key),
        rate,
        site,
        layer=layer,
        direction=direction,
        steps=torch.arange(steps),
        rows=torch.arange(rows),
        units=units,
    )


@pytest.mark.parametrize(("counter", "key", "words"), philox.KNOWN_ANSWERS)
def test_known_answers_of_random123(counter, key, words):
    got = rng.philox4x32(tuple(torch.tensor(c) for c in counter), signed(key[0] | key[1] << 32))
    assert tuple(int(w) for w in got) == words


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # beside other work
@given(
    key=st.integers(0, 2**64 - 1),
    rate=st.floats(1e-12, 1, exclude_max=True),
    site=st.sampled_from(("update", "hidden", "state")),
    layer=st.integers(0, 40),
    direction=st.integers(0, 1),
    steps=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    rows=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    units=st.integers(1, 9),
)
def test_masks_equal_the_oracles(key, rate, site, layer, direction, steps, rows, units):
    ours = rng.keep_mask(
        signed(key),
        rate,
        site,
        layer=layer,
        direction=direction,
        steps=torch.tensor(steps),
        rows=torch.tensor(rows),
        units=units,
    )
    code = philox.SITE_CODES[site] + 4 * direction + 8 * layer
    for i, t in enumerate(steps):
        for j, b in enumerate(rows):
            words = [
                philox.philox4x32_10((u // 4, t, b, code), (key & 0xFFFFFFFF, key >> 32))[u % 4]
                for u in range(units)
            ]
            expected = [w < philox.threshold(rate) for w in words]
            assert ours[i, j].tolist() == expected


@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_whole_masks_equal_the_oracles(sampling):
    key, rows = int(random_key(3)), [5, 0, 2]
    ours = rng.keep_mask(
        torch.tensor(key),
        0.3,
        "state",
        layer=2,
        direction=1,
        steps=torch.arange(4 if sampling == "step" else 1),
        rows=torch.tensor(rows),
        units=7,
    )
    theirs = philox.keep_mask(
        key, 0.3, "state", sampling, layer=2, direction=1, steps=4, rows=rows, units=7
    )
    assert np.array_equal(ours.expand(4, 3, 7).numpy(), theirs)


@pytest.mark.parametrize(
    ("rate", "bound"),
    [
        (0.5, 2**31),
        (0.25, 3 * 2**30),
        (1 - 2**-33, 1),  # half a word rounds to even 0, clamped to 1
        (1 - 3 * 2**-33, 2),  # 1.5 rounds to even 2
        (1e-12, 2**32 - 1),  # never a rate that drops nothing
        (1 - 1e-12, 1),  # never one that drops all
        (0.1, 3865470566),  # 0.9 * 2**32 = 3865470566.4
    ],
)
def test_threshold_rounding_is_as_written_down(rate, bound):
    assert rng.threshold(rate) == bound == philox.threshold(rate)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("site", ["update", "hidden", "state"])
def test_keep_rate(rate, site):
    mask = draw(key=11, rate=rate, site=site, steps=100, rows=50, units=100)
    result = stats.binomtest(int(mask.sum()), mask.numel(), 1 - rate)
    assert result.pvalue > FALSE_ALARM


def test_each_unit_row_and_step_has_the_rate():
    mask = draw(key=12, rate=0.3, steps=200, rows=200, units=60).double()
    for axes in ((0, 1), (0, 2), (1, 2)):
        kept = mask.sum(dim=axes)
        n = mask.numel() / kept.numel()
        z = (kept - 0.7 * n) / (0.21 * n) ** 0.5
        assert stats.chi2.sf(float(z.square().sum()), len(z)) > FALSE_ALARM


@pytest.mark.parametrize(
    "other",
    [
        {"key": 8},
        {"key": 7 + 2**32},
        {"site": "hidden"},
        {"site": "state"},
        {"layer": 1},
        {"direction": 1},
    ],
)
def test_masks_of_different_coordinates_are_independent(other):
    a, b = draw(key=7).flatten(), draw(**{"key": 7, **other}).flatten()
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lag", [1, 2, 4])
def test_neighbours_are_independent(axis, lag):
    mask = draw(key=9).movedim(axis, 0)
    a, b = mask[:-lag].flatten().numpy(), mask[lag:].flatten().numpy()
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_words_are_uniform():
    zero = torch.tensor(0)
    words = torch.stack(rng.philox4x32((torch.arange(50_000), zero, zero, zero), signed(5)))
    assert words.min() >= 0
    assert words.max() < 2**32
    assert stats.kstest(words.flatten().numpy() / 2**32, "uniform").pvalue > FALSE_ALARM


def test_one_call_draws_one_key_from_torchs_cpu_generator():
    lstm, x = (
        recdrop.LSTM(3, 4, num_layers=2, bidirectional=True, recurrent_dropout=0.5),
        torch.randn(5, 2, 3),
    )
    torch.manual_seed(3)
    first = lstm(x)[0]
    after = torch.get_rng_state()
    torch.manual_seed(3)
    rng.draw_key()
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(3)
    assert torch.equal(lstm(x)[0], first)
    assert not torch.equal(lstm(x)[0], first)


def test_keys_cover_64_bits():
    keys = torch.stack([rng.draw_key() for _ in range(400)])
    for bit in range(64):
        ones = int(((keys >> bit) & 1).sum())
        assert stats.binomtest(ones, 400).pvalue > FALSE_ALARM / 64


def test_a_graphs_key_is_on_the_device(monkeypatch):
    cuda, cpu = torch.device("cuda", 1), torch.device("cpu")
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert rng.key_device(cuda) == cpu
    assert rng.key_device(cpu) == cpu
    capturing = True
    assert rng.key_device(cuda) == cuda
    assert rng.key_device(cpu) == cpu
    capturing = False
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert rng.key_device(cuda) == cuda
    assert rng.key_device(cpu) == cpu


def test_a_fake_key_lies_where_it_is_asked_for():
    with FakeTensorMode():
        assert rng.draw_key().device.type == "cpu"
        fake = rng.draw_key(None, torch.device("cuda", 0))
        assert (fake.device, fake.dtype, fake.shape) == (torch.device("cuda", 0), torch.int64, ())


def test_a_checkpoint_in_a_compiled_graph_draws_the_same_masks_again():
    torch.compiler.reset()
    layer, x = recdrop.GRU(3, 4, recurrent_dropout=0.5), torch.randn(5, 2, 3)

    def checkpointed(x):
        return checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)

    def weight_gradient(f):
        layer.zero_grad()
        torch.manual_seed(3)
        f(x).square().sum().backward()
        return layer.weight_hh_l0.grad

    expected = weight_gradient(lambda x: layer(x)[0])
    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(weight_gradient(compiled), expected)


def test_all_layer_objects_share_one_graph():
    torch.compiler.reset()
    recorded = CompileCounter()
    compiled = torch.compile(lambda layer, x: layer(x)[0], backend=recorded, fullgraph=True)
    x = torch.randn(5, 2, 3)
    for layer in [recdrop.LSTM(3, 4, recurrent_dropout=0.5) for _ in range(3)]:
        compiled(layer, x)
    assert recorded.frame_count == 1


def test_keys_are_drawn_where_only_fake_tensors_may_be():
    """What `torch.export` and planners of memory do: shapes without values."""
    lstm, x = recdrop.LSTM(3, 4, recurrent_dropout=0.5), torch.randn(5, 2, 3)
    with FakeTensorMode() as mode:
        weights = {name: mode.from_tensor(p) for name, p in lstm.named_parameters()}
        output, _ = torch.func.functional_call(lstm, weights, (mode.from_tensor(x),))
        assert output.shape == (5, 2, 4)
        other = recdrop.LSTM(3, 4, recurrent_dropout=0.5)
    other.load_state_dict(lstm.state_dict(), assign=True)
    with recdrop.hold_masks(1):
        first, again, theirs = (layer(x)[0] for layer in (other, other, lstm))
    assert torch.equal(first, again)
    assert not torch.equal(first, theirs)


class TestVmap:
    @pytest.fixture
    def examples(self):
        return torch.ones(2, 5, 1, 3)

    @pytest.fixture
    def lstm(self):
        return recdrop.LSTM(3, 4, recurrent_dropout=0.5)

    def test_masks_differ_or_not_as_asked(self, lstm, examples):
        for randomness, equal in (("different", False), ("same", True)):
            first, second = torch.vmap(lambda x: lstm(x)[0], randomness=randomness)(examples)
            assert torch.equal(first, second) == equal

    def test_compiled_they_are_as_asked_too(self, lstm, examples):
        def called(examples, randomness):
            return torch.vmap(lambda x: lstm(x)[0], randomness=randomness)(examples)

        torch.compiler.reset()
        compiled = torch.compile(called, backend="aot_eager")
        for randomness, equal in (("different", False), ("same", True)):
            first, second = compiled(examples, randomness)
            assert torch.equal(first, second) == equal
        with pytest.raises(RuntimeError, match="randomness"):
            compiled(examples, "error")

    def test_by_default_they_are_an_error(self, lstm, examples):
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(lambda x: lstm(x)[0])(examples)
        lstm.eval()
        first, second = torch.vmap(lambda x: lstm(x)[0])(examples)
        assert torch.equal(first, second)

    def test_gradients_of_each_example_are_of_its_own_masks(self, lstm, examples):
        weights = dict(lstm.named_parameters())

        def loss(weights, x):
            return torch.func.functional_call(lstm, weights, (x,))[0].square().sum()

        each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
        first, second = each(weights, examples)["weight_hh_l0"]
        assert not torch.equal(first, second)

    def test_held_masks_are_held(self, lstm, examples):
        with recdrop.hold_masks(3):
            expected = lstm(examples[0])[0]
            for randomness in ("error", "different"):
                both = torch.vmap(lambda x: lstm(x)[0], randomness=randomness)(examples)
                torch.testing.assert_close(both, expected.expand_as(both))

    def test_other_transforms_draw_as_ever(self, lstm, examples):
        torch.manual_seed(3)
        expected = lstm(examples[0])[0].sum()
        torch.manual_seed(3)
        _, got = torch.func.grad_and_value(lambda x: lstm(x)[0].sum())(examples[0])
        torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_a_trace_that_would_freeze_masks_is_refused():
    lstm, x = recdrop.LSTM(3, 4, recurrent_dropout=0.5), torch.randn(5, 2, 3)
    with pytest.raises(RuntimeError, match="constants.*in evaluation"):
        torch.jit.trace(lstm, x)
    traced = torch.jit.trace(lstm.eval(), x)
    assert torch.equal(traced(x)[0], lstm(x)[0])


class Deep(torch.autograd.Function):
    """Backward passes within backward passes: after some dozens torch goes on in another thread."""

    @staticmethod
    def forward(ctx, x, depth, innermost):
        ctx.depth, ctx.innermost = depth, innermost
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.depth == 0:
            ctx.innermost()
        else:
            with torch.enable_grad():
                x = torch.zeros((), requires_grad=True)
                Deep.apply(x, ctx.depth - 1, ctx.innermost).backward()
        return grad, None, None


class TestHoldMasks:
    @pytest.fixture
    def lstm(self):
        return recdrop.LSTM(3, 4, recurrent_dropout=0.5)

    @pytest.fixture
    def x(self):
        return torch.randn(6, 2, 3)

    def test_the_same_layer_draws_the_same_masks(self, lstm, x):
        with recdrop.hold_masks():
            a, b = lstm(x)[0], lstm(x)[0]
        assert torch.equal(a, b)
        assert not torch.equal(lstm(x)[0], a)

    def test_the_seed_governs_and_the_generator_is_untouched(self, lstm, x):
        before = torch.get_rng_state()
        with recdrop.hold_masks(5):
            a = lstm(x)[0]
        with recdrop.hold_masks(np.int64(5)):  # pyright: ignore[reportArgumentType]
            b = lstm(x)[0]
        with recdrop.hold_masks(6):
            c = lstm(x)[0]
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert torch.equal(torch.get_rng_state(), before)

    def test_without_a_seed_torchs_generator_governs(self, lstm, x):
        results = []
        for _ in range(2):
            torch.manual_seed(1)
            with recdrop.hold_masks():
                results.append(lstm(x)[0])
        assert torch.equal(*results)

    def test_layer_objects_have_their_own_keys_by_order_of_first_call(self, x):
        a, b = (recdrop.LSTM(3, 4, recurrent_dropout=0.5) for _ in range(2))
        b.load_state_dict(a.state_dict())
        with recdrop.hold_masks(0):
            first, second = a(x)[0], b(x)[0]
        assert not torch.equal(first, second)
        with recdrop.hold_masks(0):
            assert torch.equal(b(x)[0], first)
            assert torch.equal(a(x)[0], second)

    def test_keys_are_exactly_as_documented(self):
        first, second = rng.Owner(), rng.Owner()
        with recdrop.hold_masks(2**64 - 3):
            keys = [int(rng.draw_key(owner)) for owner in (first, second, first)]
        words = [philox.philox4x32_10((n, 0, 0, 2**32 - 1), (2**32 - 3, 2**32 - 1)) for n in (0, 1)]
        expected = [w[0] | w[1] << 32 for w in words]
        assert [k % 2**64 for k in keys] == [expected[0], expected[1], expected[0]]

    def test_blocks_nest_and_end(self, lstm, x):
        with recdrop.hold_masks(1):
            outer = lstm(x)[0]
            with recdrop.hold_masks(2):
                assert not torch.equal(lstm(x)[0], outer)
            assert torch.equal(lstm(x)[0], outer)
        with pytest.raises(RuntimeError, match="boom"), recdrop.hold_masks(1):
            raise RuntimeError("boom")
        assert not torch.equal(lstm(x)[0], lstm(x)[0])

    def test_blocks_may_be_closed_out_of_order(self, lstm, x):
        first, second = recdrop.hold_masks(1), recdrop.hold_masks(2)
        first.__enter__()
        one = lstm(x)[0]
        second.__enter__()
        two = lstm(x)[0]
        first.__exit__(None, None, None)
        assert torch.equal(lstm(x)[0], two)
        second.__exit__(None, None, None)
        assert not torch.equal(one, two)
        assert not torch.equal(lstm(x)[0], lstm(x)[0])

    def test_they_belong_to_their_thread(self, lstm, x):
        seen = []
        with recdrop.hold_masks(1):
            here = lstm(x)[0]
            thread = threading.Thread(target=lambda: seen.append(lstm(x)[0]))
            thread.start()
            thread.join()
        assert not torch.equal(seen[0], here)

    def test_they_hold_in_the_threads_of_a_backward_pass(self, lstm, x):
        seen = []
        loss = Deep.apply(
            torch.zeros((), requires_grad=True),
            100,
            lambda: seen.append((threading.get_ident(), lstm(x)[0])),
        )
        with recdrop.hold_masks(1):
            here = lstm(x)[0]
            loss.backward()
        (thread, there), *_ = seen
        assert thread != threading.get_ident()
        assert torch.equal(there, here)

    @pytest.mark.filterwarnings("ignore:Dynamo")
    def test_they_hold_inside_what_is_compiled(self, lstm, x):
        def held(x):
            with recdrop.hold_masks(1):
                return lstm(x)[0]

        torch.compiler.reset()
        compiled = torch.compile(held, backend="aot_eager")
        assert torch.equal(compiled(x), held(x))

    def test_a_copy_is_another_layer_parametrised_or_not(self, lstm, x):
        for _ in range(2):
            other = copy.deepcopy(lstm)
            with recdrop.hold_masks(1):
                assert not torch.equal(lstm(x)[0], other(x)[0])
            torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")

    def test_the_default_device_does_not_matter(self, lstm, x):
        with torch.device("meta"):
            with recdrop.hold_masks(), recdrop.hold_masks(1):
                got = lstm(x)[0]
            recdrop.mc_dropout(lstm, x, samples=2, probabilities=False)
            recdrop.memory.retention_curve(lstm, x, keys=1)
        with recdrop.hold_masks(1):
            assert torch.equal(got, lstm(x)[0])

    @pytest.mark.parametrize("cell", OURS)
    def test_windows_of_a_sequence_equal_one_call_per_sequence(self, cell):
        site = "hidden" if cell == "rnn" else "update"
        layer = OURS[cell](3, 4, recurrent_dropout=recdrop.RecurrentDropout(0.5, site, "sequence"))
        x = torch.randn(8, 2, 3)
        with recdrop.hold_masks(1):
            whole = tensors(layer(x))
            first, state = layer(x[:3])
            parts = tensors(layer(x[3:], state))
        torch.testing.assert_close(torch.cat((first, parts[0])), whole[0])
        torch.testing.assert_close(parts[1:], whole[1:])

    def test_per_step_masks_start_again_at_each_call(self):
        spec = recdrop.RecurrentDropout(0.5)
        lstm = recdrop.LSTM(3, 4, recurrent_dropout=spec)
        x = torch.randn(1, 2, 3)
        with recdrop.hold_masks(1):
            whole = lstm(x.expand(2, 2, 3))[0]
            first, state = lstm(x)
            second = lstm(x, state)[0]
        torch.testing.assert_close(whole[0], first[0])
        assert torch.equal(whole[0] == 0, first[0] == 0)
        assert not torch.allclose(whole[1], second[0])

    @pytest.mark.parametrize(
        ("seed", "error"),
        [(0.5, TypeError), (True, TypeError), ("1", TypeError), (2**64, ValueError)],
    )
    def test_bad_seeds(self, seed, error):
        with pytest.raises(error, match="hold_masks: seed must"), recdrop.hold_masks(seed):
            pass
