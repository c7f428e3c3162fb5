"""Where the time goes: an LSTM's pass against the floor of its bare matrix products.

``python -m benchmarks.floor`` times, in turns, torch's layer, ours with each site and with nothing
dropped, and every product that a pass cannot do without, into memory that is there already: by
`torch.mm` in two layouts of the weights, and by our own kernel, which takes the products of all
steps at once as no recurrence could; the fastest counts. What is left over is the cell, what the
masks add is a difference as well. Writes ``benchmarks/results/floor-<threads>.json``.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import parity
from benchmarks.cases import KINDS, RATE, SHAPES, Pass, Shape, our_layer, schemes, slug, stock_layer
from benchmarks.machine import Watch, in_own_processes, save, thread_counts
from benchmarks.run import add_common, checked_backend, results_folder
from benchmarks.timing import Budget, Plain, Work, interleave
from recdrop import RecurrentDropout
from recdrop.functional import product

LSTM = KINDS["LSTM"]
CASES = ("word LM", "small batch")
PRODUCTS = ("input", "steps forward", "steps backward", "input gradient", "weight gradients")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, each number of threads in its own process."""
    names = {slug(name): name for name in SHAPES}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=names, default=[slug(n) for n in CASES])
    parser.add_argument("--quick", action="store_true", help="2 rounds of the small net")
    add_common(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds, args.cases = 2, 0.0, ["small-net"]
        args.threads = args.threads or ["1"]
    args.cases = [names[name] for name in args.cases]
    args.results = results_folder(args, whole=args.cases == list(CASES))
    counts = thread_counts(args.threads or ["1", "all"])
    in_own_processes(functools.partial(measure, args), counts)


def measure(args: argparse.Namespace, threads: int) -> None:
    """Every case for one number of threads."""
    watch = Watch(threads)
    backend = checked_backend(args.backend)
    budget = Budget(args.rounds, args.seconds)
    results = [split(case, backend, budget) for case in args.cases]
    report = {
        "machine": watch.finished(),
        "settings": {"backend": backend, "rate": RATE, **budget._asdict()},
        "results": results,
    }
    save(report, args.results / f"floor-{threads}.json")


def split(case: str, backend: str, budget: Budget) -> dict[str, Any]:
    """The parts of one case in seconds, after parity.

    Raises:
        SystemExit: The backend computes something else.
    """
    shape = SHAPES[case]
    per_step = [spec for spec in schemes(LSTM) if spec.sampling == "step"]
    try:
        parity.check(LSTM, shape, per_step, backend)
    except parity.ParityError as error:
        raise SystemExit(f"no parity, not timed: {case}: {error}") from None
    bare = products(shape)
    work = passes(shape, per_step, backend) | {
        f"{name}/{layout}": Plain(run)
        for name, layouts in bare.items()
        for layout, run in enumerate(layouts)
    }
    minima = {name: min(seconds) for name, seconds in interleave(work, budget).items()}
    floor = {
        name: min(minima[f"{name}/{layout}"] for layout in range(len(layouts)))
        for name, layouts in bare.items()
    }
    result = {
        "case": case,
        "shape": dict(zip("TBIH", shape.sizes, strict=True)),
        "floor": {name: floor[name] for name in PRODUCTS},
        "calls": floor["calls"],
        "measured": {name: seconds for name, seconds in minima.items() if "/" not in name},
    }
    result |= {"parts": parts(result), "operators": operators(shape, per_step[0], backend)}
    print_result(result)
    return result


def parts(result: dict[str, Any]) -> dict[str, float]:
    """The pass as a sum: products, then what each difference of timings leaves."""
    floor, measured = result["floor"], result["measured"]
    forward = floor["input"] + floor["steps forward"]
    backward = sum(floor.values()) - forward
    plain, plain_forward = measured["ours"], measured["ours, forward"]
    return floor | {
        "cell forward": plain_forward - forward,
        "cell backward": plain - plain_forward - backward,
        "masks": measured["update"] - plain,
    }


def passes(shape: Shape, specs: list[RecurrentDropout], backend: str) -> dict[str, Work]:
    """Whole passes and forward halves of torch's layer and ours, and ours with each scheme."""
    stock = Pass(stock_layer(LSTM, shape), LSTM, shape)
    ours = Pass(our_layer(LSTM, shape, backend), LSTM, shape)
    work: dict[str, Work] = {
        "stock": stock,
        "stock, forward": Plain(stock.forward),
        "ours": ours,
        "ours, forward": Plain(ours.forward),
    }
    for spec in specs:
        work[spec.site] = Pass(our_layer(LSTM, shape, backend, spec), LSTM, shape)
    return work


def products(shape: Shape) -> dict[str, list[Callable[[], object]]]:
    """The matrix products of one pass, each in every layout worth trying.

    The one called ``calls`` is T products of single numbers: what calling costs by itself, which
    the two products of a step contain as well.
    """
    steps, batch, inputs, hidden = shape.sizes
    x, w_ih = torch.randn(steps * batch, inputs), torch.randn(4 * hidden, inputs)
    h, w_hh = torch.randn(steps, batch, hidden), torch.randn(4 * hidden, hidden)
    gates = torch.randn(steps, batch, 4 * hidden)
    flat, flat_h = gates.flatten(0, 1), h.flatten(0, 1)
    both = ((flat.T, x), (flat.T, flat_h))
    one = torch.ones(1, 1)

    def each(rows: Tensor, weight: Tensor) -> Callable[[], object]:
        ins = list(rows)
        outs = list(rows.new_empty(steps, rows.shape[1], weight.shape[1]))
        return lambda: [torch.mm(a, weight, out=o) for a, o in zip(ins, outs, strict=True)]

    def once(*pairs: tuple[Tensor, Tensor]) -> Callable[[], object]:
        outs = [a.new_empty(a.shape[0], b.shape[1]) for a, b in pairs]
        return lambda: [torch.mm(a, b, out=o) for (a, b), o in zip(pairs, outs, strict=True)]

    def own(*pairs: tuple[Tensor, Tensor]) -> Callable[[], object]:
        outs = [a.new_empty(a.shape[0], b.shape[1]) for a, b in pairs]
        return lambda: [product(o, a, b) for (a, b), o in zip(pairs, outs, strict=True)]

    def packed(weight: Tensor) -> Tensor:
        return weight.T.contiguous().T  # the same matrix, column by column

    return {
        "input": [once((x, w_ih.T)), once((x, packed(w_ih).T)), own((x, w_ih.T))],
        "steps forward": [each(h, w_hh.T), each(h, packed(w_hh).T), own((flat_h, w_hh.T))],
        "steps backward": [each(gates, w_hh), each(gates, packed(w_hh)), own((flat, w_hh))],
        "input gradient": [once((flat, w_ih)), once((flat, packed(w_ih))), own((flat, w_ih))],
        "weight gradients": [once(*both), own(*both), own(*((b.T, a.T) for a, b in both))],
        "calls": [each(one.expand(steps, 1, 1), one)],
    }


def operators(shape: Shape, spec: RecurrentDropout, backend: str) -> list[dict[str, Any]]:
    """The operators that take most of one pass by torch's profiler, slowest first."""
    timed = Pass(our_layer(LSTM, shape, backend, spec), LSTM, shape)
    timed.run()
    timed.prepare()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        timed.run()
    events = sorted(profiler.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True)
    return [
        {"name": e.key, "calls": e.count, "seconds": e.self_cpu_time_total / 1e6}
        for e in events[:8]
    ]


def print_result(result: dict[str, Any]) -> None:
    """The parts in milliseconds and as shares of the pass."""
    whole = result["measured"]["update"]
    print(
        f"{result['case']}: update per step {whole * 1e3:.2f} ms, "
        f"stock {result['measured']['stock'] * 1e3:.2f} ms, "
        f"floor {sum(result['floor'].values()) * 1e3:.2f} ms"
    )
    for name, seconds in result["parts"].items():
        print(f"{name:>18} {seconds * 1e3:8.2f} ms {seconds / whole:6.1%}")


if __name__ == "__main__":
    main()
