"""The CoNLL-2000 scorer as its authors define it: one pass, pairs of neighbouring tags, a flag.

Written from the published definition of where a chunk starts and ends between two words, without a
list of spans anywhere. The pairs with E and S are completed as its IOBES versions have them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

Parts = tuple[str, str]  # of a tag: its letter and its kind
Figures = tuple[str, str, str]

# Letters of two neighbours between which a chunk starts or ends, whatever their kinds.
BOTH = {"BB", "IB", "EB", "SB", "BS", "IS", "ES", "SS", "EI", "SI", "EE", "SE"}
STARTS = BOTH | {"OB", "OS", "OI", "OE"}
ENDS = BOTH | {"BO", "IO", "EO", "SO"}


def conlleval(
    gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]
) -> tuple[dict[str, Figures], str]:
    """The figures that are printed: those of all chunks under "", those of each kind under it.

    Each is (precision, recall, F1) to two decimals; then the share of equal tags in percent.
    """
    right, wanted, found = Counter[str](), Counter[str](), Counter[str]()
    tokens = equal = 0
    flag = False  # a chunk that has been right until now
    last = [("O", ""), ("O", "")]
    for theirs, ours in zip(gold, predicted, strict=True):
        for tags in [*zip(theirs, ours, strict=True), None]:  # a border after each sentence
            now = [parted(tag) for tag in tags or ("O", "O")]
            started = [start(a, b) for a, b in zip(last, now, strict=True)]
            ended = [end(a, b) for a, b in zip(last, now, strict=True)]
            if flag and all(ended) and last[0][1] == last[1][1]:
                right[last[0][1]] += 1
                flag = False
            elif flag and (ended[0] != ended[1] or now[0][1] != now[1][1]):
                flag = False
            if all(started) and now[0][1] == now[1][1]:
                flag = True
            wanted[now[0][1]] += started[0]
            found[now[1][1]] += started[1]
            if tags is not None:
                tokens += 1
                equal += now[0] == now[1]
            last = now
    kinds = {kind for kind in wanted | found if kind}
    figures = {kind: printed(right[kind], found[kind], wanted[kind]) for kind in kinds}
    figures[""] = printed(sum(right.values()), sum(found.values()), sum(wanted.values()))
    return figures, f"{100 * equal / tokens:.2f}"


def parted(tag: str) -> Parts:
    letter, _, kind = tag.partition("-")
    return {"L": "E", "U": "S"}.get(letter, letter), kind


def start(before: Parts, now: Parts) -> bool:
    return before[0] + now[0] in STARTS or (now[0] != "O" and before[1] != now[1])


def end(before: Parts, now: Parts) -> bool:
    return before[0] + now[0] in ENDS or (before[0] != "O" and before[1] != now[1])


def printed(right: int, found: int, wanted: int) -> Figures:
    precision = 100 * right / found if found else 0.0
    recall = 100 * right / wanted if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f"{precision:.2f}", f"{recall:.2f}", f"{f1:.2f}"
