"""The grid of Table 1: names, what is dropped, the paper's numbers, the two protocols."""

import pytest

from recdrop.lab.config import Adam, Sgd
from recdrop.lab.paper import table1

# Typed a second time from the paper: Moon short, Moon medium, Gal and ours short, medium.
PRINTED = {
    "step": ["100%", "100%", "25%", "25%", "100%", "100%", "100%", "100%"],
    "sequence": ["100%", "25%", "100%", "<25%", "100%", "100%", "100%", "100%"],
}


GAL = ["gal-step-short", "gal-sequence-short"]


def cell(name: str) -> table1.Cell:
    (found,) = (c for c in table1.grid() if c.name == name)
    return found


def test_the_grid_is_the_papers_twelve_cells_and_four_inverted():
    names = [c.name for c in table1.grid()]
    twelve = {
        f"{scheme}-{sampling}-{span}"
        for scheme in ("moon", "gal", "ours")
        for sampling in ("step", "sequence")
        for span in ("short", "medium")
    }
    assert set(names[:12]) == twelve
    assert all(name.startswith("moon-inverted-") for name in names[12:])
    assert len(set(names)) == 16


@pytest.mark.parametrize("sampling", ["step", "sequence"])
def test_the_papers_numbers(sampling: str):
    for scheme, column in (("moon", 0), ("gal", 4), ("ours", 4)):
        for span, shift in (("short", 0), ("medium", 2)):
            printed = cell(f"{scheme}-{sampling}-{span}").printed
            assert printed is not None
            at = column + shift
            assert [printed.train, printed.test] == PRINTED[sampling][at : at + 2]
    assert cell(f"moon-inverted-{sampling}-short").printed is None


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
    for c in table1.grid():
        if c.scheme == scheme:
            drop = c.dropout
            assert (drop.rate, drop.site, drop.rescale) == (0.5, site, rescale)
            assert drop.sampling == c.sampling


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
    assert {c.name for c in table1.grid(15)} == {c.name for c in table1.grid() if c.span == "short"}
    assert {c.span for c in table1.grid(60)} == {"60"}
    assert all(c.printed is None for c in table1.grid(60))


def test_the_papers_protocol():
    run = table1.run(cell("ours-step-short"), "paper", seed=4)
    assert run.optim == Sgd(lr=0.1, clip_norm=5.0)
    assert (run.model.hidden, run.model.init_range, run.model.output_init_range) == (256, 0.05, 0.1)
    assert run.schedule.max_updates == 1_000_000
    assert run.schedule.window == 200
    stop = run.schedule.stop
    assert stop is not None
    assert (stop.train_accuracy, stop.windows, stop.test_accuracy) == (0.995, 5, 1.0)
    assert (run.scale, run.seed, run.name) == ("paper", 4, "ours-step-short")


@pytest.mark.parametrize(("name", "cap"), [("gal-step-short", 8_000), ("gal-step-medium", 16_000)])
def test_the_quick_protocol(name: str, cap: int):
    run = table1.run(cell(name), "quick", collide=False)
    assert isinstance(run.optim, Adam)
    assert run.optim.lr == 0.003
    assert run.model.hidden == 64
    assert run.schedule.max_updates == cap
    assert run.schedule.stop is not None
    assert run.schedule.stop.train_accuracy == 0.99
    assert not run.data.collide


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["ours-step-short"], ["ours-step-short"]),
        (["moon-sequence-*,!*-medium"], ["moon-sequence-short"]),
        (["gal-*-short", "ours-step-medium"], [*GAL, "ours-step-medium"]),
        (["!moon*", "!gal*", "!*-medium"], ["ours-step-short", "ours-sequence-short"]),
    ],
)  # fmt: skip
def test_patterns(patterns: list[str], names: list[str]):
    assert [c.name for c in table1.choose(table1.grid(), patterns)] == names


@pytest.mark.parametrize("patterns", [["our-*"], ["ours-*", "!x"], ["*", "!*"]])
def test_patterns_that_choose_nothing_list_the_cells(patterns: list[str]):
    with pytest.raises(ValueError, match="moon-step-short, .*moon-inverted-sequence-medium"):
        table1.choose(table1.grid(), patterns)


def test_no_pattern_is_every_cell():
    assert table1.choose(table1.grid(), []) == table1.grid()
