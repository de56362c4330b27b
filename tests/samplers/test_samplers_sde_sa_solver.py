"""SA-Solver against diffusers' scheduler: whole trajectories, and its coefficients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.process.level import Level
from sfumato.samplers.polynomial import exponential, weights
from tests.samplers.peers_sde import agree, noise
from tests.samplers.test_samplers_sde_diffusers import SD, feed, logs, ours, theirs

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("tau", [0.0, 1.0, 0.6])
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 3), (3, 4), (2, 1)])
def test_sa_solver(predictor: int, corrector: int, tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a term that theirs adds to methods of order 2, "a modification" that is not in the paper.

    It makes them like DPM-Solver++(2M); it is taken off again here, where theirs computes its coefficients.
    """
    steps = 12
    scheduler = diffusers.SASolverScheduler(
        **SD,
        predictor_order=predictor,
        corrector_order=corrector,
        tau_func=lambda t: torch.tensor(tau, dtype=torch.float64),
        timestep_spacing="trailing",
        lower_order_final=False,
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    monkeypatch.setattr(scheduler, "get_coefficients_fn", without_modification(scheduler))
    grid = [Level(s, 1 / math.hypot(1, s), s / math.hypot(1, s)) for s in scheduler.sigmas.tolist()]
    # Their last two sigmas are equal, so that the last step stands still; it is left out on both sides.
    scheduler.timesteps = scheduler.timesteps[:-1]
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    found = ours(
        f"sa_solver(predictor={predictor}, corrector={corrector}, tau={tau})", start, grid[:-1], draws
    )
    agree("sa_solver", "diffusers SASolverScheduler", found, theirs(scheduler, start, logs(grid)))


def without_modification(scheduler: Any) -> Any:
    plain = scheduler.get_coefficients_fn

    def coefficients(
        order: int, start: Tensor, end: Tensor, nodes: list[Tensor], tau: Tensor
    ) -> list[Tensor]:
        found = plain(order, start, end, nodes, tau)
        if order == 2:
            rate, h = 1 + tau**2, end - start
            gap = nodes[0] - nodes[1]
            extra = torch.exp(rate * end) * (h**2 / 2 - (h * rate - 1 + torch.exp(-rate * h)) / rate**2) / gap
            found = [found[0] - extra, found[1] + extra]
        return found

    return coefficients


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sa_solvers_coefficients(order: int) -> None:
    """Theirs by expanded polynomials, ours by moments: the same to the rounding that theirs loses."""
    scheduler = diffusers.SASolverScheduler()
    start, end, tau = (torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.9, 0.8))
    nodes = [0.3, -0.1, -0.7, -1.0][:order]
    known = scheduler.get_coefficients_fn(
        order, start, end, [torch.tensor(n, dtype=torch.float64) for n in nodes], tau
    )
    rate = 1 + 0.8**2
    found = weights([(n - 0.3) / 0.6 for n in nodes], exponential(rate * 0.6, order))
    whole = (math.exp(rate * 0.9) - math.exp(rate * 0.3)) / rate
    assert [whole * w for w in found] == pytest.approx([float(k) for k in known], rel=1e-10)
