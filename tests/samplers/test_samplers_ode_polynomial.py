"""The weights behind the multistep methods: exact on polynomials, and the constants of the books."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.process.estimate import Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine
from sfumato.process.vector import mix, scaled_rms
from sfumato.samplers.adams import ADAMS, deis, exponential_x0, ipndm, lms
from sfumato.samplers.er_sde import extended, recommended
from sfumato.samplers.polynomial import apart, exponential, flat, weights
from sfumato.samplers.rules import dpmpp_2m

RATES = st.one_of(st.floats(-40.0, 40.0), st.floats(-2.5, 2.5), st.just(0.0), st.floats(-1e-9, 1e-9))


@settings(deadline=None)
@given(rate=RATES)
def test_moments_of_the_exponential_are_the_integrals(rate: float) -> None:
    found = exponential(rate, 5)
    # int s^k e^(r s) ds over [0, 1] is Kummer's function 1F1(k + 1; k + 2; r) / (k + 1).
    with mpmath.workdps(40):
        whole = [mpmath.hyp1f1(k + 1, k + 2, rate) / (k + 1) for k in range(5)]
        wanted = [float(part / whole[0]) for part in whole]
    assert found == pytest.approx(wanted, rel=1e-12)


@given(
    gaps=st.lists(st.floats(0.05, 3.0), min_size=0, max_size=3),
    coefficients=st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4),
    rate=RATES,
)
def test_weights_are_exact_on_polynomials(gaps: list[float], coefficients: list[float], rate: float) -> None:
    nodes = [-sum(gaps[:i]) for i in range(len(gaps) + 1)]
    kept = coefficients[: len(nodes)]
    for moments in (exponential(rate, len(nodes)), flat(len(nodes))):
        by = weights(nodes, moments)
        values = [sum(c * s**k for k, c in enumerate(kept)) for s in nodes]
        size = 1 + sum(abs(w * v) for w, v in zip(by, values, strict=True))
        mean = sum(c * m for c, m in zip(kept, moments, strict=True))
        assert sum(w * v for w, v in zip(by, values, strict=True)) == pytest.approx(mean, abs=1e-11 * size)


def test_the_constants_of_adams_and_bashforth() -> None:
    """Hairer, Norsett & Wanner 1993, equation III.1.5."""
    books = [["1"], ["3/2", "-1/2"], ["23/12", "-16/12", "5/12"], ["55/24", "-59/24", "37/24", "-9/24"]]
    for found, known in zip(ADAMS, books, strict=True):
        assert found == pytest.approx([float(Fraction(k)) for k in known], abs=1e-14)


def line(at: Level, eps: float, x0: float) -> Estimate:
    return Estimate(at, x0, eps)


@pytest.mark.parametrize(
    ("rule", "place", "end"),
    [
        (lms, lambda at: at.ratio, "eps"),
        (deis, lambda at: at.lam, "eps"),
        (exponential_x0, lambda at: at.lam, "x0"),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_rule_is_exact_where_its_end_is_a_polynomial(rule, place, end: str, count: int) -> None:
    """The mean over the step, by Simpson's rule in the variable that the ODE is linear in."""
    levels = [Cosine().at(lam) for lam in (-1.4, -1.0, -0.3, 0.1, 0.9)][4 - count :]

    def f(at: Level) -> float:
        return sum((0.3 + 0.4 * k) * place(at) ** k for k in range(count))

    past = [Estimate(at, *((f(at), 0.2) if end == "x0" else (0.2, f(at)))) for at in levels[:-1]]
    got = rule(past, levels[-1])
    now, to = levels[-2:]
    lam, n = [now.lam + (to.lam - now.lam) * i / 400 for i in range(401)], 400
    by = [1 if i in (0, n) else 4 if i % 2 else 2 for i in range(n + 1)]
    density = [math.exp(v if end == "x0" else -v) for v in lam]
    whole = sum(b * d for b, d in zip(by, density, strict=True))
    mean = sum(b * d * f(Cosine().at(v)) for b, d, v in zip(by, density, lam, strict=True)) / whole
    assert getattr(got, end) == pytest.approx(mean, abs=1e-8)
    # The line still goes through the same x.
    old = past[-1]
    assert now.alpha * got.x0 + now.sigma * got.eps == pytest.approx(
        now.alpha * old.x0 + now.sigma * old.eps, abs=1e-13
    )


@pytest.mark.parametrize("rule", [lms, deis, exponential_x0, ipndm])
def test_from_pure_noise_and_in_a_step_of_no_length_a_rule_takes_the_newest(rule) -> None:
    noise, middle = Cosine().level(1.0), Cosine().level(0.5)
    past = [line(noise, 0.1, 0.2), line(noise, 0.4, 0.3)]
    assert rule(past, middle) is past[-1]
    if rule is not ipndm:
        past = [line(noise, 0.1, 0.2), line(middle, 0.4, 0.3)]
        assert rule(past, Cosine().level(0.4)) is past[-1]
        past = [line(Cosine().level(0.6), 0.1, 0.2), line(middle, 0.4, 0.3)]
        assert rule(past, middle) is past[-1]


def test_to_no_noise_what_is_infinite_is_left_alone_and_lms_goes_on() -> None:
    past = [line(Cosine().level(0.6), 0.1, 0.2), line(Cosine().level(0.5), 0.4, 0.3)]
    assert deis(past, CLEAN) is past[-1]
    assert exponential_x0(past, CLEAN) is past[-1]
    here, before = past[1].at.ratio, past[0].at.ratio
    assert lms(past, CLEAN).eps == pytest.approx(0.4 + (0.4 - 0.1) / (here - before) * (-here / 2))


def test_of_estimates_at_one_place_the_newest_counts() -> None:
    at = Cosine().level
    places = [at(0.5).lam, at(0.5).lam, at(0.7).lam]
    picks, nodes = apart(places, places[0], 0.5)
    assert picks == (0, 2)
    assert nodes[0] == 0.0 > nodes[1]


@settings(deadline=None)
@given(
    t=st.floats(0.2, 0.98),
    gap=st.one_of(st.sampled_from([0.0, 1e-17, 1.2e-16, 1e-15, 1e-12, 1e-9, 1e-7]), st.floats(1e-6, 0.02)),
    ahead=st.floats(1e-4, 0.19),
)
@pytest.mark.parametrize("rule", [lms, deis, exponential_x0, dpmpp_2m, extended(recommended)])
def test_levels_that_rounding_holds_apart_do_not_spoil_the_mean(
    rule, t: float, gap: float, ahead: float
) -> None:
    """Of one value everywhere the mean is that value: weights beyond 1e6 would lose it to rounding."""
    past = [Estimate(Level(u, 1 - u, u), 0.7, 0.7) for u in (t + gap, t)]
    got = rule(past, Level(t - ahead, 1 - t + ahead, t - ahead))
    assert (got.x0, got.eps) == pytest.approx((0.7, 0.7), abs=1e-8)


def test_mix_and_scaled_rms_say_the_same_of_numbers_and_tensors() -> None:
    import torch

    rows = [[1.0, -2.0, 0.5], [0.3, 0.2, 4.0], [5.0, 1.0, 1.0]]
    tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    kept = [t.clone() for t in tensors]
    by = [0.5, -2.0, 0.0]
    assert mix(by, tensors).tolist() == pytest.approx(
        [mix(by, list(column)) for column in zip(*rows, strict=True)]
    )
    assert all(bool((a == b).all()) for a, b in zip(kept, tensors, strict=True))
    assert mix([0.0], [3.0]) == 0.0
    each = [scaled_rms(*column, 0.1, 0.5) for column in zip(*rows, strict=True)]
    assert scaled_rms(*tensors, 0.1, 0.5) == pytest.approx(math.sqrt(sum(v * v for v in each) / 3))
    assert scaled_rms(0.02, 0.0, 0.0, 0.1, 0.5) == pytest.approx(0.2)
