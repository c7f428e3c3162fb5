"""Cases for driver.cpp: inputs of one layer and direction, and what the reference says of them.

    python tests/native/cases.py FOLDER

A case is a file of named arrays, each: name (64 bytes), "d" or "i" (8 bytes), number of values
(int64), the values as float64 or int64. Truth is that of `recdrop.testing`, and so are tolerances,
or closer. In cases named ``mask-...`` the output of a unit says whether the unit was kept, and
``kept`` has Python's own mask, which the driver compares bit for bit.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from recdrop import rng
from recdrop._types import Sampling
from recdrop.backends import ops, reference
from recdrop.backends.call import GATES, Recurrence, RunFunction, Scan
from recdrop.dropout import RecurrentDropout
from recdrop.testing import Case, _error, _nudged, _size, evaluate, make_call

CELLS = [
    ("rnn", {}),
    ("rnn", {"activation": "relu"}),
    ("lstm", {}),
    ("lstm", {"activation": "relu"}),
    ("gru", {}),
    ("gru", {"activation": "relu"}),
    ("gru", {"reset_after": False}),
]
KERNEL_CELLS = ["rnn", "lstm", "gru", "gru_paper"]
SHAPES = {
    "one_unit": Case(4, 1, 1, 1),
    "one_step": Case(1, 2, 3, 4),
    "odd": Case(5, 3, 7, 5),
    "no_bias": Case(4, 2, 3, 6, bias=False),
    "packed": Case(6, 4, 3, 5, lengths=(6, 4, 4, 1)),
    "wide": Case(7, 9, 20, 33),  # from here on the kernels use all workers
    "groups": Case(4, 29, 10, 65),  # several groups of rows, W_ih inside the loop
    "packed_groups": Case(9, 21, 10, 42, lengths=(*(9,) * 5, *(7,) * 9, *(2,) * 5, 1, 1)),
    "long": Case(5, 83, 401, 17),  # products with a left side of several parts and blocks
    "broad": Case(2, 8, 5, 130),  # ... and with several strips of panels
}
PROJECTED = {
    "projected": Case(4, 2, 3, 6, projected=3),
    "projected_packed": Case(5, 3, 3, 6, projected=2, lengths=(5, 5, 2)),
    "projected_wide": Case(6, 26, 7, 49, projected=18),
    "projected_groups": Case(6, 19, 7, 49, projected=1, lengths=(*(6,) * 8, *(3,) * 10, 1)),
}
SITES = ("update", "hidden", "state")

# Layers with f = relu, x = 0, h_0 = c_0 = 1, all biases of one gate alike, and W_hh zero but for a
# multiple of the identity in one gate. Then h_t > 1.5 in a unit if and only if the unit was kept at
# step t. Cell, its arguments, site, the gate that h feeds and by how much, the gates' biases; a
# bias of 8 opens a gate and one of -8 shuts it.
MASK_LAYERS = [
    ("rnn", {}, "hidden", 0, 1, (1,)),  # h = 1 + d(h)
    ("lstm", {}, "update", 0, 0, (8, -8, 2, 8)),  # h = d(2)
    ("lstm", {}, "state", 0, 0, (8, -8, 2, 8)),
    ("lstm", {}, "hidden", 0, 1000, (0, -8, 2, 8)),  # h = 2 i, i = 1/2 or 1
    ("lstm", {}, "hidden", 1, 1000, (8, -8, 1, 8)),  # h = 1 + f h, f = 0 or 1
    ("lstm", {}, "hidden", 2, 1, (8, -8, 1, 8)),  # h = 1 + d(h)
    ("lstm", {}, "hidden", 3, 1000, (8, -8, 2, 0)),  # h = 2 o, o = 1/2 or 1
    ("gru", {}, "update", 0, 0, (8, -8, 2)),
    ("gru", {}, "state", 0, 0, (8, -8, 2)),
    ("gru", {}, "hidden", 0, 1000, (0, -8, 2)),  # h = 2 r, r = 1/2 or 1
    ("gru", {}, "hidden", 2, 1, (8, -8, 1)),
    ("gru", {"reset_after": False}, "update", 0, 0, (8, 8, 2)),
    ("gru", {"reset_after": False}, "state", 0, 0, (8, 8, 2)),
    ("gru", {"reset_after": False}, "hidden", 2, 1, (8, 8, 1)),
]
MASK_SHAPES = ("odd", "packed", "groups", "packed_groups", "broad")


def schemes(cell: str) -> list[tuple[bool, list[RecurrentDropout]]]:
    """Training or not, and the specs; shapes take one after the other."""
    drop = RecurrentDropout
    hidden = [
        (True, [drop(0.4, "hidden", "step")]),
        (True, [drop(0.4, "hidden", "sequence", "test")]),
        (True, []),
        (False, [drop(0.4, "hidden", "step", "test")]),
    ]
    if cell == "rnn":
        return hidden
    untied = [
        (True, [drop(0.4, "hidden", s, tied=False), drop(0.3, "update", "step")])
        for s in ("sequence", "step")
    ]
    return [
        *hidden,
        *untied,
        (True, [drop(0.4, "update", "step")]),
        (True, [drop(0.4, "state", "step")]),
        (True, [drop(0.3, site, "sequence") for site in SITES]),
        (True, [drop(0.3, site, "step") for site in SITES]),
    ]


def scan(layer: int, direction: int) -> RunFunction:
    """The reference's run of one layer and direction."""

    def run(call: Recurrence) -> tuple[Tensor, tuple[Tensor, ...]]:
        steps, final = reference.scan(part(call, layer, direction))
        return steps[0], final

    return run


def part(call: Recurrence, layer: int, direction: int) -> Scan:
    (weights,) = call.layer_weights()
    state = tuple(s[0] for s in call.state)
    return Scan(call, call.x.flatten(0, -2), state, weights, layer, direction)


def results(call: Recurrence, layer: int, direction: int) -> dict[str, Tensor]:
    """Truth, and tolerances within what `assert_matches_reference` may allow."""
    run = scan(layer, direction)
    truth = evaluate(run, call, torch.float64)
    own = evaluate(run, call, torch.float32)
    names = dict(zip(truth, ("h", "h_n", "c_n")[: 1 + len(call.state)], strict=False))
    names |= {"gradient of x": "dx", "gradient of h_0": "dh0", "gradient of c_0": "dc0"}
    fields = part(call, layer, direction).weights._asdict()
    given = [name for name, w in fields.items() if w is not None]
    names |= {f"gradient of weight {i}": f"d{name}" for i, name in enumerate(given)}
    found: dict[str, Tensor] = {}
    for bits, times, dtype in ((32, 2, torch.float32), (64, 3, torch.float64)):
        eps = torch.finfo(dtype).eps
        precision = eps / torch.finfo(torch.float32).eps
        nudged = [evaluate(run, _nudged(call, 2 * eps, s), torch.float64) for s in range(8)]
        for name, true in truth.items():
            errors = [precision * _error(own[name], true), *(_error(o[name], true) for o in nudged)]
            allowed = max(times * max(errors), 8 * eps * _size(true))
            found[f"{names[name]} {bits}"] = torch.tensor([allowed], dtype=torch.float64)
    return found | {f"{names[name]} true": true for name, true in truth.items()}


def arrays(call: Recurrence, layer: int, direction: int) -> dict[str, Tensor]:
    """One case: all that the driver needs to know."""
    one = part(call, layer, direction)
    how = ops.config(one)
    n, width = one.x.shape[0], one.state[0].shape[-1]
    hidden = one.weights.w_hh.shape[0] // GATES[call.cell]
    generator = torch.Generator().manual_seed(1)  # the upstream gradients of `evaluate`
    upstream = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in zip(
            ("dy", "dh_n", "dc_n"), ((n, width), *(s.shape for s in one.state)), strict=False
        )
    }
    config = [
        KERNEL_CELLS.index(how.cell),
        int(how.activation == "relu"),
        int(how.reverse),
        how.layer,
        int(how.tied),
        int(call.key) if call.key is not None else 0,
        len(one.batch_sizes),
        one.state[0].shape[0],
        one.x.shape[1],
        hidden,
        width,
    ]
    found = {
        "config": torch.tensor(config),
        "thresholds": torch.tensor(how.thresholds),
        "scales": torch.tensor(how.scales, dtype=torch.float64),
        "per_step": torch.tensor(how.per_step),
        "x": one.x,
        "batch_sizes": call.batch_sizes,
        "rows": call.rows,
        **dict(zip(("h0", "c0"), one.state, strict=False)),
        **one.weights._asdict(),
        **upstream,
        **results(call, layer, direction),
    }
    return {name: value for name, value in found.items() if value is not None}


def write(path: Path, case: dict[str, Tensor]) -> None:
    with path.open("wb") as file:
        for name, value in case.items():
            kind = "d" if value.dtype == torch.float64 else "i"
            file.write(name.encode().ljust(64, b"\0") + kind.encode().ljust(8, b"\0"))
            file.write(np.int64(value.numel()).tobytes())
            file.write(value.detach().contiguous().numpy().tobytes())


def calls() -> Iterator[tuple[str, Recurrence, int, int]]:
    """Name, call, layer and direction of every case."""
    chance = random.Random(0)
    for cell, args in CELLS:
        taken = cycle(schemes(cell))
        shapes = SHAPES | (PROJECTED if cell == "lstm" else {})
        for seed, (name, shape) in enumerate(shapes.items()):
            for _ in range(2):
                training, drops = next(taken)
                direction = chance.randrange(2)
                call = make_call(shape, cell, drops, training=training, seed=seed, **args)
                if shape.inputs > shape.hidden:  # else gates are shut, and relu's kinks matter
                    call = replace(call, x=call.x * (shape.hidden / shape.inputs) ** 0.5)
                sites = "+".join(
                    f"{d.site}{'' if d.tied else '_untied'}_{d.sampling}" for d in drops
                )
                label = "_".join(
                    [cell, *(str(a) for a in args.values() if a is not False)]
                    + (["paper"] if args.get("reset_after") is False else [])
                )
                way = "reverse" if direction else "forward"
                mode = "" if training else "_eval"
                whole = f"{label}-{name}-{way}-{sites or 'none'}{mode}"
                yield whole, call, 3 * direction, direction


def mask_cases() -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name and arrays of the cases of MASK_LAYERS."""
    rate = 0.4
    ways = cycle(product((False, True), (0, 1), get_args(Sampling)))
    for cell, args, site, gate, feed, biases in MASK_LAYERS:
        for seed, name in enumerate(MASK_SHAPES):
            tied, direction, sampling = next(ways)
            tied |= site != "hidden" or cell == "rnn"
            drops = [RecurrentDropout(rate, site, sampling, tied=tied)]
            call = make_call(SHAPES[name], cell, drops, activation="relu", seed=seed, **args)
            w_ih, w_hh, b_ih, b_hh = call.weights
            width = w_hh.shape[1]
            w_hh = torch.zeros_like(w_hh)
            w_hh[gate * width : (gate + 1) * width] = feed * torch.eye(width)
            b_hh = torch.tensor(biases, dtype=b_hh.dtype).repeat_interleave(width)
            call = replace(
                call,
                x=torch.zeros_like(call.x),
                state=tuple(torch.ones_like(s) for s in call.state),
                weights=(w_ih, w_hh, torch.zeros_like(b_ih), b_hh),
            )
            one = part(call, 3 * direction, direction)
            assert call.key is not None
            first = 0 if tied else gate * width
            keep = rng.keep_mask(
                call.key,
                rate,
                site,
                layer=one.layer,
                direction=direction,
                steps=torch.arange(len(one.batch_sizes)) * (sampling == "step"),
                rows=one.rows,
                units=first + width,
            )[..., first:]
            kept = torch.cat([k[:n] for k, n in zip(keep, one.batch_sizes, strict=True)])
            paper = "_paper" if args else ""
            way = "reverse" if direction else "forward"
            untied = "" if tied else f"_untied_gate{gate}"
            whole = f"mask-{cell}{paper}-{name}-{way}-{site}{untied}_{sampling}-feed{gate}"
            yield whole, arrays(call, one.layer, direction) | {"kept": kept.long()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, call, layer, direction in calls():
        write(folder / f"{name}.case", arrays(call, layer, direction))
    for name, case in mask_cases():
        write(folder / f"{name}.case", case)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
