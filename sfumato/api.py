"""The front door of the library: load a model, call it, keep the pictures with their recipes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.ask import Ask
from sfumato.device import dtype_named
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families import emoji
from sfumato.families.table import MODELS
from sfumato.model import Model
from sfumato.picture.png import read_recipe, save_png
from sfumato.picture.recipe import Recipe, current_versions
from sfumato.process.estimate import Estimate
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image, to_bytes

TASKS = {"text2image": Text2Image}

Progress = Callable[[int, Callable[[], NDArray[np.uint8]]], None]


@dataclass(frozen=True, eq=False)
class Picture:
    """One finished picture and the recipe that makes it again."""

    pixels: NDArray[np.uint8]
    recipe: Recipe

    @property
    def image(self) -> Image.Image:
        """The picture for Pillow."""
        return Image.fromarray(self.pixels)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG that carries the recipe, whole or not at all; OutputError says why it cannot be."""
        return save_png(path, self.pixels, self.recipe)

    def _repr_png_(self) -> bytes:
        """How notebooks show the picture."""
        from sfumato.picture.png import encode_png

        return encode_png(self.pixels, self.recipe)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a model made: pictures, in order of their seeds, and notes worth telling."""

    images: tuple[Picture, ...]
    notes: tuple[str, ...] = ()


class Loaded:
    """A model that is ready to be called."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        """Wrap ``model``, whose networks compute in ``dtype``."""
        self.model, self.dtype = model, dtype

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def __call__(self, prompt: str, *, progress: Progress | None = None, **options: Any) -> Images:
        """Pictures of ``prompt``; ``options`` are the fields of Text2Image (negative, steps, seed ...).

        ``progress(evaluations, preview)`` is called after each network evaluation; ``preview()`` decodes the
        current estimate of the first picture. InvalidRequest names every option that is not allowed.
        """
        return self.run(make(Text2Image, prompt=prompt, **options), progress)

    def run(self, task: Text2Image, progress: Progress | None = None) -> Images:
        """Run one task on this model."""
        done = 0

        def listen(ask: Ask, reply: Any) -> None:
            nonlocal done
            if ask.verb == "denoise" and progress is not None:
                done += 1
                estimate: Estimate = reply[0]
                progress(done, lambda: self._preview(estimate))

        result = run(task(self.model), listen)
        versions = current_versions(dtype=str(self.dtype).removeprefix("torch."))
        return Images(
            images=tuple(
                Picture(pixels, Recipe("text2image", self.model.name, self.model.hash, arguments, versions))
                for pixels, arguments in zip(result.pixels, result.arguments, strict=True)
            ),
            notes=result.notes,
        )

    def _preview(self, estimate: Estimate) -> NDArray[np.uint8]:
        with torch.inference_mode():
            pixels = self.model.codec.decode(estimate.x0[:1])
        preview: NDArray[np.uint8] = to_bytes(pixels[0].to(torch.float32).cpu().numpy())
        return preview


def models() -> dict[str, str]:
    """The models known by name, each with one line on what it makes."""
    return dict(MODELS)


def load(name: str = "emoji", *, dtype: str | None = None) -> Loaded:
    """The model called ``name``, ready to be called.

    ``dtype`` is "float32" or "bfloat16"; by default bfloat16 where this processor multiplies it in hardware.
    Raises UnknownName for a model that is not known and WeightsError for weights that are damaged.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    chosen = dtype_named(dtype)
    return Loaded(emoji.load(dtype=chosen), chosen)


def remake(path: str | os.PathLike[str]) -> Images:
    """Make the picture in ``path`` again from the recipe it carries.

    Bit for bit the same on the same machine with the same versions; notes say what differs. InvalidRequest if
    the recipe is of another model or task.
    """
    recipe = read_recipe(Path(path))
    if recipe.task not in TASKS:
        raise UnknownName("task", recipe.task, TASKS)
    model = load(recipe.model, dtype=recipe.versions.get("dtype"))
    if model.model.hash != recipe.model_hash:
        raise InvalidRequest(
            f"{path} was made by other weights of {recipe.model!r} (hash {recipe.model_hash[:12]}..., "
            f"installed {model.model.hash[:12]}...): its recipe cannot be followed exactly; "
            f"use its prompt and seed as they are with `sfumato generate`"
        )
    made = model.run(make(TASKS[recipe.task], **recipe.arguments))
    now = made.images[0].recipe.versions
    changed = [
        f"{key} was {then}, is {now.get(key)}"
        for key, then in recipe.versions.items()
        if now.get(key) != then
    ]
    note = (f"the picture may differ in the last bits: {'; '.join(changed)}",) if changed else ()
    return Images(images=made.images, notes=(*made.notes, *note))
