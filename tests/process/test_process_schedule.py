from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.process.schedule import Cosine, Exploding, Flow, Table, from_betas, linear, scaled_linear

ZERO_SNR = from_betas([0.1, 0.3, 0.5, 1.0])
ALL = [linear(), scaled_linear(), ZERO_SNR, Cosine(), Flow(), Flow(3.0), Flow(0.1), Exploding()]
name = lambda s: f"{type(s).__name__}{getattr(s, 'shift', '')}"  # noqa: E731


@pytest.mark.parametrize(
    ("table", "betas"),
    [
        (linear(), np.linspace(1e-4, 0.02, 1000)),
        (scaled_linear(), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    ],
    ids=["linear", "scaled_linear"],
)
def test_tables_are_the_published_ones(table: Table, betas: np.ndarray) -> None:
    signal = np.array([table.level(t).alpha ** 2 for t in range(1000)])
    np.testing.assert_allclose(signal, np.cumprod(1 - betas), rtol=1e-12)
    np.testing.assert_allclose([table.level(t).sigma ** 2 for t in range(1000)], 1 - signal, rtol=1e-11)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_noise_grows_from_the_least_time_to_the_greatest(schedule) -> None:
    span = schedule.t_max - schedule.t_min
    levels = [schedule.level(schedule.t_min + span * i / 200) for i in range(201)]
    lams = [level.lam for level in levels]
    assert lams == sorted(lams, reverse=True)
    assert len(set(lams)) == 201


@given(st.sampled_from(ALL), st.floats(0, 1))
def test_at_finds_the_level_of_a_log_ratio(schedule, part: float) -> None:
    level = schedule.level(schedule.t_min + part * (schedule.t_max - schedule.t_min))
    found = schedule.at(level.lam)
    assert found == pytest.approx(level, rel=1e-9, abs=1e-9)
    if math.isfinite(level.lam):
        assert found.lam == pytest.approx(level.lam, abs=1e-6 if level.alpha < 1e-6 else 1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=name)
@pytest.mark.parametrize("lam", [-math.inf, -1e4, 1e4, math.inf])
def test_at_is_limited_to_the_range(schedule, lam: float) -> None:
    assert schedule.at(lam) == schedule.level(schedule.t_max if lam < 0 else schedule.t_min)


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Flow(3.0), Flow(0.1), ZERO_SNR], ids=name)
def test_pure_noise_is_exact(schedule) -> None:
    assert schedule.level(schedule.t_max)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("schedule", [linear(), ZERO_SNR, Cosine()], ids=name)
def test_variance_is_preserved(schedule) -> None:
    for i in range(100):
        _, alpha, sigma = schedule.level(schedule.t_max * i / 99)
        assert alpha * alpha + sigma * sigma == pytest.approx(1, abs=1e-14)


def test_a_table_passes_through_its_own_levels() -> None:
    table = linear(50)
    for i in range(1, 49):
        exact = table.level(i)
        for side in (-1e-9, 1e-9):
            assert table.level(i + side) == pytest.approx(exact, abs=1e-8)


def test_a_shift_multiplies_the_noise_to_signal_ratio() -> None:
    for t in (0.1, 0.5, 0.9):
        assert Flow(3.0).level(t).ratio == pytest.approx(3 * Flow().level(t).ratio)


def test_the_time_of_a_shifted_flow_is_what_its_network_is_told() -> None:
    level = Flow(3.0).level(0.5)
    assert level.t == level.sigma == 0.75
    assert Flow().level(0.3).t == 0.3


@pytest.mark.parametrize(
    "build",
    [
        lambda: Flow(0),
        lambda: Flow(-1),
        lambda: Flow(math.nan),
        lambda: Flow(t_max=1.5),
        lambda: Cosine(t_min=0.5, t_max=0.5),
        lambda: Exploding(0.0, 80),
        lambda: Exploding(1, math.inf),
        lambda: Table((0.5,)),
        lambda: Table((0.5, 0.6)),
        lambda: Table((1.0, 0.5)),
        lambda: Table((0.5, -0.1)),
        lambda: from_betas([0.1, 1.5]),
        lambda: from_betas([0.0, 0.1]),
        lambda: linear().level(-1),
        lambda: linear().level(999.5),
        lambda: Flow().level(1.01),
        lambda: Cosine().level(math.nan),
        lambda: Exploding().level(math.inf),
    ],
)
def test_what_makes_no_schedule_or_level_is_refused(build) -> None:
    with pytest.raises(InvalidRequest):
        build()
