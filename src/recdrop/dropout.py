"""`RecurrentDropout`: the small immutable description of one dropout site, and its checks."""

import numbers
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from recdrop._types import Cell, Rescale, Sampling, Site

SITES: tuple[Site, ...] = get_args(Site)


@dataclass(frozen=True, slots=True)
class RecurrentDropout:
    """Dropout at one site inside a recurrence.

    Args:
        rate: Probability of dropping a unit, in [0, 1).
        site: What is dropped. ``"update"``: the candidate g (this paper, LSTM Eq. 9, GRU Eq. 13).
            ``"hidden"``: what the gates see of h_{t-1} (Gal & Ghahramani, Eq. 7; for a plain RNN
            Eq. 2). ``"state"``: the LSTM's memory c, or a GRU's new h (Moon et al., Eq. 8).
        sampling: ``"step"``: a fresh mask at every step; ``"sequence"``: one mask for all steps of
            a call, its own for every row of the batch.
        rescale: Where the missing units are made up for. ``"train"``: the mask is divided by
            1 - rate in training, evaluation does nothing (Eq. 18, inverted dropout). ``"test"``:
            the mask is 0 or 1 in training, evaluation multiplies by 1 - rate (Eq. 3, the paper's
            own choice at all recurrent sites). ``None``: "train" for update and hidden, "test" for
            state, whose values grow without bound otherwise.
        tied: For ``site="hidden"``: True draws one mask for all gates (Eq. 7 as printed), False one
            mask for each gate.

    Raises:
        ValueError: A value outside the ranges above.

    Example:
        >>> RecurrentDropout(0.25)
        RecurrentDropout(rate=0.25, site='update', sampling='step', rescale='train', tied=True)
    """

    rate: float
    site: Site = "update"
    sampling: Sampling = "step"
    rescale: Rescale | None = None
    tied: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", checked_rate(self.rate, "rate"))
        for name, allowed in (
            ("site", SITES),
            ("sampling", get_args(Sampling)),
            ("rescale", (None, *get_args(Rescale))),
            ("tied", (True, False)),
        ):
            value = getattr(self, name)
            if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
        if not self.tied and self.site != "hidden":
            raise ValueError(
                f"tied=False draws a mask per gate and needs site='hidden', got site={self.site!r}"
            )
        if self.rescale is None:
            object.__setattr__(self, "rescale", "test" if self.site == "state" else "train")
        elif self.site == "state" and self.rescale == "train" and self.rate > 0:
            warnings.warn(
                f"site='state' with rescale='train' divides the memory by {self.keep:g} at every "
                f"step: its values grow like {self.keep:g}**-t in training; rescale='test' is the "
                "paper's choice for this site",
                stacklevel=3,
            )

    @property
    def keep(self) -> float:
        """Probability of keeping a unit, 1 - rate."""
        return 1.0 - self.rate

    @property
    def kept_scale(self) -> float:
        """What a kept unit is multiplied by in training: 1/keep or 1."""
        return 1.0 / self.keep if self.rescale == "train" else 1.0

    @property
    def eval_scale(self) -> float:
        """What every unit is multiplied by in evaluation: keep or 1."""
        return self.keep if self.rescale == "test" else 1.0

    def acts(self, training: bool) -> bool:
        """Whether this changes a value at all, in training or in evaluation."""
        return self.rate > 0 and (training or self.rescale == "test")


def checked_rate(rate: object, name: str) -> float:
    """A drop probability in [0, 1) as a float.

    Raises:
        ValueError: It is not a number (a bool is none), or outside the range. The class is
            `torch.nn`'s own for its ``dropout``.
    """
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= float(rate) < 1:
        raise ValueError(
            f"{name} must be a number in [0, 1), the probability to drop, not to keep; got {rate!r}"
        )
    return float(rate)


def checked_integer(value: object, name: str) -> int:
    """An integer of whatever type, as an int.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value)


def as_specs(
    value: float | RecurrentDropout | Iterable[RecurrentDropout], cell: Cell
) -> tuple[RecurrentDropout, ...]:
    """What a layer's ``recurrent_dropout`` means, as a tuple of specs with distinct sites.

    A number is the paper's own scheme per step: the update site, or for a plain RNN, which has no
    candidate, the hidden site (Eq. 2). The number 0 is no spec at all.

    Raises:
        ValueError: Two specs at one site, or a site that the cell lacks.
        TypeError: Neither a number, nor a spec, nor specs.
    """
    if isinstance(value, numbers.Real):
        rate = checked_rate(value, "recurrent_dropout")
        value = RecurrentDropout(rate, site="hidden" if cell == "rnn" else "update") if rate else ()
    specs = (value,) if isinstance(value, RecurrentDropout) else value
    unlike = isinstance(specs, str | bytes | Mapping | Tensor)
    if unlike or not isinstance(specs, Iterable):
        raise TypeError(
            f"recurrent_dropout must be a number, a RecurrentDropout or several, got {value!r}"
        )
    specs = tuple(specs)
    for spec in specs:
        if not isinstance(spec, RecurrentDropout):
            raise TypeError(f"recurrent_dropout must hold RecurrentDropout only, got {spec!r}")
    sites = [spec.site for spec in specs]
    if len(set(sites)) < len(sites):
        raise ValueError(f"recurrent_dropout takes each site once, got {sites}")
    if cell == "rnn" and sites not in ([], ["hidden"]):
        raise ValueError(
            f"a plain RNN has no candidate and no memory cell: it takes site='hidden', got {sites}"
        )
    return specs
