"""The layers and their torch twins, and the way from a layer to the NumPy oracle."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import recdrop
from tests.oracles import stack
from tests.oracles.stack import Drop

OURS: dict[str, Any] = {"rnn": recdrop.RNN, "lstm": recdrop.LSTM, "gru": recdrop.GRU}
TORCHS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
SITES = {
    "rnn": ("hidden",),
    "lstm": ("update", "hidden", "state"),
    "gru": ("update", "hidden", "state"),
}


def specs(cell, rate=0.4):
    """Every single-site spec of a cell."""
    for site, sampling, rescale in itertools.product(
        SITES[cell], ("step", "sequence"), ("train", "test")
    ):
        if (site, rescale) != ("state", "train"):
            yield recdrop.RecurrentDropout(rate, site, sampling, rescale)
        if site == "hidden" and cell != "rnn":
            yield recdrop.RecurrentDropout(rate, site, sampling, rescale, tied=False)


def tensors(result):
    """Output, h_n and c_n, if any, flat; a PackedSequence as its data."""
    output, state = result
    if isinstance(output, PackedSequence):
        output = output.data
    return (output, *state) if isinstance(state, tuple) else (output, state)


def random_key(seed=0):
    return torch.empty((), dtype=torch.int64).random_(
        -(2**63), None, generator=torch.Generator().manual_seed(seed)
    )


def oracle(layer, x, lengths, key, hx=None):
    """What the NumPy oracle says of a layer on a padded time-major batch."""
    h_0, c_0 = hx if isinstance(hx, tuple) else (hx, None)
    return stack.run(
        layer.cell,
        x.numpy(),
        lengths,
        {name: p.detach().numpy() for name, p in layer.named_parameters()},
        None if h_0 is None else h_0.numpy(),
        None if c_0 is None else c_0.numpy(),
        num_layers=layer.num_layers,
        bidirectional=layer.bidirectional,
        activation=layer.activation,
        reset_after=layer.reset_after,
        drops=[
            Drop(s.rate, s.site, s.sampling, s.rescale, s.tied) for s in layer.recurrent_dropout
        ],
        training=layer.training,
        key=int(key),
    )


def with_key(layer, key):
    """Make a layer use a key, as ``hold_masks`` would."""

    def forward(input, hx=None):
        call = layer.recurrence(input, hx)
        return recdrop.functional.run(call, key=key, backend=layer.backend)

    return forward


def largest_difference(ours, theirs):
    return max(
        float(np.abs(a.detach().double().numpy() - np.asarray(b)).max())
        for a, b in zip(ours, theirs, strict=True)
    )
