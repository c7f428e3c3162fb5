"""Rows of unequal length in batches: padding costs nothing where a batch is about as long."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from recdrop.lab.tasks.task import Part

AT_A_TIME = 128  # rows that are evaluated together
_POOL = 50  # batches whose rows are sorted by length together
_STEPS = 1 << 17  # of an evaluated batch, padding included, unless one row has more


def batches_of(lengths: Tensor, batch: int, generator: Generator) -> list[Tensor]:
    """The rows of an epoch in a random order, those of one batch about equally long.

    Args:
        lengths: int64 [N].
        batch: Rows of each batch but the last.
        generator: Where the order comes from.

    Returns:
        For each batch the numbers of its rows.
    """
    order = torch.randperm(len(lengths), generator=generator)
    found: list[Tensor] = []
    for pool in order.split(_POOL * batch):
        found += pool[lengths[pool].argsort(descending=True, stable=True)].split(batch)
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def nothing(net: nn.Module) -> Part:
    """The share of a process that a batch has no rows for."""
    zero = torch.stack([p.flatten()[0] for p in net.parameters()]).sum() * 0.0
    return Part(zero, zero.detach(), 0)


def in_order(lengths: Tensor, batch: int) -> Sequence[Tensor]:
    """All rows for evaluation, longest first: ``batch`` at a time, fewer where they are long."""
    order = lengths.argsort(descending=True, stable=True)
    found: list[Tensor] = []
    while len(order):
        rows = max(1, min(batch, _STEPS // int(lengths[order[0]])))
        found.append(order[:rows])
        order = order[rows:]
    return found


def packed(values: Tensor, lengths: Tensor) -> PackedSequence:
    """[B, T, ...] and int64 [B] as torch's packed rows."""
    return pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
