"""An epoch of the tagger and of the classifier of texts, beside torch's layers.

``python -m benchmarks.word_nets`` times, in turns, whole epochs of updates (forward, backward,
clipping, Adam) of the lab's nets with recurrent dropout, and of the same nets with torch's layers
in place of ours and no recurrent dropout, on packed rows of unequal length; and ours on as many
words in rows of equal length, which is what no padding at all would cost. Nothing is timed before
the first two have given the same losses and gradients. Writes
``benchmarks/results/word_nets-<threads>.json``.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import RATE
from benchmarks.language_model import TOLERANCE
from benchmarks.machine import Watch, in_own_processes, save, thread_counts
from benchmarks.run import add_common, checked_backend, results_folder
from benchmarks.timing import Budget, Work, compare, interleave
from recdrop.lab.config import (
    Adam,
    Classifier,
    Dropout,
    LabelledData,
    NerRun,
    Schedule,
    SentimentRun,
    TaggedData,
    Tagger,
)
from recdrop.lab.conll import Sentence
from recdrop.lab.tasks.ner import NerTask
from recdrop.lab.tasks.sentiment import SentimentTask, Stage, Texts
from recdrop.lab.vocabulary import UNKNOWN, Vocabulary
from recdrop.lab.words import Words

WORDS, ROWS, BATCH = 2_000, 640, 32
CLIP = 5.0


class Case(NamedTuple):
    """A net.

    Attributes:
        task: ``"ner"``, whole sentences, or ``"sentiment"``.
        cell: Its layer.
        hidden: Units, H.
        bidirectional: Whether there is a layer from each end.
    """

    task: str
    cell: str
    hidden: int
    bidirectional: bool

    @property
    def name(self) -> str:
        """In words."""
        ends = ", both ends" if self.bidirectional else ""
        return f"{self.task}: {self.cell.upper()} {self.hidden}{ends}"


CASES = (
    Case("ner", "lstm", 200, True),
    Case("ner", "lstm", 256, False),
    Case("ner", "gru", 256, False),
    Case("sentiment", "lstm", 100, True),
    Case("sentiment", "lstm", 500, False),
    Case("sentiment", "gru", 500, False),
)
SMALL = (Case("ner", "lstm", 8, True), Case("sentiment", "gru", 8, False))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, each number of threads in its own process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.word_nets", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of small nets")
    add_common(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds = 2, 0.0
        args.threads = args.threads or ["1"]
    args.results = results_folder(args, whole=not args.quick)
    in_own_processes(functools.partial(measure, args), thread_counts(args.threads or ["1", "all"]))


def measure(args: argparse.Namespace, threads: int) -> None:
    """Parity, then all timings for one number of threads."""
    watch, backend = Watch(threads), checked_backend(args.backend)
    budget = Budget(args.rounds, args.seconds)
    results: list[dict[str, Any]] = []
    for case in SMALL if args.quick else CASES:
        error = check(case, backend)
        work: dict[str, Work] = {
            "stock": Epochs(task_of(case, backend, 0.0), stock=True),
            "ours": Epochs(task_of(case, backend, RATE), stock=False),
            "equal": Epochs(task_of(case, backend, RATE, equal=True), stock=False),
        }
        steps = compare(interleave(work, budget))
        ratio = steps["stock"]["min"] / steps["ours"]["min"]
        padding = steps["ours"]["min"] / steps["equal"]["min"]
        verdict = "met" if ratio >= 1 else "MISSED"
        print(
            f"{case.name:>28} {steps['stock']['min'] * 1e3:8.2f} ms with torch's layer, ours "
            f"{ratio:.2f} times its speed (target 1.00): {verdict}; rows of unequal length take "
            f"{padding:.2f} times as long as equal ones of as many words",
            flush=True,
        )
        results.append(
            {**case._asdict(), "error": error, "steps": steps, "speed": ratio, "unequal": padding}
        )
    report = {
        "machine": watch.finished(),
        "settings": {"backend": backend, "rate": RATE, "batch": BATCH, **budget._asdict()},
    }
    save(report | {"results": results}, args.results / f"word_nets-{threads}.json")


class Epochs:
    """All updates of an epoch, again and again.

    Args:
        task: Its net and data.
        stock: Whether torch's layer takes the place of ours.
    """

    def __init__(self, task: NerTask | SentimentTask, *, stock: bool) -> None:
        self.task = task
        if stock:
            put_stock(task)
        self.parameters = list(task.net.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=1e-4)

    def prepare(self) -> None:
        """Nothing: an update frees the gradients of the last one itself."""

    def run(self) -> None:
        """The updates: batches are of unequal length, so one alone would tell little."""
        for step in range(self.task.steps):
            self.optimiser.zero_grad()
            self.task.part(step).objective.backward()
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimiser.step()


def put_stock(task: NerTask | SentimentTask) -> None:
    """Replace the recurrent layer by torch's, with the same weights."""
    ours = task.net.rnn
    kind = nn.LSTM if ours.mode == "LSTM" else nn.GRU
    stock = kind(ours.input_size, ours.hidden_size, bidirectional=ours.bidirectional)
    stock.load_state_dict(ours.state_dict())
    task.net.register_module("rnn", stock)


def task_of(
    case: Case, backend: str, rate: float, *, equal: bool = False
) -> NerTask | SentimentTask:
    """A net over rows of random words, about as long as sentences are, or equally long."""
    words = Words(Vocabulary((*map(str, range(WORDS)), UNKNOWN)))
    texts = rows_of_words(equal=equal)
    common: dict[str, Any] = {
        "cell": case.cell,
        "embedding": 100,
        "hidden": case.hidden,
        "bidirectional": case.bidirectional,
        "init_range": 0.1,
    }
    optim, schedule = Adam(lr=1e-4, clip_norm=CLIP), Schedule(epochs=1)
    if case.task == "ner":
        drop = (Dropout(rate=rate, sampling="sequence"),) if rate else ()
        model = Tagger(**common, recurrent_dropout=drop)
        run = NerRun(data=TaggedData(batch=BATCH), model=model, optim=optim, schedule=schedule)
        tags = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
        sentences = [
            Sentence(tuple(text), tuple(tags[int(w) % len(tags)] for w in text), 1)
            for text in texts
        ]
        task = NerTask(run, dict.fromkeys(("train", "valid", "test"), sentences), words, tags)
    else:
        drop = (Dropout(rate=rate),) if rate else ()
        model = Classifier(**common, recurrent_dropout=drop)
        run = SentimentRun(
            data=LabelledData(batch=BATCH, texts="words"),
            model=model,
            optim=optim,
            schedule=schedule,
        )
        labels = ("negative", "neutral", "positive")
        told = Texts.of(texts, words, [labels[len(text) % 3] for text in texts], labels)
        task = SentimentTask(run, [Stage(labels, told, told)], {}, words)
    task.net.rnn.backend = backend
    return task


def rows_of_words(*, equal: bool = False) -> list[list[str]]:
    """The same at every call; 1 to 60 words, 15 in the mean, or each as long as the mean."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(ROWS, generator=generator).clamp(1e-3, 1)
    lengths = (1 - chance.log() * 14).long().clamp(max=60)
    if equal:
        total, rows = int(lengths.sum()), torch.arange(ROWS)
        lengths = total // ROWS + (rows < total % ROWS)  # as many words in all
    return [
        [str(int(w)) for w in torch.randint(WORDS, (int(n),), generator=generator)] for n in lengths
    ]


def check(case: Case, backend: str) -> float:
    """The largest error of two batches' losses and gradients, nothing dropped, against torch's.

    Raises:
        SystemExit: It is too large.
    """
    ours, stock = (task_of(case, backend, 0.0) for _ in range(2))
    put_stock(stock)
    worst = 0.0
    for step in range(2):
        mine, theirs = (_loss_and_gradients(task, step) for task in (ours, stock))
        for name, true in theirs.items():
            error = float((mine[name] - true).abs().max() / true.abs().max().clamp(min=1e-12))
            if not error <= TOLERANCE:  # also where it is NaN
                raise SystemExit(f"no parity, nothing timed: {case.name}, {name}: {error:.2g} off")
            worst = max(worst, error)
    return worst


def _loss_and_gradients(task: NerTask | SentimentTask, step: int) -> dict[str, Tensor]:
    named = dict(task.net.named_parameters())
    loss = task.part(step).objective
    grads = torch.autograd.grad(loss, list(named.values()))
    return {"loss": loss.detach()} | dict(zip(named, grads, strict=True))


if __name__ == "__main__":
    main()
