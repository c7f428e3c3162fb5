"""Backends: who runs a checked call. ``"auto"`` takes the first one without an objection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recdrop.backends import native, reference, stock, triton
from recdrop.backends.call import Recurrence, RunFunction
from recdrop.errors import BackendUnsupported

__all__ = ["BACKENDS", "Backend", "Recurrence", "checked_name", "run", "select"]


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a call.

    Attributes:
        name: What ``backend=`` calls it.
        summary: One line on what it is.
        why_not: The objection to a call in one sentence, or None.
        run: Output and final state of a call.
        missing: Why it cannot run anything on this machine, or None.
        traceable: Whether `torch.compile` and `torch.export` can take it into their graph.
        by_name: Whether ``"auto"`` passes it over.
    """

    name: str
    summary: str
    why_not: Callable[[Recurrence], str | None]
    run: RunFunction
    missing: Callable[[], str | None] = lambda: None
    traceable: bool = False
    by_name: bool = False


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "stock",
            "torch's own oneDNN or cuDNN layers, where nothing is dropped inside the recurrence",
            stock.why_not,
            stock.run,
        ),
        Backend(
            "native",
            "loops in C++ on the CPU, in float32 or float64; 16-bit types in float32",
            native.why_not,
            native.run,
            native.missing,
            traceable=True,
        ),
        Backend(
            "triton",
            "kernels of one step or of all for float32, bfloat16 and float16 on NVIDIA GPUs",
            triton.why_not,
            triton.run,
            triton.missing,
            traceable=True,
            by_name=True,  # until it has run on a card: docs/triton.md
        ),
        Backend(
            "reference",
            "a plain loop over time, any device and dtype, double backward",
            reference.why_not,
            reference.run,
        ),
    )
}


def checked_name(name: str) -> str:
    """The name of a backend, or ``"auto"``.

    Raises:
        ValueError: There is no such backend.
    """
    names = ("auto", *BACKENDS)
    if name not in names:
        raise ValueError(f"backend must be one of {names}, got {name!r}")
    return name


def select(call: Recurrence, name: str = "auto") -> Backend:
    """The backend for a call.

    Args:
        call: The checked call.
        name: ``"auto"`` or a backend; a named one never falls back to another. While a graph is
            traced, ``"auto"`` takes a backend that can be part of it, if one has no objection.

    Raises:
        BackendUnsupported: The named backend cannot run this call.
    """
    if name == "auto":
        order = [backend for backend in BACKENDS.values() if not backend.by_name]
        if torch.compiler.is_compiling():
            order.sort(key=lambda b: not b.traceable)
        return next(b for b in order if b.why_not(call) is None)
    objection = BACKENDS[name].why_not(call)
    if objection is not None:
        raise BackendUnsupported(f"backend={name!r}: {objection}")
    return BACKENDS[name]


def run(call: Recurrence, name: str = "auto") -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a call on the backend that `select` names."""
    backend = select(call, name)
    if backend.traceable or not torch.compiler.is_compiling():
        return backend.run(call)
    return _outside_the_graph(call, backend.name)


# torch.compile would unroll the reference loop (minutes for 35 steps) and cannot trace torch's own
# layers with gradients.
@torch.compiler.disable(
    recursive=True,
    reason="of recdrop's backends only native (on a CPU) and triton can be "
    "part of a graph; recdrop.explain_backend tells which one runs a call",
)
def _outside_the_graph(call: Recurrence, name: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    return BACKENDS[name].run(call)
