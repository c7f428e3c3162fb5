"""The Triton kernels: their source in the interpreter, and compiled for GPUs that are not here.

The interpreter proves formulae and addresses, on any machine; it knows neither races nor limits of
memory. bfloat16 products are broken in it and are only compiled here.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import recdrop
from recdrop import RecurrentDropout, backends, rng
from recdrop.backends import reference, triton
from recdrop.backends.triton.replays import Replays
from recdrop.testing import (
    CASES,
    Case,
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
from tests.helpers import tensors

jit = pytest.importorskip("triton").jit
tl = pytest.importorskip("triton.language")
interpreter = pytest.importorskip("triton.runtime.interpreter")
cells = pytest.importorskip("recdrop.backends.triton.cells")

SMALL = Case(3, 3, 2, 5)
WIDE = Case(3, 9, 5, 33)  # more than one tile of units
SHAPES = [name for name, case in CASES.items() if not case.projected]


@pytest.fixture(autouse=True)
def _patched_once_a_launch(monkeypatch):
    """The interpreter puts its own functions into Triton's language.

    It does so anew at each call of a function by a kernel, a third of all its time; here once a
    launch for the functions of each module.
    """
    honest, done = interpreter._patch_lang, set()

    def patch(fn):
        module = id(fn.__globals__)
        if module in done:
            return None
        scope = honest(fn)
        if not done:  # the kernel's own: it takes back what all have patched
            take_back = scope.restore
            scope.restore = lambda: (done.clear(), take_back())
        done.add(module)
        return scope

    monkeypatch.setattr(interpreter, "_patch_lang", patch)


PLANS = ("persistent", "a launch for each step", "kept weights")


@pytest.fixture(params=PLANS[:2])
def plan(request, monkeypatch):
    """Persistent is one program here, which has nobody to wait for, with all tiles.

    It keeps its weights where it has one tile. Of several tiles, weights are kept in a launch for
    each step here, where each is a program: a kernel does not care.
    """
    from recdrop.backends.triton import launch

    persistent = request.param == "persistent"
    monkeypatch.setattr(launch, "processors", lambda device: int(persistent))
    if request.param == "kept weights":
        original = launch.Plan.launch

        def kept(plan, *, backward):
            return original(plan, backward=backward) | {"KEEP": True, "BK": plan.whole}

        monkeypatch.setattr(launch.Plan, "launch", kept)


@pytest.mark.parametrize("plan", ["persistent"], indirect=True)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_schemes(cell, args, training):
    """All that act; with other shapes, plans and relu in the whole battery."""
    for drops in [(), *schemes(cell)]:
        if training or any(spec.acts(False) for spec in drops):
            call = make_call(SMALL, cell, drops, training=training, **args)
            assert_matches_reference(triton.run, call)


@pytest.mark.parametrize("plan", ["a launch for each step"], indirect=True)
@pytest.mark.parametrize(
    ("cell", "args", "case"),
    [
        pytest.param(*cell.values, case, id=f"{cell.id}-{case}")
        for cell in CELLS
        for case in (SHAPES if cell.id == "lstm" else ("odd", "packed both directions"))
    ],
)
@pytest.mark.usefixtures("plan")
def test_shapes(cell, args, case):
    """All of an LSTM; of the others too in the whole battery."""
    for drops in ((), of_cell(cell, ALL_SITES)):
        assert_matches_reference(triton.run, make_call(CASES[case], cell, drops, **args))


@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_relu(cell, args):
    drops = of_cell(cell, ALL_SITES)
    call = make_call(SMALL, cell, drops, activation="relu", **args)
    assert_matches_reference(triton.run, call)


@pytest.mark.parametrize("plan", PLANS[1:], indirect=True)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_products_over_several_blocks_of_units(cell, args, tied):
    """Without kept weights: 32 units of all gates at a time, 128 of one gate."""
    units = 150 if cell == "rnn" or args else 70
    specs = of_cell(cell, (RecurrentDropout(0.3, "hidden", tied=tied), *ALL_SITES[1:]))
    assert_matches_reference(triton.run, make_call(Case(2, 2, 2, units), cell, specs, **args))


@pytest.mark.parametrize("plan", ["persistent"], indirect=True)
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_a_program_takes_several_tiles_in_turn(cell, args):
    from recdrop.backends.triton.plan import Plan
    from recdrop.backends.triton.width import wide

    assert Plan.of(WIDE.batch, wide(WIDE.hidden), "lstm", 4, 1, SHARED[90]).turns == 2
    assert_matches_reference(triton.run, make_call(WIDE, cell, of_cell(cell, ALL_SITES), **args))


@jit
def both(x, s, t, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(s + at, cells.sigmoid(tl.load(x + at)))
    tl.store(t + at, cells.tanh(tl.load(x + at)))


def test_nonlinearities_have_the_digits_of_a_float32():
    x = torch.cat((torch.linspace(-12, 12, 8192), torch.linspace(-0.3, 0.3, 8192)))
    s, t = torch.empty_like(x), torch.empty_like(x)
    both[1,](x, s, t, x.numel())
    eps = torch.finfo(torch.float32).eps
    assert (s - x.double().sigmoid()).abs().max() < eps
    assert (t - x.double().tanh()).abs().max() < eps  # its double near 1 would be in 1 - y^2
    near = x.abs() < 0.3
    assert ((t / x.double().tanh()) - 1)[near & (x != 0)].abs().max() < 4 * eps
    x[:4] = torch.tensor([math.inf, -math.inf, math.nan, 0.0])
    both[1,](x, s, t, x.numel())
    assert s[:4].tolist() == [1, 0, pytest.approx(math.nan, nan_ok=True), 0.5]
    assert t[:4].tolist() == [1, -1, pytest.approx(math.nan, nan_ok=True), 0]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, indirect=True)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.usefixtures("plan")
def test_whole_battery(cell, args, case, training, activation):
    """Every scheme that acts; with relu, which meets no mask, every third."""
    acting = [s for s in schemes(cell) if training or any(spec.acts(False) for spec in s)]
    for drops in [(), *acting[:: 3 if activation == "relu" else 1]]:
        call = make_call(CASES[case], cell, drops, training=training, activation=activation, **args)
        assert_matches_reference(triton.run, call)


@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_float16_is_as_near_as_the_reference_in_float16(cell, args):
    call = make_call(WIDE, cell, of_cell(cell, ALL_SITES[:2]), **args)
    assert_as_near_as_the_reference(triton.run, call, torch.float16)


def test_the_memory_stays_in_float32_where_the_rest_is_float16():
    """The memory grows by 2^-12 a step: float16 would round each away from 1 on."""
    hidden, steps = 4, 20
    weights = (torch.zeros(16, 1), torch.zeros(16, 4))
    bias = torch.tensor([40.0, 40.0, 2.0**-12, 0.0]).repeat_interleave(hidden)
    state = (torch.zeros(1, 1, hidden), torch.ones(1, 1, hidden))
    call = make_call(Case(steps, 1, 1, hidden), "lstm", (), activation="relu")
    call = dataclasses.replace(
        call,
        x=torch.zeros(steps, 1, 1).half(),
        state=tuple(s.half() for s in state),
        weights=tuple(w.half() for w in (*weights, bias, torch.zeros(16))),
    )
    _, (_, c_n) = triton.run(call)
    assert c_n.flatten().tolist() == [torch.tensor(1 + steps * 2.0**-12).half().item()] * hidden


@pytest.mark.parametrize(("cell", "args"), CELLS)
@pytest.mark.parametrize("case", ["odd", "packed"])
def test_autocast_gives_the_dtypes_of_the_reference(cell, args, case):
    call = make_call(CASES[case], cell, of_cell(cell, ALL_SITES), **args)
    parts = {name: getattr(call, name) for name in ("state", "weights")}
    parts = {name: tuple(t.float() for t in part) for name, part in parts.items()}
    call = dataclasses.replace(call, x=call.x.float(), **parts)
    with torch.autocast("cpu", dtype=torch.float16):
        output, state = triton.run(call)
        expected, expected_state = reference.run(call)
    assert output.dtype == (torch.float16 if cell == "lstm" and case == "odd" else torch.float32)
    torch.testing.assert_close(output.float(), expected.float(), rtol=0, atol=0.01)
    torch.testing.assert_close(state[0].float(), expected_state[0].float(), rtol=0, atol=0.01)


def planted(name, change):
    """A run with one mistake in what its launches are given."""

    def run(call):
        from recdrop.backends.triton import launch

        original = launch._Layer.step_arguments
        launch._Layer.step_arguments = lambda layer, **which: (
            original(layer, **which) | change(layer)
        )
        try:
            return triton.run(call)
        finally:
            launch._Layer.step_arguments = original

    run.__name__ = name
    return run


FAULTS = [
    planted("other layer", lambda layer: {"layer_code": layer.code + 8}),
    planted("other key", lambda layer: {"key_at": layer.key + 1}),
    planted("rows in order", lambda layer: {"HAS_ROWS": False}),
    planted("no update mask", lambda layer: {"UPDATE": 0}),
    planted("other scale", lambda layer: {"s_state": layer.how.scales[2] * (1 + 1e-5)}),
    planted("other threshold", lambda layer: {"t_hidden": rng.threshold(0.5)}),
    planted("mask of a sequence", lambda layer: {"STATE": 2}),
    planted("one view", lambda layer: {"V": 1}),
]


@pytest.fixture(scope="module")
def sound():
    """A call that passes, unless a fault is planted."""
    call = make_call(Case(3, 3, 2, 5, lengths=(3, 3, 1)), "lstm", ALL_SITES)
    assert_matches_reference(triton.run, call)
    return call


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_the_battery_rejects(fault, sound):
    with pytest.raises(AssertionError, match="differs from the reference"):
        assert_matches_reference(fault, sound)


def test_two_runs_give_the_same_bits():
    call = make_call(CASES["odd"], "gru", ALL_SITES)
    first, second = (evaluate(triton.run, call, torch.float32) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_backward_pass_under_autocast_is_the_same():
    call = make_call(SMALL, "lstm", ALL_SITES)
    grads = []
    for lower in (False, True):
        x = call.x.float().requires_grad_()
        parts = {n: tuple(t.float() for t in getattr(call, n)) for n in ("state", "weights")}
        output, _ = triton.run(dataclasses.replace(call, x=x, **parts))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            grads.append(torch.autograd.grad(output.sum(), x)[0])
    assert torch.equal(*grads)


def test_no_second_derivative():
    layer = recdrop.LSTM(2, 5, recurrent_dropout=0.4)
    x = torch.randn(3, 2, 2, requires_grad=True)
    call = recorded(layer, x)
    output, _ = triton.run(call)
    (dx,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative: use backend='reference'"):
        dx.sum().backward()


def recorded(layer, x):
    """The call that a layer makes."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        original = backends.run
        patch.setattr(backends, "run", lambda call, name: (calls.append(call), original(call))[1])
        layer(x)
    return calls[0]


# ---------------------------------------------------------------------------- layers, and compiling


@pytest.fixture
def anywhere(monkeypatch):
    """Layers on the CPU take ``backend="triton"`` too."""
    here = dataclasses.replace(backends.BACKENDS["triton"], why_not=triton.why_not_anywhere)
    monkeypatch.setitem(backends.BACKENDS, "triton", here)


def outputs_and_gradients(f, layer, x):
    layer.zero_grad()
    with recdrop.hold_masks(5):
        out = tensors(f(x))
    sum(o.square().sum() for o in out).backward()
    return [*(o.detach() for o in out), *(p.grad for p in layer.parameters())]


@pytest.mark.usefixtures("anywhere")
def test_a_compiled_layer_is_the_eager_one():
    torch.compiler.reset()
    layer = recdrop.LSTM(2, 5, bidirectional=True, recurrent_dropout=0.4, backend="triton")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (3, 4):  # the second length makes T dynamic
        x = torch.randn(steps, 3, 2)
        expected = outputs_and_gradients(layer, layer, x)
        got = outputs_and_gradients(compiled, layer, x)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not torch.equal(compiled(x)[0], compiled(x)[0])


class FakeGraphs:
    """CUDA's graphs without a card: what is launched, and what a graph would launch again."""

    def __init__(self, monkeypatch):
        self.launched, self.recorded, self.capturing, self.done = [], None, False, True
        fakes = self

        class CUDAGraph:
            def capture_begin(self, capture_error_mode):
                assert capture_error_mode == "thread_local"  # other threads may allocate
                fakes.recorded = []

            def capture_end(self):
                self.launches, fakes.recorded = fakes.recorded, None

            def replay(self):
                fakes.launched.append(tuple(self.launches))

        class Event:
            def record(self):
                pass

            def query(self):
                return fakes.done

        monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", object)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)

    def loop(self, *names):
        return lambda: [
            (self.launched if self.recorded is None else self.recorded).append(name)
            for name in names
        ]


def test_a_loop_that_comes_again_is_replayed(monkeypatch):
    cuda, replays = FakeGraphs(monkeypatch), Replays()
    for _ in range(3):
        replays.run("key", cuda.loop("a", "b"))
        replays.run("other", cuda.loop("c"))
    # By itself, then captured and replayed, then replayed alone.
    assert cuda.launched == ["a", "b", "c", ("a", "b"), ("c",), ("a", "b"), ("c",)]
    cuda.launched.clear()
    cuda.capturing = True  # somebody's own graph, of which it becomes a part
    replays.run("key", cuda.loop("a", "b"))
    assert cuda.launched == ["a", "b"]


def test_graphs_of_loops_are_bounded(monkeypatch):
    cuda, replays = FakeGraphs(monkeypatch), Replays()
    for key in range(1000):
        replays.run(key, cuda.loop(key))
    assert cuda.launched == [*range(1000)]
    assert len(replays._graphs) == 256

    def graphs():
        return [key for key, graph in replays._graphs.items() if graph is not None]

    cuda.done = False  # the host is ahead of the device
    for key in range(900, 920):  # still known
        replays.run(key, cuda.loop(key))
    assert cuda.launched[1000:] == [(key,) for key in range(900, 920)]
    assert graphs() == [*range(900, 920)]  # any may be running
    cuda.done = True
    replays.run(920, cuda.loop(920))
    assert graphs() == [*range(905, 921)]
    for key in range(2000, 3000):
        replays.run(key, cuda.loop(key))
    assert len(replays._graphs) == 256
    assert not graphs()


def test_a_loop_that_fails_ends_its_capture(monkeypatch):
    cuda, replays = FakeGraphs(monkeypatch), Replays()

    def fail():
        raise RuntimeError("out of resources")

    replays.run("key", cuda.loop("a"))
    with pytest.raises(RuntimeError, match="out of resources"):
        replays.run("key", fail)
    assert cuda.recorded is None
    replays.run("key", cuda.loop("a"))
    assert cuda.launched == ["a", ("a",)]


def test_a_loops_key_is_all_that_its_launches_are_given(monkeypatch):
    """Without a card: the real call's arguments, whose tensors say that they are on one."""
    from recdrop.backends.triton import launch

    keys = []

    class Noted:
        def run(self, key, launches):
            keys.append(key)
            launches()

    monkeypatch.setattr(launch, "REPLAYS", Noted())
    monkeypatch.setattr(launch, "processors", lambda device: 0)
    monkeypatch.setattr(launch, "on_card", lambda tensor: True)
    drops = (ALL_SITES, ALL_SITES, ALL_SITES[:2])
    calls = [make_call(SMALL, "lstm", of_cell("lstm", sites)).to(torch.float32) for sites in drops]
    for call in calls:
        triton.run(call)
    assert len(keys) == len(calls)
    assert len(set(keys)) == 3
    for key in keys:
        hash(key)
        assert not any(isinstance(part, torch.Tensor) for part in key)
    scalars = [[part for part in key if not isinstance(part, tuple)] for key in keys]
    assert scalars[0] == scalars[1] != scalars[2]


READS = [
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal")
]
SCANS = {
    torch.ops.recdrop.triton_scan: triton._scan,
    torch.ops.recdrop.triton_scan_backward: triton._scan_backward,
    torch.ops.recdrop.triton_packed_scan: triton._scan,
    torch.ops.recdrop.triton_packed_scan_backward: triton._scan_backward,
}
UNSAFE = torch.Tag.cudagraph_unsafe


class ReadsBack(TorchDispatchMode):
    """Counts values that the host reads of tensors: on a card it would wait for each.

    Our operators are opaque to such a mode, so it runs what they run.
    """

    def __init__(self, lengths):
        super().__init__()
        self.lengths = lengths  # of a packed input: on the CPU, whatever the device
        self.count = self.scans = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in READS:
            self.count += self.lengths is None or args[0]._base is not self.lengths
        if func.overloadpacket not in SCANS:
            return func(*args, **(kwargs or {}))
        # In a replayed CUDA graph the lengths would be those of the batch that was captured.
        assert (UNSAFE in func.tags) == (self.lengths is not None)
        self.scans += 1
        with self:
            return SCANS[func.overloadpacket](*args)


class NoLaunch:
    def __getitem__(self, grid):
        return lambda **arguments: None


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "args"),
    [("RNN", {}), ("LSTM", {}), ("GRU", {}), ("GRU", {"reset_after": False})],
)
def test_a_training_step_reads_nothing_back(kind, args, packed, monkeypatch):
    """Its host code, without its kernels. On a card it reads the key, which is on the CPU."""
    from recdrop.backends.triton import launch

    for name in ("forward", "backward", "see"):
        monkeypatch.setattr(launch.kernels, name, NoLaunch())
    drops = RecurrentDropout(0.4, "hidden")
    layer = getattr(recdrop, kind)(2, 5, 2, recurrent_dropout=drops, backend="triton", **args)
    given, lengths = torch.randn(4, 3, 2), None
    if packed:
        given = pack_padded_sequence(given, torch.tensor([2, 4, 1]), enforce_sorted=False)
        lengths = given.batch_sizes

    def reads():
        with ReadsBack(lengths) as mode:
            sum(out.sum() for out in tensors(layer(given))).backward()
        assert mode.scans == 4  # two layers, there and back
        return mode.count

    assert reads() == 0
    monkeypatch.setattr(launch, "processors", lambda device: int(torch.ones(())))
    assert reads() == 4  # so one would be seen


# --------------------------------------------------------------------------------------- objections


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float64}, "float32, bfloat16 or float16, the input is torch.float64"),
        ({"proj_size": 2}, r"it has no projection \(proj_size\)"),
    ],
)
def test_what_it_lacks_is_said(change, message):
    layer = recdrop.LSTM(2, 5, recurrent_dropout=0.4, **change)
    x = torch.randn(3, 2, 2, dtype=change.get("dtype"))
    objection = triton.why_not_anywhere(recorded(layer, x))
    assert re.search(message, objection)


def test_weights_beyond_32_bits_are_an_objection():
    call = make_call(SMALL, "rnn", ())
    for units, objects in ((23_168, False), (23_169, True)):
        state = torch.empty(1, 3, units, device="meta")
        large = dataclasses.replace(call, x=call.x.float(), state=(state,))
        said = "it counts a layer's recurrent weights in 32 bits, which ends at H = 23168"
        assert triton.why_not_anywhere(large) == (said if objects else None)


def test_a_batch_beyond_32_bits_is_an_objection():
    call = make_call(SMALL, "rnn", ())
    for rows, objects in ((2**19 - 1, False), (2**19, True)):
        state = torch.empty(1, rows, 1009, device="meta")
        large = dataclasses.replace(call, x=call.x.float(), state=(state,))
        said = f"it counts a step's units in 32 bits, too few for {rows} rows of 1009"
        assert triton.why_not_anywhere(large) == (said if objects else None)


def test_amds_gpus_are_told_from_nvidias(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4.1")
    layer = recdrop.LSTM(2, 5, recurrent_dropout=0.4, backend="triton")
    message = r"it needs an NVIDIA GPU, this torch is built for AMD's \(ROCm 6.4.1\)"
    with pytest.raises(recdrop.BackendUnsupported, match=message):
        layer(torch.randn(3, 2, 2))


@pytest.fixture
def card(monkeypatch):
    """A card as torch describes it, with a call for it; its name and compute capability."""

    def of(name, major, minor):
        properties = SimpleNamespace(name=name, major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        with FakeTensorMode():
            x = torch.empty(3, 2, 2, device="cuda")
        return dataclasses.replace(make_call(SMALL, "lstm", ALL_SITES), x=x)

    monkeypatch.setattr(triton, "missing", lambda: None)
    return of


@pytest.mark.parametrize(("major", "minor"), [(8, 0), (8, 9), (9, 0), (10, 0), (12, 1)])
def test_a_card_that_triton_knows_is_no_objection(major, minor, card):
    assert triton.why_not(card("a card", major, minor)) is None


@pytest.mark.parametrize(("name", "major", "minor"), [("Tesla V100", 7, 0), ("Tesla T4", 7, 5)])
def test_an_older_card_is_told_what_is_needed(name, major, minor, card):
    call = card(name, major, minor)
    message = f"it needs compute capability 8.0, the {name} has {major}.{minor}"
    assert triton.why_not(call) == message
    with pytest.raises(recdrop.BackendUnsupported, match=re.escape(f"'triton': {message}")):
        backends.select(call, "triton")


def test_the_objection_of_an_older_card_is_compiled(card):
    """A layer with fullgraph=True asks for it while it is traced."""
    card("Tesla T4", 7, 5)
    compiled = torch.compile(
        lambda x: (x, triton._too_old(x.device)), fullgraph=True, backend="eager"
    )
    assert "the Tesla T4 has 7.5" in compiled(torch.ones(2))[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    layer = recdrop.LSTM(2, 5, recurrent_dropout=0.4, backend="triton")
    with pytest.raises(recdrop.BackendUnsupported, match="there is no CUDA device"):
        layer(torch.randn(3, 2, 2))


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    layer = recdrop.LSTM(2, 5, recurrent_dropout=0.4, backend="triton")
    with pytest.raises(recdrop.BackendUnsupported, match=r"not installed \(pip install triton\)"):
        layer(torch.randn(3, 2, 2))


def test_fakes_have_the_shapes_of_the_real_ones():
    for (cell, args), half in itertools.product([p.values for p in CELLS], (True, False)):
        packed = Case(2, 2, 3, 5, lengths=(2, 1))
        call = make_call(packed, cell, of_cell(cell, ALL_SITES), **args)
        dtype = torch.float16 if half else torch.float32
        parts = {n: tuple(t.to(dtype) for t in getattr(call, n)) for n in ("state", "weights")}
        call = dataclasses.replace(call, x=call.x.to(dtype), **parts)
        seen = {}

        def keep(name, *args, seen=seen):
            op = getattr(torch.ops.recdrop, name)
            real = op(*args)
            meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
            seen[name] = [(f, r) for f, r in zip(op(*meta), real, strict=True)]
            return real

        part = backends.call.Scan(
            call, call.x, tuple(s[0] for s in call.state), next(call.layer_weights()), 0, 0
        )
        how = backends.ops.config(part)
        c0 = part.state[1] if cell == "lstm" else None
        at = (part.x, part.state[0], c0, *part.weights, call.batch_sizes, call.rows, call.key)
        h, h_n, c_n, gates, inner = keep("triton_scan", *at, *how)
        grads = (h, h_n, c_n if cell == "lstm" else None)
        keep("triton_scan_backward", *grads, *at, h, gates, inner, *how, True)
        for name, pairs in seen.items():
            for fake, real in pairs:
                assert (fake.shape, fake.dtype) == (real.shape, real.dtype), (cell, name)


# -------------------------------------------------------------------------------- compiled for GPUs

# Bytes of shared memory that a program may have: CUDA C++ Programming Guide.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
PROCESSORS = {80: 108, 90: 132, 100: 148}  # of an A100, an H100 and a B200
SIZES = {  # B, H
    "one": (1, 1),
    "small": (32, 64),
    "word": (32, 256),
    "odd": (20, 301),
    "large": (16, 768),
    "wide": (64, 1024),
    "many": (256, 1024),  # several tiles for a program
}
DTYPES = ("float32", "bfloat16", "float16", "ieee")  # the last: float32 without TF32 products
EVERYDAY_SIZES = {80: ("word",), 90: ("one", "word", "odd", "many"), 100: ("word",)}
EVERYDAY = ("packed", "lstm", "float32", 90)  # of the variants; an LSTM takes the most registers


def compiled(asked):
    """What the compiler says of each launch, for each asked for."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_triton.py")
    said = subprocess.run(
        [sys.executable, "-W", "ignore", script, json.dumps(asked)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [json.loads(line) for line in said.splitlines()]


def assert_it_fits(asked):
    """Each asked for is compiled and fits; as large loads as its rows allow."""
    asked = list(asked)
    for ask, kernels in zip(asked, compiled(asked), strict=True):
        assert {k["kernel"] for k in kernels} == {"forward", "backward", "see"}
        for kernel in kernels:
            assert kernel["shared"] <= ask["shared"], (ask, kernel)
            # Bytes of a thread outside its registers: the assembler gives up a few of its own
            # accord, at 128 registers of 255, for a second program on the processor.
            assert kernel["stack"] <= 32, (ask, kernel)
            # Without them each value is loaded by an instruction of its own. Of 16 units a thread
            # has one.
            narrow = ask["hidden"] <= 16 or kernel["kernel"] == "see"
            assert narrow or kernel["wide_loads"], (ask, kernel)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        pytest.param(
            architecture,
            size,
            marks=() if size in EVERYDAY_SIZES[architecture] else pytest.mark.slow,
        )
        for architecture in SHARED
        for size in SIZES
    ],
)
@pytest.mark.parametrize(
    ("cell", "dtypes", "tied"),
    [
        ("lstm", ("float32",), True),  # which takes the most registers
        pytest.param("lstm", ("bfloat16", "float16", "ieee"), True, marks=pytest.mark.slow),
        pytest.param("lstm", DTYPES, False, marks=pytest.mark.slow),
        pytest.param("gru", DTYPES, True, marks=pytest.mark.slow),
        pytest.param("gru", DTYPES, False, marks=pytest.mark.slow),
        pytest.param("gru_paper", DTYPES, True, marks=pytest.mark.slow),
        pytest.param("gru_paper", DTYPES, False, marks=pytest.mark.slow),
        pytest.param("rnn", DTYPES, True, marks=pytest.mark.slow),
    ],
)
def test_it_compiles_within_what_a_gpu_has(cell, dtypes, tied, architecture, size):
    batch, hidden = SIZES[size]
    card = {"architecture": architecture, "shared": SHARED[architecture]}
    shape = card | {"cell": cell, "tied": tied, "batch": batch, "hidden": hidden}
    assert_it_fits(
        shape | {"processors": processors, "dtype": dtype}
        for dtype in dtypes
        for processors in (0, PROCESSORS[architecture])
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.parametrize(
    ("variant", "cell", "dtype", "architecture"),
    [
        pytest.param(*each, marks=() if each == EVERYDAY else pytest.mark.slow)
        for each in itertools.product(
            ("packed", "evaluation"), ("lstm", "gru", "gru_paper", "rnn"), DTYPES, SHARED
        )
    ],
)
def test_other_variants_compile_as_well(variant, cell, dtype, architecture):
    """Packed, reverse, relu, masks of a sequence, no biases; evaluation: see compile_triton.py."""
    batch, hidden = SIZES["small"]
    shape = {"cell": cell, "tied": True, "batch": batch, "hidden": hidden, "variant": variant}
    card = {"architecture": architecture, "shared": SHARED[architecture]}
    asked = [card | shape | {"dtype": dtype, "processors": PROCESSORS[architecture]}]
    if (variant, cell, dtype, architecture) != EVERYDAY:  # a launch for each step as well
        asked.append(asked[0] | {"processors": 0})
    assert_it_fits(asked)


def test_which_shapes_run_persistently():
    from recdrop.backends.triton.plan import Plan

    bytes_of = {132: SHARED[90], 108: SHARED[80]}

    def plan(batch, hidden, item, processors=132, cell="lstm", **how):
        return Plan.of(batch, hidden, cell, item, processors, bytes_of[processors], **how)

    word = plan(32, 256, 4)  # the sizes of benchmarks/gpu.py on an H100
    assert (word.persistent, word.rows, word.units, word.programs) == (True, 16, 16, 32)
    assert word.keeps == plan(32, 256, 2).keeps == plan(64, 128, 4).keeps == (True, True)
    medium = plan(20, 656, 2)
    assert (medium.persistent, medium.programs, medium.keeps) == (True, 82, (True, False))
    assert plan(16, 768, 2).keeps == (True, False)
    assert plan(16, 768, 4).keeps == plan(20, 656, 4).keeps == (False, False)
    character = plan(100, 1024, 2)
    assert (character.persistent, character.rows, character.units) == (True, 32, 32)
    assert (character.programs, character.turns, character.keeps) == (128, 1, (False, False))
    assert plan(32, 256, 4, 108).keeps == (True, True)  # an A100 has less
    assert plan(32, 512, 4, 108).keeps == plan(32, 512, 4).keeps == (True, False)
    assert plan(32, 1024, 2, 108).keeps == (False, False)
    assert plan(32, 256, 4, untied=True).keeps == (True, True)
    assert plan(16, 1024, 2, cell="gru_paper").keeps == (True, True)
    assert plan(16, 1024, 2, cell="gru").keeps == (True, False)
    assert plan(32, 256, 4, ieee=True).keeps == (False, False)
    # What test_gpu.py takes for kept weights, of every cell.
    for cell, (batch, hidden, item) in itertools.product(
        ("rnn", "lstm", "gru", "gru_paper"),
        ((40, 96, 2), (40, 96, 4), (36, 112, 4), (48, 128, 4), (48, 256, 2)),
    ):
        assert all(plan(batch, hidden, item, 108, cell).keeps)
    many = plan(256, 1024, 2)  # 8 * 32 of the largest tiles
    assert (many.persistent, many.programs, many.turns) == (True, 132, 2)
    assert not plan(2048, 1024, 2).persistent
    for batch, hidden, processors in itertools.product((1, 20, 300), (16, 80, 1504), (0, 1, 108)):
        each = Plan.of(batch, hidden, "lstm", 4, processors, SHARED[80])
        tiles = -(-batch // each.rows) * -(-hidden // each.units)
        assert each.persistent == (tiles <= 8 * processors)
        assert each.programs * each.turns >= tiles > each.programs * (each.turns - 1)
        assert each.programs <= (processors if each.persistent else tiles)
        assert each.turns == 1 or each.keeps == (False, False)
        for backward in (False, True):  # a value for each thread at least
            assert each.rows * each.units >= 32 * each.launch(backward=backward)["num_warps"]


@pytest.mark.parametrize("sizes", [[3, 3, 2, 2, 2, 1], [5], [4, 3, 2, 1], [2, 2, 2]])
def test_places_of_steps_are_the_same_without_the_host(sizes):
    from recdrop.backends.triton.steps import _counted, _offsets

    host = _offsets(sizes, torch.device("cpu"))
    device = _counted(sizes, torch.device("cpu"))
    assert device.dtype == host.dtype == torch.int32
    assert device.tolist() == host.tolist() == [0, *itertools.accumulate(sizes)]
