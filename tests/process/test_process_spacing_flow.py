"""The even times of rectified flows, bent as released code bends them, beside what its pipelines ask of diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as some

from sfumato.errors import InvalidRequest
from sfumato.process.grid import make_grid
from sfumato.process.schedule import Flow, shift_for
from sfumato.process.schedules import schedule
from sfumato.process.spacing_flow import tokens_shift
from tests.peers.diffusers_functions import function

empirical_mu = function("pipelines/flux2/pipeline_flux2.py", "compute_empirical_mu")
rooted_mu = function("pipelines/cogview4/pipeline_cogview4.py", "calculate_shift")


def asked(told: dict[str, object], steps: int, mu: float, sigmas: np.ndarray | None = None) -> np.ndarray:
    """The sigmas that the scheduler walks from even times."""
    peer = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **told)
    peer.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps) if sigmas is None else sigmas, mu=mu)
    return peer.sigmas.double().numpy()


def walked(text: str, steps: int, flow: Flow) -> np.ndarray:
    """The sigmas of ours."""
    return np.array([at.sigma for at in make_grid(text, steps=steps, schedule=flow)])


@given(steps=some.integers(1, 250), tokens=some.integers(1, 9000))
def test_scarce_steps_are_flux2s(steps: int, tokens: int) -> None:
    """At 4300 tokens, from where the steps count no more, on both sides."""
    expected = asked({}, steps, empirical_mu(tokens, steps))
    found = walked("even(scarce=true)", steps, Flow(tokens_shift(tokens)))
    assert np.allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("tokens", [4299, 4300, 4301])
def test_scarce_steps_at_the_border(tokens: int) -> None:
    found = walked("even(scarce=true)", 4, Flow(tokens_shift(tokens)))
    assert np.allclose(found, asked({}, 4, empirical_mu(tokens, 4)), rtol=0, atol=2e-6)


@given(steps=some.integers(2, 250), tokens=some.integers(16, 9000), terminal=some.floats(0.01, 0.5))
def test_a_terminal_time_is_diffusers(steps: int, tokens: int, terminal: float) -> None:
    """Qwen-Image: 0.02."""
    shift = shift_for(tokens, 256, 0.5, 8192, 0.9)
    expected = asked({"shift_terminal": terminal}, steps, math.log(shift))
    found = walked(f"even(terminal={terminal})", steps, Flow(shift))
    assert np.allclose(found, expected, rtol=0, atol=2e-6)
    assert found[-2] == pytest.approx(terminal)


@given(steps=some.integers(2, 1000), tokens=some.integers(16, 9000))
def test_whole_thousandths_are_cogview4s(steps: int, tokens: int) -> None:
    whole = np.linspace(1000, 1, steps).astype(np.int64).astype(np.float32) / 1000
    mu = rooted_mu(tokens, 256, 0.25, 0.75)
    expected = asked({"time_shift_type": "linear"}, steps, mu, whole)
    assert np.allclose(walked("even(whole=1000)", steps, Flow(mu)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("text", "steps", "why"),
    [
        ("even(terminal=1)", 4, "terminal = 1"),
        ("even(terminal=0.1)", 1, "two steps or more"),
        ("even(whole=3)", 4, "whole = 3"),
        ("even(whole=-1)", 4, "whole = -1"),
    ],
)
def test_what_cannot_be_bent_is_told(text: str, steps: int, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        make_grid(text, steps=steps, schedule=Flow())


def test_it_is_for_flows() -> None:
    with pytest.raises(InvalidRequest, match="for rectified-flow models"):
        make_grid("even", steps=4, schedule=schedule("cosine"))
    with pytest.raises(InvalidRequest, match="tokens = 0"):
        tokens_shift(0)


@pytest.mark.parametrize(("start", "made"), [(0.5, "flow"), (2, "flow"), (1, "cosine"), (1, "linear")])
def test_a_line_starts_at_t_max_or_above(start: float, made: str) -> None:
    with pytest.raises(InvalidRequest, match=f"start = {start:g} is outside"):
        make_grid(f"sgm_uniform(start={start})", steps=4, schedule=schedule(made))
