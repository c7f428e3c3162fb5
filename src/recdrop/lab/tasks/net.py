"""What the tasks' nets share: dropout from a run's values, the start, the deterministic net."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, nn

import recdrop
from recdrop.lab.config import Dropout


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
