"""The tasks of the lab: nets, data and scores behind one interface (`task.Task`)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from recdrop.lab.config import LanguageModelRun, NerRun, Run, SentimentRun, TemporalOrderRun
from recdrop.lab.console import counted
from recdrop.lab.errors import BadInput
from recdrop.lab.storage import sha256_of
from recdrop.lab.tasks.net import place
from recdrop.lab.tasks.task import Task
from recdrop.lab.world import World

if TYPE_CHECKING:
    from recdrop.lab.tasks.language_model import LanguageModelTask
    from recdrop.lab.text import Corpus


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


def digests(run: Run, data: Path, files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of all that a run would read, by the names of its sources, and nothing else of it.

    Args:
        run: Of a task that reads something.
        data: As for `prepare`.
        files: Likewise.

    Raises:
        BadInput: A file is missing or refused.
        StorageFailed: The system refused to read.
    """
    found: dict[str, str]
    if isinstance(run, NerRun):
        from recdrop.lab.tasks.reading import ner_digests

        found = ner_digests(data)
    elif isinstance(run, SentimentRun):
        from recdrop.lab.tasks.reading import sentiment_digests

        found = sentiment_digests(data, files.get("pretrain"), run.data)
    else:
        from recdrop.lab.text import corpus_files

        parts = [sha256_of(path) for path in corpus_files(data, run.task)]
        parts = parts if len(parts) > 1 else parts * 3  # of the file that is split
        found = dict(zip(("train", "valid", "test"), parts, strict=True))
    if "vectors" in files:
        found["vectors"] = sha256_of(files["vectors"])
    return found


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
    notes = [_recognised(corpus, sources), *_layout_notes(task, corpus)]
    return Prepared(task, sources, vocabulary.to_json(), notes=notes)


_RECOGNISED = {
    "words": "words",
    "characters": "characters as they stand",
    "spaced": "spaced symbols, as in Mikolov's character files",
}


def _recognised(corpus: "Corpus", sources: dict[str, Any]) -> str:
    from recdrop.lab.text import unknown_shares
    from recdrop.lab.vocabulary import UNKNOWN

    told = f"text: {_RECOGNISED[corpus.splitting]}; vocabulary: {len(corpus.vocabulary):,} symbols"
    unknown = unknown_shares(sources)
    return f"{told}; {UNKNOWN}: {unknown}" if unknown else told


_FEW = 10  # windows of a piece, below which its start from zero shows in the scores
_MUCH = 0.01  # of a text, to be left unread


def _layout_notes(task: "LanguageModelTask", corpus: "Corpus") -> Iterator[str]:
    """What cutting a short text into streams of whole windows does to it."""
    data, length = task.run.data, len(corpus.train)
    if task.unread > _MUCH * length:
        yield (
            f"train: the last {task.unread / length:.1%} ({counted(task.unread, 'symbol')}) "
            f"are never read, for they fill no window of {data.window} in each of "
            f"{counted(data.batch, 'stream')}; a smaller data.batch or data.window leaves less"
        )
    texts = {"valid": corpus.valid, "test": corpus.test}
    most = _FEW * data.window * data.batch
    short = [name for name, tokens in texts.items() if len(tokens) < most]
    if short and data.batch > 1:
        yield (
            f"{' and '.join(short)}: read in {data.batch} pieces of fewer than {_FEW} windows, "
            "each from a zero state, which costs score; evaluate --streams 1 reads a text in one"
        )
