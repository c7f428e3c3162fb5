"""Run folders: idempotent, whole or absent, one writer at a time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from recdrop.lab.config import Run
from recdrop.lab.errors import BadInput, Diverged, StorageFailed
from recdrop.lab.runs import finished, read_environment, read_rows, run_cell
from recdrop.lab.storage import locked, write_whole
from tests.lab.tiny import endless_run, tiny_run


def test_a_finished_run_is_not_trained_again(tmp_path):
    rows = []
    first = run_cell(tmp_path / "run", tiny_run(), on_row=rows.append)
    assert [r.update for r in rows] == [2, 4, 6, 8]
    stamp = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = run_cell(tmp_path / "run", tiny_run(), on_row=lambda _: pytest.fail("trained"))
    assert again == first
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == stamp


def test_what_lies_in_the_folder(tmp_path):
    result = run_cell(tmp_path, tiny_run())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "env.json",
        "lock",
        "metrics.jsonl",
        "result.json",
    ]
    assert Run.model_validate_json((tmp_path / "config.json").read_text()) == tiny_run()
    assert [row.update for row in read_rows(tmp_path)] == [2, 4, 6, 8]
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 3
    environment = read_environment(tmp_path)
    assert environment is not None
    assert {"torch", "cpu", "threads", "date"} <= set(environment)
    assert result.seconds > 0


def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path):
    run_cell(tmp_path, tiny_run())
    with pytest.raises(BadInput, match="seed: stored 3, asked 5"):
        run_cell(tmp_path, tiny_run(seed=5))


def test_an_unfinished_run_starts_over(tmp_path):
    run_cell(tmp_path, tiny_run())
    (tmp_path / "result.json").unlink()
    (tmp_path / "metrics.jsonl").write_text("half a li")
    (tmp_path / "result.json.tmp").write_text("half")
    run_cell(tmp_path, tiny_run())
    assert [row.update for row in read_rows(tmp_path)] == [2, 4, 6, 8]
    assert not (tmp_path / "result.json.tmp").exists()


WORKER = """
import sys
from pathlib import Path
from recdrop.lab.config import Run
from recdrop.lab.runs import run_cell
print("ready", flush=True)
run_cell(Path(sys.argv[1]), Run.model_validate_json(sys.argv[2]))
"""


def start(directory, run):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory), run.model_dump_json()],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_kill_9_leaves_no_result_and_the_next_start_completes(tmp_path):
    process = start(tmp_path, endless_run())
    wait_for(lambda: len(read_rows(tmp_path)) > 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert finished(tmp_path, endless_run()) is None
    with pytest.raises(BadInput, match="holds another run"):
        run_cell(tmp_path, tiny_run())
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    assert run_cell(tmp_path, tiny_run()).outcome.updates == 8


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path):
    process = start(tmp_path, endless_run())
    try:
        wait_for(lambda: read_rows(tmp_path))
        with pytest.raises(BadInput, match=f"in use by process {process.pid} on "):
            run_cell(tmp_path, endless_run())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with locked(tmp_path):
        pass  # the kernel let go


def test_divergence_is_kept_and_told_again(tmp_path, monkeypatch):
    def diverge(run, record):
        raise Diverged("ours-step-tiny, seed 3: the loss is nan at update 1")

    monkeypatch.setattr("recdrop.lab.runs.train", diverge)
    with pytest.raises(Diverged, match="update 1"):
        run_cell(tmp_path, tiny_run())
    assert json.loads((tmp_path / "failed.json").read_text())["kind"] == "diverged"
    assert not (tmp_path / "result.json").exists()


def test_corrupt_files_are_named(tmp_path):
    run_cell(tmp_path, tiny_run())
    (tmp_path / "result.json").write_text('{"name": 3}')
    with pytest.raises(StorageFailed, match=r"result\.json: .*name"):
        run_cell(tmp_path, tiny_run())
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(StorageFailed, match=r"metrics\.jsonl:1"):
        read_rows(tmp_path)


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFailed, match=r"a\.txt: No space left on device \(.*bytes free"):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
