"""Where the commands speak."""

import sys
from typing import TextIO

from rich.console import Console

from recdrop.lab.errors import BadInput


def console() -> Console:
    """Standard output; a file or a pipe, which has no width, gets that of the widest table."""
    terminal = Console(emoji=False)
    return terminal if terminal.is_terminal else Console(width=120, emoji=False)


def standard_input(instead: str = "a file") -> TextIO:
    """Standard input.

    Args:
        instead: What may be given in its place.

    Raises:
        BadInput: Whoever started this has closed it.
    """
    if sys.stdin is None:
        raise BadInput(f"there is no standard input; give {instead}")
    return sys.stdin


def standard_output() -> TextIO:
    """Standard output, for answers.

    Raises:
        BadInput: Whoever started this has closed it.
    """
    if sys.stdout is None:
        raise BadInput("there is no standard output, where the answer belongs")
    return sys.stdout


def say(console: Console, text: str) -> None:
    """Print a text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def counted(number: int, one: str, many: str = "") -> str:
    """Such as ``1 text`` or ``2,000 texts``; ``many`` where it is not the other and an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def note(text: str) -> None:
    """Print to standard error what is no part of the answer."""
    say(Console(stderr=True, emoji=False), text)


def complain(text: str) -> None:
    """Print to standard error what went wrong."""
    note(f"recdrop: {text}")
