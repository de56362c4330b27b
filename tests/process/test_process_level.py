from __future__ import annotations

import math

import pytest
import torch

from sfumato.process.level import CLEAN, Level, posterior_std
from sfumato.process.schedule import Cosine, Exploding, Flow, linear


def test_the_ends_are_infinite_and_no_error() -> None:
    assert CLEAN.lam == math.inf
    assert Level(1.0, 0.0, 1.0).lam == -math.inf
    assert Level(1.0, 0.0, 1.0).ratio == math.inf


@pytest.mark.parametrize(
    "schedule", [linear(), Cosine(), Flow(), Exploding()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize(("high", "low"), [(1.0, 0.6), (0.9, 0.5), (0.3, 0.2999)])
def test_posterior_std_is_that_of_the_conditional_gaussian(schedule, high: float, low: float) -> None:
    """Condition the joint law of (x_to, x_at) given x0 by linear algebra."""
    at, to = (schedule.level(part * schedule.t_max) for part in (high, low))
    # x_at = (alpha_at / alpha_to) x_to + new noise, so that its variance is sigma_at^2.
    link = at.alpha / to.alpha
    joint = torch.tensor(
        [[to.sigma**2, link * to.sigma**2], [link * to.sigma**2, at.sigma**2]], dtype=torch.float64
    )
    precision = torch.linalg.inv(joint)[0, 0]
    assert posterior_std(at, to) == pytest.approx(float(precision) ** -0.5, rel=1e-8)


def test_no_fresh_noise_at_the_clean_end_or_upwards() -> None:
    flow = Flow()
    assert posterior_std(flow.level(0.5), CLEAN) == 0
    assert posterior_std(flow.level(0.5), flow.level(0.8)) == 0
    assert posterior_std(flow.level(0.5), flow.level(1.0)) == 0
    assert posterior_std(CLEAN, flow.level(0.5)) == 0


def test_from_pure_noise_everything_is_fresh() -> None:
    flow = Flow()
    assert posterior_std(flow.level(1.0), flow.level(0.7)) == flow.level(0.7).sigma
