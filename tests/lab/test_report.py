"""Reports from folders made by hand: every number, "not run", and nothing trained."""

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from recdrop.lab.config import Run
from recdrop.lab.errors import BadInput
from recdrop.lab.paper import figure2, table1, table2, table3
from recdrop.lab.paper.grid import percent
from recdrop.lab.paper.presets import PRESETS
from recdrop.lab.records import Failure, Outcome, Result, Row, Split
from recdrop.lab.report import console_table, gather, write
from recdrop.lab.results import Report, RunReport, TableReport
from recdrop.lab.settings import changed
from recdrop.lab.wording import claims, gains, notes, other_scores

MODULES: dict[str, Any] = {
    "table1": table1, "table2": table2, "table3": table3, "figure2": figure2,
}  # fmt: skip
ENVIRONMENT = {"recdrop": "0", "torch": "0", "cpu": "a CPU", "threads": 1, "date": "2026-01-01"}


def run_of(table: str, name: str, scale: str, seed: int = 0, **options: Any) -> Run:
    (cell,) = (c for c in MODULES[table].cells() if c.name == name)
    return MODULES[table].run(cell, scale, seed, **options)


def rows_of(run: Run) -> list[Row]:
    """Three epochs of four updates: two rows of training, one look each."""
    accuracy = run.task == "temporal-order"
    rows = []
    looked: Split = "test" if accuracy else "valid"
    for epoch in (1, 2, 3):
        points: list[tuple[int, Split, float]] = [
            (4 * epoch - 2, "train", 0.3 * epoch + 0.05),
            (4 * epoch, "train", 0.3 * epoch + 0.1),
            (4 * epoch, looked, 0.25 * epoch),
        ]
        for update, split, score in points:
            loss = 5.0 - 0.3 * epoch
            shown = score if accuracy else math.exp(loss)
            rows.append(
                Row(update=update, epoch=epoch, split=split, loss=loss, score=shown, lr=0.1)
            )
    return rows


def store(folder: Path, run: Run, scores: dict[str, float] | None, **outcome: Any) -> Path:
    """A run's folder; without scores, an unfinished one."""
    directory = folder / "runs" / run.name / f"seed-{run.seed}"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(run.model_dump_json())
    (directory / "env.json").write_text(json.dumps(ENVIRONMENT))
    (directory / "metrics.jsonl").write_text(
        "".join(row.model_dump_json() + "\n" for row in rows_of(run))
    )
    if scores is not None:
        values = {"updates": 12, "epochs": 3, "stopped_by": "rule", "best_update": None}
        ended = Outcome(**(values | outcome), scores=scores)
        result = Result(name=run.name, seed=run.seed, outcome=ended, seconds=60.0)
        (directory / "result.json").write_text(result.model_dump_json())
    return directory


def the_table(folder: Path, key: str = "table2-tenth") -> TableReport:
    (found,) = (table for table in gather(folder).tables if table.key == key)
    return found


def line(folder: Path, name: str, key: str = "table2-tenth") -> tuple[str, ...]:
    (found,) = (row for row in console_table(the_table(folder, key)).rows if row[0] == name)
    return found


def words(name: str = "ours-step-25", scale: str = "tenth", seed: int = 0, **options: Any) -> Run:
    return run_of("table2", name, scale, seed, **options)


def temporal(name: str, scale: str = "quick", seed: int = 0, **options: Any) -> Run:
    return run_of("table1", name, scale, seed, **options)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Page and Markdown of a folder's report, without the tables' pictures, which take long."""
    monkeypatch.setattr("recdrop.lab.report.pictures", lambda _: [])

    def texts(folder: Path = tmp_path) -> tuple[str, str]:
        page, markdown, *_ = write(folder, gather(folder))
        return page.read_text(), markdown.read_text()

    return texts


def page_of(folder: Path) -> str:
    """The page with all its pictures."""
    return write(folder, gather(folder))[0].read_text()


# --------------------------------------------------------------------------------------- numbers


def test_ours_stands_beside_the_papers(tmp_path, written):
    store(tmp_path, words(), {"valid": 313.24, "test": 300.06}, best_update=8)
    table = console_table(the_table(tmp_path))
    assert table.header == ("cell", "valid", "paper", "test", "paper", "seeds", "best epoch")
    assert table.rows == [("ours-step-25", "313.2", "106.1", "300.1", "100.0", "1", "2 of 3")]
    page, markdown = written()
    assert "| ours-step-25 | 313.2 | 106.1 | 300.1 | 100.0 | 1 | 2 of 3 |" in markdown
    assert ">313.2</td>" in page


@pytest.mark.usefixtures("written")
def test_the_tables_alone_and_their_numbers(tmp_path):
    store(tmp_path, words(), {"valid": 313.24, "test": 300.06}, best_update=8)
    names = [path.name for path in write(tmp_path, gather(tmp_path))]
    assert names == ["report.html", "report.md", "table.md", "result.json"]
    alone = (tmp_path / "table.md").read_text()
    assert "| ours-step-25 | 313.2 | 106.1 | 300.1 | 100.0 | 1 | 2 of 3 |" in alone
    assert "not the paper's protocol" in alone
    assert "claims" not in alone
    (table,) = json.loads((tmp_path / "result.json").read_text())["tables"]
    assert (table["table"], table["scale"]) == ("table2", "tenth")
    cells = {cell["name"]: cell for cell in table["cells"]}
    assert cells["ours-step-25"]["mean"] == {"valid": 313.24, "test": 300.06}
    assert cells["ours-step-25"]["paper"] == {"valid": "106.1", "test": "100.0"}
    assert cells["ours-step-25"]["runs"][0]["result"]["outcome"]["best_update"] == 8
    assert cells["none"]["status"] == "not run"


def test_several_seeds_are_a_mean_with_its_deviation(tmp_path):
    for seed, valid in enumerate((100.0, 103.0, 106.0)):
        store(tmp_path, words(seed=seed), {"valid": valid, "test": valid}, best_update=12)
    store(tmp_path, words(seed=3), None)
    row = line(tmp_path, "ours-step-25")
    assert row[1] == "103.0 ± 3.0"  # the unfinished fourth does not count
    assert row[5] == "3"
    assert row[7] == "seed 3 unfinished"


def test_bits_have_three_decimals(tmp_path):
    store(tmp_path, run_of("table3", "none", "paper"), {"valid": 1.4601, "test": 1.4234})
    assert line(tmp_path, "none", "table3-paper")[1:5] == ("1.460", "1.460", "1.423", "1.457")


def test_accuracy_and_updates_to_99(tmp_path):
    run = temporal("moon-sequence-medium")
    store(tmp_path, run, {"train": 1.0, "test": 0.2541, "test_masked": 0.9})
    assert line(tmp_path, run.name, "table1-quick") == (
        "moon-sequence-medium", "100%", "100%", "25.4%", "<25%", "1", "12", "12",
    )  # fmt: skip
    assert rows_of(run)[-2].score == pytest.approx(1.0)  # at update 12, the first of 99%
    assert other_scores(the_table(tmp_path, "table1-quick")) == (
        ["test_masked"], [("moon-sequence-medium", "90.0%")],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "told"), [(1.0, "100%"), (0.9999, "99.9%"), (0.25, "25.0%"), (0.0, "0.0%")]
)
def test_percentages_are_rounded_down(share, told):
    assert percent(share) == told


def test_differences_from_the_paper_are_told_at_its_scale_only(tmp_path, written):
    store(tmp_path, words(scale="paper"), {"valid": 105.0, "test": 101.5})
    assert "| 105.0 | 106.1 | −1.1 | 101.5 | 100.0 | +1.5 |" in written()[1]
    other = tmp_path / "other"
    store(other, words(), {"valid": 105.0, "test": 101.5})
    assert "difference" not in written(other)[1]


def test_less_than_survives_markdown(tmp_path, written):
    store(tmp_path, temporal("ours-step-short"), {"train": 1.0, "test": 1.0})
    html = MarkdownIt().enable("table").render(written()[1])
    assert html.count(">&lt;25%<") == 1
    assert "<h2>Table 1" in html


def test_figure_2_has_the_best_and_the_last_epoch(tmp_path):
    scores = {"valid": 127.0, "test": 122.0, "valid_last": 143.04, "test_last": 139.0}
    store(tmp_path, run_of("figure2", "none", "paper"), scores)
    row = line(tmp_path, "none", "figure2-paper")
    assert row[1:5] == ("127.0", "127.2", "143.0", "142.9")


# ------------------------------------------------------------------------- what is not as it seems


def test_what_was_not_run_is_said_for_every_cell(tmp_path, written):
    store(tmp_path, words(), {"valid": 313.2, "test": 300.0})
    page, markdown = written()
    assert len(re.findall(r"^\| [a-z0-9-]+ \| not run \|", markdown, re.MULTILINE)) == 28
    assert page.count('class="idle"') == 28
    assert "| gal-step-25 | not run | 119.8 | not run | 114.2 | - | - |" in markdown
    told = console_table(the_table(tmp_path))
    assert [row[0] for row in told.rows] == ["ours-step-25"]
    assert any("not run: none, moon-step-25" in note for note in told.notes)


def test_unfinished_and_diverged_runs_are_said(tmp_path, written):
    store(tmp_path, words("gal-step-25"), None)
    directory = store(tmp_path, words("moon-step-25"), None)
    failure = Failure(kind="diverged", message="the loss is nan at update 7")
    (directory / "failed.json").write_text(failure.model_dump_json())
    assert line(tmp_path, "gal-step-25")[1] == "unfinished"
    assert line(tmp_path, "moon-step-25")[1] == "diverged"
    for text in written():
        assert "runs/moon-step-25/seed-0: the loss is nan at update 7" in text
        assert "runs/gal-step-25/seed-0: unfinished, 12 updates so far (epoch 3)" in text
        assert "2 runs, 0 finished" in text


@pytest.mark.parametrize(
    ("run", "note"),
    [
        (words(), "trained on the first tenth of the text, not the paper's protocol"),
        (temporal("ours-step-short"), "quick scale: H 64, Adam, not the paper's protocol"),
    ],
)
def test_other_scales_are_marked_wherever_they_are_shown(tmp_path, run, note):
    store(tmp_path, run, {"train": 1.0, "valid": 313.2, "test": 1.0})
    table = gather(tmp_path).tables[0]
    page, markdown = (path.read_text() for path in write(tmp_path, gather(tmp_path))[:2])
    assert note in str(table.warning)
    assert page.count('<p class="loud">') >= 2  # the table and the claims
    assert markdown.count(f"**{table.warning}**") == 2
    assert console_table(table).notes[0] == table.warning
    assert f"({run.scale} scale)" in console_table(table).title
    pictures = list((tmp_path / "pictures").glob("*.svg"))
    assert pictures
    for path in pictures:
        assert f"{run.scale} scale" in path.read_text()


def test_the_papers_protocol_is_not_marked(tmp_path, written):
    store(tmp_path, temporal("ours-step-short", "paper"), {"train": 1.0, "test": 1.0})
    for text in written():
        assert "quick" not in text
        assert "not the protocol" not in text
        assert 'loud">' not in text


def test_a_run_that_was_cut_short_is_said_to_be(tmp_path, written):
    run = temporal("moon-step-short", "paper", max_epochs=2_000)
    ended = {"updates": 400_000, "epochs": 2_000, "stopped_by": "epochs"}
    store(tmp_path, run, {"train": 0.9, "test": 0.8}, **ended)
    mastered = temporal("ours-step-short", "paper", max_epochs=2_000)
    store(tmp_path, mastered, {"train": 1.0, "test": 1.0})
    whole = temporal("gal-step-short", "paper")
    store(tmp_path, whole, {"train": 1.0, "test": 1.0}, stopped_by="epochs")
    remark = "stopped at 400,000 updates"
    assert line(tmp_path, "moon-step-short", "table1-paper")[-1] == remark
    assert line(tmp_path, "ours-step-short", "table1-paper")[-1] == ""
    assert line(tmp_path, "gal-step-short", "table1-paper")[-1] == ""
    for text in written():
        assert text.count(remark) == 1
        assert "not the protocol" not in text


def test_other_settings_than_the_protocols_are_said(tmp_path, written):
    run = changed(words(), {"model": {"hidden": 64}})
    store(tmp_path, run, {"valid": 400.0, "test": 390.0})
    wanted = "not the protocol: model.hidden: protocol 256, here 64 (ours-step-25)"
    assert wanted in notes(the_table(tmp_path))
    page, markdown = written()
    assert wanted in page
    assert wanted in markdown
    assert "other settings" in line(tmp_path, "ours-step-25")[-1]


def test_colliding_markers_switched_off_are_said(tmp_path):
    store(tmp_path, temporal("ours-step-short", collide=False), {"train": 1.0, "test": 1.0})
    store(tmp_path, temporal("gal-step-short", collide=False), {"train": 1.0, "test": 1.0})
    told = notes(the_table(tmp_path, "table1-quick"))
    assert "not the protocol: data.collide: protocol True, here False (every cell)" in told


def test_the_same_cell_twice_counts_once(tmp_path):
    store(tmp_path / "a", words(), None)
    store(tmp_path / "b", words(), {"valid": 300.0, "test": 290.0})
    store(tmp_path / "c", words(), {"valid": 100.0, "test": 90.0})
    report = gather(tmp_path)
    assert line(tmp_path, "ours-step-25")[1] == "300.0"
    assert [told.partition(":")[0] for told in report.unread] == [
        "c/runs/ours-step-25/seed-0", "a/runs/ours-step-25/seed-0",
    ]  # fmt: skip


def test_scales_are_apart(tmp_path):
    store(tmp_path / "a", words(), {"valid": 300.0, "test": 290.0})
    store(tmp_path / "b", words(scale="paper"), {"valid": 106.0, "test": 100.0})
    assert [table.key for table in gather(tmp_path).tables] == ["table2-paper", "table2-tenth"]
    assert line(tmp_path, "ours-step-25")[1] == "300.0"
    assert line(tmp_path, "ours-step-25", "table2-paper")[1] == "106.0"


# ------------------------------------------------------------------------------------- differences


def test_what_dropout_changes_is_paired_by_seed(tmp_path, written):
    for seed, (without, with_it) in enumerate([(300.0, 290.0), (310.0, 298.0), (305.0, 291.0)]):
        store(tmp_path, words("none", seed=seed), {"valid": without, "test": without})
        store(tmp_path, words(seed=seed), {"valid": with_it, "test": with_it + seed})
    store(tmp_path, words(seed=7), {"valid": 1.0, "test": 1.0})  # no other with that seed
    header, (row,) = gains(the_table(tmp_path))
    assert header == ["cell", "valid", "paper", "test", "paper", "pairs"]
    reach = 4.302653 * 2 / math.sqrt(3)  # t of 2 degrees of freedom; differences -10, -12, -14
    ours = f"−12.0 (−{12 + reach:.1f} to −{12 - reach:.1f})"
    assert row[:3] == ("ours-step-25", ours, "−23.9")
    assert row[3].startswith("−11.0 (")
    assert row[4:] == ("−25.2", "3")
    page, markdown = written()
    assert ours in page
    assert f"| ours-step-25 | {ours} |" in markdown
    cells = json.loads((tmp_path / "result.json").read_text())["tables"][0]["cells"]
    (stored,) = (one for one in cells if one["name"] == "ours-step-25")
    assert stored["baseline"] == "none"
    assert stored["difference"]["valid"] == {
        "mean": -12.0, "reach": pytest.approx(reach, abs=1e-5), "pairs": 3,
    }  # fmt: skip


def test_one_pair_has_no_interval_and_no_baseline_no_difference(tmp_path, written):
    store(tmp_path, words(), {"valid": 290.0, "test": 280.0})
    assert gains(the_table(tmp_path)) == ([], [])
    assert not any("What recurrent dropout changes" in text for text in written())
    store(tmp_path, words("none"), {"valid": 300.0, "test": 290.0})
    _, (row,) = gains(the_table(tmp_path))
    assert row == ("ours-step-25", "−10.0", "−23.9", "−10.0", "−25.2", "1")


# ---------------------------------------------------------------------------- claims, other parts


def test_claims_on_our_numbers(tmp_path, written):
    for name, valid in (
        ("moon-step-25", 320.0), ("moon-sequence-25", 310.0),
        ("moon-step-50", 330.0), ("moon-sequence-50", 340.0),
    ):  # fmt: skip
        store(tmp_path, words(name), {"valid": valid, "test": valid})
    judged = claims(the_table(tmp_path))
    assert (judged[0].printed.holds, judged[0].measured.holds) == (True, False)
    assert judged[0].measured.told == "320.0 ≥ 310.0; 330.0 < 340.0"
    assert judged[1].measured.holds is None
    page, markdown = written()
    assert "**holds**: 113.0 &lt; 121.0; 124.0 &lt; 137.7 | **does not hold**: 320.0" in markdown
    assert "320.0 ≥ 310.0; 330.0 &lt; 340.0" in page
    assert "missing: moon-step-25-forward" in page


def test_environment_and_time_are_told(tmp_path, written):
    store(tmp_path, words(), {"valid": 1.0, "test": 1.0})
    store(tmp_path, words("none"), {"valid": 1.0, "test": 1.0})
    for text in written():
        assert "2 runs, 2 finished; training time of those together: 2 min" in text
        assert "2 runs, started 2026-01-01: recdrop 0, torch 0, cpu a CPU, threads 1" in text


def test_a_run_without_a_table_has_its_own_section(tmp_path, written):
    store(tmp_path, PRESETS["char-lm"]["small"], {"valid": 2.25, "test": 2.31}, best_update=8)
    assert gather(tmp_path).tables == ()
    page, markdown = written()
    assert "### runs/run/seed-0 (char-lm)\n" in markdown
    assert "- valid, bits per character: 2.25\n" in markdown
    assert "- best epoch: 2 of 3\n" in markdown
    assert "<dt>valid, bits per character</dt><dd>2.25</dd>" in page
    assert "<table" not in page  # of one run
    assert page.count("<svg") == 1
    assert (tmp_path / "pictures" / "run-1.svg").is_file()


def test_runs_of_ones_own_are_told_apart_and_compared(tmp_path, written):
    text, names = PRESETS["char-lm"]["small"], PRESETS["ner"]["small"]
    store(tmp_path / "a", text, {"valid": 2.25, "test": 2.31}, best_update=8)
    store(tmp_path / "b", text, None)
    shares = {"train": 0.9, "valid": 0.5, "test": 0.25, "test_precision": 0.125}
    store(tmp_path / "c", changed(names, {"name": "mine"}), shares, best_update=7)
    store(tmp_path / "d", PRESETS["temporal-order"]["quick"], {"test": 1.0})
    page, markdown = written()
    before, _, table = markdown.partition("## Runs\n\n")
    assert "###" not in before
    assert table.split("\n\n")[0].split("\n") == [
        "| run | task | score | valid | test | best epoch |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| a/runs/run/seed-0 | char-lm | bits per character | 2.25 | 2.31 | 2 of 3 |",
        "| b/runs/run/seed-0 | char-lm | bits per character | unfinished | - | - |",
        "| c/runs/mine/seed-0 | ner | F1 | 50.00% | 25.00% | update 7 |",
        "| d/runs/run/seed-0 | temporal-order | accuracy | - | 100.00% | - |",
    ]
    assert re.findall("^### (.*)$", markdown, re.MULTILINE) == [
        "a/runs/run/seed-0 (char-lm)",
        "b/runs/run/seed-0 (char-lm)",
        "c/runs/mine/seed-0 (ner, mine)",
        "d/runs/run/seed-0 (temporal-order)",
    ]
    for told in ("train, words right: 90.00%", "valid, F1: 50.00%", "test_precision: 12.50%"):
        assert f"- {told}\n" in markdown
    assert '<a href="#run-3">c/runs/mine/seed-0</a>' in page
    assert '<h3 id="run-3">c/runs/mine/seed-0 (ner, mine)</h3>' in page
    assert page.index("<table") < page.index("<h3")


def test_a_run_whose_name_is_no_cell_is_not_lost(tmp_path):
    run = changed(words(), {"name": "mine"})
    store(tmp_path, run, {"valid": 300.0, "test": 290.0})
    report = gather(tmp_path)
    assert report.tables == ()
    assert [one.run.name for one in report.others] == ["mine"]


def test_a_folder_that_cannot_be_read_leaves_the_others_alone(tmp_path, written):
    store(tmp_path, words(), {"valid": 300.0, "test": 290.0})
    broken = store(tmp_path, words("none"), None)
    (broken / "config.json").write_text('{"task": "word-lm", "name": "none"}')
    (told,) = gather(tmp_path).unread
    assert told.startswith("runs/none/seed-0: ")
    assert "Field required" in told
    assert line(tmp_path, "ours-step-25")[1] == "300.0"
    assert all("runs/none/seed-0" in text for text in written())


def test_a_run_in_the_folder_itself_and_checkpoints_below_are_no_runs(tmp_path):
    directory = store(tmp_path, words(), {"valid": 300.0, "test": 290.0})
    (directory / "checkpoints" / "step-8").mkdir(parents=True)
    (directory / "checkpoints" / "step-8" / "config.json").write_text("{}")
    report = gather(directory)
    assert [one.place for one in report.runs] == ["."]
    assert report.unread == ()


def test_runs_below_other_peoples_folders_and_below_runs_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "somebody\'s"}')
    directory = store(tmp_path, words(), {"valid": 300.0, "test": 290.0})
    store(directory, words("none"), None)
    report = gather(tmp_path)
    assert {one.run.name for one in report.runs} == {"ours-step-25", "none"}
    (told,) = report.unread
    assert told.startswith(".: ")
    assert "no task is named" in told


def test_runs_behind_links_are_read_once(tmp_path):
    store(tmp_path / "elsewhere", words(), {"valid": 300.0, "test": 290.0})
    store(tmp_path / "out", words("none"), {"valid": 310.0, "test": 300.0})
    out = tmp_path / "out"
    for name in ("far", "far-again"):
        (out / name).symlink_to(tmp_path / "elsewhere")
    (out / "deeper").symlink_to(tmp_path / "elsewhere" / "runs" / "ours-step-25")
    (out / "a-near-one").symlink_to(out / "runs" / "none")
    (out / "loop").symlink_to(out)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    (out / "nowhere").symlink_to(tmp_path / "nowhere")
    report = gather(out)
    assert [one.place for one in report.runs] == ["runs/none/seed-0", "deeper/seed-0"]
    assert report.unread == ()


def test_a_folder_whose_name_is_no_text_is_told_as_well_as_may_be(tmp_path):
    store(tmp_path / os.fsdecode(b"caf\xe9"), words(), {"valid": 300.0, "test": 290.0})
    report = gather(tmp_path)
    assert report.runs[0].place.startswith("caf\N{REPLACEMENT CHARACTER}/runs")
    write(tmp_path / "out", report)


def test_without_runs_there_is_no_report(tmp_path):
    with pytest.raises(BadInput, match="no run in it"):
        gather(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        gather(tmp_path / "none")


# ---------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """Every start tag with its attributes, and the text outside styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


NASTY = '<script>alert(1)</script><img src="http://x.test/y">{{ 7*7 }}{% raw %}|`[a](http://b) $x^'


def test_nothing_from_the_folders_is_run_or_fetched(tmp_path):
    nasty = tmp_path / ("<b>{{ 7*7 }}" + "x" * 200)
    store(nasty, words(), {"valid": 300.0, "test": 290.0, NASTY: 1.0})
    mine = store(nasty, PRESETS["char-lm"]["small"], {"valid": 2.0, NASTY: 1.0})
    (mine / "env.json").write_text(json.dumps({NASTY: NASTY}))
    failed = store(nasty, words("none"), None)
    (failed / "failed.json").write_text(
        Failure(kind=NASTY + "z" * 500, message=NASTY + "\n# " + "y" * 5_000).model_dump_json()
    )
    page, markdown = (path.read_text() for path in write(tmp_path, gather(tmp_path))[:2])
    tags = {tag for tag, _ in Page(page).tags}
    assert not {"script", "img", "link", "iframe", "object", "embed", "b"} & tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}{% raw %}" in page
    html = Page(MarkdownIt().enable("table").render(markdown)).tags
    assert not {"script", "a", "b"} & {tag for tag, _ in html}
    assert [tag for tag, _ in html].count("h1") == 1  # the line that begins with # is no heading
    pictures = [attributes["src"] for tag, attributes in html if tag == "img"]
    assert pictures
    assert all(str(path).startswith("pictures/") for path in pictures)


def test_the_page_makes_no_request(tmp_path):
    store(tmp_path / "a", temporal("ours-step-short"), {"train": 1.0, "test": 1.0})
    store(tmp_path / "b", words(scale="paper"), {"valid": 106.0, "test": 100.0})
    store(tmp_path / "c", PRESETS["char-lm"]["small"], {"valid": 2.0, "test": 2.0})
    page = page_of(tmp_path)
    assert page.count("<svg") == 3 + 4 + 1  # of Table 1, of Table 2 with Figure 2, of the run
    for word in ("http", "//", "@import", "src=", "url(data", "<!DOCTYPE svg"):
        assert word not in page, word
    for tag, attributes in Page(page).tags:
        for name in ("href", "xlink:href", "src", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, value)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_names_inside_the_page_are_unique_and_found(tmp_path):
    for name in ("ours-step-short", "gal-step-medium"):
        store(tmp_path, temporal(name), {"train": 1.0, "test": 1.0})
    page = page_of(tmp_path)
    tags = Page(page).tags
    names = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(names) == len(set(names))
    wanted = {a["href"] for _, a in tags if (a.get("href") or "").startswith("#")}
    wanted |= {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", page)}
    assert {str(name).removeprefix("#") for name in wanted} <= set(names)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    store(tmp_path / "runs-a", words(scale="paper"), {"valid": 106.0, "test": 100.0})
    store(tmp_path / "runs-b", temporal("ours-step-short"), {"train": 1.0, "test": 1.0})
    report: Report = gather(tmp_path)
    folders = [tmp_path / "first", tmp_path / "second"]
    files = []
    for folder in folders:
        folder.mkdir()
        files.append([p.relative_to(folder) for p in write(folder, report)])
    assert files[0] == files[1]
    assert len(files[0]) > 6
    for name in files[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_figure_2_is_drawn_over_the_papers(tmp_path):
    for name in ("none", "ours-step-25"):
        store(tmp_path, run_of("figure2", name, "paper"), {"valid": 127.0, "valid_last": 142.0})
    write(tmp_path, gather(tmp_path))
    svg = (tmp_path / "pictures" / "figure2-paper-figure2.svg").read_text()
    # Of each cell, the paper's curves before ours: validation dashed, training solid.
    for colour, epochs in (("#7a7a7a", 36), ("#0072b2", 37)):
        start = '<path d="([^"]*)"[^>]*style="fill: none; '
        dashed = re.findall(f'{start}stroke-dasharray[^"]*stroke: {colour}', svg)
        solid = re.findall(f"{start}stroke: {colour}", svg)
        assert [path.count("L") + 1 for path in dashed] == [epochs, 3]
        assert len(solid) == 2
        assert solid[0].count("L") > 200  # of 298 points, those above the picture's edge left out
        assert solid[1].count("L") + 1 == 6
    assert (tmp_path / "pictures" / "figure2-paper-figure2.png").read_bytes()[1:4] == b"PNG"


def test_epochs_of_stages_are_of_unequal_length():
    def row(update: int, epoch: int, split: Split = "train") -> Row:
        return Row(update=update, epoch=epoch, split=split, loss=1.0, score=0.5, lr=0.1)

    looks = [row(10, 1, "valid"), row(20, 2, "valid"), row(24, 3, "valid"), row(28, 4, "valid")]
    trained = [row(5, 1), row(20, 2), row(22, 3), row(24, 3), row(31, 5)]
    one = RunReport("run", PRESETS["ner"]["small"], trained + looks, None, None, None)
    assert one.epochs(trained) == [0.5, 2.0, 2.5, 3.0, 4.75]
    assert one.epochs(looks) == [1.0, 2.0, 3.0, 4.0]
    assert [one.epoch_of(update) for update in (20, 28, 31, None)] == [2, 4, None, None]
