"""The benchmarks start, refuse what has no parity, and compute the right ratios."""

import json
import math
import shutil

import pytest
import torch
from benchmarks import cases, draw, growth, machine, parity, peers, run, timing

from recdrop import RecurrentDropout
from recdrop.backends import BACKENDS

TINY = cases.Shape(3, 2, 4, 5)


@pytest.fixture
def tiny(monkeypatch):
    for name in cases.SHAPES:
        monkeypatch.setitem(cases.SHAPES, name, TINY)


class Ticks:
    """Work that takes the next of some seconds by the clock that it carries."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, iter(seconds)

    def prepare(self):
        self.clock[0] += 1000.0  # must not count

    def run(self):
        self.clock[0] += next(self.seconds)


def test_ratios_of_fake_times():
    clock = [0.0]
    work = {"stock": Ticks(clock, (9, 2, 4, 8)), "ours": Ticks(clock, (9, 3, 1, 9))}
    seconds = timing.interleave(work, timing.Budget(3, 0.0), clock=lambda: clock[0])
    assert seconds == {"stock": [2, 4, 8], "ours": [3, 1, 9]}  # the first round warms up
    times = timing.compare(seconds)
    assert times["stock"] == {
        "min": 2,
        "median": 4,
        "rounds": 3,
        "ratio": 1,
        "ratio_of_medians": 1,
    }
    assert times["ours"]["ratio"] == 0.5
    assert times["ours"]["ratio_of_medians"] == 0.75
    assert timing.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_contenders_take_turns_for_as_long_as_the_budget_says():
    order = []

    def contender(name):
        return lambda: order.append(name) or 1.0

    names = "abc"
    timing.turns({name: contender(name) for name in names}, timing.Budget(12, 0.0))
    told = "".join(order)
    rounds = [told[i : i + 3] for i in range(0, len(told), 3)]
    assert len(rounds) == 13  # the first round warms up
    assert all(sorted(each) == list(names) for each in rounds)
    assert {each[0] for each in rounds[1:]} == set(names)  # nobody always comes first
    order.clear()
    timing.turns({"a": contender("a"), "b": contender("b")}, timing.Budget(2, 1e9))
    assert order.count("a") == order.count("b") == 41  # 20 times 2 rounds at most, and the first


def test_a_summary_beside_its_targets():
    def result(cell, *ratios):
        variants = [
            {"site": "update", "sampling": s, "ratio": r}
            for s, r in zip(("step", "sequence"), ratios, strict=True)
        ]
        return {"cell": cell, "case": "word LM", "variants": variants}

    lstm, gru = run.summarise([result("LSTM", 1.06, 0.5), result("GRU", 0.8, 0.9)])
    assert lstm["mean"] == pytest.approx(math.sqrt(0.53))
    assert (lstm["worst"], lstm["worst_at"]) == (1.06, "word LM, update per step")
    assert lstm["met"] is False  # the mean is met, the worst is not
    assert gru["worst_target"] is None
    assert gru["met"] is True


def test_the_quick_run_writes_its_report(tmp_path, tiny, capsys):
    words = ["--quick", "--backend", "reference", "--cases", "word-lm", "--results"]
    cells = [cases.slug(name) for name in cases.KINDS]
    run.main([*words, str(tmp_path), "--cells", *cells])
    report = json.loads((tmp_path / "cpu-1.json").read_text())
    assert set(report) == {"machine", "settings", "parity", "results", "summary"}
    where = report["machine"]
    assert {"cpu", "cores", "instruction_sets", "torch", "threads", "date", "commit"} <= set(where)
    assert len(where["load_average"]) == 3
    assert where["threads"] == 1
    assert where["cores_used_by_others"] >= 0
    assert report["settings"]["backend"] == "reference"
    assert 0 <= report["parity"]["largest_error"] < parity.TOLERANCE
    assert [r["cell"] for r in report["results"]] == list(cases.KINDS)
    for result in report["results"]:
        assert result["shape"] == {"T": 3, "B": 2, "I": 4, "H": 5}
        assert len(result["variants"]) == (2 if result["cell"] == "RNN" else 6)
        for variant in result["variants"]:
            assert variant["rounds"] == result["stock"]["rounds"] == 3
            expected = variant["min"] / result["stock"]["min"]
            assert variant["ratio"] == pytest.approx(expected, rel=1e-3)
    assert capsys.readouterr().out.count("geometric mean") == len(cases.KINDS)


@pytest.mark.parametrize("cell", cases.KINDS)
def test_a_wrong_backend_is_not_timed(cell, tmp_path, tiny, monkeypatch):
    def off_by_a_hundredth(call):
        output, state = BACKENDS["reference"].run(call)
        return output * 1.01, state

    wrong = run.BACKENDS["reference"].__class__(
        "wrong", "for this test", lambda call: None, off_by_a_hundredth
    )
    monkeypatch.setitem(BACKENDS, "wrong", wrong)
    monkeypatch.setattr(run, "interleave", None)  # would fail if it were called
    words = f"--quick --backend wrong --cells {cases.slug(cell)} --cases word-lm --results"
    with pytest.raises(SystemExit, match=f"no parity, nothing timed: {cell}"):
        run.main([*words.split(), str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_parity_at_the_timed_size_sees_another_mask(monkeypatch):
    kind, spec = cases.KINDS["LSTM"], RecurrentDropout(0.25)
    honest = BACKENDS["reference"]

    def other_masks(call):  # drops as it should, but not at the same places
        if call.key is not None and call.x.dtype == torch.float32:
            call = call.with_key(call.key + 1)
        return honest.run(call)

    wrong = honest.__class__("wrong", "for this test", honest.why_not, other_masks)
    monkeypatch.setitem(BACKENDS, "wrong", wrong)
    monkeypatch.setattr(parity, "assert_matches_reference", lambda *_: None)
    with pytest.raises(parity.ParityError, match="site='update'"):
        parity.check(kind, cases.Shape(6, 8, 8, 16), [spec], "wrong")


def test_an_unknown_backend_and_an_empty_choice_end_it(tmp_path, tiny):
    with pytest.raises(SystemExit, match="there is no backend 'fast'"):
        run.main(["--quick", "--backend", "fast", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="nothing to measure"):
        run.main(["--quick", "--backend", "reference", "--cells", "rnn", "--sites", "state"])


def test_a_part_of_the_suite_does_not_replace_the_whole():
    assert run.parse([]).results == machine.RESULTS
    for part in ("--quick", "--sites state", "--cells gru", "--cases char-lm", "--rounds 9"):
        assert run.parse(part.split()).results == machine.SCRATCH
    assert run.parse([]).threads == ["1", "all"]
    assert machine.thread_counts(["1", "2", "1"]) == [1, 2]


def test_packed_lengths_and_their_input():
    kind, shape = cases.KINDS["packed LSTM"], cases.Shape(9, 6, 3, 4)
    drawn = cases.lengths(shape)
    assert drawn.max() == 9
    assert drawn.min() >= 4
    assert cases.make_input(kind, shape).data.shape == (int(drawn.sum()), 3)


def test_exponents_of_growth():
    points = [{"size": s, "ours": {"min": 3.0 * s**2}} for s in (10, 20, 50, 100)]
    assert growth.exponent(points) == pytest.approx(2.0)


def test_every_peer_says_what_it_drops():
    assert [name for name, c in peers.CONTENDERS.items() if not c.scheme] == ["stock"]
    loop = peers.CONTENDERS["loop of LSTMCell"]
    peers.check(loop.build(TINY), TINY, drops=True)
    peers.check(peers.CONTENDERS["stock"].build(TINY), TINY, drops=False)
    with pytest.raises(RuntimeError, match="should not be the same"):
        peers.check(peers.CONTENDERS["stock"].build(TINY), TINY, drops=True)


def test_words_around_the_figures_are_kept():
    page = draw.PAGE.replace("## How time grows", "Our own words.\n\n## How time grows")
    once = draw.fill(page, "ratios", "the table")
    assert once.count("the table") == 1
    assert "Our own words." in once
    assert draw.fill(once, "ratios", "the table") == once
    with pytest.raises(ValueError, match="0 times"):
        draw.fill("no markers", "ratios", "the table")


def test_pages_without_a_report_are_left_alone(tmp_path, capsys):
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    for name in ("cpu.md", "gpu.md"):
        shutil.copy(machine.ROOT / "docs" / "benchmarks" / name, docs)
    before = {path.name: path.read_bytes() for path in docs.iterdir()}
    draw.main(["--results", str(results), "--docs", str(docs)])
    results.mkdir()
    shutil.copy(machine.RESULTS / "growth-1.json", results)  # a part: the page has one of machines
    draw.main(["--results", str(results), "--docs", str(docs)])
    assert {path.name: path.read_bytes() for path in docs.iterdir()} == before
    assert "cpu.md is left alone: no reports of cpu, floor, peers" in capsys.readouterr().out


def test_a_new_page_says_what_is_not_measured(tmp_path):
    shutil.copy(machine.RESULTS / "growth-1.json", tmp_path)
    docs = tmp_path / "docs"
    draw.main(["--results", str(tmp_path), "--docs", str(docs)])
    page = (docs / "cpu.md").read_text(encoding="utf-8")
    assert page.count("Not measured yet.") == 3  # ratios, floor, peers
    assert "| H = 64 |" in page
