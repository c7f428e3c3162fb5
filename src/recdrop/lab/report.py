"""Run folders → one self-contained page, the same as Markdown, and pictures. Never trains."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from recdrop.lab.errors import BadInput
from recdrop.lab.figures import Picture, curve, pictures
from recdrop.lab.other_runs import OVERVIEW, facts, heading, overview
from recdrop.lab.paper.judging import Verdict
from recdrop.lab.progress import duration
from recdrop.lab.results import Report, RunReport, TableReport, gather, summary
from recdrop.lab.runs import read_text
from recdrop.lab.storage import is_there, make_folder, write_whole
from recdrop.lab.wording import (
    Judged,
    Line,
    blocks,
    claims,
    claims_not_run,
    console_table,
    environments,
    failures,
    gains,
    more_header,
    notes,
    other_scores,
    run_count,
    seconds,
    title,
)

__all__ = ["console_table", "gather", "write"]


_HEADING = "# recdrop: report"
GAINS = (
    "Score with recurrent dropout less score of the same net without, paired by seed; in brackets "
    "the mean's 95% interval (Student's t), where there are several seeds. Of perplexity and bits "
    "less is better."
)


class Section(NamedTuple):
    """A table of the paper at one scale, in words and pictures.

    Attributes:
        key: Its place in the page.
        title: Heading.
        scale: Of the protocol.
        warning: What is said of a scale that is not the paper's.
        measures: Headings of the scores.
        differences: Whether differences from the paper's numbers mean something.
        header: Headings of the columns behind.
        blocks: The cells.
        notes: How to read it.
        gains: What recurrent dropout changes: headings, and rows.
        claims: The paper's, judged.
        others: Further scores: names, and rows.
        pictures: What is drawn.
        runs: How many, and their time.
    """

    key: str
    title: str
    scale: str
    warning: str | None
    measures: list[str]
    differences: bool
    header: tuple[str, ...]
    blocks: dict[str, list[Line]]
    notes: list[str]
    gains: tuple[list[str], list[tuple[str, ...]]]
    claims: list[Judged]
    others: tuple[list[str], list[tuple[str, ...]]]
    pictures: list[Picture]
    runs: str


class Other(NamedTuple):
    """A run that belongs to no table.

    Attributes:
        key: Its place in the page.
        title: Folder, task and name.
        facts: Name and text of each number.
        picture: Its curve.
    """

    key: str
    title: str
    facts: list[tuple[str, str]]
    picture: Picture | None


class Contents(NamedTuple):
    """Everything that is said, in order.

    Attributes:
        summary: How many runs, and their time.
        sections: The paper's tables.
        claims: The paper's about tables without runs, by title.
        others: Other runs.
        overview: A row of `OVERVIEW` for each of these, where there are several.
        failures: What has no result or could not be read.
        environments: What it ran on.
    """

    summary: str
    sections: list[Section]
    claims: dict[str, list[Judged]]
    others: list[Other]
    overview: list[tuple[str, ...]]
    failures: list[str]
    environments: list[str]

    @property
    def others_title(self) -> str:
        """What the other runs are, with tables beside them or without."""
        return "Other runs" if self.sections else "Runs"


def check_free(folder: Path, names: Iterable[str] = ("report.html", "table.md", "result.json")):
    """Refuse a folder where files of a report's names are somebody's own.

    Args:
        folder: It is a report's where its ``report.md`` is one; that is written first.
        names: What else is to be written.

    Raises:
        BadInput: A file would be replaced; it is named.
        StorageFailed: The system refused to read.
    """
    told = read_text(folder / "report.md")
    ours = told is not None and told.startswith(_HEADING)
    for name in ("report.md", *names):
        if ours and not (name == "result.json" and is_there(folder / "config.json")):
            continue  # the one is a report's; where a run is, the other is that run's
        if is_there(folder / name):
            raise BadInput(
                f"{folder / name} is there and no report of recdrop's, which would have to replace "
                "it; choose another folder with --out, or move it"
            )


def write(folder: Path, report: Report) -> list[Path]:
    """Write ``report.html``, ``report.md`` and the pictures, ``pictures/*.svg`` and ``.png``.

    Where there are tables of the paper, ``table.md`` holds nothing but them, and ``result.json``
    their numbers; but a run's folder keeps its own ``result.json``, and gets neither. The same runs
    give the same bytes, the pixels of a PNG aside.

    Args:
        folder: Where; made if it is missing.
        report: From `gather`.

    Returns:
        The files, the page first.

    Raises:
        BadInput: See `check_free`.
        StorageFailed: They cannot be written.
    """
    contents = _contents(report)
    drawn = [picture for section in contents.sections for picture in section.pictures]
    drawn += [other.picture for other in contents.others if other.picture is not None]
    files: dict[str, str | bytes] = {"report.md": markdown(contents)}
    for picture in drawn:
        files |= {
            f"pictures/{picture.name}.svg": picture.svg,
            f"pictures/{picture.name}.png": picture.png,
        }
    if report.tables and not is_there(folder / "config.json"):
        numbers = json.dumps(summary(report), indent=2, ensure_ascii=False, allow_nan=False)
        files |= {"table.md": tables_only(contents), "result.json": numbers + "\n"}
    files["report.html"] = page(contents)
    make_folder(folder)
    check_free(folder, files)
    if drawn:
        make_folder(folder / "pictures")
    for name, content in files.items():
        write_whole(folder / name, content)
    first = ("report.html", "report.md")
    return [folder / name for name in (*first, *(name for name in files if name not in first))]


def _contents(report: Report) -> Contents:
    return Contents(
        summary=_summary(report.runs),
        sections=[_section(table) for table in report.tables],
        claims=claims_not_run(report.tables),
        others=[_other(one, f"run-{number}") for number, one in enumerate(report.others, 1)],
        overview=overview(report.others),
        failures=[*failures(report.runs), *report.unread],
        environments=environments(report.runs),
    )


def _summary(runs: Sequence[RunReport]) -> str:
    return f"{run_count(runs)}; training time of those together: {duration(seconds(runs))}"


def _section(table: TableReport) -> Section:
    told = blocks(table)
    values = [value for lines in told.values() for line in lines for value in line.values]
    return Section(
        key=table.key,
        title=title(table),
        scale=table.scale,
        warning=table.warning,
        measures=list(table.table.measures.values()),
        differences=any(value.difference for value in values),
        header=more_header(table),
        blocks=told,
        notes=notes(table),
        gains=gains(table),
        claims=claims(table),
        others=other_scores(table),
        pictures=pictures(table),
        runs=_summary(table.runs),
    )


def _other(one: RunReport, key: str) -> Other:
    return Other(key, heading(one), list(facts(one)), curve(one, key))


# ------------------------------------------------------------------------------------------ page


def page(contents: Contents) -> str:
    """The page: one file that fetches nothing. Whatever comes from the folders is escaped."""
    environment = Environment(
        loader=PackageLoader("recdrop.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(report=contents, holds=holds, gains=GAINS, overview=OVERVIEW)


def holds(verdict: Verdict) -> str:
    """A verdict in a word or two."""
    if verdict.holds is None:
        return "not run"
    return "holds" if verdict.holds else "does not hold"


# -------------------------------------------------------------------------------------- Markdown


def markdown(contents: Contents) -> str:
    """The same as Markdown."""
    lines = [_HEADING, "", _plain(contents.summary), ""]
    for section in contents.sections:
        lines += _section_lines(section)
    if contents.claims:
        lines += ["## The paper's claims about tables that have no runs here", ""]
        for name, judged in contents.claims.items():
            lines += [f"### {name}", "", *_claim_lines(judged)]
    if contents.others:
        lines += [f"## {contents.others_title}", ""]
        lines += _grid(OVERVIEW, contents.overview) if contents.overview else []
    for other in contents.others:
        lines += [f"### {_plain(other.title)}", ""]
        lines += [f"- {_plain(name)}: {_plain(value)}" for name, value in other.facts]
        lines += ["", *(_image(other.picture) if other.picture else [])]
    if contents.failures:
        lines += ["## Without a result", "", *_listed(contents.failures)]
    lines += ["## What it ran on", "", *_listed(contents.environments or ["not known"])]
    return "\n".join(lines).rstrip("\n") + "\n"


def tables_only(contents: Contents) -> str:
    """The tables with their notes, as Markdown."""
    lines = [line for section in contents.sections for line in _head_lines(section)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head_lines(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    lines += [f"**{section.warning}**", ""] if section.warning else []
    lines += [f"{section.runs}.", "", *_table_lines(section)]
    return lines + _listed(section.notes)


def _section_lines(section: Section) -> list[str]:
    lines = _head_lines(section)
    names, rows = section.gains
    if names:
        lines += ["### What recurrent dropout changes", "", GAINS, "", *_grid(names, rows)]
    if section.claims:
        lines += ["### The paper's claims", ""]
        lines += [f"**{section.warning}**", ""] if section.warning else []
        lines += _claim_lines(section.claims)
    for picture in section.pictures:
        lines += _image(picture)
    names, rows = section.others
    if names:
        lines += ["### Further scores", "", *_grid(("cell", *names), rows)]
    return lines


def _claim_lines(judged: Iterable[Judged]) -> list[str]:
    header = ("claim", "judged by", "on the paper's numbers", "on ours")
    rows = [
        (
            one.claim.text,
            one.claim.reading,
            f"**{holds(one.printed)}**: {one.printed.told}",
            f"**{holds(one.measured)}**: {one.measured.told}",
        )
        for one in judged
    ]
    return _grid(header, rows, numbers=False)


def _table_lines(section: Section) -> list[str]:
    header = ["cell"]
    for measure in section.measures:
        header += [measure, "paper", *(["difference"] if section.differences else [])]
    header += [*section.header, "remark"]
    lines: list[str] = []
    for block, cells in section.blocks.items():
        lines += [f"### {block}", ""]
        lines += _grid(header, [_row(cell, section.differences) for cell in cells])
    return lines


def _row(cell: Line, differences: bool) -> list[str]:
    row = [cell.name]
    for value in cell.values:
        row += [value.whole, value.printed, *([value.difference] if differences else [])]
    return [*row, *cell.more, cell.remark]


def _grid(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True
) -> list[str]:
    aligned = " --: |" if numbers else " :-- |"
    told = ["| " + " | ".join(map(_plain, row)) + " |" for row in (header, *rows)]
    return [told[0], "| :-- |" + aligned * (len(header) - 1), *told[1:], ""]


def _listed(items: Iterable[Any]) -> list[str]:
    return [*(f"- {_plain(str(item))}" for item in items), ""]


def _image(picture: Picture) -> list[str]:
    return [f"![{picture.caption}](pictures/{picture.name}.svg)", ""]


def _plain(text: str) -> str:
    """Text that Markdown takes as it is: one line, nothing of it a tag, a link or a cell's end."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("[", "\\[").replace("`", "\\`")
