"""The files of the tasks over words: what becomes training, validation and test set.

Tagged sentences come from a folder with one file for each of the three, whose names say so (with
``train``; ``valid``, ``dev`` or ``testa``; ``test``), or from one file, of whose sentences the last
20th is the test set and the 20th before it the validation set.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recdrop.lab.config import LabelledData, NerRun, SentimentRun
from recdrop.lab.conll import Sentence, converted, misplaced, read_columns, recognised
from recdrop.lab.console import counted
from recdrop.lab.errors import BadInput
from recdrop.lab.labelled import labels_to_train, read_labelled, read_splits
from recdrop.lab.labelled_tables import Labelled, alone_at_the_top
from recdrop.lab.storage import sha256_of, storage
from recdrop.lab.tasks.ner import NerTask
from recdrop.lab.tasks.sentiment import SentimentTask, Stage, Texts
from recdrop.lab.tweets import tokenise, without_emoticons
from recdrop.lab.vocabulary import shown
from recdrop.lab.words import Words, read_words
from recdrop.lab.world import World

_PARTS = {"train": ("train",), "valid": ("valid", "dev", "testa"), "test": ("test",)}

_Read = tuple[Any, dict[str, Any], str, bytes | None, list[str]]


def prepare_ner(run: NerRun, data: Path, vectors: Path | None, world: World) -> _Read:
    """What `recdrop.lab.tasks.Prepared` has, of a tagger.

    Raises:
        BadInput: A file is missing, refused, or without tags, or the training set without entities.
        StorageFailed: The system refused to read.
    """
    sources, sets, notes = {}, {}, []
    for name, (path, sentences) in _tagged(data, run.data.column).items():
        if name == "train":
            _check_entities(path, sentences, run.data.column)
        notes.append(_scheme_note(name, path, sentences))
        sets[name] = [
            one._replace(tags=tuple(converted(one.tags, run.data.scheme))) for one in sentences
        ]
        sources[name] = {"name": path.name, "sha256": sha256_of(path), "sentences": len(sentences)}
    counted = {
        name: Counter(chain.from_iterable(s.words for s in part)) for name, part in sets.items()
    }
    words = read_words(
        counted["train"], chain(counted["valid"], counted["test"]), run.data, vectors
    )
    tags = sorted({tag for one in sets["train"] for tag in one.tags} | {"O"})
    task = NerTask(run, sets, words, tags, world.rank, world.size)
    texts = {name: part.elements() for name, part in counted.items()}
    return _read(task, sources | {"tags": tags}, words, texts, notes)


def _check_entities(path: Path, sentences: list[Sentence], column: int) -> None:
    """Refuse a set that teaches nothing: mostly the tags are in another column."""
    if all(tag == "O" for one in sentences for tag in one.tags):
        which = "the last column" if column == -1 else f"column {column}"
        words = counted(sum(len(one.words) for one in sentences), "word")
        raise BadInput(
            f"{path}: no entity in {words} to train on, every tag in {which} is O; are "
            "the tags in another column? --column N names it"
        )


def _scheme_note(name: str, path: Path, sentences: list[Sentence]) -> str:
    """Which scheme the tags are in, and where they are not."""
    scheme = recognised(sentences)
    wrong = misplaced(sentences, scheme)
    where = f"; {len(wrong)} out of place, the first in line {wrong[0]}" if wrong else ""
    return f"{name}: {path.name}, {counted(len(sentences), 'sentence')}, tags in {scheme}{where}"


def _tagged(path: Path, column: int) -> dict[str, tuple[Path, list[Sentence]]]:
    files = _tagged_files(path)
    if not path.is_dir():
        sentences = read_columns(path, column)
        held = len(sentences) // 20
        if not held:
            raise BadInput(
                f"{path} has {counted(len(sentences), 'sentence')}; to be split 90/5/5 a file "
                "needs 20"
            )
        cuts = {
            "train": slice(-2 * held),
            "valid": slice(-2 * held, -held),
            "test": slice(-held, None),
        }
        return {name: (path, sentences[cut]) for name, cut in cuts.items()}
    return {name: (file, read_columns(file, column)) for name, file in files.items()}


def _tagged_files(path: Path) -> dict[str, Path]:
    """The file of each part, which of one file is that."""
    if not path.is_dir():
        return dict.fromkeys(_PARTS, path)
    with storage(path):
        names = sorted(one.name for one in path.iterdir() if one.is_file())
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for part, words in _PARTS.items():
        mine = [n for n in names if n not in taken and any(word in n.lower() for word in words)]
        if len(mine) != 1:
            raise BadInput(
                f"{path}: expected one file whose name has {' or '.join(words)}, found "
                f"{', '.join(mine) or 'none'}; its files are {', '.join(names) or 'none'}. "
                "CoNLL-2003 is to be had from the shared task's page and, for its texts, from NIST "
                "(Reuters RCV1)"
            )
        taken.update(mine)
        found[part] = path / mine[0]
    return found


def ner_digests(data: Path) -> dict[str, str]:
    """SHA-256 of each part, as a run's sources have it.

    Raises:
        BadInput: A file is missing.
        StorageFailed: The system refused to read.
    """
    return {part: sha256_of(path) for part, path in _tagged_files(data).items()}


# --------------------------------------------------------------------------------------- sentiment


def prepare_sentiment(
    run: SentimentRun, data: Path, vectors: Path | None, pretrain: Path | None, world: World
) -> _Read:
    """What `recdrop.lab.tasks.Prepared` has, of a classifier.

    Raises:
        BadInput: A file is missing or refused, or a label is unknown.
        StorageFailed: The system refused to read.
    """
    how = run.data
    sets = _labelled(data, how)
    labels = labels_to_train(sets["train"], data)
    if pretrain is not None and run.schedule.epochs <= how.pretraining:
        raise BadInput(
            f"schedule.epochs: {run.schedule.epochs} with data.pretraining = {how.pretraining} "
            "leaves no epoch to learn the labels themselves; give more"
        )
    for name, rows in sets.items():
        strange = next((row for row in rows if row.label not in labels), None)
        if strange is not None:
            raise BadInput(
                f"{data}: {name} set, line {strange.line}: the training set has no label "
                f"{strange.label!r}, only {', '.join(labels)}"
            )
    sources: dict[str, Any] = {name: described(rows) for name, rows in sets.items()}
    texts = {name: words_of((row.text for row in rows), how) for name, rows in sets.items()}
    counts = Counter(chain.from_iterable(texts["train"]))
    weak = None if pretrain is None else _Weak(pretrain, how)
    if weak is not None:
        counts.update(chain.from_iterable(weak.texts["train"]))
        sources |= {f"pretrain_{name}": described(rows) for name, rows in weak.rows.items()}
        sources["weak_labels"] = weak.labels
    held_out = [texts[name] for name in texts if name != "train"]
    others = chain.from_iterable(chain.from_iterable(held_out))
    words = read_words(counts, others, how, vectors)
    sources["labels"] = labels
    numbered = {name: _numbered(texts[name], words, sets[name], labels) for name in sets}
    stages = [Stage(labels, numbered.pop("train"), numbered.pop("valid"))]
    if weak is not None:
        parts = (
            _numbered(weak.texts[name], words, weak.rows[name], weak.labels)
            for name in ("train", "valid")
        )
        stages.insert(0, Stage(weak.labels, *parts))
    task = SentimentTask(run, stages, numbered, words, world.rank, world.size)
    notes = [note for name, rows in sets.items() for note in label_notes(name, rows, how)]
    notes += [] if weak is None else weak.notes
    told = {name: chain.from_iterable(part) for name, part in texts.items()}
    return _read(task, sources, words, told, notes)


def sentiment_digests(data: Path, pretrain: Path | None, how: LabelledData) -> dict[str, str]:
    """SHA-256 of each part, as a run's sources have it.

    Raises:
        BadInput: A file is missing or refused.
        StorageFailed: The system refused to read.
    """
    parts: dict[str, Sequence[Labelled]] = {**_labelled(data, how)}
    if pretrain is not None:
        weak = _split_weak(read_labelled(pretrain, **_columns(how), to_train=True))
        parts |= {f"pretrain_{name}": rows for name, rows in weak.items()}
    return {part: str(described(rows)["sha256"]) for part, rows in parts.items()}


def _labelled(data: Path, how: LabelledData) -> Mapping[str, Sequence[Labelled]]:
    return semeval(data, how) if how.layout == "semeval" else read_splits(data, **_columns(how))


class _Weak:
    """Texts to pre-train on, without the emoticons that may have given the labels."""

    def __init__(self, path: Path, data: LabelledData) -> None:
        rows = read_labelled(path, **_columns(data), to_train=True)
        self.labels = labels_to_train(rows, path)
        self.notes = label_notes("pretrain", rows, data)
        self.rows = _split_weak(rows)
        self.texts = {
            name: [without_emoticons(text) for text in words_of((r.text for r in part), data)]
            for name, part in self.rows.items()
        }


def _split_weak(rows: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    train = [row for i, row in enumerate(rows) if i % _WEAK_HELD]
    return {"train": train, "valid": list(rows[::_WEAK_HELD])}


_WEAK_HELD = 50  # one of so many weakly labelled texts is to look at, not to train on


def _numbered(
    texts: list[list[str]], words: Words, rows: Sequence[Labelled], labels: Sequence[str]
) -> Texts:
    return Texts.of(texts, words, [row.label for row in rows], labels)


def words_of(texts: Iterable[str], data: LabelledData) -> list[list[str]]:
    """The words of texts."""
    split = tokenise if data.texts == "tweets" else str.split
    return [split(text) for text in texts]


def semeval(folder: Path, data: LabelledData) -> dict[str, list[Labelled]]:
    """The paper's sets of a folder of SemEval's files.

    Twitter13 is the validation set, and a column of Table 5 all the same.
    """
    files = {name: folder / f"{name}.tsv" for name in (*_TRAINING, *SEMEVAL.values())}
    with storage(folder):
        missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise BadInput(
            f"{folder} has no {', '.join(f'{name}.tsv' for name in missing)}; the texts are to be "
            "had from the pages of SemEval 2013, 2014 and 2015, task on sentiment in Twitter"
        )
    read = {
        name: read_labelled(path, **_columns(data), to_train=name in _TRAINING)
        for name, path in files.items()
    }
    train = [row for name in _TRAINING for row in read[name]]
    return {"train": train} | {name: read[file] for name, file in SEMEVAL.items()}


_TRAINING = ("twitter2013train", "twitter2013dev")
SEMEVAL = {
    "valid": "twitter2013test",
    "livejournal14": "livejournal2014test",
    "twitter15": "twitter2015test",
    "twitter14": "twitter2014test",
    "sms13": "sms2013test",
    "sarcasm14": "twitter2014sarcasm",
}


def with_columns(
    run: SentimentRun, text_column: str | None, label_column: str | None
) -> SentimentRun:
    """A run that finds its columns elsewhere, for texts that it is to be measured on.

    Args:
        run: Of a classifier.
        text_column: Name or number; None: the run's own.
        label_column: Likewise.
    """
    given = {"text_column": text_column, "label_column": label_column}
    given = {name: column for name, column in given.items() if column is not None}
    return run.model_copy(update={"data": run.data.model_copy(update=given)})


def _columns(data: LabelledData) -> Mapping[str, str | int | None]:
    return {"text_column": data.text_column, "label_column": data.label_column}


def label_notes(name: str, rows: Sequence[Labelled], data: LabelledData) -> list[str]:
    """How many texts have which label, and whether the first row may be none."""
    numbers = Counter(row.label for row in rows)
    if len(numbers) > _MOST_LABELS:
        (most, first), *_, (least, last) = numbers.most_common()
        told = f"{len(numbers)} labels, from {_of(first, most)} to {_of(last, least)}"
    else:
        told = ", ".join(_of(number, label) for label, number in sorted(numbers.items()))
    notes = [f"{name}: {counted(len(rows), 'text')}: {told}"]
    by_number = all(str(column).isdecimal() for column in _columns(data).values())
    if by_number and rows[0].line == 1 and alone_at_the_top(rows):
        notes.append(
            f"{name}: line 1 was read as a text, and no other has its label "
            f"{shown(rows[0].label)}; if it is a header, give the columns by name"
        )
    return notes


_MOST_LABELS = 8  # that are told one by one


def _of(number: int, label: str) -> str:
    return f"{number:,} {label if len(label) <= 40 else f'{label[:37]}...'}"


def described(rows: Sequence[Labelled]) -> dict[str, str | int]:
    """SHA-256 of labels and texts, and how many there are, ready for JSON."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.label}\t{row.text}\n".encode())
    return {"sha256": digest.hexdigest(), "texts": len(rows)}


# ------------------------------------------------------------------------------------------ shared


def _read(
    task: Any,
    sources: dict[str, Any],
    words: Words,
    texts: Mapping[str, Iterable[str]],
    notes: list[str],
) -> _Read:
    """All that was read, with the words' own sources and notes; the texts are every set's words."""
    known, stored = words.vocabulary, words.stored
    sources["vocabulary"] = {"sha256": known.sha256, "symbols": len(known)}
    if words.source is not None and stored is not None:
        sources["vectors"] = words.source | {"stored_sha256": hashlib.sha256(stored).hexdigest()}
        tokens, types = (float(words.source[f"known_{what}"]) for what in ("tokens", "types"))
        notes.append(
            f"vectors: {words.source['name']}, of {tokens:.1%} of the training words, {types:.1%} "
            "of the different ones"
        )
    shares = (f"{name} {words.unknown_share(those):.1%}" for name, those in texts.items())
    notes.append(f"unknown words: {', '.join(shares)}")
    return task, sources, known.to_json(), stored, notes
