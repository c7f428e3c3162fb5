"""Interleaved timing: contenders take turns, so that a busy moment of the machine hits them all."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypedDict


class Work(Protocol):
    """Something to be timed; only ``run`` counts."""

    def prepare(self) -> None:
        """What has to happen before each run."""
        ...

    def run(self) -> None:
        """The work."""
        ...


class Plain:
    """Work without preparation.

    Args:
        function: The work.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def prepare(self) -> None:
        """Nothing."""

    def run(self) -> None:
        """The function, whose result is dropped inside the timing."""
        self.function()


class Budget(NamedTuple):
    """How often to measure.

    Attributes:
        rounds: At least this often.
        seconds: And for at least this long, as short work needs more rounds for a steady minimum;
            but never more than 20 times ``rounds``.
    """

    rounds: int = 15
    seconds: float = 2.0


class Timing(TypedDict):
    """Seconds of one contender, and their ratio to the first one's: of minima, and of medians."""

    min: float
    median: float
    rounds: int
    ratio: float
    ratio_of_medians: float


def interleave(
    contenders: Mapping[str, Work],
    budget: Budget,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every run, contenders in turns; see `turns`."""

    def timed(work: Work) -> float:
        work.prepare()
        start = clock()
        work.run()
        return clock() - start

    return turns({name: partial(timed, work) for name, work in contenders.items()}, budget)


def turns(contenders: Mapping[str, Callable[[], float]], budget: Budget) -> dict[str, list[float]]:
    """Seconds of every run: all contenders once, then all again, after one round of warming up.

    Each round has an order of its own, drawn at random but always the same: nobody always runs
    behind the same other, who leaves caches and the allocator as he needs them.

    Args:
        contenders: Each runs once and returns its seconds.
        budget: How many rounds.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order, draw = list(contenders), random.Random(0)  # noqa: S311  an order, no secret
    gc.collect()
    gc.disable()  # as timeit does: a collection would hit whoever is at work
    try:
        start = time.monotonic()
        for done in range(20 * budget.rounds):
            if done >= budget.rounds and time.monotonic() - start >= budget.seconds:
                break
            draw.shuffle(order)
            for name in order:
                seconds[name].append(contenders[name]())
    finally:
        gc.enable()
    return seconds


def compare(seconds: Mapping[str, list[float]]) -> dict[str, Timing]:
    """Minima, medians and their ratios to the first contender's."""
    first = next(iter(seconds.values()))
    return {
        name: Timing(
            min=min(own),
            median=statistics.median(own),
            rounds=len(own),
            ratio=min(own) / min(first),
            ratio_of_medians=statistics.median(own) / statistics.median(first),
        )
        for name, own in seconds.items()
    }


def geometric_mean(ratios: Iterable[float]) -> float:
    """The mean that treats 2 and 1/2 as opposites."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logs) / len(logs))
