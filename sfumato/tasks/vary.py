"""Variations of a seed or of a picture."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.noise import MAX_SEED, Noise, noise
from sfumato.tasks.canvas import canvas_for, sized
from sfumato.tasks.given import MaybePicture
from sfumato.tasks.mix import Between, slerp
from sfumato.tasks.picture import latents
from sfumato.tasks.resample import check_still, noise_of
from sfumato.tasks.sampling import CONFIG, MaybePrompted, Part, Sampling, Seed, Sized, one_by_one, plan


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Vary(Sized, MaybePrompted):
    """Pictures near that of a seed, or near a picture: its noise is turned a part of the way to other noise.

    With ``amount`` 0 every picture is that of ``seed``, with 1 it is that of its ``variation``. Of a picture, the
    noise is the one it would come from, by inversion with ``prompt``.
    """

    counts: ClassVar[str] = "variation"

    image: MaybePicture = Field(default=None, description="the picture to vary, in place of a seed's")
    variation: Seed = Field(
        default=1, description="the seed that the first picture is turned towards; the next count on"
    )
    amount: Part = Field(default=0.3, description="how far: 0 is the same, 1 is the other seed")

    async def __call__(self, model: Any) -> Any:
        """Walk from noise between that of ``seed``, or of the picture, and that of each variation."""
        if self.variation > MAX_SEED - self.count + 1:
            raise InvalidRequest(
                f"variation = {self.variation} is too large for {self.count} pictures that count on from it"
            )
        if self.image is None and not self.prompt.strip() and not self.look:
            raise InvalidRequest("there is nothing to vary: give a prompt, a picture, or both")
        rows = torch.full((self.count,), self.amount)
        others = range(self.variation, self.variation + self.count)

        def draws(shape: tuple[int, ...]) -> Noise:
            last = noise(self.noise, others, shape)
            if self.image is not None:
                return last
            return Between(noise(self.noise, [self.seed] * self.count, shape), last, rows)

        if self.image is None:
            to = plan(self, model, self.sides(model.defaults), draws=draws)
        else:
            pixels = sized(self.image.pixels, self.size)
            canvas = canvas_for(pixels.shape[1], pixels.shape[0], model.defaults)
            to = plan(self, model, (canvas.width, canvas.height), draws=draws)
            check_still(to, "to vary a picture")
        if to.split:
            return await one_by_one(self, model)
        denoise = to.guided(*await to.conditions(self.prompt, self.negative))
        if self.image is None:
            return to.result(await model.decode(await to.walk(to.start(), denoise)))
        y = await latents(model, pixels, canvas)
        base = await noise_of(to, y, self.prompt)
        other = to.draws.start()
        turned = slerp(base.expand_as(other), other, rows[: len(other)])
        x = await to.walk(math.hypot(to.grid[0].alpha, to.grid[0].sigma) * turned, denoise)
        return to.result(await model.decode(x), canvas.crop)

    def resolved(self, defaults: Any) -> dict[str, Any]:
        """All fields, with the model's ``defaults`` where a field is None; a picture's own size stays."""
        return Sized.resolved(self, defaults) if self.image is None else Sampling.resolved(self, defaults)

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        down = Sized.evaluations(self, model)
        return (
            down if down is None or self.image is None else down + int(self.resolved(model.defaults)["steps"])
        )
