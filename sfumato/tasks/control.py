"""A picture that follows a map: of edges or of depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.tasks.beside import depth_channel, required
from sfumato.tasks.canvas import latent_shape, tensor
from sfumato.tasks.given import MaybePicture
from sfumato.tasks.picture import OnPicture, latents
from sfumato.tasks.sampling import CONFIG, Part, Prompted, Sampling, one_by_one, plan


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Control(Sampling, Prompted, OnPicture):
    """Make a picture from a sentence that follows a map of edges or of depth, such as FLUX.1 Canny and Depth do.

    ``image`` is the map: white lines on black, or near things white. With ``begin`` the walk begins at that picture
    with noise over it, as Stable Diffusion 2 Depth is used.
    """

    begin: MaybePicture = Field(
        default=None, description="a picture of the map's size to begin at, in place of noise"
    )
    strength: Part = Field(
        default=0.8, description="how much of the picture to begin at may change: 0 is nothing, 1 everything"
    )

    async def __call__(self, model: Any) -> Any:
        """Lay the map beside every question and walk, from noise or from ``begin`` with noise over it."""
        pixels, canvas = self.laid(model)
        size = (canvas.width, canvas.height)
        reads = required(
            model, latent_shape(model, *size), ("control", "depth"), "the task image2image (edit)"
        )
        if self.begin is not None and self.begin.size != self.image.size:
            (a, b), (c, d) = self.begin.size, self.image.size
            raise InvalidRequest(f"begin is {a}x{b} and the map {c}x{d}: they must be of one size")
        strength = 1.0 if self.begin is None else self.strength or 1.0
        to = plan(self, model, size, strength=strength, beside=("control", "depth"))
        if to.split:
            return await one_by_one(self, model)
        y = None if self.begin is None else await latents(model, self.scaled(self.begin), canvas)
        if y is not None and self.strength == 0:
            x = y.expand(len(to.rows), *y.shape[1:])
            return to.result(await model.decode(x), canvas.crop)
        if reads.kind == "depth":
            seen = depth_channel(tensor(canvas.pad(pixels)), to.shape)
        else:
            seen = reads.scale * await latents(model, pixels, canvas)
        want, avoid = await to.conditions(self.prompt, self.negative)
        denoise = to.guided(replace(want, channels=seen), replace(avoid, channels=seen))
        return to.result(await model.decode(await to.walk(to.start(y), denoise)), canvas.crop)
