"""The command line: ``recdrop …``. Thin, and without torch until a command has something to do."""

import difflib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import recdrop
from recdrop.lab.config import faults
from recdrop.lab.errors import BadInput, LabError, StorageFailed
from recdrop.lab.paper import table1

app = App(
    name="recdrop",
    version=recdrop.__version__,
    help="Dropout inside recurrent networks: the paper's experiments.",
)
reproduce = App(
    name="reproduce", help="Train a table of the paper and print it beside the paper's."
)
app.command(reproduce)


class Table1Options(BaseModel):
    """What `table1` takes, checked all at once."""

    model_config = ConfigDict(extra="forbid")

    scale: Literal["paper", "quick"]
    """The paper's protocol (hours a cell), or one of minutes."""
    length: Annotated[int | None, Field(ge=3, le=100_000)] = None
    """Steps of a sequence, in place of the paper's 15 and 30."""
    collisions: bool = True
    """Whether both markers may fall on one step, as in the authors' code."""
    cells: Annotated[list[str], Parameter(negative="")] = Field(default_factory=list)
    """Shell-style patterns of cells, repeated or with commas between; a leading ! excludes.
    Default: all."""
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Runs of each cell, with seeds 0, 1, …"""
    workers: Annotated[int | None, Field(ge=1, le=1_024)] = None
    """Processes at a time, one thread each. Default: one for each core."""
    out: Path | None = None
    """Folder for runs, table and picture. Default: out/table1-SCALE and what else differs."""

    @field_validator("cells")
    @classmethod
    def _each_names_a_cell(cls, patterns: list[str], given: ValidationInfo) -> list[str]:
        table1.choose(table1.grid(given.data.get("length")), patterns)
        return patterns

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        parts = ["table1", self.scale]
        parts += [f"length{self.length}"] if self.length else []
        parts += [] if self.collisions else ["no-collisions"]
        return self.out or Path("out") / "-".join(parts)


@reproduce.command(name="table1")
def reproduce_table1(*, options: Annotated[Table1Options, Parameter(name="*")]) -> int:
    """Temporal Order: {Moon, Gal, ours} × {per step, per sequence} × {Short, Medium}.

    Finished cells are not trained again: the same command goes on where it was stopped.
    """
    cells = table1.grid(options.length)
    chosen = table1.choose(cells, options.cells)
    return _train_and_report(options, cells, chosen)


def _train_and_report(
    options: Table1Options, cells: Sequence[table1.Cell], chosen: Sequence[table1.Cell]
) -> int:
    from recdrop.lab.environment import usable_cores
    from recdrop.lab.figures import write_figure
    from recdrop.lab.progress import duration
    from recdrop.lab.report import gather, write_tables
    from recdrop.lab.runs import run_directory
    from recdrop.lab.sweep import Job, sweep

    console, start, folder = _console(), time.monotonic(), options.folder
    runs = [
        table1.run(cell, options.scale, seed=seed, collide=options.collisions)
        for seed in range(options.seeds)
        for cell in chosen
    ]
    jobs = [Job(run_directory(folder, run.name, run.seed), run) for run in runs]
    lost = sweep(folder, jobs, options.workers or usable_cores(), console)
    for one in lost:
        _complain(one.message)
    reports = gather(folder, cells)
    write_tables(folder, reports)
    write_figure(folder, reports)
    _print(console, reports)
    _say(console, f"Table: {folder / 'table.md'}")
    _say(console, f"Picture: {folder / 'table1.png'} and .svg")
    _say(console, f"Time: {duration(time.monotonic() - start)}")
    if lost:
        _complain(f"{len(lost)} of {len(jobs)} runs failed, see above")
    return max((one.exit_code for one in lost), default=0)


def _print(console: Console, reports: Sequence) -> None:
    from recdrop.lab.report import HEADER, notes, table

    shown = Table(
        title="Table 1: accuracy on Temporal Order",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place, name in enumerate(HEADER):
        shown.add_column(
            name, justify="left" if place == 0 else "right", no_wrap=place == 0, overflow="fold"
        )
    for report, line in zip(reports, table(reports), strict=True):
        if report.runs:
            shown.add_row(*map(Text, line))
    console.print(shown)
    idle = [report.cell.name for report in reports if not report.runs]
    if idle:
        _say(console, f"not run: {', '.join(idle)}")
    for note in notes(reports):
        _say(console, f"- {note}")


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        tokens: What follows ``recdrop``; None takes it from the process.

    Returns:
        0 done, 2 bad input, 3 diverged, 4 storage, 130 or 143 stopped by a signal, 1 anything else;
        where several runs failed, the largest of theirs.
    """
    try:
        command, bound = _parse(list(sys.argv[1:] if tokens is None else tokens))
        result = command(*bound.args, **bound.kwargs)
    except LabError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        _complain(str(error))
        return StorageFailed.exit_code
    except KeyboardInterrupt:
        _complain("stopped by SIGINT")
        return 128 + signal.SIGINT
    return result if isinstance(result, int) else 0


def _parse(tokens: list[str]) -> tuple[Callable[..., Any], BoundArguments]:
    """The command and its arguments.

    cyclopts ends at the first kind of fault, so unknown options are looked for before.

    Raises:
        BadInput: With all faults in one message.
    """
    told, rest = _unknown_options(tokens)
    try:
        command, bound, _ = app.parse_args(rest, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        cause = error.__cause__
        named = isinstance(cause, ValidationError)
        told += [f"--{fault}" for fault in faults(cause)] if named else [str(error)]
    else:
        if not told:
            return command, bound
    raise BadInput("\n".join(told))


def _unknown_options(tokens: list[str]) -> tuple[list[str], list[str]]:
    """What to say of options that the command lacks, and the tokens without them."""
    if {*app.help_flags, *app.version_flags} & set(tokens):
        return [], tokens
    path, apps, given = app.parse_commands(tokens)
    if any(not name.startswith("-") for name in apps[-1]):
        return [], tokens  # a group of commands: cyclopts names what there is
    known = [
        name for argument in apps[-1].assemble_argument_collection() for name in argument.names
    ]
    told, rest = [], list(path)
    skipping = False  # the value of an unknown option
    for token in given:
        option, equals, _ = token.partition("=")
        if option.startswith("--") and option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            told.append(f"{option}: no such option{hint}")
            skipping = not equals
        elif token.startswith("-") or not skipping:
            rest.append(token)
            skipping = False
        else:
            skipping = False
    return told, rest


def _console() -> Console:
    """Where the command speaks; a file or a pipe, which has no width, gets that of the table."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _complain(text: str) -> None:
    _say(Console(stderr=True), f"recdrop: {text}")
