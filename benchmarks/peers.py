"""Recurrent dropout elsewhere: one table of an LSTM's forward and backward, everyone at rate 0.25.

``python -m benchmarks.peers`` measures torch's layer without recurrent dropout, recdrop, two plain
loops, and whichever of Keras 3 (on torch, on JAX) and Flax is installed; none is a dependency. Each
contender lives in a process of its own, bound to the same cores, and they take turns. Writes
``benchmarks/results/peers-<threads>.json``.
"""

import argparse
import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import RATE, SHAPES, Shape, slug
from benchmarks.contenders import CONTENDERS, MissingPeerError, Peer
from benchmarks.machine import RESULTS, SCRATCH, Watch, save, thread_counts
from benchmarks.run import ROUNDS
from benchmarks.timing import Budget, compare, turns

CASES = ("word LM", "small batch", "time series")
TINY = Shape(6, 4, 5, 8)
PACKAGES = ("torch", "keras", "jax", "jaxlib", "flax")
PAUSE = 0.01  # s; a pool of threads may spin for a moment after its work


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    args = parse(argv)
    for threads in thread_counts(args.threads):
        watch = Watch(threads)
        results = [
            measure(case, shape, args.only, threads, args.budget)
            for case, shape in args.shapes.items()
        ]
        settings = {"rate": RATE, **args.budget._asdict()}
        where = watch.finished() | {"packages": _versions()}
        report = {"machine": where, "settings": settings, "results": results}
        save(report, args.results / f"peers-{threads}.json")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with ``shapes`` and ``budget`` made of it."""
    shapes = {slug(name): name for name in SHAPES}
    rivals = {slug(name): name for name in CONTENDERS if name != "stock"}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=shapes, default=[slug(n) for n in CASES])
    parser.add_argument("--only", nargs="+", choices=rivals, help="some of the contenders")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", nargs="+")
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    parser.add_argument("--quick", action="store_true", help="2 rounds at a tiny size")
    args = parser.parse_args(argv)
    whole = not (args.quick or args.only) and args.cases == [slug(name) for name in CASES]
    whole = whole and args.rounds >= ROUNDS
    args.results = args.results or (RESULTS if whole else SCRATCH)
    args.only = ["stock", *(rivals[name] for name in args.only or rivals)]
    args.threads = args.threads or (["1"] if args.quick else ["1", "all"])
    args.budget = Budget(2, 0.0) if args.quick else Budget(args.rounds, args.seconds)
    chosen = {shapes[name]: SHAPES[shapes[name]] for name in args.cases}
    args.shapes = {"tiny": TINY} if args.quick else chosen
    return args


def measure(
    case: str, shape: Shape, names: list[str], threads: int, budget: Budget
) -> dict[str, Any]:
    """One case: everyone who is there in turns; who is not says why."""
    remotes = {name: Remote(name, shape, threads) for name in names}
    try:
        missing = {name: why for name, r in remotes.items() if (why := r.missing()) is not None}
        present = {name: r.seconds for name, r in remotes.items() if name not in missing}
        timings = compare(turns(present, budget))
    finally:
        for remote in remotes.values():
            remote.close()
    print(f"{case}:")
    for name, timing in timings.items():
        print(f"{name:>26} {timing['min'] * 1e3:9.2f} ms, {timing['ratio']:6.2f} of stock")
    for name, why in missing.items():
        print(f"{name:>26} not measured: {why}")
    rows = {name: {"scheme": CONTENDERS[name].scheme, **timing} for name, timing in timings.items()}
    sizes = dict(zip("TBIH", shape.sizes, strict=True))
    return {"case": case, "shape": sizes, "timings": rows, "missing": missing}


class Remote:
    """A contender in a process of its own.

    Args:
        name: Which.
        shape: What it computes.
        threads: How many cores it may use.
    """

    def __init__(self, name: str, shape: Shape, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, shape, threads))
        self.process.start()
        theirs.close()

    def missing(self) -> str | None:
        """Why it is not there, once it is built; None if it is.

        Raises:
            EOFError: Its process failed, and has printed why.
        """
        return self.connection.recv()

    def seconds(self) -> float:
        """One run, as its own process times it."""
        time.sleep(PAUSE)
        self.connection.send("run")
        return self.connection.recv()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join()


def serve(connection: Connection, name: str, shape: Shape, threads: int) -> None:
    """The process of a contender: build it, say why not or None, then run on every message."""
    if hasattr(os, "sched_setaffinity"):  # JAX has no other switch for its number of threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    try:
        peer = CONTENDERS[name].build(shape)
    except MissingPeerError as error:
        connection.send(str(error))
        return
    check(peer, shape, drops=bool(CONTENDERS[name].scheme))
    connection.send(None)
    while True:
        try:
            connection.recv()
        except EOFError:  # closed: no more runs
            return
        peer.prepare()
        start = time.perf_counter()
        peer.run()
        connection.send(time.perf_counter() - start)


def check(peer: Peer, shape: Shape, drops: bool) -> None:
    """Two passes, which also compile what is to be compiled: the right size, and fresh masks.

    Raises:
        RuntimeError: The output has another size, or differs (not) between the passes.
    """
    outputs = []
    for _ in range(2):
        peer.prepare()
        peer.run()
        outputs.append(torch.tensor(peer.output.tolist()))
    if outputs[0].numel() != shape.steps * shape.batch * shape.hidden:
        raise RuntimeError(f"output has shape {list(outputs[0].shape)}")
    if torch.equal(*outputs) == drops:
        raise RuntimeError(f"two passes should {'not ' if drops else ''}be the same")


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


if __name__ == "__main__":
    main()
