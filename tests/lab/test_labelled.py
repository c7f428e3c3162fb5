"""Every rule of `recdrop.lab.labelled`, an oracle of tables, and the scores by their definition."""

import json
import random
import re
import time
import tracemalloc
from collections import Counter
from fractions import Fraction
from hashlib import sha256

import pytest

from recdrop.lab.errors import BadInput
from recdrop.lab.label_scores import accuracy, f1_of, labels_to_score, mean_f1
from recdrop.lab.labelled import labels_of, labels_to_train, read_labelled, read_splits
from recdrop.lab.labelled_tables import Labelled, alone_at_the_top
from tests.lab.benchmark_data import benchmark


def written(folder, content, name="own.tsv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(folder, content, name="own.tsv", **columns):
    """Text, label and line of each row, in one string each."""
    read = read_labelled(written(folder, content, name), **columns)
    return [f"{row.text}|{row.label}|{row.line}" for row in read]


def refused(pattern, call, *args, **kwargs):
    with pytest.raises(BadInput, match=pattern) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ----------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # Without a header.
        ("a.tsv", "pos\tso good\nneg\tso bad\n", ["so good|pos|1", "so bad|neg|2"]),
        ("a.tsv", "1\tpos\tgood\n2\tneg\tbad", ["good|pos|1", "bad|neg|2"]),
        ("a.csv", 'pos,good\nneg,"bad, ""so"""\n', ["good|pos|1", 'bad, "so"|neg|2']),
        # With one.
        ("a.tsv", "text\tlabel\ngood\tpos\n", ["good|pos|2"]),
        ("a.tsv", " Sentence\tx\tCLASS \ngood\t\tpos\n", ["good|pos|2"]),
        ("a.csv", "tweet,sentiment,a,b\ngood,pos,,\n", ["good|pos|2"]),
        ("a.csv", '"text","tweet","label"\nx,y,pos\n', ["x|pos|2"]),  # the first of them
        # Quotes and line breaks.
        ("a.tsv", 'pos\t"good\nneg\tso "bad"\n', ['"good|pos|1', 'so "bad"|neg|2']),
        ("a.csv", 'pos,"a\r\n\nb"\n\nneg,c\n', ["a\n\nb|pos|1", "c|neg|5"]),
        ("a.csv", 'text,label\n"a\nb",pos\nit\'s,neg\n', ["a\nb|pos|2", "it's|neg|4"]),
        # Blanks.
        ("a.tsv", "\n \n pos \t so  good \n\t\nneg\tbad\n\n", ["so  good|pos|3", "bad|neg|5"]),
        ("a.csv", '\n  \n""\npos, so good \n', ["so good|pos|4"]),
        ("a.tsv", "\ufeffpos\tgood\r\nneg\tbad\rneg\tx", ["good|pos|1", "bad|neg|2", "x|neg|3"]),
        ("a.tsv", "pos\ta\u2028b\x85c\n", ["a\u2028b\x85c|pos|1"]),  # no line ends
        # JSON.
        ("a.jsonl", '{"text": "good", "label": "pos"}\n', ["good|pos|1"]),
        ("a.jsonl", '\n {"label": 1, "x": [], "sentence": "a\\nb"} \n', ["a\nb|1|2"]),
        ("a.jsonl", '{"text":"\\ud83d\\ude00","class":"x","n":1e999}', ["😀|x|1"]),
        # Other suffixes.
        ("a.txt", "pos\tgood\n", ["good|pos|1"]),
        ("a", '\n{"text": "a\\tb", "label": "pos"}', ["a\tb|pos|2"]),
        ("a.TSV", "pos\tgood, bad\n", ["good, bad|pos|1"]),
    ],
)
def test_formats(tmp_path, name, content, expected):
    assert rows(tmp_path, content, name) == expected


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("0,x,good\n4,y,bad\n", {"text_column": 3, "label_column": 1}, ["good|0|1", "bad|4|2"]),
        ("0,x,good\n", {"text_column": "3", "label_column": "1"}, ["good|0|1"]),
        ("good,pos\n", {"text_column": 1, "label_column": 2}, ["good|pos|1"]),
        ("a,B\ngood,pos\n", {"text_column": "A", "label_column": "b"}, ["good|pos|2"]),
        ("a,label\ngood,pos\n", {"text_column": "a"}, ["good|pos|2"]),
        ("a,b\ngood,pos\n", {"text_column": "a", "label_column": 2}, ["good|pos|2"]),
        ("text,label,x\na,b,c\n", {"text_column": 3}, ["c|b|2"]),
        ("text,label,x\na,b,c\n", {"text_column": 3, "label_column": 1}, ["c|a|2"]),
        ("mood,text\npos,good\n", {"label_column": 1}, ["good|pos|2"]),
        ("class,b\npos,good\n", {"text_column": 2}, ["good|pos|2"]),
        # Both by number: one usual name alone makes no header.
        ("class,b\npos,good\n", {"text_column": 2, "label_column": 1}, ["b|class|1", "good|pos|2"]),
    ],
)
def test_columns_can_be_given(tmp_path, content, columns, expected):
    assert rows(tmp_path, content, "own.csv", **columns) == expected
    assert rows(tmp_path, content.replace(",", "\t"), **columns) == expected


def test_keys_can_be_given(tmp_path):
    content = '{"Review": "good", "stars": 5, "text": "x"}'
    columns = {"text_column": "Review", "label_column": "stars"}
    assert rows(tmp_path, content, "own.jsonl", **columns) == ["good|5|1"]
    refused("own.jsonl is JSON; it has", rows, tmp_path, content, "own.jsonl", text_column="2")


def test_a_folder_of_labels(tmp_path):
    written(tmp_path, "a\n\n b \r\n \u2003\nc", "positive.txt")
    written(tmp_path, "\ufeffx\ty", "negative.txt")
    written(tmp_path, "no label", "notes.md")
    written(tmp_path, "no label", ".hidden.txt")
    read = read_labelled(tmp_path)
    assert [tuple(row) for row in read] == [
        ("x\ty", "negative", 1),
        ("a", "positive", 1),
        ("b", "positive", 3),
        ("c", "positive", 5),
    ]
    assert labels_of(read) == labels_to_train(read, tmp_path) == ("negative", "positive")
    written(tmp_path, b"ok\n\xff", "positive.txt")
    refused("positive.txt:2: byte 1 of the line: not UTF-8", read_labelled, tmp_path)


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tsv", b"", "a.tsv has no rows"),
        ("a.tsv", b"\xef\xbb\xbf\n \n", "a.tsv has no rows"),
        ("a.csv", b"text,label\n", "a.csv has no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
        ("a.txt", b"", "a.txt: expected texts with labels"),
        ("a.txt", b"so, good\n", "neither a tab nor JSON; a table is named .tsv, .csv, .jsonl"),
        *(("a" + suffix, b"a\tb\n\0", f"a{suffix}:2: byte 1") for suffix in (".tsv", ".csv", "")),
        *(("a" + s, b"{}\t\xff", f"a{s}:1: byte 4 of the line: not") for s in (".tsv", ".csv", "")),
        ("a.tsv", b"a\tb\na\tb\tc\n", "a.tsv:2: 3 columns, expected 2 as in line 1"),
        ("a.tsv", b"\na\tb\na\n", "a.tsv:3: 1 column, expected 2 as in line 2"),
        ("a.csv", b'a,b\nc,"d\ne"\nf\n', "a.csv:4: 1 column, expected 2"),
        ("a.tsv", b"good\n", "a.tsv:1: 1 column and no header; expected label and text, or id"),
        ("a.csv", b"a,b,c,d\n", "a.csv:1: 4 columns and no header"),
        ("a.csv", b"sentiment,review\npos,a\n", "a.csv:1: is this a header? A column sentiment is "
         "there for the label, but none of text, tweet, sentence; if it is, name the other one "
         "with --text-column; if not, give both by number"),
        ("a.tsv", b"text\tgood\nneg\tbad\n", "a.tsv:1: is this a header? A column text is there "
         "for the text, but none of label, sentiment, class; if it is, name the other one with "
         "--label-column; if not"),
        ("a.tsv", b"a\tb\tc\tCLASS\n", "a.tsv:1: is this a header? A column class is there"),
        ("a.tsv", b"pos\ta\npos\t \n", "a.tsv:2: the text is blank"),
        ("a.csv", b'pos,a\n" p\to",b\n', "a.csv:2: the label 'p\\to' has a tab, a line break or "),
        ("a.csv", b'pos,a\n"p\r\no",b\n', "a.csv:2: the label 'p\\no' has a tab, a line break"),
        ("a.tsv", "p\u2028o\ta\n".encode(), "a.tsv:1: the label 'p\\u2028o' has a tab, a line"),
        ("a.jsonl", b'{"text": "a", "label": "p\\u0007o"}', "a.jsonl:1: the label 'p\\x07o' has a"),
        ("a.tsv", b"text\tlabel\na\t\n", "a.tsv:2: the label is blank"),
        ("a.tsv", b"good\tpos\nbad\tneg\nso\tneg\n", "a.tsv has fewer different texts than labels"),
        ("a.csv", b'a,b\npos,"good\n\nneg,bad\n', "a.csv:2: not CSV (unexpected end of data)"),
        ("a.csv", b'a,b\npos,"good"so\n', "a.csv:2: not CSV ("),
        ("a.csv", b'a,b\n\nc,"' + b"x\n" * 70_000, "a.csv:3: not CSV (field larger than"),
        ("a.tsv", b"pos\t" + b"x" * 131_073, "a.tsv:1: the text has 131,073 characters"),
        ("a.jsonl", b"[]\n", "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", b'\n{"text": "a", "label" "b"}', "a.jsonl:2: not JSON: Expecting ':' delimi"),
        ("a.jsonl", b'{"text": "a"}', "a.jsonl:1: no label: no key label or sentiment or class; "),
        ("a.jsonl", b"{}", "a.jsonl:1: no label: no key label or sentiment or class; the keys"),
        ("a.jsonl", b'{"label": "a"}', "a.jsonl:1: no text: no key text or tweet or sentence"),
        ("a.jsonl", b'{"label": true, "text": "a"}', "a.jsonl:1: the label is of type bool"),
        ("a.jsonl", b'{"label": 1, "text": null}', "a.jsonl:1: the text is of type NoneType"),
        ("a.jsonl", b'{"label": "", "text": "a"}', "a.jsonl:1: the label is blank"),
        ("a.jsonl", b'{"label": 1, "text": "\\u0000"}', "a.jsonl:1: the text has a NUL or half"),
        ("a.jsonl", b'{"label": "\\ud800", "text": "a"}', "a.jsonl:1: the label has a NUL or half"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: JSON too deep"),
        ("a.jsonl", b'{"a":' * 100_000, "a.jsonl:1: JSON too deep"),
        ("a.jsonl", b"1" * 5_000, "a.jsonl:1: JSON too deep, or a number too long"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, name, content, told):
    path = written(tmp_path, content, name)
    message = refused(re.escape(told), read_labelled, path)
    assert message.startswith(str(path))
    assert len(message) < 500


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text_column": 3, "label_column": 1}, "2 columns, so none has the number 3"),
        ({"text_column": 0, "label_column": 1}, "none has the number 0"),
        ({"text_column": 1}, "no column label or sentiment or class (no header); give its name or "
         "number with --label-column"),
        ({"label_column": "2"}, "no column text or tweet or sentence (no header)"),
        ({"text_column": 1, "label_column": "1"}, "text and label are both column 1"),
        ({"text_column": "x", "label_column": 1}, "no column x (the columns are 'a', 'b')"),
    ],
)  # fmt: skip
def test_wrong_columns_are_refused(tmp_path, columns, told):
    message = refused(re.escape(told), rows, tmp_path, "a,b\nc,d\n", "own.csv", **columns)
    assert message.startswith(f"{tmp_path / 'own.csv'}:1: ")


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [
        ("a.csv", "rating,review", "--text-column 2 --label-column 1"),
        ("a.tsv", "id\trating\treview", "--text-column 3 --label-column 2"),
    ],
)
def test_a_header_of_other_names_is_no_text_to_learn_from(tmp_path, name, header, options):
    """Its label is the only one that is there once."""
    tab, labels = "," if name == "a.csv" else "\t", ["pos", "neg"]
    body = [f"{labels[i % 2]}{tab}{i} it is" for i in range(40)]
    body = [f"{i}{tab}{row}" if "id" in header else row for i, row in enumerate(body)]
    path = written(tmp_path, "\n".join([header, *body]), name)
    told = refused("is this a header", read_splits, path)
    assert told.startswith(f"{path}:1: is this a header? No other row has its label 'rating', and")
    assert told.endswith(f"by name, else by number, such as {options}")
    names = {"text_column": "review", "label_column": "rating"}
    assert sum(map(len, read_splits(path, **names).values())) == 40
    text, label = options.split()[1::2]
    numbers = {"text_column": text, "label_column": label}
    assert sum(map(len, read_splits(path, **numbers).values())) == 41  # then it is no header
    assert len(read_labelled(path)) == 41  # to be evaluated labels are held against a run's


def test_a_header_of_other_names_in_a_folder(tmp_path):
    for part in ("train", "valid", "test"):
        written(tmp_path, "rating,review\npos,a\npos,b\nneg,c\nneg,d\n", f"{part}.csv")
    assert "train.csv:1: " in refused("is this a header", read_splits, tmp_path)


@pytest.mark.parametrize(
    ("labels", "alone"),
    [
        ("x a a b b", True),
        ("x a a", True),
        ("a a b b", False),
        ("x a b b", False),  # another rare one
        ("a x a b b", False),  # not the first
        ("x a b c", False),
        ("x", False),
    ],
)
def test_a_label_alone_at_the_top(labels, alone):
    rows = [Labelled(f"text {i}", label, i) for i, label in enumerate(labels.split(), 1)]
    assert alone_at_the_top(rows) is alone


def test_a_rare_label_at_the_top_may_be_a_row(tmp_path):
    """JSON, files named by their label, and a table with a header leave no doubt."""
    rows = [("rare", "x"), *(("ab"[i % 2], f"text {i}") for i in range(40))]
    lines = [json.dumps({"label": label, "text": text}) for label, text in rows]
    assert read_splits(written(tmp_path, "\n".join(lines), "a.jsonl"))
    table = "".join(f"{label}\t{text}\n" for label, text in [("label", "text"), *rows])
    assert read_splits(written(tmp_path, table))
    for name in {label for label, _ in rows}:
        texts = [text for label, text in rows if label == name]
        (tmp_path / "folder").mkdir(exist_ok=True)
        written(tmp_path / "folder", "\n".join(texts), f"{name.replace('rare', '0')}.txt")
    assert read_splits(tmp_path / "folder")


def test_missing_files_are_named(tmp_path):
    refused("nowhere: no such file", read_labelled, tmp_path / "nowhere")
    refused("nowhere: no such file", read_splits, tmp_path / "nowhere")
    for read in (read_labelled, read_splits):
        told = refused("has no labelled texts; looked for train.tsv", read, tmp_path)
        assert str(tmp_path) in told
        assert "one LABEL.txt" in told
    written(tmp_path, "good", "positive.txt")
    refused("has no labelled texts", read_labelled, tmp_path)  # one label alone
    written(tmp_path, "text,label\na,b\n", "train.csv")
    refused("train.csv but not valid.csv and test.csv; give all", read_splits, tmp_path)


def test_one_label_is_nothing_to_learn(tmp_path):
    read = read_labelled(written(tmp_path, "pos\ta\npos\tb\n"))
    refused("own.tsv: all 2 texts.*label 'pos'; expected two", labels_to_train, read, "own.tsv")


# --------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_three_files(tmp_path, suffix):
    for part in ("train", "valid", "test"):
        row = {
            ".tsv": f"pos\t{part}",
            ".csv": f'text,label\n"{part}",pos',
            ".jsonl": json.dumps({"text": part, "label": "pos"}),
        }[suffix]
        written(tmp_path, row, part + suffix)
    written(tmp_path, "x", "train.txt")
    parts = read_splits(tmp_path)
    assert {part: [row.text for row in read] for part, read in parts.items()} == {
        "train": ["train"],
        "valid": ["valid"],
        "test": ["test"],
    }


def test_one_file_is_split_by_its_texts(tmp_path):
    texts = [f"text {i % 95}" for i in range(100)]  # five are there twice
    lines = [f"{'pos' if i < 50 else 'neg'}\t{text}\n" for i, text in enumerate(texts)]
    parts = read_splits(written(tmp_path, "".join(lines)))
    order = sorted(set(texts), key=lambda text: sha256(text.encode()).hexdigest())
    both, pos, neg = (
        [text for text in order if first <= int(text.split()[1]) < stop]
        for first, stop in ((0, 5), (5, 50), (50, 95))
    )
    assert {row.text for row in parts["test"]} == {*pos[-2:], *neg[-2:]}
    assert {row.text for row in parts["valid"]} == {*pos[-4:-2], *neg[-4:-2]}
    assert {row.text for row in parts["train"]} == {*both, *pos[:-4], *neg[:-4]}
    assert sorted(row.line for read in parts.values() for row in read) == list(range(1, 101))
    for read in parts.values():
        assert read == sorted(read, key=lambda row: row.line)  # the order stays
    random.Random(0).shuffle(lines)
    again = read_splits(written(tmp_path, "".join(lines)))
    for part, read in parts.items():
        assert {row.text for row in again[part]} == {row.text for row in read}
    refused("has 19 different.*at least 20", read_splits, written(tmp_path, "".join(lines[:19])))


def test_each_label_has_its_share_of_every_part(tmp_path):
    numbers = {"common": 1_000, "less": 200, "few": 20, "two": 2, "rare": 1}
    labels = [label for label, number in numbers.items() for _ in range(number)]
    for seed in range(20):  # other texts, other digests
        lines = [f"{label}\ttext {seed} {i}\n" for i, label in enumerate(labels)]
        parts = read_splits(written(tmp_path, "".join(lines)))
        counts = {part: Counter(row.label for row in read) for part, read in parts.items()}
        for part in ("valid", "test"):
            assert counts[part].total() == 61
            for label, number in numbers.items():
                assert abs(counts[part][label] - number / 20) <= 1
        assert counts["train"].keys() == numbers.keys()
        assert counts["train"]["two"] == 2


def test_a_folder_of_labels_is_split(tmp_path):
    for label in ("a", "b"):
        written(tmp_path, "".join(f"{label} {i}\n" for i in range(100)), f"{label}.txt")
    parts = read_splits(tmp_path)
    assert {part: len(read) for part, read in parts.items()} == {
        "train": 180,
        "valid": 10,
        "test": 10,
    }
    assert labels_of(parts["test"]) == ("a", "b")


# ----------------------------------------------------------------------------------------- fuzzing


class Refused(Exception):
    """What the oracle says of a file."""


FIELD = r'(?:"(?:[^"]|"")*"|[^",\n][^,\n]*|)'


def cells_of(content, suffix):
    """Line and cells of each row; no cells where it is no CSV, which ends there."""
    if suffix == ".tsv":
        lines = enumerate(content.split("\n"), 1)
        return [(number, line.split("\t")) for number, line in lines if line.strip()]
    found, at = [], 0
    content = content if content.endswith("\n") else content + "\n"
    while at < len(content):
        line = 1 + content.count("\n", 0, at)
        row = re.compile(rf"{FIELD}(?:,{FIELD})*\n").match(content, at)
        if row is None:
            return [*found, (line, [])]
        cells = re.findall(rf"(?:^|,)({FIELD})(?=,|\n\Z)", row[0])
        cells = [c[1:-1].replace('""', '"') if c.startswith('"') else c for c in cells]
        if len(cells) > 1 or cells[0].strip():
            found.append((line, cells))
        at = row.end()
    return found


def oracle(raw, suffix):
    """Text, label and line of each row, or Refused with the line where the rules name one."""
    lines = re.split(rb"\r\n|\r|\n", raw.removeprefix(b"\xef\xbb\xbf"))
    for number, line in enumerate(lines, 1):
        if b"\0" in line:
            raise Refused(number)
    content = re.sub("\r\n?", "\n", raw.decode().removeprefix("\ufeff"))
    table = cells_of(content, suffix)
    if not table:
        raise Refused("")
    first, names = table[0]
    header = [name.strip().lower() for name in names]
    usual = [name in header for name in ("text", "label")]
    titled = all(usual)
    if any(usual) and not titled:
        raise Refused(first)
    if titled:
        text, label = header.index("text"), header.index("label")
    elif len(names) in (2, 3):
        text, label = len(names) - 1, len(names) - 2
    else:
        raise Refused(first)
    found = []
    for line, cells in table[titled:]:
        if len(cells) != len(names) or not cells[text].strip() or not cells[label].strip():
            raise Refused(line)
        if len(cells[label].strip().splitlines()) > 1 or "\t" in cells[label].strip():
            raise Refused(line)
        found.append((cells[text].strip(), cells[label].strip(), line))
    texts, labels, _ = map(set, zip(*found, strict=True)) if found else ((), (), ())
    if not found or (not titled and len(texts) < len(labels)):
        raise Refused("")
    return found


def outcome_of(call, *args):
    """What it returns, or how it refuses."""
    try:
        return call(*args)
    except (Refused, BadInput, UnicodeDecodeError) as refusal:
        return refusal


POISON = [b"\0", b"\xff", b"\xc3", b"\xe2\x82", b"\x80", b"\xed\xa0\x80"]
CELLS = [
    "a",
    "b",
    "good",
    "so bad",
    "é",
    "😀",
    "日",
    "1",
    " ",
    "",
    "\u2028",
    "\x85",
    "it's",
    "{",
    "'",
]


def fuzzed_table(rng, suffix):
    """Bytes of a table that is well made, mostly."""
    separator = "," if suffix == ".csv" else "\t"
    width = rng.choice([2, 2, 2, 3, 4])
    header = rng.random() < 0.4
    made = []
    if header:
        names = rng.sample(["text", "Label", "x", "y"], width)
        made.append(separator.join(names))
    for _ in range(rng.randint(0, 8)):
        cells = rng.choices(CELLS, k=width + (rng.random() < 0.03))
        if rng.random() < 0.8:
            cells = [cell if cell.strip() else "full" for cell in cells]
        if suffix == ".csv":
            for i in range(len(cells)):
                if rng.random() < 0.3:
                    extra = rng.choice(["", ",", "\n", '""', "\r\n"])
                    cells[i] = f'"{cells[i]}{extra}"'
        made.append(separator.join(cells))
        if rng.random() < 0.1:
            made.append(rng.choice(["", " ", "\t"]))
    raw = rng.choice(["\n", "\n", "\r\n", "\r"]).join(made).encode()
    raw += rng.choice([b"", b"\n"])
    if rng.random() < 0.1:
        at = rng.randint(0, len(raw))
        raw = raw[:at] + rng.choice([*POISON, b'"', b"\t", b",", b"\n"]) + raw[at:]
    return (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + raw


def fuzz(folder, seed, files, suffix):
    """Read so many fuzzed tables; the number that were accepted and refused."""
    rng, read = random.Random(seed), Counter()
    path = folder / f"own{suffix}"
    for _ in range(files):
        raw = fuzzed_table(rng, suffix)
        path.write_bytes(raw)
        expected, got = outcome_of(oracle, raw, suffix), outcome_of(read_labelled, path)
        if isinstance(expected, Exception):
            line = f":{expected}: " if isinstance(expected, Refused) and str(expected) else ""
            assert isinstance(got, BadInput), raw
            assert str(got).startswith(f"{path}{line}"), raw
        else:
            assert got == expected, raw
        read["refused" if isinstance(expected, Exception) else "accepted"] += 1
    return read


def fuzz_json(folder, seed, files):
    """Read so many fuzzed files of JSON; every one that is whole gives its rows."""
    rng, read = random.Random(seed), Counter()
    path = folder / "own.jsonl"
    values = [*CELLS, "a\nb", '"', "\\", 1, -3, True, None, [1], {"text": "x"}, 1.5]
    for _ in range(files):
        made, expected = [], []
        for line in range(1, rng.randint(1, 6)):
            few = ["good", "so bad", "é", "😀", "1"] if rng.random() < 0.9 else values
            keys = [rng.choice(["text", "tweet"]), rng.choice(["label", "class"]), "more"]
            row = {key: rng.choice(few) for key in keys[rng.random() < 0.02 :]}
            made.append(json.dumps(row, ensure_ascii=rng.random() < 0.5))
            text, label = (row.get(key) for key in keys[:2])
            label = str(label) if type(label) is int else label
            label = None if label == "a\nb" else label  # a line break
            sound = isinstance(text, str) and isinstance(label, str)
            expected.append((text.strip(), label.strip(), line) if sound else None)
        raw = "\n".join(made).encode()
        poisoned = rng.random() < 0.3
        if poisoned:
            at = rng.randint(0, len(raw))
            broken = rng.choice([*POISON, b"{", b'"', b"\\", b"\n", b"]"])
            raw = raw[:at] + broken + raw[at + rng.randint(0, 2) :]
        path.write_bytes(raw)
        sound = expected and all(row and row[0] and row[1] for row in expected)
        got = outcome_of(read_labelled, path)
        if isinstance(got, Exception):
            assert poisoned or not sound, raw
            assert str(got).startswith(str(path)), raw
        else:
            assert poisoned or got == expected, raw
        read["refused" if isinstance(got, Exception) else "accepted"] += 1
    return read


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_hundreds_of_fuzzed_tables(tmp_path, suffix):
    read = fuzz(tmp_path, 1, 1_000, suffix)
    assert min(read["accepted"], read["refused"]) > 100, read


def test_hundreds_of_fuzzed_files_of_json(tmp_path):
    read = fuzz_json(tmp_path, 1, 1_000)
    assert min(read["accepted"], read["refused"]) > 100, read


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_ten_thousand_fuzzed_files(tmp_path, suffix):
    json_alone = suffix == ".jsonl"
    read = fuzz_json(tmp_path, 2, 10_000) if json_alone else fuzz(tmp_path, 2, 10_000, suffix)
    assert min(read["accepted"], read["refused"]) > 2_000, read


# ------------------------------------------------------------------------------------ large files


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.txt"])
@pytest.mark.parametrize(
    "content",
    [
        "x" * 10**7,
        "pos\t" + "x" * 10**7,
        "pos," + "x y," * 2_500_000,
        '{"text": "' + "é" * 5 * 10**6,
        '{"label": 1, "text": "' + "é" * 5 * 10**6 + '"}',
        'a,"' * 3_333_333,
    ],
    ids=["x", "row", "commas", "cut", "json", "quotes"],
)  # fmt: skip
def test_a_line_of_ten_megabytes_is_refused_in_two_seconds(tmp_path, name, content):
    path = written(tmp_path, content, name)
    start = time.process_time()
    refused(str(path), read_labelled, path)
    assert time.process_time() - start < 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_memory_is_three_times_the_file(tmp_path, name):
    text = "so good \u2014 it is, and \u00e9 too; " * 6
    row = {
        "a.tsv": f"positive\t{text}\n",
        "a.csv": f'positive,"{text}"\n',
        "a.jsonl": json.dumps({"label": "positive", "text": text}, ensure_ascii=False) + "\n",
    }[name]
    path = written(tmp_path, row * 60_000, name)
    tracemalloc.start()
    try:
        read = read_labelled(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 60_000
    # Beyond that what a string, a number and a tuple of Python take.
    assert peak < 3 * path.stat().st_size + 250 * len(read)


# ------------------------------------------------------------------------------------------ scores


def by_definition(gold, predicted, label):
    """F1 as the harmonic mean of precision and recall, in fractions; 0 where one has no value."""
    pairs = Counter(zip(gold, predicted, strict=True))
    right = pairs[label, label]
    of_gold = sum(count for (g, _), count in pairs.items() if g == label)
    of_predicted = sum(count for (_, p), count in pairs.items() if p == label)
    if not right:
        return Fraction(0)
    precision, recall = Fraction(right, of_predicted), Fraction(right, of_gold)
    return 2 / (1 / precision + 1 / recall)


LABELS = ("negative", "neutral", "positive")


def test_scores_by_their_definition():
    rng = random.Random(0)
    for _ in range(1_000):
        labels = ["positive", "negative", "neutral", "mixed"][: rng.randint(1, 4)]
        gold = rng.choices(labels, k=rng.randint(1, 30))
        predicted = [g if rng.random() < 0.5 else rng.choice(labels) for g in gold]
        for label in labels:
            assert f1_of(gold, predicted, label) == pytest.approx(
                float(by_definition(gold, predicted, label)), abs=1e-15
            )
        asked = ["positive", "negative"] if len(labels) > 1 else labels
        scored = [x for x in asked if x in {*gold, *predicted}] or {*gold, *predicted}
        mean = sum(by_definition(gold, predicted, label) for label in scored) / len(scored)
        assert mean_f1(gold, predicted, labels) == pytest.approx(float(mean), abs=1e-15)
        right = [g == p for g, p in zip(gold, predicted, strict=True)]
        assert accuracy(gold, predicted) == pytest.approx(right.count(True) / len(right))


def test_scores_worked_out_by_hand():
    gold = ["positive", "positive", "negative", "neutral", "neutral"]
    predicted = ["positive", "neutral", "negative", "negative", "neutral"]
    assert f1_of(gold, predicted, "positive") == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert f1_of(gold, predicted, "negative") == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert f1_of(gold, predicted, "other") == 0.0
    assert mean_f1(gold, predicted, LABELS) == pytest.approx(2 / 3)
    assert accuracy(gold, predicted) == pytest.approx(3 / 5)
    assert (accuracy([], []), mean_f1([], [], LABELS)) == (0.0, 0.0)
    for score in (accuracy, lambda *both: mean_f1(*both, LABELS)):
        with pytest.raises(ValueError, match="shorter"):
            score(gold, predicted[1:])


def test_which_labels_are_scored():
    """By what the net knows, so that a measure stays the same from look to look."""
    of = lambda gold, predicted: labels_to_score([gold], [predicted], LABELS)  # noqa: E731
    assert of("positive", "negative") == ("positive", "negative")
    assert of("positive", "neutral") == ("positive",)
    assert of("neutral", "negative") == ("negative",)
    assert of("neutral", "neutral") == ("neutral",)
    assert labels_to_score("404", "000", "0234") == ("0", "4")


def test_a_label_that_does_not_occur_is_no_part_of_the_mean():
    assert mean_f1("ab", "ab", "abc") == 1.0
    assert mean_f1("ab", "ac", "abc") == pytest.approx(1 / 3)
    assert mean_f1(["positive", "neutral"], ["positive", "neutral"], LABELS) == 1.0
    assert mean_f1(["positive", "neutral"], ["positive", "negative"], LABELS) == 0.5


# ----------------------------------------------------------------------------------- the benchmarks


def test_semeval():
    read = read_labelled(benchmark("data/semeval/twitter2013train.tsv"))
    assert Counter(row.label for row in read) == {
        "positive": 3_640,
        "neutral": 4_586,
        "negative": 1_458,
    }
    assert read[0].text == "Gas by my house hit $3.39!!!! I’m going to Chapel Hill on Sat. :)"
    assert [row.line for row in read] == list(range(1, 9_685))


def test_sentiment140():
    parts = read_splits(benchmark("data/sentiment140"))
    assert sum(map(len, parts.values())) == 100_000
    labels = Counter(row.label for read in parts.values() for row in read)
    assert labels == {"positive": 50_000, "negative": 50_000}
    for part in ("valid", "test"):
        assert 4_900 < len(parts[part]) < 5_100
        assert not {row.text for row in parts[part]} & {row.text for row in parts["train"]}
