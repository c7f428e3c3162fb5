"""What the paper claims of its tables, each with the comparisons that decide it.

Quoted are the paper's words; where it only shows a table, the claim is what the table shows.
"""

from collections.abc import Iterable, Sequence

from recdrop.lab.paper.judging import Claim, Finding, Sight
from recdrop.lab.paper.language_models import RATES, SAMPLINGS, SCHEMES
from recdrop.lab.paper.word_nets import NETS

SIMILAR = {"table2": 3.0, "table3": 0.02}  # ours; Figure 2 against Table 2 shows 2 to 3 points


def _names(scheme: str, forward: bool) -> list[str]:
    """The four cells of a scheme in one half of Tables 2 and 3, per step first."""
    end = "-forward" if forward else ""
    return [f"{scheme}-{how}-{100 * rate:g}{end}" for how in SAMPLINGS for rate in RATES]


def _step_beats_sequence(scheme: str, *halves: bool, equal: bool = False):
    def check(see: Sight) -> list[Finding]:
        found = []
        for half in halves:
            step, sequence = _names(scheme, half)[:2], _names(scheme, half)[2:]
            for one, other in zip(step, sequence, strict=True):
                found.append(see.below(see.of(one), see.of(other), equal=equal))
        return found

    return check


def _similar(table: str, half: bool):
    def check(see: Sight) -> list[Finding]:
        names = _names("ours", half)
        pairs = zip(names[:2], names[2:], strict=True)
        return [see.near(see.of(a), see.of(b), SIMILAR[table]) for a, b in pairs]

    return check


def _ours_cell_by_cell(half: bool):
    def check(see: Sight) -> list[Finding]:
        rivals = zip(_names("moon", half), _names("gal", half), strict=True)
        return [
            see.below(see.of(mine), see.least(others))
            for mine, others in zip(_names("ours", half), rivals, strict=True)
        ]

    return check


def _ours_best_cell(see: Sight) -> list[Finding]:
    best = {s: see.least(n for half in (False, True) for n in _names(s, half)) for s in SCHEMES}
    return [see.below(best["ours"], min(best["moon"], best["gal"]))]


def _forward_beats_recurrent(see: Sight) -> list[Finding]:
    recurrent = see.least(name for scheme in SCHEMES for name in _names(scheme, False))
    return [see.below(see.of("none-forward"), recurrent)]


def _thirty_points(see: Sight) -> list[Finding]:
    found = []
    for half in (False, True):
        for ours, moon in zip(_names("ours", half), _names("moon", half), strict=True):
            gap = see.of(moon) - see.of(ours)
            found.append((gap, Finding(f"{see.of(moon):.1f} - {see.of(ours):.1f}", gap > 30)))
    widest = sorted(found, key=lambda pair: -pair[0])[:2]
    return [finding for _, finding in widest]


def _only_one_that_improves(see: Sight) -> list[Finding]:
    baseline = see.of("none-forward")
    others = [see.below(baseline, see.least(_names(s, True)), equal=True) for s in ("moon", "gal")]
    return [see.below(see.least(_names("ours", True)), baseline), *others]


def _bold_is_best(see: Sight) -> list[Finding]:
    *others, bold = _names("ours", False)
    return [see.below(see.of(bold), see.least(others))]


def _moon_per_step(see: Sight) -> list[Finding]:
    return [
        see.mastered("moon-step-short", "train"),
        see.mastered("moon-step-medium", "train", wanted=False),
    ]


def _moon_per_sequence(see: Sight) -> list[Finding]:
    names = ("moon-sequence-short", "moon-sequence-medium")
    trained = [see.mastered(name, "train") for name in names]
    return trained + [see.mastered(name, "test", wanted=False) for name in names]


def _others_solve_it(see: Sight) -> list[Finding]:
    names = [f"{s}-{how}" for s in ("gal", "ours") for how in SAMPLINGS]
    return [
        see.mastered(f"{name}-{span}", "test") for name in names for span in ("short", "medium")
    ]


def _dropout_helps(*measures: str, nets: Sequence[str] = NETS):
    def check(see: Sight) -> list[Finding]:
        return [
            see.below(see.of(f"{net}-none", measure), see.of(f"{net}-25", measure))
            for measure in measures
            for net in nets
        ]

    return check


def _gain(see: Sight, net: str, measure: str) -> float:
    return see.of(f"{net}-25", measure) - see.of(f"{net}-none", measure)


def _gap(see: Sight, left: float, right: float) -> Finding:
    told = [f"{100 * gain:+.2f}".replace("-", "−") for gain in (left, right)]
    return Finding(f"{told[0]} {'>' if left > right else '≤'} {told[1]}", left > right)


def _more_on_short(see: Sight) -> list[Finding]:
    return [_gap(see, _gain(see, net, "test_stage1"), _gain(see, net, "test")) for net in NETS]


def _lstm_gains_most(see: Sight) -> list[Finding]:
    return [
        _gap(see, _gain(see, "lstm", measure), _gain(see, net, measure))
        for measure in ("test_stage1", "test")
        for net in ("rnn", "gru")
    ]


def _gru_best(see: Sight) -> list[Finding]:
    rivals = [f"{net}-{rate}" for net in NETS for rate in ("none", "25")]
    rivals.remove("gru-25")
    return [
        see.below(max(see.of(cell, measure) for cell in rivals), see.of("gru-25", measure))
        for measure in _SETS
        if measure != "twitter15"
    ]


def _hurts_the_rnn(see: Sight) -> list[Finding]:
    return [see.below(see.of("rnn-25", one), see.of("rnn-none", one)) for one in _SETS]


def _most(holds: Iterable[bool]) -> bool:
    """Whether more than half of the comparisons are so."""
    found = list(holds)
    return 2 * sum(found) > len(found)


def _best_with_dropout(see: Sight) -> list[Finding]:
    plain, dropped = ([see.of(f"{net}-{rate}") for net in NETS] for rate in ("none", "25"))
    return [see.below(max(plain), max(dropped))]


_SETS = ("valid", "livejournal14", "twitter15", "twitter14", "sms13", "sarcasm14")
_STEP_MOON = "“per-step is better when dropping the hidden state directly” (Moon)"
_BETTER = "“our approach shows better results than the alternatives”"
_SIMILAR_TEXT = "per-step and per-sequence are “similar” for this paper's dropout"
_AT_LEAST = "“per-step at least as good and often better” (this paper's dropout)"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "table1",
        "Moon per step learns short sequences and fails on medium ones",
        "training accuracy of 99% or not",
        _moon_per_step,
    ),
    Claim(
        "table1",
        "Moon per sequence trains, and fails in the test",
        "training and test accuracy of 99% or not",
        _moon_per_sequence,
    ),
    Claim(
        "table1",
        "Gal and this paper solve both lengths with either sampling",
        "test accuracy of 99%",
        _others_solve_it,
    ),
    Claim(
        "table2",
        f"{_STEP_MOON}, without forward dropout",
        "per step below per sequence at both rates",
        _step_beats_sequence("moon", False),
    ),
    Claim(
        "table2",
        f"{_STEP_MOON}, with forward dropout",
        "per step below per sequence at both rates",
        _step_beats_sequence("moon", True),
    ),
    Claim(
        "table2",
        "“forward dropout yields better results than any of the three recurrent dropouts”",
        "forward dropout alone below the best recurrent dropout alone",
        _forward_beats_recurrent,
    ),
    Claim(
        "table2",
        "this paper's dropout beats Moon by more than 30 points",
        "in any cell; the two widest gaps",
        _thirty_points,
        enough=any,
    ),
    Claim("table2", f"{_BETTER}: best cell", "best cell below theirs", _ours_best_cell),
    Claim(
        "table2",
        f"{_BETTER}: without forward dropout",
        "cell by cell below the better of Moon and Gal",
        _ours_cell_by_cell(False),
    ),
    Claim(
        "table2",
        f"{_BETTER}: with forward dropout",
        "cell by cell below the better of Moon and Gal",
        _ours_cell_by_cell(True),
    ),
    Claim(
        "table2",
        f"{_SIMILAR_TEXT}, without forward dropout",
        f"within {SIMILAR['table2']:g} points at both rates",
        _similar("table2", False),
    ),
    Claim(
        "table2",
        f"{_SIMILAR_TEXT}, with forward dropout",
        f"within {SIMILAR['table2']:g} points at both rates",
        _similar("table2", True),
    ),
    Claim(
        "table2",
        f"{_AT_LEAST}: words",
        "test, per step no more than per sequence in each pair",
        _step_beats_sequence("ours", False, True, equal=True),
        measure="test",
    ),
    Claim(
        "table2",
        "bold: 0.5 per sequence is this paper's best without forward dropout",
        "below the other three by validation (it is bold by its test)",
        _bold_is_best,
    ),
    Claim(
        "table3",
        "“our approach is the only one that improves over LSTM with forward dropout”",
        "its best cell below forward dropout alone, Moon's and Gal's best not",
        _only_one_that_improves,
    ),
    Claim(
        "table3",
        f"{_SIMILAR_TEXT}, without forward dropout",
        f"within {SIMILAR['table3']:g} bits at both rates",
        _similar("table3", False),
    ),
    Claim(
        "table3",
        f"{_SIMILAR_TEXT}, with forward dropout",
        f"within {SIMILAR['table3']:g} bits at both rates",
        _similar("table3", True),
    ),
    Claim(
        "table3",
        f"{_AT_LEAST}: characters",
        "test, per step no more than per sequence in each pair",
        _step_beats_sequence("ours", False, True, equal=True),
        measure="test",
    ),
    Claim(
        "table4",
        "recurrent dropout improves every net in either stage",
        "F1 of the test set with it above that without, RNN, LSTM and GRU",
        _dropout_helps("test_stage1", "test"),
        measure="test",
    ),
    Claim(
        "table4",
        "the gap between with and without is larger on short sequences",
        "gain in F1 after 5-word pieces above that after 15-word pieces; RNN, LSTM and GRU",
        _more_on_short,
        measure="test",
    ),
    Claim(
        "table4",
        "the gain is larger for the LSTM",
        "gain in F1 of the LSTM above those of RNN and GRU, in either stage",
        _lstm_gains_most,
        measure="test",
    ),
    Claim(
        "table5",
        "recurrent dropout improves LSTM and GRU on every set",
        "mean F1 with it above that without; RNN aside, which the paper shows it to harm",
        _dropout_helps(*_SETS, nets=("lstm", "gru")),
        measure="valid",
    ),
    Claim(
        "table5",
        "the best net has recurrent dropout",
        "best mean F1 on Twitter15 with it above the best without",
        _best_with_dropout,
        measure="twitter15",
    ),
    Claim(
        "table5",
        "the GRU with recurrent dropout is the best net on all sets but Twitter15",
        "its mean F1 above that of the other five cells, on each of those sets",
        _gru_best,
    ),
    Claim(
        "table5",
        "recurrent dropout hurts the plain RNN",
        "mean F1 with it below that without, on most of the six sets",
        _hurts_the_rnn,
        enough=_most,
    ),
)
