"""A picture continued beyond its edges."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.picture.mask import grown
from sfumato.tasks.canvas import Canvas, canvas_for
from sfumato.tasks.fill import Filling, fill
from sfumato.tasks.hole import hidden
from sfumato.tasks.picture import OnPicture
from sfumato.tasks.sampling import CONFIG, Prompted

Margin = Annotated[int, Ge(0), Le(8192)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Outpaint(Filling, Prompted, OnPicture):
    """Continue a picture beyond its edges; the picture itself comes back exactly as it was.

    The new margin is filled with the colours at the edge, and made anew as a hole is. ``feather`` lets the margin
    reach into the picture, by about four times as much; then the picture is blended there.
    """

    left: Margin = Field(default=0, description="pixels to add on the left")
    right: Margin = Field(default=0, description="pixels to add on the right")
    top: Margin = Field(default=0, description="pixels to add at the top")
    bottom: Margin = Field(default=0, description="pixels to add at the bottom")

    def laid(self, model: Model) -> tuple[NDArray[np.uint8], Canvas]:
        """The scaled picture (H, W, 3), and where it lies with its margins."""
        pixels = self.scaled(self.image)
        wide, high = self.left + self.right, self.top + self.bottom
        canvas = canvas_for(
            pixels.shape[1] + wide,
            pixels.shape[0] + high,
            model.defaults,
            tile=self.tile,
            margin=max(wide, high),
        )
        return pixels, canvas

    async def __call__(self, model: Any) -> Any:
        """Lay the picture on a larger one, whose margin is a hole, and fill it."""
        if not self.left + self.right + self.top + self.bottom:
            raise InvalidRequest("there is no margin to paint: give left, right, top or bottom in pixels")
        within, canvas = self.laid(model)
        sides = ((self.top, self.bottom), (self.left, self.right))
        hole = np.pad(np.zeros(within.shape[:2], np.float32), sides, constant_values=1)
        pixels = hidden(np.pad(within, (*sides, (0, 0)), mode="edge"), hole)
        # The blur is to begin at the edge: in the margin there is nothing to blend with.
        hole = grown(hole, int(np.ceil(2 * self.feather)))
        return await fill(self, model, pixels, hole, canvas, blank=True)
