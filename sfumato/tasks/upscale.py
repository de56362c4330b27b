"""Larger pictures in two passes: enlarge, lay noise over it, and walk it off again."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.tasks.canvas import Canvas, canvas_for, scaled
from sfumato.tasks.given import MOST_PIXELS, MaybePicture
from sfumato.tasks.picture import latents
from sfumato.tasks.sampling import CONFIG, MaybePrompted, Part, Sampling, one_by_one, plan
from sfumato.tasks.task import Result
from sfumato.tasks.text2image import Text2Image


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Upscale(Sampling, MaybePrompted):
    """Enlarge a picture, or one that is first made from the prompt, and draw in what the larger one has room for.

    The picture is enlarged as pixels or as latents, noise is laid over it (``strength``), and the walk takes it off
    again. What is larger than the model makes is walked in overlapping windows.
    """

    image: MaybePicture = Field(
        default=None, description="the picture; without one it is made from the prompt"
    )
    factor: Annotated[float, Ge(1), Le(16)] = Field(default=2.0, description="how many times as large")
    strength: Part = Field(default=0.4, description="how much may change: 0 is plain enlarging")
    space: Literal["pixels", "latent"] = Field(
        default="pixels", description="what is enlarged: pixels, or the model's latents (sharper, rougher)"
    )

    async def __call__(self, model: Any) -> Any:
        """Make or take the pictures, enlarge, begin at ``alpha y + sigma n``, walk, decode, crop."""
        if self.image is None and not self.prompt.strip():
            raise InvalidRequest("there is nothing to enlarge: give a picture, a prompt, or both")
        defaults = model.defaults
        width, height = (defaults.width, defaults.height) if self.image is None else self.image.size
        small = canvas_for(width, height, defaults, tile=True)
        large = self._larger(width, height, small, defaults)
        if large.width * large.height > MOST_PIXELS:
            raise InvalidRequest(
                f"factor = {self.factor:g} makes {large.width}x{large.height} pixels of {width}x{height}; at most "
                f"{MOST_PIXELS} pixels are allowed"
            )
        to = plan(self, model, (large.width, large.height), strength=self.strength or 1.0)
        if to.split:
            return await one_by_one(self, model)
        if self.image is None:
            first: Result = await self._first()(model)
            pictures = list(first.pixels)
        else:
            pictures = [self.image.pixels] * len(to.rows)
        rows = []
        for picture in pictures if self.image is None else pictures[:1]:
            if self.space == "pixels":
                wide = scaled(picture, large.box[2], large.box[3])
                rows.append(await latents(model, wide, large))
            else:
                y = await latents(model, picture, small)
                rows.append(functional.interpolate(y, to.shape[-2:], mode="bicubic"))
        x = torch.cat(rows).expand(len(to.rows), *to.shape)
        if self.strength > 0:
            denoise = to.guided(*await to.conditions(self.prompt, self.negative))
            x = await to.walk(to.start(x), denoise)
        return to.result(await model.decode(x), large.crop)

    def _larger(self, width: int, height: int, small: Canvas, defaults: Any) -> Canvas:
        """Where the enlarged picture lies."""
        if self.space == "pixels":
            return canvas_for(
                max(1, round(width * self.factor)), max(1, round(height * self.factor)), defaults, tile=True
            )
        times = int(self.factor)
        if times != self.factor:
            raise InvalidRequest(
                f"factor = {self.factor:g} is not allowed in latent space: use a whole number, or space = pixels"
            )
        left, top, across, down = (times * part for part in small.box)
        return Canvas(times * small.width, times * small.height, (left, top, across, down))

    def _first(self) -> Text2Image:
        """The task of the first pass."""
        shared = {f.name for f in dataclasses.fields(Text2Image)} & {f.name for f in dataclasses.fields(self)}
        return Text2Image(**{name: getattr(self, name) for name in shared})

    def evaluations(self, defaults: Any) -> int | None:
        """Unknown: it depends on how many windows there are."""
        return None
