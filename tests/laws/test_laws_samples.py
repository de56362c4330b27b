"""L5: what samplers draw follows the law of the data."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.noise import Stream
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level, posterior_std
from sfumato.process.schedule import Flow, scaled_linear
from sfumato.samplers import SAMPLERS, sampler
from sfumato.samplers.multistep import Churn, ancestral, multistep
from sfumato.samplers.rules import ddim

COUNT, STEPS = 3000, 100
MEANS, VARIANCES, WEIGHTS = (-1.2, 0.4, 1.5), (0.04, 0.25, 0.01), (0.3, 0.5, 0.2)
CRITICAL = 1.949 / math.sqrt(COUNT)
"""The Kolmogorov-Smirnov distance that a true sample exceeds once in a thousand."""


def draw(walk: Callable, schedule, seed: int) -> Tensor:
    """COUNT samples from the exact law at much noise, by a grid even in log(alpha / sigma), to nearly none."""
    model = mixture(
        torch.tensor(MEANS)[:, None],
        torch.tensor(VARIANCES)[:, None, None],
        torch.tensor(WEIGHTS),
        schedule=schedule,
    )
    cond = model.conditioner([""]).expand(COUNT)
    high, low = math.log(0.08), math.log(30.0)
    grid = [schedule.at(high + (low - high) * i / STEPS) for i in range(STEPS + 1)]
    grid.append(Level(0.0, 1.0, 0.0))

    async def denoise(x: Tensor, at: Level) -> Estimate:
        rows = Level(*(torch.full((COUNT,), v, dtype=torch.float64) for v in at))  # type: ignore[arg-type]
        found = model.denoiser(x, rows, cond)
        return Estimate(at, found.x0, found.eps)

    start = model.denoiser.network.sample_exact(COUNT, grid[0], seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    end: Tensor = run(
        walk(
            start,
            grid,
            denoise,
            lambda at, to: torch.randn(start.shape, dtype=torch.float64, generator=generator),
        )
    )
    return end[:, 0]


def distance(samples: Tensor) -> float:
    """The Kolmogorov-Smirnov distance of samples to the mixture."""
    ordered = samples.sort().values
    truth = sum(
        w * 0.5 * (1 + torch.erf((ordered - m) / math.sqrt(2 * v)))
        for m, v, w in zip(MEANS, VARIANCES, WEIGHTS, strict=True)
    )
    steps = torch.arange(COUNT + 1, dtype=torch.float64) / COUNT
    return float(torch.maximum((truth - steps[:-1]).abs(), (truth - steps[1:]).abs()).max())


@pytest.mark.parametrize("schedule", [scaled_linear(), Flow()], ids=["table", "flow"])
@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m"])
def test_samples_follow_the_mixture(name: str, schedule) -> None:
    samples = draw(SAMPLERS[name].walk, schedule, seed=5)
    assert distance(samples) < CRITICAL
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    second = sum(w * (v + m * m) for w, v, m in zip(WEIGHTS, VARIANCES, MEANS, strict=True))
    deviation = math.sqrt(second - mean**2)
    assert abs(float(samples.mean()) - mean) < 3.3 * deviation / math.sqrt(COUNT)
    squares = (samples - mean) ** 2
    assert abs(float(squares.mean()) - deviation**2) < 3.3 * float(squares.std()) / math.sqrt(COUNT)
    for m, v, w in zip(MEANS, VARIANCES, WEIGHTS, strict=True):
        near = float(((samples - m).abs() < 2 * math.sqrt(v)).double().mean())
        assert near > 0.9 * 0.954 * w


MANY = 100_000
TRIED = [s for s, e in SAMPLERS.items() if e.stochastic and e.order > 0 and s != "euler_ancestral"]
WRITTEN = {"edm": "edm(s_noise=1, churn=4)"}
"""All but euler_ancestral, which is ddpm. EDM with noise of unit variance, and churn that falls with the step."""
LEFT, RIGHT = (-1.0, 0.04, 0.7), (1.0, 0.25, 0.3)
"""Mean, variance and weight of two Gaussians far apart."""


def moments(text: str, steps: int) -> list[tuple[float, float, float]]:
    """Of MANY samples the mean, the variance and the share above 0: found, true, and the standard error.

    From the exact law at much noise to nearly none.
    """
    first, last = math.log(0.1), math.log(25.0)
    grid = [Flow().at(first + (last - first) * i / steps) for i in range(steps + 1)]
    generator = torch.Generator().manual_seed(11 + steps)

    def unit(at: Level | None = None, to: Level | None = None, visit: int = 0) -> Tensor:
        return torch.randn(MANY, dtype=torch.float64, generator=generator)

    async def denoise(x: Tensor, at: Level) -> Estimate:
        """The posterior mean: that of each component is a line in x, and the log odds a parabola."""
        lines, parabola = [], torch.zeros(3, dtype=torch.float64)
        for sign, (m, v, weight) in zip((-1, 1), (LEFT, RIGHT), strict=True):
            spread = v * at.alpha**2 + at.sigma**2
            gain, centre = at.alpha * v / spread, at.alpha * m
            lines.append((m - gain * centre, gain))
            terms = (-(centre**2) / 2, centre, -0.5)
            parabola += sign * torch.tensor([t / spread for t in terms], dtype=torch.float64)
            parabola[0] += sign * (math.log(weight) - 0.5 * math.log(spread))
        c, b, a = parabola.tolist()
        share = (x * (a * x + b) + c).sigmoid()
        (p, q), (r, s) = lines
        x0 = p + q * x + share * ((r - p) + (s - q) * x)
        return Estimate(at, x0, (x - at.alpha * x0) / at.sigma)

    right = torch.rand(MANY, generator=generator) < RIGHT[2]
    x0 = torch.where(right, RIGHT[0] + math.sqrt(RIGHT[1]) * unit(), LEFT[0] + math.sqrt(LEFT[1]) * unit())
    start = grid[0].alpha * x0 + grid[0].sigma * unit()
    found = run(sampler(text).walk(start, grid, denoise, unit)) / grid[-1].alpha
    extra = grid[-1].ratio ** 2
    mean = sum(w * m for m, _, w in (LEFT, RIGHT))
    variance = sum(w * (v + m * m) for m, v, w in (LEFT, RIGHT)) - mean**2 + extra
    above = sum(w * 0.5 * (1 + math.erf(m / math.sqrt(2 * (v + extra)))) for m, v, w in (LEFT, RIGHT))
    squares, over = (found - mean) ** 2, (found > 0).double()
    pairs = ((found, mean), (squares, variance), (over, above))
    return [(float(f.mean()), true, float(f.std()) / math.sqrt(MANY)) for f, true in pairs]


@pytest.mark.parametrize("name", TRIED)
def test_moments_of_a_hundred_thousand(name: str) -> None:
    """Within three standard errors, the error of the law of the sampler's order taken off by doubling the steps."""
    text, order = WRITTEN.get(name, name), SAMPLERS[name].order
    steps, power = (20 if order == 2 else 60), 2**order
    for coarse, fine in zip(moments(text, steps), moments(text, 2 * steps), strict=True):
        found = (power * fine[0] - coarse[0]) / (power - 1)
        assert abs(found - fine[1]) < 3 * math.hypot(power * fine[2], coarse[2]) / (power - 1)


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.3])
def test_the_test_tells_wrong_noise_from_right(factor: float) -> None:
    """Noise for which x has not made the room, too little or too much of it, is found out."""

    class Wrong(Estimate):
        def move(self, to: Level, std: float = 0.0, fresh: Tensor | float = 0.0) -> Tensor:
            kept = math.sqrt(max(0.0, to.sigma**2 - std**2))
            return to.alpha * self.x0 + kept * self.eps + factor * std * fresh

    def faulty(past, to: Level) -> Estimate:
        now = ddim(past, to)
        return Wrong(now.at, now.x0, now.eps)

    async def walk(x, grid, denoise, fresh):
        return await multistep(x, grid, denoise, fresh, rules=(faulty,), churn=ancestral)

    assert distance(draw(walk, scaled_linear(), seed=5)) > CRITICAL


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_law_does_not_depend_on_how_much_noise_is_exchanged(share: float) -> None:
    churn: Churn = lambda at, to: share * posterior_std(at, to)  # noqa: E731

    async def walk(x, grid, denoise, fresh):
        return await multistep(x, grid, denoise, fresh, rules=(ddim,), churn=churn)

    assert distance(draw(walk, scaled_linear(), seed=8)) < CRITICAL


def test_noise_of_a_stream_is_standard_normal_and_fresh() -> None:
    """Start and steps: unit variance, zero mean, and no correlation from a draw to the next or a row to another."""
    level = Flow().level(0.5)
    stream = Stream(range(500), (4,))
    draws = torch.stack([stream.start(), *(stream(level, level) for _ in range(3))]).double().flatten(2)
    bound = 4 / math.sqrt(draws.numel() / 4)
    assert abs(float(draws.mean())) < bound
    assert abs(float(draws.var()) - 1) < bound * math.sqrt(2)
    for i in range(4):
        for j in range(i):
            assert abs(float((draws[i] * draws[j]).mean())) < bound
    assert abs(float((draws[:, 1:] * draws[:, :-1]).mean())) < bound
