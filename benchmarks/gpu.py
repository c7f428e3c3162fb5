"""What recurrent dropout costs on a CUDA device, beside cuDNN's layers without any.

``python -m benchmarks.gpu`` measures every shape and writes ``benchmarks/results/gpu-<card>.json``,
case by case; `benchmarks/gpu.sh` runs the tests for a card first. A timing is that of some passes
in a row without waiting in between, as in training; beside it stands one of passes replayed from a
CUDA graph, which leaves the host nothing to do, ours also with a launch for each step. Nothing is
timed before ours is nearly as near to the reference in float64 as the reference itself is in the
timed type, float32 both with and without TF32 products; it is timed with them. ``--trial`` runs the
program's path on the CPU at toy sizes.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import parity
from benchmarks.cases import KINDS, RATE, Shape, slug, stock_layer
from benchmarks.gpu_card import Card, ieee, parsed, tf32
from benchmarks.gpu_timing import (
    AIM,
    DTYPES,
    SPECS,
    STEPS,
    TARGET,
    alone,
    check,
    in_steps,
    nodes_of,
    replayed,
    timed,
)
from benchmarks.machine import RESULTS, SCRATCH, save
from benchmarks.timing import Budget

__all__ = ["SHAPES", "ieee", "main", "tf32"]  # two for tests/backends/test_gpu.py

SHAPES = {
    "word LM": Shape(35, 32, 256, 256),
    "medium LM": Shape(35, 20, 650, 650),
    "char LM": Shape(100, 32, 256, 1024),
    "long": Shape(1024, 16, 768, 768),
    "time series": Shape(200, 64, 64, 128),
}
CELLS = ("LSTM", "GRU")
LOOP = 20.0  # target: times as fast as the loop in Python


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Raises:
        SystemExit: There is no CUDA device, or ours computed something else somewhere.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=[slug(n) for n in SHAPES])
    parser.add_argument("--results", type=Path, help="folder for the JSON file")
    parser.add_argument("--trial", action="store_true", help="the path only, on the CPU")
    args, budget = parsed(parser, argv)
    card = Card(args.trial)
    names = [name for name in SHAPES if not args.cases or slug(name) in args.cases]
    limits = {name: card.limits(dtype) for name, dtype in DTYPES.items()}
    report: dict[str, Any] = {
        "machine": card.described(),
        "settings": {"rate": RATE, "passes": args.passes, **budget._asdict()},
        "schemes": [(spec.site, spec.sampling) for spec in SPECS],
        "target": TARGET,
        "loop_target": LOOP,
        "limits": limits,
        "results": [],
    }
    whole = not args.trial and names == list(SHAPES)
    path = (args.results or (RESULTS if whole else SCRATCH)) / f"gpu-{slug(card.name)}.json"
    wrong = []
    for name, cell, dtype in itertools.product(names, CELLS, DTYPES):
        try:
            found = measured(card, cell, name, dtype, budget, args.passes)
        except Exception as error:  # whatever it is, the other cases may be all right
            kind = "no parity" if isinstance(error, parity.ParityError) else type(error).__name__
            wrong.append(f"{cell} {name} {dtype}: {kind}: {error}")
            print(f"not timed: {wrong[-1]}", flush=True)
            card.clock()  # waits, which fails where the device is lost
            continue
        print(told(found), flush=True)
        report["results"].append(found | {"limit": limit(cell, name, dtype, limits)})
        save(report, path)
    if card.trial:
        print("CUDA graphs: not timed, a trial is on the CPU")
    if wrong:
        raise SystemExit("\n".join(["not timed:", *wrong]))


def measured(
    card: Card, cell: str, name: str, dtype: str, budget: Budget, passes: int
) -> dict[str, Any]:
    """Parity, then the timings of one cell at one shape in one type."""
    kind, shape, kept = KINDS[cell], card.shape(SHAPES[name]), DTYPES[dtype]
    errors = {str(spec): check(card, kind, shape, kept, spec) for spec in SPECS}
    with in_steps():
        errors[STEPS] = check(card, kind, shape, kept, SPECS[0])
    stock = stock_layer(kind, shape).to(card.device, kept)
    return {
        "cell": cell,
        "case": name,
        "dtype": dtype,
        "shape": dict(zip("TBIH", shape.sizes, strict=True)),
        "errors": errors,
        "timings": timed(card, kind, shape, kept, SPECS, budget, passes),
        "graph": replayed(card, kind, shape, kept, budget, passes),
        "python_loop": alone(card, kind, shape, kept),
        "stock": nodes_of(stock, kind, shape),
        "clocks": card.clocks(),  # soon after
    }


def told(found: dict[str, Any]) -> str:
    """A line on one case: its figures, each beside its target."""
    stock, *ours = found["timings"].values()
    ratios = " ".join(f"{timing['ratio']:.2f}" for timing in ours)
    worst = max(timing["ratio"] for timing in ours)
    verdict = "aim met" if worst <= AIM else "target met" if worst <= TARGET else "MISSED"
    factor = found["python_loop"] / ours[0]["min"]
    line = (
        f"{found['cell']} {found['case']} {found['dtype']}: cuDNN {stock['min'] * 1e3:.3f} ms, "
        f"ours {ratios} times that (target {TARGET}: {verdict}); the loop in Python {factor:.1f} "
        f"times ours (target {LOOP:.0f}: {'met' if factor >= LOOP else 'MISSED'})"
    )
    graph = found["graph"]
    if isinstance(graph, str):
        return f"{line}; in a CUDA graph: not captured, {graph}"
    if graph is None:
        return line
    theirs, mine, steps = graph.values()
    return (
        f"{line}; in a CUDA graph cuDNN {theirs['min'] * 1e3:.3f} ms, ours {mine['ratio']:.2f} "
        f"times that, with {STEPS} {steps['ratio']:.2f}"
    )


def limit(cell: str, name: str, dtype: str, limits: dict[str, Any]) -> float:
    """Seconds of all products, or of reading W_hh twice at each step, whichever is more.

    The products at the rate of a large one, the weights at that of the second cache; where they
    stay on the chip a pass may take less.
    """
    steps, batch, inputs, hidden = SHAPES[name].sizes
    gates = {"LSTM": 4, "GRU": 3}[cell] * hidden
    flops = 3 * 2 * steps * batch * gates * (inputs + hidden)
    read = 2 * steps * gates * hidden * DTYPES[dtype].itemsize
    reached = limits[dtype]
    return max(flops / reached["flops"], read / reached["bytes"])


if __name__ == "__main__":
    main()
