"""Layers and directions around one scan over time, for every backend that has only the scan."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recdrop.backends.call import Recurrence, Scan, ScanFunction, autocast_dtype


def run_stack(call: Recurrence, scan: ScanFunction) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run all layers and directions of a call.

    Args:
        call: The checked call.
        scan: Runs one layer and direction.

    Returns:
        The output, [T, B, D * W] or packed [N, D * W], and the final state, (h_n,) or (h_n, c_n),
        each [L * D, B, ...].
    """
    directions = 2 if call.bidirectional else 1
    layer_input = call.x.flatten(0, -2)
    weights = list(call.layer_weights())
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(call.num_layers):
        if layer:
            layer_input = F.dropout(layer_input, call.dropout, call.training)
        outputs: list[Tensor] = []
        for direction in range(directions):
            at = layer * directions + direction
            state = tuple(s[at] for s in call.state)
            steps, final = scan(Scan(call, layer_input, state, weights[at], layer, direction))
            outputs.append(steps[0])
            finals.append(final)
        layer_input = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
    output = (
        layer_input if call.batch_sizes is not None else layer_input.unflatten(0, call.x.shape[:2])
    )
    return _as_autocast(call, output, tuple(torch.stack(s) for s in zip(*finals, strict=True)))


def _as_autocast(
    call: Recurrence, output: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    # Under autocast torch's dense LSTM returns the lower precision, and nothing else of it does.
    # The memory c stays in full precision, as in torch's projected LSTM.
    dtype = autocast_dtype(call.x)
    if dtype is None or call.cell != "lstm" or call.batch_sizes is not None:
        return output, state
    h_n, c_n = state
    return output.to(dtype), (h_n.to(dtype), c_n)
