from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.guidance.classifier_free import classifier_free
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine

AT = Cosine().level(0.4)
LINES = {"cat": (complex(1, 2), complex(3, -1)), "dog": (complex(-2, 0.5), complex(0, 4))}


class Recorder:
    """A model of two known answers that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def denoise(self, x: complex, at: Level, *names: str) -> tuple[Estimate, ...]:
        self.asked.append(names)
        return tuple(Estimate(at, *LINES[name]) for name in names)


def guided(model: Recorder, scale: float) -> Estimate:
    return run(classifier_free(model.denoise, "cat", "dog", scale)(0j, AT))  # type: ignore[arg-type]


def test_scale_1_evaluates_only_what_is_wanted() -> None:
    model = Recorder()
    found = guided(model, 1)
    assert model.asked == [("cat",)]
    assert (found.x0, found.eps) == LINES["cat"]


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0, 7.5])
def test_other_scales_ask_both_branches_at_once(scale: float) -> None:
    model = Recorder()
    found = guided(model, scale)
    assert model.asked == [("cat", "dog")]
    assert found.at == AT
    # How far from what is avoided, in units of the way to what is wanted, along both ends.
    for end, want, avoid in zip((found.x0, found.eps), LINES["cat"], LINES["dog"], strict=True):
        assert (end - avoid) / (want - avoid) == pytest.approx(scale, abs=1e-14)


def test_guidance_is_linear_in_the_scale() -> None:
    at_0, at_3, at_6 = (guided(Recorder(), scale) for scale in (0.0, 3.0, 6.0))
    middle = 0.5 * (at_0 + at_6)
    assert middle.x0 == pytest.approx(at_3.x0, abs=1e-14)
    assert middle.eps == pytest.approx(at_3.eps, abs=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 6.0])
def test_the_score_is_that_of_the_tilted_density(scale: float) -> None:
    """-eps / sigma is the gradient of log p(x)^(1 - w) p(x | c)^w, by autograd of closed-form densities."""
    model = mixture(
        torch.tensor([[-1.0, 0.2], [0.9, -0.4]]),
        torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]]),
        torch.tensor([0.4, 0.6]),
        names=("left", "right"),
    )
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want, avoid = (model.conditioner([prompt]) for prompt in ("left", ""))
    found = run(classifier_free(model.denoise, want, avoid, scale)(x, AT))

    network, free = model.denoiser.network, x.clone().requires_grad_()
    tilted = (1 - scale) * network.log_density(free, AT) + scale * network.log_density(free, AT, label=0)  # type: ignore[operator]
    (score,) = torch.autograd.grad(tilted.sum(), free)
    torch.testing.assert_close(-found.eps / AT.sigma, score, rtol=1e-11, atol=1e-11)
    implied: Tensor = AT.alpha * found.x0 + AT.sigma * found.eps
    torch.testing.assert_close(implied, x, rtol=1e-12, atol=1e-12)
