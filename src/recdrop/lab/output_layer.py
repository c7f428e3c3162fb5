"""The linear layer over the vocabulary and its cross entropy, in one piece.

With 10,000 words it is five sixths of a training step's arithmetic, and its logits are by far the
largest matrix: 45 MB for 1,120 predictions. Here they become their own gradient in one and the same
memory, and all gradients are ready when the loss is. Products and cross entropies are this
library's own kernels where there are any. How a whole step stands to its bare products and to
torch's: docs/benchmarks/cpu.md.
"""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import recdrop

_CHUNK = 1 << 24  # logits at a time, 64 MB: fewer rows make slower products


class _Workspace(threading.local):
    """One chunk, kept by its thread: to get 45 MB anew takes half as long as a product."""

    def __init__(self) -> None:
        self._kept = torch.empty(0)

    def matrix(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns] of anything, until the next call."""
        kept = self._kept
        if kept.numel() < rows * columns or (kept.device, kept.dtype) != (like.device, like.dtype):
            self._kept = torch.empty(0)  # the old goes before the new comes
            self._kept = like.new_empty(rows * columns)
        return self._kept[: rows * columns].view(rows, columns)


_workspace = _Workspace()


def cross_entropy_sum(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, scale: float = 1.0
) -> Tensor:
    """Cross entropy of linear predictions, summed; what is kept for backward are its gradients.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V].
        targets: int64 [N], below V.
        scale: What the sum is multiplied by. Here it costs nothing; behind, a pass over the
            gradient of ``weight``.

    Returns:
        Scalar in nats times ``scale``. It can be differentiated once.
    """
    if not torch.is_grad_enabled():  # a Function is not told, and would compute its gradients
        return cross_entropies(hidden, weight, bias, targets).sum() * scale
    return _CrossEntropySum.apply(hidden, weight, bias, targets, scale)


@torch.no_grad()
def cross_entropies(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each linear prediction in nats, [N], without a graph.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V].
        targets: int64 [N], below V.
    """
    parts = [each for _, each, _ in _gradients(hidden, weight, bias, targets)]
    return torch.cat(parts) if parts else hidden.new_zeros(0)


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, scale: float
    ) -> Tensor:
        on_hidden, on_weight, on_bias, *_ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if on_hidden else None
        first = torch.empty_like if len(hidden) else torch.zeros_like
        d_weight = first(weight) if on_weight else None
        d_bias = torch.zeros_like(bias) if on_bias else None
        more = None
        inputs = hidden * scale if on_weight else hidden
        total = hidden.new_zeros(())
        for rows, each, d_logits in _gradients(hidden, weight, bias, targets, d_bias):
            total += each.sum()
            if d_hidden is not None:
                recdrop.functional.product(d_hidden[rows], d_logits, weight)
            if d_weight is not None and rows.start == 0:
                recdrop.functional.product(d_weight, d_logits.T, inputs[rows])
            elif d_weight is not None:
                more = torch.empty_like(d_weight) if more is None else more
                d_weight += recdrop.functional.product(more, d_logits.T, inputs[rows])
        for small in (d_hidden, d_bias):
            if small is not None:
                small *= scale
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx, *upstream)


@once_differentiable
def _scaled(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    grads = ctx.saved_tensors
    if upstream.device.type == "cpu" and upstream == 1.0:  # elsewhere to ask would be to wait
        return *grads, None, None
    return *(None if g is None else g * upstream for g in grads), None, None


def _gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, d_bias: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: which, their cross entropies [R] and their logits' gradients [R, V].

    The next rows' gradients take the same memory. Their sums over rows are added to ``d_bias``.
    """
    size = _rows(hidden, weight)
    memory = _workspace.matrix(size, len(weight), hidden)
    for start in range(0, len(hidden), size):
        rows = slice(start, min(start + size, len(hidden)))
        logits = memory[: rows.stop - start]
        recdrop.functional.product(logits, hidden[rows], weight.T, bias)
        each = recdrop.functional.cross_entropies_(logits, targets[rows], d_bias)
        yield rows, each, logits


def _rows(hidden: Tensor, weight: Tensor) -> int:
    """Rows of a chunk: equally many in all, but for the last."""
    chunks = -(-len(hidden) * len(weight) // _CHUNK)
    return max(1, -(-len(hidden) // max(1, chunks)))
