"""The tasks of the lab: nets, data and scores behind one interface (`task.Task`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recdrop.lab.config import LanguageModelRun, NerRun, Run, SentimentRun, TemporalOrderRun
from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.net import place
from recdrop.lab.tasks.task import Task
from recdrop.lab.world import World


class Prepared(NamedTuple):
    """A task ready to be trained.

    Attributes:
        task: Net and data.
        sources: Names, SHA-256 and sizes of the files that were read, ready for JSON.
        vocabulary: Text of a ``vocabulary.json``, where the task has one.
        vectors: Content of a ``vectors.safetensors``, where its words have given ones.
        notes: What there is to tell of the data, a line each.
    """

    task: Task
    sources: dict[str, Any]
    vocabulary: str | None = None
    vectors: bytes | None = None
    notes: Sequence[str] = ()


def prepare(run: Run, data: Path | None, files: Mapping[str, Path], world: World) -> Prepared:
    """Read a run's data and build its net.

    Args:
        run: What is to be trained.
        data: File or folder of texts; None for a task that makes its own data.
        files: What else is read: ``vectors`` of words, texts for ``pretrain``.
        world: The processes that share the work.

    Raises:
        BadInput: The data cannot be used, are missing, or are not wanted.
    """
    wanted = _FILES.get(type(run), ())
    for name in files.keys() - set(wanted):
        raise BadInput(f"{run.task} does not use --{name}")
    with torch.random.fork_rng(devices=[]):  # nets draw before they are given their own start
        if isinstance(run, TemporalOrderRun):
            prepared = _temporal_order(run, data, world)
        elif data is None:
            raise BadInput(f"{run.task} needs --data: {_NEEDED[type(run)]}")
        elif isinstance(run, LanguageModelRun):
            prepared = _language_model(run, data, world)
        elif isinstance(run, NerRun):
            from recdrop.lab.tasks.reading import prepare_ner

            prepared = Prepared(*prepare_ner(run, data, files.get("vectors"), world))
        else:
            from recdrop.lab.tasks.reading import prepare_sentiment

            given = files.get("vectors"), files.get("pretrain")
            prepared = Prepared(*prepare_sentiment(run, data, *given, world))
    place(prepared.task.net, world.device)
    return prepared


_FILES = {NerRun: ("vectors",), SentimentRun: ("vectors", "pretrain")}
_NEEDED = {
    LanguageModelRun: "a folder with train.txt, valid.txt and test.txt, or one file",
    NerRun: "a folder with train, valid (or dev, testa) and test files of columns, or one file",
    SentimentRun: "a folder with train, valid and test files of texts and labels, or one file",
}


def _temporal_order(run: TemporalOrderRun, data: Path | None, world: World) -> Prepared:
    from recdrop.lab.tasks.temporal_order import TemporalOrderTask

    if data is not None:
        raise BadInput("temporal-order makes its own data: --data is not wanted")
    return Prepared(TemporalOrderTask(run, world.rank, world.size), {})


def _language_model(run: LanguageModelRun, data: Path, world: World) -> Prepared:
    from recdrop.lab.tasks.language_model import LanguageModelTask
    from recdrop.lab.text import read_corpus

    corpus = read_corpus(data, run.task, run.data)
    vocabulary = corpus.vocabulary
    sources: dict[str, Any] = {split: source._asdict() for split, source in corpus.files.items()}
    sources["vocabulary"] = {"sha256": vocabulary.sha256, "symbols": len(vocabulary)}
    task = LanguageModelTask(run, corpus, world.rank, world.size)
    return Prepared(task, sources, vocabulary.to_json())
