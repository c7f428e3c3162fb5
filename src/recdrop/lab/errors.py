"""What can go wrong in the lab, each with the exit code of the command line."""


class LabError(Exception):
    """A failure whose message is complete: it is printed without a traceback.

    Attributes:
        exit_code: What the process returns.
    """

    exit_code = 1


class BadInput(LabError):
    """The user's input cannot be used: an option, a configuration, a folder that is taken."""

    exit_code = 2


class Diverged(LabError):
    """A loss or a gradient was not finite; nothing was stepped with it."""

    exit_code = 3


class StorageFailed(LabError):
    """A file could not be read or written."""

    exit_code = 4
