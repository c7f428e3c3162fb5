"""What the paper says of its tables, held against its own numbers and against ours.

Each claim is judged on scores alone, so that the same few lines judge both. The claims themselves:
`recdrop.lab.paper.claims`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from recdrop.lab.paper.grid import AnyTable, TableName, number

Scores = Mapping[str, Mapping[str, float]]

MASTERED = 0.99  # ours; chance is 0.25, and nothing in Table 1 lies between


class Finding(NamedTuple):
    """One comparison that a claim rests on.

    Attributes:
        told: With its numbers.
        holds: Whether it is so.
    """

    told: str
    holds: bool


class Verdict(NamedTuple):
    """What became of a claim.

    Attributes:
        holds: None where scores are missing.
        told: The comparisons, or which cells were not run.
    """

    holds: bool | None
    told: str


class Sight:
    """Scores as a claim sees them; what is missing is remembered.

    Args:
        table: How scores are told.
        scores: By cell and measure.
        measure: The one that is looked at.
    """

    def __init__(self, table: AnyTable, scores: Scores, measure: str) -> None:
        self._table, self._scores, self._measure = table, scores, measure
        self.missing: list[str] = []

    def of(self, cell: str, measure: str | None = None) -> float:
        """A score; NaN, and remembered, where there is none."""
        score = self._scores.get(cell, {}).get(measure or self._measure)
        if score is None and cell not in self.missing:
            self.missing.append(cell)
        return math.nan if score is None else score

    def least(self, cells: Iterable[str]) -> float:
        """The best of several, which all have to be there."""
        return min([self.of(cell) for cell in cells])

    def below(self, left: float, right: float, *, equal: bool = False) -> Finding:
        """Whether left is less than right, or no more."""
        holds = left <= right if equal else left < right
        sign = ("≤" if equal else "<") if holds else (">" if equal else "≥")
        return Finding(f"{self._table.told(left)} {sign} {self._table.told(right)}", holds)

    def near(self, left: float, right: float, margin: float) -> Finding:
        """Whether two scores are within a margin, its edge included."""
        told = f"{self._table.told(left)}, {self._table.told(right)}"
        return Finding(told, round(abs(left - right), 9) <= margin)

    def mastered(self, cell: str, measure: str, wanted: bool = True) -> Finding:
        """Whether an accuracy is that of a solved task, or whether it is not."""
        score = self.of(cell, measure)
        told = f"{cell} {measure} {self._table.told(score) if score == score else '-'}"
        return Finding(told, (score >= MASTERED) is wanted)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        table: Where its numbers stand.
        text: The paper's words in quotation marks, and what they are said of.
        reading: How it is judged.
        check: The comparisons.
        enough: Whether all of them must hold, or any.
        measure: Which score is compared.
    """

    table: TableName
    text: str
    reading: str
    check: Callable[[Sight], list[Finding]]
    enough: Callable[[Iterable[bool]], bool] = all
    measure: str = "valid"


def judge(claim: Claim, table: AnyTable, scores: Scores) -> Verdict:
    """Whether a claim holds on some scores.

    Args:
        claim: The claim.
        table: Its table.
        scores: By cell and measure; one that misses a cell of the claim leaves it open.
    """
    sight = Sight(table, scores, claim.measure)
    findings = claim.check(sight)
    if sight.missing:
        shown = sight.missing[:3]
        rest = len(sight.missing) - len(shown)
        return Verdict(None, f"missing: {', '.join(shown)}{f' and {rest} more' if rest else ''}")
    told = "; ".join(finding.told for finding in findings)
    return Verdict(claim.enough(finding.holds for finding in findings), told)


def printed_scores(table: AnyTable) -> dict[str, dict[str, float]]:
    """The paper's own numbers of a table."""
    return {
        cell.name: {key: number(text) for key, text in table.printed(cell).items()}
        for cell in table.cells([])
    }
