"""Memory loss, executable: the paper's Eqs. 14-19, and the same question put to a layer of yours.

In Eqs. 14-19 all gates are open (1), so that a memory only sums what comes in: h_t = h_{t-1} + g_t.
``keep`` is the probability of keeping a unit, which these equations call p (Eq. 3's p is the
probability of dropping one).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recdrop.backends.call import Recurrence, Scan
from recdrop.backends.reference import scan
from recdrop.backends.stack import run_stack
from recdrop.dropout import checked_integer
from recdrop.layers import GRU, LSTM, RNN


def inverted_dropout(x: Tensor, mask: Tensor, keep: float) -> Tensor:
    """Eq. 18 in training: mask * x / keep; in evaluation it does nothing.

    Args:
        x: Any shape.
        mask: Of that shape, 1 where kept and 0 where dropped.
        keep: Probability of keeping.
    """
    return mask * x / keep


def moon_steps(h_0: Tensor, g: Tensor, keep: float) -> Tensor:
    """Eqs. 14-16, Moon et al. in evaluation: h_t = (h_{t-1} + g_t) * keep, step by step.

    Args:
        h_0: Memory before the first update, [...].
        g: Updates g_0 ... g_{T-1}, [T, ...].
        keep: Probability of keeping.

    Returns:
        The memory after each update, [T, ...].
    """
    memory, steps = h_0, []
    for update in g:
        memory = (memory + update) * keep
        steps.append(memory)
    return torch.stack(steps)


def moon_closed_form(h_0: Tensor, g: Tensor, keep: float) -> Tensor:
    """Eq. 17: h_t = keep**(t+1) * h_0 + sum over i of keep**(t-i+1) * g_i.

    What was stored k steps ago is worth keep**k of its first value: memory loss.

    Args:
        h_0: Memory before the first update, [...].
        g: Updates, [T, ...].
        keep: Probability of keeping.

    Returns:
        The memory after each update, [T, ...].
    """
    t = torch.arange(len(g), device=g.device)
    age = (t[:, None] - t[None, :] + 1).to(g.dtype)
    weight = torch.where(age > 0, keep**age, 0.0)
    decayed = keep ** (t + 1).to(g.dtype)
    return decayed.reshape(-1, *[1] * h_0.ndim) * h_0 + torch.tensordot(weight, g, dims=1)


def moon_inverted_steps(h_0: Tensor, g: Tensor, masks: Tensor, keep: float) -> Tensor:
    """Moon et al. in training with Eq. 18's scaling: h_t = masks_t * (h_{t-1} + g_t) / keep.

    The mean is right, but a value that survives k steps has grown by keep**-k: over fresh masks its
    root mean square grows like keep**(-k/2).

    Args:
        h_0: Memory before the first update, [...].
        g: Updates, [T, ...].
        masks: Of the shape of g, 1 where kept.
        keep: Probability of keeping.

    Returns:
        The memory after each update, [T, ...].
    """
    memory, steps = h_0, []
    for update, mask in zip(g, masks, strict=True):
        memory = inverted_dropout(memory + update, mask, keep)
        steps.append(memory)
    return torch.stack(steps)


def update_closed_form(h_0: Tensor, g: Tensor, keep: float) -> Tensor:
    """Eq. 19, this paper in evaluation: h_t = h_0 + keep * (g_0 + ... + g_t).

    The paper prints keep * h_0. That is a slip: the mask is on the updates only and h_0 is none (it
    does no harm there, as h_0 = 0). Nothing fades, however long ago it was stored.

    Args:
        h_0: Memory before the first update, [...].
        g: Updates, [T, ...].
        keep: Probability of keeping.

    Returns:
        The memory after each update, [T, ...].
    """
    return h_0 + keep * g.cumsum(0)


@dataclass(frozen=True, slots=True, eq=False)
class Retention:
    """How much of an input is left in the memory k steps later; see `retention_curve`.

    Attributes:
        lags: k, int64 [K + 1], from 0.
        train_mean: Mean of R(k) over mask keys in training, [K + 1].
        train_rms: Root mean square of R(k) over mask keys in training, [K + 1].
        evaluation: R(k) in evaluation, [K + 1].
        keys: How many mask keys the two figures of training are over.
    """

    lags: Tensor
    train_mean: Tensor
    train_rms: Tensor
    evaluation: Tensor
    keys: int


def retention_curve(
    layer: RNN | LSTM | GRU,
    x: Tensor,
    *,
    start: int = 0,
    keys: int = 32,
    seed: int = 0,
    hx: Tensor | tuple[Tensor, Tensor] | None = None,
) -> Retention:
    """How much of the input at step ``start`` is left in the layer's memory k steps later.

        R(k) = || ds_{start+k} / dx_start || / || ds_start / dx_start ||     (Frobenius)

    with s the memory c of an LSTM, else h, of the top layer's forward direction. The Jacobians are
    exact (forward-mode), over the whole batch. The layer's own mode and torch's generators are left
    as they are.

    Args:
        layer: Any of ours, with its own weights and dropout.
        x: Input [T, B, I], or [B, T, I] for a ``batch_first`` layer, or [T, I].
        start: The step that is asked about; K = T - 1 - start.
        keys: Number of mask keys in training.
        seed: Of those keys.
        hx: Initial state, as for the layer.

    Raises:
        ValueError: start or keys out of range, an empty input, or a memory that does not depend on
            its input.
        TypeError: Not a layer of ours, or start, keys or seed no integer.

    Example:
        >>> curve = retention_curve(LSTM(2, 8, recurrent_dropout=0.5), torch.randn(20, 4, 2))
        >>> curve.evaluation.shape
        torch.Size([20])
    """
    if not isinstance(layer, RNN | LSTM | GRU):
        raise TypeError(
            f"retention_curve takes a recdrop RNN, LSTM or GRU, got {type(layer).__name__}"
        )
    start, keys = checked_integer(start, "start"), checked_integer(keys, "keys")
    seed = checked_integer(seed, "seed")
    devices = [x.device.index] if x.is_cuda else []
    # Dropout between layers draws from torch's generator.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        call = layer.recurrence(x, hx)
        steps = call.x.shape[0]
        if call.batch_sizes is not None:
            raise ValueError("retention_curve takes a dense input, got a PackedSequence")
        if not 0 <= start < steps:
            raise ValueError(f"start must be in [0, {steps}) for {steps} steps, got {start}")
        if call.x.numel() == 0:
            raise ValueError("retention_curve: the input holds no row or no feature")
        if keys < 1:
            raise ValueError(f"keys must be at least 1, got {keys}")
        evaluation = _retention(replace(call, training=False), start)
        trained = replace(call, training=True)
        if trained.acting or (trained.dropout > 0 and trained.num_layers > 1):
            generator = torch.Generator("cpu").manual_seed(seed)
            drawn = [
                torch.empty((), dtype=torch.int64, device="cpu").random_(
                    -(2**63), None, generator=generator
                )
                for _ in range(keys)
            ]
            curves = torch.stack([_retention(trained.with_key(key), start) for key in drawn])
        else:
            curves = _retention(trained, start)[None]
    curves = curves[curves[:, 0].isfinite()]
    if len(curves) == 0 or not evaluation[0].isfinite():
        raise ValueError(f"the memory does not depend on the input at step {start}: no R(k)")
    return Retention(
        lags=torch.arange(steps - start),
        train_mean=curves.mean(0),
        train_rms=curves.square().mean(0).sqrt(),
        evaluation=evaluation,
        keys=len(curves),
    )


def _retention(call: Recurrence, start: int) -> Tensor:
    """R(k) of one call, [K + 1]; NaN where the first norm is 0."""
    x_start = call.x[start]

    def memory(x_t: Tensor) -> Tensor:
        x = torch.cat((call.x[:start], x_t[None], call.x[start + 1 :]))
        return _memories(replace(call, x=x))[start:]

    def push(direction: Tensor) -> Tensor:
        tangent = direction.expand_as(x_start)
        return torch.func.jvp(memory, (x_start,), (tangent,))[1]

    units = torch.eye(x_start.shape[-1], dtype=x_start.dtype, device=x_start.device)
    jacobian = torch.func.vmap(push, randomness="same", chunk_size=64)(units)  # [I, K+1, B, H]
    norms = jacobian.square().sum(dim=(0, 2, 3)).sqrt()
    return norms / norms[0].where(norms[0] > 0, torch.nan)


def _memories(call: Recurrence) -> Tensor:
    """The memory, c of an LSTM, else h, of the top layer's forward direction, [T, B, H]."""
    recorded: list[tuple[Tensor, ...]] = []

    def recording(part: Scan) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        steps, final = scan(part)
        recorded.append(steps)
        return steps, final

    run_stack(call, recording)
    top_forward = recorded[-2 if call.bidirectional else -1]
    return top_forward[-1].unflatten(0, call.x.shape[:2])
