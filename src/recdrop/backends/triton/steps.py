"""Where the rows of each step stand in an array over time."""

from itertools import groupby

import torch
from torch import Tensor


class Steps:
    """The steps of an array over time, [N, ...]: step t's rows from ``offsets[t]`` on.

    Attributes:
        sizes: Rows that run at each step.
        batch: B, rows of the first one.
        total: N.
        offsets: int32 [T + 1] on the device.
    """

    def __init__(
        self, batch: int, total: int, batch_sizes: Tensor | None, device: torch.device
    ) -> None:
        """Every step has all rows of the batch where ``batch_sizes``, int64 [T], is None."""
        self.batch, self.total = batch, total
        steps = total // batch
        self.sizes = [batch] * steps if batch_sizes is None else batch_sizes.tolist()
        self.offsets = _offsets(self.sizes, device)

    def __len__(self) -> int:
        return len(self.sizes)

    def first(self, over_time: Tensor, reverse: bool) -> Tensor:
        """Each row's value at the first step in time's direction, [B, ...] of [N, ...]."""
        return self._at_end(over_time) if reverse else over_time[: self.batch]

    def last(self, over_time: Tensor, reverse: bool) -> Tensor:
        """Each row's value at the last step in time's direction, [B, ...] of [N, ...]."""
        return over_time[: self.batch] if reverse else self._at_end(over_time)

    def _at_end(self, over_time: Tensor) -> Tensor:
        if self.sizes[-1] == self.batch:
            return over_time[self.total - self.batch :]
        ends, start, later = [], self.total, 0
        for size in reversed(self.sizes):  # rows that end here: those which the next step lacks
            start -= size
            if size > later:
                ends.append(over_time[start + later : start + size])
                later = size
        return torch.cat(ends)


def _offsets(sizes: list[int], device: torch.device) -> Tensor:
    if sizes[0] == sizes[-1]:
        return torch.arange(
            0, (len(sizes) + 1) * sizes[0], sizes[0], dtype=torch.int32, device=device
        )
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _counted(sizes, device)
    ends = torch.tensor([0, *sizes]).cumsum(0).int()
    if device.type != "cuda":
        return ends
    return ends.pin_memory().to(device, non_blocking=True)  # the copy need not wait for the device


def _counted(sizes: list[int], device: torch.device) -> Tensor:
    """The same places, made on the device, run by run of steps of one size.

    For graphs: they would copy from the host at every replay, when it has other things there.
    """
    parts, end = [], 0
    for size, steps in groupby(sizes):
        start, end = end, end + size * len(list(steps))
        parts.append(torch.arange(start, end, size, dtype=torch.int32, device=device))
    parts.append(torch.full((1,), end, dtype=torch.int32, device=device))
    return torch.cat(parts)
