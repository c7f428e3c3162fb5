"""A trained language model from its run folder: to be evaluated, or to write."""

import json
from pathlib import Path
from typing import NamedTuple

from recdrop.lab.checkpoint import Checkpoints
from recdrop.lab.config import LanguageModelRun
from recdrop.lab.errors import BadInput
from recdrop.lab.runs import read_run, read_text
from recdrop.lab.tasks.language_model import LanguageModelNet
from recdrop.lab.vocabulary import Vocabulary


class Trained(NamedTuple):
    """A net and what its numbers mean.

    Attributes:
        run: What was asked.
        net: The net that the run keeps: of its best look so far, or its last; in evaluation mode.
        vocabulary: Of its symbols.
        update: Updates that the net has seen.
    """

    run: LanguageModelRun
    net: LanguageModelNet
    vocabulary: Vocabulary
    update: int


def open_trained(directory: Path) -> Trained:
    """Read a run's net; the run may still be training.

    Raises:
        BadInput: There is no language model, none of its checkpoints is intact yet, or the folder's
            files do not belong together.
        StorageFailed: The system refused to read.
    """
    run = read_run(directory)
    if run is None:
        raise BadInput(f"{directory} holds no run: there is no config.json in it")
    if not isinstance(run, LanguageModelRun):
        raise BadInput(f"{directory} holds a run of {run.task}, not a language model")
    checkpoint, told = Checkpoints(directory).newest(clean=False)
    if checkpoint is None:
        why = "; ".join(told) or "training has not come that far yet"
        raise BadInput(f"{directory} has no checkpoint that can be used: {why}")
    update = checkpoint.progress.best_update or checkpoint.progress.update
    if update != checkpoint.progress.update:
        checkpoint = Checkpoints(directory).load(update)
    vocabulary = _vocabulary(directory)
    net = LanguageModelNet(len(vocabulary), run.model)
    try:
        net.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise BadInput(f"{directory}: the weights do not fit config.json: {error}") from None
    return Trained(run, net.eval().requires_grad_(False), vocabulary, update)


def _vocabulary(directory: Path) -> Vocabulary:
    path = directory / "vocabulary.json"
    text, sources = read_text(path), read_text(directory / "data.json")
    if text is None or sources is None:
        raise BadInput(f"{directory} has no vocabulary.json or no data.json")
    vocabulary = Vocabulary.from_json(text, str(path))
    try:
        told = json.loads(sources)["vocabulary"]["sha256"]
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{directory / 'data.json'}: it does not name the vocabulary") from None
    if told != vocabulary.sha256:
        raise BadInput(f"{path}: it is not the vocabulary that the run was trained with")
    return vocabulary
