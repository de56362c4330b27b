"""Philox and its normals: published vectors, published numbers of CUDA devices, and the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfumato.noise.philox import box_muller, normals, philox

VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
"""Counter, key and answer, of Random123's file kat_vectors."""
WORD = st.integers(0, 2**32 - 1)


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), VECTORS)
def test_philox_gives_the_published_vectors(counter: str, key: str, answer: str) -> None:
    assert tuple(map(int, philox(words(counter), words(key)))) == words(answer)  # type: ignore[arg-type]


def test_an_array_of_counters_is_each_counter() -> None:
    columns = [[words(counter)[i] for counter, _, _ in VECTORS] for i in range(4)]
    key = (0xA4093822, 0x299F31D0)
    together = philox(tuple(np.array(c, np.uint64) for c in columns), key)  # type: ignore[arg-type]
    for k, (counter, _, _) in enumerate(VECTORS):
        assert [int(word[k]) for word in together] == [int(w) for w in philox(words(counter), key)]  # type: ignore[arg-type]
    assert {word.dtype for word in together} == {np.dtype(np.uint32)}


@given(x=WORD, y=WORD)
def test_box_muller_is_a_point_on_its_circle(x: int, y: int) -> None:
    """Length and angle give back the two words, as far as float32 tells them apart."""
    sine, cosine = (float(v[0]) for v in box_muller(np.array([x], np.uint32), np.array([y], np.uint32)))
    u, v = (x + 0.5) / 2**32, 2 * np.pi * (y + 0.5) / 2**32
    length = np.hypot(sine, cosine)
    # u is rounded to 24 bits: near 1 that is 2^-25, and log u is as much off; twice that is the length's square.
    assert length**2 == pytest.approx(-2 * np.log(u), rel=1e-6, abs=3e-7)
    if length > 0:
        turn = (np.arctan2(sine, cosine) - v + np.pi) % (2 * np.pi) - np.pi
        assert abs(turn) < 1e-6


def test_the_ends_of_the_words_give_finite_numbers() -> None:
    ends = np.array([0, 0, 2**32 - 1, 2**32 - 1], np.uint32), np.array([0, 2**32 - 1] * 2, np.uint32)
    sine, cosine = box_muller(*ends)
    assert np.hypot(sine, cosine)[:2] == pytest.approx(np.sqrt(66 * np.log(2)))
    assert np.hypot(sine, cosine)[2:].tolist() == [0, 0]


def test_normals_are_independent_standard_normals() -> None:
    z = np.stack([part for block in (0, 1, 2**32) for part in normals(5, block, np.arange(20000))])
    for row in z:
        assert stats.kstest(row, "norm").pvalue > 1e-5
    products = np.corrcoef(z)[np.triu_indices(len(z), 1)] * np.sqrt(z.shape[1])
    assert stats.chi2.sf((products**2).sum(), len(products)) > 1e-4
    along = (z[:, 1:] * z[:, :-1]).mean() * np.sqrt(z[:, 1:].size)
    assert abs(along) < 4


def test_every_part_of_seed_block_and_thread_counts() -> None:
    """None of the 64-bit numbers is cut: each half changes what is drawn."""
    drawn = {
        float(normals(seed, block, [thread])[0][0])
        for seed, block, thread in [
            (1, 0, 0),
            (1 + 2**32, 0, 0),
            (1, 1, 0),
            (1, 2**32, 0),
            (1, 0, 1),
            (1, 0, 2**32),
        ]
    }
    assert len(drawn) == 6
