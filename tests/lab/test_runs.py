"""Run folders: idempotent, exact to resume, one writer at a time (F1, F4, F5, F10 of our list)."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from recdrop.lab.checkpoint import Checkpoints
from recdrop.lab.config import parse_run
from recdrop.lab.errors import BadInput, Diverged, StorageFailed
from recdrop.lab.runs import Watcher, finished, read_environment, read_rows, run_cell
from recdrop.lab.storage import locked, write_whole
from recdrop.lab.train import Interrupted
from tests.lab.tiny import endless_run, tiny_model, tiny_run, tiny_words, write_text


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


def killed_and_resumed(folder, run, text, times, seed):
    """Kill -9 at random moments, then to the end; as one uninterrupted run, to the bit."""
    source = random.Random(seed)
    whole = folder / "whole"
    process = start(whole, run, text)
    process.wait()
    process.stdout.close()
    assert process.returncode == 0
    parts = folder / "parts"
    for _ in range(times):
        process = start(parts, run, text, save_every=source.choice([0.0, 0.0, 0.05]))
        time.sleep(source.random() * 0.4)
        end(process, signal.SIGKILL)
        if (parts / "result.json").exists():
            break
    run_cell(parts, run, text or None)
    assert result_of(parts) == result_of(whole)
    assert not list(parts.rglob("*.tmp"))


def test_kill_9_and_resume_words(tmp_path):
    killed_and_resumed(tmp_path, tiny_words(), write_text(tmp_path / "text"), 2, 1)


def test_kill_9_and_resume_temporal_order(tmp_path):
    killed_and_resumed(tmp_path, tiny_run(), "", 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_kill_9_and_resume_at_many_moments(tmp_path, seed):
    text = write_text(tmp_path / "text", lines=200)
    killed_and_resumed(tmp_path / "words", tiny_words(), text, 10, seed)
    killed_and_resumed(tmp_path / "order", tiny_run(), "", 10, seed)


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
    assert "going on from update 30" in warning
    assert result_of(folder) == result_of(tmp_path / "whole")


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
    with pytest.raises(StorageFailed, match=r"config\.json"):
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        model = tiny_run().model.model_copy(update={"hidden": 80})
        asked = iter([False] * 3 + [True])
        run = tiny_run(model=model)
        with pytest.raises(Interrupted):
            run_cell(disk / "run", run, stopping=lambda: next(asked))
        (disk / "filler").write_bytes(bytes(1_500_000))
        with pytest.raises(StorageFailed, match=r"No space left .*bytes needed.*bytes free"):
            run_cell(disk / "run", run, save_every=0.0)
        found, told = Checkpoints(disk / "run").newest(clean=False)
        assert found is not None
        assert told == []
        (disk / "filler").unlink()
        assert run_cell(disk / "run", run).outcome.updates == 8
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)
