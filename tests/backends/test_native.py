"""The native backend: masks bit for bit, kernels, threads, operators, graphs, memory, errors.

`test_battery` holds it to the reference in the fastest instruction set; here are all of them, at
one thread and at two, and what only this backend has. Variants marked `slow` run everything.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import AotEagerAndRecordGraphs
from torch.autograd import forward_ad, gradcheck
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recdrop
from recdrop import RecurrentDropout, rng
from recdrop.backends import native, reference
from recdrop.backends.call import GATES as GATES_OF
from recdrop.backends.ops import Config, Gradients, Inputs, Outputs
from recdrop.testing import (
    CASES,
    Case,
    Reference,
    assert_matches_reference,
    evaluate,
    make_call,
)
from tests.backends.test_battery import CELLS, SCHEMES
from tests.helpers import OURS, TORCHS, random_key, specs, tensors, with_key
from tests.test_gradients import as_function

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
OTHER_DTYPE = "{} must have the dtype of the other tensors"
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "c++"))
INSTRUCTION_SETS = native.instruction_sets() if native.missing() is None else ["none"]
MACHINES = list(itertools.product(INSTRUCTION_SETS, (1, 2)))
# For what is too small to be split: two threads once, as they cost much where cores are busy.
FEW_MACHINES = [MACHINES[1], *((name, 1) for name in INSTRUCTION_SETS)]
ALL_SITES = tuple(RecurrentDropout(0.4, site) for site in ("update", "hidden", "state"))

# Every cell as the operators name it, W of a projected LSTM apart from H.
SCANS = {"rnn": 1, "lstm": 4, "lstm projected": 4, "gru": 3, "gru_paper": 3}


@contextlib.contextmanager
def using(instruction_set=None, threads=1):
    before = native.instruction_set(), torch.get_num_threads()
    native.instruction_set(instruction_set)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        native.instruction_set(before[0])
        torch.set_num_threads(before[1])


@pytest.fixture(params=MACHINES, ids=lambda p: f"{p[0]}-{p[1]}")
def machine(request):
    """One instruction set, and a number of threads."""
    with using(*request.param):
        yield request.param


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request):
    with using(request.param):
        yield request.param


@pytest.fixture
def two_threads():
    with using(threads=2):
        yield


def run_python(code, *, timeout=120, **environment):
    """A script's output, in a process of its own, which a timeout ends."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=timeout, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _skipped_only_without_a_compiler(request):
    if native.missing() is not None and request.cls is not TestInstalled:
        pytest.skip(native.missing())


class TestInstalled:
    """Runs with or without the extension."""

    def test_it_is_here_where_there_is_a_compiler(self):
        assert native.missing() is None or not HAS_COMPILER, native.missing()

    @pytest.mark.parametrize(
        ("library", "sentence"),
        [
            (None, "the C++ extension was not built (no compiler when recdrop was installed?)"),
            (b"not a library", "the C++ extension does not load: "),
        ],
        ids=["none", "broken"],
    )
    def test_without_it_the_rest_works_and_one_sentence_says_why(self, tmp_path, library, sentence):
        package = tmp_path / "recdrop"
        ignored = shutil.ignore_patterns("*.so", "csrc", "lab", "__pycache__")
        shutil.copytree(Path(recdrop.__file__).parent, package, ignore=ignored)
        if library is not None:
            (package / "_native.so").write_bytes(library)
        code = """
            import runpy, torch, recdrop
            runpy.run_module("recdrop", run_name="__main__")
            lstm, x = recdrop.LSTM(2, 3, recurrent_dropout=0.5), torch.randn(4, 1, 2)
            lstm(x)[0].sum().backward()
            print(recdrop.explain_backend(lstm, x))
            lstm.backend = "native"
            try:
                lstm(x)
            except recdrop.BackendUnsupported as error:
                print(error)
            print(recdrop.__file__)
        """
        out = run_python(code, PYTHONPATH=str(tmp_path))
        assert str(package) in out
        (line,) = (line for line in out.splitlines() if line.startswith("  native "))
        assert line.startswith(f"  native    not here: {sentence}")
        assert f"native: no: {sentence}" in out
        assert "reference: runs this call" in out
        assert f"backend='native': {sentence}" in out

    def test_the_doctor_repeats_the_reason(self, monkeypatch):
        from recdrop.__main__ import report

        monkeypatch.setattr(native, "_MISSING", "the reason")
        missing = dataclasses.replace(recdrop.backends.BACKENDS["native"], missing=native.missing)
        monkeypatch.setitem(recdrop.backends.BACKENDS, "native", missing)
        assert "  native    not here: the reason\n" in report()


def test_the_doctor_names_the_instruction_set(instruction_set):
    from recdrop.__main__ import report

    assert f", by {instruction_set}\n" in report()


def test_the_portable_kernels_are_always_there_and_last():
    assert INSTRUCTION_SETS[-1] == "portable"
    assert native.instruction_set() == INSTRUCTION_SETS[0]


def test_an_instruction_set_that_is_not_there():
    with pytest.raises(RuntimeError, match="no instruction set mmx here, only .*portable"):
        native.instruction_set("mmx")
    assert native.instruction_set() == INSTRUCTION_SETS[0]


# --------------------------------------------------------------------------- against the reference


def few_schemes(cell, training):
    if not training:
        return [(RecurrentDropout(0.4, "hidden", rescale="test"),)]
    if cell == "rnn":
        return [(), (RecurrentDropout(0.4, "hidden", "step", tied=False),)]
    untied = RecurrentDropout(0.4, "hidden", "sequence", "test", tied=False)
    return [ALL_SITES, (untied, RecurrentDropout(0.4, "update", "sequence"))]


def check_on(machines, calls):
    """The battery's comparison on machines, in both dtypes."""
    expected = [Reference.of(call) for call in calls]
    for machine in machines:
        with using(*machine):
            for call, dtype in itertools.product(range(len(calls)), (torch.float32, torch.float64)):
                try:
                    assert_matches_reference(
                        "native", calls[call], dtype=dtype, expected=expected[call]
                    )
                except AssertionError as error:
                    error.add_note(f"on {machine} in {dtype}")
                    raise


TRAINING = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@TRAINING
@pytest.mark.parametrize("case", ["packed", "wide"])
@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_battery(cell, args, case, training):
    name = {"packed": "projected packed" if cell == "lstm" else "packed both directions"}
    shape, schemes = CASES[name.get(case, case)], few_schemes(cell, training)
    calls = [make_call(shape, cell, drops, training=training, **args) for drops in schemes]
    check_on(MACHINES if case == "wide" else FEW_MACHINES, calls)


@pytest.mark.slow
@TRAINING
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("cell", "args"), CELLS)
def test_whole_battery(cell, args, case, training):
    schemes = SCHEMES[cell]
    calls = [make_call(CASES[case], cell, drops, training=training, **args) for drops in schemes]
    check_on(MACHINES, calls)


# Work is split only above a size: rows among workers, or one row group's blocks of units.
SPLIT = {
    "groups of rows": Case(12, 32, 5, 64),
    "groups of rows, packed": Case(
        12, 32, 5, 64, bidirectional=True, lengths=(12,) * 9 + (8,) * 9 + (7, 5, 4, 2) + (1,) * 10
    ),
    "shared blocks": Case(12, 2, 5, 200),
    "shared blocks, packed": Case(12, 2, 5, 200, bidirectional=True, lengths=(12, 7)),
    "shared blocks, projected": Case(12, 2, 5, 200, projected=67),
}
SPLIT_CELLS = [
    (case, cell, args)
    for case in SPLIT
    for cell, args in CELLS
    if "activation" not in args and ("projected" not in case or cell == "lstm")
]


def split_call(case, cell, args):
    shape = SPLIT[case]
    rows = sum(shape.lengths) if shape.lengths else shape.steps * shape.batch
    width = shape.projected or shape.hidden
    assert rows * shape.hidden * width * GATES_OF[cell] >= 1 << 16  # else one worker does all
    drops = (RecurrentDropout(0.4, "hidden"),) if cell == "rnn" else ALL_SITES
    return make_call(shape, cell, drops, **args)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("case", "cell", "args"), SPLIT_CELLS)
@pytest.mark.usefixtures("instruction_set")
def test_one_and_two_threads_agree(case, cell, args, dtype):
    call = split_call(case, cell, args)
    one = evaluate(native.run, call, dtype)
    torch.set_num_threads(2)
    two = evaluate(native.run, call, dtype)
    for name, value in one.items():
        allowed = 32 * torch.finfo(dtype).eps * float(value.abs().max())
        assert float((value - two[name]).abs().max()) <= allowed, name


@pytest.mark.parametrize(("case", "cell", "args"), SPLIT_CELLS)
@pytest.mark.usefixtures("two_threads")
def test_work_that_is_split_matches_the_reference(case, cell, args):
    assert_matches_reference("native", split_call(case, cell, args))


@pytest.mark.parametrize(("case", "cell", "args"), SPLIT_CELLS)
@pytest.mark.usefixtures("two_threads")
def test_same_seed_twice_is_bitwise_equal(case, cell, args):
    call = split_call(case, cell, args)
    first = evaluate(native.run, call, torch.float32)
    for _ in range(3):
        again = evaluate(native.run, call, torch.float32)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("cell", OURS)
@pytest.mark.usefixtures("two_threads")
def test_same_seed_gives_the_same_layer(cell):
    layer, x = OURS[cell](5, 64, 2, recurrent_dropout=0.4, backend="native"), torch.randn(12, 32, 5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        layer.zero_grad()
        out = tensors(layer(x))
        sum(o.square().sum() for o in out).backward()
        results.append([*out, *(p.grad for p in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


ODD = [
    Case(1, 1, 1, 1),
    Case(1, 1, 1, 650),
    Case(2, 3, 1, 650),
    Case(4, 1, 3, 65, bidirectional=True),
    Case(5, 17, 1, 3),
    Case(3, 4, 2, 65, projected=1),
    Case(3, 1, 1, 3, projected=2),
]
ODD_CELLS = [(cell, args) for cell, args in CELLS if "activation" not in args]


@pytest.mark.parametrize(
    "case", ODD, ids=lambda c: f"T{c.steps}-B{c.batch}-I{c.inputs}-H{c.hidden}"
)
@pytest.mark.parametrize(("cell", "args"), ODD_CELLS)
def test_odd_sizes(cell, args, case):
    if case.projected and cell != "lstm":
        return
    call = make_call(case, cell, few_schemes(cell, training=True)[0], **args)
    check_on([(None, 2)], [call])


# Rows enough for the input's product inside the loop; W_ih too large for it; sums of many terms.
WIDE = [Case(3, 17, 70, 65), Case(2, 17, 300, 650), Case(2, 17, 700, 65), Case(2, 17, 4100, 65)]


@pytest.mark.parametrize("case", WIDE, ids=lambda c: f"I{c.inputs}-H{c.hidden}")
@pytest.mark.parametrize(("cell", "args"), ODD_CELLS)
@pytest.mark.usefixtures("two_threads")
def test_long_sums_round_no_worse_than_twice_the_references(cell, args, case):
    call = make_call(case, cell, few_schemes(cell, training=True)[0], **args)
    truth = evaluate(reference.run, call, torch.float64)
    theirs = evaluate(reference.run, call, torch.float32)
    for name, ours in evaluate(native.run, call, torch.float32).items():
        error, own = (rms(t.double() - truth[name]) for t in (ours, theirs[name]))
        assert error <= 2 * own, (name, error / own)


def rms(t):
    return float(t.square().mean().sqrt())


# ------------------------------------------------------------------------------ the scan operators


def config(cell, *, thresholds=(0, 0, 0), **changes):
    plain = Config(cell.split()[0], "tanh", False, 0, list(thresholds), [1.0] * 3, [1] * 3, True)
    return plain._replace(**changes)


def random_scan(cell, *, batch=3, steps=4, inputs=2, hidden=5, packed=False, dtype=torch.float32):
    """Inputs of one scan, without a key."""
    gates, is_lstm = SCANS[cell], cell.startswith("lstm")
    width = hidden - 2 if cell == "lstm projected" else hidden
    sizes = [batch - (t * batch) // steps for t in range(steps)] if packed else [batch] * steps

    def normal(*shape):
        return torch.randn(*shape, dtype=dtype)

    return Inputs(
        x=normal(sum(sizes), inputs),
        h0=normal(batch, width),
        c0=normal(batch, hidden) if is_lstm else None,
        w_ih=normal(gates * hidden, inputs),
        w_hh=normal(gates * hidden, width) / hidden**0.5,
        b_ih=normal(gates * hidden),
        b_hh=normal(gates * hidden),
        w_hr=normal(width, hidden) if cell == "lstm projected" else None,
        batch_sizes=torch.tensor(sizes) if packed else None,
        rows=torch.randperm(batch) if packed else None,
        key=None,
    )


def scan(at, how):
    return Outputs(*torch.ops.recdrop.scan(*at, *how))


def scan_backward(at, out, how, grads):
    saved = out.h, out.gates, out.inner
    return Gradients(*torch.ops.recdrop.scan_backward(*grads, *at, *saved, *how, True))


def with_masks(cell, at, how):
    bound = rng.threshold(0.4)
    masked = [0, bound, 0] if cell == "rnn" else [bound] * 3
    return at._replace(key=random_key(1)), how._replace(thresholds=masked, scales=[1.5] * 3)


def upstream(out, cell):
    """Gradients of h, h_n and c_n, if there is one."""
    like = out.h, out.h_n, out.c_n if cell.startswith("lstm") else None
    return [None if t is None else torch.randn_like(t) for t in like]


def strided(t):
    """The same values, no two of them side by side and the dimensions in the other order."""
    if t is None or t.ndim == 0:
        return t
    bad = -7 if t.dtype == torch.int64 else torch.nan
    wide = torch.full([2 * n for n in reversed(t.shape)], bad, dtype=t.dtype)
    view = wide.permute(*reversed(range(t.ndim)))[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("cell", SCANS)
@pytest.mark.usefixtures("instruction_set")
def test_strides_do_not_matter(cell, packed):
    at, how = with_masks(cell, random_scan(cell, packed=packed), config(cell))
    loose = Inputs(*(strided(t) for t in at))._replace(batch_sizes=at.batch_sizes)
    assert not loose.x.is_contiguous()
    out, other = scan(at, how), scan(loose, how)
    grads = upstream(out, cell)
    loose_grads = [strided(g) for g in grads]
    pairs = zip(
        [*out, *scan_backward(at, out, how, grads)],
        [*other, *scan_backward(loose, other, how, loose_grads)],
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("cell", SCANS)
def test_expanded_tensors(cell):
    at, how = with_masks(cell, random_scan(cell), config(cell))
    wide = at._replace(x=at.x[:1].expand_as(at.x), h0=at.h0[:, :1].expand_as(at.h0))
    if at.c0 is not None:
        wide = wide._replace(c0=at.c0[:1].expand_as(at.c0))
    dense = Inputs(*(None if t is None else t.contiguous() for t in wide))
    out = scan(wide, how)
    grads = [None if g is None else g[:1].expand_as(g) for g in upstream(out, cell)]
    dense_grads = [None if g is None else g.contiguous() for g in grads]
    again = scan(dense, how)
    pairs = zip(
        [*out, *scan_backward(wide, out, how, grads)],
        [*again, *scan_backward(dense, again, how, dense_grads)],
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("cell", OURS)
def test_views_given_to_a_layer(cell):
    layer = OURS[cell](3, 5, batch_first=True, recurrent_dropout=0.4, backend="native")
    base = torch.randn(12, 4, 6)
    hx = torch.randn(1, 1, 5).expand(1, 4, 5)
    results = []
    for copy in (False, True):
        leaf = base.clone().requires_grad_()
        x = leaf.transpose(0, 1)[:, ::2, ::2]
        x, h = (x.contiguous(), hx.contiguous()) if copy else (x, hx)
        with recdrop.hold_masks(1):
            out = tensors(layer(x, (h, h) if cell == "lstm" else h))
        (grad,) = torch.autograd.grad(sum(o.sum() for o in out), leaf)
        results.append([*out, grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("cell", SCANS)
def test_an_empty_batch_has_zero_gradients(cell):
    at, how = with_masks(cell, random_scan(cell, batch=0), config(cell))
    out = scan(at, how)
    d = scan_backward(at, out, how, upstream(out, cell))
    for given, grad in zip(at[:8], d, strict=True):
        assert list(grad.shape) == ([0] if given is None else list(given.shape))
        assert not grad.any()


@pytest.mark.parametrize("cell", OURS)
def test_no_steps_are_torchs_own_error(cell):
    x = torch.randn(0, 2, 3)
    with pytest.raises(RuntimeError) as theirs:
        TORCHS[cell](3, 4)(x)
    with pytest.raises(RuntimeError) as ours:
        OURS[cell](3, 4, recurrent_dropout=0.4, backend="native")(x)
    assert ours.type is theirs.type


@pytest.mark.parametrize(
    ("masked", "packed"), [(False, False), (True, True)], ids=["plain", "masked and packed"]
)
@pytest.mark.parametrize("cell", SCANS)
def test_opcheck(cell, masked, packed):
    at, how = random_scan(cell, packed=packed, dtype=torch.float64), config(cell)
    if masked:
        at, how = with_masks(cell, at, how)
    out = scan(at, how)
    differentiable = [t.clone().requires_grad_() if t is not None else None for t in at[:8]]
    torch.library.opcheck(torch.ops.recdrop.scan.default, (*differentiable, *at[8:], *how))
    given = (*upstream(out, cell), *at, out.h, out.gates, out.inner, *how)
    torch.library.opcheck(torch.ops.recdrop.scan_backward.default, (*given, not masked))


def test_opcheck_of_an_empty_batch():
    at, how = with_masks("lstm", random_scan("lstm", batch=0), config("lstm"))
    torch.library.opcheck(torch.ops.recdrop.scan.default, (*at, *how))


# ------------------------------------------------------------------------------------------- masks

# Sizes (H, W, B): odd ones, and rows enough for groups, blocks enough to be shared.
MASK_SIZES = [(1, 1, 3), (3, 3, 2), (5, 5, 2), (65, 65, 2), (65, 65, 17)]
MASK_SIZES_PROJECTED = [(5, 3, 2), (65, 33, 17)]
MASK_SITES = [
    (cell, site, tied)
    for cell in SCANS
    for site, tied in (("update", True), ("hidden", True), ("hidden", False), ("state", True))
    if cell != "rnn" or site == "hidden"
]
MASK_STEPS = 5


def mask_scan(cell, site, hidden, width, dtype, lengths):
    """Weights that let a site's mask be seen in the outputs, without masks.

    Hidden: each gate sees exactly d(h_prev), which is positive throughout. Else: h is far from 0
    where the unit is kept and 0, or next to it, where it is dropped: the old value never counts.
    """
    gates, is_lstm = SCANS[cell], cell.startswith("lstm")
    bias = torch.zeros(gates, hidden, dtype=dtype)
    w_hh = torch.zeros(gates, hidden, width, dtype=dtype)
    if site == "hidden":
        w_hh[:] = torch.eye(hidden, width, dtype=dtype)
        bias[:] = cell == "rnn"  # a dropped unit of an RNN begins again at 1
    else:
        bias[1] = 200 if cell == "gru_paper" else -200  # forgets
        bias[2] = 1  # the candidate
    batch_sizes = [sum(n > t for n in lengths) for t in range(MASK_STEPS)]
    batch = len(lengths)
    return Inputs(
        x=torch.zeros(sum(batch_sizes), 1, dtype=dtype),
        h0=torch.ones(batch, width, dtype=dtype),
        c0=torch.ones(batch, hidden, dtype=dtype) if is_lstm else None,
        w_ih=torch.zeros(gates * hidden, 1, dtype=dtype),
        w_hh=w_hh.flatten(0, 1),
        b_ih=bias.flatten(),
        b_hh=torch.zeros_like(bias).flatten(),
        w_hr=torch.eye(width, hidden, dtype=dtype) if cell == "lstm projected" else None,
        batch_sizes=None if batch_sizes[-1] == batch else torch.tensor(batch_sizes),
        rows=None,
        key=None,
    )


BYTES_OF_A_PANEL = {"portable": 32, "avx2": 64, "avx512": 128}  # two registers


def by_rows(saved, parts=1):
    """[N, parts, H] of an array that the kernels keep in panels, each [N, w], part by part."""
    n, hidden = len(saved), saved.shape[1] // parts
    panel = BYTES_OF_A_PANEL[native.instruction_set()] // saved.itemsize
    widths = [min(panel, hidden - unit) for unit in range(0, hidden, panel)]
    panels = saved.flatten().split([n * w for w in widths] * parts)
    return torch.cat([p.view(n, -1) for p in panels], dim=1).unflatten(1, (parts, hidden))


def observed_mask(cell, site, tied, at, how):
    """Which units a scan kept, as its outputs show: [N, units]."""
    out = scan(at, how)
    if site != "hidden":
        if cell != "lstm projected":
            assert not (out.h.abs() > 1e-20).logical_xor(out.h.abs() > 1e-3).any()
            return out.h.abs() > 1e-3
        return by_rows(out.inner)[:, 0].abs() > 1e-3
    blind = scan(at._replace(w_hh=torch.zeros_like(at.w_hh)), how)
    width = at.h0.shape[1]
    if cell == "rnn":
        by_gate = (out.h != blind.h)[:, None]
    else:
        saw = by_rows(out.gates, SCANS[cell]), by_rows(blind.gates, SCANS[cell])
        by_gate = (saw[0] != saw[1])[..., :width]
    if tied:
        assert (by_gate == by_gate[:, :1]).all()
        return by_gate[:, 0]
    return by_gate.flatten(1)


MASK_PLACES = [  # layer, direction, rate, per step, packed
    (0, 0, 0.4, True, False),
    (1, 1, 0.4, True, False),
    (1, 1, 0.1, False, False),
    (2, 0, 0.9, True, True),
    (1, 1, 0.4, True, True),
    (0, 0, 0.4, False, True),
]


@pytest.mark.parametrize("place", MASK_PLACES)
@pytest.mark.parametrize(("cell", "site", "tied"), MASK_SITES)
def test_masks_are_pythons(cell, site, tied, place):
    layer, direction, rate, per_step, packed = place
    how = config(
        cell,
        activation="relu" if cell == "rnn" else "tanh",
        reverse=direction == 1,
        layer=layer,
        per_step=[int(per_step)] * 3,
        tied=tied,
    )
    how.thresholds[("update", "hidden", "state").index(site)] = rng.threshold(rate)
    scans = []
    for hidden, width, batch in MASK_SIZES_PROJECTED if "projected" in cell else MASK_SIZES:
        rows = torch.randperm(batch) if packed else None
        lengths = [MASK_STEPS - 4 * b // batch if packed else MASK_STEPS for b in range(batch)]
        expected = rng.keep_mask(
            random_key(7),
            rate,
            site,
            layer=layer,
            direction=direction,
            steps=torch.arange(MASK_STEPS if per_step else 1),
            rows=torch.arange(batch) if rows is None else rows,
            units=hidden if site != "hidden" else width if tied else width * SCANS[cell],
        ).expand(MASK_STEPS, -1, -1)
        running = [sum(n > t for n in lengths) for t in range(MASK_STEPS)]
        expected = torch.cat([expected[t, :n] for t, n in enumerate(running)])
        for dtype in (torch.float32, torch.float64):
            at = mask_scan(cell, site, hidden, width, dtype, lengths)
            scans.append((at._replace(rows=rows, key=random_key(7)), expected))
    for machine in MACHINES:
        # At two threads what is wide enough to be shared, dense and packed.
        two = scans[-4:] if place in (MASK_PLACES[0], MASK_PLACES[3]) else []
        with using(*machine):
            for at, expected in scans if machine[1] == 1 else two:
                seen = observed_mask(cell, site, tied, at, how)
                assert torch.equal(seen, expected), (machine, at.h0.shape, at.h0.dtype)


@pytest.mark.parametrize("sampling", ["step", "sequence"])
@pytest.mark.usefixtures("machine")
def test_masks_of_a_layer_are_pythons(sampling):
    """Two layers, both directions, packed rows in another order than the caller's."""
    spec = RecurrentDropout(0.4, "state", sampling)
    lstm = recdrop.LSTM(3, 65, 2, bidirectional=True, recurrent_dropout=spec, backend="native")
    lengths, key = [2, 6, 1, 4], random_key(9)
    packed = pack_padded_sequence(torch.randn(6, 4, 3), torch.tensor(lengths), enforce_sorted=False)
    output, _ = with_key(lstm, key)(packed)
    output, _ = pad_packed_sequence(packed._replace(data=output))
    for direction in (0, 1):
        kept = rng.keep_mask(
            key,
            0.4,
            "state",
            layer=1,
            direction=direction,
            steps=torch.arange(6 if sampling == "step" else 1),
            rows=torch.arange(4),
            units=65,
        ).expand(6, 4, 65)
        for row, n in enumerate(lengths):
            got = output[:n, row, 65 * direction : 65 * (direction + 1)] != 0
            assert torch.equal(got, kept[:n, row])


def test_a_mask_is_drawn_again_in_backward():
    """Where c is dropped at the last step, nothing flows back through it."""
    spec = RecurrentDropout(0.4, "state")
    lstm = recdrop.LSTM(3, 65, recurrent_dropout=spec, backend="native")
    c_0 = torch.randn(1, 4, 65, requires_grad=True)
    _, (_, c_n) = lstm(torch.randn(1, 4, 3), (torch.zeros(1, 4, 65), c_0))
    c_n.sum().backward()
    assert torch.equal(c_n != 0, c_0.grad != 0)
    assert 0 < int((c_n == 0).sum()) < c_n.numel()


# --------------------------------------------------------------------------------------- gradients

GRADIENT_CELLS = [
    ("rnn", {}),
    ("rnn", {"nonlinearity": "relu"}),
    ("lstm", {}),
    ("lstm", {"activation": "relu"}),
    ("lstm", {"proj_size": 2}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
]


def double_layer(cell, args, drops, **options):
    return OURS[cell](
        2, 3, recurrent_dropout=drops, dtype=torch.float64, backend="native", **args, **options
    )


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize(("cell", "args"), GRADIENT_CELLS)
def test_gradcheck(cell, args, packed):
    for drops in few_schemes(cell, training=True):
        f, leaves = as_function(double_layer(cell, args, drops), packed=packed)
        assert gradcheck(f, leaves, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize(("cell", "args"), GRADIENT_CELLS)
def test_whole_gradcheck(cell, args, packed):
    for drops in [*few_schemes(cell, training=True), *specs(cell)]:
        f, leaves = as_function(double_layer(cell, args, drops), packed=packed)
        assert gradcheck(f, leaves)


@pytest.mark.parametrize(("cell", "args"), GRADIENT_CELLS)
def test_gradcheck_of_layers_and_directions(cell, args):
    drops = RecurrentDropout(0.3, "hidden")
    f, leaves = as_function(double_layer(cell, args, drops, num_layers=2, bidirectional=True))
    assert gradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("missing", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("cell", SCANS)
def test_absent_gradients_count_as_zero(cell, missing, masked):
    at, how = random_scan(cell, packed=True), config(cell)
    if masked:
        at, how = with_masks(cell, at, how)
    out = scan(at, how)
    zeros = upstream(out, cell)
    absent = list(zeros)
    for i in missing:
        absent[i] = None
        zeros[i] = None if zeros[i] is None else torch.zeros_like(zeros[i])
    pairs = zip(
        scan_backward(at, out, how, zeros), scan_backward(at, out, how, absent), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("cell", "args"), GRADIENT_CELLS)
def test_double_backward_names_the_reference(cell, args):
    layer = OURS[cell](2, 3, recurrent_dropout=0.4, backend="native", **args)
    x = torch.randn(4, 2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    assert grad.requires_grad
    with pytest.raises(RuntimeError, match="backend='reference'"):
        grad.square().sum().backward()


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(
        torch.stack([x, x.cos()])
    ),
    "hessian": lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x),
    "forward": lambda f, x: forward_derivative(f, x),
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x),
}


def forward_derivative(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap of grad"])
# Dynamo reads .grad of what crosses a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_auto_runs_where_torch_func_is_compiled(transform, training):
    torch.compiler.reset()
    layer, x = recdrop.LSTM(2, 3, recurrent_dropout=0.4), torch.randn(4, 1, 2)
    layer.train(training)

    def changed(x):
        return TRANSFORMS[transform](lambda x: layer(x)[0], x)

    with recdrop.hold_masks(1):
        expected = changed(x)
        got = torch.compile(changed, backend="aot_eager")(x)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("cell", OURS)
def test_auto_runs_under_torch_func(cell, transform, training):
    """Whatever the reference can do there, backend="auto" can do."""
    layer, x = OURS[cell](2, 3, recurrent_dropout=0.4, dtype=torch.float64), torch.randn(4, 1, 2)
    layer.train(training)

    def f(x):
        with recdrop.hold_masks(1):
            return layer(x)[0]

    results = []
    for backend in ("reference", "auto"):
        layer.backend = backend
        results.append(TRANSFORMS[transform](f, x.double()))
    torch.testing.assert_close(*results)


# ------------------------------------------------------------------------------------------ graphs

# AotEagerAndRecordGraphs returns graphs as they are.
RECORDED = pytest.mark.filterwarnings(
    "ignore:Your compiler for AOTAutograd is returning a function"
)

COMPILED = [
    ("rnn", {}, "training"),
    ("lstm", {}, "training"),
    ("gru", {"reset_after": False}, "training"),
    ("lstm", {"proj_size": 2}, "eval"),
    ("gru", {}, "rate 0"),
]


def stacked_layer(cell, args, mode, backend="native"):
    rate = 0.0 if mode == "rate 0" else 0.4
    layer = OURS[cell](3, 5, 2, bidirectional=True, recurrent_dropout=rate, backend=backend, **args)
    return layer.train(mode != "eval")


def count(graph, name):
    return sum(str(node.target).startswith(f"recdrop.{name}") for node in graph.graph.nodes)


def outputs_and_gradients(f, layer, x):
    torch.manual_seed(5)
    layer.zero_grad()
    out = tensors(f(x))
    sum(o.square().sum() for o in out).backward()
    return [*(o.detach() for o in out), *(p.grad for p in layer.parameters())]


@RECORDED
@pytest.mark.parametrize(("cell", "args", "mode"), COMPILED)
def test_a_compiled_layer_is_one_node_per_layer_and_direction(cell, args, mode):
    torch.compiler.reset()
    layer = stacked_layer(cell, args, mode)
    recorded = AotEagerAndRecordGraphs()
    compiled = torch.compile(layer, fullgraph=True, backend=recorded)
    for steps in (6, 7, 30):  # the second length makes T dynamic
        x = torch.randn(steps, 4, 3)
        expected = outputs_and_gradients(layer, layer, x)
        got = outputs_and_gradients(compiled, layer, x)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert len(recorded.graphs) == 2
    for graph in (*recorded.graphs, *recorded.fw_graphs):
        assert count(graph, "scan") == 4
        assert count(graph, "draw_key") == (mode == "training")
    for graph in recorded.bw_graphs:
        assert count(graph, "scan_backward") == 4
    x = torch.randn(8, 4, 3)
    assert torch.equal(compiled(x)[0], compiled(x)[0]) == (mode != "training")
    assert len(recorded.graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["training", "rate 0"])
def test_the_default_compiler(mode):
    torch.compiler.reset()
    lstm = stacked_layer("lstm", {}, mode)
    compiled = torch.compile(lstm, fullgraph=True, dynamic=True)
    for steps in (6, 11):
        x = torch.randn(steps, 4, 3)
        expected = outputs_and_gradients(lstm, lstm, x)
        got = outputs_and_gradients(compiled, lstm, x)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


@RECORDED
def test_auto_compiles_to_native_and_runs_stock_in_eager():
    torch.compiler.reset()
    lstm = stacked_layer("lstm", {}, "rate 0", backend="auto")
    recorded = AotEagerAndRecordGraphs()
    compiled = torch.compile(lstm, fullgraph=True, backend=recorded)
    x = torch.randn(6, 4, 3)
    for a, b in zip(tensors(compiled(x)), tensors(lstm(x)), strict=True):
        torch.testing.assert_close(a, b)
    assert count(recorded.graphs[0], "scan") == 4


@pytest.mark.parametrize(
    ("cell", "mode", "strict"),
    [
        ("rnn", "training", False),
        ("lstm", "training", False),
        ("lstm", "eval", False),
        ("lstm", "training", True),
        ("gru", "rate 0", False),
    ],
)
def test_export_with_any_number_of_steps(cell, strict, mode):
    layer = stacked_layer(cell, {}, mode)
    steps = torch.export.Dim("steps", min=2, max=1000)
    exported = torch.export.export(
        layer, (torch.randn(6, 4, 3),), dynamic_shapes=({0: steps},), strict=strict
    )
    assert count(exported, "scan") == 4
    run = exported.module()
    for steps in (6, 13):
        x = torch.randn(steps, 4, 3)
        torch.manual_seed(1)
        expected = tensors(layer(x))
        torch.manual_seed(1)
        got = tensors(run(x))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(run(x)[0], run(x)[0]) == (mode != "training")


# --------------------------------------------------------------------------------- which is chosen


@pytest.mark.parametrize("mode", ["training", "eval", "rate 0"])
@pytest.mark.parametrize(("cell", "args"), GRADIENT_CELLS)
def test_it_runs_itself_whenever_it_is_named(cell, args, mode, monkeypatch):
    for name in ("stock", "reference"):
        broken = dataclasses.replace(recdrop.backends.BACKENDS[name], run=None)
        monkeypatch.setitem(recdrop.backends.BACKENDS, name, broken)
    layer, x = double_layer(cell, args, 0.0 if mode == "rate 0" else 0.4), torch.randn(4, 2, 2)
    layer.train(mode != "eval")
    assert "native: runs this call" in recdrop.explain_backend(layer, x.double())
    with torch.profiler.profile() as profile:
        layer(x.double())
    assert any(event.key == "recdrop::scan" for event in profile.key_averages())


@pytest.mark.parametrize("cell", OURS)
def test_auto_takes_it_where_something_is_dropped_and_only_there(cell):
    layer, x = OURS[cell](2, 3, recurrent_dropout=0.4), torch.randn(4, 2, 2)
    assert "native: runs this call" in recdrop.explain_backend(layer, x)
    layer.eval()
    assert "stock: runs this call" in recdrop.explain_backend(layer, x)
    layer.train().recurrent_dropout = 0.0
    assert "stock: runs this call" in recdrop.explain_backend(layer, x)
    assert "native: could run it" in recdrop.explain_backend(layer, x)


@pytest.mark.parametrize(
    "layer",
    [
        recdrop.GRU(2, 3, reset_after=False),
        recdrop.LSTM(2, 3, activation="relu"),
        recdrop.LSTM(2, 3, recurrent_dropout=RecurrentDropout(0.4, "state")).eval(),
    ],
    ids=["paper's GRU", "relu LSTM", "test-time scale"],
)
def test_auto_takes_it_for_what_torch_lacks(layer):
    assert "native: runs this call" in recdrop.explain_backend(layer, torch.randn(4, 2, 2))


# ------------------------------------------------------------------------------------------ memory


def saved_by(f):
    """What autograd keeps of a call: its tensors, and the bytes of each of their storages."""
    kept = []

    def pack(t):
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = f()  # alive until the storages are counted
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    del result
    return kept, storages


def bytes_without(storages, tensors):
    own = {t.untyped_storage().data_ptr() for t in tensors}
    return sum(n for at, n in storages.items() if at not in own)


MEMORY_SHAPES = [(35, 32, 256, 256), (15, 32, 2, 256), (50, 64, 32, 64), (200, 1, 64, 128)]


@DTYPES
@pytest.mark.parametrize("shape", MEMORY_SHAPES)
@pytest.mark.parametrize("cell", OURS)
def test_it_saves_no_more_than_stock(cell, shape, dtype):
    steps, batch, inputs, hidden = shape
    theirs = TORCHS[cell](inputs, hidden, dtype=dtype)
    site = "hidden" if cell == "rnn" else "state"
    spec = RecurrentDropout(0.25, site)
    ours = recdrop.from_torch(theirs, recurrent_dropout=spec, backend="native")
    x = torch.randn(steps, batch, inputs, dtype=dtype, requires_grad=True)
    (_, stock), (_, own) = saved_by(lambda: theirs(x)), saved_by(lambda: ours(x))
    # Parameters take no memory by being saved. A plain RNN has no other room for the key.
    key = 8 if cell == "rnn" else 0
    assert bytes_without(own, ours.parameters()) <= bytes_without(stock, theirs.parameters()) + key
    if cell != "rnn":  # stock's does not save biases
        assert sum(own.values()) <= sum(stock.values())


@pytest.mark.parametrize("sampling", ["step", "sequence"])
@pytest.mark.parametrize("cell", OURS)
def test_no_mask_is_saved(cell, sampling):
    layer, x, h = OURS[cell](5, 64, backend="native"), torch.randn(12, 8, 5), torch.randn(1, 8, 64)
    hx = (h, h.cos()) if cell == "lstm" else h
    _, plain = saved_by(lambda: layer(x, hx))
    site = "hidden" if cell == "rnn" else "update"
    layer.recurrent_dropout = RecurrentDropout(0.5, site, sampling)
    kept, masked = saved_by(lambda: layer(x, hx))
    assert sum(masked.values()) == sum(plain.values()) + 8  # the key
    assert {t.dtype for t in kept} <= {torch.float32, torch.int64}
    assert all((t != 0).any() and (t == 0).float().mean() < 0.1 for t in kept if t.numel() > 1)


# ---------------------------------------------------------------------------------- nonlinearities

# Largest error seen, in units in the last place of the true value, over every eleventh float32 and
# 24 million float64: 2.92 and 2.95 of the sigmoid, 3.20 and 3.13 of tanh. Below the smallest normal
# number a unit is that number's own.
MOST_UNITS = 3.25
TRUTHS = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


def nonlinearity(name, x):
    x = torch.as_tensor(x)
    out = torch.empty_like(x)
    torch.ops.recdrop.native_nonlinearity(out, x, name)
    return out


def units_off(name, x):
    """Errors in units in the last place; truth is in higher precision than x."""
    exact = TRUTHS[name](x.astype(np.longdouble))
    assert np.finfo(exact.dtype).eps < np.finfo(x.dtype).eps / 100
    unit = np.spacing(np.maximum(np.abs(exact), np.finfo(x.dtype).tiny).astype(x.dtype))
    got = nonlinearity(name, x).numpy().astype(np.longdouble)
    return np.abs(got - exact) / unit


def grid(dtype, points):
    most = {np.float32: 87, np.float64: 708}[dtype]
    least = np.log10(float(np.finfo(dtype).tiny))
    near_zero = np.logspace(least, np.log10(most) - 1e-3, points)
    parts = [np.linspace(-at, at, points) for at in (0.6, 2, 20, most)]
    x = np.concatenate([*parts, near_zero, -near_zero]).astype(dtype)
    return x[np.abs(x) <= most]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.usefixtures("instruction_set")
def test_errors_of_nonlinearities(name, dtype):
    x = grid(dtype, 50_001)
    off = units_off(name, x)
    worst = int(np.argmax(off))
    assert off[worst] <= MOST_UNITS, x[worst]
    assert off[worst] > 0.4  # else nothing has been measured


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.usefixtures("instruction_set")
def test_errors_of_nonlinearities_over_a_dense_set_of_all_floats(name):
    for part in np.array_split(np.arange(0, 2**32, 97, dtype=np.uint64), 64):
        x = part.astype(np.uint32).view(np.float32)
        x = x[np.abs(x) <= 87]  # without inf and nan
        if len(x):
            off = units_off(name, x)
            assert off.max() <= MOST_UNITS, x[np.argmax(off)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("instruction_set")
def test_nonlinearities_at_the_ends(dtype):
    info = torch.finfo(dtype)
    far = torch.tensor([89.0, 100.0, 709.5, 1e30, info.max, torch.inf], dtype=dtype)
    assert (nonlinearity("tanh", far) == 1).all()
    assert (nonlinearity("tanh", -far) == -1).all()
    assert (nonlinearity("sigmoid", far) == 1).all()
    low = nonlinearity("sigmoid", -far)
    assert ((low >= 0) & (low <= torch.sigmoid(-far) + info.tiny)).all()
    for name, at_zero in (("sigmoid", 0.5), ("tanh", 0.0)):
        nan = torch.tensor([torch.nan, -torch.nan], dtype=dtype)
        assert nonlinearity(name, nan).isnan().all()
        zeros = torch.tensor([0.0, -0.0], dtype=dtype)
        assert (nonlinearity(name, zeros) == at_zero).all()


@pytest.mark.parametrize("n", [0, 1, 2, 7, 31, 33])
@pytest.mark.usefixtures("instruction_set")
def test_a_nonlinearity_writes_every_value_and_no_other(n):
    x, wide = torch.randn(n), torch.full((n + 64,), -5.0)
    torch.ops.recdrop.native_nonlinearity(wide[:n], x, "tanh")
    torch.testing.assert_close(wide[:n], x.tanh())
    assert (wide[n:] == -5).all()


# ----------------------------------------------------------------------------------------- product


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (4, 0, 3), (70, 33, 400), (130, 800, 65)])
def test_products(machine, shape, dtype):
    if machine[1] > 1 and shape[0] < 10:
        return
    m, k, n = shape
    bias = torch.randn(n, dtype=dtype)
    for flip_a, flip_b, loose in itertools.product((False, True), repeat=3):
        biased = flip_a == flip_b
        a = torch.randn(k, m, dtype=dtype).t() if flip_a else torch.randn(m, k, dtype=dtype)
        b = torch.randn(n, k, dtype=dtype).t() if flip_b else torch.randn(k, n, dtype=dtype)
        if loose:
            a, b = strided(a), strided(b)
        add = bias.double() if biased else torch.zeros(n).double()
        exact, sizes = a.double() @ b.double() + add, a.double().abs() @ b.double().abs()
        whole = torch.full((m, 2 * n), torch.nan, dtype=dtype)
        torch.ops.recdrop.native_product(whole[:, :n], a, b, bias if biased else None)
        allowed = 4 * torch.finfo(dtype).eps * (sizes + add.abs())
        assert ((whole[:, :n] - exact).abs() <= allowed).all()
        assert whole[:, n:].isnan().all()


# ---------------------------------------------------------------------------------- cross entropy


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 64), (37, 1025), (5, 10_007)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_cross_entropies(machine, shape, spread, dtype):
    rows, columns = shape
    logits = spread * torch.randn(rows, columns, dtype=dtype)
    targets = torch.randint(columns, (rows,))
    exact = logits.numpy().astype(np.longdouble)
    exact -= exact.max(1, keepdims=True)
    log_sums = np.log(np.exp(exact).sum(1))
    each = log_sums - exact[np.arange(rows), targets]
    probabilities = np.exp(exact - log_sums[:, None])
    true = probabilities - F.one_hot(targets, columns).numpy()
    whole = torch.full((rows, 2 * columns), torch.nan, dtype=dtype)
    whole[:, :columns] = logits
    nats, sums = torch.full((rows,), torch.nan, dtype=dtype), torch.ones(columns, dtype=dtype)
    torch.ops.recdrop.native_cross_entropy(whole[:, :columns], targets, nats, sums)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    # Of a logit's difference to the largest, its rounding; of the result, a few places.
    assert (abs(nats.numpy() - each) <= 4 * eps * (each + 1)).all()
    allowed = eps * (8 + abs(exact)) * probabilities + eps * (true < 0) + 2 * tiny
    assert (abs(whole[:, :columns].numpy() - true) <= allowed).all()
    assert (abs(sums.numpy() - 1 - true.sum(0)) <= 2 * eps * (rows + 2)).all()
    assert whole[:, columns:].isnan().all()
    again = logits.clone()
    torch.ops.recdrop.native_cross_entropy(again, targets, nats, None)
    assert torch.equal(again, whole[:, :columns])


@DTYPES
@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("place", [0, 3, 40])
def test_rows_that_are_not_finite(place, dtype):
    logits = torch.zeros(6, 41, dtype=dtype)
    logits[0, place], logits[1, place], logits[2, place] = torch.nan, torch.inf, -torch.inf
    logits[3] = -torch.inf
    logits[4] = 1e30
    nats, sums = torch.zeros(6, dtype=dtype), torch.zeros(41, dtype=dtype)
    torch.ops.recdrop.native_cross_entropy(logits, torch.full((6,), place), nats, sums)
    assert sums[place].isnan()
    assert nats[[0, 1, 3]].isnan().all()
    assert logits[[0, 1, 3]].isnan().any(1).all()  # as of torch: whoever looks, sees it
    assert nats[2] == torch.inf
    assert nats[4:].tolist() == pytest.approx([math.log(41)] * 2)
    assert logits[2].tolist() == pytest.approx([1 / 40] * place + [-1.0] + [1 / 40] * (40 - place))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(6)}, "logits must be a matrix"),
        ({"logits": torch.zeros(3, 2).t()}, "rows of logits must be contiguous"),
        ({"logits": torch.zeros(3).expand(2, 3)}, "rows of logits must lie apart"),
        ({"logits": torch.zeros(2, 3).half()}, "float32 or float64"),
        ({"targets": torch.tensor([0])}, r"targets must have shape \[2\], got \[1\]"),
        ({"targets": torch.tensor([0, 3])}, "target 3 of row 1 is not among 3 columns"),
        ({"targets": torch.tensor([-1, 0])}, "target -1 of row 0 is not among 3 columns"),
        ({"targets": torch.tensor([0, 1]).int()}, "targets must have the dtype int64"),
        ({"nats": torch.zeros(3)}, r"nats must have shape \[2\], got \[3\]"),
        ({"nats": torch.zeros(4)[::2]}, "must be contiguous"),
        ({"column_sums": torch.zeros(2)}, r"column_sums must have shape \[3\], got \[2\]"),
        ({"column_sums": torch.zeros(3).double()}, OTHER_DTYPE.format("column_sums")),
    ],
)
def test_the_door_of_cross_entropies(change, message):
    given = {"logits": torch.zeros(2, 3), "targets": torch.zeros(2).long(), "nats": torch.zeros(2)}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.recdrop.native_cross_entropy(**({"column_sums": None} | given | change))


# ------------------------------------------------------------------------------------------- doors


def name_of(mistake):
    return "-".join(mistake) if isinstance(mistake, dict) else None


def pass_the_door(which, cell, mistake):
    """Call an operator with mistakes in its tensors or its configuration; B = 3, H = 5, N = 12."""
    at, how = random_scan(cell), config(cell)
    out = scan(at, how)
    at = at._replace(**{name: t for name, t in mistake.items() if name in at._fields})
    how = how._replace(**{name: v for name, v in mistake.items() if name in how._fields})
    if which == "scan":
        return scan(at, how)
    saved = {name: mistake.get(name, getattr(out, name)) for name in ("h", "gates", "inner")}
    grads = [mistake.get(name, g) for name, g in zip(GRADS, upstream(out, cell), strict=True)]
    return scan_backward(at, out._replace(**saved), how, grads)


GRADS = ("dh", "dh_n", "dc_n")
WHICH = pytest.mark.parametrize("which", ["scan", "scan_backward"])
BOUND = rng.threshold(0.4)
MISTAKES = [
    ({"x": torch.zeros(12, 3)}, r"w_ih must have shape \[20, 3\], got \[20, 2\]"),
    ({"x": torch.zeros(11, 2)}, "expected a multiple of 3 rows, got 11"),
    ({"x": torch.zeros(24)}, "x, h0 and w_hh must have 2 dimensions"),
    ({"x": torch.zeros(12, 2).int()}, "float32 or float64"),
    ({"x": torch.zeros(12, 2).bfloat16()}, "float32 or float64"),
    ({"x": torch.zeros(12, 2).double()}, OTHER_DTYPE.format("h0")),
    ({"h0": torch.zeros(3, 5).double()}, OTHER_DTYPE.format("h0")),
    ({"h0": torch.zeros(15)}, "x, h0 and w_hh must have 2 dimensions"),
    ({"h0": torch.zeros(3, 6)}, r"w_hh must have shape \[20, 6\], got \[20, 5\]"),
    ({"h0": torch.zeros(4, 5)}, r"c0 must have shape \[4, 5\], got \[3, 5\]"),
    ({"c0": None}, "an LSTM, and nothing else, has c0"),
    ({"c0": torch.zeros(3, 6)}, r"c0 must have shape \[3, 5\], got \[3, 6\]"),
    ({"c0": torch.zeros(3, 5).double()}, OTHER_DTYPE.format("c0")),
    ({"w_ih": torch.zeros(16, 2)}, r"w_ih must have shape \[20, 2\], got \[16, 2\]"),
    ({"w_ih": torch.zeros(40)}, r"w_ih must have shape \[20, 2\], got \[40\]"),
    ({"w_ih": torch.zeros(20, 2).double()}, OTHER_DTYPE.format("w_ih")),
    ({"w_hh": torch.zeros(21, 5)}, r"w_hh .* must have shape \[4 \* H, 5\], got \[21, 5\]"),
    ({"w_hh": torch.zeros(20, 6)}, r"w_hh must have shape \[20, 5\], got \[20, 6\]"),
    ({"w_hh": torch.zeros(20, 5).double()}, OTHER_DTYPE.format("w_hh")),
    ({"b_ih": torch.zeros(16)}, r"b_ih must have shape \[20\], got \[16\]"),
    ({"b_ih": torch.zeros(1)}, r"b_ih must have shape \[20\], got \[1\]"),
    ({"b_hh": torch.zeros(20).double()}, OTHER_DTYPE.format("b_hh")),
    ({"b_ih": None}, "there are two biases or none"),
    ({"b_hh": None}, "there are two biases or none"),
    ({"w_hr": torch.zeros(5, 5)}, "w_hr is there if and only if h and c differ in width"),
    ({"w_hr": torch.zeros(5, 6)}, r"w_hr must have shape \[5, 5\], got \[5, 6\]"),
    ({"rows": torch.arange(4)}, r"rows must have shape \[3\], got \[4\]"),
    ({"rows": torch.arange(3).int()}, "rows must have the dtype int64"),
    ({"key": torch.zeros(1).long()}, r"key must have shape \[\], got \[1\]"),
    ({"key": torch.tensor(0.5)}, "key must have the dtype int64"),
    ({"thresholds": [0, BOUND, 0]}, "masks need a key"),
    ({"thresholds": [0, 0]}, "must have 3 values: update, hidden, state"),
    ({"scales": [1.0]}, "must have 3 values: update, hidden, state"),
    ({"per_step": [1] * 4}, "must have 3 values: update, hidden, state"),
    ({"thresholds": [2**32, 0, 0]}, "threshold must fit in 32 bits, got 4294967296"),
    ({"thresholds": [-1, 0, 0]}, "threshold must fit in 32 bits, got -1"),
    ({"layer": -1}, "layer must fit in 32 bits"),
    ({"layer": 2**29}, "layer must fit in 32 bits"),
    ({"cell": "elman"}, "cell must be rnn, lstm, gru or gru_paper, got elman"),
    ({"cell": ""}, "cell must be rnn, lstm, gru or gru_paper, got "),
    ({"activation": "gelu"}, "activation must be tanh or relu, got gelu"),
    ({"batch_sizes": torch.tensor([3, 2, 3, 2, 2])}, "must fall .* got 3 at step 2"),
    ({"batch_sizes": torch.tensor([4, 4, 4])}, "must fall from at most 3 .* got 4 at step 0"),
    ({"batch_sizes": torch.tensor([3, 3, 3, 3, 0])}, "stay above 0, got 0 at step 4"),
    ({"batch_sizes": torch.tensor([3, 3, 3, -3])}, "stay above 0, got -3 at step 3"),
    ({"batch_sizes": torch.tensor([2] * 6)}, "must start with 3 and sum to 12"),
    ({"batch_sizes": torch.tensor([3, 3, 3, 2])}, "must start with 3 and sum to 12"),
    ({"batch_sizes": torch.tensor([3, 3, 3, 3, 1])}, "must start with 3 and sum to 12"),
    ({"batch_sizes": torch.zeros(0).long()}, "must start with 3 and sum to 12"),
    ({"batch_sizes": torch.tensor([3] * 4).int()}, "batch_sizes must have the dtype int64"),
    ({"batch_sizes": torch.tensor([[3] * 4])}, "batch_sizes must have one dimension"),
    ({"batch_sizes": torch.tensor(12)}, "batch_sizes must have one dimension"),
]


@WHICH
@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=name_of)
def test_the_door_of_an_lstm(which, mistake, message):
    with pytest.raises(RuntimeError, match=message):
        pass_the_door(which, "lstm", mistake)


@WHICH
@pytest.mark.parametrize(
    ("cell", "mistake", "message"),
    [
        ("rnn", {"c0": torch.zeros(3, 5)}, "an LSTM, and nothing else, has c0"),
        ("gru_paper", {"c0": torch.zeros(3, 5)}, "an LSTM, and nothing else, has c0"),
        ("gru", {"w_hh": torch.zeros(18, 5)}, r"must have shape \[3 \* H, 5\], got \[18, 5\]"),
        ("gru", {"w_hr": torch.zeros(5, 5)}, "w_hr is there if and only if"),
        ("gru", {"h0": torch.zeros(3, 4)}, r"must have shape \[3 \* H, 4\]"),
        ("lstm projected", {"w_hr": None}, "w_hr is there if and only if"),
        ("lstm projected", {"w_hr": torch.zeros(5, 3)}, r"w_hr must have shape \[3, 5\]"),
    ],
)
def test_the_door_of_other_cells(which, cell, mistake, message):
    with pytest.raises(RuntimeError, match=message):
        pass_the_door(which, cell, mistake)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"dh": torch.zeros(12, 4)}, r"dh must have shape \[12, 5\], got \[12, 4\]"),
        ({"dh": torch.zeros(12, 5).double()}, OTHER_DTYPE.format("dh")),
        ({"dh_n": torch.zeros(2, 5)}, r"dh_n must have shape \[3, 5\], got \[2, 5\]"),
        ({"dc_n": torch.zeros(3, 4)}, r"dc_n must have shape \[3, 5\], got \[3, 4\]"),
        ({"h": torch.zeros(11, 5)}, r"h must have shape \[12, 5\], got \[11, 5\]"),
        ({"gates": torch.zeros(12, 15)}, r"gates must have shape \[12, 20\], got \[12, 15\]"),
        ({"gates": torch.zeros(0)}, r"gates must have shape \[12, 20\], got \[0\]"),
        ({"inner": torch.zeros(12, 4)}, r"inner must have shape \[12, 5\], got \[12, 4\]"),
        ({"inner": torch.zeros(12, 5).double()}, OTHER_DTYPE.format("inner")),
    ],
    ids=name_of,
)
def test_the_door_of_backward(mistake, message):
    with pytest.raises(RuntimeError, match=message):
        pass_the_door("scan_backward", "lstm", mistake)


@WHICH
@pytest.mark.parametrize("cell", SCANS)
def test_the_door_is_open(which, cell):
    pass_the_door(which, cell, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(5, 3)}, r"cannot multiply \[2, 4\] and \[5, 3\] into \[2, 3\]"),
        ({"out": torch.zeros(3, 3)}, "cannot multiply"),
        ({"out": torch.zeros(2, 2)}, "cannot multiply"),
        ({"a": torch.zeros(4)}, "a product is of matrices"),
        ({"bias": torch.zeros(2)}, r"bias must have shape \[3\], got \[2\]"),
        ({"bias": torch.zeros(3).double()}, OTHER_DTYPE.format("bias")),
        ({"a": torch.zeros(2, 4).double()}, OTHER_DTYPE.format("a")),
        ({"b": torch.zeros(4, 3).half()}, OTHER_DTYPE.format("b")),
        ({"out": torch.zeros(2, 3).half()}, "float32 or float64"),
        ({"out": torch.zeros(3, 2).t()}, "rows of the result must be contiguous"),
    ],
    ids=name_of,
)
def test_the_door_of_a_product(change, message):
    given = {"out": torch.zeros(2, 3), "a": torch.zeros(2, 4), "b": torch.zeros(4, 3)}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.recdrop.native_product(**({"bias": None} | given | change))


@pytest.mark.parametrize(
    ("out", "x", "name", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "relu", "expected sigmoid or tanh, got relu"),
        (torch.zeros(2), torch.zeros(3), "tanh", r"x must have shape \[2\], got \[3\]"),
        (torch.zeros(3), torch.zeros(3).double(), "tanh", OTHER_DTYPE.format("x")),
        (torch.zeros(3).half(), torch.zeros(3).half(), "tanh", "float32 or float64"),
        (torch.zeros(6)[::2], torch.zeros(3), "tanh", "out must be contiguous"),
    ],
)
def test_the_door_of_a_nonlinearity(out, x, name, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.recdrop.native_nonlinearity(out, x, name)


def test_on_meta_the_operator_gives_shapes():
    at = Inputs(*(None if t is None else t.to("meta") for t in random_scan("lstm")))
    real = scan(random_scan("lstm"), config("lstm"))
    for fake, t in zip(scan(at, config("lstm")), real, strict=True):
        assert fake.device.type == "meta"
        assert (fake.shape, fake.dtype, fake.stride()) == (t.shape, t.dtype, t.stride())


@pytest.mark.parametrize(
    ("layer_args", "x_args", "message"),
    [
        ({"dtype": torch.complex64}, {"dtype": torch.complex64}, "the input is torch.complex64"),
        ({"device": "meta"}, {"device": "meta"}, "it runs on the CPU, the input is on meta"),
    ],
)
@pytest.mark.parametrize("cell", OURS)
def test_what_it_lacks_is_said(cell, layer_args, x_args, message):
    layer = OURS[cell](3, 5, recurrent_dropout=0.4, backend="native", **layer_args)
    x = torch.zeros(4, 2, 3, **x_args)
    with pytest.raises(recdrop.BackendUnsupported, match=f"backend='native': .*{message}"):
        layer(x)
    layer.backend = "auto"
    assert "native: no: " in recdrop.explain_backend(layer, x)


# Types of the weights, of the input and of autocast.
HALF, BRAIN = torch.float16, torch.bfloat16
TYPES = [
    (HALF, HALF, None),
    (BRAIN, BRAIN, None),
    *itertools.product((torch.float32, BRAIN, HALF), repeat=3),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("cell", "args"),
    [
        ("rnn", {}),
        ("gru", {}),
        ("gru", {"reset_after": False}),
        ("lstm", {}),
        ("lstm", {"proj_size": 2}),
    ],
)
def test_16_bits_and_autocast_have_the_references_types_and_nearly_its_values(
    cell, args, training, packed
):
    x = torch.randn(9, 4, 3)
    spec = RecurrentDropout(0.5, "hidden", rescale="test")
    layer = OURS[cell](3, 4, 2, bidirectional=True, recurrent_dropout=spec, **args).train(training)
    for own, given, autocast in TYPES:
        if autocast == torch.float32:
            continue
        layer.to(own)
        at = x.to(given)
        if packed:
            at = pack_padded_sequence(at, torch.tensor([9, 7, 7, 2]))
        results = []
        for backend in ("native", "reference"):
            layer.backend = backend
            layer.zero_grad()
            with (
                recdrop.hold_masks(3),
                torch.autocast("cpu", autocast or BRAIN, enabled=autocast is not None),
            ):
                out = tensors(layer(at))
            sum(o.float().square().sum() for o in out).backward()
            results.append((*out, *(p.grad for p in layer.parameters())))
        for ours, its in zip(*results, strict=True):
            assert ours.dtype == its.dtype, (own, given, autocast)
            error = (ours.float() - its.float()).norm() / its.float().norm()
            assert error < 0.05, (own, given, autocast)


def test_16_bits_are_nearer_the_truth_than_a_loop_in_16_bits():
    layer = recdrop.LSTM(8, 64, recurrent_dropout=0.3).bfloat16()
    x = torch.randn(60, 4, 8).bfloat16()
    results = []
    for backend, dtype in (("native", BRAIN), ("reference", BRAIN), ("reference", torch.float64)):
        layer.backend = backend
        with recdrop.hold_masks(3):
            results.append(layer.to(dtype)(x.to(dtype))[1][1].double())
    ours, its, true = results
    assert (ours - true).norm() < 0.5 * (its - true).norm()


def test_under_autocast_a_layer_is_one_node_too():
    torch.compiler.reset()
    layer, x = recdrop.LSTM(3, 5, recurrent_dropout=0.4), torch.randn(4, 2, 3)
    results = []
    for f in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", dtype=BRAIN), recdrop.hold_masks(3):
            results.append(tensors(f(x)))
    for eager, compiled in zip(*results, strict=True):
        assert eager.dtype == compiled.dtype
        assert torch.equal(eager, compiled)


# ----------------------------------------------------------------------------------------- threads

BUSY = """
    import threading, torch, recdrop
    torch.set_num_threads({threads})
    torch.manual_seed(0)
    shapes = [(12, 32, 5, 64), (12, 2, 5, 200), (12, 9, 5, 64), (40, 2, 5, 100)]
    layers = [recdrop.LSTM(i, h, recurrent_dropout=0.4, backend="native") for _, _, i, h in shapes]
    inputs = [torch.randn(t, b, i) for t, b, i, _ in shapes]

    def work(layer, x):
        with recdrop.hold_masks(1):
            output = layer(x)[0]
        return [output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]

    expected = [work(*pair) for pair in zip(layers, inputs)]
    torch.set_num_threads(1)
    alone = [work(*pair) for pair in zip(layers, inputs)]
    torch.set_num_threads({threads})
    wrong = []

    def again(layer, x, values, single):
        for _ in range(4):
            for got, same, close in zip(work(layer, x), values, single):
                if not torch.equal(got, same) or not torch.allclose(got, close, 1e-4, 1e-5):
                    wrong.append((got - close).abs().max())

    jobs = list(zip(layers, inputs, expected, alone))
    if {at_once}:
        threads = [threading.Thread(target=again, args=job) for job in jobs]
        [t.start() for t in threads]
        [t.join() for t in threads]
    else:
        [again(*job) for job in jobs]
    print("wrong:", len(wrong), wrong[:3])
"""


@pytest.mark.parametrize(
    ("threads", "at_once", "environment"),
    [
        (4, True, {}),  # four callers with four workers each, on however few cores
        (4, False, {"OMP_THREAD_LIMIT": "1"}),  # one thread is every worker, one after the other
        pytest.param(2, True, {}, marks=pytest.mark.slow),
        pytest.param(4, False, {}, marks=pytest.mark.slow),
        pytest.param(4, False, {"OMP_THREAD_LIMIT": "3"}, marks=pytest.mark.slow),
        pytest.param(3, False, {"OMP_DYNAMIC": "true"}, marks=pytest.mark.slow),
    ],
)
def test_a_busy_pool_neither_hangs_nor_changes_results(threads, at_once, environment):
    code = BUSY.format(threads=threads, at_once=at_once)
    assert run_python(code, timeout=120, **environment).strip() == "wrong: 0 []"
