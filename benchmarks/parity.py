"""Parity first: what is not the same function is not timed."""

import torch
from torch import Tensor

import recdrop
from benchmarks.cases import Kind, Pass, Shape, lengths, our_layer, stock_layer
from recdrop import RecurrentDropout
from recdrop.backends import Recurrence
from recdrop.testing import Case, assert_matches_reference, make_call

# Of a tensor's largest value. float32 carries 6e-8; sums over T * B rows and T dependent steps in
# another order leave some hundred times that. A wrong mask or a lost term is of order 1.
TOLERANCE = 2e-5


class ParityError(Exception):
    """The backend computes something else than it is compared with."""


def check(kind: Kind, shape: Shape, specs: list[RecurrentDropout], backend: str) -> float:
    """Check what is to be timed, and return the largest error at the timed size.

    Each scheme against the float64 reference at a small size; at the timed size with nothing
    dropped against torch's layer, and each scheme against the reference under the same masks.

    Args:
        kind: Cell and layout.
        shape: The timed size.
        specs: The timed schemes.
        backend: The timed backend.

    Raises:
        ParityError: A tensor differs.
    """
    for spec in specs:
        try:
            assert_matches_reference(backend, _small_call(kind, shape, spec))
        except AssertionError as error:
            raise ParityError(str(error)) from None
    plain = our_layer(kind, shape, backend)
    truth = stock_layer(kind, shape) if kind.is_stock else our_layer(kind, shape, "reference")
    worst = _compare(_results(plain, kind, shape), _results(truth, kind, shape), "nothing dropped")
    if backend == "reference":
        return worst
    for spec in specs:
        ours = _results(our_layer(kind, shape, backend, spec), kind, shape)
        reference = _results(our_layer(kind, shape, "reference", spec), kind, shape)
        worst = max(worst, _compare(ours, reference, str(spec)))
    return worst


def _small_call(kind: Kind, shape: Shape, spec: RecurrentDropout) -> Recurrence:
    small = shape.small()
    falling = tuple(sorted(lengths(small).tolist(), reverse=True)) if kind.packed else None
    case = Case(*small.sizes, projected=small.hidden // 2 if kind.projected else 0, lengths=falling)
    return make_call(case, kind.cell, (spec,), reset_after=kind.reset_after)


def _results(layer: torch.nn.RNNBase, kind: Kind, shape: Shape) -> dict[str, Tensor]:
    timed = Pass(layer, kind, shape)
    with recdrop.hold_masks(0):  # a layer's first call inside: the same masks for every layer
        return timed.results()


def _compare(ours: dict[str, Tensor], truth: dict[str, Tensor], what: str) -> float:
    worst = 0.0
    for name, true in truth.items():
        error = float((ours[name] - true).abs().max() / true.abs().max())
        if not error <= TOLERANCE:  # also where it is NaN
            raise ParityError(
                f"{what}: {name} is off by {error:.2g} of its largest value, allowed {TOLERANCE:g}"
            )
        worst = max(worst, error)
    return worst
