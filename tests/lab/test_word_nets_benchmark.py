"""The benchmark of tagger and classifier starts, and refuses what has no parity."""

import json

import pytest
from benchmarks import word_nets


def test_the_quick_run_writes_its_report(tmp_path, capsys):
    word_nets.main(["--quick", "--results", str(tmp_path), "--backend", "reference"])
    report = json.loads((tmp_path / "word_nets-1.json").read_text())
    assert [one["task"] for one in report["results"]] == ["ner", "sentiment"]
    for one in report["results"]:
        assert one["error"] < word_nets.TOLERANCE
        ratio = one["steps"]["stock"]["min"] / one["steps"]["ours"]["min"]
        assert one["speed"] == pytest.approx(ratio, rel=1e-3)
        more = one["steps"]["ours"]["min"] / one["steps"]["equal"]["min"]
        assert one["unequal"] == pytest.approx(more, rel=1e-3)
    assert "ours" in capsys.readouterr().out


def test_rows_of_equal_length_have_as_many_words():
    rows, equal = word_nets.rows_of_words(), word_nets.rows_of_words(equal=True)
    assert sum(map(len, rows)) == sum(map(len, equal))
    assert len(rows) == len(equal)
    assert {len(row) for row in equal} in ({14, 15}, {15, 16}, {13, 14})


def test_another_net_is_not_timed(tmp_path, monkeypatch):
    honest = word_nets.put_stock

    def other(task):
        honest(task)
        task.net.rnn.weight_hh_l0.data *= 1.5

    monkeypatch.setattr(word_nets, "put_stock", other)
    with pytest.raises(SystemExit, match="no parity, nothing timed: ner"):
        word_nets.main(["--quick", "--results", str(tmp_path), "--backend", "reference"])
