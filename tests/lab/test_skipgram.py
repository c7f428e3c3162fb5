"""Training of word vectors: texts, one step against autograd, what is learnt, the commands."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cyclopts import App
from pydantic import ValidationError

from recdrop.lab import skipgram, vector_commands
from recdrop.lab.errors import BadInput, Diverged
from recdrop.lab.skipgram import Position, SkipGram, split_newswire, train_vectors
from recdrop.lab.vectors import nearest, read_vectors, save_vectors

SMALL = SkipGram(width=12, window=2, min_count=1, subsample=0, epochs=1)


def file(tmp_path, content, name="text.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def topics(lines=1_500):
    """Lines of words of one topic each, with words of no topic between them."""
    rng = random.Random(0)
    words = [[f"{topic}{i}" for i in range(8)] for topic in ("oil", "ball", "tree")]
    common = ["the", "of", "and"]
    return "".join(
        " ".join(rng.choices(rng.choice(words) + common, k=12)) + "\n" for _ in range(lines)
    )


def corpus(tmp_path, content, **changes):
    return skipgram._read([file(tmp_path, content)], SMALL.model_copy(update=changes))


# -------------------------------------------------------------------------------------- the texts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("The U.S. didn't pay 1,500 dlrs.", "The U.S. did n't pay 1,500 dlrs ."),
        ("Italy's (O'Brien) said: 'no'!", "Italy 's ( O'Brien ) said : ' no ' !"),
        ("in 1995-96, 5.93 mln; 1/2 pct", "in 1995-96 , 5.93 mln ; 1/2 pct"),
        ("U.S.-led S&P two-day 12:30", "U.S.-led S&P two-day 12:30"),
        ("hit .500 -- but... 'we're'", "hit .500 -- but ... ' we 're '"),
        ("'Oslo' 'tis '90s 'sold", "' Oslo ' ' tis ' 90s ' sold"),
        ("he'd I'm they've we'll IT'S DON'T", "he 'd I 'm they 've we 'll IT 'S DO N'T"),
        ('"C$5" 日本 é_1', '" C $ 5 " 日本 é_1'),
        ("<unk> <eos> <b>", "<unk> <eos> < b >"),
        ("\u00a0 \u2028", ""),
    ],
)
def test_newswire_is_split(content, expected):
    assert split_newswire(content) == expected.split()


def test_words_are_ranked_and_rare_ones_left_out(tmp_path):
    got = corpus(tmp_path, "b a <unk> a\n\nC b c\n<unk> x a <eos> a", min_count=2)
    assert got.words == ("a", "b", "c")
    assert got.counts.tolist() == [4, 2, 2]
    assert got.ids.tolist() == [1, 0, 0, -1, -1, 2, 1, 2, -1, 0, -1, 0, -1]
    got = corpus(tmp_path, "b a\nC b", lowercase=False)
    assert got.words == ("b", "a", "C")
    assert corpus(tmp_path, "a, b.", tokens="newswire").words == ("a", ",", "b", ".")
    assert corpus(tmp_path, "@a B :D", tokens="tweets").words == ("<user>", "b", ":D")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "fewer than two words are there 1 times or more"),
        (b"a a\n", "fewer than two words"),
        (b"a b\n\xff\n", "text.txt:2: byte 1 of the line: not UTF-8"),
        (b"a\0b\n", "text.txt:1: byte 2 of the line: NUL"),
    ],
)
def test_texts_without_use_are_refused(tmp_path, content, told):
    with pytest.raises(BadInput, match=told):
        train_vectors([file(tmp_path, content)], SMALL)
    with pytest.raises(BadInput, match="no such file"):
        train_vectors([tmp_path / "nowhere"], SMALL)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"window": 0}, {"epochs": 0}, {"learning_rate": 0}, {"tokens": "x"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        SkipGram(**wrong)


# ------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("subsample", [0.0, 0.05])
def test_a_step_is_the_gradient_of_the_loss(tmp_path, subsample):
    """Pairs and drawn words are gone through one by one; autograd does the rest."""
    settings = SMALL.model_copy(update={"window": 3, "negatives": 4, "subsample": subsample})
    read = skipgram._read([file(tmp_path, topics(30))], settings)
    training = skipgram._Training(read, settings)
    training.outputs = torch.randn(training.outputs.shape) / 3
    ids = torch.from_numpy(read.ids.astype(np.int64))
    chunks = training._chunks_of(ids)
    x, yz = (t.double().requires_grad_() for t in (training.inputs, training.outputs))
    state = training._random.get_state()
    draws = torch.rand(len(chunks.words), 32, generator=training._random, dtype=torch.float64)
    training._random.set_state(state)
    drawn = torch.searchsorted(training._drawn, draws)
    loss, pairs = torch.zeros((), dtype=torch.float64), 0
    for words, lines, reach, z in zip(*chunks, drawn, strict=True):
        for i in range(8):
            near = [
                j
                for j in range(14)
                if j != i + 3 and abs(j - i - 3) <= reach[i] and lines[j] == lines[i + 3]
            ]
            centre = x[words[i + 3]]
            for j in near:
                loss = loss - torch.nn.functional.logsigmoid(centre @ yz[words[j]])
            each = -torch.nn.functional.logsigmoid(-(yz[z] @ centre)).mean()
            loss = loss + each * len(near) * 4
            pairs += len(near)
    loss.backward()
    assert pairs > 200
    before = training.inputs.clone(), training.outputs.clone()
    training._step(*chunks, 0.01)
    for table, old, exact in zip((training.inputs, training.outputs), before, (x, yz), strict=True):
        assert exact.grad is not None
        torch.testing.assert_close(table - old, -0.01 * exact.grad.float(), rtol=1e-4, atol=1e-6)


def test_chunks_hold_every_word_once_with_its_neighbours(tmp_path):
    read = corpus(tmp_path, topics(40))
    training = skipgram._Training(read, SMALL)
    chunks = training._chunks_of(torch.from_numpy(read.ids.astype(np.int64)))
    text = read.ids[read.ids >= 0].tolist()
    assert chunks.words[:, 2:10].flatten()[: len(text)].tolist() == text
    assert chunks.words[1].tolist() == text[6:18]
    lines = chunks.lines[:, 2:10].flatten()
    assert lines[: len(text)].bincount().tolist() == [12] * 40
    filled = torch.cat([chunks.lines[0, :2], lines[len(text) :]])
    assert (filled < 0).all()
    assert len(filled.unique()) == len(filled)
    assert set(chunks.reach.flatten().tolist()) == {1, 2}


def test_frequent_words_are_thinned_out(tmp_path):
    read = corpus(tmp_path, "a " * 30_000 + "b " * 100 + "c " * 10)
    training = skipgram._Training(read, SMALL.model_copy(update={"subsample": 1e-2}))
    chunks = training._chunks_of(torch.from_numpy(read.ids.astype(np.int64)))
    words = chunks.words[:, 2:10][chunks.lines[:, 2:10] >= 0]
    a, b, c = words.bincount(minlength=3).tolist()
    assert (b, c) == (100, 10)  # 1/3 and 1/30 per cent
    assert a == pytest.approx(30_110 * (1e-2 + 1e-1), rel=0.05)


def test_a_part_without_words_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(skipgram, "_SPAN", 30)
    got = train_vectors([file(tmp_path, "\n" * 100 + "a b\n" * 5 + "\n" * 100)], SMALL)
    assert set(got.words) == {"a", "b"}
    thinned = train_vectors([file(tmp_path, "a b\n")], SMALL.model_copy(update={"subsample": 1e-9}))
    assert thinned.values.isfinite().all()


def test_drawn_words_follow_their_counts(tmp_path):
    read = corpus(tmp_path, "a " * 81 + "b " * 16 + "c")
    steps = skipgram._Training(read, SMALL)._drawn.diff(prepend=torch.zeros(1))
    assert steps.tolist() == pytest.approx([27 / 36, 8 / 36, 1 / 36])


# ----------------------------------------------------------------------------------- what is learnt


def test_words_of_a_topic_end_up_near_each_other(tmp_path):
    settings = SkipGram(width=20, epochs=3, learning_rate=0.05)
    path = file(tmp_path, topics())
    got = train_vectors([path], settings)
    assert len(got) == 27
    assert got.values.isfinite().all()
    for word in ("oil0", "ball3", "tree7"):
        topic = word[:-1]
        assert sum(near.startswith(topic) for near, _ in nearest(word, got, 7)) == 7, word
    assert got.notes[0].startswith('skip-gram: {"width":20')
    assert got.notes[1].startswith("text: text.txt, SHA-256 ")


def test_the_same_seed_gives_the_same_bits(tmp_path):
    path = file(tmp_path, topics(100))
    first, again, other = (
        train_vectors([path], SMALL.model_copy(update={"seed": seed})) for seed in (1, 1, 2)
    )
    assert torch.equal(first.values, again.values)
    assert first.sha256 == again.sha256
    assert not torch.equal(first.values, other.values)
    save_vectors(tmp_path / "out", first)
    assert read_vectors(tmp_path / "out").sha256 == first.sha256


def test_positions_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(skipgram, "_SPAN", 500)
    monkeypatch.setattr(skipgram, "_TOLD", 1)
    told = []
    paths = [file(tmp_path, topics(50)), file(tmp_path, topics(10), "more.txt")]
    train_vectors(paths, SMALL.model_copy(update={"epochs": 2}), told.append)
    assert told[0] == Position(0, 60 * 12 * 2)
    assert told[-1] == Position(60 * 12 * 2, 60 * 12 * 2)
    done = [position.done for position in told]
    assert done == sorted(done)
    assert len(done) > 10


def test_a_vector_that_is_not_finite_ends_it(tmp_path, monkeypatch):
    def step(self, *_):
        self.outputs[0] = torch.nan

    monkeypatch.setattr(skipgram._Training, "_step", step)
    with pytest.raises(Diverged, match="after 240 of 240 words; try a learning rate below 0.025"):
        train_vectors([file(tmp_path, topics(20))], SMALL)


# ------------------------------------------------------------------------------------ the commands


def call(command, *tokens):
    app = App()
    app.default(command)
    function, bound, _ = app.parse_args(list(map(str, tokens)), exit_on_error=False)
    return function(*bound.args, **bound.kwargs)


def test_the_commands_train_and_show(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vector_commands, "_INTERVAL", 0.0)
    texts = file(tmp_path, topics(200)), file(tmp_path, topics(100), "more.txt")
    out = tmp_path / "deep" / "own.safetensors"
    given = ["--out", out, "--width", 10, "--epochs", 2, "--text", *texts]
    assert call(vector_commands.train, *given) == 0
    told = capsys.readouterr().out
    for part in ("Ctrl-C loses", "epoch 2 of 2, ", "7,200 words in 2 epochs", f"Written: {out}"):
        assert part in told
    assert "27 different words, width 10" in told
    assert call(vector_commands.show, out, "--near", "OIL1", "--near", "the", "--count", 3) == 0
    shown = capsys.readouterr().out
    assert "27 words, width 10, SHA-256 " in shown
    assert '"width":10,"window":5' in shown
    assert len(next(line for line in shown.splitlines() if line.startswith("OIL1: ")).split()) == 7
    with pytest.raises(BadInput, match="is there already"):
        call(vector_commands.train, *given)


def test_an_interrupted_training_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(skipgram._Training, "_step", interrupted)
    out = tmp_path / "deep" / "own.safetensors"
    with pytest.raises(KeyboardInterrupt):
        call(vector_commands.train, "--out", out, "--text", file(tmp_path, topics(20)))
    assert list(out.parent.iterdir()) == []


def test_what_cannot_be_written_is_told_before_the_training(tmp_path):
    text = file(tmp_path, topics(20))
    with pytest.raises(BadInput, match=r"text\.txt is a file, expected a folder"):
        call(vector_commands.train, "--out", text / "own.safetensors", "--text", text)


def test_the_commands_options_are_the_settings():
    options = vector_commands.TrainOptions(text=[Path("a")], out=Path("b"))
    assert SkipGram(**options.model_dump(exclude={"text", "out"})) == SkipGram()
    assert options.model_fields_set == {"text", "out"}


def test_the_commands_module_does_not_import_torch():
    code = (
        "import sys, recdrop.lab.vector_commands\n"
        "assert not {'torch', 'numpy'} & {*sys.modules}, 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
