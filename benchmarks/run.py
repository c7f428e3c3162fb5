"""What recurrent dropout costs: forward and backward against torch's layers without any.

``python -m benchmarks.run`` measures everything, for one thread and for all cores, and writes
``benchmarks/results/cpu-<threads>.json``. Parity comes first: nothing is timed before every
configuration has been shown to compute the right thing. Nothing else should run on the machine.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import parity
from benchmarks.cases import (
    ALL_SITES,
    KINDS,
    RATE,
    SHAPES,
    Kind,
    Pass,
    Shape,
    our_layer,
    schemes,
    slug,
    stock_layer,
)
from benchmarks.machine import RESULTS, SCRATCH, Watch, in_own_processes, save, thread_counts
from benchmarks.timing import Budget, compare, geometric_mean, interleave
from recdrop import RecurrentDropout
from recdrop.backends import BACKENDS

ROUNDS = 15  # fewer are a trial


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, each number of threads in its own process."""
    args = parse(argv)
    in_own_processes(functools.partial(measure, args), thread_counts(args.threads))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with names in place of slugs and every default filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    kinds, shapes = ({slug(name): name for name in names} for names in (KINDS, SHAPES))
    parser.add_argument("--cells", nargs="+", choices=kinds, metavar="CELL", help=", ".join(kinds))
    parser.add_argument("--cases", nargs="+", choices=shapes, metavar="C", help=", ".join(shapes))
    parser.add_argument("--sites", nargs="+", choices=ALL_SITES)
    parser.add_argument("--quick", action="store_true", help="3 rounds of one case: a smoke test")
    add_common(parser)
    args = parser.parse_args(argv)
    whole = not (args.cells or args.cases or args.sites)
    if args.quick:
        args.rounds, args.seconds = 3, 0.0
        args.cells = args.cells or ["lstm"]
        args.cases = args.cases or ["small-net"]
        args.threads = args.threads or ["1"]
    args.threads = args.threads or ["1", "all"]
    args.cells = [kinds[name] for name in args.cells or kinds]
    args.cases = [shapes[name] for name in args.cases or shapes]
    args.sites = tuple(args.sites or ALL_SITES)
    args.results = results_folder(args, whole)
    return args


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every program here has."""
    parser.add_argument("--backend", default="native", help="what is timed (native)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at least ({ROUNDS})")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="and for each group at least this long (2)"
    )
    parser.add_argument("--threads", nargs="+", help="numbers, or all (1 all)")
    parser.add_argument("--results", type=Path, help="folder for the JSON files")


def results_folder(args: argparse.Namespace, whole: bool) -> Path:
    """``--results``; else the committed folder for nothing less than what a page may show."""
    whole = whole and args.backend == "native" and args.rounds >= ROUNDS
    return args.results or (RESULTS if whole else SCRATCH)


def checked_backend(name: str) -> str:
    """The backend to be timed.

    Raises:
        SystemExit: There is no such backend, or it cannot run on this machine.
    """
    if name not in BACKENDS:
        raise SystemExit(f"there is no backend {name!r}; --backend takes {', '.join(BACKENDS)}")
    missing = BACKENDS[name].missing()
    if missing is not None:
        raise SystemExit(f"{name} cannot run here: {missing}")
    return name


def measure(args: argparse.Namespace, threads: int) -> None:
    """Everything for one number of threads: parity, timings, summary, JSON."""
    watch = Watch(threads)
    cells = [cell for cell in args.cells if schemes(KINDS[cell], args.sites)]
    pairs = [(cell, case) for cell in cells for case in args.cases]
    backend = checked_backend(args.backend)
    errors = check_all(pairs, args.sites, backend)
    budget = Budget(args.rounds, args.seconds)
    results = [time_pair(*pair, args.sites, backend, budget) for pair in pairs]
    summaries = summarise(results)
    report = {
        "machine": watch.finished(),
        "settings": {
            "backend": backend,
            "rate": RATE,
            "rounds": args.rounds,
            "seconds": args.seconds,
        },
        "parity": {"checked": len(errors), "largest_error": max(errors)},
        "results": results,
        "summary": summaries,
    }
    print_summary(summaries)
    save(report, args.results / f"cpu-{threads}.json")


def check_all(pairs: list[tuple[str, str]], sites: tuple[Any, ...], backend: str) -> list[float]:
    """Parity of every pair, or the end of the program.

    Raises:
        SystemExit: Some pair differs, or there is none.
    """
    if not pairs:
        raise SystemExit("nothing to measure: none of these cells drops at these sites")
    errors = []
    for cell, case in pairs:
        kind = KINDS[cell]
        try:
            errors.append(parity.check(kind, SHAPES[case], schemes(kind, sites), backend))
        except parity.ParityError as error:
            raise SystemExit(f"no parity, nothing timed: {cell}, {case}: {error}") from None
    print(f"parity: {len(pairs)} pairs of cell and case, largest error {max(errors):.2g}")
    return errors


def contenders(
    kind: Kind, shape: Shape, specs: list[RecurrentDropout], backend: str
) -> dict[str, Pass]:
    """The layer of torch first, then ours with each scheme, all on the same input and weights."""
    layers = {"stock": stock_layer(kind, shape)}
    layers |= {f"{s.site} per {s.sampling}": our_layer(kind, shape, backend, s) for s in specs}
    return {name: Pass(layer, kind, shape) for name, layer in layers.items()}


def time_pair(
    cell: str, case: str, sites: tuple[Any, ...], backend: str, budget: Budget
) -> dict[str, Any]:
    """Timings of one cell at one case, stock and every scheme in turns."""
    kind, shape = KINDS[cell], SHAPES[case]
    specs = schemes(kind, sites)
    timings = compare(interleave(contenders(kind, shape, specs, backend), budget))
    stock = timings.pop("stock")
    ratios = "  ".join(f"{name} {timing['ratio']:.2f}" for name, timing in timings.items())
    print(f"{cell:>18}, {case:<15}stock {stock['min'] * 1e3:8.2f} ms  {ratios}", flush=True)
    variants = [
        {"site": spec.site, "sampling": spec.sampling, **timing}
        for spec, timing in zip(specs, timings.values(), strict=True)
    ]
    sizes = dict(zip("TBIH", shape.sizes, strict=True))
    timed = {key: stock[key] for key in ("min", "median", "rounds")}
    return {"cell": cell, "case": case, "shape": sizes, "stock": timed, "variants": variants}


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean and worst ratio of each cell, beside the targets."""
    summaries = []
    for cell in dict.fromkeys(result["cell"] for result in results):
        ratios = {
            f"{r['case']}, {v['site']} per {v['sampling']}": v["ratio"]
            for r in results
            if r["cell"] == cell
            for v in r["variants"]
        }
        kind = KINDS[cell]
        where = max(ratios, key=lambda name: ratios[name])
        mean, worst = geometric_mean(ratios.values()), ratios[where]
        summaries.append(
            {
                "cell": cell,
                "mean": mean,
                "mean_target": kind.mean,
                "worst": worst,
                "worst_at": where,
                "worst_target": kind.worst,
                "met": mean <= kind.mean and (kind.worst is None or worst <= kind.worst),
            }
        )
    return summaries


def print_summary(summaries: list[dict[str, Any]]) -> None:
    """One line for each cell: what was reached beside what was asked."""
    for s in summaries:
        limit = "" if s["worst_target"] is None else f" (target {s['worst_target']:.2f})"
        print(
            f"{s['cell']:>18}  geometric mean {s['mean']:.3f} (target {s['mean_target']:.2f}), "
            f"worst {s['worst']:.3f}{limit} at {s['worst_at']}: {'met' if s['met'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
