"""What recurrent dropout costs on a CUDA device, beside cuDNN's layers without any.

``python -m benchmarks.gpu`` measures everything and writes ``benchmarks/results/gpu-<card>.json``;
`benchmarks/gpu.sh` runs the tests for a card first. A timing is that of some passes in a row
without waiting in between, as in training. Nothing is timed before ours is nearly as near to the
reference in float64 as the reference itself is in the timed type, float32 both with and without
TF32 products; it is timed with them. ``--trial`` runs the program's path on the CPU at toy sizes.
"""

import argparse
import itertools
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import recdrop
from benchmarks import parity
from benchmarks.cases import KINDS, RATE, Kind, Pass, Shape, our_layer, slug, stock_layer, with_size
from benchmarks.machine import RESULTS, SCRATCH, machine, save
from benchmarks.timing import Budget, Plain, Timing, compare, interleave
from recdrop import RecurrentDropout

SHAPES = {
    "word LM": Shape(35, 32, 256, 256),
    "medium LM": Shape(35, 20, 650, 650),
    "char LM": Shape(100, 32, 256, 1024),
    "long": Shape(1024, 16, 768, 768),
    "time series": Shape(200, 64, 64, 128),
}
CELLS = ("LSTM", "GRU")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SPECS = (
    RecurrentDropout(RATE),
    RecurrentDropout(RATE, "hidden", "sequence"),
    RecurrentDropout(RATE, "state"),
)
AXES: dict[str, tuple[int, ...]] = {
    "H": (64, 128, 256, 512, 768, 1024, 1536),
    "B": (1, 8, 16, 32, 64, 128, 256),
    "T": (10, 20, 50, 100, 200, 500, 1000),
}
BASE = SHAPES["word LM"]
TARGET, AIM = 1.5, 1.0  # of cuDNN's time
LOOP = 20.0  # times as fast as the loop in Python
TRIAL = Shape(3, 2, 4, 5)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Raises:
        SystemExit: There is no CUDA device, or ours computed something else somewhere.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=[slug(n) for n in SHAPES])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--passes", type=int, default=10, help="in a row, between two waits")
    parser.add_argument("--growth", action="store_true", help="over H, B and T as well")
    parser.add_argument("--results", type=Path, help="folder for the JSON file")
    parser.add_argument("--trial", action="store_true", help="the path only, on the CPU")
    args = parser.parse_args(argv)
    if args.trial:
        args.rounds, args.seconds, args.passes, args.growth = 1, 0.0, 1, True
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --trial runs this program's path on the CPU")
    card = Card(args.trial)
    budget = Budget(args.rounds, args.seconds)
    names = [name for name in SHAPES if not args.cases or slug(name) in args.cases]
    limits = {name: card.limits(dtype) for name, dtype in DTYPES.items()}
    report: dict[str, Any] = {
        "machine": machine() | card.described(),
        "settings": {"rate": RATE, "passes": args.passes, **budget._asdict()},
        "schemes": [(spec.site, spec.sampling) for spec in SPECS],
        "target": TARGET,
        "limits": limits,
        "results": [],
        "growth": [],
    }
    whole = not args.trial and args.growth and names == list(SHAPES)
    folder = args.results or (RESULTS if whole else SCRATCH)
    path = folder / f"gpu-{slug(card.name)}.json"
    wrong = []
    for name in names:
        for cell, dtype in itertools.product(CELLS, DTYPES):
            try:
                found = measured(card, cell, name, dtype, budget, args.passes)
            except parity.ParityError as error:
                wrong.append(f"{cell} {name} {dtype}: {error}")
                print(f"no parity, not timed: {wrong[-1]}", flush=True)
                continue
            report["results"].append(found | {"limit": limit(cell, name, dtype, limits)})
            save(report, path)
    for axis, sizes in (AXES if args.growth else {}).items():
        for size, dtype in itertools.product(sizes[:1] if args.trial else sizes, DTYPES):
            try:
                report["growth"].append(point(card, axis, size, dtype, budget, args.passes))
            except parity.ParityError as error:
                wrong.append(f"LSTM {axis} = {size} {dtype}: {error}")
                print(f"no parity, not timed: {wrong[-1]}", flush=True)
        save(report, path)
    if wrong:
        raise SystemExit("\n".join(["no parity, not timed:", *wrong]))


class Card:
    """The device, and the backend that is measured on it.

    Args:
        trial: Whether it is only the CPU, with the reference and toy sizes.
    """

    def __init__(self, trial: bool) -> None:
        self.trial = trial
        self.device = torch.device("cpu" if trial else "cuda")
        self.backend = "reference" if trial else "triton"
        self.name = "trial" if trial else torch.cuda.get_device_name()

    def described(self) -> dict[str, Any]:
        """Name, architecture, processors, clocks, driver and versions."""
        if self.trial:
            return {"gpu": "trial"}
        import triton

        at = torch.cuda.get_device_properties(self.device)
        return {
            "gpu": self.name,
            "architecture": f"{at.major}.{at.minor}",
            "processors": at.multi_processor_count,
            "memory": at.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": triton.__version__,
            "nvidia_smi": _nvidia_smi(),
        }

    def clock(self) -> float:
        """The time when everything asked for is done."""
        if not self.trial:
            torch.cuda.synchronize()
        return time.perf_counter()

    def shape(self, shape: Shape) -> Shape:
        """The shape; of a trial a toy's."""
        return TRIAL if self.trial else shape

    def limits(self, dtype: torch.dtype) -> dict[str, float]:
        """What the card reaches: products per second, and bytes read again and again per second."""
        n, words = (64, 2**10) if self.trial else (8192, 2**22)
        a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
        small = torch.randn(words, device=self.device)  # 16 MB: stays in the second cache
        again = small.expand(20 if self.trial else 200, -1)  # read so often by one launch
        with tf32():
            seconds = interleave(
                {"product": Plain(lambda: a @ b), "reads": Plain(again.sum)},
                Budget(5, 0.0),
                self.clock,
            )
        return {
            "flops": 2 * n**3 / min(seconds["product"]),
            "bytes": len(again) * small.nbytes / min(seconds["reads"]),
        }


class InARow:
    """Some passes without waiting in between.

    Args:
        one: A pass.
        passes: How many.
    """

    def __init__(self, one: Pass, passes: int) -> None:
        self.one, self.passes = one, passes

    def prepare(self) -> None:
        """Nothing: each pass drops the gradients of the one before."""

    def run(self) -> None:
        """All of them."""
        for _ in range(self.passes):
            self.one.prepare()
            self.one.run()


def measured(
    card: Card, cell: str, name: str, dtype: str, budget: Budget, passes: int
) -> dict[str, Any]:
    """Parity, then the timings of one cell at one shape in one type."""
    kind, shape = KINDS[cell], card.shape(SHAPES[name])
    errors = {str(spec): check(card, kind, shape, DTYPES[dtype], spec) for spec in SPECS}
    timings = timed(card, kind, shape, DTYPES[dtype], SPECS, budget, passes)
    loop = _alone(card, kind, shape, DTYPES[dtype])
    stock, *ours = timings.values()
    ratios = " ".join(f"{timing['ratio']:.2f}" for timing in ours)
    worst = max(t["ratio"] for t in ours)
    verdict = "aim met" if worst <= AIM else "target met" if worst <= TARGET else "MISSED"
    print(
        f"{cell} {name} {dtype}: cuDNN {stock['min'] * 1e3:.3f} ms, ours "
        f"{ratios} times that ({verdict}); "
        f"loop in Python {loop / ours[0]['min']:.0f} times ours (target {LOOP:.0f})",
        flush=True,
    )
    return {
        "cell": cell,
        "case": name,
        "dtype": dtype,
        "shape": dict(zip("TBIH", shape.sizes, strict=True)),
        "errors": errors,
        "timings": timings,
        "python_loop": loop,
        "stock": nodes_of(stock_layer(kind, shape).to(card.device, DTYPES[dtype]), kind, shape),
        "clocks": None if card.trial else _nvidia_smi(),  # soon after
    }


def limit(cell: str, name: str, dtype: str, limits: dict[str, Any]) -> float:
    """Seconds of all products, or of reading W_hh twice at each step, whichever is more.

    The products at the rate of a large one, the weights at that of the second cache; where they
    stay on the chip a pass may take less.
    """
    steps, batch, inputs, hidden = SHAPES[name].sizes
    gates = {"LSTM": 4, "GRU": 3}[cell] * hidden
    flops = 3 * 2 * steps * batch * gates * (inputs + hidden)
    read = 2 * steps * gates * hidden * DTYPES[dtype].itemsize
    reached = limits[dtype]
    return max(flops / reached["flops"], read / reached["bytes"])


def point(
    card: Card, axis: str, size: int, dtype: str, budget: Budget, passes: int
) -> dict[str, Any]:
    """An LSTM at one point of one axis."""
    shape = card.shape(with_size(BASE, axis, size))
    errors = check(card, KINDS["LSTM"], shape, DTYPES[dtype], SPECS[0])
    timings = timed(card, KINDS["LSTM"], shape, DTYPES[dtype], SPECS[:1], budget, passes)
    stock, ours = timings.values()
    print(f"{axis} = {size} {dtype}: ours {ours['ratio']:.2f} times cuDNN's", flush=True)
    found = {"axis": axis, "size": size, "dtype": dtype, "stock": stock, "ours": ours}
    return found | {"errors": errors}


def timed(
    card: Card,
    kind: Kind,
    shape: Shape,
    dtype: torch.dtype,
    specs: Sequence[RecurrentDropout],
    budget: Budget,
    passes: int,
) -> dict[str, Timing]:
    """Seconds of one pass, in turns: cuDNN's layer first, then ours with each scheme."""

    def there(layer: nn.RNNBase) -> InARow:
        return InARow(Pass(layer, kind, shape), passes)

    stock = stock_layer(kind, shape).to(card.device, dtype)
    if not card.trial:
        pack(stock)
    contenders = {"stock": there(stock)} | {
        str(spec): there(our_layer(kind, shape, card.backend, spec).to(card.device, dtype))
        for spec in specs
    }
    with tf32():
        seconds = interleave(contenders, budget, card.clock)
    return compare({name: [s / passes for s in runs] for name, runs in seconds.items()})


def pack(layer: nn.RNNBase) -> None:
    """Put a layer's weights into one piece of memory, as cuDNN wants them, in any type.

    torch does so itself, but not in bfloat16, where cuDNN would copy them at every call.
    """
    from torch.backends.cudnn import rnn

    with torch.no_grad():
        torch._VF._cudnn_rnn_flatten_weight(
            [weight for weight in layer._flat_weights if weight is not None],
            4 if layer.bias else 2,
            layer.input_size,
            rnn.get_cudnn_mode(layer.mode),
            layer.hidden_size,
            layer.proj_size,
            layer.num_layers,
            layer.batch_first,
            layer.bidirectional,
        )


def nodes_of(layer: nn.RNNBase, kind: Kind, shape: Shape) -> list[str]:
    """Names of what computed a layer's output, nearest first: whether it was cuDNN shows there."""
    node, names = Pass(layer, kind, shape).forward().grad_fn, []
    while node is not None and len(names) < 5:
        names.append(type(node).__name__)
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def check(
    card: Card, kind: Kind, shape: Shape, dtype: torch.dtype, spec: RecurrentDropout
) -> dict[str, float]:
    """The largest errors of ours and of the reference in the same type, of tensors' largest values.

    Raises:
        ParityError: Ours is more than twice as far from the reference in float64; with TF32
            products, four times.
    """

    def results(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
        layer = our_layer(kind, shape, backend, spec).to(card.device, dtype)
        with recdrop.hold_masks(0):
            return Pass(layer, kind, shape).results()

    with ieee():
        truth = results("reference", torch.float64)
    errors: dict[str, float] = {}
    # Triton cuts TF32 operands off, where torch rounds them: twice as far.
    modes = {"": (ieee, 2)} | ({" tf32": (tf32, 4)} if dtype == torch.float32 else {})
    for mode, (products, factor) in modes.items():
        with products():
            own, ours = (results(b, dtype) for b in ("reference", card.backend))
        worst = [0.0, 0.0]
        for name, true in truth.items():
            size = float(true.abs().max())
            mine, its = (float((r[name].double() - true).abs().max()) / size for r in (ours, own))
            if not mine <= factor * max(its, 2 * torch.finfo(dtype).eps):
                raise parity.ParityError(
                    f"{spec}{mode}: {name} is off by {mine:.2g} of its largest value, the "
                    f"reference in that type by {its:.2g}"
                )
            worst = [max(worst[0], mine), max(worst[1], its)]
        errors |= {f"ours{mode}": worst[0], f"reference{mode}": worst[1]}
    return errors


@contextmanager
def _precision(word: str) -> Any:
    """Both switches of torch; not by their names in torch.backends, which an import may hide."""
    switches = (("cuda", "rnn"), ("cuda", "matmul"))
    before = [torch._C._get_fp32_precision_getter(*switch) for switch in switches]
    try:
        for switch in switches:
            torch._C._set_fp32_precision_setter(*switch, word)
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            torch._C._set_fp32_precision_setter(*switch, old)


def ieee() -> Any:
    """Inside, float32 products are exact to float32."""
    return _precision("ieee")


def tf32() -> Any:
    """Inside, float32 products may be TF32, which is torch's default for its recurrent layers."""
    return _precision("tf32")


def _alone(card: Card, kind: Kind, shape: Shape, dtype: torch.dtype) -> float:
    """Seconds of the loop in Python with this paper's dropout, the best of three passes."""
    layer = our_layer(kind, shape, "reference", SPECS[0]).to(card.device, dtype)
    with tf32():
        seconds = interleave({"loop": Pass(layer, kind, shape)}, Budget(3, 0.0), card.clock)
    return min(seconds["loop"])


def _nvidia_smi() -> str | None:
    asked = "clocks.sm,clocks.mem,clocks.max.sm,driver_version,power.limit"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        return subprocess.run(  # noqa: S603  fixed words
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
