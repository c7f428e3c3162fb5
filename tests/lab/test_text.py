"""Every rule of `recdrop.lab.text` and `recdrop.lab.vocabulary`.

An oracle of them all, which fuzzed files are held against.
"""

import hashlib
import json
import random
import re
import time
import tracemalloc
from collections import Counter

import pytest
import torch

from recdrop.lab import files
from recdrop.lab.config import TextData
from recdrop.lab.errors import BadInput
from recdrop.lab.text import read_corpus, read_text, unknown_shares
from recdrop.lab.vocabulary import Vocabulary, decode_text, encode_line
from tests.lab.benchmark_data import benchmark

NAMES = ("train.txt", "valid.txt", "test.txt")


def folder(path, train, valid="a\n", test="a\n", names=NAMES):
    path.mkdir(exist_ok=True)
    for name, content in zip(names, (train, valid, test), strict=True):
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def corpus(path, train, valid="a\n", test="a\n", task="word-lm", **data):
    return read_corpus(folder(path, train, valid, test), task, TextData(**data))


def symbols(corpus, part="train"):
    return corpus.vocabulary.decode(getattr(corpus, part))


def refused(pattern, call, *args, **kwargs):
    with pytest.raises(BadInput, match=pattern) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# --------------------------------------------------------------------------------- words and lines


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a b\na\n", "a b / a /"),
        ("a b\na", "a b / a /"),  # no final line end
        (" a\tb \n  a\n", "a b / a /"),
        ("a\n\n \nb\n", "a / / / b /"),  # blank lines
        ("\na\n\n", "/ a / /"),
        ("a\n ", "a /"),  # blanks after the last line end are no line
        ("a\r\nb\rc\n", "a / b / c /"),
        ("a\r\r\nb", "a / / b /"),
        ("a\u00a0b\u2028c\x0bd\x0ce\x85f\n", "a b c d e f /"),  # blanks, not line ends
        ("\ufeffa b\n", "a b /"),
        ("\ufeff\ufeffa\n", "\ufeffa /"),  # only the first is a mark
        ("a <eos>\nb\n", "a / b /"),
        ("a <eos> b <eos>\n", "a / b /"),
        ("a <eos>", "a /"),
        ("a <eos> <eos>\n\n", "a / / /"),
        ("<eos> a\n", "/ a /"),
        ("a<eos>\n", "a<eos> /"),  # not that word
        ("a <unk> a\n", "a <unk> a /"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_words_and_lines(tmp_path, monkeypatch, content, expected, block):
    monkeypatch.setattr(files, "_BLOCK", block)
    read = corpus(tmp_path, content, content, content)
    assert symbols(read) == ["<eos>" if word == "/" else word for word in expected.split(" ")]
    assert read.train.dtype == torch.int64
    assert read.splitting == "words"


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_characters(tmp_path, monkeypatch, block):
    monkeypatch.setattr(files, "_BLOCK", block)
    content = "\ufeffa é\r\n\rb\t\u2028日😀<eos>\n"
    read = corpus(tmp_path, content, task="char-lm", symbols="characters")
    assert symbols(read) == list("a é\n\nb\t\u2028日😀<eos>\n")
    assert read.vocabulary.eos is None
    assert read.vocabulary.symbols[0] == "\n"
    assert read.vocabulary.symbols[-1] == "<unk>"


def test_more_characters_than_fit_a_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK", 100)  # the first blocks have few
    content = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 2
    read = corpus(tmp_path, content, content, content, symbols="characters", unknown=False)
    assert symbols(read) == list(content)
    assert len(read.vocabulary) == 300


def test_files_tell_name_digest_and_tokens(tmp_path):
    read = corpus(tmp_path, b"a b\r\na b\n", "b a\n", "a\n", share=0.5)
    assert [source.tokens for source in read.files.values()] == [6, 3, 2]
    assert read.files["train"].name == "train.txt"
    assert read.files["train"].sha256 == hashlib.sha256(b"a b\r\na b\n").hexdigest()
    assert read.files["valid"].sha256 != read.files["test"].sha256
    assert symbols(read) == ["a", "b", "<eos>"]  # the share; the vocabulary is of the whole
    assert symbols(read, "valid") == ["b", "a", "<eos>"]


def test_files_tell_how_much_of_them_is_unknown(tmp_path):
    read = corpus(tmp_path, "a a b b c\n", "b x\n", "a\n", min_count=2, share=0.5)
    assert [source.unknown for source in read.files.values()] == [1, 1, 0]
    sources = {name: source._asdict() for name, source in read.files.items()}
    assert unknown_shares(sources | {"tags": ["O"]}) == "train 16.7%, valid 33.3%"
    closed = corpus(tmp_path, "a <unk>\n", unknown=False)  # a word like others
    assert [source.unknown for source in closed.files.values()] == [0, 0, 0]
    assert not unknown_shares({"train": {"name": "older.txt", "tokens": 3}})


def test_a_share_keeps_at_least_one_symbol_and_the_whole_vocabulary(tmp_path):
    read = corpus(tmp_path, "a b\nc d\n", share=0.01)
    assert symbols(read) == ["a"]
    assert set(read.vocabulary.symbols) == {"a", "b", "c", "d", "<eos>", "<unk>"}
    assert read.train.untyped_storage().nbytes() == 8  # the rest is let go


# ----------------------------------------------------------------------------------- what is auto


@pytest.mark.parametrize(
    ("content", "task", "splitting"),
    [
        ("t h e _ c a t\n s a t\n", "char-lm", "spaced"),
        ("the cat\n", "char-lm", "characters"),
        ("a b c de\n", "char-lm", "characters"),
        ("a " * 999 + "bc\n", "char-lm", "characters"),
        ("a " * 1000 + "bc\n", "char-lm", "spaced"),
        ("a b\n", "word-lm", "words"),
        ("the cat\n", "word-lm", "words"),
    ],
)
def test_auto(tmp_path, content, task, splitting):
    read = corpus(tmp_path, content, content, content, task=task, symbols="auto")
    assert read.splitting == splitting
    expected = list(content) if splitting == "characters" else content.replace("\n", " <eos> ")
    assert symbols(read) == (expected if isinstance(expected, list) else expected.split())


def test_beside_spaced_symbols_a_text_of_words_is_refused(tmp_path):
    spaced, words = "t h e _ c a t\n" * 200, "the cat\n"
    told = "words of several letters; expected single symbols between blanks"
    for texts in ((spaced, words, spaced), (spaced, spaced, words)):
        refused(told, corpus, tmp_path, *texts, task="char-lm", symbols="auto")
    late = spaced + words  # which training would take too
    read = corpus(tmp_path, late, late, late, task="char-lm", symbols="auto")
    assert "the" in read.vocabulary.symbols
    other = tmp_path / "other.txt"
    other.write_text(words)
    assert str(other) in refused(told, read_text, other, read.vocabulary)


def test_words_asked_for_are_words_in_a_character_model_too(tmp_path):
    assert corpus(tmp_path, "a b\n", task="char-lm", symbols="words").splitting == "words"


# --------------------------------------------------------------------------------- the vocabulary


def test_order_is_by_count_then_by_first_appearance(tmp_path):
    read = corpus(tmp_path, "c b b a <eos> d d\n\n")
    assert read.vocabulary.symbols == ("<eos>", "b", "d", "c", "a", "<unk>")
    read = corpus(tmp_path, "<unk> a a\n")
    assert read.vocabulary.symbols == ("a", "<unk>", "<eos>")
    # The text's own <eos> came before the line's end, at the same place as any other tie.
    read = corpus(tmp_path, "<eos> a a b b\n")
    assert read.vocabulary.symbols == ("<eos>", "a", "b", "<unk>")


def test_a_cut_vocabulary_counts_eos_and_unk(tmp_path):
    content = "a a a b b c\n"
    read = corpus(tmp_path, content, vocabulary=4)
    assert read.vocabulary.symbols == ("a", "b", "<eos>", "<unk>")
    assert symbols(read) == ["a", "a", "a", "b", "b", "<unk>", "<eos>"]
    assert len(corpus(tmp_path, content, vocabulary=5).vocabulary) == 5
    assert len(corpus(tmp_path, content, vocabulary=50).vocabulary) == 5
    read = corpus(tmp_path, content, task="char-lm", symbols="characters", vocabulary=3)
    assert read.vocabulary.symbols == (" ", "a", "<unk>")


def test_min_count_spares_eos_and_unk(tmp_path):
    read = corpus(tmp_path, "a a a b b c <unk>\n", min_count=3)
    assert read.vocabulary.symbols == ("a", "<unk>", "<eos>")
    assert symbols(read) == ["a", "a", "a", "<unk>", "<unk>", "<unk>", "<unk>", "<eos>"]


def test_unknown_symbols(tmp_path):
    read = corpus(tmp_path, "a b\n", "b x\n", "y a\n")
    assert symbols(read, "valid") == ["b", "<unk>", "<eos>"]
    assert symbols(read, "test") == ["<unk>", "a", "<eos>"]
    told = refused("'x' is not", corpus, tmp_path, "a\n", "a\n\n a\n a x\n", unknown=False)
    assert f"{tmp_path / 'valid.txt'}:4: " in told


def test_without_unknown_an_unk_in_the_text_is_a_word_only(tmp_path):
    read = corpus(tmp_path, "a <unk>\n", "a <unk>\n", "<unk>\n", unknown=False)
    assert read.vocabulary.unknown is None
    assert symbols(read, "valid") == ["a", "<unk>", "<eos>"]
    refused("test.txt:1: 'x'", corpus, tmp_path, "a <unk>\n", "a\n", "x\n", unknown=False)


def test_the_line_of_an_unknown_symbol(tmp_path):
    def told(test, **data):
        return refused("not in the vocabulary", corpus, tmp_path, "a\n", "a\n", test, **data)

    assert "test.txt:3: 'x'" in told("a <eos>\na <eos> a <eos>\nx\n", unknown=False)
    assert "test.txt:1: 'x'" in told("a <eos> a <eos> x\na\n", unknown=False)
    assert "test.txt:3: 'x'" in told(b"a\ra\r\nax", symbols="characters", unknown=False)
    assert len(told("x" * 10**4, unknown=False)) < 400  # a huge word is cut short


@pytest.mark.parametrize("symbols", ["words", "characters"])
def test_a_file_that_is_all_unknown_is_refused(tmp_path, symbols):
    for valid in ("x y\nz\n", "<unk>\n" if symbols == "words" else "\u044f \u0436\n"):
        refused("valid.txt: nothing in it", corpus, tmp_path, "a b\n", valid, symbols=symbols)
    refused("train.txt: nothing in it", corpus, tmp_path, "a b\n", min_count=5, symbols=symbols)
    vocabulary = corpus(tmp_path, "a b\n", symbols=symbols).vocabulary
    other = tmp_path / "other.txt"
    other.write_text("\n\nx")
    refused("other.txt: nothing in it", read_text, other, vocabulary)


def test_encode_and_decode():
    vocabulary = Vocabulary(("a", "<eos>", "b"))
    assert vocabulary.encode(["b", "<eos>", "a"]) == [2, 1, 0]
    assert vocabulary.decode(torch.tensor([2, 1, 0])) == ["b", "<eos>", "a"]
    assert (len(vocabulary), vocabulary.eos, vocabulary.unknown) == (3, 1, None)
    refused("'x' is not in the vocabulary", vocabulary.encode, ["a", "x"])
    assert Vocabulary(("<unk>", "a")).encode(["x", "a"]) == [0, 1]
    with pytest.raises(AttributeError):
        vocabulary.symbols = ()
    with pytest.raises(ValueError, match="'a' is there twice"):
        Vocabulary(("a", "b", "a"))


# ------------------------------------------------------------------------------- vocabulary files


@pytest.mark.parametrize("splitting", ["words", "spaced", "characters"])
def test_a_vocabulary_survives_json(splitting):
    vocabulary = Vocabulary(("a", '"\n', "é😀", "<unk>", "\u2028"), splitting, closed=True)
    again = Vocabulary.from_json(vocabulary.to_json(), "v.json")
    assert again == vocabulary
    assert again.sha256 == vocabulary.sha256
    assert Vocabulary.from_json(vocabulary.to_json().encode(), "v.json") == vocabulary
    assert json.loads(vocabulary.to_json())["schema"] == 1


def test_the_digest_is_of_everything():
    some = [
        Vocabulary(("a", "b")),
        Vocabulary(("b", "a")),
        Vocabulary(("a", "b"), "spaced"),
        Vocabulary(("a", "b"), closed=True),
    ]
    assert len({vocabulary.sha256 for vocabulary in some}) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema: 2 is of a newer recdrop, this one reads up to 1"),
        ({"schema": 0}, "schema: "),
        ({"schema": "1"}, "schema: "),
        ({"splitting": "bytes"}, "splitting: "),
        ({"closed": None}, "closed: "),
        ({"symbols": ["a", "b", "a"]}, "'a' is there twice"),
        ({"symbols": ["a", 1]}, "symbols.1: "),
        ({"symbols": "ab"}, "symbols: "),
        ({"symbols": []}, "symbols: "),
        ({"more": 1}, "more: no such key"),
    ],
)
def test_a_wrong_vocabulary_file_is_refused_by_name(change, told):
    content = json.loads(Vocabulary(("a", "b")).to_json()) | change
    message = refused("^in/v.json is not a", Vocabulary.from_json, json.dumps(content), "in/v.json")
    assert told in message


@pytest.mark.parametrize("cut", [0, 1, 30, -3])
def test_a_broken_vocabulary_file_is_refused_by_name(cut):
    content = Vocabulary(("a", "b")).to_json()[:cut]
    refused("^v.json is not a", Vocabulary.from_json, content, "v.json")
    refused("^v.json is not a", Vocabulary.from_json, content.encode() + b"\xff", "v.json")
    refused("^v.json is not a", Vocabulary.from_json, "[" * 100_000, "v.json")
    refused("^v.json is not a", Vocabulary.from_json, '{"symbols": ["\\ud800"]}', "v.json")


# ------------------------------------------------------------------------------------ which files


@pytest.mark.parametrize(
    ("names", "task"),
    [
        ("{}.txt", "word-lm"),
        ("ptb.{}.txt", "word-lm"),
        ("ptb.{}.txt", "char-lm"),
        ("ptb.char.{}.txt", "char-lm"),
        ("wiki.{}.tokens", "word-lm"),
    ],
)
def test_names_in_a_folder(tmp_path, names, task):
    files = [names.format(part) for part in ("train", "valid", "test")]
    folder(tmp_path, "a b\n", "a\n", "b\n", files)
    read = read_corpus(tmp_path, task, TextData())
    assert [source.name for source in read.files.values()] == files
    assert symbols(read, "test") == ["b", "<eos>"]


def test_each_task_takes_its_own_of_mikolovs_files(tmp_path):
    for kind in ("ptb", "ptb.char"):
        names = [f"{kind}.{part}.txt" for part in ("train", "valid", "test")]
        folder(tmp_path, "a b\n", names=names)
    of = {task: read_corpus(tmp_path, task, TextData()).files for task in ("word-lm", "char-lm")}
    assert of["word-lm"]["train"].name == "ptb.train.txt"
    assert of["char-lm"]["train"].name == "ptb.char.train.txt"


def test_missing_files_are_named(tmp_path):
    told = refused("no training text", read_corpus, tmp_path, "char-lm", TextData())
    for part in (str(tmp_path), "train.txt", "ptb.char.train.txt", "wiki.train.tokens"):
        assert part in told
    assert "simple-examples.tgz" in told
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "test.txt").mkdir()
    told = refused("but not valid.txt and test", read_corpus, tmp_path, "word-lm", TextData())
    refused("nowhere: no such file", read_corpus, tmp_path / "nowhere", "word-lm", TextData())
    refused("is a folder; expected a text file", read_text, tmp_path, Vocabulary(("a",)))


def test_one_file_of_words_is_split_by_lines(tmp_path):
    path = tmp_path / "own.txt"
    lines = [f"a w{i}\n" for i in range(45)]
    path.write_text("".join(lines))
    read = read_corpus(path, "word-lm", TextData())
    assert [source.tokens for source in read.files.values()] == [41 * 3, 2 * 3, 2 * 3]
    assert {source.name for source in read.files.values()} == {"own.txt"}
    assert symbols(read)[-3:] == ["a", "w40", "<eos>"]
    # What the training part has not is unknown, and a part may be unknown altogether.
    assert symbols(read, "valid") == ["a", "<unk>", "<eos>"] * 2
    path.write_text("".join(f"w{i}\n" for i in range(20)))
    assert symbols(read_corpus(path, "word-lm", TextData()), "test") == ["<unk>", "<eos>"]


def test_one_file_of_characters_is_split_by_characters(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(b"abcdefghij\r\n" * 4 + b"abcd")
    read = read_corpus(path, "char-lm", TextData(symbols="auto"))
    parts = ["".join(symbols(read, part)) for part in ("train", "valid", "test")]
    assert parts == [("abcdefghij\n" * 4 + "abcd")[:44], "ab", "cd"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a\n" * 19, "own.txt has 19 lines.*at least 20"),
        ("a\n" * 19 + "\n", "its last 5 %.*blank"),
        ("a\n" * 18 + "\na\n", "its next 5 %.*blank"),
        ("\n" * 18 + "a\na\n", "its first 90 %.*blank"),
    ],
)
def test_one_file_that_is_too_short_is_refused(tmp_path, content, told):
    path = tmp_path / "own.txt"
    path.write_text(content)
    refused(told, read_corpus, path, "word-lm", TextData())
    path.write_text("abcde" * 3)
    with pytest.raises(BadInput, match="15 characters.*at least 20"):
        read_corpus(path, "char-lm", TextData(symbols="characters"))


def test_in_one_file_the_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("a\n" * 39 + "x\n")
    data = TextData(unknown=False)
    refused("own.txt:40: 'x'", read_corpus, path, "word-lm", data)
    data = TextData(unknown=False, symbols="characters")
    refused("own.txt:40: 'x'", read_corpus, path, "char-lm", data)


# ------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("symbols", ["words", "characters"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "train.txt: the file is empty"),
        (b"\xef\xbb\xbf", "train.txt: the file is empty"),
        (b"\n \r\n\t\n", "train.txt: the file is empty or all blank"),
        ("\u00a0\u2003".encode(), "train.txt: the file is empty or all blank"),
        (b"a\r\nb\rc\0\n", "train.txt:3: byte 2 of the line: NUL"),
        (b"\0", "train.txt:1: byte 1"),
        (b"a\nbc \xff d\n", "train.txt:2: byte 4 of the line: not UTF-8"),
        (b"\xef\xbb\xbfa\xffb", "train.txt:1: byte 2 of the line: not UTF-8"),
        (b"a\n\xe2\x82", "train.txt:2: byte 1 of the line: not UTF-8"),  # cut at the end
        (b"a\n\xc3\nb\n", "train.txt:2: byte 1 of the line: not UTF-8"),
        (b"a\n\xed\xa0\x80\n", "train.txt:2: byte 1 of the line: not UTF-8"),  # a surrogate
        ("a b\n".encode("utf-16"), "train.txt:1: "),
        ("é\n".encode("latin-1"), "train.txt:1: byte 1 of the line: not UTF-8"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_broken_files_are_refused(tmp_path, monkeypatch, content, told, symbols, block):
    monkeypatch.setattr(files, "_BLOCK", block)
    message = refused(re.escape(told), corpus, tmp_path, content, symbols=symbols)
    assert message.startswith(str(tmp_path / "train.txt"))


def test_one_symbol_is_a_corpus(tmp_path):
    read = corpus(tmp_path, "a", "a", "a", symbols="characters", unknown=False)
    assert symbols(read) == ["a"]
    assert len(read.vocabulary) == 1


@pytest.mark.parametrize(
    ("content", "splitting", "symbols", "counts"),
    [
        ("ab " * 3_333_333, "words", ["ab", "<eos>"], [3_333_333, 1]),
        ("ab " * 3_333_333, "characters", ["b", " ", "a"], [3_333_333] * 3),
        ("x" * 10**7, "words", ["x" * 10**7, "<eos>"], [1, 1]),
        ("x" * 10**7, "characters", ["x"], [10**7]),
    ],
    ids=["words", "characters", "one word", "one character"],
)
def test_a_line_of_ten_megabytes(tmp_path, content, splitting, symbols, counts):
    path = tmp_path / "long.txt"
    path.write_text(content)
    ids = read_text(path, Vocabulary(tuple(symbols), splitting))
    assert ids.bincount().tolist() == counts


@pytest.mark.parametrize("symbols", ["words", "characters"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ab " * 3_333_333 + b"\xff", "train.txt:1: byte 10000000 of the line: not UTF-8"),
        (b"x" * 10**7 + b"\0", "train.txt:1: byte 10000001 of the line: NUL"),
        (b"ab and more\n" * 833_333 + b"\xff", "train.txt:833334: byte 1 of the line: not UTF-8"),
        (b" " * 99 + b"\n" * 100_000, "train.txt: the file is empty or all blank"),
    ],
    ids=["line", "word", "lines", "blank"],
)
def test_ten_broken_megabytes_are_refused_in_two_seconds(tmp_path, content, told, symbols):
    folder(tmp_path, content)
    start = time.process_time()
    refused(re.escape(told), read_corpus, tmp_path, "word-lm", TextData(symbols=symbols))
    assert time.process_time() - start < 2.0


# --------------------------------------------------------------------------- prompts and printing


WORDS = Vocabulary(("the", "cat", "<eos>", "<unk>"))
SPACED = Vocabulary((*"thecas_", "<eos>"), "spaced")
CHARACTERS = Vocabulary(tuple("the cas\n"), "characters")


@pytest.mark.parametrize(
    ("vocabulary", "prompt", "expected"),
    [
        (WORDS, " the  cat\nthe dog ", ["the", "cat", "<eos>", "the", "<unk>"]),
        (WORDS, "the <eos>", ["the", "<eos>"]),
        (WORDS, "the\r\ncat\r", ["the", "<eos>", "cat", "<eos>"]),
        (WORDS, "", []),
        (SPACED, "the cat ", list("the_cat_")),
        (SPACED, "the \t_cat\nhe", [*"the__cat", "<eos>", *"he"]),
        (CHARACTERS, "the cat\r\n", list("the cat\n")),
    ],
)
def test_prompts(vocabulary, prompt, expected):
    assert vocabulary.decode(encode_line(prompt, vocabulary)) == expected


def test_a_prompt_with_an_unknown_symbol_is_refused():
    refused("'x' is not in the vocabulary", encode_line, "the x", CHARACTERS)


@pytest.mark.parametrize(
    ("vocabulary", "ids", "expected"),
    [
        (WORDS, [0, 1, 2, 0, 3, 2, 2, 1], "the cat\nthe <unk>\n\ncat"),
        (WORDS, [2, 0], "\nthe"),
        (WORDS, [], ""),
        (SPACED, SPACED.encode([*"the_cat", "<eos>", *"a"]), "the cat\na"),
        (CHARACTERS, CHARACTERS.encode("the cat\n\n"), "the cat\n\n"),
    ],
)
def test_printing(vocabulary, ids, expected):
    assert decode_text(ids, vocabulary) == expected
    assert decode_text(torch.tensor(ids, dtype=torch.int64), vocabulary) == expected


def test_what_is_printed_is_read_again(tmp_path):
    read = corpus(tmp_path, "a b\n\n c a <unk>\n")
    (tmp_path / "again.txt").write_text(decode_text(read.train, read.vocabulary))
    assert torch.equal(read_text(tmp_path / "again.txt", read.vocabulary), read.train)


# -------------------------------------------------------------------------------------- fuzzing


class Refused(Exception):
    """What the oracle says of a file: its name, and the line where the rules name one."""


def broken(name, raw):
    """Refuse bytes that are no text."""
    lines = re.split(rb"\r\n|\r|\n", raw.removeprefix(b"\xef\xbb\xbf"))
    for number, line in enumerate(lines, 1):
        if b"\0" in line:
            raise Refused(f"{name}:{number}: ")
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            raise Refused(f"{name}:{number}: ") from None


def tokens(name, raw, splitting):
    """The symbols of a text, each with its line."""
    broken(name, raw)
    content = re.sub("\r\n?", "\n", raw.decode().removeprefix("\ufeff"))
    lines = content.split("\n")
    if splitting == "characters":
        ended = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
        found = [(char, number) for number, line in enumerate(ended, 1) for char in line]
    else:
        found = []
        for number, line in enumerate(lines if lines[-1].strip() else lines[:-1], 1):
            words = line.split()
            if words[-1:] != ["<eos>"]:
                words.append("<eos>")
            found += [(word, number) for word in words]
    not_blank(name, found)
    if splitting == "spaced" and not is_spaced(raw):
        raise Refused(f"{name} has words ")
    return found


def is_spaced(raw):
    return all(len(word) == 1 for word in raw.decode().removeprefix("\ufeff").split()[:1000])


def not_blank(name, found):
    if all(symbol == "<eos>" or symbol.isspace() for symbol, _ in found):
        raise Refused(f"{name}: ")


def parts_of(name, found, splitting):
    """A file's symbols, split."""
    by_words = splitting != "characters"
    stops = [i + 1 for i, (symbol, _) in enumerate(found) if symbol == "<eos>" or not by_words]
    held = len(stops) // 20
    if not held:
        raise Refused(f"{name} has ")
    first, second = stops[-2 * held - 1], stops[-held - 1]
    parts = [found[:first], found[first:second], found[second:]]
    for part in parts:
        not_blank(name, part)
    return parts


def vocabulary_of(found, data):
    counts = Counter(symbol for symbol, _ in found)
    ranked = [symbol for symbol, _ in counts.most_common()]
    if data.unknown and "<unk>" not in counts:
        ranked.append("<unk>")
    kept = {symbol for symbol in ranked if symbol in ("<eos>", "<unk>")}
    room = (data.vocabulary or 10**9) - len(kept)
    often = [s for s in ranked if s not in kept and counts[s] >= data.min_count]
    kept |= set(often[:room])
    return tuple(symbol for symbol in ranked if symbol in kept)


def encoded(name, found, vocabulary, data, alone):
    known = set(vocabulary)
    for symbol, line in found:
        if symbol not in known and not data.unknown:
            raise Refused(f"{name}:{line}: ")
    told = [symbol if symbol in known else "<unk>" for symbol, _ in found]
    nothing = {"<eos>", "<unk>"} if data.unknown else {"<eos>"}
    if alone and all(symbol in nothing or symbol.isspace() for symbol in told):
        raise Refused(f"{name}: ")
    return told


def oracle(raws, task, data):
    """What reading comes to: splitting, vocabulary and three lists of symbols, or Refused."""
    names = NAMES if len(raws) == 3 else ["own.txt"]
    splitting = data.symbols
    if splitting == "auto" and task == "word-lm":
        splitting = "words"
    elif splitting == "auto":
        broken(names[0], raws[0])
        splitting = "spaced" if is_spaced(raws[0]) else "characters"
    read = [tokens(name, raw, splitting) for name, raw in zip(names, raws, strict=True)]
    parts = read if len(read) == 3 else parts_of(names[0], read[0], splitting)
    vocabulary = vocabulary_of(parts[0], data)
    told = [
        encoded(names[min(i, len(names) - 1)], part, vocabulary, data, len(raws) == 3 or i == 0)
        for i, part in enumerate(parts)
    ]
    return splitting, vocabulary, told


PIECES = [
    *(piece.encode() for piece in ("a", "b", "c", "ab", " ", "  ", "_", "\t", "é", "日", "😀")),
    *(piece.encode() for piece in ("\u00a0", "\u2028", "\x85", "\x1c", "\x0b", "\x0c", "\ufeff")),
    *(b"\n", b"\n", b"\n", b"\r\n", b"\r", b"a\n", b"b a\n", b"a b ", b" <eos>", b" <unk> "),
    *(b"<eos>\n", b"<unk>"),
]
POISON = [b"\0", b"\xff", b"\xc3", b"\xe2\x82", b"\x80", b"\xed\xa0\x80"]


def fuzzed(rng):
    longest = rng.choice([3, 20, 60, 120])
    few = rng.sample(PIECES, rng.randint(1, 8)) if rng.random() < 0.6 else PIECES
    pieces = rng.choices(few, k=rng.randint(0, longest))
    if rng.random() < 0.1:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(POISON))
    return (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + b"".join(pieces)


def fuzzed_data(rng):
    unknown = rng.random() < 0.6
    return TextData(
        symbols=rng.choice(["words", "characters", "auto"]),
        unknown=unknown,
        vocabulary=rng.choice([None, 3, 4, 6]) if unknown else None,
        min_count=rng.choice([1, 1, 2, 5]) if unknown else 1,
    )


def fuzz(tmp_path, monkeypatch, seed, corpora):
    """Read so many fuzzed files or folders; the number that were accepted and refused."""
    rng = random.Random(seed)
    read = Counter()
    for _ in range(corpora):
        monkeypatch.setattr(files, "_BLOCK", rng.choice([1, 2, 3, 7, 1 << 20]))
        task, data = rng.choice(["word-lm", "char-lm"]), fuzzed_data(rng)
        train = fuzzed(rng)
        raws = [train] if rng.random() < 0.5 else [train, *rng.choices([train, fuzzed(rng)], k=2)]
        if len(raws) == 3:
            path = folder(tmp_path / "three", *raws)
        else:
            path = tmp_path / "own.txt"
            path.write_bytes(train)
        where = path if len(raws) == 3 else tmp_path
        context = (raws, task, data)
        expected = outcome_of(oracle, raws, task, data)
        got = outcome_of(read_corpus, path, task, data)
        if isinstance(expected, str):
            assert isinstance(got, str), context
            assert got.startswith(str(where / expected)), context
        else:
            assert not isinstance(got, str), (got, context)
            told = [symbols(got, part) for part in ("train", "valid", "test")]
            assert (got.splitting, got.vocabulary.symbols, told) == expected, context
            if len(raws) == 3:
                assert torch.equal(read_text(path / "test.txt", got.vocabulary), got.test), context
        read["refused" if isinstance(expected, str) else "accepted"] += 1
    return read


def outcome_of(call, *args):
    """What it returns, or what it says where it refuses."""
    try:
        return call(*args)
    except (Refused, BadInput) as refusal:
        return str(refusal)


def test_a_thousand_fuzzed_files(tmp_path, monkeypatch):
    read = fuzz(tmp_path, monkeypatch, seed=1, corpora=1_000)
    assert min(read["accepted"], read["refused"]) > 200, read


@pytest.mark.slow
def test_ten_thousand_fuzzed_files(tmp_path, monkeypatch):
    read = fuzz(tmp_path, monkeypatch, seed=2, corpora=10_000)
    assert min(read["accepted"], read["refused"]) > 2_000, read


# ----------------------------------------------------------------------------- the benchmark texts


def sizes(read):
    assert [len(read.train), len(read.valid), len(read.test)] == [
        source.tokens for source in read.files.values()
    ]
    return [source.tokens for source in read.files.values()]


def test_the_words_of_the_penn_treebank():
    read = read_corpus(benchmark("data/ptb"), "word-lm", TextData())
    assert sizes(read) == [929_589, 73_760, 82_430]
    assert len(read.vocabulary) == 10_000
    assert int((read.train == read.vocabulary.eos).sum()) == 42_068
    assert read.vocabulary.symbols[:3] == ("the", "<unk>", "<eos>")


def test_the_characters_of_the_penn_treebank():
    data = TextData(symbols="auto", unknown=False)
    read = read_corpus(benchmark("data/ptb"), "char-lm", data)
    assert read.splitting == "spaced"
    assert sizes(read) == [5_017_482, 393_042, 442_423]
    assert len(read.vocabulary) == 50
    assert read.vocabulary.unknown is None
    begun = decode_text(read.valid[:60], read.vocabulary)
    assert begun.startswith("consumers may want to move their telephones")


def test_the_words_of_wikitext_2():
    read = read_corpus(benchmark("data/wikitext2"), "word-lm", TextData())
    assert sizes(read) == [2_088_628, 217_646, 245_569]
    assert len(read.vocabulary) == 33_278


def test_shakespeare_as_one_file():
    path = benchmark("data/tinyshakespeare") / "input.txt"
    read = read_corpus(path, "char-lm", TextData(symbols="auto", unknown=False))
    assert read.splitting == "characters"
    assert sum(sizes(read)) == 1_115_394
    assert len(read.vocabulary) == 65
    whole = torch.cat([read.train, read.valid, read.test])
    assert decode_text(whole.tolist(), read.vocabulary) == path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "limit"), [("word-lm", 2.0), ("char-lm", 4.0)])
def test_the_penn_treebank_is_read_in_seconds(task, limit):
    path = benchmark("data/ptb")
    start = time.perf_counter()
    read_corpus(path, task, TextData(symbols="auto"))
    assert time.perf_counter() - start < limit


@pytest.mark.slow
@pytest.mark.parametrize("content", ["the cat \u2014 sat\n" * 10**6, "x" * 10**7 + "\U0001f600"])
@pytest.mark.parametrize("symbols", ["words", "characters"])
def test_memory_is_three_times_the_file_and_the_ids(tmp_path, content, symbols):
    path = tmp_path / "large.txt"
    path.write_text(content)
    pieces = content.split() if symbols == "words" else content
    vocabulary = Vocabulary((*dict.fromkeys(pieces), "<eos>"), symbols)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        ids = read_text(path, vocabulary)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Beyond that a fixed part: blocks of a mebibyte as strings, and the table of code points.
    assert peak < 3 * size + 8 * len(ids) + 40 * 2**20
