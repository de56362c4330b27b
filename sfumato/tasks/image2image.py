"""Picture to picture, from noise laid over it."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.tasks.picture import OnPicture, latents
from sfumato.tasks.sampling import CONFIG, Part, Prompted, Sampling, one_by_one, plan


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Image2Image(Sampling, Prompted, OnPicture):
    """Change a picture by a sentence: noise is laid over it, and the rest of the walk takes it off again.

    (Meng et al. 2021, SDEdit.) ``strength`` is the part of the steps that is walked. At 0 none is, and the picture
    comes back through the model's codec; at 1 the walk begins at the first level, where a rectified flow has nothing
    left of the picture and other processes next to nothing.
    """

    strength: Part = Field(default=0.75, description="how much may change: 0 is nothing, 1 is everything")

    async def __call__(self, model: Any) -> Any:
        """Encode, begin at ``alpha y + sigma n`` on the tail of the grid, walk, decode, crop."""
        pixels, canvas = self.laid(model)
        to = plan(self, model, (canvas.width, canvas.height), strength=self.strength or 1.0)
        if to.split:
            return await one_by_one(self, model)
        y = await latents(model, pixels, canvas)
        if self.strength == 0:
            x = y.expand(len(to.rows), *y.shape[1:])
        else:
            denoise = to.guided(*await to.conditions(self.prompt, self.negative))
            x = await to.walk(to.start(y), denoise)
        return to.result(await model.decode(x), canvas.crop)
