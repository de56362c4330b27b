"""Philox4x32-10 and curand's normal numbers, in numpy: what a CUDA generator draws, without a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
"""The constants by which a round multiplies words 0 and 2 (Salmon et al. 2011, section 4.3)."""
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to the two words of the key after each round: golden ratio and sqrt(3) - 1, as fractions."""
ROUNDS = 10

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four random 32-bit words for each counter (Salmon et al. 2011, section 3.3 and table 2).

    ``counter`` is four arrays (or numbers) of 32-bit words of shapes that broadcast, ``key`` two words. It is a
    bijection of counters for every key, so distinct counters never meet.
    """
    x0, x1, x2, x3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            (second >> HALF) ^ x1 ^ np.uint64(k0),
            second & LOW,
            (first >> HALF) ^ x3 ^ np.uint64(k1),
            first & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return x0.astype(np.uint32), x1.astype(np.uint32), x2.astype(np.uint32), x3.astype(np.uint32)


def box_muller(x: Words, y: Words) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two normal numbers for each pair of words, as curand makes them (Box & Muller 1958), float32.

    ``u = x 2^-32 + 2^-33`` and ``v = 2 pi (y 2^-32 + 2^-33)`` are rounded to float32 as curand rounds them;
    then ``sqrt(-2 log u) (sin v, cos v)``, sine first. A device takes its fast sine, whose error is about 2^-21
    (CUDA's programming guide), so its numbers differ from these by about 5e-7 times the root.
    """
    u = x.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    # One rounding, after product and sum in float64: the device fuses the two.
    scale = np.float64(np.float32(2 * np.pi * 2**-32))
    v = (y.astype(np.float32).astype(np.float64) * scale + scale / 2).astype(np.float32).astype(np.float64)
    length = np.sqrt(-2 * np.log(u.astype(np.float64)))
    return (length * np.sin(v)).astype(np.float32), (length * np.cos(v)).astype(np.float32)


def normals(seed: int, block: int, threads: Any) -> tuple[NDArray[np.float32], ...]:
    """The four normal numbers of ``curand_normal4`` for each of ``threads``, after ``block`` calls before.

    The seed is the key, the block is the low half of the counter and the thread (curand's subsequence) the
    high half.
    """
    thread = np.asarray(threads, np.uint64)
    words = philox(
        (block & 0xFFFFFFFF, block >> 32, thread & LOW, thread >> HALF), (seed & 0xFFFFFFFF, seed >> 32)
    )
    return (*box_muller(words[0], words[1]), *box_muller(words[2], words[3]))
