"""Calibration: the error by its definition, the files, and what is refused."""

import json
import math
import random
from collections import defaultdict
from xml.etree import ElementTree

import pytest

from recdrop.lab.calibration import Measured, calibrated, write
from recdrop.lab.cli import main
from tests.lab.test_sentiment import texts, tiny, train, write_texts

LABELS = ("negative", "neutral", "positive")


def said(source: random.Random, labels=LABELS) -> dict[str, float]:
    """Any probabilities of the labels."""
    values = [source.random() ** 3 for _ in labels]
    return {label: value / sum(values) for label, value in zip(labels, values, strict=True)}


def by_definition(gold, probabilities):
    """Expected calibration error of ten bins, and the nats, text by text."""
    bins = defaultdict(list)
    nats = []
    for right, told in zip(gold, probabilities, strict=True):
        label, sure = max(told.items(), key=lambda item: item[1])
        bins[min(int(sure * 10), 9)].append((sure, label == right))
        nats.append(-math.log(told[right]))
    error = 0.0
    for members in bins.values():
        sure = math.fsum(one for one, _ in members) / len(members)
        right = sum(hit for _, hit in members) / len(members)
        error += len(members) / len(gold) * abs(sure - right)
    return error, math.fsum(nats) / len(nats)


@pytest.mark.parametrize("seed", range(50))
def test_the_error_is_that_of_the_definition(seed):
    source = random.Random(seed)
    labels = [f"label {i}" for i in range(source.randint(2, 12))]
    number = source.choice([1, 2, 7, 100])
    told = [said(source, labels) for _ in range(number)]
    gold = [source.choice(labels) for _ in range(number)]
    measured = calibrated(gold, told)
    error, nats = by_definition(gold, told)
    assert measured.error == pytest.approx(error, abs=1e-12)
    assert measured.nats == pytest.approx(nats, rel=1e-9)
    best = [max(p, key=lambda label: p[label]) for p in told]
    right = sum(g == b for g, b in zip(gold, best, strict=True)) / number
    assert measured.accuracy == pytest.approx(right)
    assert measured.confidence == pytest.approx(sum(max(p.values()) for p in told) / number)
    assert sum(one.texts for one in measured.bins) == number
    assert len(measured.bins) == 10


def test_the_best_and_the_worst_case():
    sure = [{"a": 1.0, "b": 0.0}] * 4
    best = calibrated(["a"] * 4, sure)
    assert (best.error, best.nats, best.accuracy, best.confidence) == (0.0, 0.0, 1.0, 1.0)
    assert best.bins[9] == (4, 1.0, 1.0)
    worst = calibrated(["b"] * 4, sure)
    assert (worst.error, worst.accuracy, worst.confidence) == (1.0, 0.0, 1.0)
    assert worst.nats == pytest.approx(-math.log(1e-12))
    half = calibrated(["a", "b"], [{"a": 0.5, "b": 0.5}] * 2)
    assert (half.error, half.bins[5]) == (0.0, (2, 0.5, 0.5))


def test_the_picture_and_the_numbers_are_written(tmp_path):
    source = random.Random(3)
    labels = [f"{i} <&>" for i in range(9)]
    told = [said(source, labels) for _ in range(200)]
    gold = [source.choice(labels) for _ in told]
    one = calibrated(gold, told)
    measured = Measured({"seed": 3}, {"one <&>": one, "same": one})
    numbers, drawn = write(tmp_path / "a" / "b", measured)
    assert [numbers.name, drawn.name] == ["calibration.json", "calibration.svg"]
    ElementTree.fromstring(drawn.read_bytes())  # noqa: S314  it is our own
    written = json.loads(numbers.read_text())
    assert written.keys() == {"seed", "calibration"}
    values = written["calibration"]
    assert values["same"]["error"] == one.error
    assert [b["texts"] for b in values["same"]["bins"]] == [b.texts for b in one.bins]
    again = write(tmp_path / "a" / "b", measured)
    assert again == [numbers, drawn]


# ------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and its texts."""
    folder = tmp_path_factory.mktemp("calibration")
    return train(folder / "run", tiny(), write_texts(folder / "data")), folder / "data"


def test_a_run_is_calibrated(trained, tmp_path, capsys):
    run, data = trained
    tokens = ["calibrate", str(run), "--data", str(data / "test.tsv"), "--samples", "4"]
    for folder in ("a", "b"):
        assert main([*tokens, "--out", str(tmp_path / folder)]) == 0
    out = capsys.readouterr().out
    assert "without dropout: accuracy " in out
    assert "mean of 4 nets: accuracy " in out
    files = [(tmp_path / folder / "calibration.json").read_text() for folder in "ab"]
    assert files[0] == files[1]
    written = json.loads(files[0])
    result = json.loads((run / "result.json").read_text())
    assert written["run"] == {
        "name": result["name"],
        "seed": result["seed"],
        "update": result["outcome"]["best_update"],
    }
    of_test = json.loads((run / "data.json").read_text())["test"]
    assert written["data"] == {"name": "test.tsv"} | of_test
    assert (written["samples"], written["seed"]) == (4, 0)
    one, other = written["calibration"].values()
    assert one != other
    assert sum(b["texts"] for b in one["bins"]) == len(texts(20, 2))
    assert one["accuracy"] == pytest.approx(result["outcome"]["scores"]["test_accuracy"])


@pytest.mark.parametrize("name", ["calibration.json", "calibration.svg"])
def test_it_replaces_no_file_but_a_calibrations(name, trained, tmp_path, capsys):
    run, data = trained
    (tmp_path / name).write_text("mine")
    tokens = ["calibrate", str(run), "--data", str(data / "test.tsv"), "--samples", "2"]
    assert main([*tokens, "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / name} is there and no calibration" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    for _ in range(2):
        assert main([*tokens, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--samples", "1"], "--samples"),
        (["--samples", "x"], "--samples"),
        (["--data", "odd.tsv"], "odd.tsv has labels that the run has not: joy"),
        (["--data", "nowhere.tsv"], "nowhere.tsv: no such file"),
    ],
)
def test_what_is_refused(options, told, trained, tmp_path, monkeypatch, capsys):
    run, data = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.tsv").write_text("label\ttext\njoy\tgood\n")
    given = [] if "--data" in options else ["--data", str(data / "test.tsv")]
    assert main(["calibrate", str(run), "--out", "out", *given, *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_net_that_drops_nothing_cannot_be_sampled(tmp_path, capsys):
    dry = {"dropout_in": 0.0, "dropout_out": 0.0, "recurrent_dropout": 0}
    data = write_texts(tmp_path / "data")
    run = train(tmp_path / "run", tiny(model=dry, schedule={"epochs": 1}), data)
    tokens = ["calibrate", str(run), "--data", str(data / "test.tsv"), "--out", str(tmp_path / "c")]
    assert main(tokens) == 2
    assert "nothing in the model drops anything" in capsys.readouterr().err
