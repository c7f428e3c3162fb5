"""Many runs: a failure loses only itself, whoever is killed loses nothing (F6 of our list)."""

import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from recdrop.lab.config import Schedule
from recdrop.lab.errors import BadInput
from recdrop.lab.progress import Ledger
from recdrop.lab.records import Event
from recdrop.lab.runs import finished, read_rows, run_cell
from recdrop.lab.storage import locked
from recdrop.lab.sweep import Job, sweep
from tests.lab.test_runs import result_of, wait_for
from tests.lab.tiny import LOCK, endless_run, tiny_model, tiny_run, tiny_words, write_text


def jobs_of(folder, *runs):
    return [Job(folder / run.name / f"seed-{run.seed}", run) for run in runs]


def quiet():
    return Console(file=io.StringIO(), force_terminal=False)


@pytest.mark.parametrize(("workers", "seeds"), [(1, (0, 1, 2)), (2, (2, 0, 1))])
def test_every_job_gets_the_bits_that_it_has_alone(workers, seeds, tmp_path):
    """With one worker or two, in any order."""
    jobs = jobs_of(tmp_path / "sweep", *(tiny_run(seed=seed) for seed in seeds))
    assert sweep(tmp_path, jobs, workers, quiet()) == []
    for job in jobs:
        alone = tmp_path / "alone" / str(job.run.seed)
        run_cell(alone, job.run)
        assert result_of(job.directory) == result_of(alone)


def test_the_longest_run_is_trained_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # a worker that ends at once
    epochs = {1: 2, 2: 16, 3: 1, 4: 8}  # of each seed
    schedule = tiny_run().schedule
    runs = [
        tiny_run(seed=seed, schedule=schedule.model_copy(update={"epochs": number}))
        for seed, number in epochs.items()
    ]
    lost = sweep(tmp_path, jobs_of(tmp_path, *runs), 1, quiet())
    assert [one.job.run.seed for one in lost] == [2, 4, 1, 3]


def test_a_failing_run_does_not_stop_the_others(tmp_path):
    good, bad = jobs_of(tmp_path, tiny_run(seed=1), tiny_run(seed=2))
    (bad.directory / "metrics.jsonl").mkdir(parents=True)  # cannot be a file
    (bad.directory / "lock").write_text(LOCK)
    (lost,) = sweep(tmp_path, [bad, good], 1, quiet())
    assert lost.job == bad
    assert lost.exit_code == 4
    assert "metrics.jsonl" in lost.message
    assert finished(good.directory, good.run) is not None


def test_workers_train_where_the_job_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (job,) = jobs_of(tmp_path, tiny_run())
    (lost,) = sweep(tmp_path, [replace(job, device="cuda")], 1, quiet())
    assert lost.exit_code == 2
    assert "torch sees no NVIDIA GPU" in lost.message


def test_divergence_is_told_with_its_exit_code(tmp_path):
    (job,) = jobs_of(tmp_path, tiny_run(model=tiny_model(init_range=1e38, output_init_range=1e38)))
    (lost,) = sweep(tmp_path, [job], 1, quiet())
    assert lost.exit_code == 3
    assert lost.message.startswith("ours-step-tiny, seed 3: the loss is ")
    assert "at update 1" in lost.message


def killer(job, times):
    """Kills the job's worker, so many times, each after it has trained a little."""

    def kill():
        for _ in range(times):
            deadline, seen = time.monotonic() + 60, len(read_rows(job.directory))
            while time.monotonic() < deadline and len(read_rows(job.directory)) <= seen:
                time.sleep(0.01)
            os.kill(int((job.directory / "lock").read_text().split()[1]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_run_whose_worker_is_killed_goes_on_in_another(tmp_path):
    run = tiny_run(schedule=endless_run().schedule.model_copy(update={"epochs": 300}))
    (job,) = jobs_of(tmp_path, run)
    assassin = killer(job, 2)
    console = quiet()
    assert sweep(tmp_path, [job], 1, console) == []
    assassin.join()
    assert console.file.getvalue().count("killed by SIGKILL; another goes on") == 2
    run_cell(tmp_path / "alone", run)
    assert result_of(job.directory) == result_of(tmp_path / "alone")


def test_a_run_that_is_killed_again_and_again_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("recdrop.lab.sweep._TRIES", 2)
    (job,) = jobs_of(tmp_path, endless_run())
    assassin = killer(job, 2)
    (lost,) = sweep(tmp_path, [job], 1, quiet())
    assassin.join()
    assert lost.exit_code == 1
    assert "killed by SIGKILL" in lost.message


DRIVER = """
import io, sys
from pathlib import Path
from rich.console import Console
from recdrop.lab.sweep import Job, sweep
from tests.lab.test_sweep import sweep_jobs
folder, text = Path(sys.argv[1]), Path(sys.argv[2])
sys.exit(len(sweep(folder, sweep_jobs(folder, text), 2, Console(file=io.StringIO()))))
"""


def sweep_jobs(folder, text):
    schedule = Schedule(epochs=30, log_every=1)  # long enough to be killed in
    runs = [tiny_words(seed=seed, name=f"words-{seed}", schedule=schedule) for seed in range(3)]
    return [Job(folder / run.name, run, text) for run in runs]


def workers_of(jobs):
    found = []
    for job in jobs:
        lock = job.directory / "lock"
        told = lock.read_text().split() if lock.exists() else []
        if len(told) > 1 and Path(f"/proc/{told[1]}").exists():
            found.append(int(told[1]))
    return found


def rows_of(jobs):
    return sum(len(read_rows(job.directory)) for job in jobs)


def through_kills(folder, text, times, source):
    """One sweep to its end, its driver or a worker killed while runs are trained.

    Returns:
        How many of each were killed, at most ``times`` in all.
    """
    jobs, killed, done, code = sweep_jobs(folder, text), Counter(), {}, None
    while code != 0:
        process = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(text)])
        while sum(killed.values()) < times:
            seen = rows_of(jobs)
            wait_for(lambda seen=seen, p=process: rows_of(jobs) > seen or p.poll() is not None)
            time.sleep(source.random() * 0.2)
            if process.poll() is not None:
                break
            if sum(killed.values()) % 2:
                process.kill()
                killed["driver"] += process.wait() == -signal.SIGKILL
                break
            for worker in workers_of(jobs)[:1]:
                os.kill(worker, signal.SIGKILL)
                killed["worker"] += 1
        code = process.wait()
        for result in (job.directory / "result.json" for job in jobs):
            if result.exists():  # once there, it is never written again
                written = result.stat().st_mtime_ns
                assert done.setdefault(result, written) == written
        wait_for(lambda: not workers_of(jobs))
    assert len(done) == len(jobs)
    return killed


def killed_at_random(tmp_path, times, seed):
    """Sweeps with so many kills in all: none loses anything."""
    text = write_text(tmp_path / "text", lines=120)
    alone = {}
    for job in sweep_jobs(tmp_path / "alone", text):
        run_cell(job.directory, job.run, text)
        alone[job.run.name] = result_of(job.directory)
    source, killed = random.Random(seed), Counter()
    for number in itertools.count():
        left = times - sum(killed.values())
        if not left:
            break
        folder = tmp_path / f"sweep-{number}"
        killed += through_kills(folder, text, min(left, 5), source)
        for job in sweep_jobs(folder, text):
            assert result_of(job.directory) == alone[job.run.name]
    assert sum(killed.values()) == times
    assert min(killed["driver"], killed["worker"]) > 0


def test_nothing_is_lost_when_driver_or_worker_is_killed(tmp_path):
    killed_at_random(tmp_path, 5, 3)


@pytest.mark.slow
def test_nothing_is_lost_in_50_kills(tmp_path):
    killed_at_random(tmp_path, 50, 1)


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


def test_time_left_is_what_is_measured_against_caps(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    runs = [tiny_run(seed=1), tiny_run(seed=2)]
    ledger = Ledger(runs, workers=1)
    assert ledger.seconds_left() is None
    ledger.started(runs[0])
    ledger.heard(runs[0], Event(steps=4, update=2))  # taken up again after two updates
    assert ledger.seconds_left() is None
    clock[0] += 10
    ledger.heard(runs[0], Event(update=4))
    assert ledger.seconds_left() == pytest.approx(10 / 2 * (4 + 8))
    ledger.ended(runs[0])
    assert ledger.seconds_left() == pytest.approx(10 / 2 * 8)
    assert ledger.done == 1
