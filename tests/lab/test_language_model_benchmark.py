import json

import pytest
import torch
from benchmarks import language_model, timing


def test_the_quick_run_writes_its_report(tmp_path, capsys):
    language_model.main(["--quick", "--results", str(tmp_path), "--backend", "reference"])
    report = json.loads((tmp_path / "language_model-1.json").read_text())
    assert report["machine"]["threads"] == 1
    assert report["settings"]["words"] == 50
    assert 0 <= report["parity"]["largest_error"] < language_model.TOLERANCE
    rates, floor = report["tokens_per_second"], report["floor"]
    assert len(floor) == 8
    assert rates["floor"] == pytest.approx(20 / sum(floor.values()), rel=1e-3)
    for name, step in report["steps"].items():
        assert step["rounds"] == 2
        assert rates[name] == pytest.approx(20 / step["min"], rel=1e-3)
    for name in ("stock", "floor"):
        ratio = rates["ours"] / rates[name]
        assert report[f"ours_of_{name}"] == pytest.approx(ratio, rel=1e-3)
    assert "ours of the floor's" in capsys.readouterr().out


def test_another_net_is_not_timed(tmp_path, monkeypatch):
    honest = language_model.StockNet.part
    monkeypatch.setattr(language_model.StockNet, "part", lambda *args: honest(*args) * 1.001)
    monkeypatch.setattr(language_model, "interleave", None)  # would fail if it were called
    with pytest.raises(SystemExit, match="no parity, nothing timed: loss is off by 0.001"):
        language_model.main(["--quick", "--results", str(tmp_path), "--backend", "reference"])
    assert list(tmp_path.iterdir()) == []


def test_a_step_moves_the_weights_within_the_clipped_norm():
    step = language_model.our_step(language_model.SMALL, "reference")
    before = torch.cat([p.detach().flatten().clone() for p in step.parameters])
    timing.Plain(step.run).run()
    after = torch.cat([p.detach().flatten() for p in step.parameters])
    assert 0 < float((after - before).norm()) <= language_model.CLIP * 1.001
    assert step.done == 1


def test_the_products_are_all_of_a_step():
    size = language_model.SMALL
    shapes = [tuple(p().shape) for p in language_model.products(size)["logits"]]
    assert shapes == [(20, 50)] * 3
    bare = language_model.products(size)
    gradient = [tuple(run().shape) for run in bare["their weight's gradient"]]
    assert gradient == [(50, 16), (16, 50), (50, 16)]
    assert {tuple(run().shape) for run in bare["their input's gradient"]} == {(20, 16)}
