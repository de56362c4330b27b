"""A small mixture of Gaussians whose rows are pictures, and pictures for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.model import Model
from sfumato.tasks.task import Result, make

SIDE = 4


def toy(side: int = SIDE, **options: Any) -> Model:
    """A mixture of two components, ``left`` and ``right``, of side x side pixels."""
    values = 3 * side * side
    means = 0.5 * torch.randn(
        2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    covs = 0.05 * torch.eye(values, dtype=torch.float64).expand(2, -1, -1)
    return mixture(means, covs, torch.ones(2), names=["left", "right"], **options)


def picture(width: int = SIDE, height: int = SIDE, seed: int = 0) -> np.ndarray:
    """A random picture, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def corner(width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A mask whose upper part is made anew, all but its first column."""
    mask = np.zeros((height, width), bool)
    mask[: height // 2, 1:] = True
    return mask


def done(task: type[Any], model: Model | None = None, **fields: Any) -> Result:
    """The result of ``task`` with ``fields``."""
    found: Result = run(make(task, **fields)(toy() if model is None else model))
    return found


def alike(task: type[Any], whole: Result, model: Model, **given: Any) -> None:
    """Each picture of ``whole`` is made again, alone, by its arguments and the pictures that were ``given``."""
    for pixels, arguments in zip(whole.pixels, whole.arguments, strict=True):
        parents = arguments.get("parents", {})
        plain = {name: value for name, value in arguments.items() if name != "parents"}
        request = make(task, **plain, **{name: given[name] for name in parents})
        assert {name: getattr(request, name).hash for name in parents} == parents
        again = run(request(model))
        assert len(again.pixels) == 1
        assert np.array_equal(again.pixels[0], pixels)
        assert again.arguments == (arguments,)
