"""The commands that ask a trained net: what comes in as files or line by line, what goes out."""

import contextlib
import json
import math
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

import recdrop
from recdrop.lab import labelling
from recdrop.lab.cli import main
from recdrop.lab.predict import classify, tag
from recdrop.lab.runs import run_cell
from recdrop.lab.tasks.ner import Sentences
from recdrop.lab.tasks.sentiment import Texts
from recdrop.lab.trained import open_classifier, open_tagger
from tests.lab import test_ner as ner
from tests.lab import test_sentiment as sentiment

RECDROP = Path(sys.executable).with_name("recdrop")
LINES = ["good day", "", "the bad day is it", "  ", "nothing known here"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    data = sentiment.write_texts(folder / "data", (100, 20, 20))
    run = sentiment.tiny(schedule={"epochs": 6})
    return sentiment.train(folder / "run", run, data)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    run_cell(folder / "run", ner.tiny(schedule={"epochs": 6}), ner.write(folder / "data"))
    return folder / "run"


def answers(run: Path, lines: list[str]) -> str:
    """What `classify` is to print."""
    told = classify(open_classifier(run), lines)
    return "".join(
        f"{one.label}\t{' '.join(f'{name}={p:.4f}' for name, p in one.probabilities.items())}\n"
        for one in told
    )


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LINES) + "\n",
        "\n".join(LINES),
        "\r\n".join(LINES) + "\r\n",
        "\ufeff" + "\n".join(LINES),
    ],
)
def test_a_file_has_one_answer_for_each_line(content, classifier, tmp_path, capsys):
    (tmp_path / "in.txt").write_bytes(content.encode())
    assert main(["classify", str(classifier), str(tmp_path / "in.txt")]) == 0
    assert capsys.readouterr().out == answers(classifier, LINES)


def test_many_lines_are_answered_in_their_order(classifier, tmp_path, capsys):
    lines = [text for _, text in sentiment.texts(600, 5)]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    assert main(["classify", str(classifier), str(tmp_path / "in.txt"), "--json"]) == 0
    told = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    trained = open_classifier(classifier)
    alone = [classify(trained, [line])[0].label for line in lines[::20]]
    assert told[::20] == alone
    assert len(told) == 600


def test_an_empty_file_has_no_answer(classifier, tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("")
    assert main(["classify", str(classifier), str(tmp_path / "in.txt")]) == 0
    assert main(["tag", str(tagger), str(tmp_path / "in.txt")]) == 0
    assert not capsys.readouterr().out


def test_json_tells_everything(classifier, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(LINES))
    tokens = ["classify", str(classifier), str(tmp_path / "in.txt"), "--json"]
    assert main(tokens) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(one) == {"label", "probabilities"} for one in plain)
    for seed in ("3", "3", "4"):
        assert main([*tokens, "--uncertainty", "9", "--seed", seed]) == 0
    out = capsys.readouterr().out.splitlines()
    first, again, other = out[:5], out[5:10], out[10:]
    assert first == again != other
    for one in map(json.loads, first):
        assert {*one["probabilities"]} == {*one["spread"]} == {*sentiment.LABELS}
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["label"] == max(one["probabilities"], key=lambda k: one["probabilities"][k])
        assert min(one["spread"].values()) > 0
        assert 0 <= one["information"] <= one["entropy"] <= math.log(3)


def test_a_classifiers_doubt_is_mc_dropouts(classifier):
    trained, text = open_classifier(classifier), "good day it is"
    (told,) = classify(trained, [text], 9, 3)
    rows = Texts.of([text.split()], trained.words)
    ((_, asked),) = rows.batches(10)
    net = trained.net
    expected = recdrop.mc_dropout(net, asked, 9, seed=3)
    assert list(told.probabilities.values()) == pytest.approx(expected.mean[0].tolist())
    assert list(told.spread.values()) == pytest.approx(expected.spread[0].tolist())
    doubt = [float(part[0]) for part in (expected.entropy, expected.information)]
    assert [told.entropy, told.information] == pytest.approx(doubt, abs=1e-6)
    assert min(doubt) > 0


def test_texts_that_are_asked_together_have_the_doubt_of_each_alone(classifier):
    """With other masks, so only about as much."""
    trained = open_classifier(classifier)
    lines = ["good day", "the bad day is it", "nothing known here"]
    alone = classify(trained, lines, samples=400, seed=3)
    together = classify(trained, lines, samples=400, seed=3, together=True)
    assert alone != together
    assert together == classify(trained, lines, samples=400, seed=3, together=True)
    for one, other in zip(alone, together, strict=True):
        assert other.probabilities == pytest.approx(one.probabilities, abs=0.05)
        assert other.entropy == pytest.approx(one.entropy, abs=0.05)


def test_a_taggers_doubt_is_mc_dropouts(tagger):
    trained, words = open_tagger(tagger), ("Smith", "went", "to", "nowhere")
    (told,) = tag(trained, [words], 9, 3)
    rows = Sentences.of([words], trained.words, trained.run.model.window)
    ((_, asked),) = rows.batches(trained.run.model.window, 10)
    expected = recdrop.mc_dropout(trained.net, asked, 9, seed=3)
    assert told.sure == pytest.approx(expected.mean.max(-1).values.tolist())
    assert told.entropy == pytest.approx(expected.entropy.tolist(), abs=1e-6)
    assert told.information == pytest.approx(expected.information.tolist(), abs=1e-6)
    assert min(told.entropy) > 0
    assert max(told.information) > 0
    (other,) = tag(trained, [words], 9, 4)
    assert other.entropy != told.entropy


def test_the_text_tells_the_doubt(classifier, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("good day\n")
    tokens = ["classify", str(classifier), str(tmp_path / "in.txt"), "--uncertainty", "2"]
    assert main(tokens) == 0
    label, told = capsys.readouterr().out.strip().split("\t")
    values = dict(pair.split("=") for pair in told.split())
    assert label in sentiment.LABELS
    assert [*values] == [*sentiment.LABELS, "entropy", "information"]


def test_empty_sentences_have_an_answer_each_too(tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Smith went\n\n  \nRome\n")
    assert main(["tag", str(tagger), str(tmp_path / "in.txt"), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["words"] for one in told] == [["Smith", "went"], [], [], ["Rome"]]
    assert [len(one["tags"]) for one in told] == [2, 0, 0, 1]
    assert main(["tag", str(tagger), str(tmp_path / "in.txt")]) == 0
    shape = [line.count("\t") for line in capsys.readouterr().out.split("\n")]
    assert shape == [1, 1, 0, 0, 0, 1, 0, 0]


def test_an_empty_sentence_has_every_key_too(tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Smith went\n\n")
    tokens = ["tag", str(tagger), str(tmp_path / "in.txt"), "--uncertainty", "2"]
    assert main([*tokens, "--json"]) == 0
    full, empty = map(json.loads, capsys.readouterr().out.splitlines())
    assert (
        set(full)
        == set(empty)
        == {
            *("words", "tags", "entities", "probability", "entropy", "information"),
        }
    )
    assert not any(empty.values())
    (tmp_path / "in.txt").write_text("\n\n")
    assert main(tokens) == 0
    assert capsys.readouterr().out == "\n\n"


def test_every_line_of_columns_has_its_answer(tagger, tmp_path, monkeypatch, capsys):
    given = [
        *("-DOCSTART- -X-", "", "", "Smith NNP", "went VBD", "-DOCSTART- -X-", "Rome NNP", ""),
        *(" ", "-DOCSTART-", "Paris NNP"),
    ]
    path = tmp_path / "in.txt"
    path.write_text("\n".join(given))
    monkeypatch.setattr(labelling, "_AT_A_TIME", 2)
    for options, columns in (([], 2), (["--uncertainty", "2"], 4)):
        assert main(["tag", str(tagger), str(path), "--columns", *options]) == 0
        told = capsys.readouterr().out.split("\n")
        assert told[-2:] == ["", ""]  # a blank line behind the last sentence
        assert [line.split("\t")[0] for line in told[:-2]] == [line.split(" ")[0] for line in given]
        assert {line.count("\t") + 1 for line in told if line} == {columns}
    assert told[0] == "-DOCSTART-\tO\t0.0000\t0.0000"
    assert main(["tag", str(tagger), str(path), "--columns", "--json"]) == 0
    words = [json.loads(line)["words"] for line in capsys.readouterr().out.splitlines()]
    assert words == [["Smith", "went"], ["Rome"], ["Paris"]]


def test_raw_text_is_split_where_it_is_asked_for(tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Smith went to Rome.\n")
    for tokens, words in (([], ["Rome."]), (["--tokens", "newswire"], ["Rome", "."])):
        assert main(["tag", str(tagger), str(tmp_path / "in.txt"), "--json", *tokens]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["words"] == ["Smith", "went", "to", *words]
    assert told["entities"][-1]["text"] == "Rome"
    tokens = ["tag", str(tagger), str(tmp_path / "in.txt"), "--columns", "--tokens", "newswire"]
    assert main(tokens) == 2
    assert "--tokens: with --columns each line is a word already" in capsys.readouterr().err


def test_a_tagger_is_as_sure_alone_as_among_others(tagger):
    trained = open_tagger(tagger)
    texts = [s.words for s in ner.sentences(150, 5)]
    for text, one in zip(texts, tag(trained, texts), strict=True):
        (alone,) = tag(trained, [text])
        assert one.tags == alone.tags
        assert one.sure == pytest.approx(alone.sure, abs=1e-5)


@pytest.mark.parametrize("command", ["classify", "tag"])
@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"good\nbad \xff\n", [], "in.txt:2: byte 5 of the line: not UTF-8"),
        (b"good\n\0\n", [], "in.txt:2: byte 1 of the line: NUL"),
        (b"good\n" + b"bad " * 25_001, [], "in.txt:2: byte 100001 of the line: the line is too"),
        (b"good\n", ["--uncertainty", "1"], "--uncertainty: one net has no spread"),
        (b"good\n", ["--uncertainty", "-1"], "--uncertainty: "),
        (b"good\n", ["--seed", "-1"], "--seed: "),
        (None, [], "in.txt: no such file"),
    ],
)
def test_bad_files_and_options(
    command: str, content, options: list[str], told, classifier, tagger, tmp_path, capsys
):
    if content is not None:
        (tmp_path / "in.txt").write_bytes(content)
    run = classifier if command == "classify" else tagger
    assert main([command, str(run), str(tmp_path / "in.txt"), *options]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["classify", "TAGGER", "x"], "holds a run of ner, not a classifier of texts"),
        (["calibrate", "TAGGER", "--data", "x", "--out", "o"], "a run of ner, not a classifier"),
        (["tag", "CLASSIFIER", "x"], "holds a run of sentiment, not a tagger"),
        (["generate", "TAGGER", "--prompt", "x"], "holds a run of ner, not a language model"),
        (["generate", "CLASSIFIER", "--prompt", "x"], "a run of sentiment, not a language model"),
        (["classify", "nowhere", "x"], "nowhere holds no run"),
        (["classify", "CLASSIFIER", "."], ". is a folder; expected a text file"),
    ],
)
def test_runs_of_another_task(
    tokens: list[str], told, classifier, tagger, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names = {"TAGGER": str(tagger), "CLASSIFIER": str(classifier)}
    assert main([names.get(token, token) for token in tokens]) == 2
    assert told in capsys.readouterr().err


def test_a_net_that_drops_nothing_cannot_be_sampled(tmp_path, capsys):
    data = sentiment.write_texts(tmp_path / "data")
    run = sentiment.tiny(model=sentiment.DRY, schedule={"epochs": 1})
    folder = sentiment.train(tmp_path / "run", run, data)
    (tmp_path / "in.txt").write_text("good\n")
    tokens = ["classify", str(folder), str(tmp_path / "in.txt")]
    assert main(tokens) == 0
    assert main([*tokens, "--uncertainty", "4"]) == 2
    assert "nothing in the model drops anything" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["jsonl", "csv"])
def test_any_labels_will_do(layout, tmp_path, capsys):
    """From training to answers; the score is the mean F1 of all, where none is named so."""
    rows = [(str(i % 5), f"word{i % 5} it is {i}") for i in range(100)]
    path = tmp_path / f"stars.{layout}"
    if layout == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for label, text in rows]
    else:
        lines = ["label,text", *(f'{label},"{text}"' for label, text in rows)]
    path.write_text("\n".join(lines) + "\n")
    out, values = tmp_path / "run", ["model.hidden=8", "model.embedding=6", "schedule.epochs=2"]
    tokens = ["train", "sentiment", "--data", str(path), "--out", str(out)]
    assert main([*tokens, *(t for value in values for t in ("--set", value))]) == 0
    assert main(["evaluate", str(out), "--data", str(path)]) == 0
    assert "mean F1 of 0 and 1 and 2 and 3 and 4 " in capsys.readouterr().out
    (tmp_path / "in.txt").write_text("word3 it is\n")
    assert main(["classify", str(out), str(tmp_path / "in.txt"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == set("01234")


# --------------------------------------------------------------------------------------- evaluate


def test_a_classifier_is_evaluated_as_in_training(classifier, capsys):
    data = classifier.parent / "data"
    scores = json.loads((classifier / "result.json").read_text())["outcome"]["scores"]
    for name in ("valid", "test"):
        assert main(["evaluate", str(classifier), "--data", str(data / f"{name}.tsv")]) == 0
        told = capsys.readouterr().out.splitlines()
        assert f"F1 of positive and negative {100 * scores[name]:.2f}, accuracy" in told[1]
        assert f"{scores[f'{name}_accuracy']:.2%}, 20 texts" in told[1]
        assert [line.split()[0] for line in told[2:]] == [*sentiment.LABELS]
        f1 = {line.split()[0]: float(line.split()[2]) for line in told[2:]}
        assert (f1["positive"] + f1["negative"]) / 2 == pytest.approx(100 * scores[name], abs=0.01)


def test_a_file_without_one_of_the_labels_can_be_right_in_full(classifier, tmp_path, capsys):
    trained, lines = open_classifier(classifier), [text for _, text in sentiment.texts(30, 9)]
    found = zip((one.label for one in classify(trained, lines)), lines, strict=True)
    rows = [(label, text) for label, text in found if label != "negative"]
    path = sentiment.write_rows(tmp_path / "in.tsv", rows)
    assert main(["evaluate", str(classifier), "--data", str(path)]) == 0
    assert "mean F1 of positive 100.00, accuracy 100.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (
            "label\ttext\njoy\ta\nfear\tb\n",
            [],
            "labels that the run has not: fear, joy; it has neg",
        ),
        ("label\ttext\n", [], "has no rows"),
        ("label\ttext\npositive\ta\tb\n", [], "in.tsv:2: 3 columns, expected 2"),
        (
            "label\ttext\npositive\ta\n",
            ["--column", "2"],
            "--column: a run of sentiment has no such thing; it has --text-column and --label-col",
        ),
        ("label\ttext\npositive\ta\n", ["--text-column", "x"], "in.tsv:1: no column x"),
        ("label\ttext\npositive\ta\n", ["--label-column", "2"], "text and label are both column 2"),
        ("label\ttext\npositive\ta\n", ["--streams", "2"], "--streams: a run of sentiment has no"),
    ],
)
def test_evaluation_refuses(content, options, told, classifier, tmp_path, capsys):
    (tmp_path / "in.tsv").write_text(content)
    assert main(["evaluate", str(classifier), "--data", str(tmp_path / "in.tsv"), *options]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "columns",
    [
        ["--text-column", "review", "--label-column", "Stars"],
        ["--text-column", "3", "--label-column", "stars"],
    ],
)
def test_a_classifier_finds_the_columns_that_are_asked_for(columns, classifier, tmp_path, capsys):
    data = classifier.parent / "data" / "test.tsv"
    rows = [line.split("\t") for line in data.read_text().splitlines()[1:]]
    other = tmp_path / "other.csv"
    table = ["id,stars,review", *(f"{i},{label},{text}" for i, (label, text) in enumerate(rows))]
    other.write_text("\n".join(table) + "\n")
    told = []
    for path, options in ((data, []), (other, columns)):
        assert main(["evaluate", str(classifier), "--data", str(path), *options]) == 0
        told.append(capsys.readouterr().out.splitlines()[1:])
    assert told[0] == told[1]
    for path, options in ((data, []), (other, columns)):
        tokens = ["calibrate", str(classifier), "--data", str(path), *options, "--samples", "2"]
        assert main([*tokens, "--out", str(tmp_path / path.stem)]) == 0
    written = [
        json.loads((tmp_path / name / "calibration.json").read_text()) for name in ("test", "other")
    ]
    assert [one["data"].pop("name") for one in written] == ["test.tsv", "other.csv"]
    assert written[0] == written[1]
    for command in (["evaluate"], ["calibrate", "--out", str(tmp_path / "c")]):
        assert main([*command, str(classifier), "--data", str(other)]) == 2
        assert "labels that the run has not: stars;" in capsys.readouterr().err


def test_a_tagger_has_no_columns_of_texts(tagger, tmp_path, capsys):
    tokens = ["evaluate", str(tagger), "--data", str(tmp_path / "x"), "--text-column", "2"]
    assert main([*tokens, "--label-column", "1"]) == 2
    told = "--text-column and --label-column: a run of ner has no such thing; it has --column\n"
    assert told in capsys.readouterr().err


def test_a_tagger_evaluates_the_column_that_is_asked_for(tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Rome B-LOC O\n")
    for column, told in (("2", "1 entity,"), ("-2", "1 entity,"), ("3", "0 entities")):
        tokens = ["evaluate", str(tagger), "--data", str(tmp_path / "in.txt"), "--column", column]
        assert main(tokens) == 0
        assert told in capsys.readouterr().out
    for column in ("0", "1", "4", "-3"):
        tokens = ["evaluate", str(tagger), "--data", str(tmp_path / "in.txt"), "--column", column]
        assert main(tokens) == 2
        assert f"column {column}, there are 3" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ pipes


@contextlib.contextmanager
def asked(*arguments):
    """A process of the command line, with pipes."""
    process = subprocess.Popen(
        [RECDROP, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def give(process: subprocess.Popen[bytes], content: bytes) -> None:
    stream(process.stdin).write(content)
    stream(process.stdin).flush()


def line_of(process: subprocess.Popen[bytes], seconds: float = 60) -> str:
    """The next line of its output; what it does not tell in time is a failure."""
    told, deadline, out = b"", time.monotonic() + seconds, stream(process.stdout)
    while not told.endswith(b"\n"):
        assert select.select([out], [], [], max(0, deadline - time.monotonic()))[0], told
        piece = os.read(out.fileno(), 1)
        assert piece, stream(process.stderr).read()
        told += piece
    return told.decode()


def test_a_pipe_is_answered_line_by_line(classifier):
    expected = iter(
        answers(classifier, ["good day", "", "bad", "café", "it", "x"]).splitlines(True)
    )
    with asked("classify", classifier) as process:
        for given, number in (
            (b"\xef\xbb\xbfgood day\r\n", 1),
            (b"\n", 1),
            (b"ba", 0),
            (b"d\ncaf\xc3", 1),  # half a line, half a character
            (b"\xa9\nit\n", 2),
        ):
            give(process, given)
            for _ in range(number):
                assert line_of(process) == next(expected)
        out, error = process.communicate(b"x")
        assert out.decode() == next(expected)
        assert (error, process.returncode) == (b"", 0)


def test_sentences_of_a_pipe_are_tagged_as_they_come(tagger):
    with asked("tag", tagger, "--json") as process:
        for words in (["Smith", "went"], [], ["Rome"]):
            give(process, " ".join(words).encode() + b"\n")
            assert json.loads(line_of(process))["words"] == words
        out, error = process.communicate(b"the \xff\nRome\n")
        assert (out, process.returncode) == (b"", 2)
        assert error.decode() == "recdrop: standard input:4: not UTF-8 (invalid start byte)\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"good\r\nbad\n\xff\nx\n", "standard input:3: not UTF-8 (invalid start byte)"),
        (b"good\nbad\nx\0\n", "standard input:3: NUL is not text"),
        (b"good\nbad\n" + b"x " * 5_000_000, "standard input:3: the line is too long; expected"),
    ],
)
def test_what_a_pipe_may_not_have(given, told, classifier, monkeypatch, tmp_path, capsys):
    (tmp_path / "in").write_bytes(given)
    with (tmp_path / "in").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["classify", str(classifier)]) == 2
    said = capsys.readouterr()
    assert said.out == answers(classifier, ["good", "bad"])  # what came before has its answers
    assert told in said.err


@pytest.mark.parametrize("bad", [b"\xff", b"x " * 60_000])
def test_lines_of_a_file_before_a_bad_one_have_their_answers(bad, classifier, tmp_path, capsys):
    lines = ["good day", "awful"] * 140
    (tmp_path / "in").write_bytes("\n".join(lines).encode() + b"\n" + bad + b"\ngood\n")
    assert main(["classify", str(classifier), str(tmp_path / "in")]) == 2
    said = capsys.readouterr()
    assert said.out == answers(classifier, lines)
    assert f"{tmp_path / 'in'}:281: byte " in said.err


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_lines_of_a_pipe_end_as_those_of_a_file(block, classifier, monkeypatch, tmp_path, capsys):
    path = tmp_path / "in"
    path.write_bytes("\ufeffgood day\rbad\r\n\rit\n\r\n\rawful\r".encode())
    assert main(["classify", str(classifier), str(path)]) == 0
    wanted = capsys.readouterr().out
    assert wanted == answers(classifier, ["good day", "bad", "", "it", "", "", "awful"])
    monkeypatch.setattr(labelling, "_BLOCK", block)
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["classify", str(classifier)]) == 0
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize("given", ["a\nb", "a\nb\n", "a\n\n", "\n\n"])
def test_the_last_line_may_have_no_end(given, classifier, monkeypatch, tmp_path, capsys):
    (tmp_path / "in").write_text(given)
    with (tmp_path / "in").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["classify", str(classifier)]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_without_standard_output_there_is_no_answer(classifier, monkeypatch, tmp_path, capsys):
    (tmp_path / "in").write_text("good\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["classify", str(classifier), str(tmp_path / "in")]) == 2
    assert "there is no standard output" in capsys.readouterr().err


def test_without_standard_input_a_file_is_asked_for(classifier, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["classify", str(classifier)]) == 2
    assert "there is no standard input; give a file" in capsys.readouterr().err


def test_a_reader_that_has_enough_ends_it_quietly(classifier, tmp_path):
    (tmp_path / "in.txt").write_text("good day\n" * 5_000)
    with asked("classify", classifier, tmp_path / "in.txt") as process:
        assert line_of(process) == answers(classifier, ["good day"])
        stream(process.stdout).close()
        assert not stream(process.stderr).read()
        assert process.wait(60) == 1


def test_columns_come_from_a_pipe_too(tagger, tmp_path, monkeypatch, capsys):
    given = "Smith NNP\nwent VBD\n\nRome NNP\n"
    (tmp_path / "in.txt").write_text(given)
    assert main(["tag", str(tagger), str(tmp_path / "in.txt"), "--columns"]) == 0
    wanted = capsys.readouterr().out
    assert wanted.count("\n") == 5
    given_end, taken_end = os.pipe()
    os.write(taken_end, given.encode())
    os.close(taken_end)
    with os.fdopen(given_end) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert main(["tag", str(tagger), "--columns"]) == 0
    assert capsys.readouterr().out == wanted
    (tmp_path / "in.txt").write_text("Smith NNP\nwent\n")
    with (tmp_path / "in.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["tag", str(tagger), "--columns"]) == 2
    assert "standard input:2: 1 column, expected 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "awaited"),
    [
        (["classify"], b"good day\n", "texts, one a line"),
        (["tag"], b"Smith went\n", "sentences, one a line"),
        (["tag", "--columns"], b"Smith NNP\n", "columns, answered once all are there"),
    ],
)
def test_on_a_terminal_it_says_what_it_waits_for(
    command: list[str], given, awaited, classifier, tagger, monkeypatch, capsys
):
    run = classifier if command[0] == "classify" else tagger
    keyboard, terminal = pty.openpty()
    os.write(keyboard, given + b"\x04")  # Ctrl-D
    with os.fdopen(terminal) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main([command[0], str(run), *command[1:]]) == 0
    os.close(keyboard)
    said = capsys.readouterr()
    assert said.err == f"Type {awaited}; Ctrl-D at the start of a line ends.\n"
    assert said.out


@pytest.mark.parametrize("command", ["classify", "tag"])
def test_a_swapped_vocabulary_is_refused(command, classifier, tagger, tmp_path, capsys):
    run, other = (classifier, tagger) if command == "classify" else (tagger, classifier)
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(other / "vocabulary.json", tmp_path / "run" / "vocabulary.json")
    (tmp_path / "in.txt").write_text("good day\n")
    assert main([command, str(tmp_path / "run"), str(tmp_path / "in.txt")]) == 2
    assert "it is not the vocabulary that the run was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["classify", "tag"])
def test_weights_of_other_shapes_than_the_configurations(
    command, classifier, tagger, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(classifier if command == "classify" else tagger, run)
    path = run / "config.json"
    changed = re.sub(r'"hidden": (\d+)', r'"hidden": 1\1', path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    (tmp_path / "in.txt").write_text("good day\n")
    assert main([command, str(run), str(tmp_path / "in.txt")]) == 2
    said = capsys.readouterr()
    assert "config.json or data.json has been changed since it was written" in said.err
    assert not said.out


@pytest.mark.parametrize("command", [["classify"], ["tag"], ["tag", "--columns"]])
def test_standard_input_that_cannot_be_read(
    command: list[str], classifier, tagger, tmp_path, monkeypatch, capsys
):
    run = classifier if command[0] == "classify" else tagger
    with (tmp_path / "out").open("w") as file:  # only to be written
        monkeypatch.setattr(sys, "stdin", file)
        assert main([command[0], str(run), *command[1:]]) == 2
    assert "standard input cannot be read (Bad file descriptor)" in capsys.readouterr().err
