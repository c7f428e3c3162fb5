"""Runs that belong to no table, as text: all of them in one table, and what there is of each."""

from collections.abc import Iterator, Sequence

from recdrop.lab.config import UNNAMED
from recdrop.lab.progress import MEASURES, duration, own_measure
from recdrop.lab.results import RunReport
from recdrop.lab.text import unknown_shares
from recdrop.lab.vocabulary import UNKNOWN
from recdrop.lab.wording import best_epoch

OVERVIEW = ("run", "task", "score", "valid", "test", "best epoch")


def heading(one: RunReport) -> str:
    """What tells a run from the others: its folder, its task, and the name if it was given one."""
    told = one.run.task if one.run.name == UNNAMED else f"{one.run.task}, {one.run.name}"
    return told if one.place == "." else f"{one.place} ({told})"


def overview(runs: Sequence[RunReport]) -> list[tuple[str, ...]]:
    """A row of `OVERVIEW` for each run; none at all where there is nothing to compare."""
    return [_row(one) for one in runs] if len(runs) > 1 else []


def _row(one: RunReport) -> tuple[str, ...]:
    measure = MEASURES[one.run.task]
    if one.result is None:
        return one.place, one.run.task, measure.name, one.status, "-", "-"
    scores = one.result.outcome.scores
    told = (measure.told(scores[name]) if name in scores else "-" for name in ("valid", "test"))
    return one.place, one.run.task, measure.name, *told, _best(one)


def _best(one: RunReport) -> str:
    """Such as ``12 of 37``; the update where no look of the log is known to be it."""
    told = best_epoch([one])
    if told == "-" and one.result is not None and one.result.outcome.best_update is not None:
        return f"update {one.result.outcome.best_update:,}"
    return told


def facts(one: RunReport) -> Iterator[tuple[str, str]]:
    """Name and text of everything that is known of a run, the measure beside each score."""
    yield "status", one.status
    yield "seed", str(one.run.seed)
    if one.result is None:
        return
    outcome = one.result.outcome
    for name, score in sorted(outcome.scores.items()):
        yield _score(one, name, score)
    if unknown := unknown_shares(one.sources or {}):
        yield UNKNOWN, unknown
    yield "best epoch", _best(one)
    yield "updates", f"{outcome.updates:,}"
    yield "epochs", f"{outcome.epochs:,}"
    yield "ended by", outcome.stopped_by
    yield "time", duration(one.result.seconds)


def _score(one: RunReport, name: str, score: float) -> tuple[str, str]:
    measure = MEASURES[one.run.task]
    if own_measure(name) is not None:
        return name, f"{score:.2%}"
    return f"{name}, {measure.training if name == 'train' else measure.name}", measure.told(score)
