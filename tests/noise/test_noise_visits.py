"""Samplers count their visits: no two draws of one visit overlap, or a path's noise would be used twice."""

from __future__ import annotations

from itertools import combinations

import pytest

from sfumato.engine.run import run
from sfumato.noise.brownian import clock
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Exploding, Flow, scaled_linear
from sfumato.samplers import SAMPLERS

SCHEDULES = {"flow": Flow(), "table": scaled_linear(), "edm": Exploding()}
FLOWS = ("euler_ancestral_rf",)
"""Samplers that refuse levels of other schedules."""


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        pytest.param(name, schedule, id=f"{name}-{kind}")
        for name, entry in SAMPLERS.items()
        for kind, schedule in SCHEDULES.items()
        if entry.stochastic and (kind == "flow" or name not in FLOWS)
    ],
)
def test_draws_of_one_visit_do_not_overlap(name: str, schedule) -> None:
    spans: dict[int, list[tuple[float, float]]] = {}

    def fresh(at: Level, to: Level, visit: int = 0) -> float:
        a, b = sorted((clock(at), clock(to)))
        spans.setdefault(visit, []).append((a, b))
        return 0.3

    async def denoise(x: float, at: Level) -> Estimate:
        return Estimate(at, 0.1 * x, (x - 0.1 * at.alpha * x) / at.sigma)

    grid = make_grid("linspace", steps=8, schedule=schedule)
    run(SAMPLERS[name].walk(grid[0].sigma, grid, denoise, fresh))
    for visit, drawn in spans.items():
        for (a, b), (c, d) in combinations(drawn, 2):
            assert max(a, c) >= min(b, d), (visit, (a, b), (c, d))
            assert (a, b) != (c, d)
