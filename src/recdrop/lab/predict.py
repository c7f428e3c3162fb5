"""Tags and labels of new texts by trained nets, with how sure they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

import recdrop
from recdrop.lab.conll import Entity, entities
from recdrop.lab.errors import BadInput
from recdrop.lab.labelled import labels_of, read_labelled
from recdrop.lab.labelled_tables import Labelled
from recdrop.lab.tasks.ner import Sentences, TaggerNet
from recdrop.lab.tasks.reading import words_of
from recdrop.lab.tasks.rows import AT_A_TIME
from recdrop.lab.tasks.sentiment import ClassifierNet, Texts
from recdrop.lab.trained import TrainedClassifier, TrainedTagger


class Tagged(NamedTuple):
    """A sentence as the tagger sees it.

    Attributes:
        words: As they were given.
        tags: One for each word, in the run's scheme.
        sure: Probability of each tag.
        entropy: Of each word's tags, in nats; none unless nets were sampled.
        information: The part of it that the nets disagree about; see `recdrop.mc_dropout`.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    sure: tuple[float, ...]
    entropy: tuple[float, ...] = ()
    information: tuple[float, ...] = ()

    @property
    def entities(self) -> list[Entity]:
        """The names that the tags tell."""
        return entities(self.tags)


class Classified(NamedTuple):
    """A text as the classifier sees it.

    Attributes:
        label: The likeliest.
        probabilities: Of every label, by name.
        spread: Their standard deviations over sampled nets, by name; none unless such were.
        entropy: Of the probabilities, in nats; None likewise.
        information: The part of it that the nets disagree about; None likewise.
    """

    label: str
    probabilities: dict[str, float]
    spread: dict[str, float]
    entropy: float | None = None
    information: float | None = None


def tag(
    trained: TrainedTagger, sentences: Sequence[Sequence[str]], samples: int = 0, seed: int = 0
) -> list[Tagged]:
    """Tag sentences.

    Args:
        trained: See `recdrop.lab.trained.open_tagger`.
        sentences: Words of each, at least one.
        samples: Nets with other masks to ask; 0 asks the net without dropout.
        seed: Where the masks come from.

    Raises:
        BadInput: Nets are to be asked, and the run drops nothing.
    """
    rows = Sentences.of(sentences, trained.words, trained.run.model.window)
    shape = (len(rows.ids), len(trained.tags))
    probabilities, doubt = torch.zeros(shape), torch.zeros(len(rows.ids), 2)
    for places, asked in rows.batches(trained.run.model.window, _most(samples)):
        answer = _asked(trained.net, asked, samples, seed)
        probabilities[places] = answer.mean
        if answer.doubt is not None:
            doubt[places] = answer.doubt
    told = []
    for words, row, more in zip(sentences, rows.cut(probabilities), rows.cut(doubt), strict=True):
        sure, best = row.max(-1)
        entropy, information = (tuple(more[:, i].tolist()) if samples else () for i in (0, 1))
        tags = tuple(trained.tags[int(i)] for i in best)
        told.append(Tagged(tuple(words), tags, tuple(sure.tolist()), entropy, information))
    return told


def classify(
    trained: TrainedClassifier,
    texts: Sequence[str],
    samples: int = 0,
    seed: int = 0,
    *,
    together: bool = False,
) -> list[Classified]:
    """Label texts.

    Args:
        trained: See `recdrop.lab.trained.open_classifier`.
        texts: Any; they become words as the run's own did.
        samples: Nets with other masks to ask; 0 asks the net without dropout.
        seed: Where the masks come from.
        together: Sample nets for many texts at a time, which is faster; a text's masks then depend
            on those beside it.

    Raises:
        BadInput: Nets are to be asked, and the run drops nothing.
    """
    rows = Texts.of(words_of(texts, trained.run.data), trained.words)
    names = trained.labels
    told: dict[int, Classified] = {}
    for numbers, asked in rows.batches(_most(samples, together=together)):
        answer = _asked(trained.net, asked, samples, seed)
        for i, number in enumerate(numbers.tolist()):
            mean = answer.mean[i]
            told[number] = Classified(
                names[int(mean.argmax())],
                _named(names, mean),
                {} if answer.spread is None else _named(names, answer.spread[i]),
                *(() if answer.doubt is None else answer.doubt[i].tolist()),
            )
    return [told[number] for number in range(len(texts))]


def labelled_for(trained: TrainedClassifier, path: Path) -> list[Labelled]:
    """Labelled texts that a classifier can be measured on.

    Raises:
        BadInput: They are refused, or have labels that it has not.
        StorageFailed: The system refused to read.
    """
    how = trained.run.data
    rows = read_labelled(path, how.text_column, how.label_column)
    strange = sorted(set(labels_of(rows)) - set(trained.labels))
    if strange:
        raise BadInput(
            f"{path} has labels that the run has not: {', '.join(strange)}; it has "
            f"{', '.join(trained.labels)}"
        )
    return rows


def _most(samples: int, *, together: bool = False) -> int:
    """Rows at a time: masks are each row's own, so one alone has the same whoever is beside it."""
    return AT_A_TIME if together or not samples else 1


def _named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


class _Answer(NamedTuple):
    """Probabilities [N, K], and where nets were sampled their spread and doubt [N, 2]."""

    mean: Tensor
    spread: Tensor | None = None
    doubt: Tensor | None = None


def _asked(
    net: TaggerNet | ClassifierNet, inputs: tuple[Tensor, ...], samples: int, seed: int
) -> _Answer:
    if not samples:
        with torch.no_grad():
            output = net(*inputs)
        return _Answer((output if isinstance(output, Tensor) else output.data).softmax(-1))
    try:
        told = recdrop.mc_dropout(net, inputs, samples, seed=seed)
    except ValueError as error:
        raise BadInput(f"the run has no nets to be sampled: {error}") from None
    doubt = torch.stack([cast(Tensor, told.entropy), cast(Tensor, told.information)], dim=-1)
    return _Answer(told.mean, told.spread, doubt)
