"""A training step of the paper's word model, beside torch's layer and the bare products.

``python -m benchmarks.language_model`` times, in turns, whole steps (forward, backward, clipping,
SGD) of our net with recurrent dropout and of the same net written with `torch.nn.LSTM`, plain cross
entropy and no recurrent dropout, and every product that a step cannot do without (into memory that
is there already, by the fastest of `torch.mm` in two layouts and our own kernel). Nothing is
timed before both nets have given the same losses and gradients. Writes
``benchmarks/results/language_model-<threads>.json``.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import RATE, Shape
from benchmarks.floor import PRODUCTS
from benchmarks.floor import products as layer_products
from benchmarks.machine import Watch, in_own_processes, save, thread_counts
from benchmarks.run import add_common, checked_backend, results_folder
from benchmarks.timing import Budget, Plain, Work, compare, interleave
from recdrop.functional import product
from recdrop.lab.config import (
    Dropout,
    LanguageModel,
    LanguageModelRun,
    Schedule,
    Sgd,
    TextData,
)
from recdrop.lab.output_layer import cross_entropy_sum
from recdrop.lab.tasks.language_model import LanguageModelTask
from recdrop.lab.tasks.streams import training_streams
from recdrop.lab.text import Corpus, Vocabulary

CLIP = 10.0  # largest norm of all gradients; paper, section 4.2
TOLERANCE = 2e-5  # of a tensor's largest value; see benchmarks.parity
OF_FLOOR = 0.8  # target: tokens/s of the floor's
WINDOWS = 8  # in the text, read again and again


class Size(NamedTuple):
    """B rows, T steps, H units of embedding and layer, V words."""

    batch: int
    window: int
    hidden: int
    words: int


PAPER = Size(32, 35, 256, 10_000)
SMALL = Size(4, 5, 16, 50)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, each number of threads in its own process."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of a small net")
    add_common(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds = 2, 0.0
        args.threads = args.threads or ["1"]
    args.results = results_folder(args, whole=not args.quick)
    counts = thread_counts(args.threads or ["1", "all"])
    in_own_processes(functools.partial(measure, args), counts)


def measure(args: argparse.Namespace, threads: int) -> None:
    """Parity, then all timings for one number of threads."""
    watch = Watch(threads)
    size, backend = SMALL if args.quick else PAPER, checked_backend(args.backend)
    error = check(size, backend)
    budget = Budget(args.rounds, args.seconds)
    result = timed(size, backend, budget)
    print_result(result)
    report = {
        "machine": watch.finished(),
        "settings": {"backend": backend, "rate": RATE, **budget._asdict(), **size._asdict()},
        "parity": {"largest_error": error},
    }
    save(report | result, args.results / f"language_model-{threads}.json")


def timed(size: Size, backend: str, budget: Budget) -> dict[str, Any]:
    """Seconds of each, tokens per second, and ratios of these."""
    bare = products(size)
    nets: dict[str, Work] = {"stock": stock_step(size), "ours": our_step(size, backend)}
    work = nets | {
        f"{name}/{layout}": Plain(run)
        for name, layouts in bare.items()
        for layout, run in enumerate(layouts)
    }
    work |= {f"output layer/{name}": Plain(run) for name, run in output_layers(size).items()}
    seconds = interleave(work, budget)
    floor = {
        name: min(min(seconds[f"{name}/{layout}"]) for layout in range(len(layouts)))
        for name, layouts in bare.items()
    }
    steps = compare({name: seconds[name] for name in nets})
    tokens = size.batch * size.window
    rates = {name: tokens / step["min"] for name, step in steps.items()}
    rates["floor"] = tokens / sum(floor.values())
    return {
        "steps": steps,
        "floor": floor,
        "output_layer": compare(
            {
                name.partition("/")[2]: own
                for name, own in seconds.items()
                if name.startswith("output layer/")
            }
        ),
        "tokens_per_second": rates,
        "ours_of_stock": rates["ours"] / rates["stock"],
        "ours_of_floor": rates["ours"] / rates["floor"],
    }


def print_result(result: dict[str, Any]) -> None:
    """Milliseconds and tokens per second, and what was reached beside what was asked."""
    for name, layer in result["floor"].items():
        print(f"{name:>24} {layer * 1e3:8.2f} ms")
    rates = result["tokens_per_second"]
    for name, rate in rates.items():
        print(f"{name:>24} {rate:8.0f} tokens/s")
    for name, layer in result["output_layer"].items():
        print(
            f"output layer, {name:>45} {layer['min'] * 1e3:8.2f} ms, {layer['ratio']:.2f} of ours"
        )
    for name, target in (("floor", OF_FLOOR), ("stock", 1.0)):
        ratio = result[f"ours_of_{name}"]
        verdict = "met" if ratio >= target else "MISSED"
        print(f"ours of the {name}'s: {ratio:.2f} (target {target:.2f}): {verdict}", flush=True)


class Step:
    """One update after another.

    Args:
        net: In training mode.
        part: Takes the number of a window and returns what is to be minimised.
    """

    def __init__(self, net: nn.Module, part: Callable[[int], Tensor]) -> None:
        self.net, self.part, self.done = net, part, 0
        self.parameters = list(net.parameters())
        self.optimiser = torch.optim.SGD(self.parameters, lr=1.0)

    def prepare(self) -> None:
        """Nothing: an update frees the gradients of the last one itself."""

    def run(self) -> None:
        """The update."""
        self.optimiser.zero_grad()
        self.part(self.done % WINDOWS).backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if norm > CLIP:
            nn.utils.clip_grads_with_norm_(self.parameters, CLIP, norm)
        self.optimiser.step()
        self.done += 1


def our_step(size: Size, backend: str) -> Step:
    """Ours, as the lab trains it."""
    task = our_task(size, backend, RATE, forward=True)
    return Step(task.net, lambda window: task.part(window).objective)


def our_task(size: Size, backend: str, rate: float, *, forward: bool) -> LanguageModelTask:
    """The paper's net on a text of random words.

    Args:
        size: Its size.
        backend: What runs the layer.
        rate: Of recurrent dropout, per step; 0 for none.
        forward: Whether there is forward dropout.
    """
    model = LanguageModel(
        embedding=size.hidden,
        hidden=size.hidden,
        init_range=0.05,  # paper, section 4.2, as all below
        dropout_in=0.2 if forward else 0.0,
        dropout_out=0.5 if forward else 0.0,
        recurrent_dropout=(Dropout(rate=rate),) if rate else (),
    )
    run = LanguageModelRun(
        task="word-lm",
        data=layout(size),
        model=model,
        optim=Sgd(lr=1.0, clip_norm=CLIP),
        schedule=Schedule(epochs=1),
    )
    words = Vocabulary(tuple(map(str, range(size.words))))
    tokens = text(size)
    task = LanguageModelTask(run, Corpus(words, tokens, tokens[:2], tokens[:2], {}))
    task.net.rnn.backend = backend
    return task


def layout(size: Size) -> TextData:
    """Rows and windows of a batch."""
    return TextData(batch=size.batch, window=size.window)


def text(size: Size) -> Tensor:
    """Random words, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    length = WINDOWS * size.batch * size.window + 1
    return torch.randint(size.words, (length,), generator=generator)


class StockNet(nn.Module):
    """The same net as one writes it with torch alone.

    Args:
        size: Its size.
        forward: Whether there is forward dropout.
    """

    def __init__(self, size: Size, *, forward: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.words, size.hidden)
        self.dropout_in = nn.Dropout(0.2 if forward else 0.0)
        self.rnn = nn.LSTM(size.hidden, size.hidden)
        self.dropout_out = nn.Dropout(0.5 if forward else 0.0)
        self.output = nn.Linear(size.hidden, size.words)
        self.streams = training_streams(text(size), layout(size))
        self.state: tuple[Tensor, Tensor] | None = None

    def part(self, window: int) -> Tensor:
        """Cross entropy of a window, summed over time, mean over rows; the state goes on."""
        inputs, targets = self.streams.read(window)
        if window == 0:
            self.state = None
        output, (h, c) = self.rnn(self.dropout_in(self.embedding(inputs)), self.state)
        self.state = h.detach(), c.detach()
        logits = self.output(self.dropout_out(output))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return loss / inputs.shape[1]


def stock_step(size: Size) -> Step:
    """Torch's layer, plain cross entropy, no recurrent dropout; our net's start."""
    net = StockNet(size, forward=True)
    net.load_state_dict(our_task(size, "auto", 0.0, forward=True).net.state_dict())
    return Step(net, net.part)


def check(size: Size, backend: str) -> float:
    """The largest error of two windows' losses and gradients, nothing dropped, against torch's.

    Raises:
        SystemExit: It is too large.
    """
    task = our_task(size, backend, 0.0, forward=False)
    stock = StockNet(size, forward=False)
    stock.load_state_dict(task.net.state_dict())
    worst = 0.0
    for window in range(2):
        ours = _loss_and_gradients(task.net, task.part(window).objective)
        theirs = _loss_and_gradients(stock, stock.part(window))
        for name, true in theirs.items():
            mine = ours[name]
            error = float((mine - true).abs().max() / true.abs().max())
            if not error <= TOLERANCE:  # also where it is NaN
                raise SystemExit(f"no parity, nothing timed: {name} is off by {error:.2g}")
            worst = max(worst, error)
    return worst


def _loss_and_gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()))
    return {"loss": loss.detach()} | dict(zip(named, grads, strict=True))


def output_layers(size: Size) -> dict[str, Callable[[], object]]:
    """The output layer with its loss, forward and backward: ours, then torch's own ways."""
    hidden = torch.randn(size.batch * size.window, size.hidden, requires_grad=True)
    layer = nn.Linear(size.hidden, size.words)
    leaves = (hidden, layer.weight, layer.bias)
    targets = torch.randint(size.words, (len(hidden),))

    def grads(loss: Tensor) -> object:
        return torch.autograd.grad(loss, leaves)

    def chunked(options: nn.LinearCrossEntropyOptions | None) -> Tensor:
        return F.linear_cross_entropy(
            hidden, layer.weight, targets, linear_bias=layer.bias, reduction="sum", options=options
        )

    choices: dict[str, nn.LinearCrossEntropyOptions | None] = {
        "linear_cross_entropy": None,
        "linear_cross_entropy, auto": nn.LinearCrossEntropyOptions(),
    } | {
        f"linear_cross_entropy, {rows} rows, {policy}": nn.LinearCrossEntropyOptions(
            batch_chunk_size=rows, chunking_method=None, acc_policy=policy
        )
        for rows in (140, 280, 560)
        for policy in ("accurate", "compact")
    }
    return {
        "ours": lambda: grads(cross_entropy_sum(*leaves, targets)),
        "linear and cross_entropy": lambda: grads(
            F.cross_entropy(layer(hidden), targets, reduction="sum")
        ),
    } | {name: lambda options=options: grads(chunked(options)) for name, options in choices.items()}


def products(size: Size) -> dict[str, list[Callable[[], object]]]:
    """The matrix products of one step, each in every layout worth trying."""
    shape = Shape(size.window, size.batch, size.hidden, size.hidden)
    layer = layer_products(shape)
    hidden = torch.randn(size.batch * size.window, size.hidden)
    weight = torch.randn(size.words, size.hidden)
    logits = torch.randn(len(hidden), size.words)
    by_column = weight.T.contiguous().T

    def into(a: Tensor, b: Tensor) -> Callable[[], object]:
        out = a.new_empty(a.shape[0], b.shape[1])
        return lambda: torch.mm(a, b, out=out)

    def own(a: Tensor, b: Tensor) -> Callable[[], object]:
        out = a.new_empty(a.shape[0], b.shape[1])
        return lambda: product(out, a, b)

    return {f"layer: {name}": layer[name] for name in PRODUCTS} | {
        "logits": [into(hidden, weight.T), into(hidden, by_column.T), own(hidden, weight.T)],
        "their input's gradient": [
            into(logits, weight),
            into(logits, by_column),
            own(logits, weight),
        ],
        "their weight's gradient": [
            into(logits.T, hidden),
            into(hidden.T, logits),
            own(logits.T, hidden),
        ],
    }


if __name__ == "__main__":
    main()
