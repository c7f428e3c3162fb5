"""The command line: ``recdrop …``. Thin, and without torch until a command has something to do."""

import difflib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Any

from cyclopts import App, CycloptsError
from pydantic import ValidationError

import recdrop
from recdrop.lab import vector_commands
from recdrop.lab.commands import evaluate, generate, report, train
from recdrop.lab.console import complain
from recdrop.lab.errors import BadInput, LabError, StorageFailed
from recdrop.lab.labelling import calibrate, classify, tag
from recdrop.lab.paper.presets import PRESETS
from recdrop.lab.reproduce import reproduce
from recdrop.lab.settings import ending_in, faults

app = App(
    name="recdrop",
    version=recdrop.__version__,
    help="Recurrent nets with dropout inside the recurrence: train, evaluate, reproduce the paper.",
)
for command in (train, evaluate, generate, tag, classify, calibrate, reproduce, report):
    app.command(command)
vectors = App(name="vectors", help="Vectors of words: train them on texts, look at them.")
for command in (vector_commands.train, vector_commands.show):
    vectors.command(command)
app.command(vectors)

_OUT_OF_MEMORY = re.compile("allocate memory|out of memory", re.IGNORECASE)  # torch's own words


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        tokens: What follows ``recdrop``; None takes it from the process.

    Returns:
        0 done, 2 bad input, 3 diverged, 4 storage, 130 or 143 stopped by a signal, 1 anything else;
        where several runs failed, the largest of theirs.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal may lack a character of a text; a file or a pipe need not.
        encoding = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="replace")
    try:
        command, bound = _parse(list(sys.argv[1:] if tokens is None else tokens))
        result = command(*bound.args, **bound.kwargs)
    except LabError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:  # as behind `| head`; what is left to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # as rich does where it is the one to notice
    except OSError as error:
        complain(str(error))
        return StorageFailed.exit_code
    except KeyboardInterrupt:
        complain("stopped by SIGINT")
        return 128 + signal.SIGINT
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        complain(f"there is not enough memory; a smaller model or batch needs less ({error})")
        return BadInput.exit_code
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
        told += [_as_option(fault) for fault in faults(cause)] if named else [str(error)]
    else:
        if not told:
            return command, bound
    raise BadInput("\n".join(told))


def _as_option(fault: str) -> str:
    """A fault of a field as one of the option that sets it."""
    field, colon, told = fault.partition(":")
    return f"--{field.replace('_', '-')}{colon}{told}"


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
            meant = _settings_meant(option, given) if "--set" in known else []
            meant = meant or difflib.get_close_matches(option, known, n=1)
            hint = f", did you mean {' or '.join(meant)}?" if meant else ""
            told.append(f"{option}: no such option{hint}")
            skipping = not equals
        elif token.startswith("-") or not skipping:
            rest.append(token)
            skipping = False
        else:
            skipping = False
    return told, rest


def _settings_meant(option: str, given: list[str]) -> list[str]:
    """How settings are given that an option of ``train`` is called like."""
    key = option.removeprefix("--").replace("-", "_")
    runs = [next(iter(presets.values())) for task, presets in PRESETS.items() if task in given]
    return [f"--set {place}=VALUE" for run in runs for place in ending_in(key, run)]


if __name__ == "__main__":
    sys.exit(main())
