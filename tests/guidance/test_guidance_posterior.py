"""Posterior guidance against exact posteriors of Gaussians, and against the papers' algorithms written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sfumato.ask import Ask
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import Mixture, denoise_of, mixture
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.operators import Observation
from sfumato.guidance.posterior import diffpir, dps, mmps, pigdm, posterior
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, from_betas, scaled_linear
from sfumato.samplers import SAMPLERS
from sfumato.samplers.multistep import multistep
from sfumato.samplers.rules import ddim

SIZE, SEEN, NOISE = 4, 2, 0.3
LEVELS = [
    Cosine().level(0.3),
    Cosine().level(0.999),
    scaled_linear().level(400),
    Flow().level(0.05),
    Flow().level(0.8),
    Exploding().level(0.02),
    Exploding().level(20.0),
]
OFF = torch.no_grad()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROOT = 0.6 * normal(SIZE, SIZE, seed=1) + 0.2 * torch.eye(SIZE, dtype=torch.float64)
MEAN, COV = normal(1, SIZE, seed=2), (ROOT @ ROOT.T)[None]
EYE = torch.eye(SEEN, dtype=torch.float64)
A = normal(SEEN, SIZE, seed=3)
Y = normal(SEEN, seed=4)
TWO = mixture(
    torch.cat((MEAN, -MEAN)),
    torch.cat((COV, 0.3 * COV)),
    torch.tensor([0.4, 0.6]),
    names=("left", "right"),
)


def gaussian(cov: Tensor = COV, **options):
    return mixture(MEAN, cov, torch.ones(1), **options)


def awaited(function: Callable[[Tensor, Level], Estimate]) -> Denoise:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        return function(x, at)

    return denoise


def observation(noise: float = NOISE) -> Observation:
    return Observation(lambda x0: x0 @ A.T, Y[None], noise)


def network(model) -> Mixture:
    assert isinstance(model.denoiser.network, Mixture)
    return model.denoiser.network


def answers(law: Mixture) -> Denoise:
    """The exact denoiser of a law."""

    async def denoise(x: Tensor, at: Level) -> Estimate:
        clock = torch.tensor(at[1:], dtype=torch.float64).expand(len(x), 2)
        return Estimate(at, *law.posterior(x, clock, torch.full((len(x),), len(law.means))))

    return denoise


@pytest.mark.parametrize("at", LEVELS, ids=str)
def test_mmps_is_the_exact_posterior_mean_of_a_gaussian(at: Level) -> None:
    model = gaussian()
    x = at.alpha * normal(5, SIZE, seed=6) + at.sigma * normal(5, SIZE, seed=7)
    found = run(mmps(awaited(denoise_of(model)), observation(), iterations=8)(x, at))
    exact = run(answers(network(model).conditioned(A, Y, NOISE))(x, at))
    torch.testing.assert_close(found.x0, exact.x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(at.sigma * found.eps, at.sigma * exact.eps, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("at", [*LEVELS, Level(1.0, 0.0, 1.0)], ids=str)
def test_pigdm_is_exact_on_data_of_unit_variance(at: Level) -> None:
    model = gaussian(torch.eye(SIZE, dtype=torch.float64)[None])
    x = at.alpha * normal(5, SIZE, seed=6) + at.sigma * normal(5, SIZE, seed=7)
    exact = run(answers(network(model).conditioned(A, Y, NOISE))(x, at))
    for method in (
        pigdm(awaited(denoise_of(model)), observation()),
        mmps(awaited(denoise_of(model)), observation()),
    ):
        torch.testing.assert_close(run(method(x, at)).x0, exact.x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_under_mmps_walks_as_with_the_exact_posterior(sampler: str) -> None:
    """The same draws, the same grid: only the denoiser is another, its posterior is not."""
    model = gaussian()
    levels = [Flow().level(t) for t in (0.97, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.04)]
    rows = 1 if SAMPLERS[sampler].by_row else 3
    x = normal(rows, SIZE, seed=8)
    ends = []
    for denoise in (
        mmps(awaited(denoise_of(model)), observation(), iterations=8),
        answers(network(model).conditioned(A, Y, NOISE)),
    ):
        draws = torch.Generator().manual_seed(5)

        def fresh(at: Level, to: Level, visit: int = 0, draws: torch.Generator = draws) -> Tensor:
            return torch.randn(rows, SIZE, dtype=torch.float64, generator=draws)

        with OFF:
            ends.append(run(SAMPLERS[sampler].walk(x, levels, denoise, fresh)))
    assert float(ends[1].std()) > 0.1
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)


# DDPM's covariance is short by a share of its step in lambda (order 1), so it needs more of them.
@pytest.mark.parametrize(
    ("sampler", "schedule", "steps"),
    [("heun", Cosine(), 60), ("ddpm", Flow(), 300), ("dpmpp_2m", Exploding(), 80)],
)
def test_samples_under_mmps_have_the_posteriors_mean_and_covariance(
    sampler: str, schedule, steps: int
) -> None:
    count = 1500
    model = gaussian()
    truth = network(model).conditioned(A, Y, NOISE)
    high, low = -5.0, 5.0
    grid = [schedule.at(high + (low - high) * i / steps) for i in range(steps + 1)] + [CLEAN]
    draws = torch.Generator().manual_seed(11)

    def fresh(at: Level, to: Level, visit: int = 0) -> Tensor:
        return torch.randn(count, SIZE, dtype=torch.float64, generator=draws)

    start = grid[0].alpha * truth.means + grid[0].sigma * fresh(*grid[:2])
    guided = mmps(awaited(denoise_of(model)), observation(), iterations=SEEN)
    end = run(SAMPLERS[sampler].walk(start, grid, guided, fresh))
    cov = (truth.axes[0] * truth.spread[0]) @ truth.axes[0].T
    assert ((end.mean(0) - truth.means[0]).abs() < 3 * (cov.diagonal() / count).sqrt()).all()
    products = torch.einsum("ni,nj->nij", *[end - truth.means[0]] * 2)
    assert ((products.mean(0) - cov).abs() < 3 * products.std(0) / math.sqrt(count)).all()


def discrete(steps: int = 25) -> tuple[list[float], tuple[Level, ...]]:
    """Betas, and the grid of all levels of their process, to no noise."""
    betas = [1e-3 + (0.25 - 1e-3) * i / (steps - 1) for i in range(steps)]
    return betas, make_grid("linspace", steps=steps, schedule=from_betas(betas))


def tilted(model) -> tuple[Callable[[Tensor, Level], Tensor], Callable]:
    """The denoiser x -> x0 alone, as the papers' algorithms use it, and for autograd."""
    plain = denoise_of(model)
    return (lambda x, at: plain(x, at).x0), plain


def test_dps_on_ddpm_is_algorithm_1_written_out() -> None:
    """Chung et al. 2023, algorithm 1 with DDPM's own coefficients and autograd of the whole norm."""
    betas, grid = discrete()
    x0_of, plain = tilted(TWO)
    noises = normal(len(betas), 3, SIZE, seed=9)
    start, scale = normal(3, SIZE, seed=10), 0.7
    kept = [1.0]
    for beta in betas:
        kept.append(kept[-1] * (1 - beta))
    x = start
    for i in range(len(betas), 0, -1):
        free = x.clone().requires_grad_()
        x0 = x0_of(free, grid[len(betas) - i])
        (slope,) = torch.autograd.grad((Y - x0 @ A.T).norm(dim=1).sum(), free)
        beta, now, then = betas[i - 1], kept[i], kept[i - 1]
        x = (math.sqrt(1 - beta) * (1 - then) * x + math.sqrt(then) * beta * x0.detach()) / (1 - now)
        x = x + math.sqrt(beta * (1 - then) / (1 - now)) * noises[i - 1] - scale * slope
    places = {at: i for i, at in enumerate(reversed(grid))}
    guided = dps(awaited(plain), observation(), grid, scale=scale)
    found = run(SAMPLERS["ddpm"].walk(start, grid, guided, lambda at, to, visit=0: noises[places[at] - 1]))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_dps_on_ddim_is_its_step_and_then_the_gradients() -> None:
    """On DDIM's step, from pure noise, on a flow: a step of fixed length in x, whatever the frame."""
    x0_of, plain = tilted(TWO)
    grid = make_grid("linspace", steps=8, schedule=Flow())
    x = start = normal(3, SIZE, seed=10)
    for at, to in pairwise(grid):
        free = x.clone().requires_grad_()
        x0 = x0_of(free, at)
        (slope,) = torch.autograd.grad((Y - x0 @ A.T).norm(dim=1).sum(), free)
        x = to.alpha * x0.detach() + to.sigma * (x - at.alpha * x0.detach()) / at.sigma - 0.4 * slope
    guided = dps(awaited(plain), observation(), grid, scale=0.4, eta=0.0)
    found = run(SAMPLERS["ddim"].walk(start, grid, guided, lambda *_: pytest.fail("drew")))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", ["adaptive", "score"])
@pytest.mark.parametrize("eta", [0, 1])
def test_pigdm_is_its_ddim_loop_written_out(weight: str, eta: int) -> None:
    """Song et al. 2023, algorithm 1, in alpha-bars, with the pseudoinverse of a matrix; and its score."""
    betas, grid = discrete()
    x0_of, plain = tilted(TWO)
    noises = normal(len(betas), 3, SIZE, seed=9)
    start = normal(3, SIZE, seed=10)
    noise = 0.0 if weight == "adaptive" else NOISE
    x = start
    for i, (at, to) in enumerate(pairwise(grid)):
        now, then = at.alpha**2, to.alpha**2
        c1 = eta * math.sqrt((1 - now / then) * (1 - then) / (1 - now))
        c2 = math.sqrt(max(0.0, 1 - then - c1**2))
        free = x.clone().requires_grad_()
        x0 = x0_of(free, at)
        if weight == "adaptive":
            fitted = (Y - x0 @ A.T) @ torch.linalg.pinv(A).T
            (pull,) = torch.autograd.grad((fitted.detach() * x0).sum(), free)
            x0, eps = (
                x0.detach() + math.sqrt(now) * pull,
                (x - math.sqrt(now) * x0.detach()) / math.sqrt(1 - now),
            )
        else:
            inverse = torch.linalg.inv((1 - now) * A @ A.T + noise**2 * EYE)
            fitted = (Y - x0 @ A.T) @ inverse @ A
            (likelihood,) = torch.autograd.grad((fitted.detach() * x0).sum(), free)
            score = (math.sqrt(now) * x0.detach() - x) / (1 - now) + likelihood
            x0, eps = (x + (1 - now) * score) / math.sqrt(now), -math.sqrt(1 - now) * score
        x = math.sqrt(then) * x0 + c1 * noises[i] + c2 * eps
    places = {at: i for i, at in enumerate(grid)}
    guided = pigdm(awaited(plain), observation(noise), weight=weight)
    sampler = "ddpm" if eta else "ddim"
    found = run(SAMPLERS[sampler].walk(start, grid, guided, lambda at, to, visit=0: noises[places[at]]))
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_diffpir_is_algorithm_1_written_out() -> None:
    """Zhu et al. 2023, algorithm 1, with the data step as a matrix solved."""
    betas, grid = discrete()
    x0_of, plain = tilted(TWO)
    noises = normal(len(betas), 3, SIZE, seed=9)
    start, strength, zeta = normal(3, SIZE, seed=10), 6.0, 0.3
    x = start
    for i, (at, to) in enumerate(pairwise(grid)):
        now, then = at.alpha**2, to.alpha**2
        rho = strength * NOISE**2 / ((1 - now) / now)
        right = Y @ A + rho * x0_of(x, at)
        x0 = torch.linalg.solve(A.T @ A + rho * torch.eye(SIZE, dtype=torch.float64), right.T).T
        eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
        x = math.sqrt(then) * x0
        x = x + math.sqrt(1 - then) * (math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * noises[i])
    places = {at: i for i, at in enumerate(grid)}
    guided = diffpir(awaited(plain), observation(), lambda_=strength)
    found = run(
        multistep(
            start,
            grid,
            guided,
            lambda at, to, visit=0: noises[places[at]],
            rules=(ddim,),
            churn=lambda at, to: math.sqrt(zeta) * to.sigma,
        )
    )
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_mmps_of_an_operator_that_bends_is_that_of_its_derivative() -> None:
    at = Flow().level(0.4)
    x = normal(3, SIZE, seed=6)
    plain = denoise_of(TWO)
    bent = Observation(lambda x0: torch.tanh(x0 @ A.T), Y[None], NOISE)
    found = run(mmps(awaited(plain), bent, iterations=10)(x, at))
    for i in range(3):
        before, jacobian = (
            plain(x[i : i + 1], at).x0[0],
            torch.func.jacrev(lambda v: plain(v[None], at).x0[0])(x[i]),
        )
        slope = torch.func.jacrev(lambda x0: torch.tanh(A @ x0))(before)
        spread = at.sigma**2 / at.alpha * jacobian
        gain = spread @ slope.T @ torch.linalg.inv(slope @ spread @ slope.T + NOISE**2 * EYE)
        expected = before + gain @ (Y - torch.tanh(A @ before))
        torch.testing.assert_close(found.x0[i], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("text", ["dps", "pigdm", "mmps", "diffpir", "mmps(iterations=1)"])
def test_estimates_stay_on_the_line_and_rows_do_not_meet(text: str) -> None:
    """To the last bit, through a model: each row has its own observation, and gets what it gets alone."""
    grid = make_grid("linspace", steps=6, schedule=Flow())
    x, y, want = normal(4, SIZE, seed=6), normal(4, SEEN, seed=7), TWO.conditioner([""])

    async def denoise(x: Tensor, at: Level) -> Estimate:
        (found,) = await TWO.denoise(x, at, want, grad=True)
        return found

    def guided(rows: slice, at: Level) -> Estimate:
        observed = Observation(lambda x0: torch.stack([x0[:, 0] + x0[:, 2], x0[:, 1]], 1), y[rows], NOISE)
        with OFF:
            return run(posterior(text, denoise, observed, grid)(x[rows], at))

    for at in (grid[0], grid[3]):
        together = guided(slice(0, 4), at)
        assert not together.x0.requires_grad
        assert not together.eps.requires_grad
        torch.testing.assert_close(
            at.alpha * together.x0 + at.sigma * together.eps, x, rtol=1e-12, atol=1e-12
        )
        for i in range(4):
            alone = guided(slice(i, i + 1), at)
            assert torch.equal(alone.x0[0], together.x0[i])
            assert torch.equal(alone.eps[0], together.eps[i])


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_diffpir_without_noise_ends_on_what_was_seen(noise: float) -> None:
    grid = make_grid("linspace", steps=5, schedule=Cosine())
    guided = diffpir(awaited(denoise_of(TWO)), observation(noise))
    end = run(SAMPLERS["ddim"].walk(normal(3, SIZE), grid, guided, lambda *_: pytest.fail("drew")))
    torch.testing.assert_close(end @ A.T, Y.expand(3, SEEN), rtol=1e-5, atol=1e-5)


def test_methods_go_around_classifier_free_guidance() -> None:
    """At scale 1 the wanted component is left: its posterior is exact again. At others the branches' mean is."""
    at, x = Flow().level(0.5), normal(3, SIZE, seed=6)
    conds = [TWO.conditioner([name]) for name in ("left", "right")]

    async def branches(x: Tensor, at: Level, *conditions) -> tuple[Estimate, ...]:
        return await TWO.denoise(x, at, *conditions, grad=True)

    found = run(mmps(classifier_free(branches, *conds, 1.0), observation(), iterations=6)(x, at))
    exact = run(answers(network(gaussian()).conditioned(A, Y, NOISE))(x, at))
    torch.testing.assert_close(found.x0, exact.x0, rtol=1e-8, atol=1e-8)

    found = run(mmps(classifier_free(branches, *conds, 3.0), observation(), iterations=6)(x, at))
    left, right = (denoise_of(TWO, cond) for cond in conds)
    spread = (
        at.sigma**2
        / at.alpha
        * torch.func.jacrev(lambda v: 3 * left(v[None], at).x0[0] - 2 * right(v[None], at).x0[0])(x[0])
    )
    mean = 3 * left(x, at).x0 - 2 * right(x, at).x0
    expected = spread @ A.T @ torch.linalg.solve(A @ spread @ A.T + NOISE**2 * EYE, Y - A @ mean[0])
    torch.testing.assert_close(found.x0[0], mean[0] + expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("outside", [True, False])
def test_torchs_switch_of_gradients_is_not_left_on_across_an_ask(outside: bool) -> None:
    seen = []

    async def denoise(x: Tensor, at: Level) -> Estimate:
        seen.append(torch.is_grad_enabled())
        (found,) = await TWO.denoise(x, at, TWO.conditioner([""]), grad=True)
        seen.append(torch.is_grad_enabled())
        return found

    with torch.set_grad_enabled(outside):
        task = mmps(denoise, observation())(normal(2, SIZE), LEVELS[0])
        ask = task.send(None)
        assert isinstance(ask, Ask)
        assert torch.is_grad_enabled() is outside
        with torch.enable_grad():
            reply = denoise_of(TWO)(ask.arguments[0], LEVELS[0])
        with pytest.raises(StopIteration):
            task.send((reply,))
        assert torch.is_grad_enabled() is outside
    assert seen == [True, True]


def test_errors_and_ends_reach_the_denoiser_inside() -> None:
    ended = []

    async def denoise(x: Tensor, at: Level) -> Estimate:
        try:
            return (await TWO.denoise(x, at, TWO.conditioner([""]), grad=True))[0]
        except ArithmeticError:
            return denoise_of(TWO)(x, at)
        finally:
            ended.append(True)

    task = mmps(denoise, observation())(normal(2, SIZE), LEVELS[0])
    task.send(None)
    with pytest.raises(StopIteration) as end:
        task.throw(ArithmeticError())
    assert end.value.value.x0.shape == (2, SIZE)
    task = mmps(denoise, observation())(normal(2, SIZE), LEVELS[0])
    task.send(None)
    task.close()
    assert ended == [True, True]


def test_dps_asks_for_the_grid_that_is_walked() -> None:
    grid = make_grid("linspace", steps=6, schedule=Flow())
    guided = dps(awaited(denoise_of(TWO)), observation(), grid)
    for sampler in ("ddim", "ddpm", "heun", "dpmpp_2m"):
        end = run(SAMPLERS[sampler].walk(normal(1, SIZE), grid, guided, lambda *_: normal(1, SIZE)))
        free = run(
            SAMPLERS[sampler].walk(
                normal(1, SIZE), grid, awaited(denoise_of(TWO)), lambda *_: normal(1, SIZE)
            )
        )
        assert (Y - end @ A.T).norm() < (Y - free @ A.T).norm(), sampler
    part = dps(awaited(denoise_of(TWO)), observation(), grid[:4])
    for step in (part(normal(1, SIZE), Flow().level(0.77)), part(normal(1, SIZE), grid[3])):
        with pytest.raises(InvalidRequest, match="no step of the grid begins"):
            run(step)
