"""The Triton backend on a card: what neither its interpreter nor its compiler can show.

`benchmarks/gpu.sh` runs this file. It needs a CUDA device and ``TRITON_INTERPRET=0``.
"""

import dataclasses
import os

import pytest
import torch
from benchmarks.gpu import ieee, tf32
from torch._dynamo.utils import counters

import recdrop
from recdrop import RecurrentDropout, rng
from recdrop.backends import triton
from recdrop.testing import (
    CASES,
    Case,
    Reference,
    assert_matches_reference,
    evaluate,
    make_call,
    schemes,
)
from tests.backends.triton_cases import (
    ALL_SITES,
    CELLS,
    assert_as_near_as_the_reference,
    of_cell,
)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "0", reason="benchmarks/gpu.sh runs this"
    ),
]

SHAPES = {name: case for name, case in CASES.items() if not case.projected} | {
    "many programs": Case(9, 40, 24, 70),  # 2 tiles of rows, 5 of units
    "sixteens": Case(9, 40, 24, 96),
    "widened": Case(65, 17, 10, 300),  # to rows of a multiple of 16 units
    "packed, many programs": Case(12, 36, 8, 100, lengths=(12, *[9] * 20, *[4] * 14, 1)),
}
PLANS = ("persistent", "in turn", "a launch for each step")


@pytest.fixture(autouse=True)
def _exact_products():
    with ieee():
        yield


@pytest.fixture(params=PLANS)
def plan(request, monkeypatch):
    """All programs at once; three that take all tiles in turn; none that waits."""
    from recdrop.backends.triton import launch
    from recdrop.backends.triton import plan as rule

    if request.param != "persistent":
        count = 3 if request.param == "in turn" else 0
        monkeypatch.setattr(launch, "processors", lambda device: count)
        monkeypatch.setattr(rule, "MOST_TURNS", 1000)


def on_gpu(call):
    """Run a CPU call on the card; results and gradients come back."""
    there = dataclasses.replace(
        call,
        x=call.x.cuda(),
        state=tuple(s.cuda() for s in call.state),
        weights=tuple(w.cuda() for w in call.weights),
        rows=None if call.rows is None else call.rows.cuda(),
    )
    output, state = triton.run(there)
    return output.cpu(), tuple(s.cpu() for s in state)


@pytest.mark.parametrize("part", range(3))  # each scheme is compiled anew, some seconds
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_schemes(cell, args, training, part):
    """At one shape, in one plan."""
    for drops in [(), *schemes(cell)][part::3]:
        if training or any(spec.acts(False) for spec in drops):
            call = make_call(
                SHAPES["packed, many programs"], cell, drops, training=training, **args
            )
            assert_matches_reference(on_gpu, call)


@pytest.mark.parametrize("plan", PLANS[:2], indirect=True)
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_shapes(cell, args, case):
    for drops in ((), of_cell(cell, ALL_SITES)):
        assert_matches_reference(on_gpu, make_call(SHAPES[case], cell, drops, **args))


@pytest.mark.parametrize("plan", PLANS[2:], indirect=True)
@pytest.mark.parametrize("case", ["many programs", "packed, many programs"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_a_launch_for_each_step(cell, args, case):
    call = make_call(SHAPES[case], cell, of_cell(cell, ALL_SITES), **args)
    assert_matches_reference(on_gpu, call)


@pytest.mark.parametrize("case", ["widened", "packed, many programs"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_relu(cell, args, case):
    call = make_call(SHAPES[case], cell, of_cell(cell, ALL_SITES), activation="relu", **args)
    assert_matches_reference(on_gpu, call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", PLANS[:2], indirect=True)
@pytest.mark.parametrize("case", ["packed", "sixteens", "widened"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_16_bits_are_as_near_as_the_reference_in_16_bits(cell, args, case, dtype):
    for drops in ((), of_cell(cell, ALL_SITES[:2])):
        call = make_call(SHAPES[case], cell, drops, **args)
        assert_as_near_as_the_reference(on_gpu, call, dtype)


@pytest.mark.parametrize("plan", PLANS[:2], indirect=True)
@pytest.mark.parametrize("case", ["sixteens", "packed, many programs"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_tf32_is_as_near_as_tf32_can_be(cell, args, case):
    """Persistent, each program keeps its weights here, which without TF32 none does."""
    call = make_call(SHAPES[case], cell, of_cell(cell, ALL_SITES), **args)
    truth = Reference.of(call).truth
    with tf32():
        tried = evaluate(on_gpu, call, torch.float32)
    for name, true in truth.items():
        error = float((tried[name].double() - true).abs().max() / true.abs().max())
        # Operands of 10 bits, cut off, through up to 12 steps: 0.005 where a CPU did the same.
        assert error < 2e-2, name


@pytest.mark.parametrize("kept", [False, True], ids=["relu, packed", "kept weights in 16 bits"])
def test_the_sanitizer_watches_these(kept):
    """Few and small: compute-sanitizer takes its time, and benchmarks/gpu.sh asks it for them."""
    if kept:
        call = make_call(SHAPES["sixteens"], "lstm", ALL_SITES[:2])
        assert_as_near_as_the_reference(on_gpu, call, torch.bfloat16)
    else:
        call = make_call(SHAPES["packed, many programs"], "lstm", ALL_SITES, activation="relu")
        assert_matches_reference(on_gpu, call)


HIDDEN_MASKS = {
    "none": ALL_SITES[1:],
    "tied": (RecurrentDropout(0.4, "hidden"), *ALL_SITES[1:]),
    "untied": ALL_SITES,
}
LENGTHS = (*[64] * 20, *[40] * 15, *[7] * 12, 1)
RACES = [  # H, type, products, masks of the hidden site, lengths
    (300, torch.float32, ieee, "untied", None),
    (300, torch.float32, ieee, "none", LENGTHS),
    (128, torch.float32, tf32, "untied", None),  # where persistent with kept weights
    (128, torch.float32, tf32, "tied", LENGTHS),  # the same
    (256, torch.bfloat16, ieee, "none", None),  # the same
    (256, torch.bfloat16, ieee, "untied", LENGTHS),  # the same
    (768, torch.float32, tf32, "tied", None),
    (768, torch.bfloat16, ieee, "untied", None),
]


@pytest.mark.parametrize("plan", PLANS[:2], indirect=True)
@pytest.mark.parametrize(("hidden", "dtype", "products", "masks", "lengths"), RACES)
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_no_race_changes_a_bit(cell, args, hidden, dtype, products, masks, lengths, monkeypatch):
    """64 steps of waiting, 30 times: one value read too early would be another value.

    Memory that is not written yet holds NaN here (conftest.py), not the last repetition's values;
    half of them run beside another stream that keeps the memory busy. And what would be read too
    early each time is found where every step is a launch, which waits for nobody.
    """
    from recdrop.backends.triton import launch

    case = Case(64, 48, 16, hidden, lengths=lengths)
    call = make_call(case, cell, of_cell(cell, HIDDEN_MASKS[masks]), **args)
    busy, much = torch.cuda.Stream(), torch.zeros(2**26, device="cuda")
    with products():
        first = evaluate(on_gpu, call, dtype)
        for number in range(30):
            if number % 2:
                with torch.cuda.stream(busy):
                    for _ in range(20):
                        much.add_(1)
            again = evaluate(on_gpu, call, dtype)
            assert all(torch.equal(first[name], again[name]) for name in first)
        monkeypatch.setattr(launch, "processors", lambda device: 0)
        alone = evaluate(on_gpu, call, dtype)
    rtol, atol = (0.05, 0.05) if dtype == torch.bfloat16 else (1e-4, 1e-5)
    if products is tf32:
        rtol = atol = 0.03
    if cell == "rnn":  # sums in another order flip last bits, of which it makes the most
        rtol = atol = 0.1 if dtype == torch.bfloat16 else rtol
    for name, value in first.items():
        size = float(alone[name].abs().max())
        torch.testing.assert_close(value, alone[name], rtol=rtol, atol=atol * size, msg=name)


def test_long_sequences_agree_whichever_way_they_run(monkeypatch):
    from recdrop.backends.triton import launch

    call = make_call(Case(300, 16, 32, 300), "lstm", ALL_SITES[1:])
    together = evaluate(on_gpu, call, torch.float32)
    monkeypatch.setattr(launch, "processors", lambda device: 0)
    alone = evaluate(on_gpu, call, torch.float32)
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5, msg=name)


# ------------------------------------------------------------------------ layers, graphs, compiling


def lstm(rate=0.4, **options):
    torch.manual_seed(1)
    drops = RecurrentDropout(rate) if rate else ()
    return recdrop.LSTM(
        24, 70, num_layers=2, recurrent_dropout=drops, backend="triton", **options
    ).cuda()


def inputs(steps=9, batch=12):
    return torch.randn(steps, batch, 24, generator=torch.Generator().manual_seed(2)).cuda()


def test_the_masks_are_those_of_the_cpu():
    layer, x = lstm(), inputs()
    on_cpu = recdrop.LSTM(24, 70, num_layers=2, recurrent_dropout=0.4, backend="reference")
    on_cpu.load_state_dict(layer.state_dict())
    with recdrop.hold_masks(3):
        there, _ = layer(x)
    with recdrop.hold_masks(3):
        here, _ = on_cpu(x.cpu())
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_autocast_gives_the_dtypes_of_torchs_layer(kind, packed):
    """In float16, which torch's cuDNN layers take whatever the lower type is."""
    site = "hidden" if kind == "RNN" else "update"
    ours = getattr(recdrop, kind)(
        24, 70, 2, recurrent_dropout=RecurrentDropout(0.4, site), backend="triton"
    ).cuda()
    theirs = getattr(torch.nn, kind)(24, 70, 2, device="cuda")
    x = inputs()
    given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.full((12,), 9)) if packed else x
    dtypes = []
    with torch.autocast("cuda", dtype=torch.float16):
        for layer in (ours, theirs):
            output, state = layer(given)
            states = state if isinstance(state, tuple) else (state,)
            output = output.data if packed else output
            dtypes.append([output.dtype, *(s.dtype for s in states)])
    assert dtypes[0] == dtypes[1]


def test_a_backward_pass_under_autocast_is_the_same():
    layer, x = lstm(), inputs()
    grads = []
    for lower in (False, True):
        layer.zero_grad()
        with recdrop.hold_masks(3):
            loss = layer(x)[0].square().sum()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=lower):
            loss.backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("packed", [False, True])
def test_a_training_step_never_waits_for_the_device(packed):
    layer, x = lstm(), inputs()
    given = x
    if packed:
        lengths = torch.tensor([9, 3, 5, 9, 1, 2, 8, 7, 6, 5, 4, 3])
        given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step():
        optimiser.zero_grad()
        output = layer(given)[0]
        (output if isinstance(output, torch.Tensor) else output.data).sum().backward()
        optimiser.step()

    step()  # compiles, and may wait
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_mask_is_kept_in_memory():
    def peak(rate):
        layer, x = lstm(rate), inputs(200, 64)
        layer(x)[0].sum().backward()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        layer(x)[0].sum().backward()
        return torch.cuda.max_memory_allocated() - before

    assert peak(0.4) <= peak(0.0) + 2**16


@pytest.fixture
def captured():
    """Captures work, with its warm-up, as torch's documentation says."""

    def capture(work):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
        return graph, result

    return capture


@pytest.mark.usefixtures("plan")
def test_two_replays_of_a_graph_drop_other_units(captured):
    layer, x = lstm(), inputs()
    graph, (output, _) = captured(lambda: layer(x))
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(output.clone())
    assert not torch.equal(*seen)
    layer.eval()
    graph, (output, _) = captured(lambda: layer(x))
    graph.replay()
    torch.testing.assert_close(output, layer(x)[0])


def trained(layer, x):
    """Output and weights' gradients of a training step."""
    output, _ = layer(x)
    return [output, *torch.autograd.grad(output.square().sum(), tuple(layer.parameters()))]


@pytest.mark.usefixtures("plan")
def test_a_replay_is_what_the_layer_computes(captured):
    """A whole training step in a graph, on new inputs, under the masks of a key that is known."""
    layer, x = lstm(), inputs()
    with recdrop.hold_masks(5):
        graph, results = captured(lambda: trained(layer, x))
    for seed in (1, 2):
        x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        with recdrop.hold_masks(5):
            expected = trained(layer, x)
        for one, other in zip(results, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("plan", PLANS[2:], indirect=True)
@pytest.mark.usefixtures("plan")
def test_a_loop_of_launches_that_comes_again_is_replayed_and_computes_the_same(monkeypatch):
    from recdrop.backends.triton import launch
    from recdrop.backends.triton.replays import Replays

    replays = Replays()
    monkeypatch.setattr(launch, "REPLAYS", replays)
    layer, x = lstm(), inputs()
    with recdrop.hold_masks(5):
        first = [t.cpu() for t in trained(layer, x)]
        for _ in range(8):  # the allocator has given the same addresses again by then
            for one, other in zip(trained(layer, x), first, strict=True):
                assert torch.equal(one.cpu(), other)
    assert any(graph is not None for graph in replays._graphs.values())
    masked = [layer(x)[0].detach().cpu() for _ in range(3)]
    assert not torch.equal(masked[1], masked[2])


def test_packed_places_of_a_graph_stay(captured):
    layer, x = lstm().eval(), inputs()
    lengths = torch.tensor([9, 3, 5, 9, 1, 2, 8, 7, 6, 5, 4, 3])
    given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    graph, (output, _) = captured(lambda: layer(given))
    [torch.arange(10, dtype=torch.int32).pin_memory() for _ in range(100)]  # over freed host memory
    graph.replay()
    torch.testing.assert_close(output.data, layer(given)[0].data)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_layers_draw_anew_and_agree(mode):
    layer, x = lstm(), inputs()
    counters.clear()
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    outputs = []
    for _ in range(5):
        layer.zero_grad()  # a gradient is a graph's own memory, which the next replay takes
        torch.compiler.cudagraph_mark_step_begin()
        output = compiled(x)[0]
        output.square().sum().backward()
        outputs.append(output.detach().clone())
    assert all(not torch.equal(outputs[-1], o) for o in outputs[:-1])
    layer.eval()
    torch.compiler.cudagraph_mark_step_begin()
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])
    if mode == "reduce-overhead":
        assert not counters["inductor"]["cudagraph_skips"]


def test_a_key_on_the_device_is_a_key():
    owner = rng.Owner()
    keys = torch.stack([rng.draw_key(owner, torch.device("cuda")) for _ in range(200)])
    assert keys.device.type == "cuda"
    assert len(set(keys.tolist())) == 200
    with recdrop.hold_masks(7):
        held = rng.draw_key(owner, torch.device("cuda"))
    with recdrop.hold_masks(7):
        assert held.item() == rng.draw_key(owner).item()
