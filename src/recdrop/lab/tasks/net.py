"""What the tasks' nets share: dropout from a run's values, the start, the deterministic net."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Generator, Tensor, nn

import recdrop
from recdrop.lab.config import Classifier, Dropout, LanguageModel, Tagger


def recurrent_dropout(spec: Dropout) -> recdrop.RecurrentDropout:
    """The library's own spec of a run's.

    The library warns of inverted dropout on the memory, whose growth is the very thing that those
    cells of the tables show; so this one warning is not repeated here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="site='state' with rescale='train'")
        return recdrop.RecurrentDropout(
            spec.rate,
            site=spec.site,
            sampling=spec.sampling,
            rescale=spec.rescale,
            tied=spec.tied,
        )


class ForwardDropout(nn.Dropout):
    """`torch.nn.Dropout`, its mask from uniform numbers: on a CPU a third of its time.

    One number of torch's generator for each element, which is kept where the number, of 24 bits,
    is at least the rate.
    """

    def forward(self, input: Tensor) -> Tensor:
        """What is kept, rescaled; everything, in evaluation."""
        if not self.training or self.p == 0.0:
            return input
        kept = torch.rand_like(input, dtype=torch.float32) >= self.p
        return input * kept.to(input.dtype).div_(1.0 - self.p)


def recurrent_layers(
    model: LanguageModel | Tagger | Classifier,
    inputs: int,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    bidirectional: bool = False,
) -> recdrop.RNN | recdrop.LSTM | recdrop.GRU:
    """The recurrent part of a net, without its start.

    Args:
        model: Cell, sizes, dropout.
        inputs: Width of what goes in.
        activation: The equations' f.
        bidirectional: Whether there is a layer from each end.
    """
    sizes = (inputs, model.hidden, model.layers)
    between = model.dropout_between
    specs = tuple(map(recurrent_dropout, model.recurrent_dropout))
    if model.cell == "rnn":
        return recdrop.RNN(
            *sizes,
            nonlinearity=activation,
            dropout=between,
            bidirectional=bidirectional,
            recurrent_dropout=specs,
        )
    if model.cell == "lstm":
        return recdrop.LSTM(
            *sizes,
            activation=activation,
            dropout=between,
            bidirectional=bidirectional,
            recurrent_dropout=specs,
        )
    return recdrop.GRU(
        *sizes,
        activation=activation,
        dropout=between,
        bidirectional=bidirectional,
        reset_after=model.reset_after,
        recurrent_dropout=specs,
    )


def place(net: nn.Module, device: torch.device) -> None:
    """Put a net where it is trained; on a GPU the library's own kernels run what it drops.

    Args:
        net: Changed in place.
        device: The CPU, or a GPU.
    """
    net.to(device)
    for layer in net.modules():
        if isinstance(layer, (recdrop.RNN, recdrop.LSTM, recdrop.GRU)) and device.type == "cuda":
            layer.backend = "triton" if layer.recurrent_dropout else "auto"


@torch.no_grad()
def uniform_start(module: nn.Module, bound: float, generator: Generator) -> None:
    """Everything uniform in ±bound, biases included, as in the authors' code.

    torch's recurrent layers add two biases where the paper's equations have one: ``bias_ih`` is
    drawn, ``bias_hh`` is zero.

    Args:
        module: Changed in place.
        bound: Largest absolute value.
        generator: Source of every draw.
    """
    for name, parameter in module.named_parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
        if name.rpartition(".")[2].startswith("bias_hh"):
            nn.init.zeros_(parameter)


@contextmanager
def deterministic(net: nn.Module) -> Iterator[None]:
    """Inside, nothing is dropped and no graph is built; the net's mode comes back after.

    Not to be held over a ``yield`` of a generator: its reader would be without gradients too.
    """
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(was_training)
