"""Pictures on the way between two seeds, prompts or pictures."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest
from sfumato.noise import Noise, noise
from sfumato.tasks.canvas import canvas_for, scaled
from sfumato.tasks.given import MaybePicture
from sfumato.tasks.mix import Between, blended, mixed, slerp
from sfumato.tasks.picture import latents
from sfumato.tasks.resample import check_still, noise_of
from sfumato.tasks.sampling import CONFIG, MaybePrompted, Plan, Seed, Sized, Text, one_by_one, plan
from sfumato.tasks.script import read


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Interpolate(Sized, MaybePrompted):
    """A row of pictures from one to another: noise turns from one end's to the other's, conditions go straight.

    Each end is a seed or a picture, whose noise is found by inversion, and a prompt. The ends of the row are the
    pictures of the ends. Prompts that are classes cannot be mixed; there the estimates are.
    """

    counts: ClassVar[str] = ""

    count: Annotated[int, Ge(2), Le(1000)] = Field(
        default=5, description="how many pictures, both ends among them"
    )
    seed: Seed = Field(default=0, description="the seed of the first picture")
    prompt_to: Text | None = Field(default=None, description="what the last picture shows, if another thing")
    seed_to: Seed | None = Field(default=None, description="the seed of the last picture, if another")
    image: MaybePicture = Field(default=None, description="the first picture, in place of a seed's")
    image_to: MaybePicture = Field(default=None, description="the last picture, in place of a seed's")

    async def __call__(self, model: Any) -> Any:
        """Walk all pictures of the row side by side, each from its own noise under its own condition."""
        last = self.prompt if self.prompt_to is None else self.prompt_to
        seeds = (self.seed, self.seed if self.seed_to is None else self.seed_to)
        if last == self.prompt and seeds[0] == seeds[1] and self.image is None and self.image_to is None:
            raise InvalidRequest("both ends are the same: give prompt_to, seed_to, image or image_to")
        told = (self.prompt + last).strip() or self.look
        if not told and self.image is None and self.image_to is None:
            raise InvalidRequest("there is nothing to show: give a prompt, pictures, or both")
        parts = torch.arange(self.count) / (self.count - 1)

        def draws(shape: tuple[int, ...]) -> Noise:
            ends = [noise(self.noise, [seed] * self.count, shape) for seed in seeds]
            return Between(ends[0], ends[1], parts)

        to = plan(self, model, self.sides(model.defaults), draws=draws)
        if self.image is not None or self.image_to is not None:
            check_still(to, "to interpolate pictures")
        if to.split:
            return await one_by_one(self, model)
        part = parts[list(to.rows)]
        want, avoid = await to.conditions(self.prompt, self.negative)
        other, _ = (want, avoid) if last == self.prompt else await to.conditions(last, self.negative)
        row = mixed(want, other, part)
        denoise = (
            blended(to.guided(want, avoid), to.guided(other, avoid), part)
            if row is None
            else to.guided(row, avoid)
        )
        x = to.start()
        if self.image is not None or self.image_to is not None:
            ends = [
                await self._end(to, picture, seed, prompt)
                for picture, seed, prompt in zip(
                    (self.image, self.image_to), seeds, (self.prompt, last), strict=True
                )
            ]
            turned = slerp(ends[0].expand_as(x), ends[1].expand_as(x), part)
            x = math.hypot(to.grid[0].alpha, to.grid[0].sigma) * turned
        return to.result(await model.decode(await to.walk(x, denoise)))

    async def _end(self, to: Plan, picture: Any, seed: int, prompt: str) -> torch.Tensor:
        """The noise of an end, (1, ...): that of its picture, scaled to the size of the row, or of its seed."""
        if picture is None:
            return noise(self.noise, [seed], to.shape).start()
        pixels = scaled(picture.pixels, *to.size)
        canvas = canvas_for(*to.size, to.model.defaults)
        return await noise_of(to, await latents(to.model, pixels, canvas), prompt)

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        once = Sized.evaluations(self, model)
        if once is None:
            return None
        steps: int = self.resolved(model.defaults)["steps"]
        ends = self.prompt, self.prompt if self.prompt_to is None else self.prompt_to
        # The conditions of prompts that change over the steps are not mixed, but what the network says of them.
        apart = ends[0] != ends[1] and not all(
            read(Prompt(text=text, dialect=self.dialect), {}, steps).steady for text in ends
        )
        return once * (2 if apart else 1) + steps * sum(p is not None for p in (self.image, self.image_to))
