"""``recdrop::triton_scan`` and its gradient: the kernels' launches and what is around them.

The input projection and the gradients of weights and input are torch's own matrix products over all
steps; the loop over time is `kernels.forward` and `kernels.backward`. These know no strides, and
rows of a multiple of 16 units only: what comes is made contiguous and as wide, what goes cut again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recdrop import rng
from recdrop.backends.ops import GATES, Config, Gradients, Inputs, Outputs
from recdrop.backends.triton import cells, kernels
from recdrop.backends.triton.plan import Plan, tiles
from recdrop.backends.triton.replays import Replays
from recdrop.backends.triton.steps import Steps
from recdrop.backends.triton.width import cut_blocks, cut_rows, wide_rows, widened

_CELLS = {
    "rnn": kernels.RNN.value,
    "lstm": kernels.LSTM.value,
    "gru": kernels.GRU.value,
    "gru_paper": kernels.GRU_PAPER.value,
}
REPLAYS = Replays()


class _Layer:
    """One layer and direction: its shapes, the places of its steps, and what its kernels share.

    Attributes:
        inputs: With rows of ``hidden`` units.
        units: The layer's own H.
        hidden: H of the kernels: with the units that stay 0.
    """

    def __init__(self, given: Inputs, how: Config) -> None:
        self.units = given.h0.shape[1]
        at = self.inputs = widened(given, GATES[how.cell])
        self.how = how
        self.batch, self.hidden = at.h0.shape
        self.gates = GATES[how.cell]
        self.steps = Steps(self.batch, at.x.shape[0], at.batch_sizes, at.x.device)
        self.untied = not how.tied and how.thresholds[1] > 0
        self.views = self.gates if self.untied else 1
        device = at.x.device
        key = torch.zeros((), dtype=torch.int64) if at.key is None else at.key
        self.key = rng.key_on(key, device)
        self.rows = absent(at.x, torch.int64)
        if at.rows is not None:
            self.rows = at.rows.to(device).contiguous()
        # Of 16 bits there is one way, and no kernel is compiled twice.
        self.precision = product_precision() if at.x.dtype == torch.float32 else "tf32"
        self.plan = Plan.of(
            self.batch,
            self.hidden,
            how.cell,
            at.x.element_size(),
            processors(device),
            shared_memory(device),
            untied=self.untied,
            ieee=self.precision == "ieee",
        )
        self.code = 4 * how.reverse + 8 * how.layer
        self.hidden_acts = self._acts(1)
        self.sites = {
            "REVERSE": how.reverse,
            "HIDDEN": self.hidden_acts,
            "V": self.views,
            "HAS_ROWS": at.rows is not None,
        }
        self.tiles = (tiles(self.batch, self.plan.rows), tiles(self.hidden, self.plan.units))
        self.places = {"offsets": self.steps.offsets, "rows": self.rows, "key_at": self.key}

    def _acts(self, site: int) -> int:
        how = self.how
        if how.thresholds[site]:
            step = how.per_step[site]
            return cells.MASK_STEP.value if step else cells.MASK_SEQUENCE.value
        return cells.NOTHING.value if how.scales[site] == 1.0 else cells.SCALE.value

    def step_arguments(self, *, backward: bool = False) -> dict[str, Any]:
        """What `kernels.forward` and `kernels.backward` have in common."""
        how = self.how
        return (
            self.places
            | self.sites
            | self.plan.launch(backward=backward)
            | {
                "T": len(self.steps),
                "B": self.batch,
                "H": self.hidden,
                "units": self.units,
                "t_up": how.thresholds[0],
                "t_hidden": how.thresholds[1],
                "t_state": how.thresholds[2],
                "s_up": how.scales[0],
                "s_hidden": how.scales[1],
                "s_state": how.scales[2],
                "layer_code": self.code,
                "CELL": _CELLS[how.cell],
                "RELU": how.activation == "relu",
                "UPDATE": self._acts(0),
                "STATE": self._acts(2),
                "PRECISION": self.precision,
            }
        )

    def run(self, kernel: Any, arguments: dict[str, Any]) -> None:
        """Run `kernels.forward` or `kernels.backward` over all steps."""
        grid = (self.plan.programs,)
        phases = 2 if self.how.cell == "gru_paper" else 1
        if self.plan.persistent:
            barrier = torch.zeros((), dtype=torch.int32, device=self.inputs.x.device)
            if on_card(barrier):
                arguments = arguments | {"launch_cooperative_grid": True}
            kernel[grid](
                first=0, count=len(self.steps), PHASE=0, PHASES=phases, barrier=barrier, **arguments
            )
            return
        barrier = absent(self.inputs.x, torch.int32)

        def launches() -> None:
            for step in range(len(self.steps)):
                for phase in range(phases):
                    kernel[grid](
                        first=step,
                        count=1,
                        PHASE=phase,
                        PHASES=phase + 1,
                        barrier=barrier,
                        **arguments,
                    )

        if not on_card(barrier):
            launches()
            return
        given = arguments.values()
        key = [(v.data_ptr(), v.dtype) if isinstance(v, Tensor) else v for v in given]
        REPLAYS.run((id(kernel), grid, phases, *key), launches)

    def see(self, initial: Tensor, h: Tensor | None) -> Tensor:
        """What the gates see of h before every step, [V, N, H]; without ``h``, before the first.

        Args:
            initial: [B, H], or [V, B, H]: a gradient that goes the same way back.
            h: [N, H] or None.
        """
        first = h is None
        out = initial.new_empty(self.views, self.batch if first else self.steps.total, self.hidden)
        see: Any = kernels.see
        see[(len(self.steps), *self.tiles)](
            initial=initial,
            h=absent(initial) if h is None else h,
            out=out,
            T=len(self.steps),
            B=self.batch,
            H=self.hidden,
            units=self.units,
            N=self.steps.total,
            threshold=self.how.thresholds[1],
            scale=self.how.scales[1],
            layer_code=self.code,
            FIRST=first,
            INITIAL_VIEWS=initial.ndim == 3,
            BB=self.plan.rows,
            BU=self.plan.units,
            **self.places,
            **self.sites,
        )
        return out


def on_card(tensor: Tensor) -> bool:
    """Whether it is on a GPU, not in Triton's interpreter."""
    return tensor.is_cuda


def absent(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """For what a cell lacks: empty, and a null pointer to a kernel that does not look at it."""
    return like.new_empty(0, dtype=dtype)


def processors(device: torch.device) -> int:
    """Programs that run at once. Triton's interpreter runs one after the other."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have. In Triton's interpreter an H100's, where it has no bound."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def product_precision() -> str:
    """How float32 is multiplied: as torch's switch for its own recurrent layers says."""
    # Not torch.backends.cudnn.rnn.fp32_precision, which some versions lose by an import.
    return "tf32" if torch._C._get_fp32_precision_getter("cuda", "rnn") == "tf32" else "ieee"


def scan(*args: Any) -> Outputs:
    """``recdrop::triton_scan``."""
    how = Config(*args[11:])
    layer = _Layer(Inputs(*args[:11]), how)
    at = layer.inputs
    b_hn = None
    if how.cell == "gru" and at.b_hh is not None:
        b_hn = at.b_hh[2 * layer.hidden :]
    h = at.x.new_empty(layer.steps.total, layer.hidden)
    seen = at.x.new_empty(2, layer.views, layer.batch, layer.hidden)
    seen[:] = layer.see(at.h0, None)
    state = (at.h0 if at.c0 is None else at.c0).to(torch.float32, copy=True)
    gates = absent(at.x)
    if how.cell != "rnn":
        gates = at.x.new_empty(layer.steps.total, at.w_hh.shape[0])
    inner = absent(at.x, torch.float32)
    if how.cell in ("lstm", "gru"):
        inner = at.x.new_empty(layer.steps.total, layer.hidden, dtype=torch.float32)
    layer.run(
        kernels.forward,
        layer.step_arguments()
        | {
            "pre_x": _project(at, how),
            "w_hh": at.w_hh,
            "b_hn": absent(at.x) if b_hn is None else b_hn,
            "seen": seen,
            "operand": torch.empty_like(at.h0) if how.cell == "gru_paper" else absent(at.x),
            "state": state,
            "h": h,
            "gates": gates,
            "inner": inner,
            "HAS_B_HN": b_hn is not None,
        },
    )
    h = cut_rows(h, layer.units)
    h_n = layer.steps.last(h, how.reverse).clone()
    c_n = absent(at.x) if at.c0 is None else cut_rows(state, layer.units).to(at.x.dtype)
    return Outputs(h, h_n, c_n, gates, inner)


def _project(at: Inputs, how: Config) -> Tensor:
    """W_ih x plus the biases outside the recurrent product, [N, GH]."""
    if at.b_ih is None or at.b_hh is None:
        return F.linear(at.x, at.w_ih)
    bias = at.b_ih + at.b_hh
    if how.cell == "gru":
        third = 2 * bias.shape[0] // 3
        bias = torch.cat((bias[:third], at.b_ih[third:]))
    return F.linear(at.x, at.w_ih, bias)


def scan_backward(*args: Any) -> Gradients:
    """``recdrop::triton_scan_backward``."""
    gates, inner = args[15:17]
    how, need_dx = Config(*args[17:-1]), args[-1]
    layer = _Layer(Inputs(*args[3:14]), how)
    at = layer.inputs
    dh_out, dh_n, dc_n, h = (wide_rows(t, layer.hidden) for t in (*args[:3], args[14]))
    dh, dc = (_start(g, at.h0) for g in (dh_n, dc_n))
    d_in = at.x.new_empty(layer.steps.total, at.w_hh.shape[0])
    d_rec = torch.empty_like(d_in) if how.cell == "gru" else d_in
    layer.run(
        kernels.backward,
        layer.step_arguments(backward=True)
        | {
            "w_hh": at.w_hh,
            "h0": at.h0,
            "c0": absent(at.x) if at.c0 is None else at.c0,
            "h": h,
            "gates": gates,
            "inner": inner,
            "dh_out": absent(h) if dh_out is None else dh_out,
            "dh": dh,
            "dc": dc,
            "d_in": d_in,
            "d_rec": d_rec,
            "HAS_DH": dh_out is not None,
        },
    )
    db_ih, db_hh = absent(at.x), absent(at.x)
    if at.b_ih is not None:
        db_ih = d_in.sum(0)
        db_hh = (
            torch.cat((db_ih[: 2 * layer.hidden], d_rec[:, 2 * layer.hidden :].sum(0)))
            if how.cell == "gru"
            else db_ih.clone()
        )
        db_ih, db_hh = (cut_blocks(g, layer.gates, layer.units) for g in (db_ih, db_hh))
    dw_hh = cut_rows(_recurrent_weight(layer, d_rec, h, gates), layer.units)
    return Gradients(
        x=d_in @ at.w_ih if need_dx else absent(at.x),
        h0=cut_rows(_initial(layer, d_rec, dh), layer.units),
        c0=absent(at.x) if at.c0 is None else cut_rows(dc, layer.units).to(at.x.dtype),
        w_ih=cut_blocks(d_in.t() @ at.x, layer.gates, layer.units),
        w_hh=cut_blocks(dw_hh, layer.gates, layer.units),
        b_ih=db_ih,
        b_hh=db_hh,
        w_hr=absent(at.x),
    )


def _start(grad: Tensor | None, like: Tensor) -> Tensor:
    if grad is None:
        return torch.zeros_like(like, dtype=torch.float32)
    return grad.to(torch.float32, copy=True)


def _initial(layer: _Layer, d_rec: Tensor, past: Tensor) -> Tensor:
    """Gradient of h_0, [B, H]: through the first step's product, and past it."""
    w_hh, hidden = layer.inputs.w_hh, layer.hidden
    products = 2 if layer.how.cell == "gru_paper" else layer.gates
    first = layer.steps.first(d_rec, layer.how.reverse)[:, : products * hidden]
    if layer.untied:
        each = torch.einsum(
            "bgk,gku->gbu",
            first.unflatten(1, (products, hidden)),
            w_hh[: products * hidden].unflatten(0, (products, hidden)),
        )
        if products < layer.views:
            each = torch.cat((each, torch.zeros_like(each[:1])))
        through = layer.see(each.contiguous(), None).sum(0, dtype=torch.float32)
    else:
        through = first @ w_hh[: products * hidden]
        if layer.hidden_acts:
            through = layer.see(through, None)[0]
    return (past + through).to(w_hh.dtype)


def _recurrent_weight(layer: _Layer, d_rec: Tensor, h: Tensor, gates: Tensor) -> Tensor:
    """Gradient of W_hh, [GH, H]: of what each gate's product saw, over all steps."""
    how, hidden = layer.how, layer.hidden
    seen = layer.see(layer.inputs.h0, h)
    if how.cell == "gru_paper":
        reset = (gates[:, :hidden].float() * seen[-1]).to(h.dtype)
        views = [*seen[:2], reset] if layer.untied else [seen[0], seen[0], reset]
    elif layer.untied:
        views = [*seen]
    else:
        return d_rec.t() @ seen[0]
    each = d_rec.split(hidden, dim=1)
    return torch.cat([d.t() @ v for d, v in zip(each, views, strict=True)])
