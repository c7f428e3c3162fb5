"""The processes of one run: alone, or started by torchrun.

Each process trains on its own rows of every batch; gradients are averaged, so that all hold the
same weights at every update. What one of them cannot do ends them all: the others notice that it is
gone, or late.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from recdrop.lab.environment import DeviceName
from recdrop.lab.errors import BadInput, LabError

# A process that is this late is taken for hung. torchrun gives it 30 s more to end, so that all are
# gone within a minute.
_PATIENCE = timedelta(seconds=20)


class PeerLost(LabError):
    """Another process of the run ended, or hangs; it is for that one to say why."""


def check_gpus() -> None:
    """Find out whether there is any.

    Raises:
        BadInput: There is none.
    """
    if not torch.cuda.is_available():
        raise BadInput(
            "--device cuda: torch sees no NVIDIA GPU on this machine (is it a build of torch for "
            "CUDA?); --device cpu trains without one"
        )


def _from_torchrun() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine.

    Raises:
        BadInput: Variables like torchrun's are set, but not as torchrun sets them.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    rank, size, local = (given.get(name, "1" if name == "WORLD_SIZE" else "0") for name in names)
    if rank.isdecimal() and size.isdecimal() and local.isdecimal() and int(rank) < int(size):
        place = {"RANK", "MASTER_ADDR", "MASTER_PORT"}
        if int(size) == 1 or place <= set(os.environ):
            return int(rank), int(size), int(local)
    told = ", ".join(f"{name}={value}" for name, value in given.items())
    raise BadInput(
        f"the environment has {told}, which is not as torchrun sets them; unset them to train in "
        "one process, or start several by torchrun"
    )


class World:
    """This process among the others.

    Args:
        device: ``"cuda"``: each process has a GPU of its own.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where the net is: the CPU, or this process's own GPU.
    """

    def __init__(self, device: DeviceName = "cpu") -> None:
        self.rank, self.size, self._local_rank = _from_torchrun()
        self.device = torch.device(device)
        if device == "cuda":
            self.device = torch.device(device, self._local_rank)

    def __enter__(self) -> "World":
        """Meet the others, where there are any.

        Raises:
            BadInput: There are fewer GPUs than processes on this machine, or none.
            PeerLost: The others do not come.
        """
        if self.device.type == "cuda":
            check_gpus()
            there = torch.cuda.device_count()
            if self._local_rank >= there:
                raise BadInput(
                    f"process {self.rank}: this machine has {there} GPUs, one for each process; "
                    f"start {there} here, or train by --device cpu"
                )
            torch.cuda.set_device(self.device)
        if self.size > 1:
            if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
                _stay_on_this_machine()
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            with self._with_the_others():
                distributed.init_process_group(backend, timeout=_PATIENCE)
                # Nobody may leave, to refuse its input for one, while another still connects.
                distributed.all_reduce(torch.zeros(1))
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes; a missing one counts as zero.

        Parameters that want none get none.
        """
        if self.size == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        with self._with_the_others():
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
        with self._with_the_others():
            distributed.all_reduce(together)
        return together.tolist()

    def from_leader(self, numbers: Sequence[float]) -> list[float]:
        """The leading process's numbers, everywhere; the others' own do not matter."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(list(numbers), dtype=torch.float64)
        with self._with_the_others():
            distributed.broadcast(told, 0)
        return told.tolist()

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the leading one's values, in place."""
        if self.size > 1:
            with self._with_the_others():
                for tensor in tensors:
                    distributed.broadcast(tensor, 0)

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All processes' tensors, of like shapes, on the CPU and named ``rank.name``."""
        if self.size == 1:
            return {f"0.{name}": tensor.cpu() for name, tensor in tensors.items()}
        together = {}
        for name, tensor in sorted(tensors.items()):
            own = tensor.cpu().contiguous()
            parts = [torch.empty_like(own) for _ in range(self.size)]
            with self._with_the_others():
                distributed.all_gather(parts, own)
            together |= {f"{rank}.{name}": part for rank, part in enumerate(parts)}
        return together

    def mine(self, together: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's own tensors among `gathered` ones."""
        prefix = f"{self.rank}."
        return {k.removeprefix(prefix): v for k, v in together.items() if k.startswith(prefix)}

    @contextmanager
    def _with_the_others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all that torch's backends raise
            raise PeerLost(
                f"process {self.rank} of {self.size}: another process of this run ended or hangs; "
                f"the same command goes on from the last checkpoint ({_first_line(error)})"
            ) from None


def _stay_on_this_machine() -> None:
    """Have gloo listen on the loopback interface only, unless the user names another."""
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
