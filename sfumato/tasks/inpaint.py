"""Part of a picture made anew, the rest kept exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.constraints import known
from sfumato.model import Model
from sfumato.tasks.beside import fill_channels, fills
from sfumato.tasks.canvas import Canvas, latent_shape, sized, tensor
from sfumato.tasks.given import Mask
from sfumato.tasks.hole import at_latent, closed, feathered, hidden, kept, kept_by_level
from sfumato.tasks.picture import OnPicture, latents
from sfumato.tasks.sampling import CONFIG, Part, Prompted, Sampling, one_by_one, plan

Soft = Literal["blend", "late"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Filling(Sampling):
    """What tasks share that fill a hole in a picture."""

    strength: Part = Field(
        default=1.0, description="below 1 the walk begins at what was in the hole, with noise over it"
    )
    feather: Annotated[float, Ge(0), Le(256)] = Field(
        default=0.0, description="blur the edge of the hole by so many pixels"
    )
    soft: Soft = Field(
        default="blend",
        description="where the mask is grey: blend old and new, or make it anew from a later step on (late)",
    )


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Inpaint(Filling, Prompted, OnPicture):
    """Make the white part of a mask anew; where the mask is black every pixel comes back exactly as it was.

    Any model can: what is known is held on its noising path (guidance.constraints.known). A model that was trained
    to fill holes reads mask and picture beside x as well. At strength 1 nothing sees what was in the hole.
    """

    mask: Mask = Field(description="white where the picture is made anew, black where it is kept")
    invert: bool = Field(default=False, description="make the black part of the mask anew, not the white")

    async def __call__(self, model: Any) -> Any:
        """Hide the hole, encode, walk with the rest held, decode, and lay the hole into the picture."""
        if self.mask.size != self.image.size:
            (a, b), (c, d) = self.mask.size, self.image.size
            raise InvalidRequest(f"the mask is {a}x{b} and the picture {c}x{d}: they must be of one size")
        hole: NDArray[np.float32] = 1 - self.mask.pixels if self.invert else self.mask.pixels
        pixels, canvas = self.laid(model)
        if self.size is not None:  # the mask goes the picture's way, as a picture; hard edges stay hard
            grey = np.repeat(np.rint(hole * 255).astype(np.uint8)[..., None], 3, axis=2)
            hard = bool(np.isin(hole, (0, 1)).all())
            hole = sized(grey, self.size)[..., 0].astype(np.float32) / np.float32(255)
            hole = (hole > 0).astype(np.float32) if hard else hole
        return await fill(
            self, model, pixels, hole, canvas, blank=self.strength == 1 and self.soft == "blend"
        )


async def fill(
    task: Any,
    model: Model,
    pixels: NDArray[np.uint8],
    hole: NDArray[np.float32],
    canvas: Canvas,
    *,
    blank: bool,
) -> Any:
    """Fill the ``hole`` (H, W) of ``pixels`` (H, W, 3) on ``canvas`` as ``task`` says.

    ``blank`` hides what is in the hole before anything is encoded. InvalidRequest for a hole of nothing.
    """
    if not hole.any():
        raise InvalidRequest(
            "the mask is black everywhere: nothing would be made anew; white is what is made anew, and invert "
            "turns a mask round"
        )
    hole = feathered(hole, task.feather)
    size = (canvas.width, canvas.height)
    told = fills(model, latent_shape(model, *size))
    to = plan(task, model, size, strength=task.strength or 1.0, beside=True)
    if to.split:
        return await one_by_one(task, model)
    wide = canvas.pad(hole, "constant")
    y = await latents(model, hidden(pixels, hole) if blank else pixels, canvas)
    if task.strength == 0:
        x = y.expand(len(to.rows), *y.shape[1:])
    else:
        want, avoid = await to.conditions(task.prompt, task.negative)
        if told:
            beside = await beside_x(model, canvas.pad(pixels), wide, to.shape)
            want, avoid = replace(want, channels=beside), replace(avoid, channels=beside)
        small = at_latent(wide, to.shape).to(y.dtype)
        mask = kept_by_level(small, to.grid) if task.soft == "late" else kept(small)
        x = await to.walk(to.start(y), known(to.guided(want, avoid), y, mask))
    covers = np.where(hole > 0, 1, 0).astype(np.float32) if task.soft == "late" else hole
    return to.result(await model.decode(x), lambda made: closed(pixels, canvas.crop(made), covers))


async def beside_x(
    model: Model, pixels: NDArray[np.uint8], hole: NDArray[np.float32], shape: tuple[int, ...]
) -> Tensor:
    """What a model that fills holes reads beside x: the mask, and the latents of the picture with its hole grey."""
    free = torch.from_numpy((hole > 0).astype(np.float32))[None, None]
    grey = tensor(pixels) * (1 - free)
    return fill_channels(model, await model.encode(grey), free, shape)
