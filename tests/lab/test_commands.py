"""``recdrop train``, ``evaluate``, ``generate`` and ``report`` as a user meets them."""

import contextlib
import importlib.util
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from recdrop.lab import progress, session
from recdrop.lab.cli import _parse, main
from recdrop.lab.commands import TrainOptions, configured
from recdrop.lab.config import Adam, LanguageModelRun
from recdrop.lab.console import complain, console
from recdrop.lab.environment import environment
from recdrop.lab.errors import BadInput
from recdrop.lab.paper.presets import PRESETS
from recdrop.lab.records import Row
from recdrop.lab.runs import read_rows
from recdrop.lab.settings import changed
from recdrop.lab.tasks import language_model
from recdrop.lab.tasks.net import recurrent_layers
from tests.lab import test_ner as ner
from tests.lab import test_sentiment as sentiment
from tests.lab.tiny import WORDS, write_text

SMALL = {
    "data.batch": 4,
    "data.window": 6,
    "model.hidden": 8,
    "model.embedding": 5,
    "schedule.epochs": 2,
    "schedule.log_every": 20,
}


def setting(values: dict[str, object]) -> list[str]:
    return [token for key, value in values.items() for token in ("--set", f"{key}={value}")]


def train(task: str, data: Path, out: Path, *tokens: str, **changes: object) -> int:
    """The command with the small settings; ``_`` in a name stands for a dot."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return main(
        ["train", task, "--data", str(data), "--out", str(out), *setting(settings), *tokens]
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def characters(text, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("characters") / "run"
    assert train("char-lm", text, run) == 0
    return run


@pytest.fixture(scope="module")
def words(text, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("words") / "run"
    assert train("word-lm", text, run, "--preset", "paper") == 0
    return run


def scores(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["outcome"]["scores"]


# ---------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("task", list(PRESETS))
def test_presets_are_printed_as_files_that_give_them_back(task, tmp_path, capsys):
    assert main(["train", task, "--preset", "help"]) == 0
    _, *printed = re.split(r"^# (?=[a-z-]+(?: \(default\))?$)", capsys.readouterr().out, flags=re.M)
    names = [block.split()[0] for block in printed]
    assert names == list(PRESETS[task])
    assert "(default)" in printed[0]
    assert all("(default)" not in block for block in printed[1:])
    other = names[-1] if len(names) > 1 else names[0]
    for name, block in zip(names, printed, strict=True):
        lines = [line for line in block.split("\n")[1:] if line]
        options = TrainOptions(preset=other, set=lines)
        assert configured(task, options) == PRESETS[task][name]
        (tmp_path / "run.toml").write_text("\n".join(lines))
        options = TrainOptions(preset=other, config=tmp_path / "run.toml")
        assert configured(task, options) == PRESETS[task][name]


def test_settings_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    config = tmp_path / "run.toml"
    config.write_bytes(
        b"\xef\xbb\xbfseed = 5\n[model]\nhidden = 64\nrecurrent_dropout = 0.5\n"
        b'[optim]\nclip_norm = "none"\n'
    )
    options = TrainOptions(config=config, set=["model.hidden=32", "task=char-lm", "table=none"])
    run = configured("char-lm", options)
    assert run == changed(
        PRESETS["char-lm"]["small"],
        {
            "seed": 5,
            "model": {"hidden": 32, "recurrent_dropout": 0.5},
            "optim": {"clip_norm": None},
        },
    )
    again = configured("char-lm", TrainOptions(set=["optim.kind=sgd", "optim.lr=0.5"]))
    assert again is not None
    assert again.optim.kind == "sgd"
    assert again.optim.clip_norm is None  # nothing is kept of another kind
    paper = TrainOptions(preset="paper", set=["optim.decay=none", "model.recurrent_dropout=0"])
    run = configured("char-lm", paper)
    assert run is not None
    assert isinstance(run.optim, Adam)
    assert run.optim.decay is None
    assert run.model.recurrent_dropout == ()


def test_all_faults_of_all_sources_are_told_at_once(tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text("[model]\nhidden = nan\n[schedul]\nepochs = 3\n[optim]\nlr = 2020-01-01\n")
    wrong = {
        "model.hiden": 3,
        "schedule.epochs": 10**20,
        "model.recurrent_dropout": 1.5,
        "data.window": "x",
        "task": "word-lm",
        "table": "table2",
    }
    out = tmp_path / "run"
    tokens = ["--data", str(tmp_path / "nowhere"), "--out", str(out), "--config", str(config)]
    tokens += ["--set", "layers", "--column", "2"]
    assert main(["train", "char-lm", *tokens, *setting(wrong)]) == 2
    said = capsys.readouterr().err
    for told in (
        "model.hidden: Input should be a valid integer, got nan",
        "schedul: no such key, did you mean schedule?",
        "optim.lr: Input should be a valid number, got '2020-01-01'",
        "model.hiden: no such key, did you mean hidden?",
        "schedule.epochs: Input should be less than or equal to 1000000000",
        "model.recurrent_dropout.0.rate: Input should be less than 1, got 1.5",
        "data.window: Input should be a valid integer, got 'x'",
        "task: the command says char-lm, the settings 'word-lm'",
        "table: only recdrop reproduce",
        "nowhere: no such file or folder",
        "--set layers: expected KEY=VALUE",
        "--column: only ner has it",
    ):
        assert told in said
    assert not out.exists()


def test_options_that_are_settings_are_told_as_such(tmp_path, capsys):
    tokens = ["--hidden", "1", "--lr=1", "--clip-norm", "1", "--model.cell", "gru", "--seed", "1"]
    tokens += ["--window", "3", "--nonsense", "1", "--otu", str(tmp_path)]
    assert main(["train", "ner", *tokens]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "recdrop: --hidden: no such option, did you mean --set model.hidden=VALUE?",
        "--lr: no such option, did you mean --set optim.lr=VALUE?",
        "--clip-norm: no such option, did you mean --set optim.clip_norm=VALUE?",
        "--model.cell: no such option, did you mean --set model.cell=VALUE?",
        "--seed: no such option, did you mean --set seed=VALUE?",
        "--window: no such option, did you mean --set model.window=VALUE?",
        "--nonsense: no such option",
        "--otu: no such option, did you mean --out?",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"model = {hidden = 3\n", "not TOML"),
        (b"[model]\nhidden = 3\nhidden = 4\n", "not TOML"),
        (b"a = " + b"[" * 5_000, "not TOML"),
        (b"seed = " + b"9" * 5_000, "not TOML"),
        (b"# caf\xe9", "not TOML"),
        (None, "No such file"),
        (b"[[model]]\nhidden = 3\n", "model: Input should be an object"),
    ],
)
def test_a_file_of_settings_that_cannot_be_read(tmp_path, content, told, capsys):
    config = tmp_path / "run.toml"
    if content is not None:
        config.write_bytes(content)
    assert (
        main(["train", "word-lm", "--config", str(config), "--preset", "none", "--set", "x"]) == 2
    )
    said = capsys.readouterr().err
    assert "--preset none: word-lm has small, paper, paper-gru, paper-rnn" in said
    assert "--set x: expected KEY=VALUE" in said
    if content is None or not content.startswith(b"[[model"):  # which is TOML
        assert told in said
    assert main(["train", "word-lm", "--config", str(config), "--data", "x"]) == 2
    assert told in capsys.readouterr().err


PAGE = Path(__file__).parents[2] / "docs" / "lab.md"


def test_the_settings_and_commands_of_the_page_are_taken(tmp_path):
    page = PAGE.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    (tmp_path / "run.toml").write_text(example)
    run = configured("char-lm", TrainOptions(config=tmp_path / "run.toml"))
    assert run is not None
    assert run.seed == 1
    assert run.optim.clip_norm is None
    blocks = re.findall(r"```sh\n(.*?)```", page.replace("\\\n", ""), re.S)
    lines = [line for block in blocks for line in block.split("\n")]
    commands = [shlex.split(line, comments=True) for line in lines if "recdrop" in line]
    assert len(commands) > 10
    for command in commands:
        _, bound = _parse(command[command.index("recdrop") + 1 :])
        options = bound.kwargs.get("options")
        if isinstance(options, TrainOptions):
            assert configured(bound.args[0], options.model_copy(update={"data": None})) is not None
    for decay in re.findall(r"`(\{kind = .*?\})`", page):
        assert configured("word-lm", TrainOptions(set=[f"optim.decay={decay}"])) is not None


def test_the_page_has_every_setting():
    table = PAGE.read_text().partition("| setting | meaning |\n")[2].partition("\n\n")[0]
    named, part = set(), ""
    for row in table.splitlines():
        for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1]):
            part = name.rpartition(".")[0] or part
            named |= {name, f"{part}.{name.rpartition('.')[2]}"}
    for presets in PRESETS.values():
        for run in presets.values():
            values = run.model_dump(exclude={"task", "table", "scale"})
            for key, value in values.items():
                wanted = {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
                assert wanted <= named


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["model.cell=rnn"], "a plain RNN has the site hidden only"),
        (["data.stride=5", "data.window=12"], "stride must divide window 12"),
        (["data.unknown=false", "data.min_count=2"], "needs unknown = true"),
        (["model.recurrent_dropout=[{rate=0.2},{rate=0.3}]"], "takes each site once"),
        (["optim.kind=adamw"], "'sgd', 'adam', 'rmsprop'"),
        (["optim.lr=inf", "optim.clip_norm=-1"], "optim.clip_norm: Input should be greater than 0"),
        (["name=../x", "seed=-1"], "seed: Input should be greater than or equal to 0"),
        (["name=x y"], "name: expected letters a-z, digits, single dashes between, got 'x y'"),
    ],
)
def test_conflicting_and_impossible_settings(pairs, told):
    with pytest.raises(BadInput, match=re.escape(told)):
        configured("char-lm", TrainOptions(set=pairs))


def test_none_is_no_recurrent_dropout():
    run = configured("char-lm", TrainOptions(set=["model.recurrent_dropout=none"]))
    assert isinstance(run, LanguageModelRun)
    assert run.model.recurrent_dropout == ()


# ------------------------------------------------------------------------------------------- train


def test_a_run_tells_what_it_came_to_and_the_same_command_trains_no_more(
    text, characters, words, capsys
):
    before = (characters / "metrics.jsonl").stat().st_mtime_ns
    assert train("char-lm", text, characters) == 0
    said = capsys.readouterr().out
    assert "finished before, nothing was trained" in said
    assert "ended by all epochs" in said
    assert f"bits: test {scores(characters)['test']:.5g}, " in said
    assert f"Run: {characters}" in said
    assert (characters / "metrics.jsonl").stat().st_mtime_ns == before
    assert train("word-lm", text, words, "--preset", "paper") == 0
    assert f"perplexity: test {scores(words)['test']:.5g}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "line", "told"),
    [
        ("word-lm", "the cat sat on it\n", "words; vocabulary: 7 symbols"),
        ("char-lm", "the cat sat on it\n", "characters as they stand; vocabulary: 12 symbols"),
        (
            "char-lm",
            "t h e _ c a t\n",
            "spaced symbols, as in Mikolov's character files; vocabulary: 8 symbols",
        ),
    ],
)
def test_training_tells_how_a_text_was_recognised(task, line, told, tmp_path, capsys):
    (tmp_path / "own.txt").write_text(line * 400)
    assert train(task, tmp_path / "own.txt", tmp_path / "run", schedule__epochs=1) == 0
    said = capsys.readouterr().out
    assert f"text: {told}\n" in said
    assert "<unk>" not in said


def test_the_share_of_unknown_symbols_is_told_stored_and_reported(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for name, line in (("train", "a b c\n"), ("valid", "a x c\n"), ("test", "a b c x\n")):
        (tmp_path / "texts" / f"{name}.txt").write_text(line * 200)
    assert train("word-lm", tmp_path / "texts", tmp_path / "run") == 0
    assert "; <unk>: valid 25%, test 20%\n" in capsys.readouterr().out
    sources = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [sources[name]["unknown"] for name in ("train", "valid", "test")] == [0, 200, 200]
    assert main(["report", str(tmp_path)]) == 0
    assert "- &lt;unk>: valid 25%, test 20%\n" in (tmp_path / "report.md").read_text()


def test_training_tells_what_it_never_reads(tmp_path, capsys):
    """Of 1,000 symbols 4 streams of 6 leave 15, of 991 they leave 6."""
    for length, told in ((1_000, "the last 1.5% (15 symbols) are never read, for they"), (991, "")):
        for name in ("train", "valid", "test"):
            (tmp_path / f"{name}.txt").write_text(("ab" * length)[:length])
        assert train("char-lm", tmp_path, tmp_path / str(length), schedule__epochs=1) == 0
        said = capsys.readouterr().out
        assert ("train: the last" in said) == bool(told)
        assert told in said


def test_training_tells_of_pieces_that_are_too_short(tmp_path, capsys):
    """Scores of short texts depend on the batch."""
    told = "test: read in 4 pieces of fewer than 10 windows, each from a zero state"
    for name, lengths in (("short", (239, 239)), ("long", (240, 240)), ("mixed", (240, 239))):
        for part, length in zip(("train", "valid", "test"), (500, *lengths), strict=True):
            (tmp_path / f"{part}.txt").write_text(("ab" * length)[:length])
        assert train("char-lm", tmp_path, tmp_path / name, schedule__epochs=1) == 0
        said = capsys.readouterr().out
        assert (told in said) == (name != "long")
        assert ("valid and test: read in" in said) == (name == "short")
    assert train("char-lm", tmp_path, tmp_path / "one", schedule__epochs=1, data__batch=1) == 0
    assert "zero state" not in capsys.readouterr().out


def test_other_settings_or_data_in_the_same_folder_are_refused(text, words, tmp_path, capsys):
    paper = ("--preset", "paper")
    assert train("word-lm", text, words, *paper, model__hidden=9) == 2
    assert "model.hidden: stored 8, asked 9" in capsys.readouterr().err
    assert train("char-lm", text, words) == 2
    assert "task: stored 'word-lm', asked 'char-lm'" in capsys.readouterr().err
    assert train("word-lm", write_text(tmp_path / "other", 61), words, *paper) == 2
    assert "other than those the run began with (train, valid, test)" in capsys.readouterr().err
    (words / "result.json").rename(tmp_path / "result.json")
    try:
        assert train("word-lm", tmp_path / "other", words, *paper) == 2
    finally:
        (tmp_path / "result.json").rename(words / "result.json")
    assert "does not agree with the data given now" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["result.json", "metrics.jsonl", "checkpoints", "config.json", "lock"]
)
def test_files_that_are_no_runs_are_left_alone(name, text, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")
    assert train("char-lm", text, run) == 2
    said = capsys.readouterr().err
    assert f"{run / name} " in said
    assert "describes no run" in said or "is there, but no run" in said
    assert (run / name).read_text() == "mine"
    assert [path.name for path in run.iterdir()] == [name]


def test_lines_and_names_are_told_as_they_are(tmp_path, capsys):
    """Rich has pictures for some words between colons."""
    complain("a.tsv:100: and b:1234: or :heart:")
    console().print("a.tsv:100:", markup=False)
    told = capsys.readouterr()
    assert told.err == "recdrop: a.tsv:100: and b:1234: or :heart:\n"
    assert told.out == "a.tsv:100:\n"


@pytest.mark.parametrize(("key", "most"), [("model.init_range", 1e38), ("optim.lr", 3e38)])
def test_numbers_beyond_float32_are_refused(key, most, text, tmp_path, capsys):
    assert train("char-lm", text, tmp_path / "run", "--set", f"{key}=1e39") == 2
    said = capsys.readouterr().err
    told = re.search(rf"{key}: Input should be less than or equal to (\d+), got", said)
    assert told is not None
    assert float(told[1]) == most


def test_a_pipe_in_a_files_place_is_told(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert train("char-lm", tmp_path / "pipe", tmp_path / "run") == 2
    assert "pipe is no regular file; write its text to one" in capsys.readouterr().err


def test_a_file_in_a_folders_place(text, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert train("char-lm", text, out) == 2
        told = f"recdrop: {tmp_path / 'file'} is a file, expected a folder; choose another\n"
        assert capsys.readouterr().err == told
    assert main(["vectors", "train", "--text", str(text), "--out", str(tmp_path / "v")]) == 2
    assert f"{text} is a folder; expected a text file" in capsys.readouterr().err


def test_texts_that_cannot_be_trained_on(tmp_path, capsys):
    files = {
        "empty.txt": (b"", "empty or all blank"),
        "bad.txt": (b"fine\nhello \xff\n", "bad.txt:2: byte 7"),
        "short.txt": (b"a few words\n", "to be split 90/5/5 a file needs at least 20"),
        "little.txt": (b"some text\n" * 4, "4 streams of a window of 600 need"),
        "missing.txt": (None, "missing.txt: no such file"),
    }
    for name, (content, told) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert train("char-lm", tmp_path / name, tmp_path / "run", data__window=600) == 2
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
    assert train("char-lm", tmp_path, tmp_path / "run") == 2
    assert "has no training text; looked for train.txt" in capsys.readouterr().err
    assert main(["train", "char-lm", "--out", str(tmp_path / "run")]) == 2
    assert "char-lm needs --data" in capsys.readouterr().err
    tokens = ["train", "temporal-order", "--out", str(tmp_path / "run"), "--data", str(tmp_path)]
    assert main(tokens) == 2
    assert "makes its own data" in capsys.readouterr().err


def test_a_run_that_diverges_exits_with_3(text, tmp_path, capsys):
    assert train("char-lm", text, tmp_path / "run", optim__lr=1e30) == 3
    said = capsys.readouterr().err
    assert "at update 2" in said
    assert "A smaller optim.lr" in said
    assert json.loads((tmp_path / "run" / "failed.json").read_text())["message"] in said


def at_row(monkeypatch, number: int, *signals: int) -> None:
    """Send this process signals once so many rows are stored in a sitting."""
    stored = 0
    show = session._Shown.row

    def row(self, one: Row) -> None:
        nonlocal stored
        show(self, one)
        stored += 1
        if stored == number:
            for one in signals:
                signal.raise_signal(one)

    monkeypatch.setattr(session._Shown, "row", row)


def test_signals_save_and_the_same_command_goes_on(text, characters, tmp_path, monkeypatch, capsys):
    """Three kinds of signal, then to the end: the record is that of an undisturbed run."""
    run = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            at_row(patch, 1, number)
            start = time.monotonic()
            assert train("char-lm", text, run) == code
            assert time.monotonic() - start < 5
        told = (
            rf"stopped by {number.name}; at update \d+, epoch \d; saved, the same command goes on"
        )
        assert re.search(told, capsys.readouterr().err)
        assert not (run / "result.json").exists()
    update = max(row.update for row in read_rows(run))
    assert train("char-lm", text, run) == 0
    assert re.search(rf"^going on from update {update}, epoch \d$", capsys.readouterr().out, re.M)
    for name in ("metrics.jsonl", "vocabulary.json", "data.json", "config.json"):
        assert (run / name).read_bytes() == (characters / name).read_bytes()
    assert scores(run) == scores(characters)


@pytest.mark.parametrize("task", ["ner", "sentiment"])
def test_a_signal_saves_a_run_over_rows_too(task, tmp_path, monkeypatch, capsys):
    data = (ner.write if task == "ner" else sentiment.write_texts)(tmp_path / "data")
    values: dict[str, object] = {"model.hidden": 8, "schedule.epochs": 3, "schedule.log_every": 2}

    def run(out: Path) -> int:
        return main(["train", task, "--data", str(data), "--out", str(out), *setting(values)])

    assert run(tmp_path / "whole") == 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            at_row(patch, 1, number)
            start = time.monotonic()
            assert run(tmp_path / "run") == code
            assert time.monotonic() - start < 5
        assert f"stopped by {number.name}" in capsys.readouterr().err
    assert run(tmp_path / "run") == 0
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert metrics[0] == metrics[1]
    assert scores(tmp_path / "run") == scores(tmp_path / "whole")


@pytest.mark.parametrize("task", ["ner", "sentiment"])
def test_a_run_over_rows_that_diverges_exits_with_3(task, tmp_path, capsys):
    data = (ner.write if task == "ner" else sentiment.write_texts)(tmp_path / "data")
    values: dict[str, object] = {"model.activation": "relu", "optim.lr": 1e30}
    out = tmp_path / "run"
    tokens = ["train", task, "--data", str(data), "--out", str(out), *setting(values)]
    assert main(tokens) == 3
    said = capsys.readouterr().err
    assert "stopped before it was used" in said or "was not saved" in said
    assert json.loads((out / "failed.json").read_text())["message"] in said


def test_a_folder_that_vanishes_exits_with_4(text, tmp_path, monkeypatch, capsys):
    show = session._Shown.row

    def row(self, one: Row) -> None:
        show(self, one)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(session._Shown, "row", row)
    assert train("char-lm", text, tmp_path / "run") == 4
    said = capsys.readouterr().err
    assert re.fullmatch(rf"recdrop: {tmp_path}/run.*: No such file or directory.*\n", said)
    assert "bytes free" in said


def test_a_second_sigint_stops_at_once(text, tmp_path, monkeypatch, capsys):
    at_row(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    assert train("char-lm", text, tmp_path / "run") == 130
    assert capsys.readouterr().err == "recdrop: stopped by SIGINT\n"
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.undo()
    assert train("char-lm", text, tmp_path / "run") == 0


def test_two_commands_on_one_folder(text, tmp_path, monkeypatch, capsys):
    codes = []
    show = session._Shown.row

    def row(self, one: Row) -> None:
        show(self, one)
        if not codes:
            codes.append(None)
            codes[0] = train("char-lm", text, tmp_path / "run")

    monkeypatch.setattr(session._Shown, "row", row)
    assert train("char-lm", text, tmp_path / "run") == 0
    assert codes == [2]
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.fixture
def disk(tmp_path):
    """Mounts a small disk with options; unmounted at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        command = ["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("mounting is not allowed here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["/bin/umount", str(place)], check=True)


def test_a_full_disk_and_a_read_only_one_exit_with_4_and_one_line(text, disk, capsys):
    place = disk("size=2m")
    assert train("char-lm", text, place / "run", model__hidden=300) == 4
    said = capsys.readouterr().err
    assert re.fullmatch(r"recdrop: .*disk-0/run/.*: No space left on device \(.*\)\n", said)
    assert "bytes needed" in said
    place = disk("size=2m,ro")
    assert train("char-lm", text, place / "run") == 4
    said = capsys.readouterr().err
    assert re.fullmatch(r"recdrop: .*disk-1/run: Read-only file system \(.*\)\n", said)


def test_too_little_memory_is_told(monkeypatch, capsys):
    def fail(message: str):
        def train_here(*_, **__):
            raise RuntimeError(message)

        monkeypatch.setattr(session, "train_here", train_here)
        return main(["train", "temporal-order"])

    assert fail("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9 bytes") == 2
    assert "there is not enough memory; a smaller model" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="anything else"):
        fail("anything else")


# ---------------------------------------------------------------------------------------- progress


def test_plain_lines_where_there_is_no_terminal(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    monkeypatch.setattr(session, "_REFRESH", 0.0)
    assert train("char-lm", text, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^\d+ s: at most \d+ s left; run epoch 2 of at most 2, [\d,]+ characters/s, "
        r"bits: train \d\.\d+, valid \d\.\d+$",
        said,
        re.M,
    )
    assert "\x1b" not in said
    assert "\r" not in said


def test_plain_lines_on_a_terminal_that_draws_no_bar(text, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    monkeypatch.setattr(session, "_REFRESH", 0.0)
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=200, _environ={"TERM": "dumb"})
    monkeypatch.setattr(session, "console", lambda: terminal)
    assert train("char-lm", text, tmp_path / "run") == 0
    assert re.search(r"^\d+ s: at most \d+ s left; run epoch 2 of", screen.getvalue(), re.M)
    assert "\x1b" not in screen.getvalue()


def test_a_bar_on_a_terminal_of_80_columns(text, tmp_path, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(session, "console", lambda: terminal)
    monkeypatch.setattr(session, "_REFRESH", 0.0)
    # Frames are drawn ten times a second, at moments of their own; here with every row.
    show = session._Shown.row

    def row(self, one: Row) -> None:
        show(self, one)
        self.display.refresh()
        self.display._progress.refresh()

    monkeypatch.setattr(session._Shown, "row", row)
    assert train("word-lm", text, tmp_path / "run", schedule__epochs=3) == 0
    frames = re.split(r"\x1b\[[0-9;?]*[A-Za-z]|\r", screen.getvalue())
    lines = [line.rstrip() for frame in frames for line in frame.splitlines()]
    notes = [line for line in lines if re.match("train: |valid and test: ", line)]
    assert max(len(line) for line in lines if line not in notes) <= 80
    bars = [line for line in lines if re.match(r"run [━╸╺ ]{4,} epoch 3 of at most 3, ", line)]
    assert any(re.search(r"at most \d+ s left +\d:\d\d:\d\d$", line) for line in bars)
    told = r" +[\d,]+ tokens/s; perplexity: train [\d.]+, valid [\d.]+"
    assert any(re.fullmatch(told, line) for line in lines)


NO_TENSORBOARD = importlib.util.find_spec("tensorboard") is None


@pytest.mark.skipif(NO_TENSORBOARD, reason="tensorboard is not installed")
def test_tensorboard_shows_every_row_once(text, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_row(patch, 2, signal.SIGTERM)
        assert train("char-lm", text, run, "--tensorboard") == 143
    assert train("char-lm", text, run, "--tensorboard") == 0
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    rows = read_rows(run)
    assert len(rows) > 5
    for split in ("train", "valid"):
        for name in ("loss", "score", "lr"):
            expected = [(r.update, getattr(r, name)) for r in rows if r.split == split]
            there = [(event.step, event.value) for event in shown.Scalars(f"{split}/{name}")]
            assert [step for step, _ in there] == [step for step, _ in expected]
            for (_, value), (_, stored) in zip(there, expected, strict=True):
                assert value == pytest.approx(stored, rel=1e-6)


def test_without_tensorboard_it_says_what_to_install(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train("char-lm", text, tmp_path / "run", "--tensorboard") == 2
    assert "pip install 'recdrop[tensorboard]'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- evaluate


def told_by_evaluate(capsys, *tokens: str) -> str:
    assert main(["evaluate", *tokens]) == 0
    return capsys.readouterr().out


def test_evaluate_measures_what_training_told(text, characters, words, capsys):
    test = str(text / "test.txt")
    size = len((text / "test.txt").read_text())
    said = told_by_evaluate(capsys, str(characters), "--data", test)
    assert f"{scores(characters)['test']:.4f} bits per character on all {size} characters" in said
    said = told_by_evaluate(capsys, str(words), "--data", test, "--paper-style")
    assert f"perplexity {scores(words)['test']:.4g} on all {15 * 7} tokens, of {test}" in said
    assert f"paper style: perplexity {scores(words)['test_paper_style']:.4g}, 4 windows of" in said


def test_the_papers_style_cuts_a_text_as_training_does(tmp_path, capsys):
    """The test text to as many windows as validation has."""
    text = write_text(tmp_path / "text")
    (text / "test.txt").write_text((text / "train.txt").read_text())
    assert train("word-lm", text, tmp_path / "run") == 0
    capsys.readouterr()
    test = str(text / "test.txt")
    said = told_by_evaluate(capsys, str(tmp_path / "run"), "--data", test, "--paper-style")
    wanted = scores(tmp_path / "run")["test_paper_style"]
    assert f"paper style: perplexity {wanted:.4g}, 4 windows of 6 x 4\n" in said


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_damaged_checkpoint_is_told_whoever_asks(command, text, characters, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(characters, run)
    newest = max((run / "checkpoints").glob("step-*")) / "weights.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    tokens = {"evaluate": ["--data", str(text / "test.txt")], "generate": ["--prompt", "a"]}
    assert main([command, str(run), *tokens[command]]) == 0
    said = capsys.readouterr().err
    assert str(newest) in said
    assert re.search(r"; the one after \d+ updates is taken\n$", said)


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_a_swapped_vocabulary_is_refused(command, text, characters, words, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(characters, run)
    shutil.copy(words / "vocabulary.json", run / "vocabulary.json")
    tokens = {"evaluate": ["--data", str(text / "test.txt")], "generate": ["--prompt", "a"]}
    assert main([command, str(run), *tokens[command]]) == 2
    assert "it is not the vocabulary that the run was trained with" in capsys.readouterr().err


def test_evaluate_in_one_stream_is_another_number_and_says_which_net(
    text, words, capsys, monkeypatch
):
    evaluate = language_model.evaluate
    numbers: list[float] = []  # all digits; those that are told may agree

    def noted(*args: Any) -> tuple[float, int]:
        nats, count = evaluate(*args)
        numbers.append(nats)
        return nats, count

    monkeypatch.setattr(language_model, "evaluate", noted)
    test = str(text / "test.txt")
    exact = told_by_evaluate(capsys, str(words), "--data", test, "--streams", "1")
    told_by_evaluate(capsys, str(words), "--data", test, "--streams", "100000")
    told_by_evaluate(capsys, str(words), "--data", test)
    assert len(numbers) == len(set(numbers)) == 3
    best = json.loads((words / "result.json").read_text())["outcome"]["best_update"]
    assert f"the net after {best} updates" in exact


def test_evaluate_of_spaced_symbols_refuses_other_texts(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("t h e _ c a t\n" * 400)
    assert train("char-lm", tmp_path / "own.txt", tmp_path / "run", schedule__epochs=1) == 0
    (tmp_path / "other.txt").write_text("a cat\nthe cat\n")
    for name, code in (("own.txt", 0), ("other.txt", 2)):
        assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / name)]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "other.txt has words of several letters; expected single symbols" in said


def test_evaluate_counts_what_the_vocabulary_lacks(characters, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("a bit ☃ of Ω text\n")
    said = told_by_evaluate(capsys, str(characters), "--data", str(tmp_path / "other.txt"))
    assert "on all 18 characters, 2 of them <unk>" in said
    bits = float(said.splitlines()[1].split()[0])
    assert math.isfinite(bits)
    assert main(["evaluate", str(characters), "--data", str(tmp_path / "other.txt")]) == 0


def test_what_evaluate_refuses(text, characters, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "strange.txt").write_text("☃☃☃\n")
    (tmp_path / "short.txt").write_text("a bit of text\n")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_bytes((characters / "config.json").read_bytes())
    run, test = str(characters), str(text / "test.txt")
    cases = [
        ([run, "--data", str(tmp_path / "empty.txt")], "empty or all blank"),
        ([run, "--data", str(tmp_path / "strange.txt")], "nothing in it is in the vocabulary"),
        ([run, "--data", str(tmp_path / "missing.txt")], "no such file"),
        ([run, "--data", str(text)], "is a folder; give one file"),
        ([run, "--data", str(tmp_path / "short.txt"), "--paper-style"], "of 30 symbols"),
        ([run, "--data", test, "--streams", "0"], "--streams: "),
        (
            [run, "--data", test, "--text-column", "2"],
            "--text-column: a run of char-lm has no such thing\n",
        ),
        ([str(text), "--data", test], "holds no run"),
        ([str(tmp_path / "nowhere"), "--data", test], "holds no run"),
        ([str(begun), "--data", test], "training has not come that far yet"),
        ([run], "--data"),
    ]
    for tokens, told in cases:
        assert main(["evaluate", *tokens]) == 2, tokens
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said


def test_a_run_of_another_task_neither_evaluates_nor_writes(text, tmp_path, capsys):
    settings = {"data.train": 32, "data.batch": 8, "data.test": 8, "model.hidden": 3}
    settings |= {"schedule.epochs": 1, "schedule.stop": "none"}
    run = str(tmp_path / "run")
    assert main(["train", "temporal-order", "--out", run, *setting(settings)]) == 0
    assert re.search(r"^accuracy: test \d+\.\d\d%", capsys.readouterr().out, re.M)
    for tokens in (["evaluate", run, "--data", str(text / "test.txt")], ["generate", run]):
        assert main(tokens) == 2
        assert "a run of temporal-order, not a language model" in capsys.readouterr().err


def test_the_device_goes_to_the_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "recdrop.lab.session.run_cell", lambda *_, device, **__: asked.append(device)
    )
    monkeypatch.setattr("recdrop.lab.commands._tell_result", lambda *_: None)
    for more in ([], ["--device", "cuda"]):
        main(["train", "temporal-order", "--out", str(tmp_path / "run"), *more])
    assert asked == ["cpu", "cuda"]


def test_the_environment_names_the_card_that_is_used(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    assert environment()["gpu"] == ""
    assert environment("cuda")["gpu"] == "a card"


def test_dropout_between_layers_is_that_of_the_layers():
    """Of every net: in training it makes a difference, in evaluation none."""
    for task in ("word-lm", "ner", "sentiment"):
        more = {"model": {"layers": 2, "dropout_between": 0.5, "hidden": 4, "embedding": 3}}
        run = changed(PRESETS[task]["small"], more)
        for cell in ("lstm", "gru", "rnn"):
            model = run.model.model_copy(update={"cell": cell, "recurrent_dropout": ()})
            layers = recurrent_layers(model, 3)
            x = torch.randn(5, 2, 3)
            assert (layers.dropout, layers.num_layers) == (0.5, 2)
            assert not torch.equal(layers(x)[0], layers(x)[0])
            layers.eval()
            assert torch.equal(layers(x)[0], layers(x)[0])


# ---------------------------------------------------------------------------------------- generate


def written(capsys, run: Path, *tokens: str) -> str:
    assert main(["generate", str(run), *tokens]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_weights_of_other_shapes_than_the_configurations(
    command, text, characters, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(characters, run)
    path = run / "config.json"
    path.write_text(path.read_text().replace('"hidden": 8', '"hidden": 9'))
    tokens = {"evaluate": ["--data", str(text / "test.txt")], "generate": ["--prompt", "a"]}
    assert main([command, str(run), *tokens[command]]) == 2
    said = capsys.readouterr().err
    assert "config.json or data.json has been changed since it was written" in said
    assert "Traceback" not in said


def test_generate_goes_on_from_the_prompt_and_the_seed_decides(characters, capsys):
    tokens = ["--prompt", "a bit", "--length", "40"]
    first = written(capsys, characters, *tokens)
    assert first.startswith("a bit")
    assert len(first) == len("a bit") + 40 + len("\n")
    assert written(capsys, characters, *tokens) == first
    assert written(capsys, characters, *tokens, "--seed", "1") != first
    cold = written(capsys, characters, *tokens, "--temperature", "0")
    assert written(capsys, characters, *tokens, "--top-k", "1", "--seed", "7") == cold
    assert len(written(capsys, characters, "--prompt", "", "--length", "7")) == 8


def test_words_print_with_blanks_between_and_lines_without_any_at_their_edges(words, capsys):
    said = written(capsys, words, "--prompt", "a bit", "--length", "60", "--temperature", "2")
    assert re.match(r"a bit(\n| )", said)
    lines = said.removesuffix("\n").split("\n")
    assert len(lines) > 1  # with <eos> one of ten words, 60 without it are a miracle
    for line in lines:
        assert line == line.strip()
        assert set(line.split(" ")) <= {*WORDS, ""}
    assert len(said.replace("\n", " <eos> ").split()) - 1 == 2 + 60
    assert "<eos>" not in said


def test_symbols_that_the_model_does_not_know_are_told(characters, capsys):
    assert main(["generate", str(characters), "--prompt", "a ☃ bit", "--length", "5"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("a ☃ bit")
    assert "1 of 7 symbols of the prompt" in said.err


@pytest.mark.parametrize(
    ("stream", "told"),
    [("stdin", "no standard input; give --prompt"), ("stdout", "no standard output")],
)
def test_generate_with_a_closed_stream(stream, told, characters, capsys, monkeypatch):
    monkeypatch.setattr(sys, stream, None)
    assert main(["generate", str(characters)]) == 2
    assert told in capsys.readouterr().err


@contextlib.contextmanager
def piped(content: bytes, monkeypatch) -> Iterator[None]:
    """Standard input that holds so much and ends."""
    taken, given = os.pipe()
    os.write(given, content)
    os.close(given)
    with os.fdopen(taken) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        yield


@pytest.mark.parametrize(
    "content",
    [b"a bit\n\nof text", b"a bit\r\n\r\nof text\r\n", b"\xef\xbb\xbfa bit\r\rof text\r"],
)
def test_generate_takes_prompts_from_a_pipe(content, characters, capsys, monkeypatch):
    with piped(content, monkeypatch):
        said = written(capsys, characters, "--length", "10", "--temperature", "0")
    asked = [
        written(capsys, characters, "--length", "10", "--temperature", "0", "--prompt", prompt)
        for prompt in ("a bit", "", "of text")
    ]
    assert said == "".join(asked)


def test_prompts_that_are_no_text(characters, capsys, monkeypatch):
    assert main(["generate", str(characters), "--prompt", "caf\udce9"]) == 2
    assert "the prompt is not UTF-8" in capsys.readouterr().err
    for content, told in ((b"a\ncaf\xe9\n", "2: not UTF-8"), (b"a\0\n", "1: NUL is not text")):
        with piped(content, monkeypatch):
            assert main(["generate", str(characters)]) == 2
        assert f"standard input:{told}" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_asks_and_asks_again(text, tmp_path, capsys, monkeypatch):
    closed = tmp_path / "closed"
    assert train("char-lm", text, closed, data__unknown="false") == 0
    assert main(["generate", str(closed), "--prompt", "a ☃"]) == 2
    assert "'☃' is not in the vocabulary" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", Terminal("☃\na bit\n"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["generate", str(closed), "--length", "5"]) == 0
    said = capsys.readouterr()
    assert "'☃' is not in the vocabulary" in said.err
    assert re.fullmatch(r"> > a bit.{5}\n> \n", said.out, re.S)


def test_what_generate_refuses_is_told_at_once(characters, capsys):
    tokens = {"length": "0", "temperature": "nan", "top-k": "0", "seed": "-1"}
    given = [token for name, value in tokens.items() for token in (f"--{name}", value)]
    assert main(["generate", str(characters), "--prompt", "a", *given]) == 2
    said = capsys.readouterr().err
    for name, value in tokens.items():
        assert re.search(rf"--{name}: .*got '{value}'", said)


# ------------------------------------------------------------------------------------------ report


def test_report_tells_of_runs_at_any_depth(text, characters, tmp_path, capsys):
    shutil.copytree(characters, tmp_path / "deep" / "er" / "run")
    assert train("word-lm", text, tmp_path / "mine", name="my-words") == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"Written: {tmp_path / 'report.html'}" in said
    page = (tmp_path / "report.md").read_text()
    assert "### mine (word-lm, my-words)\n" in page
    assert "### deep/er/run (char-lm)\n" in page
    assert f"- test, perplexity: {scores(tmp_path / 'mine')['test']:.5g}\n" in page


@pytest.mark.parametrize("name", ["report.md", "report.html", "pictures/run-1.svg"])
def test_report_replaces_no_file_but_a_reports(name, characters, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "deep" / "out"
    shutil.copytree(characters, runs / "run")
    (runs / name).parent.mkdir(exist_ok=True)
    (runs / name).write_text("my own\n")
    before = sorted(path.name for path in runs.iterdir())
    assert main(["report", str(runs)]) == 2
    assert f"{runs / name} is there and no report of recdrop's" in capsys.readouterr().err
    assert (runs / name).read_text() == "my own\n"
    assert main(["report", str(runs), "--out", str(out)]) == 0
    assert main(["report", str(runs), "--out", str(out)]) == 0  # its own
    assert "### run (char-lm)\n" in (out / "report.md").read_text()
    assert sorted(path.name for path in runs.iterdir()) == before
    assert main(["report", str(runs / "run")]) == 0  # whose result.json is not written


def test_report_of_a_run_keeps_its_result(text, tmp_path, capsys):
    out = tmp_path / "out"
    tokens = ["reproduce", "table1", "--scale", "quick", "--length", "6", "--max-epochs", "1"]
    tokens += ["--workers", "1", "--cells"]
    assert main([*tokens, "ours-step-*", "--out", str(out)]) == 0
    (run,) = out.glob("runs/*/seed-0")
    stored = (run / "result.json").read_text()
    for _ in range(2):
        assert main(["report", str(run)]) == 0
        assert (run / "report.md").is_file()
        assert not (run / "table.md").exists()
        assert (run / "result.json").read_text() == stored
    capsys.readouterr()
    assert main([*tokens, "*", "--out", str(run)]) == 2  # before it trains
    assert "choose another folder with --out" in capsys.readouterr().err
    (run / "result.json").unlink()  # as if it were not finished
    assert main(["report", str(run)]) == 0
    assert not (run / "result.json").exists()


def test_report_of_no_runs(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no run in it" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
