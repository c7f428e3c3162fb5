"""To and from `torch.nn`: one layer, or every layer of a model."""

import warnings
from collections.abc import Iterator
from typing import Any, overload

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from recdrop.backends import BACKENDS
from recdrop.functional import RecurrentDropoutArg
from recdrop.layers import GRU, LSTM, RNN

_OURS: dict[type[nn.RNNBase], type[RNN | LSTM | GRU]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}
_TORCHS: dict[type[nn.RNNBase], type[nn.RNNBase]] = {v: k for k, v in _OURS.items()}


@overload
def from_torch(
    layer: nn.LSTM, *, recurrent_dropout: RecurrentDropoutArg = 0.0, backend: str = "auto"
) -> LSTM: ...
@overload
def from_torch(
    layer: nn.GRU, *, recurrent_dropout: RecurrentDropoutArg = 0.0, backend: str = "auto"
) -> GRU: ...
@overload
def from_torch(
    layer: nn.RNN, *, recurrent_dropout: RecurrentDropoutArg = 0.0, backend: str = "auto"
) -> RNN: ...
def from_torch(
    layer: nn.RNNBase, *, recurrent_dropout: RecurrentDropoutArg = 0.0, backend: str = "auto"
) -> RNN | LSTM | GRU:
    """Our layer with a copy of a torch layer's parameters, dtype, device, mode and requires_grad.

    Args:
        layer: `torch.nn.RNN`, `LSTM` or `GRU`.
        recurrent_dropout: As for `recdrop.LSTM`.
        backend: As for `recdrop.LSTM`.

    Raises:
        TypeError: Another class; a subclass may compute something else and is refused.
        ValueError: The layer has hooks, which the copy would not have (``prune`` and the old
            ``weight_norm`` are such).
    """
    new = _like(layer, recurrent_dropout, backend)
    _refuse_hooks("from_torch: the layer", layer)
    _give_parameters(new, layer, copy=True)
    return new


def to_torch(layer: RNN | LSTM | GRU) -> nn.RNN | nn.LSTM | nn.GRU:
    """The torch layer that computes what this one computes in evaluation, with copied parameters.

    A hidden site with ``rescale="test"`` multiplies h by keep in every product: that is folded into
    ``weight_hh``.

    Args:
        layer: `recdrop.RNN`, `LSTM` or `GRU`.

    Raises:
        TypeError: Another class.
        ValueError: No torch layer computes this: an update or state site with ``rescale="test"``,
            ``activation="relu"`` in an LSTM or GRU, or ``reset_after=False``. Or the layer has
            hooks, which the copy would not have.
    """
    if type(layer) not in _TORCHS:
        raise TypeError(f"to_torch takes a recdrop RNN, LSTM or GRU, got {_described(layer)}")
    _refuse_hooks("to_torch: the layer", layer)
    acting = [spec for spec in layer.recurrent_dropout if spec.acts(training=False)]
    for spec in acting:
        if spec.site != "hidden":
            raise ValueError(
                f"to_torch: {spec} multiplies by {spec.keep:g} inside the recurrence in "
                "evaluation, which torch's layers cannot; only site='hidden' or rescale='train' "
                "can be folded"
            )
    if layer.cell != "rnn" and layer.activation != "tanh":
        raise ValueError(
            f"to_torch: torch's {layer.cell.upper()} has no activation={layer.activation!r}"
        )
    if not layer.reset_after:
        raise ValueError("to_torch: torch's GRU has no reset_after=False")
    options = _options(layer)
    if isinstance(layer, RNN):
        options["nonlinearity"] = layer.activation
    new = _TORCHS[type(layer)](**options)
    _give_parameters(new, layer, copy=True)
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name.startswith("weight_hh"):
                for spec in acting:
                    parameter.mul_(spec.keep)
    return new  # pyright: ignore[reportReturnType]


def convert(
    model: nn.Module, recurrent_dropout: RecurrentDropoutArg, *, backend: str = "auto"
) -> nn.Module:
    """Replace every `torch.nn.RNN`, `LSTM` and `GRU` in a model by ours, in place.

    The new layers hold the very same parameters, so optimisers and tied weights stay valid, and a
    layer that is a submodule in several places stays one layer. They are `torch.nn.RNNBase`, but
    not `torch.nn.LSTM` to ``isinstance``. What a model keeps elsewhere, in a plain list say, stays.

    Args:
        model: Any module; if it is itself such a layer, the new layer is returned.
        recurrent_dropout: As for `recdrop.LSTM`.
        backend: As for `recdrop.LSTM`.

    Returns:
        The model.

    Raises:
        ValueError: There is nothing to replace, or a layer has hooks, which would be lost.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    if isinstance(recurrent_dropout, Iterator):
        recurrent_dropout = tuple(recurrent_dropout)  # for every layer the same
    new: dict[nn.Module, RNN | LSTM | GRU] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and type(module) in _OURS:
            _refuse_hooks(f"convert: {name or 'the model'}", module)
            new[module] = _like(module, recurrent_dropout, backend)
        elif isinstance(module, nn.RNNBase) and type(module) not in _TORCHS:
            warnings.warn(
                f"convert leaves {name or 'the model'} as it is: {_described(module)} is a "
                "subclass that may compute something else",
                stacklevel=2,
            )
    if not new:
        raise ValueError(
            "convert found no torch.nn.RNN, LSTM or GRU in the model; to change a recdrop layer, "
            "assign its recurrent_dropout"
        )
    for old, ours in new.items():
        _give_parameters(ours, old, copy=False)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


def explain_backend(layer: RNN | LSTM | GRU, x: object, hx: object = None) -> str:
    """Which backend would run this layer on this input, and why not each of the others.

    Nothing is run and no random number is drawn.

    Args:
        layer: `recdrop.RNN`, `LSTM` or `GRU`.
        x: Its input.
        hx: Its initial state, if any.
    """
    if not isinstance(layer, RNN | LSTM | GRU):
        raise TypeError(
            f"explain_backend takes a recdrop RNN, LSTM or GRU, got {type(layer).__name__}"
        )
    call = layer.recurrence(x, hx)  # pyright: ignore[reportArgumentType]
    lines: list[str] = []
    chosen = False
    for backend in BACKENDS.values():
        objection = backend.why_not(call)
        if layer.backend not in ("auto", backend.name):
            verdict = f"not asked, the layer names {layer.backend!r}"
        elif objection is not None:
            verdict = f"no: {objection}"
        elif chosen or (backend.by_name and layer.backend == "auto"):
            verdict = "could run it" + ", if asked for by name" * backend.by_name
        else:
            chosen, verdict = True, f"runs this call: {backend.summary}"
        lines.append(f"{backend.name}: {verdict}")
    return "\n".join(lines)


def _options(layer: nn.RNNBase) -> dict[str, Any]:
    """Constructor arguments that ours and torch's layers share; no memory, no random numbers."""
    options: dict[str, Any] = {
        name: getattr(layer, name)
        for name in (
            "dropout",
            "input_size",
            "hidden_size",
            "num_layers",
            "bias",
            "batch_first",
            "bidirectional",
        )
    }
    if layer.proj_size:  # torch's RNN and GRU refuse the argument, even 0
        options["proj_size"] = layer.proj_size
    return options | {"device": "meta"}


def _like(
    layer: nn.Module, recurrent_dropout: RecurrentDropoutArg, backend: str
) -> RNN | LSTM | GRU:
    if type(layer) not in _OURS or not isinstance(layer, nn.RNNBase):
        raise TypeError(f"expected a torch.nn.RNN, LSTM or GRU itself, got {_described(layer)}")
    options = _options(layer)
    if isinstance(layer, nn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    return _OURS[type(layer)](
        **options,
        recurrent_dropout=recurrent_dropout,
        backend=backend,
    )


def _give_parameters(new: nn.RNNBase, old: nn.Module, *, copy: bool) -> None:
    for name in new._flat_weights_names:
        parameter = getattr(old, name)
        if copy:
            parameter = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        setattr(new, name, parameter)
    new._init_flat_weights()
    new.train(old.training)


def _refuse_hooks(name: str, module: nn.Module) -> None:
    kinds = ("forward", "forward_pre", "backward", "backward_pre", "state_dict", "state_dict_pre")
    kinds += ("load_state_dict_pre", "load_state_dict_post")
    if any(getattr(module, f"_{kind}_hooks") for kind in kinds):
        raise ValueError(
            f"{name} has hooks, which would be lost; remove them first (weights of "
            "torch.nn.utils.prune, or of the old weight_norm or spectral_norm, have such hooks)"
        )


def _described(layer: object) -> str:
    name = type(layer).__name__
    if isinstance(layer, nn.Module) and is_parametrized(layer):
        return f"{name} (torch.nn.utils.parametrize.remove_parametrizations makes it plain again)"
    return name
