"""Word vectors: every format and rule, our own files, the cache, coverage; fuzzed files."""

import codecs
import hashlib
import os
import random
import re
import struct
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from recdrop.lab import vector_formats as formats
from recdrop.lab.errors import BadInput, StorageFailed
from recdrop.lab.vectors import (
    Coverage,
    Vectors,
    coverage,
    embedding_for,
    load_vectors,
    nearest,
    read_vectors,
    save_vectors,
    sealed,
)
from tests.lab.benchmark_data import benchmark

ROWS = {"the": [0.5, -1.25, 3.0], "Cat": [1e-3, 0.0, 7.0], "日": [-2.0, 1e10, 0.25]}


def text(rows=ROWS, header=False, between=" ", end="\n"):
    lines = [f"{len(rows)} {len(next(iter(rows.values())))}"] if header else []
    lines += [between.join([word, *map(str, numbers)]) for word, numbers in rows.items()]
    return "".join(line + end for line in lines).encode()


def binary(rows=ROWS, end=b"\n"):
    first = f"{len(rows)} {len(next(iter(rows.values())))}\n".encode()
    return first + b"".join(
        word.encode() + b" " + struct.pack(f"<{len(numbers)}f", *numbers) + end
        for word, numbers in rows.items()
    )


def vectors(rows=ROWS):
    return sealed(tuple(rows), torch.tensor(list(rows.values())))


def own(path, rows=ROWS):
    save_vectors(path, vectors(rows))
    return path.read_bytes()


def read(path, content):
    path = path / "vectors"
    path.write_bytes(content)
    return read_vectors(path)


def refused(pattern, call, *args):
    with pytest.raises(BadInput, match=pattern) as caught:
        call(*args)
    return str(caught.value)


def as_rows(vectors):
    return dict(zip(vectors.words, vectors.values.tolist(), strict=True))


def close(rows):
    return {word: pytest.approx(numbers, rel=1e-6) for word, numbers in rows.items()}


# -------------------------------------------------------------------------------------- the formats


@pytest.mark.parametrize(
    "content",
    [
        text(),
        text(header=True),
        text(end=" \n"),  # as word2vec.c ends its rows
        text(header=True, end="\r\n"),
        text(between="\t"),
        text(between="  "),
        text()[:-1],
        codecs.BOM_UTF8 + text(),
        codecs.BOM_UTF8 + text(header=True),
        text().replace(b"\n", b"\n\n") + b" \n",
        binary(),
        binary(end=b""),
        codecs.BOM_UTF8 + binary(),
    ],
)
def test_formats_are_known_by_their_content(tmp_path, content):
    got = read(tmp_path, content)
    assert as_rows(got) == close(ROWS)
    assert got.values.dtype == torch.float32
    assert got.sha256 == hashlib.sha256(content).hexdigest()
    assert (len(got), got.width, got.notes) == (3, 3, ())


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_a_binary_file_is_read_in_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(formats, "_LONGEST_WORD", 20)
    monkeypatch.setattr(formats, "_BLOCK", max(block, 40))
    rows = {f"w{i}": np.random.default_rng(i).normal(size=5).tolist() for i in range(100)}
    assert as_rows(read(tmp_path, binary(rows))) == close(rows)


def test_random_binary_files_are_not_taken_for_text(tmp_path):
    random_ = np.random.default_rng(0)
    for _ in range(100):
        rows = {f"w{i}": random_.normal(size=4).tolist() for i in range(3)}
        assert as_rows(read(tmp_path, binary(rows))) == close(rows)


def test_words_with_blanks_in_them(tmp_path):
    rows = {"a": [1.0, 2.0], ". . .": [3.0, 4.0], "at name@domain.com": [5.0, 6.0]}
    assert as_rows(read(tmp_path, text(rows))) == rows
    assert as_rows(read(tmp_path, text(rows, header=True))) == rows


def test_words_that_are_numbers_or_look_like_blanks(tmp_path):
    rows = {"1990": [1.0, 2.0], "nan": [3.0, 4.0], "\u00a0": [5.0, 6.0], "\x85": [7.0, 8.0]}
    for header in (False, True):
        assert as_rows(read(tmp_path, text(rows, header))) == rows


def test_numbers_of_every_form(tmp_path):
    got = read(tmp_path, b"a 1 -2. +.5 1e3 1E-3 0.1\nb -0 1e-50 3 4 5 0.\n")
    assert got.values.tolist() == [
        pytest.approx([1, -2, 0.5, 1000, 1e-3, 0.1]),
        [0, 0, 3, 4, 5, 0],
    ]


def test_the_first_of_a_repeated_word_counts(tmp_path):
    got = read(tmp_path, b"a 1\nb 2\na 3\nb 4\na 5\n")
    assert as_rows(got) == {"a": [1], "b": [2]}
    assert got.notes == ("there more than once, the first row counts: 'a' and 1 more",)
    assert read(tmp_path, b"3 1\na 1\nb 2\nb 3\n").notes[0].endswith("counts: 'b'")


# ------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "vectors:1: expected a word and 1 to 16,384 numbers.*an empty file"),
        (b"\n\n", "vectors:1: expected a word"),
        (b"once upon a time\n", "vectors:1: expected a word.*'once upon a time'"),
        (b"{}\n", "vectors:1: expected a word"),
        (b"\x1f\x8b\x08rest", "is compressed; unpack it first"),
        (b"a 1 2 3\nb 1 2\n", "vectors:2: expected 3 numbers, got 2 behind 'b'"),
        (b"a 1 2\nb 1 2 3\n", "vectors:2: expected 2 numbers, got 3"),
        (b"a 1 2\n\nb c 1 2 3\n", "vectors:3: expected 2 numbers, got 3 behind 'c'"),
        (b"a 1 2\nb 1 x\n", "vectors:2: expected 2 numbers, got 0 behind 'x'"),
        (b"a 1 2\nb 1x 2\n", "vectors:2: expected 2 numbers, got 1 behind '1x'"),
        (b"a 1 2\nb 1 1_0\n", "vectors:2: expected 2 numbers, got 0"),
        (b"a 1 2\nb 0x1 2\n", "vectors:2: expected 2 numbers, got 1"),
        (b"a 1 2\nb 1 2-3\n", "vectors:2: expected 2 numbers, got 0"),
        (b"a 1 2\n 1 2\n", "vectors:2: expected a word, got ''"),
        (b"a 1 2\nb\n", "vectors:2: expected 2 numbers, got 0 behind 'b'"),
        (b"a 1 2\nb 1 nan\n", "vectors:2: number 2 of 'b' is nan"),
        (b"a 1 2\nb -inf 1\n", "vectors:2: number 1 of 'b' is -inf"),
        (b"a 1 2\nb  1e39 1\n", "vectors:2: number 1 of 'b' is inf"),
        (b"a 1 2\nb\xff 1 2\n", "vectors:2: the word 'b\ufffd' is not UTF-8"),
        (b"a 1 2\nb\0 1 2\n", "vectors:2: expected a word, got"),
        (b"a 1\n" + b"b" * (1 << 21), "vectors:2: a row of a mebibyte"),
        (b"a 1\nb " + b"1 " * (1 << 20), "vectors:2: a row of a mebibyte"),
        (b"2 2\na 1.00 2\n", "vectors:1: it says 2 words, 1 are there"),
        (b"2 2\na 1\n", "vectors:1: 2 words of width 2 take at least 11 bytes, the file has 8"),
        (b"2 2\na 1 2\nb c\n", "vectors:3: expected 2 numbers, got 0"),
        (b"1 2\na 1 2\nb 1 2\n", "vectors:3: line 1 says 1 words, here is one more"),
        (b"999999999999999 300\na 1\n", "vectors:1: 999,999,999,999,999 words.*is it whole"),
        (b"1 999999999999999\na 1\n", "vectors:1: expected at least one word and a width of"),
        (b"0 3\n", "vectors:1: expected at least one word"),
        (b"3 0\n", "vectors:1: expected at least one word"),
        (binary()[:-5], "word 3 of 3: the file ends here"),
        (binary() + b"more", "vectors: more follows the 3 words"),
        (binary({"a": [1.0, float("nan")]}), "word 1 of 1: number 2 of 'a' is nan"),
        (binary({"": [1.0, 2.0]}), "word 1 of 1: expected a word, got ''"),
        (binary({"a\nb": [1.0, 2.0]}), r"word 1 of 1: expected a word, got 'a\\nb'"),
        (binary().replace(b"the", b"\xff\xfe\xfd"), "word 1 of 3: the word .* is not UTF-8"),
        (b"1 2\n" + b"a\0" * 20_000, "word 1 of 1: no blank behind a word"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, told):
    message = refused(told, read, tmp_path, content)
    assert message.startswith(str(tmp_path / "vectors"))
    assert len(message) < len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a 1 2\n" + b"b" * 10**7, "vectors:2: a row of a mebibyte"),
        (b"1 " * 5_000_000, "vectors:1: expected a word and 1 to"),
        ((b"a" + b" 0.5" * 100 + b"\n") * 10_000 + b"b 1\n", "vectors:10001: expected 100 num"),
        ((b"a" + b" 0.5" * 100 + b"\n") * 10_000 + b"b" + b" nan" * 100, "vectors:10001: number 1"),
        (b"9 300\n" + b"a\0" * 5_000_000, "word 1 of 9: no blank behind a word"),
    ],
    ids=["word", "row", "ragged", "nan", "binary"],
)
def test_broken_megabytes_are_refused_in_two_seconds(tmp_path, content, told):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    start = time.process_time()
    refused(told, read_vectors, path)
    assert time.process_time() - start < 2.0


def test_missing_files_are_named(tmp_path):
    for call in (read_vectors, load_vectors):
        refused("nowhere: no such file; expected word vectors", call, tmp_path / "nowhere")
        refused("is a folder; expected word vectors", call, tmp_path)


def test_blank_lines_and_lies_take_no_memory(tmp_path):
    wide = b"a" + b" 1" * 16_384 + b"\n"
    for content in (
        wide + b"\n" * 2**20,
        b"\n".join([b"200000 9", b"a" + b" 1" * 9, b"x" * 2**22]),
    ):
        tracemalloc.start()
        try:
            refused(".", read, tmp_path, content) if b"x" in content else read(tmp_path, content)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(content) + 2**24


# ------------------------------------------------------------------------------------ what is asked


def test_words_are_looked_up_as_they_are_then_in_lower_case():
    some = vectors({"the": [1.0], "The": [2.0], "éa": [3.0], "<unk>": [4.0], "EU": [5.0]})
    found = [some.find(w) for w in ("the", "The", "THE", "ÉA", "eu", "EU", "<unk>", "<UNK>")]
    assert found == [0, 1, 0, 2, None, 4, None, None]


def test_coverage():
    counts = {"the": 5, "THE": 2, "dog": 3, "cat": 1, "<unk>": 4}
    got = coverage(counts, vectors())
    assert got == Coverage(tokens=15, known_tokens=7, types=5, known_types=2)
    assert (got.token_share, got.type_share) == (7 / 15, 2 / 5)
    assert coverage({}, vectors())[:] == (0, 0, 0, 0)
    assert coverage({}, vectors()).token_share == 0


def test_an_embedding_is_zero_where_a_word_is_unknown():
    got = embedding_for(["dog", "THE", "<unk>", "日", "the"], vectors())
    assert got.known.tolist() == [False, True, False, True, True]
    zero = [0.0, 0.0, 0.0]
    assert got.values.tolist() == [zero, ROWS["the"], zero, ROWS["日"], ROWS["the"]]
    assert got.values.dtype == torch.float32
    assert embedding_for(["x"], vectors()).values.tolist() == [zero]
    assert embedding_for([], vectors()).values.shape == (0, 3)


def test_nearest_words():
    some = vectors({"a": [1.0, 0.0], "b": [5.0, 5.0], "c": [-1.0, 0.1], "zero": [0.0, 0.0]})
    near = nearest("A", some)
    assert [word for word, _ in near] == ["b", "zero", "c"]
    assert [cosine for _, cosine in near] == pytest.approx([0.5**0.5, 0, -(1 / 1.01**0.5)])
    assert len(nearest("a", some, 2)) == 2
    assert {cosine for _, cosine in nearest("zero", some)} == {0.0}
    refused("'x' has no vector", nearest, "x", some)


# --------------------------------------------------------------------------------------- our files


def test_our_own_files(tmp_path):
    path = tmp_path / "a.safetensors"
    given = sealed(("a b", "日", "\u2028"), torch.randn(3, 4), ("one", "two é"))
    save_vectors(path, given)
    got = read_vectors(path)
    assert (got.words, got.notes, got.sha256) == (given.words, given.notes, given.sha256)
    assert torch.equal(got.values, given.values)
    assert given.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert torch.equal(safetensors.torch.load_file(path)["values"], given.values)
    assert load_vectors(path, tmp_path / "cache").words == given.words
    assert not (tmp_path / "cache").exists()


def test_every_flipped_bit_of_our_own_file_is_found(tmp_path):
    content = own(tmp_path / "own")
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        try:
            got = read(tmp_path, bytes(flipped))
        except BadInput:
            continue
        assert as_rows(got) == close(ROWS), at  # a blank of the header, or a key's order
    for cut in range(1, len(content), 7):
        refused(".", read, tmp_path, content[:-cut])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.ones(2, 3), b"a"),
        (torch.ones(2, 3), b"a\na"),
        (torch.ones(2, 3).double(), b"a\nb"),
        (torch.ones(2, 3).bfloat16(), b"a\nb"),
        (torch.ones(2), b"a\nb"),
        (torch.ones(0, 3), b""),
        (torch.ones(1, 0), b"a"),
        (torch.full((1, 3), -torch.inf), b"a"),
        (torch.tensor([[1.0, torch.nan, 2.0]]), b"a"),
        (torch.ones(1, 3), b"\xff"),
    ],
)
def test_our_own_files_with_something_else_in_them_are_refused(tmp_path, values, words):
    from recdrop.lab import vectors as module

    told = {"format": "recdrop-vectors 1", "source": "", "notes": "[]"}
    if values.dtype == torch.float32:
        told["seal"] = module._seal("", "[]", values, words)
    path = tmp_path / "forged"
    letters = torch.tensor(list(words), dtype=torch.uint8)
    safetensors.torch.save_file({"values": values, "words": letters}, path, told)
    refused("forged", read_vectors, path)


def test_other_safetensors_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    refused("expected word vectors", read_vectors, path)
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, {"format": "recdrop-vectors 1"})
    refused("these are not word vectors", read_vectors, path)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{" * 100)
    refused(".", read_vectors, path)


def test_what_interrupts_a_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    before = own(path)

    def stop(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        save_vectors(path, vectors({"x": [1.0]}))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    monkeypatch.undo()
    with pytest.raises(StorageFailed, match="bytes needed"):
        save_vectors(tmp_path / "no" / "folder", vectors())


# --------------------------------------------------------------------------------------- the cache


def test_the_second_time_comes_from_the_cache(tmp_path, monkeypatch):
    path, folder = tmp_path / "glove.txt", tmp_path / "deep" / "cache"
    path.write_bytes(text() + b"the 1 2 3\n")
    first = load_vectors(path, folder)
    (cached,) = folder.iterdir()
    monkeypatch.setattr("recdrop.lab.vectors.read_rows", None)  # cannot be called
    second = load_vectors(path, folder)
    assert as_rows(second) == as_rows(first) == close(ROWS)
    assert (second.sha256, second.notes) == (first.sha256, first.notes)
    assert first.notes
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert cached.name.endswith(".safetensors")
    monkeypatch.undo()
    path.write_bytes(text({"a": [1.0]}))
    assert load_vectors(path, folder).words == ("a",)


def test_a_damaged_cache_is_written_anew(tmp_path):
    path, folder = tmp_path / "glove.txt", tmp_path / "cache"
    path.write_bytes(text())
    load_vectors(path, folder)
    (cached,) = folder.iterdir()
    content = cached.read_bytes()
    for damaged in (b"", content[:-1], content[:-9] + b"\0" + content[-8:], b"\0" * len(content)):
        cached.unlink()
        cached.write_bytes(damaged)
        assert as_rows(load_vectors(path, folder)) == close(ROWS)
        assert cached.read_bytes() == content


def test_a_cache_that_cannot_be_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "glove.txt"
    path.write_bytes(text())
    assert as_rows(load_vectors(path, path)) == close(ROWS)  # a file, not a folder
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert as_rows(load_vectors(path)) == close(ROWS)


def test_the_users_cache_folder(tmp_path, monkeypatch):
    path = tmp_path / "glove.txt"
    path.write_bytes(text())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_vectors(path)
    assert len(list((tmp_path / "xdg" / "recdrop" / "vectors").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_vectors(path)
    assert len(list((tmp_path / "home" / ".cache" / "recdrop" / "vectors").iterdir())) == 1


# ----------------------------------------------------------------------------------------- fuzzing


def oracle(content):
    """Rows of a text, by the rules and slowly; None where it is refused."""
    lines = re.split(rb"\n", content.removeprefix(codecs.BOM_UTF8))
    first = re.fullmatch(rb"(\d+)[ \t]+(\d+)[ \t\r]*", lines[0])
    number = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
    rows, seen = {}, 0
    width = int(first[2]) if first else 0
    while not first and number.fullmatch((lines[0].split()[1:][-width - 1 :] or [b""])[0]):
        width += 1
        if width == len(lines[0].split()) - 1:
            break
    for line in lines[1 if first else 0 :]:
        pieces = line.split()
        if not pieces:
            continue
        seen += 1
        numbers = [bool(number.fullmatch(piece)) for piece in pieces[1:]]
        wide = len(numbers) > width and numbers[-width - 1]
        if width == 0 or wide or numbers[-width:] != [True] * width or line[:1] in b" \t":
            return None
        try:
            word = b" ".join(pieces[:-width]).decode()
        except UnicodeDecodeError:
            return None
        if "\0" in word:
            return None
        rows.setdefault(word, [float(np.float32(float(piece))) for piece in pieces[-width:]])
    return None if (first and seen != int(first[1])) or not rows else rows


PIECES = [b"a", b"b", b".", b"\xc3\xa9", b"1", b"-2.5", b".5", b"3.", b"1e3", b"x1", b"-", b"1_0"]
POISON = [b"\0", b"\xff", b"nan", b"1e99", b"inf", b"\xc3", b"\x1f\x8b"]


def fuzzed_text(rng):
    width = rng.randint(1, 3)
    rows = []
    for i in range(rng.randint(0, 5)):
        word = [rng.choice([b"a", b"b", b". .", b"7", b"w%d" % i])]
        row = word + rng.choices([b"1", b"-2.5", b".5", b"1e3", b"3."], k=width)
        if rng.random() < 0.1:
            row.insert(rng.randint(0, len(row)), rng.choice(PIECES))
        if rng.random() < 0.05:
            row.pop(rng.randrange(len(row)))
        rows.append(rng.choice([b" ", b" ", b" ", b"  ", b"\t"]).join(row))
    count = len(rows) + (rng.random() < 0.1)
    first = [b"%d %d" % (count, width)] if rng.random() < 0.5 else []
    ends = rng.choice([b"\n", b"\n", b"\r\n", b" \n", b"\n\n"])
    return b"".join(row + ends for row in first + rows)


def fuzzed_bytes(rng, content):
    """Some content that something has happened to."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content) + 1)
        change = rng.randrange(5)
        if change == 0:
            del content[at:]
        elif change == 1:
            content[at:at] = rng.choice(PIECES + POISON + [b" ", b"\n"])
        elif change == 2:
            del content[at : at + rng.randint(1, 9)]
        elif change == 3:
            content[at : at + 4] = bytes(4)
        elif content:
            content[at % len(content)] ^= 1 << rng.randrange(8)
    return bytes(content)


def fuzz(tmp_path, seed, files):
    """Read so many files; how many were accepted and refused."""
    rng = random.Random(seed)
    seeds = [text(), text(header=True), binary(), own(tmp_path / "own")]
    told = Counter()
    for number in range(files):
        by_rules = number % 2 == 0
        content = fuzzed_text(rng) if by_rules else fuzzed_bytes(rng, rng.choice(seeds))
        try:
            got = read(tmp_path, content)
        except BadInput:
            got = None
        if by_rules:
            assert (None if got is None else as_rows(got)) == oracle(content), content
        elif got is not None:
            assert isinstance(got, Vectors)
            assert len(got.words) == len(got.values) == len(set(got.words)), content
            assert got.values.isfinite().all(), content
        told["refused" if got is None else "accepted"] += 1
    return told


def test_five_hundred_fuzzed_files(tmp_path):
    told = fuzz(tmp_path, 1, 1_000)
    assert min(told.values()) > 100, told


@pytest.mark.slow
def test_ten_thousand_fuzzed_files(tmp_path):
    tracemalloc.start()
    try:
        told = fuzz(tmp_path, 2, 10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert min(told.values()) > 2_000, told
    assert peak < 2**25


# ---------------------------------------------------------------------------------- the real thing


def test_glove(tmp_path):
    path = benchmark("data/glove/glove.6B.100d.top2604.txt")
    got = load_vectors(path, tmp_path)
    assert (len(got), got.width) == (2604, 100)
    assert got.words[:3] == ("the", ",", ".")
    assert got.values[0, :2].tolist() == pytest.approx([-0.038194, -0.24487])
    assert "france" in dict(nearest("Germany", got, 20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_a_large_file_takes_seconds_and_what_it_returns(tmp_path, kind):
    rng = np.random.default_rng(0)
    words, width = 20_000, 300
    rows = {f"w{i}": row for i, row in enumerate(rng.normal(size=(words, width)).round(5).tolist())}
    path = tmp_path / "large"
    path.write_bytes(text(rows, header=False) if kind == "text" else binary(rows))
    del rows
    tracemalloc.start()
    start = time.process_time()
    try:
        got = read_vectors(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(got) == words
    assert peak < 4 * words * width + 2**24
    assert time.process_time() - start < 10
