"""A trained net from its run folder: to be evaluated, or to write, tag, classify."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from recdrop.lab.checkpoint import Checkpoint, Checkpoints
from recdrop.lab.config import LanguageModelRun, NerRun, Run, SentimentRun
from recdrop.lab.console import complain, counted
from recdrop.lab.errors import BadInput
from recdrop.lab.runs import read_run, read_text
from recdrop.lab.storage import storage
from recdrop.lab.tasks.language_model import LanguageModelNet
from recdrop.lab.tasks.ner import TaggerNet
from recdrop.lab.tasks.sentiment import ClassifierNet
from recdrop.lab.vocabulary import Vocabulary
from recdrop.lab.words import Words

RunT = TypeVar("RunT", LanguageModelRun, NerRun, SentimentRun)
NetT = TypeVar("NetT", bound=nn.Module)


class Trained(NamedTuple):
    """A language model and what its numbers mean.

    Attributes:
        run: What was asked.
        net: The net that the run keeps: of its best look so far, or its last; in evaluation mode.
        vocabulary: Of its symbols.
        update: Updates that the net has seen.
        validated_on: Symbols of the validation text; None where ``data.json`` does not say.
    """

    run: LanguageModelRun
    net: LanguageModelNet
    vocabulary: Vocabulary
    update: int
    validated_on: int | None


class TrainedTagger(NamedTuple):
    """A tagger: as `Trained`, with the words it knows and its tags by id."""

    run: NerRun
    net: TaggerNet
    words: Words
    tags: tuple[str, ...]
    update: int


class TrainedClassifier(NamedTuple):
    """A classifier: as `Trained`, with the words it knows and its labels by id."""

    run: SentimentRun
    net: ClassifierNet
    words: Words
    labels: tuple[str, ...]
    update: int


def task_of(directory: Path) -> str:
    """What a folder's run was to learn.

    Raises:
        BadInput: It holds no run.
        StorageFailed: The system refused to read.
    """
    return _run(directory).task


def open_trained(directory: Path) -> Trained:
    """Read a language model; its run may still be training.

    Raises:
        BadInput: There is none, none of its checkpoints is intact yet, or the folder's files do not
            belong together.
        StorageFailed: The system refused to read.
    """
    run, kept = _opened(directory, LanguageModelRun, "a language model")
    sources = _sources(directory)
    vocabulary = _vocabulary(directory, sources)
    valid = sources.get("valid")
    validated_on = valid.get("tokens") if isinstance(valid, dict) else None
    net = _filled(LanguageModelNet(len(vocabulary), run.model), kept, directory)
    return Trained(run, net, vocabulary, kept.progress.update, validated_on)


def open_tagger(directory: Path) -> TrainedTagger:
    """Read a tagger; see `open_trained`."""
    run, kept = _opened(directory, NerRun, "a tagger")
    sources = _sources(directory)
    words, tags = _words(directory, sources), _names(directory, sources, "tags")
    net = TaggerNet(len(words.vocabulary), len(tags), run.model, words.vectors)
    return TrainedTagger(run, _filled(net, kept, directory), words, tags, kept.progress.update)


def open_classifier(directory: Path) -> TrainedClassifier:
    """Read a classifier; see `open_trained`."""
    run, kept = _opened(directory, SentimentRun, "a classifier of texts")
    sources = _sources(directory)
    words, labels = _words(directory, sources), _names(directory, sources, "labels")
    weak = len(_names(directory, sources, "weak_labels")) if "weak_labels" in sources else 0
    now = kept.progress
    if weak and (now.epoch, now.step) <= (run.data.pretraining, 0):
        raise BadInput(f"{directory}: the net knows weak labels only; it was not trained further")
    net = ClassifierNet(len(words.vocabulary), len(labels), run.model, words.vectors, weak)
    return TrainedClassifier(run, _filled(net, kept, directory), words, labels, now.update)


def _run(directory: Path) -> Run:
    run = read_run(directory)
    if run is None:
        raise BadInput(f"{directory} holds no run: there is no config.json in it")
    return run


def _opened(directory: Path, kind: type[RunT], what: str) -> tuple[RunT, Checkpoint]:
    """The run, and the checkpoint of the net that it keeps; of damaged ones a line is printed."""
    run = _run(directory)
    if not isinstance(run, kind):
        raise BadInput(f"{directory} holds a run of {run.task}, not {what}")
    checkpoint, told = Checkpoints(directory).newest(clean=False)
    if checkpoint is None:
        why = "; ".join(told) or "training has not come that far yet"
        raise BadInput(f"{directory} has no checkpoint that can be used: {why}")
    update = checkpoint.progress.best_update or checkpoint.progress.update
    for damage in told:
        complain(f"{damage}; the one after {counted(update, 'update')} is taken")
    if update != checkpoint.progress.update:
        checkpoint = Checkpoints(directory).load(update)
    return run, checkpoint


def _filled(net: NetT, kept: Checkpoint, directory: Path) -> NetT:
    try:
        net.load_state_dict(kept.weights)
    except RuntimeError as error:
        raise BadInput(f"{directory}: the weights do not fit config.json: {error}") from None
    return net.eval().requires_grad_(False)


def _sources(directory: Path) -> dict[str, Any]:
    """What ``data.json`` says."""
    path = directory / "data.json"
    text = read_text(path)
    if text is None:
        raise BadInput(f"{directory} has no data.json")
    try:
        told = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(told, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return told


def _vocabulary(directory: Path, sources: dict[str, Any]) -> Vocabulary:
    path = directory / "vocabulary.json"
    text = read_text(path)
    if text is None:
        raise BadInput(f"{directory} has no vocabulary.json")
    vocabulary = Vocabulary.from_json(text, str(path))
    try:
        told = sources["vocabulary"]["sha256"]
    except (KeyError, TypeError):
        raise BadInput(f"{directory / 'data.json'}: it does not name the vocabulary") from None
    if told != vocabulary.sha256:
        raise BadInput(f"{path}: it is not the vocabulary that the run was trained with")
    return vocabulary


def _words(directory: Path, sources: dict[str, Any]) -> Words:
    vocabulary = _vocabulary(directory, sources)
    if "vectors" not in sources:
        return Words(vocabulary)
    path = directory / "vectors.safetensors"
    with storage(path):
        content = path.read_bytes()
    told = sources["vectors"]
    told = told.get("stored_sha256") if isinstance(told, dict) else None
    if hashlib.sha256(content).hexdigest() != told:
        raise BadInput(f"{path}: these are not the vectors that the run was trained with")
    return Words(vocabulary, _vectors(path, content))


def _vectors(path: Path, content: bytes) -> Tensor:
    try:
        return safetensors.torch.load(content)["vectors"]
    except (SafetensorError, KeyError) as error:
        raise BadInput(f"{path}: {error}") from None


def _names(directory: Path, sources: dict[str, Any], key: str) -> tuple[str, ...]:
    names = sources.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"{directory / 'data.json'}: it does not list the {key}")
    return tuple(names)
