"""Every rule of `recdrop.lab.conll`; fuzzed files and random corpora are held against oracles."""

import random
import re
import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdrop.lab import files
from recdrop.lab.conll import (
    Entity,
    Score,
    Sentence,
    column_lines,
    converted,
    entities,
    gaps,
    misplaced,
    read_columns,
    recognised,
    score,
    tags_of,
)
from recdrop.lab.errors import BadInput
from tests.lab.benchmark_data import benchmark
from tests.oracles.conlleval import conlleval

SCHEMES = ("iob1", "iob2", "iobes")


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(tmp_path, content, column=None):
    """The sentences of a file as (words, tags, line), with blanks between words."""
    read = read_columns(written(tmp_path / "a.conll", content), column)
    return [(" ".join(one.words), " ".join(one.tags), one.line) for one in read]


def refused(pattern, call, *args):
    with pytest.raises(BadInput, match=pattern) as caught:
        call(*args)
    return str(caught.value)


# ------------------------------------------------------------------------------------ column files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a O\nb I-X\n\nc O\n", [("a b", "O I-X", 1), ("c", "O", 4)]),
        ("a O", [("a", "O", 1)]),  # no final line end
        ("\n \n\t\na O\n\n\n\nb O\n \n", [("a", "O", 4), ("b", "O", 8)]),
        ("a NN B-NP O\n", [("a", "O", 1)]),  # the last of many
        ("a\nb\n\nc\n", [("a b", "", 1), ("c", "", 4)]),  # one column: no tags
        ("  a   O  \nb\tO\n", [("a b", "O O", 1)]),  # runs of blanks and tabs
        ("a\tO\nb c\tB-X\n", [("a b c", "O B-X", 1)]),  # tabs: a word may have blanks
        (" a \t O \n", [("a", "O", 1)]),
        ("-DOCSTART- -X- O O\n\na O\n-DOCSTART-\nb O\n", [("a", "O", 3), ("b", "O", 5)]),
        ("-DOCSTART-\tO\na O\n", [("a", "O", 2)]),  # a border's tab does not count
        ("-DOCSTART-s O\n", [("-DOCSTART-s", "O", 1)]),
        ("# O\n#x O\n", [("# #x", "O O", 1)]),  # no comments
        ("\ufeffa O\r\nb O\r\rc O\n", [("a b", "O O", 1), ("c", "O", 4)]),
        ("a\u00a0b O\n\u2028 O\nc\x85\x0b O\n", [("a\u00a0b \u2028 c\x85\x0b", "O O O", 1)]),
        ("a B-a-b\nb L-x\nc U-x\nd S-é\n", [("a b c d", "B-a-b L-x U-x S-é", 1)]),
        ("a I-X\nb I-Y\nc E-Y\nd B-Y\n", [("a b c d", "I-X I-Y E-Y B-Y", 1)]),  # no scheme's
    ],
)
def test_columns(tmp_path, content, expected):
    assert columns(tmp_path, content) == expected


@pytest.mark.parametrize(("column", "tag"), [(None, "I-D"), (2, "I-B"), (-1, "I-D"), (-3, "I-B")])
def test_the_column_of_the_tags(tmp_path, column, tag):
    assert columns(tmp_path, "a I-B I-C I-D\n", column) == [("a", tag, 1)]


def test_equal_words_are_one_object(tmp_path):
    first, second = read_columns(written(tmp_path / "a", "word I-KIND\n\nword I-KIND\n"))
    assert first.words[0] is second.words[0]
    assert first.tags[0] is second.tags[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "a.conll: the file is empty or all blank"),
        ("\ufeff", "a.conll: the file is empty"),
        (" \n\t\r\n\u00a0\n", "a.conll: the file is empty"),
        ("-DOCSTART- O\n\n", "a.conll: the file is empty"),
        ("a O\n\nb X O\n", "a.conll:3: 3 columns, expected 2, as in line 1; .*blanks between"),
        ("\na\tO\nb O\n", "a.conll:3: 1 column, expected 2, as in line 2; .*tabs between"),
        ("a\tO\nb\tO\t\n", "a.conll:2: 3 columns, expected 2"),
        ("a\tO\n\tO\n", "a.conll:2: nothing before the first tab"),
        ("a O\n\n" + "a " * 101, "a.conll:3: 101 columns, expected 2"),
        (f"a O\n{'é' * 50_000} O", "a.conll:2: byte 100001 of the line: .*too long, 100,002 bytes"),
        ("a O\nb PER\n", "a.conll:2: 'PER' is not a tag.*column 2 of 2"),
        ("a B-\n", "a.conll:1: 'B-' is not a tag"),
        ("a O-X\n", "a.conll:1: 'O-X' is not a tag"),
        ("a b-X\n", "a.conll:1: 'b-X' is not a tag"),
        ("a\tB-X Y\n", "a.conll:1: 'B-X Y' is not a tag"),
        ("a\t\n", "a.conll:1: '' is not a tag"),
        (f"a {'x' * 10**4}\n", r"a.conll:1: 'x+\.\.\. is not a tag"),
        (b"a O\nb\0 O\n", "a.conll:2: byte 2 of the line: NUL"),
        (b"a O\r\n\rb\xff O\n", "a.conll:3: byte 2 of the line: not UTF-8"),
        (b"a O\nb O\xe2\x82", "a.conll:2: byte 4 of the line: not UTF-8"),
        ("a O\n".encode("utf-16"), "a.conll:1: "),
    ],
)
def test_files_that_are_refused(tmp_path, content, told):
    message = refused(told, columns, tmp_path, content)
    assert message.startswith(str(tmp_path / "a.conll"))
    assert len(message) < len(str(tmp_path)) + 300


@pytest.mark.parametrize("column", [0, 1, 4, -3, -4])
def test_columns_that_are_not_there_are_refused(tmp_path, column):
    told = rf"a.conll:2: tags are to be in column {column}, there are 3; .*2 to 3"
    refused(told, columns, tmp_path, "\na O O\n", column)


def test_one_column_has_no_tags_to_ask_for(tmp_path):
    refused("column -1, there are 1; .*none", columns, tmp_path, "a\n", -1)


def test_a_missing_file(tmp_path):
    refused("nowhere: no such file", read_columns, tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------- writing


def test_written_columns():
    words, tags = [("a", "b c"), ("d",)], [("O", "I-X"), ("O",)]
    lines = list(column_lines(words, tags, [["I-X", "O"], ["O"]]))
    assert lines == ["a\tO\tI-X\n", "b c\tI-X\tO\n", "\n", "d\tO\tO\n", "\n"]
    assert "".join(column_lines([("a",), ()])) == "a\n\n\n"
    for short in ([], [["O"]], [["O", "O"], []]):
        with pytest.raises(ValueError, match="zip"):
            list(column_lines(words, short))


def test_gaps_are_all_that_is_no_word(tmp_path):
    for content, expected in (
        ("a O", ["", "\n"]),
        ("a O\n\n \nb O\nc O\n", ["", "\n\n", "\n"]),
        ("\n-DOCSTART- x\na O\n-DOCSTART-\nb O\n\n", ["\nX\n", "X\n", "\n"]),
    ):
        path = written(tmp_path / "a", content)
        assert list(gaps(files.TextFile.open(path), "X")) == expected
        assert len(expected) == 1 + len(read_columns(path))


# -------------------------------------------------------------------------- entities and schemes


def spans(text):
    return [f"{kind}{start}-{stop}" for kind, start, stop in entities(text.split())]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("I-X I-X O I-X", ["X0-2", "X3-4"]),
        ("B-X I-X B-X", ["X0-2", "X2-3"]),
        ("I-X I-Y B-Y", ["X0-1", "Y1-2", "Y2-3"]),
        ("B-X I-Y", ["X0-1", "Y1-2"]),
        ("B-X E-X B-X E-X", ["X0-2", "X2-4"]),
        ("S-X S-X", ["X0-1", "X1-2"]),
        ("B-X L-X U-X", ["X0-2", "X2-3"]),
        ("E-X I-X E-X", ["X0-1", "X1-3"]),
        ("S-X I-X S-X", ["X0-1", "X1-2", "X2-3"]),
        ("I-X-Y I-X I-X-Y", ["X-Y0-1", "X1-2", "X-Y2-3"]),
    ],
)
def test_entities(tags, expected):
    assert spans(tags) == expected


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob1", "I-X B-X I-X I-Y O I-X"),
        ("iob2", "B-X B-X I-X B-Y O B-X"),
        ("iobes", "S-X B-X E-X S-Y O S-X"),
    ],
)
def test_tags_of_each_scheme(scheme, tags):
    found = [Entity("X", 5, 6), Entity("X", 0, 1), Entity("X", 1, 3), Entity("Y", 3, 4)]
    assert tags_of(found, 6, scheme) == tags.split()


@pytest.mark.parametrize(
    "spans", [[(0, 0)], [(-1, 1)], [(2, 4)], [(0, 2), (1, 3)], [(1, 2), (1, 2)], [(0, 3), (1, 2)]]
)
def test_entities_that_are_no_sentence_of_tags(spans):
    with pytest.raises(ValueError, match=r"overlaps, or is not in 3 words"):
        tags_of([Entity("X", *span) for span in spans], 3, "iob2")


kinds = st.sampled_from(["X", "Y", "X-Y"])
lengths = st.tuples(st.integers(0, 2), st.integers(1, 4), kinds)


@st.composite
def annotated(draw):
    """A sentence's entities and its length."""
    found, end = [], 0
    for gap, length, kind in draw(st.lists(lengths, max_size=6)):
        found.append(Entity(kind, end + gap, end + gap + length))
        end += gap + length
    return found, end + draw(st.integers(0, 2))


@given(annotated(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
@settings(deadline=None)
def test_schemes_lose_nothing(sentence, one, other):
    found, length = sentence
    tags = tags_of(found, length, one)
    assert entities(tags) == found
    assert converted(converted(tags, other), one) == tags
    read = [Sentence(("a",) * length, tuple(tags), 1)]
    assert misplaced(read, one) == []
    assert score([tags], [converted(tags, other)]).overall == Score(*[len(found)] * 3)
    assert recognised(read) == (one if found else "iob2")


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ([], "iob2"),
        (["", "O O"], "iob2"),
        (["O B-X I-X", "B-X B-Y"], "iob2"),
        # The fewest out of place; of equally many iob2, or iobes where its letters are.
        (["B-X I-X", "O I-X"], "iob2"),
        (["B-X I-Y"], "iob2"),
        (["B-X"] * 9 + ["I-X"], "iob2"),
        (["B-X"] * 9 + ["S-X"], "iob2"),
        (["I-X B-X"], "iob1"),
        (["I-X"] * 9 + ["B-X"], "iob1"),
        (["I-X O I-X", "B-X"], "iob1"),
        (["S-X"] * 9 + ["B-X"], "iobes"),
        (["B-X", "S-X"], "iobes"),
        (["B-X E-X"], "iobes"),
        (["O", "B-X L-X"], "iobes"),
        (["U-X"], "iobes"),
        (["B-E I-E O B-S"], "iob2"),  # kinds are no letters
    ],
)
def test_recognised(tags, scheme):
    sentences = [Sentence(("a",) * len(one.split()), tuple(one.split()), 1) for one in tags]
    assert recognised(sentences) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags", "lines"),
    [
        ("iob2", "O I-X I-X B-Y I-X", [8, 11]),
        ("iob1", "O B-X I-X B-X I-Y B-X", [8, 12]),
        ("iobes", "B-X O I-X E-X S-X E-X B-X I-X", [7, 9, 12, 14]),
        ("iobes", "B-X I-X L-X U-X", []),
        ("iob2", "B-X U-X", [8]),
    ],
)
def test_misplaced(scheme, tags, lines):
    tags = tuple(tags.split())
    none = Sentence(("a",), (), 1)
    assert misplaced([none, Sentence(("a",) * len(tags), tags, 7)], scheme) == lines


# --------------------------------------------------------------------------------------- the score


def test_a_score():
    gold = [["B-X", "I-X", "O", "B-Y"], ["B-X", "O"]]
    predicted = [["B-X", "I-X", "O", "B-X"], ["O", "B-Z"]]
    got = score(gold, predicted)
    assert got.overall == Score(right=1, found=3, wanted=3)
    assert got.kinds == {"X": Score(1, 2, 2), "Y": Score(0, 0, 1), "Z": Score(0, 1, 0)}
    assert list(got.kinds) == ["X", "Y", "Z"]
    assert (got.tokens, got.agreed, got.accuracy) == (6, 3, 0.5)
    assert got.kinds["X"][:] == (1, 2, 2)
    assert got.overall.f1 == pytest.approx(1 / 3)


def test_shares():
    one = Score(right=2, found=4, wanted=8)
    assert (one.precision, one.recall, one.f1) == pytest.approx((1 / 2, 1 / 4, 1 / 3))
    assert one.percent == pytest.approx((50, 25, 100 / 3))
    none = Score(0, 0, 0)
    assert (none.precision, none.recall, none.f1, none.percent) == (0, 0, 0, (0, 0, 0))
    assert score([], []).accuracy == 0
    # 14.375, where 100 times the share is a little more.
    assert f"{Score(23, 160, 160).percent[0]:.2f}" == "14.38"


def test_a_border_of_kind_or_end_is_wrong():
    gold = [["O", "B-X", "I-X", "O"]]
    for tags, right in [
        ("O I-X I-X O", 1),
        ("O B-X E-X O", 1),
        ("B-X I-X I-X O", 0),
        ("O B-X I-X I-X", 0),
        ("O B-Y I-Y O", 0),
        ("O B-X B-X O", 0),
        ("O O I-X O", 0),
    ]:
        assert score(gold, [tags.split()]).overall.right == right, tags


def test_sentences_of_other_lengths_have_no_score():
    for other in ([], [["O"]], [["O", "O"], []]):
        with pytest.raises(ValueError, match="zip"):
            score([["O", "O"]], other)


LETTERS = ["BI", "BIO", "IO", "BIES", "BILU", "BIESLUO", "BIOES"]


def random_tags(rng, length, letters, names):
    """Tags with no regard for any scheme."""
    drawn = (rng.choice(letters) for _ in range(length))
    return [letter if letter == "O" else f"{letter}-{rng.choice(names)}" for letter in drawn]


def random_corpus(rng):
    """Gold and predicted tags of some sentences: legal and illegal, equal in part."""
    names = rng.choice([["X"], ["X", "Y"], ["X", "Y", "X-Y", "ORG"]])
    one, other = rng.choice(LETTERS), rng.choice(LETTERS)
    scheme = rng.choice([None, *SCHEMES])
    alike = rng.choice([0.2, 0.7, 0.95])
    gold, predicted = [], []
    for _ in range(rng.randint(1, 12)):
        length = rng.randint(1, 12)
        theirs = random_tags(rng, length, one, names)
        drawn = random_tags(rng, length, other, names)
        ours = [a if rng.random() < alike else b for a, b in zip(theirs, drawn, strict=True)]
        gold.append(converted(theirs, scheme) if scheme else theirs)
        predicted.append(converted(ours, scheme) if scheme and rng.random() < 0.7 else ours)
    return gold, predicted


def test_a_thousand_random_corpora_score_as_conlleval_has_it():
    rng = random.Random(1)
    seen = Counter()
    for _ in range(1_000):
        gold, predicted = random_corpus(rng)
        got = score(gold, predicted)
        told = {"": got.overall} | got.kinds
        printed = {
            kind: tuple(f"{figure:.2f}" for figure in one.percent) for kind, one in told.items()
        }
        folded = score(map(as_iobes, gold), map(as_iobes, predicted))
        accuracy = f"{100 * folded.agreed / folded.tokens:.2f}"
        assert (printed, accuracy) == conlleval(gold, predicted), (gold, predicted)
        seen["right"] += got.overall.right
        seen["wrong"] += got.overall.found - got.overall.right
    assert min(seen.values()) > 5_000, seen


def as_iobes(tags):
    """L and U under their other names, as the oracle has them."""
    return [{"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:] for tag in tags]


# --------------------------------------------------------------------------------- size and time


@pytest.mark.parametrize(
    "line", ["x" * 10**7, "ab " * 3_333_333, "\t" * 10**7, "\U0001f600" * 2_500_000]
)
def test_a_line_of_ten_megabytes_is_refused_at_once(tmp_path, line):
    path = written(tmp_path / "long", f"a O\n{line}\n")
    start = time.process_time()
    _, peak = peak_of(refused, "long:2: byte 100001 .* too long", read_columns, path)
    assert time.process_time() - start < 2
    assert peak < 2 * path.stat().st_size


def test_a_line_of_the_longest_length(tmp_path):
    path = written(tmp_path / "a", f"{'é' * 49_999} O\n{'a' * 99_998} O\n")
    assert [len(word) for word in read_columns(path)[0].words] == [49_999, 99_998]


@pytest.mark.parametrize(
    "content",
    [
        "word NN I-NP O\nother JJ I-NP I-LOC\n\n" * 20_000,
        ("a" * 49_999 + "\t" * 49_999 + "O\n") * 10,
    ],
    ids=["corpus", "many columns"],
)
def test_memory_is_three_times_the_file_and_what_is_read(tmp_path, content):
    path = written(tmp_path / "large", content)
    held, peak = peak_of(read_columns, path)
    # Beyond that a fixed part: the columns of one line.
    assert peak - held < 3 * path.stat().st_size + 4 * 2**20


def peak_of(call, *args):
    """Bytes that its result holds, and the most that it had at a time."""
    tracemalloc.start()
    try:
        kept = call(*args)
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        del kept


# ----------------------------------------------------------------------------------------- fuzzing


class Refused(Exception):
    """What the oracle says of a file: how the message goes on after its path."""


def lines_of(raw):
    """The lines of a text with their numbers, as far as they are text."""
    lines = re.split(b"\r\n|\r|\n", raw.removeprefix(b"\xef\xbb\xbf"))
    for number, line in enumerate(lines, 1):
        if b"\0" in line:
            raise Refused(f":{number}: byte {line.index(0) + 1} of the line: NUL")
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise Refused(f":{number}: byte {error.start + 1} of the line: not") from None


def columns_oracle(raw, column):
    """The sentences of a column file as the rules have them: words, tags and line."""
    sentences, inside, tabs, count = [], False, False, None
    for number, line in lines_of(raw):
        if not line.split() or line.split()[0] == "-DOCSTART-":
            inside = False
            continue
        tabs = "\t" in line if count is None else tabs
        row = [re.sub("^ +| +$", "", one) for one in line.split("\t")]
        row = row if tabs else re.findall("[^ \t]+", line)
        count = count or len(row)
        if len(row) != count or not row[0]:
            raise Refused(f":{number}: ")
        if not inside:
            sentences.append(([], [], number))
        inside = True
        sentences[-1][0].append(row[0])
        if column is not None or count > 1:
            sentences[-1][1].append(tag_of(row, -1 if column is None else column, number))
    if not sentences:
        raise Refused(": the file is empty")
    return [Sentence(tuple(words), tuple(tags), line) for words, tags, line in sentences]


def tag_of(row, column, number):
    named = dict(enumerate(row[1:], 2)) | {i - len(row): row[i] for i in range(1, len(row))}
    if column not in named:
        raise Refused(f":{number}: tags are to be in column {column}")
    tag = named[column]
    kind = tag[2:]
    if tag != "O" and (not re.match("[BIESLU]-", tag) or not kind or kind.split() != [kind]):
        raise Refused(f":{number}: {tag!r} is not")
    return tag


PIECES = [
    *(piece.encode() for piece in ("a", "b", "ab", " ", "  ", "\t", "#", "é", "日", "😀", "-")),
    *(piece.encode() for piece in ("\u00a0", "\u2028", "\x85", "\x1c", "\x0b", "\ufeff")),
    *(b"\n", b"\n\n", b"\r\n", b"\r", b" \n", b"a O\n", b"b B-X\n", b"a I-X\n", b"b\tO\n"),
    *(b" O", b"\tO", b" B-X", b" I-X-Y\r\n", b"a\tE-X\n", b"b X O\n", b"-DOCSTART- O\n", b"\t\n"),
]
POISON = [b"\0", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80"]


def fuzzed(rng):
    few = rng.sample(PIECES, rng.randint(1, 6)) if rng.random() < 0.5 else PIECES
    if rng.random() < 0.5:  # mostly legal
        few = rng.choice([PIECES[17:], [b"a O\n", b"b B-X\n", b"\n", b"-DOCSTART- O\n", *few[:1]]])
    pieces = rng.choices(few, k=rng.randint(0, rng.choice([3, 8, 30])))
    if rng.random() < 0.1:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(POISON))
    return (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + b"".join(pieces)


def outcome_of(call, *args):
    """What it returns, or what it says where it refuses."""
    try:
        return call(*args)
    except (Refused, BadInput) as refusal:
        return str(refusal)


def fuzz(tmp_path, monkeypatch, seed, corpora):
    """Read so many fuzzed files; the number that were accepted and refused."""
    rng = random.Random(seed)
    seen = Counter()
    for _ in range(corpora):
        monkeypatch.setattr(files, "_BLOCK", rng.choice([1, 2, 3, 7, 1 << 20]))
        raw = fuzzed(rng)
        path = written(tmp_path / "fuzzed", raw)
        column = rng.choice([None, None, None, -1, 2, 3, 0, -2])
        expected = outcome_of(columns_oracle, raw, column)
        got = outcome_of(read_columns, path, column)
        if isinstance(expected, str):
            assert isinstance(got, str), (raw, column)
            assert got.startswith(f"{path}{expected}"), (raw, column)
        else:
            assert got == expected, (raw, column)
            written_again(tmp_path / "again", got)
        seen["refused" if isinstance(expected, str) else "accepted"] += 1
    return seen


def written_again(path, sentences):
    """What is written of sentences reads as they were."""
    if sentences[0].words[0][0] == "\ufeff" or any("-DOCSTART-" in one.words for one in sentences):
        return  # a byte order mark, and a border
    scheme = recognised(sentences)
    predicted = [one.tags or ("B-X",) * len(one.words) for one in sentences]
    predicted = [converted(tags, scheme) for tags in predicted]
    lines = column_lines([one.words for one in sentences], predicted)
    again = read_columns(written(path, "".join(lines)))
    assert [one.words for one in again] == [one.words for one in sentences]
    assert [list(one.tags) for one in again] == predicted
    assert misplaced(again, scheme) == []


def test_some_hundred_fuzzed_files(tmp_path, monkeypatch):
    seen = fuzz(tmp_path, monkeypatch, seed=1, corpora=1_000)
    assert min(seen["accepted"], seen["refused"]) > 60, seen


@pytest.mark.slow
def test_ten_thousand_fuzzed_files(tmp_path, monkeypatch):
    seen = fuzz(tmp_path, monkeypatch, seed=2, corpora=10_000)
    assert min(seen["accepted"], seen["refused"]) > 3_000, seen


# ------------------------------------------------------------------------------ the benchmark data


def sizes(sentences):
    words = sum(len(one.words) for one in sentences)
    return len(sentences), words, sum(len(entities(one.tags)) for one in sentences)


@pytest.mark.parametrize(
    ("name", "expected", "wrong"),
    [
        ("eng.train", (14_041, 203_621, 23_499), [152_428, 175_436]),  # B-MISC after O
        ("eng.testa", (3_250, 51_362, 5_942), []),
        ("eng.testb", (3_453, 46_435, 5_648), []),
    ],
)
def test_conll_2003(name, expected, wrong):
    read = read_columns(benchmark(f"data/conll2003/{name}"))
    assert sizes(read) == expected
    assert recognised(read) == "iob1"
    assert misplaced(read, "iob1") == wrong


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wnut17train.conll", (3_394, 62_730, 1_975)),
        ("emerging.dev.conll", (1_009, 15_733, 836)),
        ("emerging.test.annotated", (1_287, 23_394, 1_079)),
    ],
)
def test_wnut_17(name, expected):
    read = read_columns(benchmark(f"data/wnut17/{name}"))
    assert sizes(read) == expected
    assert recognised(read) == "iob2"
    assert misplaced(read, "iob2") == []
