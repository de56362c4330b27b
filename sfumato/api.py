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
from sfumato.device import compute_dtype, device_named, dtype_named
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

    def __init__(self, model: Model, dtype: torch.dtype, notes: tuple[str, ...] = ()) -> None:
        """Wrap ``model``, whose networks compute in ``dtype``; ``notes`` are told with every result."""
        self.model, self.dtype, self.notes = model, dtype, notes

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
            notes=(*self.notes, *result.notes),
        )

    def _preview(self, estimate: Estimate) -> NDArray[np.uint8]:
        with torch.inference_mode():
            pixels = self.model.codec.decode(estimate.x0[:1])
        preview: NDArray[np.uint8] = to_bytes(pixels[0].to(torch.float32).cpu().numpy())
        return preview


def models() -> dict[str, str]:
    """The models known by name, each with one line on what it makes."""
    return dict(MODELS)


def load(
    name: str = "emoji",
    *,
    dtype: str | None = None,
    device: str = "cpu",
    family: str | None = None,
    predicts: str | None = None,
    tokens: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    allow_pickle: bool = False,
    download: bool = False,
) -> Loaded:
    """The model called ``name``, or the checkpoint at that path, ready to be called.

    A checkpoint is a diffusers folder, a single ``.safetensors`` file in the authors' layout, or the name of a hub
    repository that is in the local cache (``download`` fetches it; extra ``hub``). ``dtype`` is "float32",
    "bfloat16" or "float16"; by default bfloat16 where the device multiplies it in hardware; float16 on a CPU becomes
    the default, which is many times faster there. ``family`` and ``predicts`` overrule what the checkpoint's keys
    say, ``tokens`` is T5's vocabulary where the checkpoint brings none, ``variant`` chooses among a folder's files
    ("fp16"). Files with pickles are opened with ``allow_pickle`` alone.

    Raises UnknownName for a model that is not known and WeightsError for weights that are damaged or of no family.
    """
    if name in MODELS:
        if device_named(device).type != "cpu":
            raise InvalidRequest(
                f"device = {device!r} is not for the built-in model: it is packed for the CPU"
            )
        chosen, _ = _dtype(dtype, "cpu")
        return Loaded(emoji.load(dtype=chosen), chosen)
    if not Path(name).exists() and "/" not in str(name):
        raise UnknownName("model", name, MODELS)
    from sfumato.families.checkpoint import open_checkpoint
    from sfumato.families.published import load_checkpoint
    from sfumato.text.t5 import T5Tokens
    from sfumato.weights.hub import resolve
    from sfumato.weights.source import open_source

    place = device_named(device)
    chosen, note = _dtype(dtype, device)
    words = None if tokens is None else T5Tokens.load(Path(tokens))
    with open_source(resolve(name, download=download), variant=variant, allow_pickle=allow_pickle) as source:
        model = load_checkpoint(
            open_checkpoint(source),
            dtype=chosen,
            device=place,
            family=family,
            predicts=predicts,
            tokens=words,
        )
    return Loaded(model, chosen, (note,) if note else ())


def _dtype(name: str | None, device: str) -> tuple[torch.dtype, str]:
    """The dtype to compute in on ``device``, and what to tell if it is not the one that was asked for."""
    if name == "float16" and device == "cpu":
        fast = compute_dtype(device)
        told = str(fast).removeprefix("torch.")
        return fast, f"a CPU computes float16 many times slower; the model runs in {told}"
    return dtype_named(name, device), ""


def remake(path: str | os.PathLike[str], model: str | None = None) -> Images:
    """Make the picture in ``path`` again from the recipe it carries; ``model`` is where its checkpoint lies.

    Bit for bit the same on the same machine with the same versions; notes say what differs. InvalidRequest if
    the recipe is of another model or task.
    """
    recipe = read_recipe(Path(path))
    if recipe.task not in TASKS:
        raise UnknownName("task", recipe.task, TASKS)
    if model is None and recipe.model not in MODELS:
        raise InvalidRequest(
            f"{path} was made by a checkpoint of {recipe.model!r} (hash {recipe.model_hash[:12]}...): "
            f"say where it lies, with --model"
        )
    loaded = load(model or recipe.model, dtype=recipe.versions.get("dtype"))
    if loaded.model.hash != recipe.model_hash:
        raise InvalidRequest(
            f"{path} was made by other weights of {recipe.model!r} (hash {recipe.model_hash[:12]}..., "
            f"this one {loaded.model.hash[:12]}...): its recipe cannot be followed exactly; "
            f"use its prompt and seed as they are with `sfumato generate`"
        )
    made = loaded.run(make(TASKS[recipe.task], **recipe.arguments))
    now = made.images[0].recipe.versions
    changed = [
        f"{key} was {then}, is {now.get(key)}"
        for key, then in recipe.versions.items()
        if now.get(key) != then
    ]
    note = (f"the picture may differ in the last bits: {'; '.join(changed)}",) if changed else ()
    return Images(images=made.images, notes=(*made.notes, *note))
