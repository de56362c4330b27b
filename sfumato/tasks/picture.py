"""What tasks on a picture share: the picture, the size it is brought to, and its latents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.model import Model
from sfumato.tasks.canvas import Canvas, canvas_for, sized, tensor
from sfumato.tasks.given import Picture, Raster
from sfumato.tasks.sampling import CONFIG


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class OnPicture:
    """A task on a picture of any size: it is padded to a size that the model makes, and cropped again."""

    image: Picture = Field(description="the picture")
    size: str | None = Field(
        default=None,
        description="scale the picture first: 128 is its longer side, 128x96 cuts off what does not fit",
    )
    tile: bool = Field(
        default=False, description="walk a picture larger than the model makes in overlapping windows"
    )

    def laid(self, model: Model) -> tuple[NDArray[np.uint8], Canvas]:
        """The scaled picture (H, W, 3) and where it lies; InvalidRequest if the model cannot make its size."""
        pixels = self.scaled(self.image)
        return pixels, canvas_for(pixels.shape[1], pixels.shape[0], model.defaults, tile=self.tile)

    def scaled(self, picture: Raster) -> NDArray[np.uint8]:
        """``picture`` (H, W, 3) scaled as ``size`` says."""
        return sized(picture.pixels, self.size)


async def latents(model: Model, pixels: NDArray[Any], canvas: Canvas) -> Tensor:
    """The latents (1, C, h, w) of ``pixels`` (H, W, 3), padded to ``canvas``."""
    return await model.encode(tensor(canvas.pad(pixels)))
