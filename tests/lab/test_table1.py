"""The grid of Table 1: names, what is dropped, the paper's numbers, the two protocols."""

import pytest

from recdrop.lab.config import Adam, Sgd, StopRule, TemporalOrderRun
from recdrop.lab.errors import BadInput
from recdrop.lab.paper import table1
from recdrop.lab.paper.grid import choose

# Typed a second time from the paper: Moon short, Moon medium, Gal and ours short, medium.
PRINTED = {
    "step": ["100%", "100%", "25%", "25%", "100%", "100%", "100%", "100%"],
    "sequence": ["100%", "25%", "100%", "<25%", "100%", "100%", "100%", "100%"],
}


def cell(name: str) -> table1.Cell:
    (found,) = (c for c in table1.cells() if c.name == name)
    return found


def test_the_grid_is_the_papers_twelve_cells_and_four_inverted():
    names = [c.name for c in table1.cells()]
    twelve = {
        f"{scheme}-{sampling}-{span}"
        for scheme in ("moon", "gal", "ours")
        for sampling in ("step", "sequence")
        for span in ("short", "medium")
    }
    assert set(names[:12]) == twelve
    assert all(name.startswith("moon-inverted-") for name in names[12:])
    assert len(set(names)) == 16
    assert [c.beyond for c in table1.cells()] == [False] * 12 + [True] * 4


@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_the_papers_numbers(sampling: str):
    for scheme, column in (("moon", 0), ("gal", 4), ("ours", 4)):
        for span, shift in (("short", 0), ("medium", 2)):
            train, test = PRINTED[sampling][column + shift : column + shift + 2]
            assert table1.PRINTED[f"{scheme}-{sampling}-{span}"] == {"train": train, "test": test}
    assert set(table1.PRINTED) == {c.name for c in table1.cells() if not c.beyond}


@pytest.mark.parametrize(
    ("scheme", "site", "rescale"),
    [
        ("moon", "state", "test"),
        ("gal", "hidden", "test"),
        ("ours", "update", "test"),
        ("moon-inverted", "state", "train"),
    ],
)
def test_what_a_cell_drops(scheme: str, site: str, rescale: str):
    for c in table1.cells():
        if c.scheme == scheme:
            (drop,) = c.dropout
            assert (drop.rate, drop.site, drop.rescale) == (0.5, site, rescale)
            assert drop.sampling == c.sampling
            assert table1.run(c, "paper").model.recurrent_dropout == (drop,)


def test_lengths_and_marker_ranges():
    short, medium = table1.data(15), table1.data(30)
    assert (short.length, short.low, short.high) == (15, 5, 10)
    assert (medium.length, medium.low, medium.high) == (30, 10, 20)
    assert short.collide
    assert (short.train, short.test, short.batch) == (6_400, 10_000, 32)
    assert cell("ours-step-medium").length == 30
    for length in range(3, 40):
        for collide in (True, False):
            table1.data(length, collide=collide)


def test_another_length():
    shorts = {c.name for c in table1.cells() if c.name.endswith("short")}
    assert {c.name for c in table1.cells(15)} == shorts
    assert {c.block for c in table1.cells(60)} == {"60 steps"}
    assert all(c.name not in table1.PRINTED for c in table1.cells(60))


def test_a_report_shows_the_lengths_that_were_run():
    def lengths(*given: int) -> list[int]:
        runs = [table1.run(table1.cells(length)[0], "quick") for length in given]
        return sorted({c.length for c in table1.TABLE.cells(runs)})

    assert lengths() == lengths(15) == [15, 30]
    assert lengths(60) == [60]
    assert lengths(30, 60, 7) == [7, 15, 30, 60]


def test_the_papers_protocol():
    run = table1.run(cell("ours-step-short"), "paper", 4)
    assert isinstance(run, TemporalOrderRun)
    assert run.optim == Sgd(lr=0.1, clip_norm=5.0)
    assert (run.model.hidden, run.model.init_range, run.model.output_init_range) == (256, 0.05, 0.1)
    # 5,000 epochs of 200 updates, a row of metrics each epoch, a look every 2,000 updates
    assert (run.schedule.epochs, run.schedule.log_every, run.schedule.evaluate_every) == (
        5_000, 200, 10,
    )  # fmt: skip
    assert run.schedule.stop == StopRule(train_score=0.995, rows=5, score=1.0)
    assert run.schedule.keep == "last"
    assert (run.table, run.scale, run.seed, run.name) == ("table1", "paper", 4, "ours-step-short")


@pytest.mark.parametrize(("name", "epochs"), [("gal-step-short", 40), ("gal-step-medium", 80)])
def test_the_quick_protocol(name: str, epochs: int):
    run = table1.run(cell(name), "quick", collide=False)
    assert isinstance(run.optim, Adam)
    assert run.optim.lr == 0.003
    assert run.model.hidden == 64
    assert (run.schedule.epochs, run.schedule.log_every, run.schedule.keep) == (epochs, 100, "last")
    assert run.schedule.stop == StopRule(train_score=0.99)
    assert not run.data.collide


def test_a_run_may_stop_earlier_but_not_later_than_its_protocol():
    moon = cell("moon-step-medium")
    assert table1.run(moon, "paper", max_epochs=1_000).schedule.epochs == 1_000
    assert table1.run(moon, "paper", max_epochs=9_000).schedule.epochs == 5_000
    with pytest.raises(BadInput, match="schedule.epochs: .*got 0"):
        table1.run(moon, "paper", max_epochs=0)
    with pytest.raises(ValueError, match="paper and quick, got tenth"):
        table1.run(moon, "tenth")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["ours-step-short"], ["ours-step-short"]),
        (["moon-sequence-*,!*-medium"], ["moon-sequence-short"]),
        (
            ["gal-*-short", "ours-step-medium"],
            ["gal-step-short", "gal-sequence-short", "ours-step-medium"],
        ),
        (["!moon*", "!gal*", "!*-medium"], ["ours-step-short", "ours-sequence-short"]),
    ],
)
def test_patterns(patterns: list[str], names: list[str]):
    assert [c.name for c in choose(table1.cells(), patterns)] == names


@pytest.mark.parametrize("patterns", [["our-*"], ["ours-*", "!x"], ["*", "!*"]])
def test_patterns_that_choose_nothing_list_the_cells(patterns: list[str]):
    with pytest.raises(ValueError, match="moon-step-short, .*moon-inverted-sequence-medium"):
        choose(table1.cells(), patterns)


def test_no_pattern_is_every_cell():
    assert choose(table1.cells(), []) == table1.cells()
