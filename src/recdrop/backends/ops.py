"""The operators that fast backends implement: one schema, one fake, one gradient for all of them.

A backend's ``scan`` runs one layer and direction over all steps, input projection included; its
``scan_backward`` is the whole gradient. Both are opaque to `torch.compile` and `torch.export`: one
node each, whatever the number of steps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recdrop import rng
from recdrop.backends.call import Scan
from recdrop.dropout import SITES, RecurrentDropout

_CONFIG = (
    "str cell, str activation, bool reverse, int layer, "
    "int[] thresholds, float[] scales, int[] per_step, bool tied"
)
_WEIGHTS = "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr"
_PLACES = "Tensor? batch_sizes, Tensor? rows, Tensor? key"

_LIBRARY = torch.library.Library("recdrop", "FRAGMENT")
_SCAN = (
    f"(Tensor x, Tensor h0, Tensor? c0, {_WEIGHTS}, {_PLACES}, {_CONFIG}) "
    "-> (Tensor h, Tensor h_n, Tensor c_n, Tensor gates, Tensor inner)"
)
_SCAN_BACKWARD = (
    "(Tensor? dh, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor h0, Tensor? c0, "
    f"{_WEIGHTS}, {_PLACES}, Tensor h, Tensor gates, Tensor inner, {_CONFIG}, bool need_dx) "
    "-> (Tensor dx, Tensor dh0, Tensor dc0, Tensor dw_ih, Tensor dw_hh, Tensor db_ih, "
    "Tensor db_hh, Tensor dw_hr)"
)


class Config(NamedTuple):
    """What is not a tensor in a scan.

    Attributes:
        cell: rnn, lstm, gru (reset after the product) or gru_paper.
        activation: tanh or relu.
        reverse: Whether time runs backwards.
        layer: A coordinate of the masks.
        thresholds: For update, hidden, state: the bound of `rng.threshold`, or 0 for no mask.
        scales: For each site, the factor of a kept unit, or of all units where there is no mask.
        per_step: For each site, whether every step has a mask of its own.
        tied: Whether all gates share the hidden site's mask.
    """

    cell: str
    activation: str
    reverse: bool
    layer: int
    thresholds: list[int]
    scales: list[float]
    per_step: list[int]
    tied: bool


class Inputs(NamedTuple):
    """The tensors of a scan.

    Attributes:
        x: [N, I], N rows of all steps.
        h0: [B, W].
        c0: [B, H] of an LSTM.
        w_ih: [GH, I].
        w_hh: [GH, W].
        b_ih: [GH] or None.
        b_hh: [GH] or None.
        w_hr: [P, H] of a projected LSTM.
        batch_sizes: int64 [T] on the CPU; None where every step has B rows.
        rows: int64 [B], each row's place in the caller's batch; None: in order.
        key: int64 scalar on the CPU, in a CUDA graph on the device; None without masks.
    """

    x: Tensor
    h0: Tensor
    c0: Tensor | None
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None
    batch_sizes: Tensor | None
    rows: Tensor | None
    key: Tensor | None


class Outputs(NamedTuple):
    """What a scan returns; the last two are for its gradient, and empty where a cell has none.

    Their rows may have more than H units, as the backend likes (`define`).

    Attributes:
        h: [N, W].
        h_n: [B, W].
        c_n: [B, H] of an LSTM.
        gates: [N, GH] after their nonlinearities; not of an RNN, whose h says all.
        inner: [N, H], at least float32: the LSTM's c, or U_n h + b_hn of torch's GRU.
    """

    h: Tensor
    h_n: Tensor
    c_n: Tensor
    gates: Tensor
    inner: Tensor


class Gradients(NamedTuple):
    """What a scan's gradient returns; empty where there is no such input."""

    x: Tensor
    h0: Tensor
    c0: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor
    b_hh: Tensor
    w_hr: Tensor


def scan(part: Scan, name: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run one layer and direction by the operator ``recdrop::name``."""
    call, w = part.call, part.weights
    c0 = part.state[1] if call.cell == "lstm" else None
    inputs = Inputs(part.x, part.state[0], c0, *w, call.batch_sizes, call.rows, call.key)
    out = Outputs(*getattr(torch.ops.recdrop, name)(*inputs, *config(part)))
    return (out.h,), (out.h_n, out.c_n) if call.cell == "lstm" else (out.h_n,)


def config(part: Scan) -> Config:
    """The configuration of a scan."""
    call = part.call
    by_site = {spec.site: spec for spec in call.acting}
    specs = [by_site.get(site) for site in SITES]
    return Config(
        cell="gru_paper" if call.cell == "gru" and not call.reset_after else call.cell,
        activation=call.activation,
        reverse=part.direction == 1,
        layer=part.layer,
        thresholds=[rng.threshold(s.rate) if s and call.training else 0 for s in specs],
        scales=[_scale(s, call.training) if s else 1.0 for s in specs],
        per_step=[int(s is not None and s.sampling == "step") for s in specs],
        tied=all(spec.tied for spec in call.acting),
    )


def _scale(spec: RecurrentDropout, training: bool) -> float:
    return spec.kept_scale if training else spec.eval_scale


def _fake_scan(width: Callable[[int], int], *args: Any) -> Outputs:
    at, how = Inputs(*args[:11]), Config(*args[11:])
    n, gates = at.x.shape[0], GATES[how.cell]
    hidden = width(at.w_hh.shape[0] // gates)
    none = at.x.new_empty(0)
    inner = torch.float64 if at.x.dtype == torch.float64 else torch.float32
    return Outputs(
        h=at.x.new_empty(n, at.h0.shape[1]),
        h_n=torch.empty_like(at.h0, memory_format=torch.contiguous_format),
        c_n=none
        if at.c0 is None
        else torch.empty_like(at.c0, memory_format=torch.contiguous_format),
        gates=none.clone() if how.cell == "rnn" else at.x.new_empty(n, gates * hidden),
        inner=at.x.new_empty((n, hidden) if how.cell in ("lstm", "gru") else (0,), dtype=inner),
    )


GATES = {"rnn": 1, "lstm": 4, "gru": 3, "gru_paper": 3}


def _fake_scan_backward(*args: Any) -> Gradients:
    at, need_dx = Inputs(*args[3:14]), args[-1]

    def like(t: Tensor | None) -> Tensor:
        return at.x.new_empty(0) if t is None else at.x.new_empty(t.shape)

    wanted = (at.x if need_dx else None, at.h0, at.c0, *at[3:8])
    return Gradients(*(like(t) for t in wanted))


def define(name: str, width: Callable[[int], int] = int, tags: Sequence[torch.Tag] = ()) -> None:
    """Define the operators ``recdrop::name`` and ``recdrop::name_backward``.

    A backend registers implementations of both for its device.

    Args:
        name: Of the first one.
        width: Of its rows of units in what it keeps for its gradient, for an H.
        tags: Of both.
    """
    _LIBRARY.define(name + _SCAN, tags=tags)
    _LIBRARY.define(f"{name}_backward{_SCAN_BACKWARD}", tags=tags)
    fake = partial(_fake_scan, width)
    torch.library.register_fake(f"recdrop::{name}", fake, lib=_LIBRARY)
    torch.library.register_fake(f"recdrop::{name}_backward", _fake_scan_backward, lib=_LIBRARY)
    forward = getattr(torch.ops.recdrop, name)
    backward = getattr(torch.ops.recdrop, f"{name}_backward")
    gradient, no_gradient = _gradients(forward, backward)
    _LIBRARY.impl(name, gradient, "Autograd")
    _LIBRARY.impl(f"{name}_backward", no_gradient, "Autograd")


def _gradients(scan: Any, scan_backward: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The Autograd kernels of a scan and of its gradient.

    `torch.library.register_autograd` would look up every argument's default at every call, which
    costs as much as a small net's whole layer.
    """

    class Scanned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                out = Outputs(*scan(*args))
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(out.gates, out.inner)
            ctx.config = args[11:]
            ctx.save_for_backward(*args[:11], out.h, out.gates, out.inner)
            return tuple(out)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            saved = ctx.saved_tensors
            need_dx = ctx.needs_input_grad[0]
            found = scan_backward(*grads[:3], *saved, *ctx.config, need_dx)
            wanted = [t is not None for t in saved[:8]]
            wanted[0] = need_dx
            of_inputs = [g if w else None for g, w in zip(found, wanted, strict=True)]
            return (*of_inputs, *[None] * (3 + len(ctx.config)))

    class NoSecondDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                return tuple(scan_backward(*args))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            raise RuntimeError(
                "this backend has no second derivative: use backend='reference' on the layer whose "
                "gradient is differentiated again"
            )

    return Scanned.apply, NoSecondDerivative.apply
