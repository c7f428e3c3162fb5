"""`rnn`, `lstm`, `gru`: one call on explicit tensors. Everything is validated here, once.

`product` is the matrix product that they are made of, `cross_entropies_` what stands behind an
output layer.

Time-major and batched; `recdrop.layers` adds batch_first, packing, unbatched input and parameters.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from recdrop import backends
from recdrop._types import ActivationName, Cell
from recdrop.backends.call import Recurrence
from recdrop.checks import check_shapes, check_tensors, checked_key
from recdrop.dropout import RecurrentDropout, as_specs
from recdrop.rng import Owner, draw_key, key_device

RecurrentDropoutArg = float | RecurrentDropout | Iterable[RecurrentDropout]


def rnn(
    input: Tensor,
    hx: Tensor,
    weights: Iterable[Tensor],
    *,
    nonlinearity: ActivationName = "tanh",
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    bidirectional: bool = False,
    training: bool = False,
    recurrent_dropout: RecurrentDropoutArg = 0.0,
    key: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A plain recurrent network, Eqs. 1-2.

    Args:
        input: [T, B, I].
        hx: Initial h, [L * D, B, H].
        weights: torch's flat list: for each layer, forward then reverse, weight_ih [H, I],
            weight_hh [H, H] and, with ``bias``, bias_ih [H] and bias_hh [H].
        nonlinearity: f of Eq. 1.
        bias: Whether the list has biases.
        num_layers: L.
        dropout: Rate of dropout between layers, as in `torch.nn.RNN`.
        bidirectional: Whether D is 2.
        training: Whether masks are drawn.
        recurrent_dropout: A rate (the hidden site, Eq. 2), a `RecurrentDropout`, or several.
        key: int64 scalar that starts all masks; None draws one when a mask is needed.
        backend: ``"auto"`` or a name; a named backend never falls back.

    Returns:
        Output [T, B, D * H] and final h [L * D, B, H].

    Raises:
        ValueError: Wrong dtype or option.
        RuntimeError: Wrong shape.
        BackendUnsupported: A named backend cannot run this.
    """
    output, (h_n,) = run(
        recurrence(
            "rnn",
            input,
            (hx,),
            weights,
            activation=nonlinearity,
            bias=bias,
            num_layers=num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            training=training,
            recurrent_dropout=as_specs(recurrent_dropout, "rnn"),
        ),
        key=key,
        backend=backend,
    )
    return output, h_n


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    weights: Iterable[Tensor],
    *,
    activation: ActivationName = "tanh",
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    bidirectional: bool = False,
    training: bool = False,
    recurrent_dropout: RecurrentDropoutArg = 0.0,
    key: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """An LSTM, Eqs. 4-9.

    As `rnn`, except:

    Args:
        input: [T, B, I].
        hx: Initial h [L * D, B, W] and c [L * D, B, H].
        weights: weight_ih [4H, I], weight_hh [4H, W], biases [4H], and for a projected LSTM
            weight_hr [W, H] last; gates in torch's order i, f, g, o.
        activation: f of Eqs. 4 and 6.
        bias: See `rnn`.
        num_layers: See `rnn`.
        dropout: See `rnn`.
        bidirectional: See `rnn`.
        training: See `rnn`.
        recurrent_dropout: A rate (the update site, Eq. 9), a `RecurrentDropout`, or several.
        key: See `rnn`.
        backend: See `rnn`.

    Returns:
        Output [T, B, D * W], and final h [L * D, B, W] and c [L * D, B, H].
    """
    output, (h_n, c_n) = run(
        recurrence(
            "lstm",
            input,
            tuple(hx) if isinstance(hx, tuple | list) else (hx,),
            weights,
            activation=activation,
            bias=bias,
            num_layers=num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            training=training,
            recurrent_dropout=as_specs(recurrent_dropout, "lstm"),
        ),
        key=key,
        backend=backend,
    )
    return output, (h_n, c_n)


def gru(
    input: Tensor,
    hx: Tensor,
    weights: Iterable[Tensor],
    *,
    activation: ActivationName = "tanh",
    reset_after: bool = True,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    bidirectional: bool = False,
    training: bool = False,
    recurrent_dropout: RecurrentDropoutArg = 0.0,
    key: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A GRU: torch's, or the paper's (Eqs. 10-13).

    As `rnn`, except:

    Args:
        input: [T, B, I].
        hx: Initial h, [L * D, B, H].
        weights: weight_ih [3H, I], weight_hh [3H, H], biases [3H]; gates in the order r, z, n.
        activation: f of Eq. 11.
        reset_after: True: torch's and cuDNN's GRU, reset after the product. False: the paper's,
            reset before it, where z opens the update instead of holding the old value.
        bias: See `rnn`.
        num_layers: See `rnn`.
        dropout: See `rnn`.
        bidirectional: See `rnn`.
        training: See `rnn`.
        recurrent_dropout: A rate (the update site, Eq. 13), a `RecurrentDropout`, or several.
        key: See `rnn`.
        backend: See `rnn`.

    Returns:
        Output [T, B, D * H] and final h [L * D, B, H].
    """
    output, (h_n,) = run(
        recurrence(
            "gru",
            input,
            (hx,),
            weights,
            activation=activation,
            reset_after=reset_after,
            bias=bias,
            num_layers=num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            training=training,
            recurrent_dropout=as_specs(recurrent_dropout, "gru"),
        ),
        key=key,
        backend=backend,
    )
    return output, h_n


def recurrence(
    cell: Cell,
    input: Tensor,
    state: tuple[Tensor, ...],
    weights: Iterable[Tensor],
    *,
    activation: ActivationName,
    bias: bool,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    training: bool,
    recurrent_dropout: tuple[RecurrentDropout, ...],
    reset_after: bool = True,
    batch_sizes: Tensor | None = None,
    rows: Tensor | None = None,
) -> Recurrence:
    """Check one call, in `torch.nn`'s classes of error; see `Recurrence` for the arguments."""
    if activation not in ("tanh", "relu"):
        raise ValueError(f"activation must be 'tanh' or 'relu', got {activation!r}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be in [0, 1], the probability to drop, got {dropout!r}")
    weights = tuple(weights)
    check_tensors(cell, input, state, weights)
    check_shapes(cell, input, state, weights, bias, num_layers, bidirectional, batch_sizes)
    return Recurrence(
        cell=cell,
        x=input,
        batch_sizes=batch_sizes,
        rows=rows,
        state=state,
        weights=weights,
        bias=bias,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
        activation=activation,
        reset_after=reset_after,
        recurrent_dropout=recurrent_dropout,
        training=training,
        key=None,
    )


def run(
    call: Recurrence,
    *,
    key: Tensor | None = None,
    backend: str = "auto",
    owner: Owner | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draw the key of a checked call if it needs one, and run it.

    Args:
        call: From `recurrence`.
        key: int64 scalar to use instead of a drawn one.
        backend: ``"auto"`` or a name.
        owner: The layer object, for `hold_masks`; without, all calls are one object's.

    Raises:
        RuntimeError: `torch.jit.trace` asks for masks, which it would make constants.
    """
    if call.training and call.acting:
        if key is None and torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            raise RuntimeError(
                "torch.jit.trace would make this call's masks constants, the same at every call; "
                "trace the model in evaluation, or use torch.compile or torch.export"
            )
        drawn = draw_key(owner, key_device(call.x.device)) if key is None else checked_key(key)
        call = call.with_key(drawn)
    return backends.run(call, backends.checked_name(backend))


@torch.no_grad()
def product(out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """A matrix product, out = a b + bias, by this library's own kernel where there is one.

    For what stands around a recurrent layer and is as large, such as the output layer of a language
    model: on some processors this is twice as fast as `torch.mm`, on others as fast. It is not
    differentiable.

    Args:
        out: [M, N], contiguous rows; written.
        a: [M, K], of any strides.
        b: [K, N], of any strides.
        bias: [N], or None.

    Returns:
        ``out``.

    Raises:
        RuntimeError: Shapes or dtypes do not go together.
    """
    own = a.device.type == "cpu" and a.dtype in (torch.float32, torch.float64)
    if own and backends.native.missing() is None:
        torch.ops.recdrop.native_product(out, a, b, bias)
        increment_version(out)
        return out
    return torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b, out=out)


def cross_entropies_(logits: Tensor, targets: Tensor, column_sums: Tensor | None = None) -> Tensor:
    """Each row's cross entropy; the logits become its gradient, softmax less 1 at the target.

    In one pass of this library's own kernel where there is one. It is not differentiable.

    Args:
        logits: [N, V], contiguous rows; written.
        targets: int64 [N], below V.
        column_sums: [V] or None; the gradients' sum over rows is added to it: a bias's gradient.

    Returns:
        [N], in nats.

    Raises:
        RuntimeError: Shapes or dtypes do not go together, or a target is not below V.
    """
    own = logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64)
    if own and backends.native.missing() is None:
        each = logits.new_empty(len(logits))
        torch.ops.recdrop.native_cross_entropy(logits, targets, each, column_sums)
        increment_version(logits if column_sums is None else (logits, column_sums))
        return each
    largest, right = logits.amax(1), logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.softmax(logits, 1, out=logits)
    # The logarithm of the sum of exponentials, from the likeliest symbol, whose is never lost.
    log_sums = largest - logits.amax(1).log()
    logits.scatter_add_(1, targets.unsqueeze(1), logits.new_full((len(logits), 1), -1.0))
    if column_sums is not None:
        column_sums += logits.sum(0)
    return log_sums - right
