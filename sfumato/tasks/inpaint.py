"""Part of a picture made anew, the rest kept exactly."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.picture.mask import grown
from sfumato.tasks.canvas import canvas_for, scaled
from sfumato.tasks.fill import Filling, fill
from sfumato.tasks.given import Mask
from sfumato.tasks.hole import box_around, closed, scaled_hole
from sfumato.tasks.picture import OnPicture
from sfumato.tasks.sampling import CONFIG, Prompted


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Inpaint(Filling, Prompted, OnPicture):
    """Make the white part of a mask anew; where the mask is black every pixel comes back exactly as it was.

    Any model can: what is known is held on its noising path (guidance.constraints.known). A model that was trained
    to fill holes reads mask and picture beside x as well. At strength 1 nothing sees what was in the hole.
    """

    mask: Mask = Field(description="white where the picture is made anew, black where it is kept")
    invert: bool = Field(default=False, description="make the black part of the mask anew, not the white")
    threshold: Annotated[float, Gt(0), Le(1)] | None = Field(
        default=None, description="make the mask hard: white from this grey on, 0 to 1, black below"
    )
    grow: Annotated[int, Ge(-1024), Le(1024)] = Field(
        default=0, description="widen the hole by so many pixels; below 0 narrow it"
    )
    around: Annotated[int, Ge(0), Le(8192)] | None = Field(
        default=None,
        description="look at the hole and so many pixels around it alone, at the model's own size, and put it back",
    )

    async def __call__(self, model: Any) -> Any:
        """Hide the hole, encode, walk with the rest held, decode, and lay the hole into the picture."""
        if self.mask.size != self.image.size:
            (a, b), (c, d) = self.mask.size, self.image.size
            raise InvalidRequest(f"the mask is {a}x{b} and the picture {c}x{d}: they must be of one size")
        hole: NDArray[np.float32] = 1 - self.mask.pixels if self.invert else self.mask.pixels
        pixels = self.scaled(self.image)
        if self.size is not None:  # the mask goes the picture's way
            hole = scaled_hole(hole, self.size)
        if self.threshold is not None:
            hole = (hole >= np.float32(self.threshold)).astype(np.float32)
        hole = grown(hole, self.grow)
        blank = self.strength == 1 and self.soft == "blend"
        if self.around is None or not hole.any():
            canvas = canvas_for(pixels.shape[1], pixels.shape[0], model.defaults, tile=self.tile)
            return await fill(self, model, pixels, hole, canvas, blank=blank)
        return await self._close_up(model, pixels, hole, self.around, blank)

    async def _close_up(
        self, model: Any, pixels: NDArray[np.uint8], hole: NDArray[np.float32], around: int, blank: bool
    ) -> Any:
        """Fill the hole in a part of the picture, enlarged or made smaller to the model's own size, and stitch."""
        left, top, width, height = box_around(hole, around + int(np.ceil(3 * self.feather)))
        at = np.s_[top : top + height, left : left + width]
        times = max(model.defaults.width, model.defaults.height) / max(width, height)
        across, down = (max(1, round(side * times)) for side in (width, height))
        canvas = canvas_for(across, down, model.defaults)
        small = scaled_hole(hole[at], f"{across}x{down}")

        def stitched(made: NDArray[np.uint8], covers: NDArray[np.float32]) -> NDArray[np.uint8]:
            whole = pixels.copy()
            whole[at] = closed(pixels[at], scaled(made, width, height), covers)
            return whole

        part = scaled(np.ascontiguousarray(pixels[at]), across, down)
        return await fill(
            self, model, part, small, canvas, blank=blank, times=times, true=hole[at], finish=stitched
        )
