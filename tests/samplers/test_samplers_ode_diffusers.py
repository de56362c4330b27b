"""Whole deterministic trajectories against diffusers' schedulers, which are given levels in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.process.between import Levels
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Cosine, scaled_linear
from sfumato.samplers import sampler
from sfumato.samplers.inversion import invert, rising
from tests.samplers.peers_ode import agree, network, start

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `scale_model_input` function:UserWarning"),
]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLE = scaled_linear()


def ours(text: str, x: Tensor, grid: Sequence[Level], kind: str = "eps") -> Tensor:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        return prediction(kind).estimate(x, network(x, at.t), at)

    walk = invert if text == "invert" else sampler(text).walk
    return run(walk(x, grid, denoise, None))  # type: ignore[arg-type]


def theirs(scheduler: Any, x: Tensor, **kwargs: Any) -> Tensor:
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(shown, float(t)), t, x, **kwargs).prev_sample
    return x


def told(scheduler: Any, steps: int, final: str = "zero") -> Levels:
    """Hand a scheduler float64 ratios of our table's levels at its own times; the grid of the same levels."""
    scheduler.set_timesteps(steps)
    end = CLEAN if final == "zero" else TABLE.level(0)
    grid = Levels((*(TABLE.level(float(t)) for t in scheduler.timesteps), end), TABLE)
    scheduler.sigmas = torch.tensor([at.ratio for at in grid], dtype=torch.float64)
    scheduler.set_begin_index(0)
    return grid


@pytest.mark.parametrize("steps", [1, 2, 12, 20])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order: int, steps: int) -> None:
    """Their x is divided by alpha."""
    scheduler = diffusers.LMSDiscreteScheduler(**SD, timestep_spacing="trailing")
    grid = told(scheduler, steps)
    found = theirs(scheduler, start() / grid[0].alpha, order=order)
    agree("lms", "diffusers LMSDiscreteScheduler", ours(f"lms(order={order})", start(), grid), found)


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_dpm2(steps: int) -> None:
    """Their x is divided by alpha; they interpolate times in log sigma as our table does."""
    scheduler = diffusers.KDPM2DiscreteScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    times = [float(t) for t in scheduler.timesteps[::2]]
    grid = Levels((*(TABLE.level(t) for t in times), CLEAN), TABLE)
    assert len(grid) == steps + 1
    ratios = torch.tensor([at.ratio for at in grid], dtype=torch.float64)
    middles = (ratios * ratios.roll(1)).sqrt()
    lams = [-math.log(float(m)) for m in middles[1:-1]]
    scheduler.timesteps = torch.tensor(
        [times[0], *(t for lam, late in zip(lams, times[1:], strict=True) for t in (TABLE.at(lam).t, late))],
        dtype=torch.float64,
    )

    def twice(s: Tensor) -> Tensor:
        return torch.cat((s[:1], s[1:].repeat_interleave(2), s[-1:]))

    scheduler.sigmas, scheduler.sigmas_interpol = twice(ratios), twice(middles)
    scheduler.set_begin_index(0)
    found = theirs(scheduler, start() / grid[0].alpha)
    agree("dpm2", "diffusers KDPM2DiscreteScheduler", ours("dpm2", start(), grid), found)


@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", 1), ("leading", 2), ("leading", 3), ("leading", 20), ("trailing", 25)]
)
def test_pndm(spacing: str, steps: int) -> None:
    """Of networks that predict noise: theirs mixes what the network says, ours the noise, whatever the network says."""
    scheduler = diffusers.PNDMScheduler(
        **SD, timestep_spacing=spacing, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod = torch.tensor(TABLE.signal, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    grid = make_grid(spacing, steps=steps, schedule=TABLE)
    agree("pndm", "diffusers PNDMScheduler", ours("pndm", start(), grid), theirs(scheduler, start()))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_ipndm(steps: int) -> None:
    """Their network predicts velocity on a cosine schedule. Not from pure noise, where theirs divides by 1e-8."""
    times = [0.97 * (1 - i / steps) for i in range(steps)]
    scheduler = diffusers.IPNDMScheduler(trained_betas=[*(math.sin(math.pi * t / 2) for t in times), 0.0])
    scheduler.set_timesteps(steps)
    grid = [*(Cosine().level(t) for t in times), CLEAN]
    scheduler.betas = torch.tensor([at.sigma for at in grid], dtype=torch.float64)
    scheduler.alphas = torch.tensor([at.alpha for at in grid], dtype=torch.float64)
    scheduler.timesteps = torch.tensor(times, dtype=torch.float64)
    scheduler.set_begin_index(0)
    agree("ipndm", "diffusers IPNDMScheduler", ours("ipndm", start(), grid, "v"), theirs(scheduler, start()))


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int, steps: int, kind: str) -> None:
    scheduler = diffusers.DEISMultistepScheduler(
        **SD,
        timestep_spacing="trailing",
        solver_order=order,
        lower_order_final=False,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[kind],
    )
    grid = told(scheduler, steps, "first")
    found = theirs(scheduler, start())
    agree(
        "deis", "diffusers DEISMultistepScheduler", ours(f"deis(order={order})", start(), grid, kind), found
    )


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize(
    ("order", "final", "lower"),
    [(2, "zero", True), (1, "first", False), (2, "first", False), (3, "first", False)],
)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_unipc(steps: int, order: int, final: str, lower: bool, variant: str) -> None:
    """To sigma = 0 theirs needs ``lower_order_final``, which takes order 1 in the last step as ours does.

    With order 3 it takes order 2 in the step before, where nothing is infinite; ours does not, so that is left out.
    Theirs with bh1 multiplies an infinite step by no difference and ends in numbers that are none.
    """
    scheduler = diffusers.UniPCMultistepScheduler(
        **SD,
        timestep_spacing="trailing",
        solver_order=order,
        solver_type=variant,
        lower_order_final=lower,
        final_sigmas_type="zero" if final == "zero" else "sigma_min",
    )
    grid = told(scheduler, steps, final)
    name = "unipc" if variant == "bh2" else "unipc_bh1"
    found, here = theirs(scheduler, start()), ours(f"{name}(order={order})", start(), grid)
    if variant == "bh1" and final == "zero":
        assert found.isnan().all()
        assert here.isfinite().all()
    else:
        agree(name, "diffusers UniPCMultistepScheduler", here, found)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_unipc_on_a_flow(steps: int, variant: str) -> None:
    """Between finite levels: theirs takes a finite lambda for pure noise; for none see above."""
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        solver_type=variant,
        lower_order_final=False,
    )
    scheduler.set_timesteps(steps)
    sigmas = [0.98 - 0.96 * i / steps for i in range(steps + 1)]
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.timesteps = torch.tensor([1000 * s for s in sigmas[:-1]], dtype=torch.float64)
    scheduler.set_begin_index(0)
    grid = [Level(1000 * s, 1 - s, s) for s in sigmas]
    name = "unipc" if variant == "bh2" else "unipc_bh1"
    found = theirs(scheduler, start())
    agree(name, "diffusers UniPCMultistepScheduler", ours(name, start(), grid, "flow"), found)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("dpmpp_2m", {"solver_order": 2}),
        ("res_multistep", {"solver_order": 2, "solver_type": "heun"}),
        ("dpmpp_3m(curvature=0.5)", {"solver_order": 3}),
    ],
)
def test_dpm_solver_multistep(text: str, options: dict[str, Any], steps: int) -> None:
    """They cast x to float32 in every step. The third-order rule of theirs halves a term: see the test below."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SD,
        timestep_spacing="trailing",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
        **options,
    )
    grid = told(scheduler, steps, "first")
    found = theirs(scheduler, start())
    agree(text.split("(")[0], "diffusers DPMSolverMultistepScheduler", ours(text, start(), grid), found)


def test_the_third_order_rule_of_others_is_not_of_third_order() -> None:
    """Third order means that it is exact where x0 is a square of lambda; theirs is not, ours is.

    Their D2 is the second divided difference, f'' h^2 / 2, where the expansion of the integral has f'' h^2.
    ``test_laws_order`` measures order 2 with the half term and 3 with the whole one.
    """
    grid = [Cosine().at(lam) for lam in (-1.2, -0.8, -0.3, 0.5)]

    async def denoise(x: float, at: Level) -> Estimate:
        x0 = 0.3 + 0.7 * at.lam + 0.5 * at.lam**2
        return Estimate(at, x0, (x - at.alpha * x0) / at.sigma)

    def exact(before: Level, to: Level, x: float) -> float:
        """Variation of constants, the integral by Gauss' rule of 5 points."""
        nodes = (0.0, 0.5384693101056831, -0.5384693101056831, 0.9061798459386640, -0.9061798459386640)
        by = (
            0.5688888888888889,
            0.4786286704993665,
            0.4786286704993665,
            0.2369268850561891,
            0.2369268850561891,
        )
        half, middle = (to.lam - before.lam) / 2, (to.lam + before.lam) / 2
        lams = [middle + half * n for n in nodes]
        inner = half * sum(
            w * math.exp(lam) * (0.3 + 0.7 * lam + 0.5 * lam**2) for w, lam in zip(by, lams, strict=True)
        )
        return to.sigma * (x / before.sigma + inner)

    def last(text: str) -> tuple[float, float]:
        """x after the third step, and what it should be from where the second led."""
        walk = sampler(text).walk
        before = run(walk(0.4, grid[:3], denoise, None))  # type: ignore[arg-type]
        return run(walk(0.4, grid, denoise, None)), exact(grid[2], grid[3], before)  # type: ignore[arg-type]

    found, wanted = last("dpmpp_3m")
    assert found == pytest.approx(wanted, abs=1e-9)
    found, wanted = last("dpmpp_3m(curvature=0.5)")
    assert abs(found - wanted) > 1e-2


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_inversion(steps: int, final: str) -> None:
    """Both show the network x of the level below as if it were of the level above, and take its noise."""
    scheduler = diffusers.DDIMInverseScheduler(
        **SD, steps_offset=1, clip_sample=False, set_alpha_to_one=final == "zero"
    )
    scheduler.alphas_cumprod = torch.tensor(TABLE.signal, dtype=torch.float64)
    end = CLEAN if final == "zero" else TABLE.level(0)
    scheduler.initial_alpha_cumprod = torch.tensor(end.alpha**2, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    grid = rising((*make_grid("leading", steps=steps, schedule=TABLE)[:-1], end))
    found = theirs(scheduler, start())
    agree("invert", "diffusers DDIMInverseScheduler", ours("invert", start(), grid), found)
