"""The same guidance as diffusers' guiders, on made-up outputs of networks of every kind."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.guidance.classifier_free import Branches, extrapolated
from sfumato.guidance.constraints import clip, dynamic_threshold
from sfumato.guidance.guide import GUIDES, Pair
from sfumato.guidance.projected import projected
from sfumato.guidance.rescale import rescaled
from sfumato.guidance.zero_star import fitted
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction, prediction
from sfumato.process.schedule import Flow, Table, scaled_linear
from sfumato.samplers import SAMPLERS

diffusers = pytest.importorskip("diffusers")
guiders = pytest.importorskip("diffusers.guiders")
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = ["eps", "x0", "v", "flow"]
AT = {"eps": 0.6, "x0": 0.6, "v": 1.0, "flow": 1.0}
"""The level of a flow to compare at; pure noise where the network can be asked there."""


def draw(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, OUT, EMPTY = draw(0), 1.3 * draw(1), draw(2) + 0.4 * draw(1)


def level(kind: str) -> Level:
    return Flow().level(AT[kind])


def branches(kind: str) -> Branches:
    async def denoise(x: Tensor, at: Level, *outputs: Tensor) -> tuple[Estimate, ...]:
        return tuple(prediction(kind).estimate(x, out, at) for out in outputs)

    return denoise


def output(found: Estimate, kind: str) -> Tensor:
    return prediction(kind).target(found.x0, found.eps, found.at)


def both(kind: str) -> tuple[Estimate, Estimate]:
    at, known = level(kind), prediction(kind)
    return known.estimate(X, OUT, at), known.estimate(X, EMPTY, at)


def theirs(name: str, step: int = 0, outputs: tuple[Tensor, Tensor] = (OUT, EMPTY), **config: Any) -> Tensor:
    guider = getattr(guiders, name)(**config)
    guider.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(0))
    return guider.forward(*outputs).pred


def close(a: Tensor, b: Tensor, worst: float = 1e-12) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < worst


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_classifier_free_guidance_and_rescale(kind: str, phi: float) -> None:
    found = rescaled(extrapolated(6.5), phi, prediction(kind))(X, *both(kind))
    close(output(found, kind), theirs("ClassifierFreeGuidance", guidance_scale=6.5, guidance_rescale=phi))


@pytest.mark.parametrize("kind", KINDS)
def test_rescale_is_that_of_the_stable_diffusion_pipeline(kind: str) -> None:
    module = importlib.import_module("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    found = rescaled(extrapolated(6.5), 0.7, prediction(kind))(X, *both(kind))
    close(output(found, kind), module.rescale_noise_cfg(EMPTY + 6.5 * (OUT - EMPTY), OUT, 0.7))


@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_star(kind: str, phi: float) -> None:
    """Theirs takes the inner products in float32, whence 1e-6; a step 1 or later, as zero-init is step 0's."""
    known = prediction(kind)
    found = rescaled(fitted(4.0, known), phi, known)(X, *both(kind))
    config = {"guidance_scale": 4.0, "guidance_rescale": phi, "zero_init_steps": 1}
    close(output(found, kind), theirs("ClassifierFreeZeroStarGuidance", step=1, **config), 1e-6)


def test_zero_init_is_theirs_on_a_rectified_flow() -> None:
    """A zero output of a flow network is our velocity of zero; one of an eps network is not."""
    grid = make_grid("linspace", steps=10, schedule=Flow())

    def ours(kind: str) -> Tensor:
        pair = Pair(branches(kind), OUT, EMPTY, 4.0, prediction(kind), grid)
        return output(run(GUIDES["zero_star"].make(pair, zero=2)(X, grid[1])), kind)

    zero = theirs("ClassifierFreeZeroStarGuidance", step=1, guidance_scale=4.0, zero_init_steps=2)
    assert not zero.any()
    assert float(ours("flow").abs().max()) < 1e-15
    torch.testing.assert_close(ours("eps"), X)


@pytest.mark.parametrize("norm", [0.0, 6.0])
@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.9])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_apg_on_x0(eta: float, momentum: float, norm: float) -> None:
    """Theirs on predictions of x0, over three evaluations so that the average counts.

    Their "original formulation" is the paper's, whose scale is ours minus 1; their default begins at the avoided
    branch instead, which is another estimate as soon as the guidance is changed at all.
    """
    at = level("x0")
    combine = projected(5.0, eta, norm, momentum)
    guider = guiders.AdaptiveProjectedGuidance(
        guidance_scale=4.0,
        adaptive_projected_guidance_momentum=momentum or None,
        adaptive_projected_guidance_rescale=norm,
        eta=eta,
        use_original_formulation=True,
    )
    other = guiders.AdaptiveProjectedGuidance(
        guidance_scale=5.0,
        adaptive_projected_guidance_rescale=norm,
        eta=eta,
    )
    for step in range(3):
        p, n = OUT + step * draw(7), EMPTY + step * draw(8)
        guider.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(0))
        if step == 0:
            guider.momentum_buffer = _buffer(momentum)
        x0 = [prediction("x0").estimate(X, out, at) for out in (p, n)]
        found = combine(X, *x0)
        close(found.x0, guider.forward(p, n).pred)
        torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, X)
    other.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(0))
    same = (eta, norm) == (1.0, 0.0)
    difference = (other.forward(p, n).pred - projected(5.0, eta, norm, 0.0)(X, *x0).x0).abs().max()
    assert (float(difference) < 1e-12) == same


def _buffer(momentum: float) -> Any:
    module = importlib.import_module("diffusers.guiders.adaptive_projected_guidance")
    return module.MomentumBuffer(momentum) if momentum else None


def test_autoguidance() -> None:
    """The arithmetic of theirs, whose weaker model is its own with layers left out."""
    config = {"guidance_scale": 2.0, "auto_guidance_layers": [0], "dropout": 1.0}
    found = extrapolated(2.0)(X, *both("flow"))
    close(output(found, "flow"), theirs("AutoGuidance", **config))


def scheduler(**config: Any) -> Any:
    made = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        **config,
    )
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    made.set_timesteps(8)
    return made


def network(x: Tensor, t: float) -> Tensor:
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) + 0.0002 * t


async def ddim(x: Tensor, at: Level) -> Estimate:
    return prediction("eps").estimate(x, network(x, at.t), at)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("press", ["clip", "threshold"])
def test_clipping_in_ddim(press: str, keep: bool) -> None:
    """Whole walks; theirs with ``use_clipped_model_output`` recomputes eps, by default it keeps the network's.

    Their thresholding bounds s by ``sample_max_value``, 1 by default, which makes of it a plain clip: it is set
    out of the way.
    """
    config: dict[str, Any] = {"clip_sample": press == "clip", "clip_sample_range": 1.0}
    if press == "threshold":
        config |= {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}
    made = scheduler(**config)
    table = Table(tuple(made.alphas_cumprod.tolist()))
    bounded: Denoise = clip(ddim, -1, 1, keep) if press == "clip" else dynamic_threshold(ddim, 0.9, 1.0, keep)
    grid = make_grid("leading", steps=8, schedule=table)
    found = run(SAMPLERS["ddim"].walk(X, grid, bounded, None))  # type: ignore[arg-type]
    x = X
    for t in made.timesteps:
        x = made.step(network(x, float(t)), t, x, use_clipped_model_output=not keep).prev_sample
    plain = run(SAMPLERS["ddim"].walk(X, grid, ddim, None))  # type: ignore[arg-type]
    close(found, x, 1e-10)
    assert float((found - plain).abs().max()) > 0.1


def test_their_thresholding_is_a_clip_by_default() -> None:
    made = scheduler(thresholding=True)
    pressed = made._threshold_sample(3 * X)
    torch.testing.assert_close(pressed, (3 * X).clamp(-1, 1))


@pytest.mark.parametrize("schedule", [scaled_linear(), Flow()], ids=["sd", "flow"])
def test_the_table_is_the_functions(schedule: Any) -> None:
    """What a text names is what the functions above make."""
    at = schedule.level(schedule.t_max * 0.7)
    known: Prediction = prediction("v")
    grid = make_grid("linspace", steps=5, schedule=schedule)
    pair = Pair(branches("v"), OUT, EMPTY, 5.0, known, grid)
    x = X
    estimates = [known.estimate(x, out, at) for out in (OUT, EMPTY)]
    made = {
        "cfg": rescaled(extrapolated(5.0), 0.3, known),
        "apg": rescaled(projected(5.0, 0.2, 3.0, 0.0), 0.3, known),
        "zero_star": rescaled(fitted(5.0, known), 0.3, known),
    }
    options: dict[str, dict[str, Any]] = {
        "cfg": {},
        "apg": {"eta": 0.2, "norm": 3.0, "momentum": 0.0},
        "zero_star": {"zero": 0},
    }
    for name, combine in made.items():
        found = run(GUIDES[name].make(pair, rescale=0.3, **options[name])(x, at))
        assert torch.equal(found.x0, combine(x, *estimates).x0)
