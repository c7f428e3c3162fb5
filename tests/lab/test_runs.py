"""Run folders: idempotent, exact to resume, one writer at a time (F1, F4, F5, F10 of our list)."""

import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from recdrop.lab import runs
from recdrop.lab.checkpoint import Checkpoints
from recdrop.lab.config import Adam, ExponentialDecay, Schedule, parse_run
from recdrop.lab.errors import BadInput, Diverged, StorageFailed
from recdrop.lab.runs import Watcher, _Silent, finished, read_environment, read_rows, run_cell
from recdrop.lab.storage import locked, write_whole
from recdrop.lab.tasks import prepare
from recdrop.lab.train import Interrupted, train
from recdrop.lab.world import World
from tests.lab.tiny import (
    LOCK,
    TASKS,
    endless_run,
    tiny_model,
    tiny_of,
    tiny_run,
    tiny_words,
    write_text,
)


class Heard(Watcher):
    def __init__(self):
        self.rows = []
        self.warnings = []

    def row(self, row):
        self.rows.append(row)

    def warned(self, message):
        self.warnings.append(message)


def test_a_finished_run_is_not_trained_again(tmp_path):
    heard = Heard()
    first = run_cell(tmp_path / "run", tiny_run(), watcher=heard)
    assert [(r.update, r.split) for r in heard.rows][-2:] == [(8, "train"), (8, "test")]
    stamp = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = run_cell(tmp_path / "run", tiny_run(), stopping=lambda: pytest.fail("trained"))
    assert again == first
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == stamp


def test_a_finished_run_is_told_where_nothing_can_be_written(tmp_path, monkeypatch):
    first = run_cell(tmp_path / "run", tiny_run())
    monkeypatch.setattr(runs, "locked", lambda folder: pytest.fail("locked"))
    assert run_cell(tmp_path / "run", tiny_run()) == first


def test_files_that_are_not_the_runs_own_stay(tmp_path):
    (tmp_path / "notes.tmp").write_text("mine")
    (tmp_path / "build.tmp").mkdir()
    (tmp_path / "env.json.tmp").write_text("left by a run that was killed")
    run_cell(tmp_path, tiny_run())
    assert (tmp_path / "notes.tmp").read_text() == "mine"
    assert (tmp_path / "build.tmp").is_dir()
    assert not (tmp_path / "env.json.tmp").exists()


def test_an_empty_lock_makes_other_files_no_runs(tmp_path):
    (tmp_path / "lock").touch()  # all that a run leaves that is killed so early
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(BadInput, match="result.json is there, but no run"):
        run_cell(tmp_path, tiny_run())
    (tmp_path / "result.json").unlink()
    run_cell(tmp_path, tiny_run())


def test_a_learning_rate_that_decays_to_nothing_is_0(tmp_path):
    decay = ExponentialDecay(start=1, factor=1e-200)
    run = tiny_run()
    schedule = Schedule(epochs=4, evaluate_every=1)
    run = run.model_copy(
        update={"optim": run.optim.model_copy(update={"decay": decay}), "schedule": schedule}
    )
    run_cell(tmp_path, run, save_every=0.0)
    assert read_rows(tmp_path)[-1].lr == 0.0
    start, told = Checkpoints(tmp_path).newest(clean=False)
    assert told == []
    assert start is not None
    assert start.progress.lr == 0.0


def test_what_lies_in_the_folder(tmp_path):
    heard = Heard()
    result = run_cell(tmp_path, tiny_run(), watcher=heard)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoints",
        "config.json",
        "data.json",
        "env.json",
        "lock",
        "metrics.jsonl",
        "result.json",
    ]
    assert parse_run((tmp_path / "config.json").read_text()) == tiny_run()
    assert read_rows(tmp_path) == heard.rows
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 3
    environment = read_environment(tmp_path)
    assert environment is not None
    assert {"torch", "cpu", "threads", "date"} <= set(environment)
    assert result.seconds > 0


def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path):
    run_cell(tmp_path, tiny_run())
    with pytest.raises(BadInput, match="seed: stored 3, asked 5"):
        run_cell(tmp_path, tiny_run(seed=5))


def test_other_data_than_those_begun_with_are_refused(tmp_path):
    text = write_text(tmp_path / "text")
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run_cell(tmp_path / "run", tiny_words(), text, stopping=lambda: next(asked))
    (text / "train.txt").write_text((text / "train.txt").read_text() + "more words\n")
    with pytest.raises(BadInput, match=r"data\.json does not agree .* the same data"):
        run_cell(tmp_path / "run", tiny_words(), text)


def test_data_that_were_only_renamed_are_the_same(tmp_path):
    text, folder = write_text(tmp_path / "text"), tmp_path / "run"
    run_cell(tmp_path / "whole", tiny_words(), text)
    stopped_at(folder, 5, tiny_words(), text)
    stored = (folder / "data.json").read_bytes()
    for part in ("train", "valid", "test"):
        (text / f"{part}.txt").rename(text / f"ptb.{part}.txt")
    run_cell(folder, tiny_words(), text)
    assert result_of(folder) == result_of(tmp_path / "whole")
    assert (folder / "data.json").read_bytes() == stored
    run_cell(folder, tiny_words(), text)  # finished


@pytest.mark.parametrize("task", TASKS[1:])
def test_a_finished_run_tells_its_result_for_the_same_data_only(task, tmp_path):
    given, heard = tiny_of(task, tmp_path, short=True), Heard()
    result = given.train(tmp_path / "run")
    assert given.train(tmp_path / "run", watcher=heard) == result
    assert heard.warnings == []
    for file in given.files.values():
        content = file.read_text()
        file.write_text(content + content)
        with pytest.raises(BadInput, match=r"other than those the run began with \(pretrain_train"):
            given.train(tmp_path / "run")
        file.write_text(content)
    assert given.data is not None
    train = next(path for path in given.data.iterdir() if "train" in path.name)
    train.write_text(train.read_text() + train.read_text())
    with pytest.raises(BadInput, match=r"other than those the run began with \(train\)"):
        given.train(tmp_path / "run")
    shutil.rmtree(given.data)
    assert given.train(tmp_path / "run", watcher=heard) == result
    assert heard.warnings[0].startswith(f"{given.data}: gone, and not compared")


def result_of(folder):
    """All that must be equal to the bit: outcome, metrics, last checkpoint."""
    outcome = json.loads((folder / "result.json").read_text())["outcome"]
    last, told = Checkpoints(folder).newest(clean=False)
    assert last is not None
    assert told == []
    tensors = {**last.weights, **last.state}
    bits = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    progress = last.progress.model_copy(update={"seconds": 0.0})
    return outcome, (folder / "metrics.jsonl").read_bytes(), bits, progress


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    text = write_text(tmp_path / "text")
    run_cell(tmp_path / "whole", tiny_words(), text)
    for save_every in (0.0, 60.0):
        folder = tmp_path / f"parts {save_every}"
        for stop in (1, 2, 14, 1, 15, 5):
            asked = iter([False] * stop + [True])
            with pytest.raises(Interrupted):
                run_cell(folder, tiny_words(), text, stopping=lambda a=asked: next(a))
        run_cell(folder, tiny_words(), text)
        assert result_of(folder) == result_of(tmp_path / "whole")


WORKER = """
import sys
from pathlib import Path
from recdrop.lab.config import parse_run
from recdrop.lab.runs import run_cell
import torch
torch.set_num_threads(1)
data = Path(sys.argv[3]) if sys.argv[3] else None
print("ready", flush=True)
run_cell(Path(sys.argv[1]), parse_run(sys.argv[2]), data, save_every=float(sys.argv[4]))
"""


def start(directory, run, data="", save_every=60.0):
    command = [sys.executable, "-c", WORKER, str(directory), run.model_dump_json()]
    process = subprocess.Popen([*command, str(data), str(save_every)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process, number):
    process.send_signal(number)
    process.wait()
    process.stdout.close()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def forked(folder, given, save_every):
    """A process of its own that trains a run; its number."""
    child = os.fork()
    if child:
        return child
    try:
        given.train(folder, save_every=save_every)
        os._exit(0)
    finally:
        os._exit(1)


def killed_and_resumed(folder, given, times, seed):
    """Kill -9 at random moments, then to the end; as one uninterrupted run, to the bit.

    Where a run is through before it is killed, another is begun, until so many kills have struck,
    at least one of them a run that had saved something.
    """
    source = random.Random(seed)
    whole = folder / "whole"
    seconds = given.train(whole).seconds
    kills, midway, number = 0, 0, 0
    while kills < times or not midway:
        parts, number = folder / f"parts {number}", number + 1
        while (kills < times or not midway) and not (parts / "result.json").exists():
            child = forked(parts, given, source.choice([0.0, 0.0, 0.05]))
            time.sleep(source.random() * seconds)
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, -signal.SIGKILL)
            kills += code == -signal.SIGKILL
            midway += code != 0 and any(parts.glob("checkpoints/step-*/manifest.json"))
            assert kills < times + 50, "no run comes to anything"
        given.train(parts)
        assert result_of(parts) == result_of(whole)
        assert not list(parts.rglob("*.tmp"))


@pytest.mark.parametrize("task", TASKS)
def test_kill_9_and_resume(tmp_path, task):
    killed_and_resumed(tmp_path, tiny_of(task, tmp_path), 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_kill_9_and_resume_at_100_moments(tmp_path, task):
    killed_and_resumed(tmp_path, tiny_of(task, tmp_path), 100, 2)


FILE_OPERATIONS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


def run_until_operation(number, folder, given):
    """Run in a process that ends, as if killed, before its file operation of that number.

    Returns:
        Whether it came to that.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    left = iter(range(number))

    def counted(operation):
        def instead(*args, **kwargs):
            if next(left, None) is None:
                os._exit(9)
            return operation(*args, **kwargs)

        return instead

    try:
        for name in FILE_OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        given.train(folder, save_every=0.0)
        os._exit(0)
    finally:
        os._exit(1)


def killed_at_every_operation(tmp_path, given, step):
    """Killed before this or that file operation, and once more on the way back."""
    given.train(tmp_path / "whole")
    number = 0
    while run_until_operation(number, folder := tmp_path / str(number), given):
        run_until_operation(number % 17, folder, given)
        assert not (folder / "result.json").exists() or finished(folder, given.run)
        given.train(folder)
        assert result_of(folder) == result_of(tmp_path / "whole"), number
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)
        number += step
    return number


@pytest.mark.parametrize("task", TASKS)
def test_killed_before_some_file_operation(tmp_path, task):
    assert killed_at_every_operation(tmp_path, tiny_of(task, tmp_path, short=True), 37) > 60


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_before_every_file_operation(tmp_path, task):
    assert killed_at_every_operation(tmp_path, tiny_of(task, tmp_path, short=True), 1) > 60


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_result_and_goes_on(tmp_path, number):
    process = start(tmp_path, endless_run(), save_every=0.0)
    wait_for(lambda: len(read_rows(tmp_path)) > 3)
    end(process, number)
    assert finished(tmp_path, endless_run()) is None
    there = len(read_rows(tmp_path))
    with pytest.raises(BadInput, match="holds another run"):
        run_cell(tmp_path, tiny_run())
    heard, asked = Heard(), iter([False, False, True])
    with pytest.raises(Interrupted):
        run_cell(tmp_path, endless_run(), watcher=heard, stopping=lambda: next(asked))
    assert heard.rows[0].update >= there - 1
    assert [row.update for row in read_rows(tmp_path)] == list(range(1, heard.rows[-1].update + 1))


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    process = start(tmp_path, endless_run())
    try:
        wait_for(lambda: read_rows(tmp_path))
        with pytest.raises(BadInput, match=f"in use by process {process.pid} on "):
            run_cell(tmp_path, endless_run())
    finally:
        end(process, signal.SIGKILL)
    with locked(tmp_path):
        pass  # the kernel let go


def test_a_damaged_checkpoint_is_told_and_the_one_before_serves(tmp_path):
    text = write_text(tmp_path / "text")
    run_cell(tmp_path / "whole", tiny_words(), text)
    folder, asked = tmp_path / "run", iter([False] * 30 + [True])
    with pytest.raises(Interrupted):
        run_cell(folder, tiny_words(), text, stopping=lambda: next(asked), save_every=0.0)
    newest = max(folder.glob("checkpoints/step-*"))
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    heard = Heard()
    run_cell(folder, tiny_words(), text, watcher=heard)
    (warning,) = heard.warnings
    assert str(weights) in warning
    assert f"going on from update {int(newest.name[5:]) - 1}" in warning
    assert result_of(folder) == result_of(tmp_path / "whole")


def stopped_at(folder, update, run, text=None):
    """Train so far and no further."""
    asked = iter([False] * (update - 1) + [True])
    with pytest.raises(Interrupted):
        run_cell(folder, run, text, stopping=lambda: next(asked))


def test_settings_that_were_changed_after_the_start_are_refused(tmp_path):
    run_cell(tmp_path / "whole", tiny_run())
    folder = tmp_path / "run"
    stopped_at(folder, 3, tiny_run())
    path = folder / "config.json"
    stored, changed = path.read_text(), tiny_run(optim=Adam(lr=0.02, clip_norm=5.0))
    path.write_text(stored.replace('"lr": 0.01', '"lr": 0.02'))
    for change in (lambda: None, path.unlink):
        change()
        with pytest.raises(BadInput, match=r"step-000000003: .* config\.json .* been changed"):
            run_cell(folder, changed)
    path.write_text(stored)
    run_cell(folder, tiny_run())
    assert result_of(folder) == result_of(tmp_path / "whole")


def test_checkpoints_of_another_run_are_refused(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    stopped_at(folder, 3, tiny_run())
    stopped_at(other, 5, tiny_run(seed=9))
    shutil.copytree(other / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(BadInput, match="step-000000005: it is of another run"):
        run_cell(folder, tiny_run())
    shutil.rmtree(folder / "checkpoints" / "step-000000005")
    assert run_cell(folder, tiny_run()).outcome.updates == 8


def test_another_vocabulary_is_refused(tmp_path):
    text, folder = write_text(tmp_path / "text"), tmp_path / "run"
    stopped_at(folder, 3, tiny_words(), text)
    path = folder / "vocabulary.json"
    path.write_text(path.read_text().replace("text", "next"))
    with pytest.raises(BadInput, match=r"vocabulary\.json does not agree"):
        run_cell(folder, tiny_words(), text)


@pytest.mark.parametrize("rest", [b'{"update": 7, "ep', b"\n", b"\xff" * 10_000])
def test_what_a_log_has_beyond_the_checkpoint_is_cut_off(tmp_path, rest):
    run_cell(tmp_path / "whole", tiny_run())
    folder = tmp_path / "run"
    stopped_at(folder, 4, tiny_run())
    with (folder / "metrics.jsonl").open("ab") as log:
        log.write(rest)
    run_cell(folder, tiny_run())
    assert result_of(folder) == result_of(tmp_path / "whole")


def test_a_folder_where_nothing_was_trained_yet_takes_any_data(tmp_path):
    text, folder = write_text(tmp_path / "text"), tmp_path / "run"
    run_cell(tmp_path / "whole", tiny_words(), text)
    folder.mkdir()
    # Killed before config.json was there.
    (folder / "lock").write_text(LOCK)
    for name in ("data.json", "vocabulary.json", "config.json.tmp"):
        (folder / name).write_text("of other data")
    run_cell(folder, tiny_words(), text)
    assert result_of(folder) == result_of(tmp_path / "whole")


def test_time_is_counted_over_sittings_whatever_the_clock_began_with(tmp_path, monkeypatch):
    def clock(start):
        ticks = itertools.count(start)
        monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))

    clock(1_000_000)
    stopped_at(tmp_path, 6, tiny_run())
    before, _ = Checkpoints(tmp_path).newest(clean=False)
    assert before is not None
    assert before.progress.seconds > 0
    clock(3)  # the machine was started anew
    seconds = run_cell(tmp_path, tiny_run()).seconds
    assert before.progress.seconds < seconds < before.progress.seconds + 100


def test_metrics_that_are_missing_are_not_passed_over(tmp_path):
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        run_cell(tmp_path, tiny_run(), stopping=lambda: next(asked))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(StorageFailed, match=r"metrics\.jsonl: has 0 bytes of the \d+"):
        run_cell(tmp_path, tiny_run())


def test_divergence_is_kept_and_found_again(tmp_path):
    run = tiny_run(model=tiny_model(init_range=1e38, output_init_range=1e38))
    for _ in range(2):
        with pytest.raises(Diverged, match="update 1"):
            run_cell(tmp_path, run)
        assert json.loads((tmp_path / "failed.json").read_text())["kind"] == "diverged"
        assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("task", TASKS[1:])
def test_an_embedding_that_is_not_finite_is_named(task, tmp_path):
    run, data, files = tiny_of(task, tmp_path)
    with World() as world:
        prepared = prepare(run, data, files, world)
    weights = dict(prepared.task.net.named_parameters())
    (name,) = weights.keys() & {"embedding.weight", "table.table"}
    with torch.no_grad():
        weights[name].fill_(math.nan)
    with pytest.raises(Diverged, match=rf"at update 1 \(.*values is {name}; stopped before"):
        train(run, prepared.task, _Silent())


def test_a_folder_that_vanishes_is_told(tmp_path):
    folder, updates = tmp_path / "run", []

    def vanish():
        updates.append(1)
        if len(updates) == 3:
            shutil.rmtree(folder)
        return False

    with pytest.raises(StorageFailed, match="checkpoints"):
        run_cell(folder, tiny_run(), stopping=vanish)


def test_corrupt_files_are_named(tmp_path):
    run_cell(tmp_path, tiny_run())
    (tmp_path / "result.json").write_text('{"name": 3}')
    with pytest.raises(StorageFailed, match=r"result\.json: .*name"):
        run_cell(tmp_path, tiny_run())
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(StorageFailed, match=r"metrics\.jsonl:1"):
        read_rows(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json describes no run"):
        run_cell(tmp_path, tiny_run())


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    told = r"a\.txt: No space left on device \(3 bytes needed, .*bytes free"
    with pytest.raises(StorageFailed, match=told):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["/bin/umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk):
    model = tiny_run().model.model_copy(update={"hidden": 80})
    folder, asked, run = small_disk / "run", iter([False] * 3 + [True]), tiny_run(model=model)
    with pytest.raises(Interrupted):
        run_cell(folder, run, stopping=lambda: next(asked))
    (small_disk / "filler").write_bytes(bytes(1_500_000))
    with pytest.raises(StorageFailed, match=r"No space left .*bytes needed.*bytes free"):
        run_cell(folder, run, save_every=0.0)
    found, told = Checkpoints(folder).newest(clean=False)
    assert found is not None
    assert told == []
    assert list(folder.rglob("*.tmp")) == []  # nor does what was refused take any room
    (small_disk / "filler").unlink()
    assert run_cell(folder, run).outcome.updates == 8


def test_a_disk_that_was_full_before_the_start_is_told_with_its_path(small_disk):
    (small_disk / "run").mkdir()
    (small_disk / "run" / "lock").touch()
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(StorageFailed, match=r"disk/run/lock: No space left"):
        run_cell(small_disk / "run", tiny_run())


def test_a_disk_that_is_full_when_a_row_is_written_is_told_too(small_disk, tmp_path):
    run = tiny_run(schedule=Schedule(epochs=12, log_every=1, keep="last"))
    expected = run_cell(tmp_path / "whole", run)
    updates = []

    def fill():
        updates.append(1)
        if len(updates) == 3:
            with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
        return False

    with pytest.raises(StorageFailed, match=r"metrics\.jsonl: No space left .*bytes needed"):
        run_cell(small_disk / "run", run, stopping=fill)
    (small_disk / "filler").unlink()
    assert run_cell(small_disk / "run", run).outcome == expected.outcome
    assert result_of(small_disk / "run") == result_of(tmp_path / "whole")
