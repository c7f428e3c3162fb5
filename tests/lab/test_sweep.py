"""Many runs: a failure loses only itself, a killed worker is told, two drivers do not meet."""

import io
import os
import signal
import threading
import time

import pytest
from rich.console import Console

from recdrop.lab.config import Model
from recdrop.lab.errors import BadInput
from recdrop.lab.progress import Ledger
from recdrop.lab.runs import finished, read_rows, run_cell
from recdrop.lab.storage import locked
from recdrop.lab.sweep import Job, sweep
from recdrop.lab.train import Row
from tests.lab.tiny import endless_run, tiny_run


def jobs_of(folder, *runs):
    return [Job(folder / run.name / f"seed-{run.seed}", run) for run in runs]


def quiet():
    return Console(file=io.StringIO(), force_terminal=False)


def test_every_job_gets_the_result_that_it_has_alone(tmp_path):
    jobs = jobs_of(tmp_path / "sweep", *(tiny_run(seed=seed) for seed in (1, 0)))
    assert sweep(tmp_path, jobs, 2, quiet()) == []
    for job in jobs:
        alone = run_cell(tmp_path / "alone" / str(job.run.seed), job.run)
        result = finished(job.directory, job.run)
        assert result is not None
        assert result.seed == job.run.seed
        assert result.outcome == alone.outcome
        assert read_rows(job.directory) == read_rows(tmp_path / "alone" / str(job.run.seed))


def test_a_failing_run_does_not_stop_the_others(tmp_path):
    good, bad = jobs_of(tmp_path, tiny_run(seed=1), tiny_run(seed=2))
    bad.directory.mkdir(parents=True)
    (bad.directory / "metrics.jsonl").mkdir()  # cannot be a file
    (lost,) = sweep(tmp_path, [bad, good], 1, quiet())
    assert lost.job == bad
    assert lost.exit_code == 4
    assert "metrics.jsonl" in lost.message
    assert finished(good.directory, good.run) is not None


def test_divergence_is_told_with_its_exit_code(tmp_path):
    model = Model(hidden=5, init_range=1e38, output_init_range=1e38)
    (job,) = jobs_of(tmp_path, tiny_run(model=model))
    (lost,) = sweep(tmp_path, [job], 1, quiet())
    assert lost.exit_code == 3
    assert lost.message.startswith("ours-step-tiny, seed 3: the loss is ")
    assert "at update 1" in lost.message


def test_a_killed_worker_is_told_and_nothing_hangs(tmp_path):
    (job,) = jobs_of(tmp_path, endless_run())

    def kill():
        deadline = time.monotonic() + 60
        while not read_rows(job.directory) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(int((job.directory / "lock").read_text().split()[1]), signal.SIGKILL)

    assassin = threading.Thread(target=kill)
    assassin.start()
    (lost,) = sweep(tmp_path, [job], 1, quiet())
    assassin.join()
    assert lost.exit_code == 1
    assert "killed by SIGKILL" in lost.message


def test_a_second_driver_is_turned_away(tmp_path):
    with locked(tmp_path), pytest.raises(BadInput, match=f"in use by process {os.getpid()}"):
        sweep(tmp_path, jobs_of(tmp_path, tiny_run()), 1, quiet())


def test_all_folders_that_hold_other_runs_are_named_before_anything_is_trained(tmp_path):
    jobs = jobs_of(tmp_path, tiny_run(seed=1), tiny_run(seed=2))
    for job in jobs:
        run_cell(job.directory, job.run)
    other = [Job(job.directory, job.run.model_copy(update={"scale": "paper"})) for job in jobs]
    with pytest.raises(BadInput) as caught:
        sweep(tmp_path, other, 2, quiet())
    assert str(caught.value).count("scale: stored 'quick', asked 'paper'") == 2


def test_time_left_is_measured_steps_against_caps(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    runs = [tiny_run(seed=1), tiny_run(seed=2)]
    ledger = Ledger(runs, workers=1)
    assert ledger.seconds_left() is None
    ledger.started(runs[0])
    clock[0] += 10
    ledger.row(runs[0], Row(update=2, loss=1.0, train_accuracy=0.5))
    assert ledger.seconds_left() == pytest.approx(10 / 2 * (6 + 8))
    ledger.ended(runs[0])
    assert ledger.seconds_left() == pytest.approx(10 / 2 * 8)
    assert ledger.done == 1
