"""The battery that every backend passes: `CASES` and `assert_matches_reference`.

Shared by our tests and benchmarks, and by whoever writes a backend or a port.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import get_args

import torch
from torch import Tensor

from recdrop import functional
from recdrop._types import ActivationName, Cell, Rescale, Sampling
from recdrop.backends import BACKENDS, reference
from recdrop.backends.call import GATES, Recurrence, RunFunction
from recdrop.dropout import SITES, RecurrentDropout


@dataclass(frozen=True, slots=True)
class Case:
    """One shape.

    Attributes:
        steps: T.
        batch: B.
        inputs: I.
        hidden: H.
        layers: L.
        bidirectional: Whether D is 2.
        projected: P, for an LSTM; 0 for none.
        lengths: Falling lengths of a packed batch; None for a dense one.
        bias: Whether there are biases.
    """

    steps: int
    batch: int
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    projected: int = 0
    lengths: tuple[int, ...] | None = None
    bias: bool = True


CASES: dict[str, Case] = {
    "one step": Case(1, 2, 3, 4),
    "one unit": Case(4, 1, 1, 1),
    "odd": Case(5, 3, 7, 5),
    "no bias": Case(4, 2, 3, 6, bias=False),
    "two layers": Case(4, 2, 3, 5, layers=2),
    "both directions": Case(5, 2, 3, 5, layers=2, bidirectional=True),
    "packed": Case(6, 4, 3, 5, lengths=(6, 4, 4, 1)),
    "packed both directions": Case(6, 3, 3, 5, bidirectional=True, lengths=(6, 3, 1)),
    "projected": Case(4, 2, 3, 6, projected=3),
    "projected packed": Case(5, 3, 3, 6, 2, True, projected=2, lengths=(5, 5, 2)),
    "wide": Case(7, 9, 20, 33),
}


def schemes(cell: Cell, rate: float = 0.4) -> Iterator[tuple[RecurrentDropout, ...]]:
    """Every set of sites of a cell, each with every sampling and rescaling, the same for all.

    Args:
        cell: Which cell; a plain RNN has the hidden site only.
        rate: Of every site. The state site's growth under ``rescale="train"`` is left out, as its
            values say little about a backend; one set of its own keeps that path tested.
    """
    sites = ("hidden",) if cell == "rnn" else SITES
    subsets = chain.from_iterable(combinations(sites, n) for n in range(1, len(sites) + 1))
    for subset in subsets:
        for sampling in get_args(Sampling):
            for rescale in get_args(Rescale):
                yield tuple(
                    RecurrentDropout(rate, site, sampling, None if site == "state" else rescale)
                    for site in subset
                )
    if cell != "rnn":
        yield (
            RecurrentDropout(rate, "hidden", "sequence", tied=False),
            RecurrentDropout(rate, "update", "step"),
        )
    yield (RecurrentDropout(rate, "hidden", "step", "test", tied=False),)


def make_call(
    case: Case,
    cell: Cell,
    recurrent_dropout: Iterable[RecurrentDropout] = (),
    *,
    activation: ActivationName = "tanh",
    reset_after: bool = True,
    training: bool = True,
    seed: int = 0,
) -> Recurrence:
    """A float64 call with random input, state, weights and key.

    Args:
        case: Its shape.
        cell: Which cell.
        recurrent_dropout: Specs with distinct sites.
        activation: f.
        reset_after: Which GRU.
        training: Whether masks are drawn.
        seed: Of everything random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = 2 if case.bidirectional else 1
    projected = case.projected if cell == "lstm" else 0
    width = projected or case.hidden
    gates = GATES[cell] * case.hidden
    weights: list[Tensor] = []
    for layer in range(case.layers):
        for _ in range(directions):
            below = width * directions if layer else case.inputs
            shapes = [(gates, below), (gates, width)]
            shapes += [(gates,), (gates,)] if case.bias else []
            shapes += [(projected, case.hidden)] if projected else []
            weights += [normal(*shape) / case.hidden**0.5 for shape in shapes]
    widths = (width, case.hidden) if cell == "lstm" else (width,)
    batch_sizes = rows = None
    x = normal(case.steps, case.batch, case.inputs)
    if case.lengths is not None:
        batch_sizes = torch.tensor([sum(n > t for n in case.lengths) for t in range(case.steps)])
        rows = torch.randperm(case.batch, generator=generator)
        x = torch.cat([x[t, :n] for t, n in enumerate(batch_sizes.tolist())])
    call = functional.recurrence(
        cell,
        x,
        tuple(normal(case.layers * directions, case.batch, w) for w in widths),
        weights,
        activation=activation,
        reset_after=reset_after,
        bias=case.bias,
        num_layers=case.layers,
        dropout=0.0,
        bidirectional=case.bidirectional,
        training=training,
        recurrent_dropout=tuple(recurrent_dropout),
        batch_sizes=batch_sizes,
        rows=rows,
    )
    key = torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return call.with_key(key)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference makes of a call; computed once for several backends and dtypes.

    Attributes:
        truth: Results in float64, by name.
        own: Results in float32.
    """

    truth: dict[str, Tensor]
    own: dict[str, Tensor]

    @classmethod
    def of(cls, call: Recurrence) -> "Reference":
        """Run the reference."""
        return cls(
            evaluate(reference.run, call, torch.float64),
            evaluate(reference.run, call, torch.float32),
        )


def assert_matches_reference(
    backend: str | RunFunction,
    call: Recurrence,
    *,
    dtype: torch.dtype = torch.float32,
    expected: Reference | None = None,
) -> None:
    """Compare outputs, final states and every gradient with the reference.

    Random upstream gradients flow into all outputs. Truth is the reference in float64. The error in
    ``dtype`` may be at most twice the reference's own, or 8 units in the last place of the tensor's
    largest value. The reference's own error is the largest of its rounding error and, at up to 32
    points so near that rounding all inputs twice (as a product and a sum do) could have led there,
    of that move and of its rounding error there: where terms cancel, one number may be lucky.
    In float64 truth itself is that far off, so three times are allowed, and the rounding error is
    that in float32 scaled by the precision.

    Args:
        backend: A backend's name, or its ``run``.
        call: A float64 call, from `make_call`.
        dtype: What the backend computes in.
        expected: What the reference makes of the call, if that is known already.

    Raises:
        AssertionError: A tensor differs, with its name, the error and what was allowed.
    """
    run = BACKENDS[backend].run if isinstance(backend, str) else backend
    precision = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    expected = expected or Reference.of(call)
    truth, own = expected.truth, expected.own
    tried = evaluate(run, call, dtype)
    times = 2 if dtype == torch.float32 else 3
    allowed = {
        n: max(times * precision * _error(own[n], t), 8 * torch.finfo(dtype).eps * _size(t))
        for n, t in truth.items()
    }
    wrong = _too_far(tried, truth, allowed)
    two_roundings = 2 * torch.finfo(dtype).eps
    for seed in range(32):
        if not wrong:
            break
        near = Reference.of(_nudged(call, two_roundings, seed))
        for name, true in truth.items():
            moved, rounded = (
                _error(near.truth[name], true),
                _error(near.own[name], near.truth[name]),
            )
            allowed[name] = max(allowed[name], times * moved, times * precision * rounded)
        wrong = _too_far(tried, truth, allowed)
    if wrong:
        raise AssertionError(
            f"{backend}, {dtype}: {call.cell} with {call.recurrent_dropout} differs from the "
            "reference:\n" + "\n".join(wrong)
        )


def _too_far(
    tried: dict[str, Tensor], truth: dict[str, Tensor], allowed: dict[str, float]
) -> list[str]:
    """What differs by more than is allowed, a line each."""
    wrong: list[str] = []
    for name, true in truth.items():
        if tried[name].shape != true.shape:
            wrong.append(
                f"{name}: expected shape {list(true.shape)}, got {list(tried[name].shape)}"
            )
        elif not (error := _error(tried[name], true)) <= allowed[name]:
            wrong.append(f"{name}: error {error:.3g}, allowed {allowed[name]:.3g}")
    return wrong


def evaluate(run: RunFunction, call: Recurrence, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, final states and gradients of a call in a dtype, by name."""
    x, state, weights = (_leaves(part, dtype) for part in ((call.x,), call.state, call.weights))
    output, final = run(replace(call, x=x[0], state=tuple(state), weights=tuple(weights)))
    results = {"output": output} | {
        f"{name}_n": s for name, s in zip(("h", "c"), final, strict=False)
    }
    generator = torch.Generator().manual_seed(1)
    upstream = [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype)
        for r in results.values()
    ]
    leaves = {"x": x[0]}
    leaves |= {f"{name}_0": s for name, s in zip(("h", "c"), state, strict=False)}
    leaves |= {f"weight {i}": w for i, w in enumerate(weights)}
    # A backend under test may have lost a graph: that is a missing gradient, not a crash.
    flowing = [(r, u) for r, u in zip(results.values(), upstream, strict=True) if r.requires_grad]
    outs, ups = zip(*flowing, strict=True)
    grads = torch.autograd.grad(outs, tuple(leaves.values()), ups, allow_unused=True)
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return {name: r.detach() for name, r in results.items()}


def _nudged(call: Recurrence, relative: float, seed: int) -> Recurrence:
    """The same call with every input value moved by up to a relative amount, at random."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(t: Tensor) -> Tensor:
        moves = 2 * torch.rand(t.shape, generator=generator, dtype=torch.float64) - 1
        return t * (1 + relative * moves)

    return replace(
        call,
        x=nudge(call.x),
        state=tuple(nudge(s) for s in call.state),
        weights=tuple(nudge(w) for w in call.weights),
    )


def _leaves(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(dtype, copy=True).requires_grad_() for t in tensors]


def _error(value: Tensor, true: Tensor) -> float:
    return float((value.double() - true).abs().max()) if true.numel() else 0.0


def _size(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0
