"""Dropout masks as a pure function of coordinates, drawn with Philox4x32-10.

Philox is from Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011; the constants are those of its reference implementation, Random123.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

# 32-bit words; arrays of them are held in 64 bits, so that a product is exact.
KeyWords = tuple[int, int]
Words = tuple[int, int, int, int]
WordArray = npt.NDArray[np.uint64]
WordArrays = tuple[WordArray, WordArray, WordArray, WordArray]

WORD_MASK = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # floor((golden ratio - 1) * 2^32), floor((sqrt(3) - 1) * 2^32)

# (counter, key, output): the lines "philox4x32 10" of Random123's kat_vectors.
KNOWN_ANSWERS: tuple[tuple[Words, KeyWords, Words], ...] = (
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)

SITE_CODES = {"update": 0, "hidden": 1, "state": 2}


@overload
def philox4x32_10(counter: Words, key: KeyWords) -> Words: ...
@overload
def philox4x32_10(counter: WordArrays, key: KeyWords) -> WordArrays: ...
def philox4x32_10(counter: tuple[Any, Any, Any, Any], key: KeyWords) -> tuple[Any, Any, Any, Any]:
    """Encrypts a counter: Philox4x32 with ten rounds (Salmon et al. 2011).

    Args:
        counter: four 32-bit words; Python ints, or uint64 arrays that broadcast together.
        key: two 32-bit words.

    Returns:
        Four 32-bit words, of the type of the counter's.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = c0 * MULTIPLIERS[0]
        product1 = c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & WORD_MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & WORD_MASK,
        )
        k0 = (k0 + WEYL[0]) & WORD_MASK
        k1 = (k1 + WEYL[1]) & WORD_MASK
    return c0, c1, c2, c3


def threshold(rate: float) -> int:
    """Returns how many of the 2^32 words mean "keep": the nearest integer to keep * 2^32.

    At least one word keeps and at least one drops. The product with 2^32 is exact in double
    precision, and Python's `round` takes halves to even.

    Args:
        rate: probability of dropping, in [0, 1).
    """
    return min(max(round((1 - rate) * 2**32), 1), 2**32 - 1)


def keep_mask(
    key: int,
    rate: float,
    site: str,
    sampling: str,
    *,
    layer: int,
    direction: int,
    steps: int,
    rows: Sequence[int],
    units: int,
) -> npt.NDArray[np.bool_]:
    """Draws the mask of the paper's Eq. 3 for every step, row and unit; True keeps.

    Args:
        key: 64-bit integer; a negative one counts modulo 2^64.
        rate: probability of dropping, in [0, 1).
        site: "update", "hidden" or "state".
        sampling: "step" for a fresh mask at each step, "sequence" for one mask for all steps.
        layer: index of the layer.
        direction: 0 forward, 1 reverse.
        steps: T, the number of positions in the rows' own sequences.
        rows: index in the caller's original batch of each row.
        units: number of units of the site.

    Returns:
        Mask [T, len(rows), units].
    """
    key_words = (int(key) & WORD_MASK, (int(key) >> 32) & WORD_MASK)
    unit = np.arange(units, dtype=np.uint64)
    t = np.arange(steps, dtype=np.uint64)[:, None, None]
    words = philox4x32_10(
        (
            unit // 4,
            t * {"step": 1, "sequence": 0}[sampling],
            np.array(rows, dtype=np.uint64)[:, None],
            np.array(SITE_CODES[site] + 4 * direction + 8 * layer, dtype=np.uint64),
        ),
        key_words,
    )
    return np.choose(unit.astype(np.intp) % 4, words) < threshold(rate)
