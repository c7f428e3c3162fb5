"""Masks: Philox4x32-10 as a pure function of coordinates, and the key that starts it.

No mask need be stored: whether a unit is kept is a function of

    (key; site, layer, direction, t, b, unit)

so that every backend gives the same bits for any tiling, thread count or device, and backward draws
them again. The definition, exact enough to write it again in another language (docs/masks.md has
worked examples):

* The generator is Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
  (SC 2011), as in their Random123: 10 rounds, four 32-bit counter words in, four words out.
* Key words: the low and the high 32 bits of the 64-bit key.
* Counter words: ``unit // 4``; ``t`` (0 when one mask serves the whole sequence); ``b``;
  ``site + 4 * direction + 8 * layer`` with update 0, hidden 1, state 2, reverse direction 1.
* The unit's word is output word ``unit % 4``; the unit is kept iff word < `threshold`.
* ``t`` is the position in the row's own sequence, also in the reverse direction; ``b`` the row in
  the caller's batch, before any sorting; an untied hidden mask has ``unit = gate * W + j``.
"""

import ctypes
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from recdrop._types import Site
from recdrop.dropout import checked_integer
from recdrop.transforms import under_vmap

SITE_CODE: dict[Site, int] = {"update": 0, "hidden": 1, "state": 2}

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)  # Random123, PHILOX_M4x32_0 and _1
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, PHILOX_W32_0 and _1
_ROUNDS = 10
_LOW32 = 0xFFFFFFFF
_CPU = torch.device("cpu")
_BLOCKS = "recdrop.hold_masks"


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Tensor) -> tuple[Tensor, ...]:
    """Four random words for each counter.

    Args:
        counter: Four int64 tensors of one broadcast shape, each holding a 32-bit word.
        key: int64 scalar; its 64 bits are the two key words.

    Returns:
        Four int64 tensors of that shape, each holding a 32-bit word, in Random123's order.
    """
    c0, c1, c2, c3 = counter
    key = key_on(key, c0.device)
    k0, k1 = key & _LOW32, (key >> 32) & _LOW32
    for _ in range(_ROUNDS):
        # int64 products wrap, which leaves all 64 bits of the unsigned product in place.
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW32) ^ c1 ^ k0,
            p1 & _LOW32,
            ((p0 >> 32) & _LOW32) ^ c3 ^ k1,
            p0 & _LOW32,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW32, (k1 + _WEYL[1]) & _LOW32
    return c0, c1, c2, c3


def threshold(rate: float) -> int:
    """The bound below which a word keeps its unit: (1 - rate) * 2**32, rounded half to even.

    Clamped to [1, 2**32 - 1], so that it fits 32 bits and no rate in (0, 1) drops or keeps all.
    """
    return min(max(round((1.0 - rate) * 2**32), 1), 2**32 - 1)


def keep_mask(
    key: Tensor,
    rate: float,
    site: Site,
    *,
    layer: int,
    direction: int,
    steps: Tensor,
    rows: Tensor,
    units: int,
) -> Tensor:
    """Which units are kept, [len(steps), len(rows), units] of bool.

    Args:
        key: int64 scalar of one forward call, from `draw_key`.
        rate: Probability of dropping a unit.
        site: Where the mask is used.
        layer: Layer in the stack, from 0.
        direction: 0 forward, 1 reverse.
        steps: int64 [T], positions t; ``[0]`` for a mask that serves the whole sequence.
        rows: int64 [B], rows b of the caller's batch.
        units: Width of the mask.
    """
    device = rows.device
    blocks = torch.arange((units + 3) // 4, device=device)
    where = torch.tensor(SITE_CODE[site] + 4 * direction + 8 * layer, device=device)
    words = philox4x32((blocks, steps[:, None, None], rows[:, None], where), key)
    return (torch.stack(words, dim=-1) < threshold(rate)).flatten(-2)[..., :units]


class Owner:
    """Who draws keys, to `hold_masks`: a layer object. A copy is another.

    Attributes:
        number: int64 scalar on the CPU. A tensor, for of a number `torch.compile` would make a
            constant, and a graph for each layer object.
        plain: The same as an int.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.plain = next(self._numbers)
        with _disable_current_modes():  # a fake tensor would be no number later
            self.number = torch.tensor(self.plain, device="cpu")

    def __deepcopy__(self, memo: object) -> "Owner":
        return Owner()


class _Held:
    """The keys of one `hold_masks` block: one for each owner, by order of first call."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed
        self._keys: dict[int, Tensor] = {}

    def key(self, owner: int) -> Tensor:
        if owner not in self._keys:
            n, zero, last = torch.tensor([len(self._keys), 0, _LOW32], device="cpu")
            low, high, _, _ = philox4x32((n, zero, zero, last), self._seed)
            self._keys[owner] = low | (high << 32)
        return self._keys[owner]


def _blocks() -> tuple[_Held, ...]:
    """The open `hold_masks` blocks of this thread, innermost last.

    Torch keeps them, not Python, and has them in the threads of its own in which a backward pass
    runs: activation checkpointing runs a forward pass there.
    """
    return torch._C._get_obj_in_tls(_BLOCKS) if torch._C._is_key_in_tls(_BLOCKS) else ()


def _set_blocks(blocks: tuple[_Held, ...]) -> None:
    before = sys.getrefcount(blocks)
    torch._C._stash_obj_in_tls(_BLOCKS, blocks)
    if sys.getrefcount(blocks) == before:  # torch 2.11 takes no reference, but gives one up
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(blocks))


# Dynamo would run these while it traces, and not when the graph runs.
_outside_graphs = torch.compiler.disable(reason="a graph has no block of recdrop.hold_masks in it")


@_outside_graphs
def _open(block: _Held) -> None:
    _set_blocks((*_blocks(), block))


@_outside_graphs
def _close(block: _Held) -> None:
    # Not always the last one: blocks may be closed out of order.
    _set_blocks(tuple(other for other in _blocks() if other is not block))


def _random_key(device: torch.device = _CPU) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device).random_(-(2**63), None)


def _draw_key(owner: Tensor, *, device: torch.device) -> Tensor:
    blocks = _blocks()
    if not blocks:
        return _random_key(device)
    key = blocks[-1].key(int(owner))
    return key.clone() if device.type == "cpu" else key_on(key, device)


# An opaque op, so that a compiled graph draws anew at every call and activation checkpointing,
# which restores the generator, draws the same key again. A replayed CUDA graph would not look at
# `hold_masks`: torch.compile leaves the op out of its graphs.
_LIBRARY = torch.library.Library("recdrop", "FRAGMENT")
_LIBRARY.define(
    "draw_key(Tensor owner, *, Device device) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe),
)
_LIBRARY.impl("draw_key", _draw_key, "CompositeExplicitAutograd")
torch.library.register_fake(
    "recdrop::draw_key",
    lambda owner, *, device: torch.empty((), dtype=torch.int64, device=device),
    lib=_LIBRARY,
)


def draw_key(owner: Owner | None = None, device: torch.device = _CPU) -> Tensor:
    """The key of one forward call: a 64-bit integer as an int64 scalar.

    Outside `hold_masks` it is drawn from torch's generator; inside, it is the owner's. Under
    `torch.func.vmap` it is one for each example, one for all, or an error, as its ``randomness``
    says; inside `hold_masks` one for all.

    Args:
        owner: Who asks; None: a call that no layer object makes. To `hold_masks` these are one.
        device: Whose generator, and where the key lies.
    """
    if under_vmap() and not _blocks():  # which knows of the draws of torch's own operators only
        return torch.randint(-(2**63), 2**63 - 1, (), device=device)
    if owner is None:
        number = torch.tensor(-1, device="cpu")
    elif not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack():
        number = torch.tensor(owner.plain, device="cpu")  # a mode may take its own tensors only
    else:
        number = owner.number
    return torch.ops.recdrop.draw_key(number, device=device)


def key_device(of: torch.device) -> torch.device:
    """Where the key of a call is drawn whose tensors are on ``of``, for `draw_key`.

    On the CPU, where it costs nothing and no device has to be waited for. But in a CUDA graph that
    key would be a constant, and every replay would drop the same units: while one is captured, and
    in what `torch.compile` traces (which may be captured later), it comes from the device's own
    generator, whose state every replay moves on. Under `torch.func.vmap` it may be many.
    """
    if of.type != "cuda":
        return _CPU
    there = torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing()
    return of if there or under_vmap() else _CPU


def key_on(key: Tensor, device: torch.device) -> Tensor:
    """A key on another device, without waiting for it, and in a CUDA graph as a constant."""
    if key.device.type == "cpu" and device.type == "cuda":
        return torch.full((), key.item(), dtype=torch.int64, device=device)
    return key.to(device)


@contextmanager
def hold_masks(seed: int | None = None) -> Iterator[None]:
    """Inside, every layer object draws the same recurrent masks at every call.

    Torch's own dropout, that between layers too, is not held. A layer's key is then a function
    of the seed and of the order in which layers are first called, and of nothing else. ``t``
    starts at 0 at each call: per-step masks repeat from call to call, and per-sequence masks
    make the windows of one long sequence equal one long call. Blocks nest (the innermost
    counts) and belong to their thread and to those in which torch runs its backward passes.
    Activation checkpointing runs the forward pass again during backward: call ``backward()``
    inside the block too. A CUDA graph that is captured inside has these masks for good.

    Args:
        seed: 64-bit integer; None draws one from torch's CPU generator.

    Raises:
        TypeError: seed is no integer.
        ValueError: seed does not fit in 64 bits.

    Example:
        >>> with hold_masks(0):
        ...     first, _ = lstm(window, state)   # doctest: +SKIP
        ...     second, _ = lstm(window, state)  # doctest: +SKIP  (the same masks again)
    """
    if seed is None:
        key = _random_key()
    else:
        seed = checked_integer(seed, "hold_masks: seed")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"hold_masks: seed must fit in 64 bits, got {seed}")
        key = torch.tensor(seed - 2**64 if seed >= 2**63 else seed, device="cpu")
    block = _Held(key)
    _open(block)
    try:
        yield
    finally:
        _close(block)
