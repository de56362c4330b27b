"""The Beta distribution against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from sfumato.process.incomplete_beta import beta_cdf, beta_quantile

SHAPES = st.floats(0.01, 100)


@given(st.floats(0, 1), SHAPES, SHAPES)
def test_the_function_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-11, abs=1e-13)


@given(st.floats(0, 1), SHAPES, SHAPES)
def test_the_quantile_is_the_functions_inverse(p: float, a: float, b: float) -> None:
    """In p, as far as neighbouring floats of x tell probabilities apart."""
    x = beta_quantile(p, a, b)
    assert 0 <= x <= 1
    below, above = (
        special.betainc(a, b, np.clip(x + d * (4e-16 + 1e-12 * min(x, 1 - x)), 0, 1)) for d in (-1, 1)
    )
    assert below - 1e-12 <= p <= above + 1e-12


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 0.8), (1, 1), (2, 5), (30, 0.7)])
def test_quantiles_are_scipys_to_the_last_digits(a: float, b: float) -> None:
    for p in np.linspace(0.001, 0.999, 97):
        found = beta_quantile(float(p), a, b)
        assert found == pytest.approx(special.betaincinv(a, b, p), rel=1e-12)
        assert 1 - found == pytest.approx(beta_quantile(float(1 - p), b, a), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("shape", [0.01, 0.6, 1.0, 7.3, 28.881038571204478, 100.0])
def test_the_middle_of_a_symmetric_distribution_is_one_half(shape: float) -> None:
    assert beta_quantile(0.5, shape, shape) == pytest.approx(0.5, rel=1e-12)


def test_the_ends() -> None:
    for a, b in ((0.6, 0.6), (50, 2)):
        assert [beta_cdf(x, a, b) for x in (-1.0, 0.0, 1.0, 2.0)] == [0, 0, 1, 1]
        assert [beta_quantile(p, a, b) for p in (0.0, 1.0)] == [0, 1]
