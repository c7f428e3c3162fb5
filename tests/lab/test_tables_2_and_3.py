"""``recdrop reproduce table2``, ``figure2``, ``table3`` on a tiny text, with the paper's nets."""

import json
import random
import shutil
import string

import pytest

from recdrop.lab.cli import main


def treebank(folder, characters):
    """Mikolov's files with just enough in them for a window of each stream."""
    folder.mkdir()
    source, name = random.Random(0), "ptb.char" if characters else "ptb"
    symbols = string.ascii_lowercase if characters else [f"word{i}" for i in range(50)]
    for part, lines in (("train", 2_000 if characters else 700), ("valid", 80), ("test", 80)):
        texts = (" ".join(source.choices(symbols, k=18)) for _ in range(lines))
        (folder / f"{name}.{part}.txt").write_text("".join(f" {text} \n" for text in texts))
    return folder


@pytest.mark.parametrize(
    ("table", "cell", "hidden"),
    [("table2", "ours-step-25-forward", 256), ("figure2", "ours-step-25", 256),
     ("table3", "gal-sequence-50", 1024)],
)  # fmt: skip
def test_one_command_from_text_to_report(table, cell, hidden, tmp_path):
    data, out = treebank(tmp_path / "data", table == "table3"), tmp_path / "out"
    tokens = ["reproduce", table, "--scale", "tenth", "--data", str(data), "--out", str(out)]
    assert main([*tokens, "--cells", cell, "--max-epochs", "1"]) == 0
    run = out / "runs" / cell / "seed-0"
    config = json.loads((run / "config.json").read_text())
    assert (config["table"], config["scale"], config["data"]["share"]) == (table, "tenth", 0.1)
    assert (config["model"]["hidden"], config["schedule"]["epochs"]) == (hidden, 1)
    (told,) = json.loads((out / "result.json").read_text())["tables"]
    cells = {one["name"]: one for one in told["cells"]}
    assert len(cells) == (2 if table == "figure2" else 29)
    assert cells[cell]["mean"]["valid"] > 1
    report = (out / "report.md").read_text()
    assert "first tenth of the" in report
    assert "stopped at" in report
    for part in ("train", "valid", "test"):
        assert f"another {part} set than the paper's" in report
    assert (out / "report.html").stat().st_size > 10_000
    stored = (run / "result.json").read_bytes()
    shutil.rmtree(data)  # what is finished needs none
    assert main([*tokens, "--cells", cell, "--max-epochs", "1"]) == 0  # and trains nothing
    assert (run / "result.json").read_bytes() == stored


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["table2", "--scale", "tenth", "--data", "."], ". has no training text; looked for"),
        (["figure2", "--scale", "tenth", "--data", "nowhere"], "nowhere"),
        (["table4", "--scale", "small", "--data", "nowhere"], "--data nowhere: no such"),
        (["table5", "--data", ".", "--pretrain", "nowhere"], "--pretrain nowhere: no such"),
        (["table1", "--scale", "quick", "--device", "cuda"], "--device cuda: torch sees no"),
    ],
)
def test_what_is_not_there_is_told_once(tokens, told, tmp_path, monkeypatch, capsys):
    """Before any worker is started, and before there is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["reproduce", *tokens, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
