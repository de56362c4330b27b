"""Brownian noise: the law of its increments, and that it is a function of seed, interval and visit alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.noise import MAX_SEED, Brownian, Stream, brownian
from sfumato.process.level import CLEAN, Level

COUNT = 4000
"""Values of a row: each is a path of its own."""
SURE = 1e-4
"""How seldom a true law would fail one of the tests below, were the seeds drawn anew."""


def level(time: float) -> Level:
    """The variance-exploding level whose clock is ``time``."""
    return Level(0.0, 1.0, 1 / math.sqrt(time)) if time else Level(1.0, 0.0, 1.0)


def unit(draws: list[Tensor]) -> np.ndarray:
    return torch.stack([draw.double().flatten() for draw in draws]).numpy()


def assert_independent_normals(z: np.ndarray) -> None:
    """Rows of ``z`` are standard normal (Kolmogorov-Smirnov), of variance 1 and uncorrelated (chi-square)."""
    rows, count = z.shape
    for row in z:
        assert stats.kstest(row, "norm").pvalue > SURE / rows
    assert SURE < stats.chi2.cdf((z**2).sum(), z.size) < 1 - SURE
    products = (z @ z.T)[np.triu_indices(rows, 1)] / math.sqrt(count)
    assert stats.chi2.sf((products**2).sum(), len(products)) > SURE
    assert abs(products).max() < stats.norm.isf(SURE / len(products))


PINNED = [
    -0.842806,
    -1.278906,
    0.060555,
    1.513666,
    1.864253,
    0.56936,
    1.253495,
    0.80445,
    1.411233,
    -0.581283,
    0.761417,
    0.913604,
]
"""Three draws of two seeds, as they were when this noise was first made."""

CLOCKS = {
    "one octave": [1.0, 1.1, 1.25, 1.3, 1.55, 1.93, 2.0],
    "over octaves": [0.0, 1e-5, 3e-3, 0.11, 0.9, 7.0, 500.0, 2e6],
    "short steps": [0.6 * (1 + 2e-4) ** k for k in range(12)],
    "across an edge": [4 - 3e-3, 4 - 1e-3, 4.0, 4 + 1e-3, 4 + 5e-3],
    "at the bottom": [0.0, 2e-13, 6e-13, 9e-13, 2e-12, 1e-11],
    "at the end": [1e20, 3e22, 1e25, 1.5e26],
}


@pytest.mark.parametrize("name", CLOCKS)
def test_increments_are_independent_standard_normals(name: str) -> None:
    noise = Brownian([11], (COUNT,))
    steps = itertools.pairwise([level(time) for time in CLOCKS[name]])
    z = unit([noise(at, to) for at, to in steps])
    assert_independent_normals(z)


def test_the_path_has_the_covariance_of_brownian_motion() -> None:
    """Whitened by the law's own covariance, min(s, t), values at random clocks are independent normals."""
    clocks = np.sort(np.exp(np.random.default_rng(3).uniform(-12, 9, size=16)))
    noise = Brownian([12], (COUNT,))
    values = unit([noise.value(time) for time in clocks])
    root = np.linalg.cholesky(np.minimum.outer(clocks, clocks))
    assert_independent_normals(np.linalg.solve(root, values))


def test_overlapping_increments_are_correlated_as_they_overlap() -> None:
    noise = Brownian([13], (COUNT,))
    spans = [(0.5, 2.0), (1.0, 4.0), (0.0, 4.0), (1.0, 2.0), (3.0, 3.5)]
    z = unit([noise(level(a), level(b)) for a, b in spans])
    for (i, (a, b)), (j, (c, d)) in itertools.combinations(enumerate(spans), 2):
        overlap = max(0.0, min(b, d) - max(a, c))
        truth = overlap / math.sqrt((b - a) * (d - c))
        # Fisher's z: the inverse hyperbolic tangent of a correlation has the variance 1 / (n - 3).
        found = np.corrcoef(z[i], z[j])[0, 1]
        assert abs(np.arctanh(found) - np.arctanh(truth)) * math.sqrt(COUNT - 3) < 4, (a, b, c, d)


def test_rows_visits_and_the_start_are_independent() -> None:
    """Also of seeds that torch's generator cannot tell apart, which share their start."""
    at, to = level(0.7), level(0.9)
    seeds = [0, 1, 2, 2**32, 2**32 + 1, MAX_SEED]
    noise = Brownian(seeds, (COUNT,))
    rows = noise(at, to)
    again = [noise(at, to, visit=k)[0] for k in (1, 2, 3, 1000)]
    elsewhere = [noise(level(0.9), level(1.3))[0], noise.start()[0], noise.start()[1]]
    assert_independent_normals(unit([*rows, *again, *elsewhere]))


def test_the_start_is_streams() -> None:
    noise, stream = Brownian([5, 6], (3, 4)), Stream([5, 6], (3, 4))
    noise(level(1.0), level(2.0))
    assert torch.equal(noise.start(), stream.start())
    assert torch.equal(noise.start(), Stream([5, 6], (3, 4)).start())


def test_the_numbers_of_a_seed_stay_what_they_are() -> None:
    """Pictures are made again by seed: these numbers change only with a change that says so."""
    noise = Brownian([7, 2**40], (2,))
    drawn = [noise(level(0.0), level(0.3)), noise(level(0.3), level(5.1), 2), noise(level(5.1), CLEAN)]
    assert torch.stack(drawn).flatten().tolist() == pytest.approx(PINNED, abs=2e-6)


def test_no_two_nodes_of_a_path_share_a_generator() -> None:
    for key in (0, 1, 2**63 + 12345):
        nodes = [*range(30000), *range(brownian.LAST - 30000, brownian.LAST + 1), 2**32 - 1]
        seeds = {brownian._scattered(node, key) for node in nodes}
        assert len(seeds) == len(nodes)
        assert max(seeds) < 2**32


TIMES = st.one_of(
    st.floats(1e-6, 1e6), st.floats(0, 1e25), st.integers(-45, 60).map(lambda k: 2.0**k), st.just(0.0)
)


@given(times=st.lists(TIMES, min_size=3, max_size=6, unique=True))
@settings(max_examples=60, deadline=None)
def test_increments_add_up(times: list[float]) -> None:
    """Noise times the root of its interval is additive, up and down."""
    noise = Brownian([3], (5,), torch.float64)
    levels = [level(time) for time in times]
    parts = zip(levels, levels[1:] + levels[:1], strict=True)
    clocks = [brownian.clock(at) for at in levels]
    total = torch.zeros(1, 5, dtype=torch.float64)
    for at, to in parts:
        gap = abs(brownian.clock(to) - brownian.clock(at))
        if gap:
            total += math.sqrt(gap) * noise(at, to)
    assert float(total.abs().max()) <= 1e-12 * math.sqrt(max(clocks))


def test_a_step_up_is_the_step_down_reversed() -> None:
    noise = Brownian([3, 4], (6,))
    assert torch.equal(noise(level(0.3), level(8.0)), -noise(level(8.0), level(0.3)))
    assert torch.equal(noise(level(0.3), CLEAN), -noise(CLEAN, level(0.3)))


@given(times=st.lists(st.tuples(TIMES, st.integers(0, 2)), min_size=2, max_size=8), room=st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_values_depend_on_no_order_and_on_no_store(times, room: int) -> None:
    """Each as it is alone: asked among others, in either order, with much room to remember or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brownian, "MEMORY", room)
        small = Brownian([9, 10], (3, 5))
    large = Brownian([9, 10], (3, 5))
    alone = [Brownian([9, 10], (3, 5)).value(*ask) for ask in times]
    for noise in (small, large):
        for order in (range(len(times)), reversed(range(len(times)))):
            for k in order:
                assert torch.equal(noise.value(*times[k]), alone[k])


@given(
    seeds=st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=4),
    shape=st.lists(st.integers(1, 11), max_size=3),
    pair=st.tuples(TIMES, TIMES),
)
@settings(max_examples=40, deadline=None)
def test_a_row_is_the_same_bits_in_any_batch(seeds, shape, pair) -> None:
    at, to = map(level, pair)
    together = Brownian(seeds, shape)
    for row, seed in enumerate(seeds):
        alone = Brownian([seed], shape)
        for ask in ((at, to, 0), (at, CLEAN, 0), (to, to, 1)):
            assert torch.equal(together(*ask)[row : row + 1], alone(*ask))


def test_a_value_that_was_given_out_may_be_changed() -> None:
    noise = Brownian([1], (4,))
    value = noise.value(3.0)
    kept = value.clone()
    value.zero_()
    noise(level(1.0), level(3.0)).zero_()
    assert torch.equal(noise.value(3.0), kept)


def test_between_the_last_nodes_the_path_is_a_line() -> None:
    noise = Brownian([1], (50,))
    leaf = 2.0**-brownian.DEPTH
    a, m, b = (noise.value(1 + (7 + part) * leaf) for part in (0.0, 0.25, 1.0))
    assert float((m - (0.75 * a + 0.25 * b)).abs().max()) < 1e-14
    assert float((b - a).abs().max()) > 1e-4


def test_variance_of_a_short_step_is_off_by_no_more_than_is_said() -> None:
    """Of the exact sum of squares of the tree's factors, not of a sample: 2^-21 / r for a relative step r."""

    def factors(time: float) -> dict[int, float]:
        noise, found = Brownian([0], ()), {}
        noise._add = lambda value, factor, visit, node: found.__setitem__(node, factor)  # type: ignore[method-assign]
        noise._value(time, 0)
        return found

    for start, step in itertools.product((1.0, 1.3, 1.9999, 2.7), (1e-5, 1e-4, 1e-3, 1e-2)):
        a, b = factors(start), factors(start * (1 + step))
        variance = sum((b.get(n, 0.0) - a.get(n, 0.0)) ** 2 for n in a.keys() | b.keys())
        assert abs(variance / (start * step) - 1) < 2**-21 / step


def test_an_infinite_interval_is_one_draw_that_nothing_else_depends_on() -> None:
    """It is the limit: towards sigma = 0 noise depends less and less on the path so far, and on where it began."""
    noise = Brownian([21], (COUNT,))
    last = noise(level(3.0), CLEAN)
    assert torch.equal(last, noise(level(0.0), CLEAN))
    assert torch.equal(last, noise(level(0.0), Level(0.0, 1.0, 1e-14)))
    others = [noise(level(1.0), level(3.0)), noise(level(0.0), level(1e25)), noise(level(0.0), CLEAN, 1)]
    assert_independent_normals(unit([last, *others]))


def test_an_interval_without_length_is_white_noise() -> None:
    """Also a limit: increments shorter and shorter depend on nothing else."""
    noise = Brownian([22], (COUNT,))
    here = noise(level(1.5), level(1.5))
    assert torch.equal(here, noise(level(1.5), level(1.5)))
    others = [
        noise(level(1.25), level(1.25)),
        noise(level(1.5), level(1.5), visit=1),
        noise(level(0.5), level(1.5)),
        noise(level(1.5), level(1.6)),
        noise(CLEAN, CLEAN),
    ]
    assert_independent_normals(unit([here, *others]))


def test_what_is_no_clock_is_refused() -> None:
    noise = Brownian([1], (2,))
    for bad in (Level(0.0, math.nan, 1.0), Level(0.0, 1.0, math.nan)):
        with pytest.raises(InvalidRequest, match="nan"):
            noise(level(1.0), bad)
    with pytest.raises(InvalidRequest, match="visit = -1"):
        noise(level(1.0), level(2.0), visit=-1)
    for time in (-1.0, math.inf, math.nan):
        with pytest.raises(InvalidRequest, match="time = "):
            noise.value(time)
