"""New text, one symbol at a time."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from recdrop.lab.errors import BadInput
from recdrop.lab.tasks.language_model import LanguageModelNet, State
from recdrop.lab.tasks.net import deterministic


def generate(
    net: LanguageModelNet,
    prompt: Sequence[int],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generator,
    start: int | None,
    unknown: int | None = None,
) -> Iterator[int]:
    """Go on from a prompt; the same generator state gives the same symbols.

    Args:
        net: Used deterministically, whatever mode it is in, and left in that.
        prompt: Symbols before the first new one; not repeated in what comes.
        length: Number of new symbols.
        temperature: What the logits are divided by: below 1 bolder, above 1 more even; 0 takes the
            likeliest symbol, the first of equals.
        top_k: Choose among so many of the likeliest; None: among all.
        generator: Source of every draw, on the CPU.
        start: Read before the prompt, as `evaluate` does; None where the vocabulary has none.
        unknown: ``<unk>``, which is chosen only where there is no other symbol.

    Raises:
        BadInput: An argument is out of range, or there is neither a prompt nor a start symbol.
    """
    symbols = len(net.output.weight)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise BadInput(f"temperature must be a number, 0 or more; got {temperature}")
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k must be 1 or more; got {top_k}")
    if length < 0:
        raise BadInput(f"length must be 0 or more; got {length}")
    read = [*([] if start is None else [start]), *prompt]
    if not read:
        raise BadInput("give a prompt: this vocabulary has no symbol that a text starts after")
    if not all(0 <= symbol < symbols for symbol in read):
        raise BadInput(
            f"the prompt must be numbers of symbols, from 0 to {symbols - 1}; got {read}"
        )
    banned = unknown if symbols > 1 else None
    return _symbols(net, read, length, temperature, top_k, generator, banned)


def _symbols(
    net: LanguageModelNet,
    read: list[int],
    length: int,
    temperature: float,
    top_k: int | None,
    generator: Generator,
    banned: int | None,
) -> Iterator[int]:
    state: State | None = None
    for _ in range(length):
        logits, state = _next(net, read, state)
        if banned is not None:
            logits[banned] = -math.inf
        symbol = _choose(logits, temperature, top_k, generator)
        yield symbol
        read = [symbol]


def _next(net: LanguageModelNet, read: list[int], state: State | None) -> tuple[Tensor, State]:
    """Logits after the last symbol that is read, float64 [V] on the CPU, and the new state."""
    with deterministic(net):
        column = torch.tensor(read, device=net.device).unsqueeze(1)
        hidden, state = net.hidden(column, state)
        return net.output(hidden[-1, 0]).double().cpu(), state


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    kept, symbols = logits.topk(min(top_k or len(logits), len(logits)))
    # The largest first becomes 0, so that no temperature overflows.
    weights = ((kept - kept[0]) / temperature).exp()
    return int(symbols[torch.multinomial(weights, 1, generator=generator)])
