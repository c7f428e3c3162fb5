"""How sure is a model? Monte Carlo dropout (Gal & Ghahramani 2016): one net for each set of masks.

Ours beyond the paper: any of its schemes may be sampled, and forward dropout with it.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recdrop.dropout import RecurrentDropout, checked_integer
from recdrop.layers import GRU, LSTM, RNN
from recdrop.rng import hold_masks

_FORWARD = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_ONE_AT_A_TIME = threading.RLock()  # modes and generators are shared by all threads


class MonteCarlo(NamedTuple):
    """What many nets say of the same inputs.

    Attributes:
        mean: Of their outputs, or of the probabilities, [..., K].
        spread: Standard deviation over the nets (n - 1), [..., K].
        entropy: Of the mean probabilities, in nats, [...]: all of the doubt. None without
            probabilities.
        information: What knowing the net would tell, in nats, [...]: the entropy less the nets'
            own on average, so the part of the doubt that more data would remove. None likewise.
    """

    mean: Tensor
    spread: Tensor
    entropy: Tensor | None
    information: Tensor | None


@torch.no_grad()
def mc_dropout(
    model: nn.Module,
    inputs: Any,
    samples: int = 20,
    *,
    seed: int = 0,
    sampling: Literal["sequence", "step"] | None = "sequence",
    probabilities: bool = True,
    also: tuple[type[nn.Module], ...] = (),
) -> MonteCarlo:
    """Call a model many times with its dropout on, each time with other masks.

    Only dropout is switched on: recdrop's and torch's recurrent layers that drop, torch's dropout
    modules and attention, and what ``also`` names. All else (batch norm, say) stays in the mode it
    is in. The modes, the layers' settings, registered buffers (a batch norm's statistics, say) and
    torch's generators, of the CPU and of CUDA, are afterwards as they were. Calls from several
    threads wait for each other; meanwhile nothing else should use the model.
    Within a sample each layer has the same recurrent masks at every call, so a model may read a
    long sequence window by window.

    Args:
        model: Returns logits [..., K] (or whatever, with ``probabilities=False``): a tensor, a
            `PackedSequence`, of which the data count, or a tuple that begins with one of these.
        inputs: The model's argument, or a tuple of them.
        samples: Nets, at least 2.
        seed: Where all masks come from; the same seed gives the same result.
        sampling: Of the recurrent masks: ``"sequence"`` draws one for all steps, as the theory has
            it; None samples each layer as it was trained.
        probabilities: Whether outputs are logits, to be made probabilities over the last dimension.
        also: Classes of your own that drop in training mode.

    Raises:
        ValueError: ``samples`` is below 2, there is no such ``sampling``, or nothing in the model
            drops anything.
        TypeError: ``samples`` or ``seed`` is no integer, ``model`` no module, ``also`` holds no
            classes, or the model returns something else.

    Example:
        >>> lstm = recdrop.LSTM(3, 4, recurrent_dropout=0.5)
        >>> told = recdrop.mc_dropout(lstm, torch.randn(7, 2, 3), samples=10, probabilities=False)
        >>> told.spread.shape
        torch.Size([7, 2, 4])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"mc_dropout takes a torch.nn.Module, got {type(model).__name__}")
    samples, seed = checked_integer(samples, "samples"), checked_integer(seed, "seed")
    if sampling not in ("sequence", "step", None):
        raise ValueError(f"sampling must be 'sequence', 'step' or None, got {sampling!r}")
    if not all(isinstance(kind, type) for kind in also):
        raise TypeError(f"also must hold classes of modules, got {also!r}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, for a spread, got {samples}")
    several = isinstance(inputs, tuple) and not isinstance(inputs, PackedSequence)
    arguments = inputs if several else (inputs,)
    generator = torch.Generator("cpu").manual_seed(seed)
    seeds = torch.randint(2**62, (samples,), generator=generator, device="cpu").tolist()
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    total = _Sums()
    with (
        _ONE_AT_A_TIME,
        torch.random.fork_rng(devices=devices),
        _dropping(model, sampling, also),
    ):
        for one in seeds:
            torch.default_generator.manual_seed(one)  # forward dropout's
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(one)
            with hold_masks(one):
                output = _tensor(model(*arguments))
            total.add(output.softmax(-1) if probabilities else output, entropy=probabilities)
    return total.told()


class _Sums:
    """Running sums, so that no sample has to be kept; Welford's, which do not cancel."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, output: Tensor, *, entropy: bool) -> None:
        """One more sample."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if not self.count:
            self.mean, self.squares = torch.zeros_like(output), torch.zeros_like(output)
            self.own = torch.zeros_like(output[..., 0]) if entropy else None
        self.count += 1
        change = output - self.mean
        self.mean += change / self.count
        self.squares += change * (output - self.mean)
        if self.own is not None:
            self.own += (_entropy(output) - self.own) / self.count

    def told(self) -> MonteCarlo:
        """What the samples come to."""
        spread = (self.squares / (self.count - 1)).sqrt()
        if self.own is None:
            return MonteCarlo(self.mean, spread, None, None)
        entropy = _entropy(self.mean)
        return MonteCarlo(self.mean, spread, entropy, (entropy - self.own).clamp(min=0))


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


@contextmanager
def _dropping(
    model: nn.Module,
    sampling: Literal["sequence", "step"] | None,
    also: tuple[type[nn.Module], ...],
) -> Iterator[None]:
    """Inside, what drops is in training mode, and samples as asked."""
    droppers = [m for m in model.modules() if _drops(m) or isinstance(m, also)]
    layers = [module for module in droppers if isinstance(module, RNN | LSTM | GRU)]
    if not droppers:
        raise ValueError("nothing in the model drops anything: all samples would be the same")
    fast = torch.backends.mha.get_fastpath_enabled()
    undo: list[Callable[[], object]] = [lambda: torch.backends.mha.set_fastpath_enabled(fast)]
    buffers = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it looks at an encoder layer's mode alone
        for held, given in buffers:  # not theirs, of which a graph may hold the version
            held.update({name: b if b is None else b.clone() for name, b in given.items()})
        for module in droppers:
            undo.append(
                lambda module=module, mode=module.training: setattr(module, "training", mode)
            )
            module.training = True  # not train(): that of a module with others in it is theirs too
        for layer in layers if sampling is not None else ():
            specs = layer.recurrent_dropout
            undo.append(lambda layer=layer, specs=specs: setattr(layer, "recurrent_dropout", specs))
            layer.recurrent_dropout = tuple(_sampled(spec, sampling) for spec in specs)
        yield
    finally:
        for back in undo:
            back()
        for held, given in buffers:
            held.clear()
            held.update(given)


def _sampled(
    spec: RecurrentDropout, sampling: Literal["sequence", "step"] | None
) -> RecurrentDropout:
    if sampling is None or sampling == spec.sampling:
        return spec
    with warnings.catch_warnings():  # whoever made the spec was warned then
        warnings.simplefilter("ignore")
        return replace(spec, sampling=sampling)


def _drops(module: nn.Module) -> bool:
    if isinstance(module, _FORWARD):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    if isinstance(module, RNN | LSTM | GRU) and any(s.rate > 0 for s in module.recurrent_dropout):
        return True
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


def _tensor(output: object) -> Tensor:
    if isinstance(output, tuple) and not isinstance(output, PackedSequence) and output:
        output = output[0]
    if isinstance(output, PackedSequence):
        output = output.data
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model must return a tensor, a PackedSequence or a tuple that begins with one, "
            f"got {type(output).__name__}; wrap it in a module that does"
        )
    return output
