"""The tagger: pieces of sentences, what the net sees, its scores, its commands."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import cast

import pytest
import torch

from recdrop.lab.cli import main
from recdrop.lab.config import Adam, Chunks, NerRun, Schedule, TaggedData, Tagger
from recdrop.lab.conll import Sentence, read_columns, score
from recdrop.lab.errors import BadInput
from recdrop.lab.predict import tag
from recdrop.lab.runs import run_cell
from recdrop.lab.settings import changed
from recdrop.lab.tasks.ner import NerTask, Sentences, TaggerNet, pieces, shape_of
from recdrop.lab.tasks.rows import batches_of
from recdrop.lab.tasks.task import stream
from recdrop.lab.train import Interrupted
from recdrop.lab.trained import open_tagger
from recdrop.lab.vectors import save_vectors, sealed
from recdrop.lab.words import Words, read_words
from tests.lab.tiny import OURS
from tests.oracles.conlleval import conlleval

PLACES = {"Rome": "LOC", "Paris": "LOC", "Smith": "PER", "Jones": "PER"}
OTHERS = ["went", "to", "saw", "the", "and", "in"]


def sentences(number: int, seed: int = 0) -> list[Sentence]:
    """A name's kind is that of the word itself; so a tagger can learn it whole."""
    made, source = [], torch.Generator().manual_seed(seed)
    for line in range(number):
        length = int(torch.randint(1, 9, (), generator=source))
        picks = torch.randint(0, 10, (length,), generator=source).tolist()
        words = tuple([*PLACES, *OTHERS][i] for i in picks)
        tags = tuple(f"B-{PLACES[w]}" if w in PLACES else "O" for w in words)
        made.append(Sentence(words, tags, line))
    return made


def write(folder: Path, numbers: tuple[int, int, int] = (60, 20, 20)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, number) in enumerate(zip(("train", "valid", "test"), numbers, strict=True)):
        blocks = (
            "\n".join(f"{w} x {t}" for w, t in zip(s.words, s.tags, strict=True))
            for s in sentences(number, seed)
        )
        (folder / f"{name}.txt").write_text("\n\n".join(blocks) + "\n")
    return folder


def tiny(**changes) -> NerRun:
    run = NerRun(
        data=TaggedData(batch=8, chunks=(Chunks(words=3), Chunks(words=5, after=2))),
        model=Tagger(
            embedding=6,
            hidden=8,
            init_range=0.3,
            window=3,
            dropout_in=0.1,
            dropout_out=0.1,
            recurrent_dropout=(OURS.model_copy(update={"sampling": "sequence"}),),
        ),
        optim=Adam(lr=0.03, clip_norm=5.0),
        schedule=Schedule(epochs=4, log_every=5),
        seed=1,
    )
    return cast(NerRun, changed(run, changes))


ONE_STAGE = {"chunks": [{"words": 3}]}


def task_of(run: NerRun, rank: int = 0, size: int = 1) -> NerTask:
    sets = {"train": sentences(30), "valid": sentences(9, 1), "test": sentences(9, 2)}
    words = read_words(Counter(w for s in sets["train"] for w in s.words), (), run.data, None)
    tags = sorted({t for s in sets["train"] for t in s.tags} | {"O"})
    return NerTask(run, sets, words, tags, rank, size)


@pytest.mark.parametrize(
    ("word", "shape"),
    [("the", 0), ("Rome", 1), ("EU", 2), ("A", 1), ("McCoy", 3), ("iPad", 3), ("1996", 4),
     ("B2B", 4), (",", 0), ("ÉLAN", 2), ("-", 0)],
)  # fmt: skip
def test_how_a_word_is_written(word, shape):
    assert shape_of(word) == shape


@pytest.mark.parametrize("words", [1, 2, 5, 15, None])
def test_every_word_is_in_one_piece_and_none_is_too_long(words):
    lengths = torch.tensor([1, 2, 7, 31, 5])
    starts = lengths.cumsum(0) - lengths
    firsts: set[int] = set()
    for seed in range(100):
        begin, size = pieces(starts, lengths, words, torch.Generator().manual_seed(seed))
        covered = torch.cat(
            [torch.arange(int(b), int(b + n)) for b, n in zip(begin, size, strict=True)]
        )
        assert covered.tolist() == list(range(46))
        assert int(size.max()) <= (words or 31)
        of = torch.searchsorted(starts, begin, right=True)
        assert (begin + size <= (starts + lengths)[of - 1]).all()  # none crosses a border
        firsts.add(int(size[of == 4][0]))
    assert firsts == set(range(1, words + 1)) if words else firsts == {31}


def test_the_window_of_each_word_and_nothing_beyond_a_sentence():
    words = Words(read_words(Counter(["a", "b", "c"]), (), TaggedData(), None).vocabulary)
    rows = Sentences.of([["a", "b", "c"], ["C", "x"]], words, window=5)
    ids, shapes, places = rows.rows(rows.starts, rows.lengths, 5)
    a, b, c, unknown, border = 0, 1, 2, 3, 4
    assert ids[0].tolist() == [
        [border, border, a, b, c],
        [border, a, b, c, border],
        [a, b, c, border, border],
    ]
    assert ids[1, :2].tolist() == [
        [border, border, c, unknown, border],
        [border, c, unknown, border, border],
    ]
    assert shapes[1, 0].tolist() == [5, 5, 1, 0, 5]
    assert rows.ids[places[1, :2]].tolist() == [c, unknown]


def test_a_sentence_is_tagged_the_same_alone_and_among_others():
    torch.manual_seed(0)
    net = TaggerNet(4, 3, tiny().model).eval()
    words = read_words(Counter(["a", "b", "c"]), (), TaggedData(), None)
    texts = [["a", "b"], ["c"], ["b", "b", "a", "x"], ["c", "a"]]
    together = Sentences.of(texts, words, 3)
    ids, shapes, _ = together.rows(together.starts, together.lengths, 3)
    logits = torch.nn.utils.rnn.pad_packed_sequence(
        net(ids, shapes, together.lengths), batch_first=True
    )[0]
    for number, text in enumerate(texts):
        alone = Sentences.of([text], words, 3)
        ids, shapes, _ = alone.rows(alone.starts, alone.lengths, 3)
        expected = net(ids, shapes, alone.lengths).data
        torch.testing.assert_close(logits[number, : len(text)], expected)


def test_scores_are_those_of_the_tags_it_gives():
    run = tiny()
    task = task_of(run)
    nats, count, scores = task.measure("test")
    assert count == sum(len(s.words) for s in sentences(9, 2))
    total, found = 0.0, []
    for sentence in sentences(9, 2):
        alone = Sentences.of([sentence.words], task.words, 3)
        ids, shapes, _ = alone.rows(alone.starts, alone.lengths, 3)
        task.net.eval()
        with torch.no_grad():
            chances = task.net(ids, shapes, alone.lengths).data.log_softmax(-1)
        total -= sum(float(chances[i, task.tags.index(t)]) for i, t in enumerate(sentence.tags))
        found.append([task.tags[int(i)] for i in chances.argmax(-1)])
    assert nats == pytest.approx(total, rel=1e-4)
    assert scores == score([s.tags for s in sentences(9, 2)], found)


def test_processes_share_a_batch_and_come_to_its_mean():
    run = tiny(model={"dropout_in": 0.0, "dropout_out": 0.0, "recurrent_dropout": 0})

    def gradients(rank: int, size: int):
        task = task_of(run, rank, size)
        part = task.part(len(task._batches) - 1)
        part.objective.backward()
        grads = [p.grad if p.grad is not None else 0 * p for p in task.net.parameters()]
        return part, grads

    whole, expected = gradients(0, 1)
    shares = [gradients(rank, 3) for rank in range(3)]
    assert sum(part.predictions for part, _ in shares) == whole.predictions
    assert sum(float(part.nats) for part, _ in shares) == pytest.approx(float(whole.nats))
    for number, grad in enumerate(expected):
        mean = torch.stack([grads[number] for _, grads in shares]).mean(0)
        torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6)


def test_batches_have_every_row_once_and_rows_of_like_length():
    lengths = torch.randint(1, 60, (1_000,), generator=torch.Generator().manual_seed(0))
    batches = batches_of(lengths, 8, stream(1, "order"))
    assert torch.cat(batches).sort().values.tolist() == list(range(1_000))
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    assert padded < 1.1 * int(lengths.sum())
    again = batches_of(lengths, 8, stream(1, "order"))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


# ---------------------------------------------------------------------------------------- the runs


def test_it_learns_stage_by_stage_and_is_evaluated_the_same(tmp_path, capsys):
    data = write(tmp_path / "data")
    result = run_cell(tmp_path / "run", tiny(schedule={"epochs": 8}), data)
    scores = result.outcome.scores
    assert scores["test"] > 0.95
    assert {"test_stage1", "valid_stage1", "test_precision", "valid_last"} <= set(scores)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(data / "test.txt")]) == 0
    said = capsys.readouterr().out
    assert f"F1 {100 * scores['test']:6.2f}" in said
    gold = read_columns(data / "test.txt")
    trained = open_tagger(tmp_path / "run")
    share = trained.words.unknown_share(word for one in gold for word in one.words)
    assert f" words, {share:.1%} unknown, " in said
    found = [one.tags for one in tag(trained, [one.words for one in gold])]
    wanted, _ = conlleval([one.tags for one in gold], found)
    for name, line in zip(("overall", "LOC", "PER"), said.splitlines()[2:], strict=True):
        told = re.fullmatch(rf"{name} +precision +(\S+)  recall +(\S+)  F1 +(\S+)  (\d+)", line)
        assert told, line
        assert told.groups()[:3] == wanted[name.replace("overall", "")]


def test_the_column_of_the_tags_and_their_scheme_are_found(tmp_path, capsys):
    """Two columns of tags, IOBES in the one that is asked for."""
    data = write(tmp_path / "data")
    for path in data.iterdir():
        lines = [
            line and f"{line.split()[0]} {line.split()[2].replace('B-', 'S-')} B-X"
            for line in path.read_text().split("\n")
        ]
        path.write_text("\n".join(lines))
    tokens = ["train", "ner", "--data", str(data), "--out", str(tmp_path / "run")]
    tokens += ["--column", "2", "--set", "model.hidden=4", "--set", "schedule.epochs=1"]
    assert main(tokens) == 0
    assert "train: train.txt, 60 sentences, tags in iobes\n" in capsys.readouterr().out
    trained = open_tagger(tmp_path / "run")
    assert trained.tags == ("B-LOC", "B-PER", "O")  # of what training has, in data.scheme


def test_a_kind_that_training_lacks_counts_as_missed(tmp_path, capsys):
    data = write(tmp_path / "data")
    (data / "test.txt").write_text("Rome B-LOC\nEra B-TIME\n")
    result = run_cell(tmp_path / "run", tiny(schedule={"epochs": 8}), data)
    assert result.outcome.scores["test_recall"] == 0.5
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(data / "test.txt")]) == 0
    assert re.search(r"^TIME +precision +0.00  recall +0.00", capsys.readouterr().out, re.M)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    data = write(tmp_path / "data")
    whole = run_cell(tmp_path / "whole", tiny(), data)
    for stop in (3, 12, 8, 9):
        asked = iter([False] * stop + [True])
        with pytest.raises(Interrupted):
            run_cell(tmp_path / "parts", tiny(), data, stopping=lambda a=asked: next(a))
    assert run_cell(tmp_path / "parts", tiny(), data).outcome == whole.outcome
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert rows[0] == rows[1]


def test_given_vectors_are_kept_beside_the_run_and_not_trained(tmp_path):
    data = write(tmp_path / "data")
    known = ("rome", "Paris", "Smith", "other", "never")
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    save_vectors(tmp_path / "v.safetensors", sealed(known, values))
    run = tiny(data={"more_vectors": 4} | ONE_STAGE, schedule={"epochs": 1})
    run_cell(tmp_path / "run", run, data, files={"vectors": tmp_path / "v.safetensors"})
    trained = open_tagger(tmp_path / "run")
    assert set(trained.words.vocabulary.symbols) == {*known[:4], "<unk>"}
    table = trained.net.table.table
    assert table.shape == (6, 4)  # <unk> and what lies beyond a sentence are zero
    assert torch.equal(table[trained.words.vocabulary.ids["Smith"]], values[2])
    assert not table[-2:].any()
    assert "table.table" not in trained.net.state_dict()
    ids = trained.words.ids(["Rome", "rome", "SMITH", "Smith", "x"])
    assert ids[0] == ids[1]
    assert ids[2] == ids[4] == trained.words.vocabulary.ids["<unk>"]
    (tmp_path / "run" / "vectors.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="not the vectors that the run was trained with"):
        open_tagger(tmp_path / "run")


def test_what_was_read_is_told(tmp_path, capsys):
    data = write(tmp_path / "data")
    (data / "valid.txt").write_text("Rome I-LOC\nsaw O\nParis I-LOC\nParis B-LOC\nto B-PER\n")
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    save_vectors(tmp_path / "v.safetensors", sealed(("rome", "Paris"), values))
    tokens = ["train", "ner", "--data", str(data), "--vectors", str(tmp_path / "v.safetensors")]
    tokens += ["--out", str(tmp_path / "run"), "--set", "model.hidden=4"]
    assert main([*tokens, "--set", "schedule.epochs=1"]) == 0
    said = capsys.readouterr().out
    assert "train: train.txt, 60 sentences, tags in iob2\n" in said
    for what in ("F1 .*", "precision", "recall"):
        assert re.search(rf"^{what}: test \S+%, test_last \S+%", said, re.M)
    assert (
        "valid: valid.txt, 1 sentence, tags in iob1; 1 out of place, the first in line 5\n" in said
    )
    counts = Counter(w for s in sentences(60) for w in s.words)
    tokens_known = (counts["Rome"] + counts["Paris"]) / counts.total()
    told = f"of {tokens_known:.1%} of the training words, {2 / len(counts):.1%} of the different"
    assert f"vectors: v.safetensors, {told} ones\n" in said
    assert f"unknown words: train {1 - tokens_known:.1%}, valid 40.0%, test " in said


def test_tuned_vectors_start_as_given_and_change(tmp_path):
    data = write(tmp_path / "data")
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    save_vectors(tmp_path / "v.safetensors", sealed(("Rome", "Paris"), values))
    changes = {"model": {"tune": True}, "data": ONE_STAGE, "optim": {"lr": 1e-4}}
    run = tiny(**changes, schedule={"epochs": 1})
    run_cell(tmp_path / "run", run, data, files={"vectors": tmp_path / "v.safetensors"})
    table = open_tagger(tmp_path / "run").net.state_dict()["table.table"]
    change = (table[:2] - values).abs().max()
    assert 0 < change < 0.01
    assert not table[-1].any()


# ------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ner")
    run_cell(folder / "run", tiny(schedule={"epochs": 8}), write(folder / "data"))
    return folder / "run"


def test_plain_sentences_in_columns_out(trained, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Smith went to Rome\n\nthe Paris\n")
    assert main(["tag", str(trained), str(tmp_path / "in.txt")]) == 0
    (tmp_path / "out.txt").write_text(capsys.readouterr().out)
    first, second = read_columns(tmp_path / "out.txt")
    assert first.words == ("Smith", "went", "to", "Rome")
    assert first.tags == ("B-PER", "O", "O", "B-LOC")
    assert second.tags == ("O", "B-LOC")


def test_columns_in_json_lines_out_with_uncertainty(trained, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("Smith x\nwent x\n\nRome x\n")
    tokens = ["tag", str(trained), str(tmp_path / "in.txt"), "--columns", "--json"]
    assert main([*tokens, "--uncertainty", "8"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["words"] == ["Smith", "went"]
    assert first["entities"] == [{"kind": "PER", "start": 0, "stop": 1, "text": "Smith"}]
    assert second["tags"] == ["B-LOC"]
    most = math.log(3)
    for told in (first, second):
        assert len(told["entropy"]) == len(told["information"]) == len(told["words"])
        assert all(
            0 <= i <= e <= most for i, e in zip(told["information"], told["entropy"], strict=True)
        )


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "expected one file whose name has train"),
        ({"train.txt": "a O\n", "valid.txt": "a O\n"}, "expected one file whose name has test"),
        ({"train.txt": "a\n", "valid.txt": "a O\n", "test.txt": "a O\n"}, "to be in column -1"),
        ({"train.txt": "a Q\n", "valid.txt": "a O\n", "test.txt": "a O\n"}, "train.txt:1: 'Q'"),
        ({"train.txt": "a O\nb\n", "valid.txt": "a O\n", "test.txt": "a O\n"}, "train.txt:2"),
        ({"train.txt": "", "valid.txt": "a O\n", "test.txt": "a O\n"}, "train.txt"),
        ({n: f"a O {t}\n" for n, t in (("train", "O"), ("valid", "B-X"), ("test", "B-X"))},
         "no entity in 1 word to train on, every tag in the last column is O; are the tags in "
         "another column? --column N names it"),
    ],
)  # fmt: skip
def test_bad_folders_are_refused(files, told, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_text(content)
    tokens = ["train", "ner", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main(tokens) == 2
    assert told in capsys.readouterr().err


def test_a_file_alone_is_split(tmp_path):
    data = write(tmp_path / "data", (60, 1, 1))
    run = tiny(data=ONE_STAGE, schedule={"epochs": 1})
    result = run_cell(tmp_path / "run", run, data / "train.txt")
    assert "test" in result.outcome.scores
    sources = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [sources[n]["sentences"] for n in ("train", "valid", "test")] == [54, 3, 3]


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["train", "word-lm", "--column", "2"], "--column: only ner has it"),
        (["train", "char-lm", "--vectors", "X"], "char-lm does not use --vectors"),
        (["train", "ner", "--set", "model.window=4"], "window must be odd"),
        (["train", "ner", "--set", "data.chunks=[{words=5,after=3}]"], "after must start at 0"),
        (["train", "ner", "--set", "data.chunks=[]"], "after must start at 0 and rise, got []"),
        (
            ["train", "ner", "--preset", "paper", "--set", "schedule.epochs=25"],
            "schedule.epochs: 25 with data.chunks whose last begin after 25 leaves no epoch for",
        ),
        (["train", "ner", "--preset", "paper", "--set", "schedule.epochs=26"], "ner needs --data"),
        (["train", "ner"], "ner needs --data"),
    ],
)
def test_bad_options(tokens, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(tokens) == 2
    assert told in capsys.readouterr().err


def test_evaluate_refuses_what_is_for_texts(trained, tmp_path, capsys):
    tokens = ["evaluate", str(trained), "--data", str(tmp_path / "x"), "--streams", "3"]
    assert main([*tokens, "--paper-style"]) == 2
    assert "--streams and --paper-style: a run of ner has no such thing" in capsys.readouterr().err
