"""The classifier: texts as ids, the last true step, stages, scores, its files."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import cast

import pytest
import torch

from recdrop.lab.cli import main
from recdrop.lab.config import Adam, Classifier, LabelledData, Schedule, SentimentRun
from recdrop.lab.errors import BadInput
from recdrop.lab.label_scores import mean_f1
from recdrop.lab.labelled_tables import Labelled
from recdrop.lab.runs import read_rows, run_cell
from recdrop.lab.settings import changed
from recdrop.lab.tasks.reading import SEMEVAL, label_notes, words_of
from recdrop.lab.tasks.rows import in_order
from recdrop.lab.tasks.sentiment import ClassifierNet, SentimentTask, Stage, Texts
from recdrop.lab.train import Interrupted
from recdrop.lab.trained import open_classifier
from recdrop.lab.vectors import save_vectors, sealed
from recdrop.lab.words import read_words
from tests.lab.tiny import OURS

TELLING = {"good": "positive", "love": "positive", "bad": "negative", "awful": "negative"}
OTHERS = ["the", "day", "is", "it"]
LABELS = ("negative", "neutral", "positive")


def texts(number: int, seed: int = 0, *, weak: bool = False) -> list[tuple[str, str]]:
    """Label and text; a text's label is that of its one telling word, if any."""
    made, source = [], torch.Generator().manual_seed(seed)
    for _ in range(number):
        length = int(torch.randint(1, 7, (), generator=source))
        words = [OTHERS[i] for i in torch.randint(0, 4, (length,), generator=source).tolist()]
        place, which = (int(torch.randint(0, n, (), generator=source)) for n in (length, 6))
        telling = [*TELLING][which % 4] if weak or which < 4 else None
        if telling:
            words[place] = telling
        made.append((TELLING[telling] if telling else "neutral", " ".join(words)))
    return made


def write_rows(path: Path, rows: list[tuple[str, str]], header: str = "label\ttext\n") -> Path:
    path.write_text(header + "".join(f"{label}\t{text}\n" for label, text in rows))
    return path


def write_texts(folder: Path, numbers: tuple[int, int, int] = (60, 20, 20)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, number) in enumerate(zip(("train", "valid", "test"), numbers, strict=True)):
        write_rows(folder / f"{name}.tsv", texts(number, seed))
    return folder


def weak_texts(path: Path) -> Path:
    return write_rows(path, texts(54, 7, weak=True))


def tiny(**changes) -> SentimentRun:
    run = SentimentRun(
        data=LabelledData(batch=8, texts="words"),
        model=Classifier(
            embedding=6,
            hidden=8,
            init_range=0.3,
            dropout_in=0.1,
            dropout_out=0.1,
            recurrent_dropout=(OURS,),
        ),
        optim=Adam(lr=0.03, clip_norm=5.0),
        schedule=Schedule(epochs=4, log_every=5),
        seed=1,
    )
    return cast(SentimentRun, changed(run, changes))


DRY = {"dropout_in": 0.0, "dropout_out": 0.0, "recurrent_dropout": 0}


def train(folder: Path, run: SentimentRun, data: Path, **files: Path) -> Path:
    run_cell(folder, run, data, files=files)
    return folder


def task_of(run: SentimentRun, rank: int = 0, size: int = 1, *, weak: bool = False):
    rows = [texts(30), texts(11, 1), texts(11, 2)]
    words = read_words(Counter(w for _, t in rows[0] for w in t.split()), (), run.data, None)

    def numbered(part, labels):
        return Texts.of([t.split() for _, t in part], words, [label for label, _ in part], labels)

    train_set, valid, test = (numbered(part, LABELS) for part in rows)
    stages = [Stage(LABELS, train_set, valid)]
    if weak:
        two = ("negative", "positive")
        parts = (numbered(texts(n, n, weak=True), two) for n in (19, 7))
        stages.insert(0, Stage(two, *parts))
    return SentimentTask(run, stages, {"test": test}, words, rank, size)


# -------------------------------------------------------------------------------- texts and the net


def test_texts_as_ids():
    words = read_words(Counter(["a", "b", "c"]), (), LabelledData(), None)
    given = Texts.of([["a", "B"], [], ["x", "c", "a"]], words, ["no", "yes", "odd"], ("no", "yes"))
    assert given.ids.tolist() == [0, 1, 3, 3, 2, 0]
    assert given.starts.tolist() == [0, 2, 3]
    assert given.lengths.tolist() == [2, 1, 3]
    assert given.labels.tolist() == [0, 1, -1]
    ids, lengths = given.rows(torch.tensor([2, 0, 1]))
    assert ids.tolist() == [[3, 2, 0], [0, 1, 1], [3, 3, 3]]
    assert lengths.tolist() == [3, 2, 1]
    assert Texts.of([["a"]], words).labels.tolist() == [-1]


def test_tweets_and_words_between_blanks():
    text = ["@x  GREAT!!! :)"]
    assert words_of(text, LabelledData(texts="words")) == [["@x", "GREAT!!!", ":)"]]
    assert words_of(text, LabelledData()) == [["<user>", "great", "!", "<repeat>", ":)"]]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_step_is_each_texts_own(cell, bidirectional, layers):
    torch.manual_seed(0)
    shape = {"cell": cell, "bidirectional": bidirectional, "layers": layers}
    net = ClassifierNet(4, 3, tiny(model=shape | {"recurrent_dropout": 0.3}).model).eval()
    torch.nn.init.normal_(net.table.table)
    words = read_words(Counter(["a", "b", "c"]), (), LabelledData(), None)
    given = [["a", "b"], ["c"], ["b", "b", "a", "x", "c"], [], ["c", "a"]]
    rows = Texts.of(given, words)
    together = net(*rows.rows(torch.arange(5)))
    for number, text in enumerate(given):
        alone = net(*Texts.of([text], words).rows(torch.tensor([0])))
        torch.testing.assert_close(together[number : number + 1], alone)
    assert len({tuple(row) for row in together.tolist()}) == 5


def test_weak_labels_have_an_output_layer_of_their_own():
    net = ClassifierNet(4, 3, tiny().model, weak_labels=2).eval()
    ids, lengths = torch.tensor([[0, 1]]), torch.tensor([2])
    assert net(ids, lengths).shape == (1, 3)
    assert net(ids, lengths, weak=True).shape == (1, 2)
    with pytest.raises(ValueError, match="without weak labels"):
        ClassifierNet(4, 3, tiny().model)(ids, lengths, weak=True)


def test_rows_that_are_very_long_are_evaluated_by_fewer():
    lengths = torch.tensor([5, 2_000_000, 3, 60_000, 60_000, 60_000, 1])
    batches = [batch.tolist() for batch in in_order(lengths, 3)]
    assert batches == [[1], [3, 4], [5, 0], [2, 6]]
    assert not in_order(lengths[:0], 3)


# ---------------------------------------------------------------------------------------- the task


def test_scores_are_those_of_the_labels_it_gives():
    task = task_of(tiny())
    gold, found, nats = [], [], 0.0
    task.net.eval()
    for label, text in texts(11, 1):
        with torch.no_grad():
            logits = task.net(*Texts.of([text.split()], task.words).rows(torch.tensor([0])))
        nats -= float(logits.log_softmax(-1)[0, LABELS.index(label)])
        found.append(LABELS[int(logits.argmax())])
        gold.append(label)
    task.net.train()
    looked = task.look()
    assert looked.loss == pytest.approx(nats / 11, rel=1e-5)
    assert looked.score == mean_f1(gold, found, LABELS)
    assert set(task.conclude()) == {"valid", "valid_accuracy", "test", "test_accuracy"}
    assert task.net.training


@pytest.mark.parametrize("weak", [False, True])
def test_processes_share_a_batch_and_come_to_its_mean(weak):
    run = tiny(model=DRY)

    def gradients(rank: int, size: int):
        task = task_of(run, rank, size, weak=weak)
        sizes = [len(batch) for batch in task._batches]
        part = task.part(sizes.index(min(sizes)))
        part.objective.backward()
        grads = [p.grad if p.grad is not None else 0 * p for p in task.net.parameters()]
        return part, grads

    whole, expected = gradients(0, 1)
    for size in (3, 9):  # the last batch has fewer rows than nine
        shares = [gradients(rank, size) for rank in range(size)]
        assert sum(part.predictions for part, _ in shares) == whole.predictions
        assert sum(part.right for part, _ in shares) == whole.right
        assert sum(float(part.nats) for part, _ in shares) == pytest.approx(float(whole.nats))
        for number, grad in enumerate(expected):
            mean = torch.stack([grads[number] for _, grads in shares]).mean(0)
            torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6)


def test_stages_have_their_own_texts_and_labels():
    task = task_of(tiny(data={"pretraining": 2}), weak=True)
    assert task.stages == [2]
    assert task.steps == 3  # 19 weak texts
    assert set(task.conclude()) == {"valid"}
    before = task.look()
    task.begin(1)
    assert task.look() == before
    task.begin(2)
    assert task.steps == 4  # 30 texts
    assert task.look() != before
    assert "test" in task.conclude()


# ---------------------------------------------------------------------------------------- the runs


def test_it_learns_and_is_evaluated_the_same(tmp_path, capsys):
    data = write_texts(tmp_path / "data", (200, 20, 20))
    run = train(tmp_path / "run", tiny(schedule={"epochs": 8}), data)
    scores = json.loads((run / "result.json").read_text())["outcome"]["scores"]
    assert scores["test"] > 0.9
    assert {"valid_last", "test_accuracy", "valid_accuracy"} <= set(scores)
    for name in ("valid", "test"):
        assert main(["evaluate", str(run), "--data", str(data / f"{name}.tsv")]) == 0
        said = capsys.readouterr().out
        assert f"positive and negative {100 * scores[name]:.2f}" in said
        assert f"accuracy {scores[f'{name}_accuracy']:.2%}, 20 texts" in said
        assert said.splitlines()[1].endswith(", 0.0% of their words unknown")


def test_pretraining_is_a_stage_and_its_best_net_goes_on(tmp_path):
    data = write_texts(tmp_path / "data")
    weak = write_rows(tmp_path / "weak.tsv", texts(100, 7, weak=True))
    run = tiny(data={"pretraining": 3}, schedule={"epochs": 4, "log_every": 1}, optim={"lr": 1e-9})
    train(tmp_path / "run", run, data, pretrain=weak)
    rows = read_rows(tmp_path / "run")
    steps = [max(r.update for r in rows if r.epoch == epoch) for epoch in (1, 2, 3, 4)]
    assert steps == [13, 26, 39, 47]  # 98 of the weak texts, then 60
    told = json.loads((tmp_path / "run" / "result.json").read_text())["outcome"]["scores"]
    best = max(row.score for row in rows if row.split == "valid" and row.epoch < 4)
    assert told["valid_stage1"] == best
    assert {name for name in told if "stage" in name} == {"valid_stage1"}
    sources = json.loads((tmp_path / "run" / "data.json").read_text())
    assert sources["weak_labels"] == ["negative", "positive"]
    assert sources["labels"] == [*LABELS]
    assert [sources[f"pretrain_{n}"]["texts"] for n in ("train", "valid")] == [98, 2]


def test_the_best_net_of_pretraining_goes_on_and_not_its_last(tmp_path):
    """Of steps that are far too long the first look is the best here."""
    data = write_texts(tmp_path / "data")
    weak = write_rows(tmp_path / "weak.tsv", texts(100, 7, weak=True))
    values = {"epochs": 5, "log_every": 1}
    run = tiny(data={"pretraining": 4}, schedule=values, optim={"lr": 0.3})
    begun = {}
    original = SentimentTask.begin

    def begin(self, epoch):
        begun[epoch] = {name: v.clone() for name, v in self.net.state_dict().items()}
        original(self, epoch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SentimentTask, "begin", begin)
        train(tmp_path / "run", run, data, pretrain=weak)
    looks = [r.score for r in read_rows(tmp_path / "run") if r.split == "valid"][:4]
    best = looks.index(max(looks)) + 1
    assert best < 4, "the net of the last look is no test of it"
    same = {e for e in (1, 2, 3) if all(torch.equal(v, begun[4][k]) for k, v in begun[e].items())}
    assert same == {best}


def test_emoticons_are_taken_out_of_weak_texts_only(tmp_path):
    data = write_texts(tmp_path / "data")
    write_rows(data / "train.tsv", [("positive", "good ;)"), *texts(40)])
    weak = write_rows(tmp_path / "weak.tsv", [("positive", f"{i} :)") for i in range(30)])
    with weak.open("a") as file:
        file.writelines(f"negative\t{i} :(\n" for i in range(30))
    run = tiny(data={"texts": "tweets"}, schedule={"epochs": 2})
    train(tmp_path / "run", run, data, pretrain=weak)
    symbols = open_classifier(tmp_path / "run").words.vocabulary.symbols
    assert ";)" in symbols
    assert "7" in symbols
    assert not {":)", ":("} & {*symbols}


def test_a_run_interrupted_all_the_time_goes_on_to_the_same_bits(tmp_path):
    data = write_texts(tmp_path / "data", (30, 9, 9))
    weak = {"pretrain": weak_texts(tmp_path / "weak.tsv")}
    run = tiny(data={"pretraining": 2}, schedule={"epochs": 4})  # the stages' border: update 14
    whole = run_cell(tmp_path / "whole", run, data, files=weak)
    told = []
    for _ in range(13):  # each time after two updates, or amid a look
        asked = iter([False, True])
        with pytest.raises(Interrupted) as stopped:
            run_cell(tmp_path / "parts", run, data, files=weak, stopping=lambda a=asked: next(a))
        told.append(str(stopped.value))
    assert "at update 14, epoch 3" in told
    assert run_cell(tmp_path / "parts", run, data, files=weak).outcome == whole.outcome
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_net_that_knows_weak_labels_only_is_no_classifier_yet(tmp_path):
    data = write_texts(tmp_path / "data", (30, 9, 9))
    weak = {"pretrain": weak_texts(tmp_path / "weak.tsv")}
    run = tiny(data={"pretraining": 2}, schedule={"epochs": 4})
    asked = iter([False] * 8 + [True] * 100)
    with pytest.raises(Interrupted):
        run_cell(tmp_path / "run", run, data, files=weak, stopping=lambda: next(asked))
    with pytest.raises(BadInput, match="knows weak labels only"):
        open_classifier(tmp_path / "run")


def test_given_vectors_are_kept_beside_the_run(tmp_path):
    data = write_texts(tmp_path / "data")
    known = ("good", "Bad", "day", "never")
    values = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    vectors = tmp_path / "v.safetensors"
    save_vectors(vectors, sealed(known, values))
    run = tiny(data={"more_vectors": 0}, schedule={"epochs": 1})
    train(tmp_path / "run", run, data, vectors=vectors)
    trained = open_classifier(tmp_path / "run")
    assert set(trained.words.vocabulary.symbols) == {"good", "day", "<unk>"}
    assert torch.equal(trained.net.table.table[trained.words.vocabulary.ids["good"]], values[0])
    assert "table.table" not in trained.net.state_dict()
    (tmp_path / "run" / "result.json").unlink()
    other = tmp_path / "w.safetensors"
    save_vectors(other, sealed(known, values + 1))
    for files in ({}, {"vectors": other}):
        with pytest.raises(BadInput, match="does not agree with the data given now"):
            run_cell(tmp_path / "run", run, data, files=files)
    (tmp_path / "run" / "data.json").write_text('{"vectors": 1}')
    with pytest.raises(BadInput, match=r"data\.json"):
        open_classifier(tmp_path / "run")


# ------------------------------------------------------------------------------------- its files


def write_semeval(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("twitter2013train", "twitter2013dev", *SEMEVAL.values())):
        rows = [(f"{i}\t{label}", text) for i, (label, text) in enumerate(texts(12, seed))]
        write_rows(folder / f"{name}.tsv", rows, "")
    return folder


def test_semevals_layout(tmp_path):
    data = write_semeval(tmp_path / "data")
    (data / "notes.tsv").write_text("x\n")  # is none of the sets
    run = tiny(data={"layout": "semeval"}, schedule={"epochs": 1})
    scores = run_cell(tmp_path / "run", run, data).outcome.scores
    for name in SEMEVAL:
        assert {name, f"{name}_accuracy", f"{name}_last"} <= set(scores)
    sources = json.loads((tmp_path / "run" / "data.json").read_text())
    assert sources["train"]["texts"] == 24
    dev = data / "twitter2013dev.tsv"
    right = dev.read_text()
    dev.write_text(f"no\trating\treview\n{right}")
    with pytest.raises(BadInput, match=r"twitter2013dev\.tsv:1: is this a header\? No other row"):
        run_cell(tmp_path / "other", run, data)
    dev.write_text(right)
    (data / "twitter2014sarcasm.tsv").unlink()
    with pytest.raises(BadInput, match=r"has no twitter2014sarcasm\.tsv"):
        run_cell(tmp_path / "other", run, data)


def test_labels_that_training_lacks_are_refused(tmp_path):
    for name in ("valid", "test"):
        data = write_texts(tmp_path / name)
        with (data / f"{name}.tsv").open("a") as file:
            file.write("joy\tgood day\n")
        with pytest.raises(BadInput, match=f"{name} set, line 22: .* no label 'joy', only nega"):
            run_cell(tmp_path / "run", tiny(), data)
    for name, expected in (("train", "data: all 20"), ("weak", r"weak\.tsv: all 20")):
        data = write_texts(tmp_path / "data")
        one = [("positive", text) for _, text in texts(20)]
        weak = write_rows(tmp_path / "weak.tsv", one if name == "weak" else texts(20, weak=True))
        if name == "train":
            write_rows(data / "train.tsv", one)
        with pytest.raises(BadInput, match=f"{expected} texts to train on have the label"):
            run_cell(tmp_path / "run", tiny(), data, files={"pretrain": weak})


def test_a_file_alone_is_split(tmp_path):
    file = write_rows(tmp_path / "all.tsv", [(a, f"{i} {b}") for i, (a, b) in enumerate(texts(60))])
    run_cell(tmp_path / "run", tiny(schedule={"epochs": 1}), file)
    sources = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [sources[n]["texts"] for n in ("train", "valid", "test")] == [54, 3, 3]


def test_the_labels_are_told_with_their_numbers():
    def notes(labels, **columns):
        rows = [Labelled(f"text {i}", label, i) for i, label in enumerate(labels, 1)]
        return label_notes("train", rows, LabelledData(**columns))

    assert notes(["b", "a", "b"]) == ["train: 3 texts: 1 a, 2 b"]
    assert notes(["x" * 100] * 1_000 + ["y"]) == [f"train: 1,001 texts: 1,000 {'x' * 37}..., 1 y"]
    many = [label for i, label in enumerate("abcdefghi") for _ in range(i + 1)]
    assert notes(many) == ["train: 45 texts: 9 labels, from 9 i to 1 a"]
    alone = ["rating", "a", "a", "b", "b"]
    assert len(notes(alone)) == len(notes(alone, text_column="t", label_column="2")) == 1
    _, doubt = notes(alone, text_column=1, label_column="2")
    assert doubt == (
        "train: line 1 was read as a text, and no other has its label 'rating'; if it is a header, "
        "give the columns by name"
    )


@pytest.mark.parametrize("part", ["train", "weak"])
def test_a_header_of_other_names_trains_nothing(part, tmp_path, capsys):
    data, weak = write_texts(tmp_path / "data"), weak_texts(tmp_path / "weak.tsv")
    tokens = ["train", "sentiment", "--data", str(data), "--pretrain", str(weak), *SMALL]
    tokens += ["--set", "schedule.epochs=2", "--out", str(tmp_path / "run")]
    path = data / "train.tsv" if part == "train" else weak
    right = path.read_text()
    path.write_text(right.replace("label\ttext", "rating\treview"))
    assert main(tokens) == 2
    said = capsys.readouterr().err
    assert f"{path.name}:1: is this a header? No other row has its label 'rating'" in said
    path.write_text(right)
    assert main(tokens) == 0
    said = capsys.readouterr().out
    for name, rows in (("train", texts(60)), ("pretrain", texts(54, 7, weak=True))):
        numbers = sorted(Counter(label for label, _ in rows).items())
        told = ", ".join(f"{number} {label}" for label, number in numbers)
        assert f"\n{name}: {len(rows)} texts: {told}\n" in f"\n{said}"


def test_unknown_words_are_told_and_texts_of_nothing_else_refused(tmp_path, capsys):
    data = write_texts(tmp_path / "data")
    write_rows(data / "test.tsv", [("positive", "good new day"), ("negative", "bad")])
    tokens = ["train", "sentiment", "--data", str(data), *SMALL]
    assert main([*tokens, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "\nunknown words: train 0.0%, valid 0.0%, test 25.0%\n" in said
    assert re.search(r"^mean F1 .*: test \S+%, test_last \S+%, train ", said, re.M)
    assert re.search(r"^accuracy: test \S+%, test_last \S+%, valid ", said, re.M)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(data / "test.tsv")]) == 0
    assert "2 texts, 25.0% of their words unknown\n" in capsys.readouterr().out
    write_rows(
        data / "train.tsv", [(a, f"{b}{i}".replace(" ", "")) for i, (a, b) in enumerate(texts(60))]
    )
    assert main([*tokens, "--set", "data.min_count=2", "--out", str(tmp_path / "other")]) == 2
    assert "none of the 60 different words of the training texts" in capsys.readouterr().err


SMALL = ["--set", "model.hidden=4", "--set", "model.embedding=3", "--set", "schedule.epochs=1"]


@pytest.mark.parametrize(
    "options",
    [
        ["--text-column", "2", "--label-column", "3"],
        ["--text-column", "café 😀", "--label-column", "Mood"],
        ["--set", 'data.text_column="2"', "--set", "data.label_column=mood"],
    ],
)
def test_columns(options, tmp_path):
    """A number alone makes the first row a text like any other."""
    rows = [(f"{i}\t{text}", label) for i, (label, text) in enumerate(texts(40))]
    numbers = "--text-column" in options and "2" in options
    header = "" if numbers else "id\tcafé 😀\tmood\n"
    (tmp_path / "all.tsv").write_text(header + "".join(f"{a}\t{b}\n" for a, b in rows))
    tokens = ["train", "sentiment", "--data", str(tmp_path / "all.tsv"), *options, *SMALL]
    assert main([*tokens, "--out", str(tmp_path / "run")]) == 0
    trained = open_classifier(tmp_path / "run")
    assert trained.labels == LABELS
    assert "good" in trained.words.vocabulary.symbols
    columns = trained.run.data.text_column, trained.run.data.label_column
    assert all(isinstance(column, str) for column in columns)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--text-column", "nix"], "no column nix"),
        (["--text-column", "9", "--label-column", "1"], "so none has the number 9"),
        (["--column", "2"], "--column: only ner has it"),
        (["--set", "data.layout=semeval"], "has no twitter2013train.tsv"),
        (["--set", "data.pretraining=0"], "data.pretraining: "),
        (["--set", "optim.lr=nan"], "optim.lr: Input should be a finite number"),
        (["--pretrain", "nowhere", "--set", "schedule.epochs=2"], "nowhere: no such file"),
        (["--vectors", "nowhere"], "nowhere: no such file"),
        (["--pretrain", "weak.tsv"], "schedule.epochs: 1 with data.pretraining = 1 leaves no"),
    ],
)
def test_bad_options(options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_texts(tmp_path / "data")
    write_rows(tmp_path / "weak.tsv", texts(30, weak=True))
    assert main(["train", "sentiment", "--data", str(data), *SMALL, *options]) == 2
    assert told in capsys.readouterr().err
