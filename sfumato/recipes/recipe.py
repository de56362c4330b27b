"""What a training recipe is, and the table of those that exist."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.pictures import PictureSet
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.train.loop import Hyper, Objective

Pictures = list[NDArray[np.uint8]]
Say = Callable[[str], None]


class Prepared(Protocol):
    """A recipe made ready on some data: what to minimise and how to look at, judge and keep the result."""

    @property
    def objective(self) -> Objective:
        """What the run minimises."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """What is known of the data, for checkpoints and weights."""
        ...

    def score(self) -> Tensor:
        """Losses on fixed (example, level, noise) triples with the weights in the module; lower is better."""
        ...

    def sheet(self) -> tuple[Pictures, list[str]]:
        """Pictures with captions that show what the weights now in the module do."""
        ...

    def export(self, tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
        """Write the weights as sfumato ships them."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """A named way to train a model: its numbers, and a function that makes it ready on a set of pictures.

    ``prepare(pictures, run folder, seed, fresh, say)`` stores what is computed once in the run's folder;
    ``fresh`` begins from random weights even where the tree has some to go on from.
    """

    name: str
    summary: str
    hyper: Hyper
    prepare: Callable[[PictureSet, Path, int, bool, Say], Prepared]


RECIPES = {
    "emoji": "sfumato.recipes.emoji:denoiser_recipe",
    "emoji-codec": "sfumato.recipes.emoji_codec:codec_recipe",
    "digits": "sfumato.recipes.labelled:labelled_recipe",
}
"""Where each recipe's function is; looked up on demand, so that listing them imports nothing heavy."""


def recipe(name: str) -> TrainRecipe:
    """The recipe called ``name``; UnknownName with the nearest names otherwise."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    module, function = RECIPES[name].split(":")
    made: TrainRecipe = getattr(importlib.import_module(module), function)()
    return made


def rgba_tensor(pictures: PictureSet, rows: list[int], side: int) -> Tensor:
    """Pictures ``rows`` as uint8 (N, 4, side, side); InvalidRequest if there are none of that split."""
    if not rows:
        raise InvalidRequest(f"{pictures.path} has no pictures to train on (none of the split 'train')")
    out = torch.empty(len(rows), 4, side, side, dtype=torch.uint8)
    for k, row in enumerate(rows):
        pixels = pictures.read(row)
        if pixels.shape[:2] != (side, side):
            from PIL import Image

            pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
        out[k] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return out
