"""The reference backend: one plain loop over time for any equation; autograd does the backward.

It defines what every other backend must compute, runs on any device and dtype, and has double
backward. It is as fast as a Python loop can be.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recdrop import rng
from recdrop._types import (
    Activation,
    ActivationName,
    HiddenState,
    LSTMState,
    RecurrentWeights,
    SiteFactors,
)
from recdrop.backends.call import GATES, Recurrence, Scan, autocast_dtype
from recdrop.backends.stack import run_stack
from recdrop.dropout import RecurrentDropout
from recdrop.equations import gru_paper_step, gru_step, lstm_step, rnn_step

_ACTIVATIONS: dict[ActivationName, Activation] = {"tanh": torch.tanh, "relu": torch.relu}

# A site's factor for all steps: a number, or [T, B, U], [1, B, U], or with gates [T, G, B, W].
_Factor = Tensor | float | None


def why_not(call: Recurrence) -> str | None:
    """No objection, ever."""
    return None


def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a whole call."""
    return run_stack(call, scan)


def scan(scan: Scan) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run one layer and direction: all states, each [N, ...], and the final one, each [B, ...].

    A row whose sequence has ended (or, in reverse, has not begun) keeps its state.
    """
    call = scan.call
    step = _step_function(call)
    f = _ACTIVATIONS[call.activation]
    weights = _recurrent_weights(scan)
    factors = {spec.site: _factor(spec, scan) for spec in call.acting}
    batch_sizes = scan.batch_sizes
    per_step = project(scan).split(batch_sizes)
    make = LSTMState if call.cell == "lstm" else HiddenState
    state = make(*scan.state)
    steps: list[tuple[Tensor, ...]] = [()] * len(per_step)
    for t in reversed(range(len(per_step))) if scan.direction else range(len(per_step)):
        rows = batch_sizes[t]
        drop = SiteFactors(
            on_hidden=_at(factors.get("hidden"), t, rows),
            on_update=_at(factors.get("update"), t, rows),
            on_state=_at(factors.get("state"), t, rows),
        )
        new = step(per_step[t], make(*(s[:rows] for s in state)), weights, drop, f)
        steps[t] = new
        if rows < state.h.shape[0]:
            new = make(*(torch.cat((n, s[rows:].to(n))) for n, s in zip(new, state, strict=True)))
        state = new
    return tuple(torch.cat(s) for s in zip(*steps, strict=True)), tuple(state)


def _step_function(call: Recurrence) -> Callable[..., LSTMState | HiddenState]:
    if call.cell == "gru":
        return gru_step if call.reset_after else gru_paper_step
    return lstm_step if call.cell == "lstm" else rnn_step


def project(scan: Scan) -> Tensor:
    """W_ih x plus every bias that is not inside the recurrent product, [N, GH]: for all steps."""
    w = scan.weights
    if w.b_ih is None or w.b_hh is None:
        return F.linear(scan.x, w.w_ih)
    b_hh = w.b_hh
    if scan.call.cell == "gru" and scan.call.reset_after:
        third = b_hh.shape[0] // 3
        b_hh = F.pad(b_hh[: 2 * third], (0, third))
    return F.linear(scan.x, w.w_ih, w.b_ih + b_hh)


def _recurrent_weights(scan: Scan) -> RecurrentWeights:
    w = scan.weights
    b_hn = None
    if scan.call.cell == "gru" and scan.call.reset_after and w.b_hh is not None:
        b_hn = w.b_hh[w.b_hh.shape[0] // 3 * 2 :].to(autocast_dtype(scan.x))  # as in a product
    return RecurrentWeights(w.w_hh, b_hn, w.w_hr)


def _factor(spec: RecurrentDropout, scan: Scan) -> Tensor | float:
    """What a site is multiplied by at all steps of a scan."""
    call = scan.call
    if not call.training:
        return spec.eval_scale
    if call.key is None:
        raise RuntimeError("a mask is needed but the call has no key")
    gates = 1 if spec.tied else GATES[call.cell]
    gate_width, width = scan.weights.w_hh.shape
    units = width * gates if spec.site == "hidden" else gate_width // GATES[call.cell]
    steps = len(scan.batch_sizes) if spec.sampling == "step" else 1
    device = scan.x.device
    keep = rng.keep_mask(
        call.key,
        spec.rate,
        spec.site,
        layer=scan.layer,
        direction=scan.direction,
        steps=torch.arange(steps, device=device),
        rows=scan.rows,
        units=units,
    )
    if not spec.tied:
        keep = keep.unflatten(-1, (gates, width)).movedim(-2, 1)
    return keep.to(scan.state[-1].dtype) * spec.kept_scale


def _at(factor: _Factor, t: int, rows: int) -> _Factor:
    """A site's factor at one step, for the rows that are running."""
    if not isinstance(factor, Tensor):
        return factor
    return factor[t if factor.shape[0] > 1 else 0][..., :rows, :]
