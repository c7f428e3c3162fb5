r"""Words with entity tags: CoNLL's column files, tag schemes, spans and the scorer.

Column files, which are text files by the rules of `recdrop.lab.files`:

* One word a line. A line with nothing but blanks ends a sentence, and so does a border of
  documents, a line that begins with ``-DOCSTART-``; its other columns do not count.
* If the first line with a word has a tab, then each tab ends a column: words may have blanks
  inside, those around a column do not count. Otherwise any run of blanks and tabs is between two
  columns. Blanks are U+0020 only; what else Unicode calls so is part of a word.
* All lines have as many columns. The first is the word. Another one, if there is any, is the tag:
  the last, unless a column is asked for.
* A line has at most 100,000 bytes; so running text is refused before it fills the memory.
* There are no comments. A line that begins with ``#`` is a word; tweets have such.
* A tag is ``O``, or one of the letters B, I, E, S, L and U, a hyphen and a kind without blanks,
  which may have hyphens. L and U are BILOU's names for the E and S of IOBES.
* Where a scheme would not have such a tag it is accepted, and means what the scorer says; see
  `misplaced`.

Schemes, for an entity that is the words ``a b c``:

* **iob2** (BIO): ``B I I``.
* **iob1**, as in CoNLL-2003: ``I I I``; ``B I I`` only right after another entity of that kind.
* **iobes**: ``B I E``; an entity of one word is ``S``.

The scorer is the CoNLL-2000 shared task's ``conlleval``. An entity goes on with a tag I or E of its
kind, unless an E or S has just ended it; any other tag ends it, and if it is not ``O``, begins
another. It is right if its kind and both its ends are. For B, I and O these are the script's
figures; the script knows no S, and overlooks that a B after an E begins another. Borders of
documents are no words here, the script counts them as such where they are left in.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from recdrop.lab.console import counted
from recdrop.lab.errors import BadInput
from recdrop.lab.files import LONGEST, TextFile
from recdrop.lab.vocabulary import shown

Scheme = Literal["iob1", "iob2", "iobes"]

BORDER = "-DOCSTART-"
_BLANKS = re.compile("[ \t]+")
_TAG = re.compile(r"O|[BIESLU]-\S+")
_IOBES = str.maketrans("LU", "ES")


class Sentence(NamedTuple):
    """The words of one sentence.

    Attributes:
        words: At least one.
        tags: As in the file, one for each word; none if the file has no column of them.
        line: The file's, from 1, that the sentence begins in.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int


class Entity(NamedTuple):
    """A span of a sentence.

    Attributes:
        kind: What it is, as in ``LOC``.
        start: Its first word, from 0.
        stop: The word after its last.
    """

    kind: str
    start: int
    stop: int


# ----------------------------------------------------------------------------- reading and writing


def read_columns(
    source: Path | TextFile, column: int | None = None, *, tagged: bool = True
) -> list[Sentence]:
    """Read a column file; equal words of it are one object in memory.

    Args:
        source: The file, or one that is loaded.
        column: That of the tags, from 1, or from -1 for the last; None: the last, if it is not the
            only one.
        tagged: Whether there are tags to be read; else only the words are.

    Raises:
        BadInput: It is missing, or refused by the rules above.
        StorageFailed: The system refused to read.
    """
    once: dict[str, str] = {}
    legal: set[str] = set()
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    place = None
    file = source if isinstance(source, TextFile) else TextFile.open(source)
    path = file.path
    for number, row in _rows(file):
        if row:
            if not sentences and not words:
                place = _place(column, len(row), f"{path}:{number}") if tagged else None
            words.append(once.setdefault(row[0], row[0]))
            if place is None:
                continue
            tag = once.setdefault(row[place], row[place])
            if tag not in legal and not _TAG.fullmatch(tag):
                raise BadInput(
                    f"{path}:{number}: {shown(tag)} is not a tag; expected O, or a letter of "
                    "BIES or BILU, a hyphen and a kind, as in B-LOC; are the tags really in "
                    f"column {place + 1} of {len(row)}?"
                )
            legal.add(tag)
            tags.append(tag)
        elif words:
            sentences.append(Sentence(tuple(words), tuple(tags), number - len(words)))
            words, tags = [], []
    return _not_empty(path, sentences)


def column_lines(
    sentences: Iterable[Sequence[str]], *columns: Iterable[Sequence[str]]
) -> Iterator[str]:
    r"""The lines of a file that `read_columns` reads, and ``conlleval -d '\t'``.

    Args:
        sentences: The words of each.
        columns: What else there is of each word, as gold and predicted tags.

    Returns:
        Lines with their ends, tabs between the columns. A blank line ends each sentence.
    """
    for one in zip(sentences, *columns, strict=True):
        for row in zip(*one, strict=True):
            yield "\t".join(row) + "\n"
        yield "\n"


def gaps(file: TextFile, border: str = BORDER) -> Iterator[str]:
    """What a column file has between its sentences, to be written between those of an answer.

    Args:
        file: As `read_columns` takes it.
        border: The line to be written for a border of documents.

    Returns:
        The lines, with their ends, before the first sentence, and behind each. Blank ones are
        empty; where the file ends without one, there is one all the same.
    """
    gap: list[str] = []
    inside = False
    for line in file.lines(LONGEST):
        if not line.strip() or _is_border(line):
            gap.append(f"{border}\n" if line.strip() else "\n")
            inside = False
        elif not inside:
            yield "".join(gap)
            gap, inside = [], True
    yield "".join(gap) or "\n"


def _is_border(line: str) -> bool:
    return line.split(None, 1)[0] == BORDER


def _rows(file: TextFile) -> Iterator[tuple[int, list[str]]]:
    """Each line's number and columns, all as many; no columns where a sentence ends, as at last."""
    first = count = number = 0
    tabs = False
    for number, line in enumerate(file.lines(LONGEST), 1):
        if not line.strip() or _is_border(line):
            yield number, []
            continue
        if not first:
            tabs = "\t" in line
        if tabs:
            row = [column.strip(" ") for column in line.split("\t")]
        else:
            row = _BLANKS.split(line.strip(" \t"))
        if not first:
            first, count = number, len(row)
        if not row[0]:
            raise BadInput(f"{file.path}:{number}: nothing before the first tab, expected a word")
        if len(row) != count:
            raise BadInput(
                f"{file.path}:{number}: {counted(len(row), 'column')}, expected {count}, as in "
                f"line {first}; give one word a line, {'tabs' if tabs else 'blanks'} between its "
                "columns, a blank line after each sentence"
            )
        yield number, row
    yield number + 1, []


def _place(column: int | None, count: int, where: str) -> int | None:
    """The place of the tags, from 0, among so many columns; None: there are none."""
    if column is None:
        return count - 1 if count > 1 else None
    place = column + count if column < 0 else column - 1
    if 0 < place < count:
        return place
    others = f"2 to {count}, or -1 for the last" if count > 1 else "none, for it is the only one"
    raise BadInput(
        f"{where}: tags are to be in column {column}, there are {count}; "
        f"expected one after the word's: {others}"
    )


def _not_empty(path: Path, sentences: list[Sentence]) -> list[Sentence]:
    if not sentences:
        raise BadInput(f"{path}: the file is empty or all blank; expected words")
    return sentences


# ------------------------------------------------------------------------------- tags and entities


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order, as the scorer takes them; for tags of any scheme.

    Example:
        >>> entities(["I-PER", "I-PER", "O", "I-LOC", "B-LOC"])[1:]
        [Entity(kind='LOC', start=3, stop=4), Entity(kind='LOC', start=4, stop=5)]
    """
    found: list[Entity] = []
    start, kind = -1, ""  # of the one that may go on; it has no kind if there is none
    for i, tag in enumerate(chain(tags, ("O",))):
        letter, _, this = tag.partition("-")
        if kind and (this != kind or letter not in "IEL"):
            found.append(Entity(kind, start, i))
            kind = ""
        if this and not kind:
            start, kind = i, this
        if this and letter in "ESLU":
            found.append(Entity(kind, start, i + 1))
            kind = ""
    return found


def tags_of(entities: Iterable[Entity], length: int, scheme: Scheme) -> list[str]:
    """The tags of a sentence.

    Args:
        entities: Inside the sentence, without overlaps.
        length: The sentence's, in words.
        scheme: Of the tags.
    """
    tags = ["O"] * length
    for kind, start, stop in sorted(entities, key=lambda entity: entity.start):
        if not 0 <= start < stop <= length or tags[start] != "O":
            raise ValueError(f"{kind} [{start}, {stop}) overlaps, or is not in {length} words")
        follows = start > 0 and tags[start - 1][2:] == kind
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if follows or scheme != "iob1":
            tags[start] = f"B-{kind}"
        if scheme == "iobes":
            tags[stop - 1] = f"S-{kind}" if stop == start + 1 else f"E-{kind}"
    return tags


def converted(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The same entities in another scheme."""
    return tags_of(entities(tags), len(tags), scheme)


def recognised(sentences: Sequence[Sentence]) -> Scheme:
    """The scheme of tags: the one with the fewest `misplaced`.

    Returns:
        Of schemes with equally many ``"iobes"`` if there is an E, S, L or U, else ``"iob2"``. So
        one slip in a file leaves its scheme as it is.
    """
    schemes: list[Scheme] = ["iob2", "iob1"]
    if any(tag[0] in "ESLU" for one in sentences for tag in one.tags):
        schemes.insert(0, "iobes")  # else iob2 has no more of them: iobes has each entity's last
    return min(schemes, key=lambda scheme: len(misplaced(sentences, scheme)))


def misplaced(sentences: Iterable[Sentence], scheme: Scheme) -> list[int]:
    """The lines of a column file whose tag the scheme would not have there.

    Each is one that would change if the entities were written anew, as an I after O in iob2.
    """
    lines = []
    for _, tags, line in sentences:
        for i, (tag, meant) in enumerate(zip(tags, converted(tags, scheme), strict=True)):
            if tag != meant and tag[0].translate(_IOBES) + tag[1:] != meant:
                lines.append(line + i)
    return lines


# --------------------------------------------------------------------------------------- the score


class Score(NamedTuple):
    """How well entities were found.

    Attributes:
        right: Those found that were wanted, with their kind and both ends.
        found: Those predicted.
        wanted: Those of the gold tags.
    """

    right: int
    found: int
    wanted: int

    @property
    def percent(self) -> tuple[float, float, float]:
        """Precision, recall and F1 in percent, rounded as ``conlleval`` does.

        To two decimals they are what it prints, halves included; 100 times the shares may not be.
        """
        precision = 100 * self.right / self.found if self.found else 0.0
        recall = 100 * self.right / self.wanted if self.wanted else 0.0
        both = precision + recall
        return precision, recall, 2 * precision * recall / both if both else 0.0

    @property
    def precision(self) -> float:
        """The share of those found that are right; 0 if there are none."""
        return self.percent[0] / 100

    @property
    def recall(self) -> float:
        """The share of those wanted that were found; 0 if there are none."""
        return self.percent[1] / 100

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, in [0, 1]."""
        return self.percent[2] / 100


class Scores(NamedTuple):
    """What ``conlleval`` says of a corpus.

    Attributes:
        overall: Of entities of all kinds.
        kinds: Of each kind that was found or wanted, by name.
        tokens: Words.
        agreed: Those with the same tag, letter for letter.
    """

    overall: Score
    kinds: dict[str, Score]
    tokens: int
    agreed: int

    @property
    def accuracy(self) -> float:
        """The share of words with the same tag; 0 if there are none."""
        return self.agreed / self.tokens if self.tokens else 0.0


def score(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> Scores:
    """Hold predicted tags against gold ones.

    Args:
        gold: The tags of each sentence, in any scheme.
        predicted: As many sentences of the same lengths.
    """
    right, found, wanted = Counter[str](), Counter[str](), Counter[str]()
    tokens = agreed = 0
    for theirs, ours in zip(gold, predicted, strict=True):
        tokens += len(theirs)
        agreed += sum(one == other for one, other in zip(theirs, ours, strict=True))
        expected, got = set(entities(theirs)), set(entities(ours))
        wanted.update(entity.kind for entity in expected)
        found.update(entity.kind for entity in got)
        right.update(entity.kind for entity in expected & got)
    kinds = {kind: Score(right[kind], found[kind], wanted[kind]) for kind in sorted(found | wanted)}
    overall = Score(right.total(), found.total(), wanted.total())
    return Scores(overall, kinds, tokens, agreed)
