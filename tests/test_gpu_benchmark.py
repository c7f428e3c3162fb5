"""What can be shown of the programs for a card where there is none."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from benchmarks import (
    cases,
    draw,
    gpu,
    gpu_card,
    gpu_growth,
    gpu_lab,
    gpu_timing,
    parity,
    tables,
    timing,
)
from benchmarks.machine import ROOT

from recdrop.backends import BACKENDS
from recdrop.backends.triton.plan import Plan
from recdrop.lab.records import Progress, Row
from recdrop.lab.sweep import Lost

TINY = cases.Shape(3, 2, 4, 5)


@pytest.fixture
def drawn(tmp_path):
    """Draws a page from the reports that the test has written, and returns its text."""
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs" / "benchmarks" / "gpu.md", docs)

    def draw_page():
        draw.main(["--results", str(tmp_path), "--docs", str(docs)])
        return (docs / "gpu.md").read_text(encoding="utf-8")

    return draw_page


def test_the_path_of_the_timings_on_a_cpu(tmp_path, drawn, capsys):
    cases = ["word-lm", "time-series"]
    gpu.main(["--trial", "--cases", *cases, "--results", str(tmp_path)])
    assert "CUDA graphs: not timed, a trial is on the CPU" in capsys.readouterr().out
    report = json.loads((tmp_path / "gpu-trial.json").read_text())
    assert len(report["results"]) == len(cases) * len(gpu.CELLS) * len(gpu_timing.DTYPES)
    for result in report["results"]:
        assert len(result["timings"]) == 1 + len(gpu_timing.SPECS)
        assert set(result["errors"]) == {*map(str, gpu_timing.SPECS), gpu_timing.STEPS}
        assert result["limit"] > 0
        assert result["graph"] is None
    page = drawn()
    assert "LSTM, word LM (3, 2, 4, 5), float32" in page
    assert page.count("Not measured yet.") == 2  # growth, the lab


def test_the_path_of_growth_on_a_cpu(tmp_path, drawn):
    gpu_growth.main(["--trial", "--results", str(tmp_path)])
    report = json.loads((tmp_path / "gpu_growth-trial.json").read_text())
    assert {p["axis"] for p in report["points"]} == set(gpu_growth.AXES)
    assert "| T = 10, bfloat16 |" in drawn()
    assert (tmp_path / "docs" / "gpu_growth-trial.svg").stat().st_size > 1000


def test_growth_is_saved_point_by_point(tmp_path, monkeypatch):
    honest, seen = gpu_growth.point, []

    def point(card, axis, size, *args):
        seen.append(axis)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return honest(card, axis, size, *args)

    monkeypatch.setattr(gpu_growth, "point", point)
    with pytest.raises(KeyboardInterrupt):
        gpu_growth.main(["--trial", "--axes", "B", "T", "--results", str(tmp_path)])
    report = json.loads((tmp_path / "gpu_growth-trial.json").read_text())
    assert [(p["axis"], p["dtype"]) for p in report["points"]] == [
        ("B", "float32"),
        ("B", "bfloat16"),
    ]


def test_a_point_that_fails_leaves_the_others(tmp_path, monkeypatch):
    honest = gpu_growth.point

    def point(card, axis, size, dtype, *args):
        if dtype == "float32":
            raise MemoryError("of shared memory")
        return honest(card, axis, size, dtype, *args)

    monkeypatch.setattr(gpu_growth, "point", point)
    with pytest.raises(SystemExit, match="LSTM B = .* float32: MemoryError: of shared memory"):
        gpu_growth.main(["--trial", "--axes", "B", "T", "--results", str(tmp_path)])
    report = json.loads((tmp_path / "gpu_growth-trial.json").read_text())
    assert [(p["axis"], p["dtype"]) for p in report["points"]] == [
        ("B", "bfloat16"),
        ("T", "bfloat16"),
    ]


def test_the_path_of_the_lab_on_a_cpu(tmp_path, drawn):
    words = ["--trial", "--workers", "2", "--epochs", "1", "--results", str(tmp_path)]
    gpu_lab.main(words)
    report = json.loads((tmp_path / "gpu_lab-trial.json").read_text())
    assert [found["cell"] for found in report["epochs"]] == list(gpu_lab.EPOCH_CELLS)
    for found in report["epochs"]:
        (epoch,) = found["epochs"]
        assert epoch["train"] > 0
        assert 1 < epoch["perplexity"] < 100  # of 52 symbols
        assert found["updates"] == 2
    (sweep,) = report["sweeps"]
    assert (sweep["workers"], sweep["cells"], sweep["epochs"]) == (2, 2, 2)
    assert sweep["rate"] == pytest.approx(2 / sweep["epoch_of_a_cell"], rel=1e-3)
    assert 0 < sweep["epoch_of_a_cell"] < sweep["seconds"]
    assert report["machine"]["gpu"] == "trial"
    page = drawn()
    assert "| none-forward (CPU, 1 thread) |" in page
    assert "all 29 cells of Table 2, 2,900 epochs at most" in page


def test_the_cells_of_a_sweep_cost_the_same():
    chosen = gpu_lab.choose(gpu_lab.table2.cells(), gpu_lab.SWEPT)
    assert len(chosen) == max(gpu_lab.WORKERS)
    assert {(cell.scheme, len(cell.dropout)) for cell in chosen} == {("ours", 1)}


def test_epochs_are_told_from_the_rows():
    clock = iter([100.0, 103.0, 105.0, 106.0, 110.0, 112.0])
    watch = gpu_lab.Stopwatch(lambda: next(clock))
    watch.prepared(gpu_lab._run("none", 2), 830, Progress(lr=1.0))  # at 100
    for epoch, split, score in (
        (1, "train", 700.0),  # 103
        (1, "train", 500.0),  # 105: the epoch's last
        (1, "valid", 400.0),  # 106
        (2, "train", 300.0),  # 110
        (2, "valid", 250.0),  # 112
    ):
        watch.row(Row(update=1, epoch=epoch, split=split, loss=1.0, score=score, lr=1.0))
    assert watch.steps == 830
    assert watch.epochs == [
        {"train": 5.0, "look": 1.0, "perplexity": 400.0},
        {"train": 4.0, "look": 2.0, "perplexity": 250.0},
    ]


def test_a_run_that_fails_ends_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_lab, "sweep", lambda _, jobs, *rest: [Lost(jobs[0], 1, "none: killed")])
    with pytest.raises(SystemExit, match="none: killed"):
        gpu_lab.swept(tmp_path / "runs", tmp_path, ["none"], 1, 1, "cpu")


def test_the_whole_table_at_a_rate():
    assert gpu_lab.whole_table(2900 / 3600) == {
        "cells": 29,
        "epochs": 2900,
        "hours_at_most": pytest.approx(1.0),
    }


def found_on_a_card(ratio, factor, graph=None):
    """One case as `gpu.measured` gives it: cuDNN takes 2 ms, the loop so many times ours."""
    times = {"stock": {"min": 0.002, "ratio": 1.0}}
    times |= {f"scheme {n}": {"min": 0.002 * ratio, "ratio": ratio} for n in range(3)}
    return {
        "cell": "LSTM",
        "case": "word LM",
        "dtype": "float32",
        "shape": {"T": 35, "B": 32, "I": 256, "H": 256},
        "timings": times,
        "graph": graph,
        "python_loop": factor * 0.002 * ratio,
        "limit": 0.001,
    }


def page_of(found):
    """A report of one case."""
    return {
        "machine": {"gpu": "card", "torch": "2", "date": "2026-11-29T00", "commit": "c"},
        "settings": {"passes": 10},
        "schemes": [("update", "step"), ("hidden", "sequence"), ("state", "step")],
        "target": gpu_timing.TARGET,
        "loop_target": gpu.LOOP,
        "results": [found],
    }


@pytest.mark.parametrize(
    ("ratio", "factor", "ratio_told", "factor_told", "missed"),
    [
        (0.9, 40.0, "aim met", "met", 0),
        (1.4, 20.1, "target met", "met", 0),
        (1.6, 40.0, "MISSED", "met", 3),
        (0.9, 19.9, "aim met", "MISSED", 1),
        (2.0, 3.0, "MISSED", "MISSED", 4),
    ],
)
def test_both_targets_are_judged(ratio, factor, ratio_told, factor_told, missed):
    found = found_on_a_card(ratio, factor)
    line = gpu.told(found)
    assert f"(target 1.5: {ratio_told}); the loop in Python {factor} " in line
    assert line.endswith(f"(target 20: {factor_told})")
    page = tables.gpu([page_of(found)])
    assert f"a target missed ({missed} of 4)" in page
    row = page.splitlines()[-1]
    assert row.count(f"**{ratio:.2f}**") == (3 if ratio > 1.5 else 0)
    assert row.count(f"**{factor:.1f}**") == (1 if factor < 20 else 0)
    assert row.endswith("| 0.50 | not timed | not timed | not timed |")


def test_a_graph_is_told():
    graph = {"stock": {"min": 0.001, "ratio": 1.0}, "ours": {"min": 0.0012, "ratio": 1.2}}
    graph[gpu_timing.STEPS] = {"min": 0.0031, "ratio": 3.1}
    found = found_on_a_card(0.9, 40.0, graph)
    line = gpu.told(found)
    assert line.endswith(
        "in a CUDA graph cuDNN 1.000 ms, ours 1.20 times that, with a launch for each step 3.10"
    )
    assert tables.gpu([page_of(found)]).endswith("| 0.50 | 1.000 | 1.20 | 3.10 |")
    line = gpu.told(found_on_a_card(0.9, 40.0, "operation not permitted"))
    assert line.endswith("in a CUDA graph: not captured, operation not permitted")


class Logged:
    """A pass, a stream and a graph that write down what is done with them."""

    def __init__(self, log):
        self.log = log

    def __getattr__(self, name):
        return lambda *_: self.log.append(name)


def test_what_is_captured_has_run_before_and_leaves_its_gradients_to_the_graph(monkeypatch):
    log = []

    @contextlib.contextmanager
    def block(name):
        log.append(f"{name} begins")
        yield
        log.append(f"{name} ends")

    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, lambda: Logged(log))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: block("warm-up"))
    monkeypatch.setattr(torch.cuda, "graph", lambda _: block("capture"))
    replayed = gpu_timing.Replayed(Logged(log), 4)
    warm = ["wait_stream", "warm-up begins", *["prepare", "run"] * 3, "warm-up ends", "wait_stream"]
    assert log == [*warm, "prepare", "capture begins", "run", "capture ends"]
    log.clear()
    replayed.run()
    assert log == ["replay"] * 4


def test_what_cannot_be_captured_is_told_and_does_not_end_the_timings(monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted\nwhen capturing")

    monkeypatch.setattr(gpu_timing, "_pack", lambda layer: None)
    monkeypatch.setattr(gpu_timing, "Replayed", refuse)
    card = gpu_card.Card(trial=True)
    card.trial = False
    told = gpu_timing.replayed(
        card, cases.KINDS["LSTM"], TINY, torch.float32, timing.Budget(1, 0.0), 1
    )
    assert told == "cuDNN: operation not permitted"


def test_graphs_are_captured_as_planned_and_with_a_launch_for_each_step(monkeypatch):
    persistent = []

    class Captured:
        def __init__(self, one, passes):
            self.one = one
            persistent.append(Plan.of(32, 256, "lstm", 4, 132, 227 * 1024).persistent)

        def prepare(self):
            pass

        def run(self):
            self.one.run()

    monkeypatch.setattr(gpu_timing, "_pack", lambda layer: None)
    monkeypatch.setattr(gpu_timing, "Replayed", Captured)
    card = gpu_card.Card(trial=True)
    card.trial = False
    monkeypatch.setattr(card, "clock", time.perf_counter)
    budget = timing.Budget(1, 0.0)
    found = gpu_timing.replayed(card, cases.KINDS["LSTM"], TINY, torch.float32, budget, 1)
    assert persistent == [True, True, False]
    assert list(found) == ["stock", str(gpu_timing.SPECS[0]), gpu_timing.STEPS]
    assert Plan.of(32, 256, "lstm", 4, 132, 227 * 1024).persistent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", [gpu.main, gpu_growth.main, gpu_lab.main])
def test_without_a_gpu_the_programs_say_so(program, tmp_path):
    words = ["--data", str(tmp_path)] if program is gpu_lab.main else []
    with pytest.raises(SystemExit, match="there is no CUDA device"):
        program(words)


def test_the_lab_needs_a_text(tmp_path):
    with pytest.raises(SystemExit, match="--data is missing"):
        gpu_lab.main([])
    with pytest.raises(SystemExit, match="has no training text"):
        gpu_lab.main(["--device", "cpu", "--data", str(tmp_path)])


def test_what_computes_something_else_is_not_timed_on_a_gpu(monkeypatch):
    monkeypatch.setitem(
        BACKENDS, "reference", dataclasses.replace(BACKENDS["reference"], run=BACKENDS["stock"].run)
    )
    card = gpu_card.Card(trial=True)
    card.backend = "native"
    with pytest.raises(parity.ParityError, match="is off by"):
        gpu_timing.check(card, cases.KINDS["LSTM"], TINY, torch.float32, gpu_timing.SPECS[0])


# ------------------------------------------------------------------------------------- the script


def run_script(tmp_path, python="", **environment):
    """Run gpu.sh with a stand-in for Python, and return its result and what it called."""
    stub, calls = tmp_path / "python", tmp_path / "calls"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{python}\n')
    stub.chmod(0o755)
    ended = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh"],
        env=os.environ
        | {"PYTHON": str(stub), "RESULTS": str(tmp_path / "figures"), "DATA": ""}
        | environment,
        capture_output=True,
        text=True,
    )
    return ended, calls.read_text() if calls.exists() else ""


def test_stages_are_chosen_by_name(tmp_path):
    ended, calls = run_script(tmp_path, STAGES="growth lab", DATA="ptb/")
    assert ended.returncode == 0, ended.stderr
    programs = [line.split() for line in calls.splitlines() if "-m benchmarks" in line]
    results = ["--results", str(tmp_path / "figures")]
    assert programs == [
        ["-m", "benchmarks.gpu_growth", *results],
        ["-m", "benchmarks.gpu_lab", "--data", "ptb/", "--device", "cuda", *results],
    ]
    assert "test_gpu" not in calls
    assert "Figures are in" not in ended.stdout  # the stand-in wrote none


def test_without_data_the_lab_is_not_run(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gpu-card.json").write_text("{}")
    ended, calls = run_script(tmp_path, STAGES="timings lab")
    assert "lab: not run, DATA names no folder" in ended.stdout
    assert "gpu_lab" not in calls
    assert f"cp {tmp_path}/figures/gpu*.json benchmarks/results/\n" in ended.stdout
    assert "-m benchmarks.draw\n" in ended.stdout


def test_a_stage_that_fails_does_not_stop_the_next(tmp_path):
    fails = 'case "$*" in *benchmarks.gpu\\ *) exit 3;; esac'
    ended, calls = run_script(tmp_path, fails, STAGES="timings growth")
    assert ended.returncode == 1
    assert "== failed, 3: " in ended.stderr
    assert "benchmarks.gpu_growth" in calls


def test_a_missing_package_ends_the_lab_only(tmp_path):
    fails = r'case "$*" in *import\ pydantic*) exit 1;; esac'
    ended, calls = run_script(tmp_path, fails, STAGES="lab timings", DATA="ptb/")
    assert ended.returncode == 1
    assert "lab: not run, it needs pydantic" in ended.stderr
    assert "benchmarks.gpu " in calls
    assert "gpu_lab" not in calls


def test_races_are_looked_for_once_the_steps_are_right(tmp_path):
    fails = 'case "$*" in *launch_for_each*) exit 1;; esac'
    ended, calls = run_script(tmp_path, fails, STAGES="first")
    assert ended.returncode == 1
    assert "-k race" not in calls
    assert "--cases word-lm" in calls
    _, calls = run_script(tmp_path, STAGES="first")
    assert "-k race" in calls


def test_an_error_in_one_case_leaves_the_others(tmp_path, monkeypatch):
    honest = gpu.measured

    def measured(card, cell, name, dtype, *rest):
        if (cell, dtype) == ("LSTM", "bfloat16"):
            raise RuntimeError("out of resources")
        return honest(card, cell, name, dtype, *rest)

    monkeypatch.setattr(gpu, "measured", measured)
    with pytest.raises(SystemExit, match="LSTM word LM bfloat16: RuntimeError: out of resources"):
        gpu.main(["--trial", "--cases", "word-lm", "--results", str(tmp_path)])
    report = json.loads((tmp_path / "gpu-trial.json").read_text())
    assert len(report["results"]) == 3


def test_the_script_ends_early_and_says_why(tmp_path):
    ended, calls = run_script(tmp_path, STAGES="timings grwth")
    assert (ended.returncode, calls) == (2, "")
    assert "there is no grwth; there are: first tests timings growth lab" in ended.stderr
    ended, calls = run_script(tmp_path, "exit 1", STAGES="timings")
    assert (ended.returncode, calls) == (1, "- torch triton\n")
    bare = f'exec {sys.executable} -I -S "$@"'  # without any package
    ended, _ = run_script(tmp_path, bare, STAGES="timings")
    assert ended.returncode == 1
    assert ended.stdout.startswith("Python 3.")
    assert re.search(r"not installed for .*: torch \(No module .*, triton \(", ended.stderr)
