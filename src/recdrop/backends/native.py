"""The native backend: ``recdrop::scan`` and its gradient in C++ (csrc/), for the CPU."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from recdrop.backends import ops
from recdrop.backends.call import Recurrence, autocast_dtype
from recdrop.backends.stack import run_stack
from recdrop.transforms import transformed

_SCHEMAS = (
    "native_product(Tensor(a!) out, Tensor a, Tensor b, Tensor? bias) -> ()",
    "native_cross_entropy(Tensor(a!) logits, Tensor targets, Tensor(b!) nats, "
    "Tensor(c!)? column_sums) -> ()",
    "native_nonlinearity(Tensor(a!) out, Tensor x, str name) -> ()",
    "native_instruction_set(str name) -> str",
)
_LIBRARY = torch.library.Library("recdrop", "FRAGMENT")
ops.define("scan")
_run_scan = partial(ops.scan, name="scan")
_COMPUTED_IN = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


def _load() -> str | None:
    """Load the extension; the reason where that fails, as a sentence."""
    found = sorted(Path(__file__).parent.parent.glob("_native*.so"))
    if not found:
        return "the C++ extension was not built (no compiler when recdrop was installed?)"
    for schema in _SCHEMAS:
        _LIBRARY.define(schema)
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        return f"the C++ extension does not load: {error}"
    return None


_MISSING = _load()


def missing() -> str | None:
    """Why this backend cannot run anything here, or None."""
    return _MISSING


def why_not(call: Recurrence) -> str | None:
    """What this backend lacks for a call."""
    if _MISSING is not None:
        return _MISSING
    if call.x.device.type != "cpu":
        return f"it runs on the CPU, the input is on {call.x.device}"
    if transformed():
        return "it has no rules for the transforms of torch.func, nor for forward-mode derivatives"
    if call.x.dtype not in _COMPUTED_IN:
        return f"it takes float64, float32, bfloat16 and float16, the input is {call.x.dtype}"
    return None


def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a whole call: 16-bit types, and all under autocast, in float32, rounded at the end."""
    computed, lower = _COMPUTED_IN[call.x.dtype], autocast_dtype(call.x)
    if call.x.dtype == computed and lower is None:
        return run_stack(call, _run_scan)
    output, (h_n, *c_n) = run_stack(call.to(computed), _run_scan)
    of_h = of_c = call.x.dtype
    if lower is not None:  # as in torch's layers
        of_h = of_c = torch.promote_types(lower, call.state[-1].dtype)
        dense_lstm = call.cell == "lstm" and call.batch_sizes is None
        if dense_lstm or call.cell == "rnn" or call.is_projected:
            of_h = lower
    return output.to(of_h), (h_n.to(of_h), *(c.to(of_c) for c in c_n))


def instruction_sets() -> list[str]:
    """The instruction sets that this machine has kernels for, best first."""
    return [name.lstrip("*") for name in torch.ops.recdrop.native_instruction_set("").split()]


def instruction_set(name: str | None = None) -> str:
    """The instruction set in use.

    Args:
        name: One of `instruction_sets` to use from now on, in the whole process; for tests.

    Raises:
        RuntimeError: This machine has no such instruction set.
    """
    names = torch.ops.recdrop.native_instruction_set(name or "").split()
    return next(n[1:] for n in names if n.startswith("*"))
