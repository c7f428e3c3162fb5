"""Backends: who runs a checked call. ``"auto"`` takes the first one without an objection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recdrop.backends import reference, stock
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
    """

    name: str
    summary: str
    why_not: Callable[[Recurrence], str | None]
    run: RunFunction
    missing: Callable[[], str | None] = lambda: None


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
        name: ``"auto"`` or a backend; a named one never falls back to another.

    Raises:
        BackendUnsupported: The named backend cannot run this call.
    """
    if name == "auto":
        return next(b for b in BACKENDS.values() if b.why_not(call) is None)
    objection = BACKENDS[name].why_not(call)
    if objection is not None:
        raise BackendUnsupported(f"backend={name!r}: {objection}")
    return BACKENDS[name]


# torch.compile would unroll the reference loop (minutes for 35 steps) and cannot trace torch's own
# layers with gradients, so the call stays out of the graph.
@torch.compiler.disable(recursive=True)
def run(call: Recurrence, name: str = "auto") -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a call on the backend that `select` names."""
    return select(call, name).run(call)
