"""Ask a run to stop: at the next update, with a checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from recdrop.lab.errors import LabError

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # USR1: a scheduler's


class Stopped(LabError):
    """A signal ended the work; everything done is kept, and the same command goes on.

    Attributes:
        exit_code: 130 for SIGINT, else 143.
    """

    def __init__(self, number: int, told: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {told}")
        self.exit_code = _EXIT_CODES[signal.Signals(number)]


class StopRequest:
    """Whether somebody asked to stop.

    Attributes:
        number: Of the signal that did, the first one.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    def take(self, number: int, _: FrameType | None = None) -> None:
        """Take a signal; a second SIGINT does not wait for a checkpoint.

        Raises:
            KeyboardInterrupt: It is that second one.
        """
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Collect SIGINT, SIGTERM and SIGUSR1 instead of being ended by them."""
    request = StopRequest()
    before = {number: signal.signal(number, request.take) for number in _EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent(request: StopRequest, grace: float) -> None:
    """Stop when standard input closes, as it does when the parent ends in any way.

    Args:
        request: Is told SIGTERM.
        grace: Seconds until this process is ended whatever it is doing.
    """

    def wait() -> None:
        # Not sys.stdin.read(): its buffer's lock would be held when the interpreter shuts down.
        while os.read(0, 1):
            pass
        request.number = request.number or signal.SIGTERM
        time.sleep(grace)
        os._exit(_EXIT_CODES[signal.SIGTERM])

    threading.Thread(target=wait, daemon=True).start()
