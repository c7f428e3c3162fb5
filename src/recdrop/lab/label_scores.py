"""How well labels were predicted."""

from collections.abc import Sequence

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


def mean_f1(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] = SEMEVAL
) -> float:
    """The mean F1 of some labels, from 0 to 1; by default SemEval's measure of sentiment.

    A label that is left out counts where it is taken for another: the predictions are all there.

    Args:
        gold: The right labels.
        predicted: As many.
        labels: At least one.
    """
    return sum(f1_of(gold, predicted, label) for label in labels) / len(labels)


def labels_to_score(labels: Sequence[str]) -> tuple[str, ...]:
    """Those that `mean_f1` is of: positive and negative if both are there, else all (macro F1)."""
    return SEMEVAL if set(SEMEVAL).issubset(labels) else tuple(labels)
