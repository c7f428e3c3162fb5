"""A text as rows side by side, read window by window."""

from typing import NamedTuple

import torch
from torch import Tensor

from recdrop.lab.config import TextData
from recdrop.lab.errors import BadInput


class Streams(NamedTuple):
    """Rows of a text.

    Attributes:
        tokens: int64 [N], the text.
        starts: int64 [B], where each row begins in it.
        window: Steps of a window, T.
        windows: Windows of a row.
    """

    tokens: Tensor
    starts: Tensor
    window: int
    windows: int

    @property
    def unread(self) -> int:
        """Symbols at the text's end that no row gets to, not even as its last target."""
        return len(self.tokens) - int(self.starts.max()) - self.windows * self.window - 1

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a window, int64 [T, B] each."""
        return read_rows(self.tokens, self.starts, step * self.window, self.window)


def read_rows(tokens: Tensor, starts: Tensor, first: int, steps: int) -> tuple[Tensor, Tensor]:
    """Some steps of every row: inputs and, one symbol ahead, targets, int64 [steps, B] each.

    Args:
        tokens: int64 [N].
        starts: int64 [B], where each row begins.
        first: The first step, counted from there.
        steps: How many.
    """
    along = torch.arange(first, first + steps + 1, device=starts.device)
    read = tokens[along.unsqueeze(1) + starts]
    return read[:-1], read[1:]


def training_streams(tokens: Tensor, data: TextData) -> Streams:
    """A text cut into ``data.batch`` streams of whole windows, one after another.

    What is left at the end of the text is not read, as in the authors' code. With a stride the
    shifted copies of a stream follow it, so that a share of the rows is a share of the text.

    Args:
        tokens: int64 [N].
        data: Batch, window and stride.

    Raises:
        BadInput: The text does not fill one window of every stream.
    """
    shifts = torch.arange(0, data.window, data.stride or data.window)
    beyond = int(shifts[-1]) + 1  # the last copy's shift, and the last target
    windows = (len(tokens) - beyond) // (data.batch * data.window)
    if windows < 1:
        raise BadInput(
            f"the training text has {len(tokens):,} symbols; {data.batch} streams of a window of "
            f"{data.window} need {data.batch * data.window + beyond:,}: lower data.batch or "
            "data.window, or give more text"
        )
    streams = torch.arange(data.batch).unsqueeze(1) * (windows * data.window)
    return Streams(tokens, (streams + shifts).flatten(), data.window, windows)
