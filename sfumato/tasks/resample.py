"""A picture carried up to the noise it would come from, and down again by another sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.condition import Look
from sfumato.errors import InvalidRequest
from sfumato.guidance import guide
from sfumato.samplers.inversion import invert, rising
from sfumato.tasks.picture import OnPicture, latents
from sfumato.tasks.sampling import CONFIG, Part, Plan, Prompted, Sampling, Text, plan


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Resample(Sampling, Prompted, OnPicture):
    """Change a picture by walking up to its own noise and down again with another prompt.

    (Song et al. 2021a; Mokady et al. 2023, DDIM inversion.) No noise is drawn: what the two prompts have in common
    stays. With one prompt for both and guidance 1 the picture comes back, to the error of the steps.
    """

    source: Text = Field(default="", description="what the picture shows as it is, for the way up")
    strength: Part = Field(default=1.0, description="how far up: the part of the steps that is walked")
    refine: Annotated[int, Ge(0), Le(20)] = Field(
        default=0, description="more evaluations a step on the way up, for a more exact inversion"
    )

    async def __call__(self, model: Any) -> Any:
        """Encode, walk up with ``source`` and without guidance, walk down with ``prompt``, decode."""
        pixels, canvas = self.laid(model)
        to = plan(self, model, (canvas.width, canvas.height), strength=self.strength or 1.0)
        check_still(to, "resample")
        if self.count > 1:
            raise InvalidRequest(
                f"count = {self.count} is not allowed: resample draws no noise, so all pictures would be the same"
            )
        x = await latents(model, pixels, canvas)
        if self.strength > 0:
            x = await inverted(to, x, self.source, self.refine, looks=())
            x = await to.walk(x, to.guided(*await to.conditions(self.prompt, self.negative)))
        return to.result(await model.decode(x), canvas.crop)

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        down = Sampling.evaluations(self, model)
        if down is None:
            return None
        steps = int(self.resolved(model.defaults)["steps"])
        return down + min(int(steps * self.strength), steps) * (1 + self.refine) * self.windows(model)


def check_still(to: Plan, task: str) -> None:
    """Refuse samplers that draw noise, which would not lead back down the way up."""
    if to.walker.stochastic:
        raise InvalidRequest(
            f"the sampler {to.walker.name!r} draws noise, and {task} walks a picture's own: use one that draws none, "
            "such as ddim, dpmpp_2m or heun"
        )


async def inverted(
    to: Plan, y: Tensor, source: str, refine: int = 0, *, looks: tuple[Look, ...] | None = None
) -> Tensor:
    """x at the first level of the plan's grid, from which a walk without guidance leads to the latents ``y``.

    ``looks`` are the pictures that are part of ``source``; the task's by default.
    """
    unguided = replace(to, by=guide("cfg"), scale=1.0)
    denoise = unguided.guided(*await to.conditions(source, None, looks=looks))
    x: Tensor = await invert(y, rising(to.grid), denoise, to.draws, refine=refine)
    return x


async def noise_of(to: Plan, y: Tensor, source: str) -> Tensor:
    """The noise of unit variance that the plan's walk would make the latents ``y`` from."""
    first = to.grid[0]
    return (await inverted(to, y, source)) / math.hypot(first.alpha, first.sigma)
