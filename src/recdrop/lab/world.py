"""The processes of one run: alone, or started by torchrun.

Each process trains on its own rows of every batch; gradients are averaged, so that all hold the
same weights at every update.
"""

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn


class World:
    """This process among the others.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))

    def __enter__(self) -> "World":
        """Meet the others, where there are any."""
        if self.size > 1:
            distributed.init_process_group("gloo")
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes; a missing one counts as zero."""
        if self.size == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.size
        parts = flat.split([grad.numel() for grad in grads])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def sum(self, numbers: Iterable[float]) -> list[float]:
        """Each number's sum over all processes, in float64."""
        mine = list(numbers)
        if self.size == 1:
            return mine
        together = torch.tensor(mine, dtype=torch.float64)
        distributed.all_reduce(together)
        return together.tolist()

    def from_leader(self, numbers: Sequence[float]) -> list[float]:
        """The leading process's numbers, everywhere; the others' own do not matter."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(list(numbers), dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.tolist()

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All processes' tensors, of like shapes, named ``rank.name``; of use to the leader."""
        if self.size == 1:
            return {f"0.{name}": tensor for name, tensor in tensors.items()}
        together = {}
        for name, tensor in sorted(tensors.items()):
            parts = [torch.empty_like(tensor) for _ in range(self.size)]
            distributed.all_gather(parts, tensor.contiguous())
            together |= {f"{rank}.{name}": part for rank, part in enumerate(parts)}
        return together

    def mine(self, together: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's own tensors among `gathered` ones."""
        prefix = f"{self.rank}."
        return {k.removeprefix(prefix): v for k, v in together.items() if k.startswith(prefix)}
