"""How well labels were predicted."""

from collections.abc import Iterable, Sequence

SEMEVAL = ("positive", "negative")
"""The labels whose F1 SemEval averages."""


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The share of labels that are right, from 0 to 1; of none it is 0."""
    right = sum(g == p for g, p in zip(gold, predicted, strict=True))
    return right / max(1, len(gold))


def f1_of(gold: Sequence[str], predicted: Sequence[str], label: str) -> float:
    """F1 of one label, from 0 to 1; where it is neither there nor predicted it is 0.

    Args:
        gold: The right labels.
        predicted: As many.
        label: The one that is looked for.
    """
    hits = sum(g == p == label for g, p in zip(gold, predicted, strict=True))
    told = sum(g == label for g in gold) + sum(p == label for p in predicted)
    return 2 * hits / told if told else 0.0


def mean_f1(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    """The mean F1 of `labels_to_score`, from 0 to 1; of none it is 0.

    A label that is left out counts where it is taken for another: the predictions are all there.

    Args:
        gold: The right labels.
        predicted: As many.
        labels: That the net knows.
    """
    scored = labels_to_score(gold, predicted, labels)
    return sum(f1_of(gold, predicted, label) for label in scored) / max(1, len(scored))


def labels_to_score(
    gold: Iterable[str], predicted: Iterable[str], labels: Iterable[str]
) -> tuple[str, ...]:
    """Those that `mean_f1` is of, as far as they occur in ``gold`` or ``predicted``.

    Positive and negative if the net knows both and there is one, SemEval's measure of sentiment;
    else all, macro F1.
    """
    labels, occurring = tuple(labels), {*gold, *predicted}
    semeval = set(SEMEVAL).issubset(labels) and not occurring.isdisjoint(SEMEVAL)
    return tuple(label for label in (SEMEVAL if semeval else labels) if label in occurring)
