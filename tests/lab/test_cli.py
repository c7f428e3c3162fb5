"""The command line: messages, exit codes, signals, and that finished cells are kept."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from recdrop import __version__ as recdrop_version
from recdrop.lab.cli import main
from tests.lab.tiny import LOCK, write_text

TINY = ["reproduce", "table1", "--scale", "quick", "--length", "3", "--cells", "gal-step-*"]


COMMAND = [sys.executable, "-c", "import sys; from recdrop.lab.cli import main; sys.exit(main())"]


def recdrop(*tokens: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *tokens],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip


def test_help_takes_less_than_a_second_and_does_not_import_torch():
    commands = ["train", "evaluate", "generate", "report"]
    commands += ["reproduce", "reproduce table1", "reproduce table2", "reproduce figure2"]
    code = (
        "import sys, time\nfrom recdrop.lab.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    assert main([*command.split(), '--help']) == 0, command\n"
        "    if command == '': print('seconds', time.process_time())\n"
        "assert main(['train', 'char-lm', '--preset', 'help']) == 0\n"
        "loaded = {'torch', 'matplotlib', 'numpy'} & {*sys.modules}\nassert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "", *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds = re.search(r"^seconds (.*)$", done.stdout, re.M)
    assert seconds
    assert float(seconds[1]) < 1  # of processor time, whatever else the machine does
    for command in commands:
        assert f"Usage: recdrop {command}" in done.stdout
    for option in ("--cells", "--preset", "--tensorboard", "--streams", "--temperature"):
        assert option in done.stdout


def test_a_process_that_is_stopped_while_it_trains(tmp_path):
    text, run = write_text(tmp_path / "text", 600), tmp_path / "run"
    tokens = ["train", "char-lm", "--data", str(text), "--out", str(run), "--set", "data.batch=4"]
    process = subprocess.Popen(
        [*COMMAND, *tokens, "--set", "schedule.epochs=1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (run / "checkpoints").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert time.monotonic() - start < 5
    assert re.fullmatch(r"recdrop: stopped by SIGTERM; at update \d+, .* goes on\n", said)
    saved = re.search(r"at update (\d+)", said)
    assert saved
    assert (run / "checkpoints" / f"step-{int(saved[1]):09d}" / "manifest.json").exists()


PLAIN_WRITING = (
    "import sys\nfrom inspect import signature\nfrom recdrop.lab import cli\n"
    "def write():\n    sys.stdout.write('x' * 10_000)\n    sys.stdout.flush()\n"
    "cli._parse = lambda tokens: (write, signature(write).bind())\nsys.exit(cli.main())"
)


@pytest.mark.parametrize(
    "command",
    [[*COMMAND, "train", "word-lm", "--preset", "help"], [sys.executable, "-c", PLAIN_WRITING]],
)
def test_nobody_reads_the_output_any_more(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


ASCII = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "160", "TERM": "dumb"}


def test_a_terminal_that_lacks_a_character():
    ours, theirs = pty.openpty()
    command = [*COMMAND, "reproduce", "--help"]
    with subprocess.Popen(command, stdout=theirs, env=ASCII) as process, open(ours, "rb") as screen:
        os.close(theirs)
        said = bytearray()
        with suppress(OSError):  # how a terminal ends
            while piece := screen.read1():
                said += piece
    assert process.returncode == 0
    assert b"{Moon, Gal, ours} ? {per step" in said


def test_a_pipe_gets_utf_8_wherever_it_is():
    command = [*COMMAND, "reproduce", "--help"]
    done = subprocess.run(command, capture_output=True, env=ASCII, check=False)
    assert done.returncode == 0, done.stderr
    assert "{Moon, Gal, ours} × {per step" in done.stdout.decode()


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["--scale", "huge"], ["scale"]),
        ([], ["scale"]),
        (["--scale", "quick", "--cells", "our-*"], ["our-* matches no cell", "ours-step-short"]),
        (["--scale", "quick", "--seeds", "0", "--workers", "-1"], ["seeds", "workers"]),
        (["--scale", "quick", "--length", "2"], ["length", "got '2'"]),
        (["--scale", "quick", "--sedes", "2"], ["--sedes", "did you mean --seeds?"]),
        (["--scale", "quick", "--seeds", "1.5"], ["seeds"]),
        (["--scale", "quick", "--sedes", "2", "--seeds", "0"], ["--sedes", "--seeds: "]),
    ],
)
def test_bad_input_is_told_and_exits_with_2(tokens, told, capsys):
    assert main(["reproduce", "table1", *tokens]) == 2
    said = capsys.readouterr().err
    for part in told:
        assert part in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "tokens", [["reproduce", "table9"], ["nope"], ["--nope"], ["reproduce", "--nope"]]
)
def test_unknown_commands(tokens, capsys):
    assert main(tokens) == 2
    assert "Unknown command" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [[], ["--help"], ["-h"], ["reproduce"], ["reproduce", "-h"]])
def test_groups_show_their_help(tokens, capsys):
    assert main(tokens) == 0
    assert "Usage" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == recdrop_version


def test_an_output_folder_in_a_files_place_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert main([*TINY, "--out", str(out)]) == 2
        assert f"{tmp_path / 'file'} is a file, expected a folder" in capsys.readouterr().err


def test_a_failed_run_is_told_and_decides_the_exit_code(tmp_path, capsys):
    run = tmp_path / "runs" / "gal-step-3" / "seed-0"
    (run / "metrics.jsonl").mkdir(parents=True)  # a file cannot be there
    (run / "lock").write_text(LOCK)
    assert main([*TINY, "--out", str(tmp_path)]) == 4
    said = capsys.readouterr()
    assert "metrics.jsonl" in said.err
    assert "1 of 1 runs failed" in said.err
    assert "Traceback" not in said.err


def test_a_system_that_refuses_processes_exits_with_4(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    assert main([*TINY, "--out", str(tmp_path)]) == 4
    assert "Resource temporarily unavailable" in capsys.readouterr().err


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[Path, str]:
    """One run of the whole way."""
    folder = tmp_path_factory.mktemp("table1")
    done = recdrop(*TINY, "--workers", "1", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_whole_way(table):
    folder, said = table
    for name in ("report.md", "report.html"):
        assert (folder / name).stat().st_size > 0
        assert f"Written: {folder / name}" in said
    assert "gal-step-3" in said
    assert "not run" in said
    assert "not the paper's protocol" in said
    result = json.loads((folder / "runs" / "gal-step-3" / "seed-0" / "result.json").read_text())
    assert result["outcome"]["stopped_by"] in ("rule", "epochs")


def test_the_same_command_again_trains_nothing(table):
    folder, _ = table
    result = folder / "runs" / "gal-step-3" / "seed-0" / "result.json"
    before = result.stat().st_mtime_ns
    done = recdrop(*TINY, "--out", str(folder))
    assert done.returncode == 0
    assert "1 of 1 runs were finished before" in done.stdout
    assert result.stat().st_mtime_ns == before


def test_another_protocol_in_the_same_folder_is_refused(table):
    folder, _ = table
    done = recdrop(*TINY, "--no-collisions", "--out", str(folder))
    assert done.returncode == 2
    assert "data.collide: stored True, asked False" in done.stderr


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_signals_stop_the_workers_and_leave_no_orphan(tmp_path, number, code):
    cell = ["--scale", "paper", "--cells", "ours-step-short", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*COMMAND, "reproduce", "table1", *cell],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    lock = tmp_path / "runs" / "ours-step-short" / "seed-0" / "lock"
    deadline = time.monotonic() + 60
    while not (lock.exists() and lock.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int(lock.read_text().split()[1])
    start = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert time.monotonic() - start < 10
    if number != signal.SIGKILL:  # which says nothing and cannot wait for its workers
        assert f"stopped by {number.name}; 0 of 1 runs are finished" in said
        assert gone(worker)
    while not gone(worker):
        assert time.monotonic() - start < 10
        time.sleep(0.05)
