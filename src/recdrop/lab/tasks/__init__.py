"""The tasks of the lab: nets, data and scores behind one interface (`task.Task`)."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from recdrop.lab.config import Run, TemporalOrderRun
from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.task import Task
from recdrop.lab.world import World


class Prepared(NamedTuple):
    """A task ready to be trained.

    Attributes:
        task: Net and data.
        sources: Names, SHA-256 and sizes of the files that were read, ready for JSON.
        vocabulary: Text of a ``vocabulary.json``, where the task has one.
    """

    task: Task
    sources: dict[str, Any]
    vocabulary: str | None = None


def prepare(run: Run, data: Path | None, world: World) -> Prepared:
    """Read a run's data and build its net.

    Args:
        run: What is to be trained.
        data: File or folder of texts; None for a task that makes its own data.
        world: The processes that share the work.

    Raises:
        BadInput: The data cannot be used, are missing, or are not wanted.
    """
    with torch.random.fork_rng(devices=[]):  # nets draw before they are given their own start
        return _prepare(run, data, world)


def _prepare(run: Run, data: Path | None, world: World) -> Prepared:
    if isinstance(run, TemporalOrderRun):
        from recdrop.lab.tasks.temporal_order import TemporalOrderTask

        if data is not None:
            raise BadInput("temporal-order makes its own data: --data is not wanted")
        return Prepared(TemporalOrderTask(run, world.rank, world.size), {})
    from recdrop.lab.tasks.language_model import LanguageModelTask
    from recdrop.lab.text import read_corpus

    if data is None:
        raise BadInput(
            f"{run.task} needs --data: a folder with train.txt, valid.txt and test.txt, or one file"
        )
    corpus = read_corpus(data, run.task, run.data)
    vocabulary = corpus.vocabulary
    sources: dict[str, Any] = {split: source._asdict() for split, source in corpus.files.items()}
    sources["vocabulary"] = {"sha256": vocabulary.sha256, "symbols": len(vocabulary)}
    task = LanguageModelTask(run, corpus, world.rank, world.size)
    task.net.to(world.device)
    return Prepared(task, sources, vocabulary.to_json())
