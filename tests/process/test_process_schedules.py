"""The table of schedules: against diffusers' and k-diffusion's, closed forms, and what is refused."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.schedules import (
    SCHEDULES,
    VP,
    Exploding,
    Flow,
    Laplace,
    Table,
    schedule,
    shift_between,
    shift_for,
    zero_snr,
)
from sfumato.process.spec import options_of, write
from tests.peers.diffusers_functions import calculate_shift
from tests.peers.kdiffusion import sampling

diffusers = pytest.importorskip("diffusers")

TEXTS = [
    *SCHEDULES,
    "linear(steps=60)",
    "linear(zero_snr=true)",
    "scaled_linear(zero_snr=true)",
    "squared_cosine(zero_snr=true)",
    "sigmoid(steps=50, zero_snr=true)",
    "flow(shift=3)",
    "flow(tokens=4096)",
    "vp(beta_min=5, beta_max=1)",
    "laplace(mu=1, b=0.2)",
    "exploding(t_max=700)",
]
MADE = {text: schedule(text) for text in TEXTS}
PUBLISHED = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squared_cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_diffusers(name: str, zero: bool) -> None:
    """To what their float32 leaves: theirs go from alphas to betas and back by running products."""
    peer = diffusers.DDPMScheduler(**PUBLISHED[name], rescale_betas_zero_snr=zero)
    found = np.array(schedule(write(name, {"zero_snr": zero})).signal)  # type: ignore[attr-defined]
    published = peer.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(np.sqrt(found), np.sqrt(published), rtol=1e-4, atol=2e-6)
    assert bool(found[-1] == 0) is zero


def test_zero_snr_is_algorithm_1_and_leaves_such_a_table_alone() -> None:
    """A map of alpha that is affine, keeps the first and sends the last to 0 is determined by that."""
    table = schedule("scaled_linear")
    assert isinstance(table, Table)
    before, after = (np.sqrt(t.signal) for t in (table, zero_snr(table)))
    assert after[0] == pytest.approx(before[0], rel=1e-15)
    assert after[-1] == 0
    slopes = np.diff(after) / np.diff(before)
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-9)
    assert zero_snr(zero_snr(table)).signal == pytest.approx(zero_snr(table).signal, rel=1e-12)


def test_vp_is_k_diffusions() -> None:
    published = sampling.get_sigmas_vp(50).double()[:-1]
    times = torch.linspace(1, 1e-3, 50, dtype=torch.float64)
    found = [VP().level(float(t)).ratio for t in times]
    np.testing.assert_allclose(found, published, rtol=3e-4)  # theirs is 1 - e^-B in float32 near B = 0


def test_vp_solves_its_differential_equation() -> None:
    """d log(alpha) / dt = -beta(t) / 2 (Song et al. 2021b, equation 32)."""
    for t in (0.1, 0.5, 0.9):
        slope = (math.log(VP().level(t + 1e-6).alpha) - math.log(VP().level(t - 1e-6).alpha)) / 2e-6
        assert slope == pytest.approx(-(0.1 + 19.9 * t) / 2, rel=1e-6)


def test_laplace_times_drawn_evenly_have_that_distribution() -> None:
    from scipy import stats

    times = (np.arange(4000) + 0.5) / 4000
    snr = [2 * Laplace(0.3, 0.7).level(float(t)).lam for t in times]
    np.testing.assert_allclose(stats.laplace(0.3, 0.7).cdf(snr), 1 - times, atol=1e-12)


def test_diffusers_laplace_takes_alpha_for_alpha_squared() -> None:
    """Its table is alpha of ours where alpha^2 should be; squared, it agrees up to its 1e-6 inside the logarithm."""
    peer = diffusers.DDPMScheduler(beta_schedule="laplace")
    published = peer.alphas_cumprod.double().numpy() * math.sqrt(
        1e3 / (1 + 1e3)
    )  # what it divides by at t = 0
    for i in (9, 99, 399, 499, 699, 899):
        alpha = Laplace().level((i + 1) / 1000).alpha
        assert published[i] == pytest.approx(alpha, rel=2e-3)
        assert abs(published[i] - alpha**2) > 0.02


@pytest.mark.parametrize("tokens", [1, 256, 1024, 4096, 16384])
def test_the_shift_of_a_size_is_diffusers(tokens: int) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = calculate_shift(tokens)
    assert math.log(shift_for(tokens)) == pytest.approx(mu)
    for t in (0.1, 0.5, 0.9):
        theirs = float(peer.time_shift(mu, 1.0, torch.tensor(t, dtype=torch.float64)))
        assert schedule(f"flow(tokens={tokens})").level(t).sigma == pytest.approx(theirs)
        assert Flow.for_tokens(tokens).level(t).sigma == pytest.approx(theirs)
    ltx = calculate_shift(tokens, 1024, 4096, 0.95, 2.05)
    assert math.log(shift_for(tokens, 1024, 0.95, 4096, 2.05)) == pytest.approx(ltx)


def test_the_shift_between_sizes_keeps_what_is_known_of_the_mean() -> None:
    """The deviation of the mean of n equal pixels seen at s is s / (1 - s) / sqrt(n): the same at both sizes."""
    t = 0.4
    known, large = Flow().level(t), Flow(shift_between(4096, 1024)).level(t)
    assert large.ratio / math.sqrt(4096) == pytest.approx(known.ratio / math.sqrt(1024))


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=40)
@given(part=st.floats(0, 1))
def test_time_and_log_ratio_are_inverse(text: str, part: float) -> None:
    made = MADE[text]
    level = made.level(made.t_min + part * (made.t_max - made.t_min))
    found = made.at(level.lam)
    # What a float near 1 leaves of its distance from 1 is all that can come back.
    least = min(level.alpha, level.sigma, 1.0)
    assert found == pytest.approx(level, rel=1e-9, abs=1e-9)
    if least > 0:
        assert found.lam == pytest.approx(level.lam, abs=1e-9 + 1e-15 / least)


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=40)
@given(one=st.floats(0, 1), other=st.floats(0, 1))
def test_noise_grows_with_time(text: str, one: float, other: float) -> None:
    made = MADE[text]
    low, high = (
        made.level(min(made.t_min + p * (made.t_max - made.t_min), made.t_max)) for p in sorted((one, other))
    )
    assert low.lam >= high.lam
    if abs(one - other) > 1e-3:
        assert low.lam > high.lam


@pytest.mark.parametrize("text", TEXTS)
def test_the_ends_are_the_schedules(text: str) -> None:
    made = MADE[text]
    assert made.level(made.t_min).sigma > 0
    for lam in (-math.inf, -1e9, -800.0):
        assert made.at(lam) == made.level(made.t_max)
    for lam in (math.inf, 1e9, 800.0):
        assert made.at(lam) == made.level(made.t_min)


def test_continuous_and_discrete_cosine_agree() -> None:
    discrete, continuous = schedule("squared_cosine(steps=4000, offset=0)"), schedule("cosine")
    for i in (399, 1999, 3599):
        assert discrete.level(i)[1:] == pytest.approx(continuous.level((i + 1) / 4000)[1:], rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_text_carries_every_option(name: str) -> None:
    """What is written with all options at their defaults makes the schedule that the name alone makes."""
    defaults = options_of(SCHEDULES[name])
    assert schedule(write(name, defaults)) == schedule(name)
    assert (inspect.getdoc(SCHEDULES[name]) or "").count("20") >= 1  # its source, with a year


def test_edm_is_exploding() -> None:
    assert schedule("edm") == schedule("exploding") == Exploding()
    assert schedule("edm(t_max=700)").level(700).sigma == 700


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linaer", "did you mean 'linear'"),
        ("flow(shft=3)", "'shift'"),
        ("flow(shift=0)", "shift = 0"),
        ("flow(shift=3, tokens=4096)", "both choose"),
        ("flow(tokens=-1)", "tokens = -1"),
        ("linear(steps=1)", "steps = 1"),
        ("linear(steps=1e3)", "whole number"),
        ("linear(first=0)", "beta = 0"),
        ("squared_cosine(max_beta=1)", "beta = 1"),
        ("squared_cosine(offset=-1)", "offset = -1"),
        ("linear(steps=90000)", "must be at least two numbers"),
        ("vp(beta_min=-1)", "beta_min = -1"),
        ("vp(t_min=0)", "t_min = 0"),
        ("laplace(b=0)", "b = 0"),
        ("cosine(t_max=2)", "t_max = 2"),
        ("exploding(t_min=5, t_max=3)", "t_min = 5"),
        ("scaled_linear(zero_snr=1)", "true or false"),
    ],
)
def test_what_is_no_schedule_is_told(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words.replace("(", r"\(")):
        schedule(text)


def test_what_a_shift_cannot_be_made_of_is_told() -> None:
    for build in (
        lambda: shift_for(0),
        lambda: shift_for(100, 256, 0.5, 256, 1.0),
        lambda: shift_between(0, 1),
        lambda: Laplace(mu=math.inf),
    ):
        with pytest.raises(InvalidRequest):
            build()
    with pytest.raises(UnknownName):
        schedule("none")
