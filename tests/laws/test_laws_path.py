"""L1: where the denoiser always answers the same x0 and noise, x stays on their line and ends on x0."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, from_betas, linear, scaled_linear
from sfumato.samplers import SAMPLERS

GRIDS = {
    "ddpm table, linspace": ("linspace", linear()),
    "stable diffusion, leading": ("leading", scaled_linear()),
    "stable diffusion, trailing": ("trailing", scaled_linear()),
    "stable diffusion, karras": ("karras", scaled_linear()),
    "zero terminal ratio": ("linspace", from_betas([0.05] * 59 + [1.0])),
    "cosine from pure noise": ("linspace", Cosine()),
    "flow from pure noise": ("linspace", Flow()),
    "flow shifted": ("shifted", Flow()),
    "edm": ("karras", Exploding()),
    "edm, evenly": ("linspace", Exploding()),
}
DETERMINISTIC = [s for s in SAMPLERS if not SAMPLERS[s].stochastic]
C, E = complex(0.7, -1.3), complex(-0.4, 2.1)


def on_the_line(at: Level) -> complex:
    return at.alpha * C + at.sigma * E


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 59])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_x_stays_on_the_line_and_ends_on_x0(sampler: str, name: str, steps: int, final) -> None:
    spacing, schedule = GRIDS[name]
    grid = make_grid(spacing, steps=steps, schedule=schedule, final=final)

    async def denoise(x: complex, at: Level) -> Estimate:
        assert abs(x - on_the_line(at)) < 1e-12 * (1 + at.sigma)
        return Estimate(at, C, E)

    x = run(
        SAMPLERS[sampler].walk(
            on_the_line(grid[0]), grid, denoise, lambda at, to, visit=0: pytest.fail("drew")
        )
    )
    assert abs(x - on_the_line(grid[-1])) < 1e-12
    if final == "zero":
        assert abs(x - C) < 1e-12


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [1, 2, 10, 59])
@pytest.mark.parametrize("name", GRIDS)
def test_fresh_noise_keeps_the_law_of_the_line(name: str, steps: int, final) -> None:
    """x as a vector of coefficients, of x0 and of each unit draw: alpha of the one, sigma in length of the others."""
    spacing, schedule = GRIDS[name]
    grid = make_grid(spacing, steps=steps, schedule=schedule, final=final)
    units = torch.eye(steps + 2, dtype=torch.float64)
    draws = iter(units[2:])

    def check(x: torch.Tensor, at: Level) -> None:
        assert abs(float(x[0]) - at.alpha) < 1e-12
        assert abs(float(x[1:].norm()) - at.sigma) < 1e-12 * (1 + at.sigma)

    async def denoise(x: torch.Tensor, at: Level) -> Estimate:
        check(x, at)
        return Estimate(at, units[0], (x - at.alpha * units[0]) / at.sigma)

    start = grid[0].alpha * units[0] + grid[0].sigma * units[1]
    end = run(SAMPLERS["ddpm"].walk(start, grid, denoise, lambda at, to, visit=0: next(draws)))
    check(end, grid[-1])
    assert len(list(draws)) == (1 if final == "zero" else 0)


@dataclass(frozen=True)
class Symbol:
    """A formal sum of symbols with exact coefficients."""

    terms: dict[str, Fraction]

    def __add__(self, other: Symbol) -> Symbol:
        names = self.terms.keys() | other.terms.keys()
        return Symbol({n: self.terms.get(n, Fraction(0)) + other.terms.get(n, Fraction(0)) for n in names})

    def __sub__(self, other: Symbol) -> Symbol:
        return self + -1 * other

    def __rmul__(self, factor: float) -> Symbol:
        return Symbol({n: Fraction(factor) * value for n, value in self.terms.items()})


@pytest.mark.parametrize("sampler", [s for s in DETERMINISTIC if not SAMPLERS[s].by_row])
def test_the_line_as_algebra(sampler: str) -> None:
    """With rational levels of a flow the coefficients come out exact where no logarithm is taken."""
    grid = [Level(i / 8, 1 - i / 8, i / 8) for i in range(8, 0, -1)] + [CLEAN]
    c, e = Symbol({"c": Fraction(1)}), Symbol({"e": Fraction(1)})

    async def denoise(x: Symbol, at: Level) -> Estimate:
        return Estimate(at, c, e)

    x = run(SAMPLERS[sampler].walk(e, grid, denoise, lambda at, to, visit=0: pytest.fail("drew")))
    assert float(x.terms["c"]) == 1
    assert float(x.terms.get("e", 0)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_float_complex_and_tensor_walk_alike(sampler: str) -> None:
    """The same numbers whatever they are made of: a tensor of values walks as each value does."""
    grid = make_grid("linspace", steps=7, schedule=Flow())

    async def denoise(x, at: Level) -> Estimate:
        return Estimate(at, 0.3 * at.sigma * x, 0.8 * x)

    walk = SAMPLERS[sampler].walk
    reals = [run(walk(v, grid, denoise, lambda at, to, visit=0: 0.5)) for v in (1.5, -0.25)]
    complexes = [run(walk(complex(v), grid, denoise, lambda at, to, visit=0: 0.5)) for v in (1.5, -0.25)]
    tensors = [torch.tensor([1.5, -0.25], dtype=torch.float64)]
    if SAMPLERS[sampler].by_row:  # it chooses its steps for all values of a row together
        tensors = list(tensors[0].split(1))
    walked = [run(walk(x, grid, denoise, lambda at, to, visit=0: 0.5)) for x in tensors]
    assert complexes == reals
    assert torch.cat(walked).tolist() == pytest.approx(
        reals, rel=1e-14
    )  # a tensor's a x + b y is rounded once less
