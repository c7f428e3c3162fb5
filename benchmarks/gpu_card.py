"""The CUDA device that the programs for a card measure, and what their command lines share."""

import argparse
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.cases import Shape
from benchmarks.machine import machine
from benchmarks.timing import Budget, Plain, interleave

TRIAL = Shape(3, 2, 4, 5)
NO_DEVICE = "there is no CUDA device; --trial runs this program's path on the CPU"


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Budget]:
    """The command line with how often to measure, and whether it is a trial only.

    Raises:
        SystemExit: There is no CUDA device.
    """
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--passes", type=int, default=10, help="in a row, between two waits")
    args = parser.parse_args(argv)
    if args.trial:
        args.rounds, args.seconds, args.passes = 1, 0.0, 1
    elif not torch.cuda.is_available():
        raise SystemExit(NO_DEVICE)
    return args, Budget(args.rounds, args.seconds)


class Card:
    """The device, and the backend that is measured on it.

    Args:
        trial: Whether it is only the CPU, with the reference and toy sizes.
    """

    def __init__(self, trial: bool) -> None:
        self.trial = trial
        self.device = torch.device("cpu" if trial else "cuda")
        self.backend = "reference" if trial else "triton"
        self.name = "trial" if trial else torch.cuda.get_device_name()

    def described(self) -> dict[str, Any]:
        """The machine; the card's name, architecture, processors, clocks, driver and versions."""
        if self.trial:
            return machine() | {"gpu": "trial"}
        import triton

        at = torch.cuda.get_device_properties(self.device)
        return machine() | {
            "gpu": self.name,
            "architecture": f"{at.major}.{at.minor}",
            "processors": at.multi_processor_count,
            "memory": at.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": triton.__version__,
            "nvidia_smi": nvidia_smi(),
        }

    def clocks(self) -> str | None:
        """Clocks now; None of a trial."""
        return None if self.trial else nvidia_smi()

    def clock(self) -> float:
        """The time when everything asked for is done."""
        if not self.trial:
            torch.cuda.synchronize()
        return time.perf_counter()

    def shape(self, shape: Shape) -> Shape:
        """The shape; of a trial a toy's."""
        return TRIAL if self.trial else shape

    def limits(self, dtype: torch.dtype) -> dict[str, float]:
        """What the card reaches: products per second, and bytes read again and again per second."""
        n, words = (64, 2**10) if self.trial else (8192, 2**22)
        a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
        small = torch.randn(words, device=self.device)  # 16 MB: stays in the second cache
        again = small.expand(20 if self.trial else 200, -1)  # read so often by one launch
        with tf32():
            seconds = interleave(
                {"product": Plain(lambda: a @ b), "reads": Plain(again.sum)},
                Budget(5, 0.0),
                self.clock,
            )
        return {
            "flops": 2 * n**3 / min(seconds["product"]),
            "bytes": len(again) * small.nbytes / min(seconds["reads"]),
        }


def nvidia_smi() -> str | None:
    """Clocks, driver and power limit; None where nvidia-smi cannot tell."""
    asked = "clocks.sm,clocks.mem,clocks.max.sm,driver_version,power.limit"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        return subprocess.run(  # noqa: S603  fixed words
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _precision(word: str) -> Any:
    """Both switches of torch; not by their names in torch.backends, which an import may hide."""
    switches = (("cuda", "rnn"), ("cuda", "matmul"))
    before = [torch._C._get_fp32_precision_getter(*switch) for switch in switches]
    try:
        for switch in switches:
            torch._C._set_fp32_precision_setter(*switch, word)
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            torch._C._set_fp32_precision_setter(*switch, old)


def ieee() -> Any:
    """Inside, float32 products are exact to float32."""
    return _precision("ieee")


def tf32() -> Any:
    """Inside, float32 products may be TF32, which is torch's default for its recurrent layers."""
    return _precision("tf32")
