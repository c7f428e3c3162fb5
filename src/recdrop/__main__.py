"""``python -m recdrop``: versions, device, threads, and which backends are there and why not."""

import platform
import sys

import torch

import recdrop
from recdrop.backends import BACKENDS, native


def report() -> str:
    """The report as text; needs torch and nothing else."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [
        f"recdrop   {recdrop.__version__}",
        f"torch     {torch.__version__}",
        f"python    {platform.python_version()} on {platform.platform()}",
        f"CPU       {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads of torch",
        f"GPU       {gpu}",
        "backends, in the order that backend='auto' asks them:",
    ]
    for backend in BACKENDS.values():
        missing = backend.missing()
        state = backend.summary if missing is None else f"not here: {missing}"
        if backend.name == "native" and missing is None:
            state += f", by {native.instruction_set()}"
        if backend.by_name:
            state += " (by name only)"
        lines.append(f"  {backend.name:<10}{state}")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(
            "python -m recdrop takes no arguments; the lab's commands begin with recdrop alone",
            file=sys.stderr,
        )
        sys.exit(2)
    print(report())
