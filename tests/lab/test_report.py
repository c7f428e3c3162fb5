"""Reports from folders made by hand: every number, "not run", and nothing trained."""

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from recdrop.lab.errors import StorageFailed
from recdrop.lab.figures import write_figure
from recdrop.lab.paper import table1
from recdrop.lab.report import gather, markdown, percent, summary, table, write_tables
from recdrop.lab.runs import Failure, Result, run_directory
from recdrop.lab.train import Row
from tests.lab.tiny import outcome

CELLS = table1.grid()


def store(folder: Path, name: str, seed: int = 0, scale="quick", *, failed=False, **changes):
    (cell,) = (c for c in CELLS if c.name == name)
    run = table1.run(cell, scale, seed=seed)
    directory = run_directory(folder, name, seed)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(run.model_dump_json())
    environment = {
        "recdrop": "0",
        "torch": "0",
        "python": "3",
        "cpu": "a CPU",
        "cores": 2,
        "threads": 1,
    }
    (directory / "env.json").write_text(json.dumps(environment | {"date": f"2026-01-0{seed + 1}"}))
    rows = [Row(update=100 * k, loss=1.0, train_accuracy=0.2 * k) for k in range(1, 5)]
    (directory / "metrics.jsonl").write_text("".join(r.model_dump_json() + "\n" for r in rows))
    if failed:
        failure = Failure(kind="diverged", message="the loss is nan at update 7")
        (directory / "failed.json").write_text(failure.model_dump_json())
    elif changes or seed >= 0:
        result = Result(name=name, seed=seed, outcome=outcome(**changes), seconds=60.0)
        (directory / "result.json").write_text(result.model_dump_json())
    return directory


def line(folder: Path, name: str) -> tuple[str, ...]:
    (found,) = (row for row in table(gather(folder, CELLS)) if row[0] == name)
    return found


def test_ours_stands_beside_the_papers(tmp_path):
    store(tmp_path, "moon-sequence-medium", train_accuracy=1.0, test_accuracy=0.2541)
    assert line(tmp_path, "moon-sequence-medium") == (
        "moon-sequence-medium", "100%", "100%", "25.4%", "<25%", "1,000", "900",
    )  # fmt: skip
    assert "| 25.4% | <25% |" in markdown(gather(tmp_path, CELLS))


def test_less_than_survives_markdown(tmp_path):
    html = MarkdownIt().enable("table").render(markdown(gather(tmp_path, CELLS)))
    assert html.count(">&lt;25%<") == 1
    assert "<h1>Table 1" in html


def test_what_was_not_run_is_said(tmp_path):
    store(tmp_path, "ours-step-short")
    row = line(tmp_path, "gal-step-short")
    assert row == ("gal-step-short", "not run", "100%", "not run", "100%", "-", "-")
    assert markdown(gather(tmp_path, CELLS)).count("not run") == 2 * 15
    assert line(tmp_path, "moon-inverted-step-short")[2] == "-"


def test_unfinished_and_diverged_runs_are_said(tmp_path):
    directory = store(tmp_path, "gal-step-short")
    (directory / "result.json").unlink()
    store(tmp_path, "ours-step-short", failed=True)
    assert line(tmp_path, "gal-step-short")[1] == "unfinished"
    assert line(tmp_path, "ours-step-short")[1] == "diverged"


def test_several_seeds_are_a_median_with_its_spread(tmp_path):
    for seed, updates in enumerate((1_000, 3_000, 2_000)):
        store(tmp_path, "ours-step-short", seed, updates=updates, updates_to_99=updates - 100)
    store(tmp_path, "gal-step-short", 0, updates_to_99=None, stopped_by="cap")
    row = line(tmp_path, "ours-step-short")
    assert row[5] == "2,000 [1,000, 3,000]"
    assert row[6] == "1,900 [900, 2,900], 3 of 3 seeds"
    assert line(tmp_path, "gal-step-short")[5:] == ("1,000 (cap)", "never")
    assert "several seeds: median" in markdown(gather(tmp_path, CELLS))


@pytest.mark.parametrize(
    ("share", "told"), [(1.0, "100%"), (0.9999, "99.9%"), (0.25, "25.0%"), (0.0, "0.0%")]
)
def test_percentages_are_rounded_down(share, told):
    assert percent(share) == told


def test_quick_is_marked_wherever_it_is_shown(tmp_path):
    store(tmp_path, "ours-step-short")
    reports = gather(tmp_path, CELLS)
    write_tables(tmp_path, reports)
    write_figure(tmp_path, reports)
    note = "not the paper's protocol"
    for name in ("table.md", "result.json", "table1.svg"):
        text = (tmp_path / name).read_text()
        assert note in text or "quick scale" in text, name


def test_the_papers_protocol_is_not_marked_quick(tmp_path):
    store(tmp_path, "ours-step-short", scale="paper")
    assert "quick" not in markdown(gather(tmp_path, CELLS))


def test_json_has_every_number(tmp_path):
    store(tmp_path, "ours-step-short")
    stored = summary(gather(tmp_path, CELLS))
    assert stored["scale"] == ["quick"]
    assert stored["training_seconds"] == 60.0
    (cell,) = (c for c in stored["cells"] if c["name"] == "ours-step-short")
    assert cell["runs"][0]["outcome"] == outcome().model_dump()
    assert cell["paper"] == {"train": "100%", "test": "100%"}
    assert cell["dropout"]["site"] == "update"
    json.dumps(stored, allow_nan=False)


def test_the_same_runs_give_the_same_picture(tmp_path):
    store(tmp_path, "ours-step-short")
    reports = gather(tmp_path, CELLS)
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_figure(tmp_path / name, reports)
        pictures.append((tmp_path / name / "table1.svg").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_folder_that_holds_another_run_is_refused(tmp_path):
    directory = store(tmp_path, "ours-step-short")
    directory.rename(directory.with_name("seed-5"))
    with pytest.raises(StorageFailed, match="holds ours-step-short, seed 0"):
        gather(tmp_path, CELLS)
