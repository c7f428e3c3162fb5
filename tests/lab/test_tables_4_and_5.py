"""``recdrop reproduce table4`` and ``table5`` on tiny data: both stages, all sets, the report."""

import json

import torch

from recdrop.lab.cli import main
from recdrop.lab.figures import _of_epochs
from recdrop.lab.paper import table5
from recdrop.lab.report import gather
from recdrop.lab.tasks.reading import SEMEVAL
from recdrop.lab.vectors import save_vectors, sealed
from tests.lab.test_ner import OTHERS, PLACES
from tests.lab.test_ner import write as write_sentences


def vectors(path):
    words = (*PLACES, *OTHERS)
    values = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0))
    save_vectors(path, sealed(words, values))
    return str(path)


def summary(out):
    (table,) = json.loads((out / "result.json").read_text())["tables"]
    return {cell["name"]: cell for cell in table["cells"]}


def test_table_4_has_a_number_of_each_stage(tmp_path):
    data, out = write_sentences(tmp_path / "data", (20, 6, 6)), tmp_path / "out"
    tokens = ["reproduce", "table4", "--scale", "small", "--data", str(data), "--out", str(out)]
    tokens += ["--vectors", vectors(tmp_path / "v"), "--cells", "gru-25", "--max-epochs", "26"]
    assert main(tokens) == 0
    cells = summary(out)
    assert len(cells) == 6
    assert cells["rnn-none"]["status"] == "not run"
    mean = cells["gru-25"]["mean"]
    assert 0 <= mean["test_stage1"] <= 1
    assert 0 <= mean["test"] <= 1
    told = (out / "report.md").read_text()
    assert "small scale: nets of 256 units" in told
    assert "stopped at" in told  # 26 epochs of 35
    assert "not the protocol: another train set than the paper's (gru-25)" in told
    assert "without vectors" not in told
    assert "| 86.70% |" in told
    sources = json.loads((out / "runs" / "gru-25" / "seed-0" / "data.json").read_text())
    assert sources["vectors"]["words"] == 10
    assert main(tokens) == 0  # and trains nothing


def write_semeval(folder):
    folder.mkdir()
    labels = {"negative": "bad", "neutral": "so", "positive": "good"}
    for number, name in enumerate(("twitter2013train", "twitter2013dev", *SEMEVAL.values())):
        rows = [
            f"{i}\t{label}\tthat is {word} {i % 7}"
            for i, (label, word) in enumerate(list(labels.items()) * (3 + number % 2))
        ]
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_table_5_has_all_six_sets(tmp_path):
    data, weak, out = write_semeval(tmp_path / "data"), tmp_path / "weak", tmp_path / "out"
    weak.mkdir()
    (weak / "positive.txt").write_text("good :)\nso good\n" * 40)
    (weak / "negative.txt").write_text("bad :(\nso bad\n" * 40)
    tokens = ["reproduce", "table5", "--data", str(data), "--pretrain", str(weak)]
    tokens += ["--out", str(out), "--cells", "lstm-*", "--max-epochs", "3"]
    assert main(tokens) == 0
    cells = summary(out)
    for name in ("lstm-none", "lstm-25"):
        assert set(cells[name]["mean"]) == set(table5.TABLE.measures)
        assert all(0 <= value <= 1 for value in cells[name]["mean"].values())
        (one,) = cells[name]["runs"]
        assert "valid_stage1" in one["result"]["outcome"]["scores"]
    told = (out / "report.md").read_text()
    assert "not the protocol: without vectors of words" in told
    assert "without weakly labelled texts" not in told
    assert "recurrent dropout improves LSTM and GRU on every set" in told
    assert "| 69.11% |" in told
    assert (out / "report.html").read_text().count('class="grid many"') == 2  # small on paper
    drawn = (out / "pictures" / "table5-paper-2-bars.svg").read_text()
    assert "The LSTM: Twitter15" in drawn
    assert all(text in drawn for text in ("57.84%", "61.35%"))  # its numbers in the paper
    (table,) = gather(out).tables
    for cell in table.cells:
        for one in cell.runs:  # weak labels are another set, and no part of the curves
            assert [at for at, _ in _of_epochs(table, one)] == [2, 3]


def test_a_folder_without_some_of_semevals_files_is_refused(tmp_path, capsys):
    data = write_semeval(tmp_path / "data")
    (data / "sms2013test.tsv").unlink()
    tokens = ["reproduce", "table5", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*tokens, "--cells", "gru-none"]) == 2
    assert "has no sms2013test.tsv" in capsys.readouterr().err
