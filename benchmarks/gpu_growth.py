"""How time grows with H, B and T on a CUDA device: an LSTM with our dropout beside cuDNN's.

``python -m benchmarks.gpu_growth`` varies one size of the word LM at a time and writes
``benchmarks/results/gpu_growth-<card>.json``, point by point. Otherwise it is as `benchmarks.gpu`.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import KINDS, RATE, SHAPES, slug, with_size
from benchmarks.gpu_card import Card, parsed
from benchmarks.gpu_timing import DTYPES, SPECS, TARGET, check, timed
from benchmarks.machine import RESULTS, SCRATCH, save
from benchmarks.parity import ParityError
from benchmarks.timing import Budget

LSTM, BASE = KINDS["LSTM"], SHAPES["word LM"]
AXES: dict[str, tuple[int, ...]] = {
    "H": (64, 128, 256, 512, 768, 1024, 1536),
    "B": (1, 8, 16, 32, 64, 128, 256),
    "T": (10, 20, 50, 100, 200, 500, 1000),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Raises:
        SystemExit: There is no CUDA device, or ours computed something else somewhere.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_growth", description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--results", type=Path, help="folder for the JSON file")
    parser.add_argument("--trial", action="store_true", help="the path only, on the CPU")
    args, budget = parsed(parser, argv)
    card = Card(args.trial)
    report: dict[str, Any] = {
        "machine": card.described(),
        "settings": {
            "spec": str(SPECS[0]),
            "rate": RATE,
            "base": dict(zip("TBIH", BASE.sizes, strict=True)),
            "passes": args.passes,
            **budget._asdict(),
        },
        "limit": TARGET,
        "points": [],
    }
    whole = not args.trial and args.axes == list(AXES)
    folder = args.results or (RESULTS if whole else SCRATCH)
    wrong = []
    for axis in args.axes:
        sizes = AXES[axis][: 1 if args.trial else None]
        for size, dtype in itertools.product(sizes, DTYPES):
            try:
                report["points"].append(point(card, axis, size, dtype, budget, args.passes))
            except Exception as error:  # whatever it is, the other points may be all right
                kind = "no parity" if isinstance(error, ParityError) else type(error).__name__
                wrong.append(f"LSTM {axis} = {size} {dtype}: {kind}: {error}")
                print(f"not timed: {wrong[-1]}", flush=True)
                card.clock()  # waits, which fails where the device is lost
                continue
            save(report, folder / f"gpu_growth-{slug(card.name)}.json")
    if wrong:
        raise SystemExit("\n".join(["not timed:", *wrong]))


def point(
    card: Card, axis: str, size: int, dtype: str, budget: Budget, passes: int
) -> dict[str, Any]:
    """Both timings at one point of one axis, after parity."""
    shape = card.shape(with_size(BASE, axis, size))
    errors = check(card, LSTM, shape, DTYPES[dtype], SPECS[0])
    timings = timed(card, LSTM, shape, DTYPES[dtype], SPECS[:1], budget, passes)
    stock, ours = timings.values()
    print(
        f"{axis} = {size} {dtype}: cuDNN {stock['min'] * 1e3:.3f} ms, ours {ours['ratio']:.2f} "
        f"times that{'' if ours['ratio'] <= TARGET else ' (MISSED)'}",
        flush=True,
    )
    found = {"axis": axis, "size": size, "dtype": dtype, "stock": stock, "ours": ours}
    return found | {"errors": errors, "clocks": card.clocks()}


if __name__ == "__main__":
    main()
