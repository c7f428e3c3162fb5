"""The native backend: loops in C++ (csrc/), for float32 and float64 on the CPU.

The extension has the loops over time and a product of matrices; what is done once per call, around
the loops, is here.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recdrop.backends.call import Recurrence, autocast_dtype
from recdrop.backends.ops import (
    GATES,
    Config,
    Gradients,
    Inputs,
    Outputs,
    empty_gradients,
    empty_outputs,
    scan,
)
from recdrop.backends.stack import run_stack

_CONFIG = (
    "str cell, str activation, bool reverse, int layer, "
    "int[] thresholds, float[] scales, int[] per_step, bool tied"
)
_SCHEMAS = (
    "native_forward(Tensor(a!)? gates, Tensor(b!)? inner, Tensor(c!) h, Tensor(d!) h_n, "
    "Tensor(e!)? c_n, Tensor h0, Tensor? c0, Tensor w_hh, Tensor? b_hn, Tensor? w_hr, "
    f"Tensor? batch_sizes, Tensor? rows, Tensor? key, {_CONFIG}) -> ()",
    "native_backward(Tensor(a!) dgates, Tensor(b!)? dproduct, Tensor(c!)? seen, "
    "Tensor(d!)? operand, Tensor(e!)? dh, Tensor(f!) dh0, Tensor(g!)? dc0, Tensor? dy, "
    "Tensor? dh_n, Tensor? dc_n, Tensor? gates, Tensor? inner, Tensor h, Tensor h0, Tensor? c0, "
    "Tensor w_hh, Tensor? w_hr, Tensor? batch_sizes, Tensor? rows, Tensor? key, "
    f"{_CONFIG}) -> ()",
    "native_product(Tensor(a!) out, Tensor a, Tensor b, Tensor? bias, bool accumulate) -> ()",
    "native_nonlinearity(Tensor(a!) out, Tensor x, str name) -> ()",
    "native_instruction_set(str name) -> str",
)
_LIBRARY = torch.library.Library("recdrop", "FRAGMENT")


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
    if autocast_dtype(call.x) is not None:
        return f"it computes in the weights' own dtype, not in autocast's {autocast_dtype(call.x)}"
    if call.x.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, the input is {call.x.dtype}"
    return None


def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a whole call."""
    return run_stack(call, scan)


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


def _scan(*args: Any) -> Outputs:
    at, how = Inputs(*args[:11]), Config(*args[11:])
    out = empty_outputs(at, how)
    is_rnn, is_gru = how.cell == "rnn", how.cell == "gru"
    pre_x = out.h if is_rnn else out.gates
    bias, b_hn = _biases(at, is_gru)
    torch.ops.recdrop.native_product(pre_x, at.x, at.w_ih.t(), bias, False)
    torch.ops.recdrop.native_forward(
        None if is_rnn else out.gates,
        _used(out.inner),
        out.h,
        out.h_n,
        None if at.c0 is None else out.c_n,
        at.h0.contiguous(),
        _contiguous(at.c0),
        at.w_hh.contiguous(),
        b_hn,
        _contiguous(at.w_hr),
        at.batch_sizes,
        _contiguous(at.rows),
        at.key,
        *how,
    )
    return out


def _biases(at: Inputs, is_gru: bool) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the input projection, and what torch's GRU adds inside its product."""
    if at.b_ih is None or at.b_hh is None:
        return None, None
    bias = at.b_ih + at.b_hh
    if not is_gru:
        return bias, None
    outside = bias.shape[0] // 3 * 2
    bias[outside:] = at.b_ih[outside:]
    return bias, at.b_hh[outside:].contiguous()


def _scan_backward(*args: Any) -> Gradients:
    grads, at, (h, gates, inner) = args[:3], Inputs(*args[3:14]), args[14:17]
    how, need_dx = Config(*args[17:-1]), args[-1]
    d = empty_gradients(at, need_dx)
    n, (gate_width, width) = at.x.shape[0], at.w_hh.shape
    hidden = gate_width // GATES[how.cell]
    new = at.x.new_empty
    dgates = new(n, gate_width)
    dproduct = new(n, gate_width) if how.cell == "gru" else None
    two_products = at.w_hr is not None or how.cell == "gru_paper"
    operand = new(n, hidden) if two_products else None
    whole_dh = new(n, width) if at.w_hr is not None else None
    seen = None
    hidden_acts = how.thresholds[1] > 0 or how.scales[1] != 1
    if hidden_acts or at.batch_sizes is not None:
        seen = new(n, width) if how.tied else new(GATES[how.cell], n, width)
    torch.ops.recdrop.native_backward(
        dgates,
        dproduct,
        seen,
        operand,
        whole_dh,
        d.h0,
        None if at.c0 is None else d.c0,
        *(_contiguous(g) for g in grads),
        _used(gates),
        _used(inner),
        h,
        at.h0.contiguous(),
        _contiguous(at.c0),
        at.w_hh.contiguous(),
        _contiguous(at.w_hr),
        at.batch_sizes,
        _contiguous(at.rows),
        at.key,
        *how,
    )
    if need_dx:
        _product(d.x, dgates, at.w_ih)
    _product(d.w_ih, dgates.t(), at.x)
    through = dgates if dproduct is None else dproduct
    _weight_gradient(d.w_hh, through, seen, operand, h, at, how)
    if whole_dh is not None and operand is not None:
        _product(d.w_hr, whole_dh.t(), operand)
    if at.b_ih is not None:
        torch.sum(dgates, 0, out=d.b_ih)
        if through is dgates:
            d.b_hh.copy_(d.b_ih)
        else:
            torch.sum(through, 0, out=d.b_hh)
    return d


def _weight_gradient(
    dw_hh: Tensor,
    through: Tensor,
    seen: Tensor | None,
    operand: Tensor | None,
    h: Tensor,
    at: Inputs,
    how: Config,
) -> None:
    """Gradient of W_hh: what went through the product times what the product saw."""
    hidden = dw_hh.shape[0] // GATES[how.cell]
    gates = range(GATES[how.cell])
    if how.cell == "gru_paper" and operand is not None:
        gates = range(2)
        _product(dw_hh[2 * hidden :], through[:, 2 * hidden :].t(), operand)
    rows = slice(0, len(gates) * hidden)
    if seen is None:
        batch = at.h0.shape[0]
        first, rest = slice(0, batch), slice(batch, None)
        before, last = slice(0, -batch), slice(-batch, None)
        start, others, shifted = (last, before, rest) if how.reverse else (first, rest, before)
        _product(dw_hh[rows], through[others, rows].t(), h[shifted])
        if at.h0.any():
            _product(dw_hh[rows], through[start, rows].t(), at.h0, accumulate=True)
    elif how.tied:
        _product(dw_hh[rows], through[:, rows].t(), seen)
    else:
        for gate in gates:
            part = slice(gate * hidden, (gate + 1) * hidden)
            _product(dw_hh[part], through[:, part].t(), seen[gate])


def _product(out: Tensor, a: Tensor, b: Tensor, *, accumulate: bool = False) -> None:
    torch.ops.recdrop.native_product(out, a, b, None, accumulate)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _used(t: Tensor) -> Tensor | None:
    """An output that the cell has; the others are empty and one-dimensional."""
    return t if t.ndim == 2 else None


if _MISSING is None:
    _LIBRARY.impl("scan", _scan, "CPU")
    _LIBRARY.impl("scan_backward", _scan_backward, "CPU")
