"""Where a picture lies on what a model can make: scaled, padded to the model's sizes, and cropped again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.model import Defaults, Model


@dataclass(frozen=True)
class Canvas:
    """A size that a model can make, and the box of it (left, top, width, height) that holds a picture."""

    width: int
    height: int
    box: tuple[int, int, int, int]

    def pad(self, values: NDArray[Any], mode: str = "reflect") -> NDArray[Any]:
        """``values`` (h, w, ...) on the canvas; what is outside the box is reflected, or as numpy's ``mode`` says."""
        left, top, width, height = self.box
        sides = ((top, self.height - top - height), (left, self.width - left - width))
        padding: Any = (*sides, *((0, 0),) * (values.ndim - 2))
        return np.pad(values, padding, mode=mode)  # type: ignore[call-overload,no-any-return]

    def crop(self, values: NDArray[Any]) -> NDArray[Any]:
        """The box of ``values`` (H, W, ...)."""
        left, top, width, height = self.box
        return np.ascontiguousarray(values[top : top + height, left : left + width])


def canvas_for(width: int, height: int, defaults: Defaults, *, tile: bool = False, margin: int = 0) -> Canvas:
    """The smallest size that the model makes and that a picture of ``width`` x ``height`` fits on, in its middle.

    With ``tile`` the model's most is no limit. InvalidRequest if the picture is larger than the model can make;
    ``margin`` pixels of a side are added to what ``size`` scales, so the size that would do is smaller by them.
    """
    sides = [
        max(-(-side // defaults.multiple) * defaults.multiple, defaults.least) for side in (width, height)
    ]
    if max(sides) > defaults.most and not tile:
        size, beside = defaults.most - margin, " with what is added" if margin else ""
        raise InvalidRequest(
            f"the picture{beside} is {width}x{height} and this model makes at most {defaults.most}x{defaults.most}: "
            + (f"make it smaller with size = {size}, or " if size > 0 else "add less, or ")
            + "ask for tile, which walks overlapping windows of it"
        )
    across, down = sides
    return Canvas(across, down, ((across - width) // 2, (down - height) // 2, width, height))


def latent_shape(model: Model, width: int, height: int) -> tuple[int, ...]:
    """The shape of one latent of a picture of this size, which may be more than the model makes at once."""
    defaults = model.defaults
    if max(width, height) <= defaults.most:
        return model.codec.shape(height, width)
    channels, rows, columns = model.codec.shape(defaults.most, defaults.most)
    return channels, height * rows // defaults.most, width * columns // defaults.most


def window_shape(model: Model, width: int, height: int) -> tuple[int, ...]:
    """The shape of the latents that the model walks at once, of a picture of this size."""
    return latent_shape(model, *(min(side, model.defaults.most) for side in (width, height)))


def sized(pixels: NDArray[np.uint8], size: str | None) -> NDArray[np.uint8]:
    """``pixels`` in another size: ``"128"`` is the longer side, ``"128x96"`` cuts off what does not fit.

    None leaves them as they are. InvalidRequest for a size that is not one or two whole numbers above 0.
    """
    if size is None:
        return pixels
    parts = size.lower().replace("×", "x").split("x")
    numbers = [int(part) if part.strip().isdecimal() and len(part) < 7 else 0 for part in parts]
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        shown = repr(size if len(size) <= 40 else size[:37] + "...")
        raise InvalidRequest(
            f"size = {shown} is not allowed: write the longer side, such as 128, or width x height, such as 128x96"
        )
    height, width = pixels.shape[:2]
    if len(numbers) == 1:
        part = numbers[0] / max(width, height)
        return scaled(pixels, max(1, round(width * part)), max(1, round(height * part)))
    part = max(numbers[0] / width, numbers[1] / height)
    across, down = (max(side, round(old * part)) for side, old in zip(numbers, (width, height), strict=True))
    whole = scaled(pixels, across, down)
    left, top = (across - numbers[0]) // 2, (down - numbers[1]) // 2
    return np.ascontiguousarray(whole[top : top + numbers[1], left : left + numbers[0]])


def scaled(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """``pixels`` (H, W, 3) as ``width`` x ``height``, by bicubic interpolation without aliasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    made = functional.interpolate(rows, (height, width), mode="bicubic", antialias=True)
    return made[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def tensor(pixels: NDArray[Any]) -> Tensor:
    """Pixels uint8 (H, W, 3) as float32 (1, 3, H, W) in [-1, 1]."""
    rows = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].to(torch.float32)
    return rows / 127.5 - 1


def to_bytes(pixels: Any) -> Any:
    """Pixels (3, H, W) float in [-1, 1] as uint8 (H, W, 3), rounded to nearest."""
    values = np.clip((pixels.transpose(1, 2, 0) + 1) * 127.5, 0, 255)
    return np.ascontiguousarray(np.rint(values).astype(np.uint8))


def parse_size(text: str, defaults: Any) -> tuple[int, int]:
    """Width and height from ``"128x96"`` or ``"128"``; InvalidRequest if the model cannot make that."""
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    parts = text.lower().replace("×", "x").split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise InvalidRequest(
            f"size = {shown} is not allowed: write width x height, such as {defaults.width}x{defaults.height}"
        )
    width, height = numbers[0], numbers[-1]
    for side in (width, height):
        if not defaults.least <= side <= defaults.most or side % defaults.multiple:
            nearest = _nearest(side, defaults)
            allowed = (
                f"{defaults.least}"
                if defaults.least == defaults.most
                else f"multiples of {defaults.multiple} from {defaults.least} to {defaults.most}"
            )
            raise InvalidRequest(
                f"size = {shown} is not one that this model can make: a side may be {allowed}; "
                f"the nearest is {nearest}"
            )
    return width, height


def _nearest(side: int, defaults: Any) -> int:
    rounded = round(side / defaults.multiple) * defaults.multiple
    return int(min(max(rounded, defaults.least), defaults.most))
