"""How time grows with H, B and T: an LSTM with this paper's dropout beside torch's without any.

``python -m benchmarks.growth`` varies one size of the word LM at a time and writes
``benchmarks/results/growth-<threads>.json``.
"""

import argparse
import functools
import math
from collections.abc import Sequence
from typing import Any

from benchmarks import parity
from benchmarks.cases import KINDS, RATE, SHAPES, Shape, with_size
from benchmarks.machine import Watch, in_own_processes, save, thread_counts
from benchmarks.run import add_common, checked_backend, contenders, results_folder
from benchmarks.timing import Budget, compare, interleave
from recdrop import RecurrentDropout

LSTM, BASE = KINDS["LSTM"], SHAPES["word LM"]
AXES: dict[str, tuple[int, ...]] = {
    "H": (64, 128, 256, 384, 512, 768, 1024),
    "B": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "T": (10, 20, 50, 100, 200, 500, 1000),
}
LIMIT = 1.15  # the ratio to stock that no point may pass
SPEC = RecurrentDropout(RATE)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, each number of threads in its own process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--quick", action="store_true", help="2 rounds of the two smallest sizes")
    add_common(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds, args.threads = 2, 0.0, args.threads or ["1"]
    args.results = results_folder(args, whole=args.axes == list(AXES))
    counts = thread_counts(args.threads or ["1", "all"])
    in_own_processes(functools.partial(measure, args), counts)


def measure(args: argparse.Namespace, threads: int) -> None:
    """Every axis for one number of threads."""
    watch = Watch(threads)
    backend = checked_backend(args.backend)
    budget = Budget(args.rounds, args.seconds)
    points = [
        point(with_size(BASE, axis, size), axis, size, backend, budget)
        for axis in args.axes
        for size in AXES[axis][: 2 if args.quick else None]
    ]
    exponents = {axis: exponent([p for p in points if p["axis"] == axis]) for axis in args.axes}
    worst = max(p["ours"]["ratio"] for p in points)
    print(f"worst ratio {worst:.3f} (limit {LIMIT}); time grows like size to the power {exponents}")
    report = {
        "machine": watch.finished(),
        "settings": {
            "backend": backend,
            "spec": str(SPEC),
            "base": dict(zip("TBIH", BASE.sizes, strict=True)),
            "rounds": args.rounds,
            "seconds": args.seconds,
        },
        "limit": LIMIT,
        "worst": worst,
        "exponents": exponents,
        "points": points,
    }
    save(report, args.results / f"growth-{threads}.json")


def point(shape: Shape, axis: str, size: int, backend: str, budget: Budget) -> dict[str, Any]:
    """Both timings at one size, after parity.

    Raises:
        SystemExit: The backend computes something else there.
    """
    try:
        parity.check(LSTM, shape, [SPEC], backend)
    except parity.ParityError as error:
        raise SystemExit(f"no parity, not timed: {axis} = {size}: {error}") from None
    timings = compare(interleave(contenders(LSTM, shape, [SPEC], backend), budget))
    stock, ours = timings.values()
    print(
        f"{axis} = {size:<5} stock {stock['min'] * 1e3:8.2f} ms, ours {ours['min'] * 1e3:8.2f} ms, "
        f"ratio {ours['ratio']:.3f}",
        flush=True,
    )
    return {"axis": axis, "size": size, "stock": stock, "ours": ours}


def exponent(points: list[dict[str, Any]]) -> float:
    """The slope of log time over log size in the upper half of an axis; 1 is linear growth."""
    upper = points[len(points) // 2 :] if len(points) > 3 else points
    xs = [math.log(p["size"]) for p in upper]
    ys = [math.log(p["ours"]["min"]) for p in upper]
    x_mean, y_mean = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    rise = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return rise / math.fsum((x - x_mean) ** 2 for x in xs)


if __name__ == "__main__":
    main()
