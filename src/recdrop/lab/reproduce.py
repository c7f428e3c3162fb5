"""``recdrop reproduce``: a table or figure of the paper, one grammar for all."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recdrop.lab.config import Run
from recdrop.lab.console import complain, console, say
from recdrop.lab.environment import DeviceName, usable_cores
from recdrop.lab.errors import BadInput
from recdrop.lab.paper import figure2, table1, table2, table3, table4, table5
from recdrop.lab.paper.grid import Cell, choose

if TYPE_CHECKING:
    from recdrop.lab.sweep import Job

reproduce = App(
    name="reproduce", help="Train a table or figure of the paper and print it beside the paper's."
)


class _Options(BaseModel):
    """What every table takes, checked all at once."""

    model_config = ConfigDict(extra="forbid")

    cells: Annotated[list[str], Parameter(negative="")] = Field(default_factory=list)
    """Shell-style patterns of cells, repeated or with commas between; a leading ! excludes.
    Default: all."""
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Runs of each cell, with seeds 0, 1, …"""
    workers: Annotated[int | None, Field(ge=1, le=1_024)] = None
    """Processes at a time, one thread each. Default: one for each core."""
    device: DeviceName = "cpu"
    """Where to train; with cuda all workers share one NVIDIA GPU."""
    max_epochs: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Stop each run after so many epochs even if the protocol goes on; the report says so."""
    out: Path | None = None
    """Folder for runs, tables and pictures. Default: out/TABLE-SCALE and what else differs."""


class Table1Options(_Options):
    """What `table1` takes."""

    scale: Literal["paper", "quick"]
    """The paper's protocol (hours a cell), or one of minutes."""
    length: Annotated[int | None, Field(ge=3, le=100_000)] = None
    """Steps of a sequence, in place of the paper's 15 and 30."""
    collisions: bool = True
    """Whether both markers may fall on one step, as in the authors' code."""

    @field_validator("cells")
    @classmethod
    def _each_names_a_cell(cls, patterns: list[str], given: ValidationInfo) -> list[str]:
        choose(table1.cells(given.data.get("length")), patterns)
        return patterns

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        parts = ["table1", self.scale]
        parts += [f"length{self.length}"] if self.length else []
        parts += [] if self.collisions else ["no-collisions"]
        return self.out or Path("out") / "-".join(parts)


class TextOptions(_Options):
    """What the tables of language models take."""

    scale: Literal["paper", "tenth"]
    """The paper's protocol (hours a cell), or the same on the first tenth of the text."""
    data: Path
    """Folder with Mikolov's files of the Penn Treebank."""


class Table4Options(_Options):
    """What `table4` takes."""

    scale: Literal["paper", "small"]
    """The paper's net, or one of 256 units."""
    data: Path
    """Folder with CoNLL-2003's eng.train, eng.testa and eng.testb."""
    vectors: Path | None = None
    """Vectors of words; without any they are learned, which is not the paper's protocol."""


class Table5Options(_Options):
    """What `table5` takes."""

    scale: Literal["paper"] = "paper"
    """The paper's protocol, as far as its data can be had."""
    data: Path
    """Folder with SemEval's files, twitter2013train.tsv and so on."""
    vectors: Path | None = None
    """Vectors of words; without any they are learned, which is not the paper's protocol."""
    pretrain: Path | None = None
    """Weakly labelled tweets; without any there is no pre-training, which is not the paper's
    protocol."""


@reproduce.command(name="table1")
def reproduce_table1(*, options: Annotated[Table1Options, Parameter(name="*")]) -> int:
    """Temporal Order: {Moon, Gal, ours} × {per step, per sequence} × {Short, Medium}.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    run = partial(table1.run, collide=options.collisions)
    return _train_and_report(
        options, options.folder, options.scale, run, table1.cells(options.length), None
    )


@reproduce.command(name="table2")
def reproduce_table2(*, options: Annotated[TextOptions, Parameter(name="*")]) -> int:
    """Word language model: scheme × sampling × rate × forward dropout, in perplexity.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    return _language_models(options, "table2", table2.run, table2.cells())


@reproduce.command(name="table3")
def reproduce_table3(*, options: Annotated[TextOptions, Parameter(name="*")]) -> int:
    """Character language model: the same grid as table2, in bits per character.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    return _language_models(options, "table3", table3.run, table3.cells())


@reproduce.command(name="figure2")
def reproduce_figure2(*, options: Annotated[TextOptions, Parameter(name="*")]) -> int:
    """Learning curves of the word model, with and without this paper's dropout.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    return _language_models(options, "figure2", figure2.run, figure2.cells())


@reproduce.command(name="table4")
def reproduce_table4(*, options: Annotated[Table4Options, Parameter(name="*")]) -> int:
    """Named entities: RNN, LSTM and GRU, with and without recurrent dropout.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    folder = options.out or Path("out") / f"table4-{options.scale}"
    files = _given(vectors=options.vectors)
    cells = table4.cells()
    return _train_and_report(options, folder, options.scale, table4.run, cells, options.data, files)


@reproduce.command(name="table5")
def reproduce_table5(*, options: Annotated[Table5Options, Parameter(name="*")]) -> int:
    """Sentiment of tweets: RNN, LSTM and GRU, with and without recurrent dropout.

    Finished cells are not trained again, interrupted ones go on where they stopped.
    """
    folder = options.out or Path("out") / "table5-paper"
    files = _given(vectors=options.vectors, pretrain=options.pretrain)
    cells = table5.cells()
    return _train_and_report(options, folder, options.scale, table5.run, cells, options.data, files)


def _given(**files: Path | None) -> dict[str, Path]:
    return {name: path for name, path in files.items() if path is not None}


def _language_models(
    options: TextOptions, name: str, run: Callable[..., Run], cells: Sequence[Cell]
) -> int:
    folder = options.out or Path("out") / f"{name}-{options.scale}"
    return _train_and_report(options, folder, options.scale, run, cells, options.data)


def _train_and_report(
    options: _Options,
    folder: Path,
    scale: str,
    run: Callable[..., Run],
    cells: Sequence[Cell],
    data: Path | None,
    files: Mapping[str, Path] = MappingProxyType({}),
) -> int:
    from recdrop.lab.progress import duration
    from recdrop.lab.report import check_free, gather, write
    from recdrop.lab.runs import run_directory
    from recdrop.lab.storage import is_there, make_folder
    from recdrop.lab.sweep import Job, sweep

    out, start = console(), time.monotonic()
    try:
        chosen = choose(cells, options.cells)
    except ValueError as error:
        complain(f"--cells: {error}")
        return 2
    runs = [
        run(cell, scale, seed, max_epochs=options.max_epochs)
        for seed in range(options.seeds)
        for cell in chosen
    ]
    jobs = [
        Job(run_directory(folder, one.name, one.seed), one, data, files, options.device)
        for one in runs
    ]
    if not all(is_there(job.directory / "result.json") for job in jobs):
        _check_given(jobs[0])
    make_folder(folder)
    check_free(folder)
    lost = sweep(folder, jobs, options.workers or usable_cores(), out)
    for message in dict.fromkeys(one.message for one in lost):
        complain(message)
    report = gather(folder)
    written = write(folder, report)
    for table in report.tables:
        _print(out, table)
    for path in written:
        say(out, f"Written: {path}")
    say(out, f"Time: {duration(time.monotonic() - start)}")
    if lost:
        complain(f"{len(lost)} of {len(jobs)} runs failed, see above")
    return max((one.exit_code for one in lost), default=0)


def _check_given(job: "Job") -> None:
    """Find out once what else every worker would: that data or a GPU are not there."""
    from recdrop.lab.text import corpus_files

    if job.device == "cuda":
        from recdrop.lab.world import check_gpus

        check_gpus()
    for name, path in {"data": job.data, **job.files}.items():
        if path is not None and not path.exists():
            raise BadInput(f"--{name} {path}: no such file or folder")
    if job.data is not None and job.run.task in ("word-lm", "char-lm"):
        corpus_files(job.data, job.run.task)


def _print(out: Console, table: Any) -> None:
    from recdrop.lab.report import console_table

    told = console_table(table)
    shown = Table(
        title=told.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place, name in enumerate(told.header):
        shown.add_column(
            name, justify="left" if place == 0 else "right", no_wrap=place == 0, overflow="fold"
        )
    for line in told.rows:
        shown.add_row(*map(Text, line))
    out.print(shown)
    for note in told.notes:
        say(out, f"- {note}")
