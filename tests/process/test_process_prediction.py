from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.denoiser import columns, row_levels
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.estimate import Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import PREDICTIONS, edm, prediction
from sfumato.process.schedule import Cosine, Exploding, Flow, linear

NOISE = Level(1.0, 0.0, 1.0)
reals = st.floats(-10, 10)
complexes = st.builds(complex, reals, reals)
levels = st.one_of(
    st.builds(linear().level, st.floats(0, 999)),
    st.builds(Cosine().level, st.floats(1e-3, 0.999)),
    st.builds(Flow().level, st.floats(1e-3, 0.999)),
    st.builds(Exploding().level, st.floats(0.01, 80)),
    st.builds(lambda t, a, s: Level(t, a, s), st.floats(0, 1), st.floats(0.01, 5), st.floats(0.01, 5)),
)


@given(st.sampled_from(sorted(PREDICTIONS)), complexes, complexes, levels)
def test_both_ends_come_back_from_any_output(kind: str, x0: complex, eps: complex, at: Level) -> None:
    """What the network should say, solved again, is what it was made of."""
    known = prediction(kind)
    found = known.estimate(at.alpha * x0 + at.sigma * eps, known.target(x0, eps, at), at)
    worst = 1e-11 * max(1, at.ratio, 1 / at.ratio)
    assert abs(found.x0 - x0) < worst
    assert abs(found.eps - eps) < worst
    assert found.at is at


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_rows_at_their_own_levels_are_solved_as_alone(kind: str) -> None:
    known = prediction(kind)
    rows = [Cosine().level(0.2), Flow().level(0.7), Exploding().level(3.0)]
    generator = torch.Generator().manual_seed(0)
    x, out = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    together = known.estimate(x, out, columns(row_levels(rows), x))
    for i, at in enumerate(rows):
        alone = known.estimate(x[i], out[i], at)
        torch.testing.assert_close(together.x0[i], alone.x0, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(together.eps[i], alone.eps, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("kind", "end"), [("eps", NOISE), ("x0", CLEAN)])
def test_an_end_of_which_the_output_says_nothing_is_refused(kind: str, end: Level) -> None:
    known = prediction(kind)
    with pytest.raises(InvalidRequest, match=kind):
        known.estimate(1.0, 1.0, end)
    x = torch.ones(2, 3)
    with pytest.raises(InvalidRequest, match=kind):
        known.estimate(x, x, columns(row_levels([Flow().level(0.5), end]), x))


@pytest.mark.parametrize(
    ("kind", "end"),
    [("eps", CLEAN), ("x0", NOISE), ("v", NOISE), ("v", CLEAN), ("flow", NOISE), ("flow", CLEAN)],
)
def test_the_other_ends_are_exact(kind: str, end: Level) -> None:
    known = prediction(kind)
    x0, eps = 0.3, -1.7
    found = known.estimate(end.alpha * x0 + end.sigma * eps, known.target(x0, eps, end), end)
    assert (found.x0, found.eps) == pytest.approx((x0, eps), abs=1e-15)


def test_edm_is_karras_preconditioning() -> None:
    """D = c_skip x + c_out F with the coefficients of Karras et al. 2022, table 1, gives the same x0."""
    for std in (0.5, 1.3):
        for sigma in (0.002, 0.4, 80.0):
            skip = std**2 / (sigma**2 + std**2)
            out = sigma * std / math.hypot(sigma, std)
            x, network = 0.7, -0.2
            found = edm(std).estimate(x, network, Level(sigma, 1.0, sigma))
            assert found.x0 == pytest.approx(skip * x + out * network, abs=1e-13)


def test_an_unknown_prediction_is_told() -> None:
    with pytest.raises(UnknownName, match="eps"):
        prediction("epss")


@given(complexes, complexes, complexes, levels)
def test_towards_keeps_x(x0: complex, eps: complex, other: complex, at: Level) -> None:
    turned = Estimate(at, x0, eps).towards(other)
    assert turned.x0 == other
    before, after = (at.alpha * e.x0 + at.sigma * e.eps for e in (Estimate(at, x0, eps), turned))
    assert abs(before - after) < 1e-11 * (1 + at.alpha + at.sigma)


@given(complexes, complexes, levels, levels)
def test_a_move_to_its_own_level_stays(x0: complex, eps: complex, at: Level, to: Level) -> None:
    estimate = Estimate(at, x0, eps)
    assert estimate.move(to) == to.alpha * x0 + to.sigma * eps
    # Exchanging noise for the same noise in full changes nothing; std may be all of sigma.
    assert abs(estimate.move(to, to.sigma, eps) - estimate.move(to)) < 1e-12 * (1 + to.sigma)
