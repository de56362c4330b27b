"""The front door of the library: load a model, call it, keep the pictures with their recipes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.adapted import GIVEN, Adapters, Exactly, Given, again
from sfumato.ask import Ask
from sfumato.device import compute_dtype, device_named, dtype_named
from sfumato.engine.engine import Engine
from sfumato.engine.request import Progress as EngineProgress
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families import emoji
from sfumato.families.table import MODELS
from sfumato.model import Model
from sfumato.picture.png import read_recipe, save_png
from sfumato.picture.recipe import Recipe, current_versions
from sfumato.preview import Previewer
from sfumato.process.estimate import Estimate
from sfumato.tasks.animate import Animate
from sfumato.tasks.given import Area, picture_fields
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.interpolate import Interpolate
from sfumato.tasks.outpaint import Outpaint
from sfumato.tasks.resample import Resample
from sfumato.tasks.restore import Restore
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.tasks.upscale import Upscale
from sfumato.tasks.vary import Vary
from sfumato.tasks.worded import drawn

TASKS: dict[str, type[Any]] = {
    "animate": Animate,
    "class2image": Class2Image,
    "image2image": Image2Image,
    "inpaint": Inpaint,
    "interpolate": Interpolate,
    "outpaint": Outpaint,
    "resample": Resample,
    "restore": Restore,
    "text2image": Text2Image,
    "unconditional": Unconditional,
    "upscale": Upscale,
    "vary": Vary,
}
"""The tasks by name."""

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

    def save_moving(self, path: str | os.PathLike[str]) -> Path:
        """Write all frames of an animation as one file, .webp, .png or .gif, with the recipe of the whole."""
        from sfumato.picture.moving import save_moving

        one = self.images[0].recipe
        if one.task != "animate":
            raise InvalidRequest(f"these are pictures of the task {one.task!r}, not frames of an animation")
        alone = len(self.images) == 1  # a frame that was picked
        whole = one if alone else replace(one, arguments={**one.arguments, "pick": None})
        fps, once = float(str(one.arguments["fps"])), bool(one.arguments["once"])
        return save_moving(path, [picture.pixels for picture in self.images], whole, fps=fps, once=once)


class Loaded:
    """A model that is ready to be called."""

    def __init__(
        self, model: Model, dtype: torch.dtype, notes: tuple[str, ...] = (), given: Given | None = None
    ) -> None:
        """Wrap ``model``, whose networks compute in ``dtype``; ``notes`` are told with every result."""
        self.model, self.dtype, self.notes = model, dtype, notes
        self.adapters = Adapters(model, given)
        self._previewer = Previewer(model.codec)

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

    def task(self, name: str, *, progress: Progress | None = None, **fields: Any) -> Images:
        """The task called ``name`` with its ``fields``; pictures may be paths, bytes, arrays or Pillow's.

        UnknownName for a task that does not exist; InvalidRequest names every field that is not allowed.
        """
        task, notes = request(name, **fields)
        made = self.run(task, progress)
        return Images(images=made.images, notes=(*notes, *made.notes))

    def edit(self, image: Any, prompt: str, **fields: Any) -> Images:
        """``image`` changed by a sentence: Image2Image, whose fields are ``strength`` and others."""
        return self.task("image2image", image=image, prompt=prompt, **fields)

    def inpaint(self, image: Any, prompt: str, mask: Any, **fields: Any) -> Images:
        """The white part of ``mask`` made anew: Inpaint."""
        return self.task("inpaint", image=image, prompt=prompt, mask=mask, **fields)

    def outpaint(self, image: Any, prompt: str, **fields: Any) -> Images:
        """``image`` continued beyond its edges, ``left=32`` and so on: Outpaint."""
        return self.task("outpaint", image=image, prompt=prompt, **fields)

    def resample(self, image: Any, prompt: str, **fields: Any) -> Images:
        """``image`` carried up to its own noise and down with another prompt: Resample."""
        return self.task("resample", image=image, prompt=prompt, **fields)

    def vary(self, prompt: str = "", **fields: Any) -> Images:
        """Pictures near that of a seed, or near an ``image``: Vary."""
        return self.task("vary", prompt=prompt, **fields)

    def interpolate(self, prompt: str = "", **fields: Any) -> Images:
        """Pictures on the way to another prompt, seed or picture: Interpolate."""
        return self.task("interpolate", prompt=prompt, **fields)

    def animate(self, *prompts: str, **fields: Any) -> Images:
        """Frames that go from each of ``prompts`` to the next: Animate; the result's ``save_moving`` writes a file."""
        return self.task("animate", prompts=prompts, **fields)

    def upscale(self, image: Any = None, **fields: Any) -> Images:
        """``image``, or one made from a prompt, enlarged: Upscale."""
        return self.task("upscale", image=image, **fields)

    def restore(self, image: Any, **fields: Any) -> Images:
        """``image`` restored from a ``damage``: Restore."""
        return self.task("restore", image=image, **fields)

    def adapt(self, path: str | os.PathLike[str], strength: float = 1.0, **how: Any) -> tuple[str, ...]:
        """Let an adapter act until ``adapters.remove``: ``adapters.add``, whose options are ``text``, ``blocks`` ..."""
        return self.adapters.add(path, strength, **how)

    def draw(
        self,
        task: Any,
        seed: int,
        lists: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Images:
        """Run ``task`` with prompts drawn from its patterns, ``{a|b}`` and ``__list__``, of the folder ``lists``.

        Each picture has a prompt of its own: the first that of ``seed``, the next count on.
        """
        made = [
            self.run(one, progress, extra={"drawn": {**patterns, "draw": number}})
            for one, patterns, number in drawn(task, seed, lists)
        ]
        notes = dict.fromkeys(note for each in made for note in each.notes)
        return Images(images=tuple(p for each in made for p in each.images), notes=tuple(notes))

    def run(
        self,
        task: Any,
        progress: Progress | None = None,
        rows: int | None = None,
        *,
        exactly: Exactly | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Images:
        """Run one task on this model, with the adapters that stand and those that its prompts name.

        ``rows`` is the size of the network's calls: 0 for one picture a call, which is the quickest for a single
        one, else calls filled up to so many rows, which share the work of several. Bits depend on it, so a recipe
        keeps it; by default it is chosen by how many pictures are asked for.
        ``exactly`` are adapters in place of those (see adapted.again); ``extra`` is kept in the recipe as it is.
        """
        name = next((name for name, kind in TASKS.items() if type(task) is kind), None)
        if name is None:
            raise UnknownName("task", type(task).__name__, [kind.__name__ for kind in TASKS.values()])
        rows = rows_for(task) if rows is None else rows
        with self.adapters.during(task, exactly) as acting:
            result = self._shared(task, progress, rows) if rows else self._alone(task, progress)
        versions = current_versions(dtype=str(self.dtype).removeprefix("torch."))
        if rows:
            versions["rows"] = str(rows)
        return Images(
            images=tuple(
                Picture(
                    pixels,
                    Recipe(
                        name,
                        self.model.name,
                        self.model.hash,
                        {**arguments, **acting.facts},
                        versions,
                        extra=dict(extra or {}),
                    ),
                )
                for pixels, arguments in zip(result.pixels, result.arguments, strict=True)
            ),
            notes=(*self.notes, *acting.notes, *result.notes),
        )

    def _alone(self, task: Any, progress: Progress | None) -> Any:
        """The result of ``task``, every picture in calls of its own."""
        done = 0

        def listen(ask: Ask, reply: Any) -> None:
            nonlocal done
            if ask.verb == "denoise" and progress is not None:
                done += 1
                estimate: Estimate = reply[0]
                progress(done, lambda: self._preview(estimate))

        return run(task(self.model), listen)

    def _shared(self, task: Any, progress: Progress | None, rows: int) -> Any:
        """The result of ``task``, its pictures in shared calls of ``rows`` rows."""

        def listen(told: EngineProgress) -> None:
            estimate = told.estimate
            if told.verb == "denoise" and progress is not None and estimate is not None:
                progress(told.evaluations, lambda: self._preview(estimate))

        pending = Engine(self.model, bucket=rows).submit(task, listen=listen)
        try:
            return pending.result()
        finally:
            pending.cancel()

    def preview_by(self, path: str | os.PathLike[str]) -> None:
        """Decode previews with the tiny autoencoder in ``path`` (TAESD and its kin) from now on.

        Without one a large codec's previews are by a linear map, as small as the latent. WeightsError if the file
        holds another thing, InvalidRequest if its latents are not this model's.
        """
        from sfumato.families.tiny import tiny_codec

        tiny, codec = tiny_codec(path), self.model.codec
        sides = self.model.defaults.height, self.model.defaults.width
        if tiny.shape(*sides) != codec.shape(*sides):
            raise InvalidRequest(
                f"{path} decodes latents of the shape {tiny.shape(*sides)}, and those of {self.name!r} are "
                f"{codec.shape(*sides)}: give the tiny autoencoder of its family"
            )
        self._previewer = Previewer(codec, tiny)

    def _preview(self, estimate: Estimate) -> NDArray[np.uint8]:
        return self._previewer(estimate.x0)


def rows_for(task: Any) -> int:
    """The rows of a network call for as many pictures as ``task`` asks for, two rows each; 0 for a single one."""
    count = 1 if getattr(task, "pick", None) else int(getattr(task, "count", 1))
    return 0 if count == 1 else min(16, 2 ** math.ceil(math.log2(2 * count)))


def request(name: str, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """The task called ``name`` with its ``fields``, and notes on the pictures among them.

    Pictures may be paths, bytes, arrays, Pillow's or ours; masks also words, ``"rect(8, 8, 50%, 32)"`` (see
    sfumato.picture.mask), and ``"alpha"`` is the transparent part of the picture. UnknownName and InvalidRequest as
    for Loaded.task.
    """
    from sfumato.picture.mask import read_mask
    from sfumato.picture.read import Read, read_picture

    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    task, notes = TASKS[name], []
    read: dict[str, Read] = {}
    kinds = {key: kind for key, kind in picture_fields(task).items() if fields.get(key) is not None}
    for key, kind in kinds.items():
        value = fields[key].pixels if isinstance(fields[key], Picture) else fields[key]
        if kind is not Area:
            read[key] = read_picture(value)
            fields[key] = read[key].pixels
            notes += [f"{key}: {note}" for note in read[key].notes]
    for key, kind in kinds.items():
        if kind is Area and "image" in read:
            fields[key] = read_mask(fields[key], read["image"].size, picture=read["image"])
    return make(task, **fields), tuple(notes)


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
    parts: Sequence[str | os.PathLike[str]] = (),
    packed: bool = False,
    variant: str | None = None,
    allow_pickle: bool = False,
    download: bool = False,
    adapters: Sequence[str | os.PathLike[str]] = (),
    adapters_in: str | os.PathLike[str] | None = None,
    embeddings_in: str | os.PathLike[str] | None = None,
    merged: bool = False,
) -> Loaded:
    """The model called ``name``, or the checkpoint at that path, ready to be called.

    A checkpoint is a diffusers folder, a single ``.safetensors`` or ``.gguf`` file in the authors' layout, a folder of
    loose files with a network each, or the name of a hub repository that is in the local cache (``download`` fetches
    it; extra ``hub``). ``parts`` are files with networks that it lacks, in any order: text encoders, the autoencoder.
    ``packed`` keeps 8-bit and GGUF weights in memory as the file has them. ``dtype`` is "float32",
    "bfloat16" or "float16"; by default bfloat16 where the device multiplies it in hardware; float16 on a CPU becomes
    the default, which is many times faster there. ``family`` and ``predicts`` overrule what the checkpoint's keys
    say, ``tokens`` is T5's vocabulary where the checkpoint brings none, ``variant`` chooses among a folder's files
    ("fp16"). Files with pickles are opened with ``allow_pickle`` alone.

    ``adapters`` act from the start, each a file with its strength, ``"ink.safetensors:0.8"``; prompts name others, which
    lie in the folder ``adapters_in``, and learned words, in ``embeddings_in``. ``merged`` puts adapters into the
    weights (docs/adapters.md).

    Raises UnknownName for a model that is not known and WeightsError for weights that are damaged or of no family.
    """
    given = Given(
        adapters=adapters,
        adapters_in=adapters_in,
        embeddings_in=embeddings_in,
        merged=merged,
        allow_pickle=allow_pickle,
    )
    given.uses()
    if name in MODELS:
        if parts or packed:
            what = "parts" if parts else "packed"
            raise InvalidRequest(
                f"{what} is for checkpoints; the built-in model {name!r} is complete as it is"
            )
        if device_named(device).type != "cpu":
            raise InvalidRequest(
                f"device = {device!r} is not for the built-in model: it is packed for the CPU"
            )
        chosen, _ = _dtype(dtype, "cpu")
        return Loaded(emoji.load(dtype=chosen), chosen, given=given)
    if not Path(name).exists() and "/" not in str(name):
        raise UnknownName("model", name, MODELS)
    from sfumato.families.published import load_checkpoint
    from sfumato.families.split import opened
    from sfumato.text.t5 import T5Tokens
    from sfumato.weights.hub import resolve

    place = device_named(device)
    chosen, note = _dtype(dtype, device)
    words = None if tokens is None else T5Tokens.load(Path(tokens))
    path, more = resolve(name, download=download), [Path(part) for part in parts]
    with opened(path, more, variant=variant, allow_pickle=allow_pickle) as checkpoint:
        model = load_checkpoint(
            checkpoint,
            dtype=chosen,
            device=place,
            family=family,
            predicts=predicts,
            tokens=words,
            packed=packed,
        )
    return Loaded(model, chosen, (note,) if note else (), given)


def _dtype(name: str | None, device: str) -> tuple[torch.dtype, str]:
    """The dtype to compute in on ``device``, and what to tell if it is not the one that was asked for."""
    if name == "float16" and device == "cpu":
        fast = compute_dtype(device)
        told = str(fast).removeprefix("torch.")
        return fast, f"a CPU computes float16 many times slower; the model runs in {told}"
    return dtype_named(name, device), ""


def remake(
    path: str | os.PathLike[str],
    model: str | None = None,
    loading: Mapping[str, Any] | None = None,
    **parents: Any,
) -> Images:
    """Make the picture in ``path`` again from the recipe it carries; ``model`` is where its checkpoint lies.

    ``loading`` is what ``load`` is told besides (``parts``, ``tokens`` ...). ``parents`` are the pictures and masks
    that it was made from, by field (``image=``, ``mask=``): a recipe knows their hashes. Bit for bit the same on
    the same machine with the same versions; notes say what differs.
    InvalidRequest if the recipe is of another model or task, or made from other pictures.
    """
    recipe = read_recipe(Path(path))
    if recipe.task not in TASKS:
        raise UnknownName("task", recipe.task, TASKS)
    told = dict(loading or {})
    given = Given(**{name: told.pop(name) for name in GIVEN if name in told})
    exactly, recipe = again(recipe, given, path)
    task, _ = _again(recipe, path, parents)
    if model is None and recipe.model not in MODELS:
        raise InvalidRequest(
            f"{path} was made by a checkpoint of {recipe.model!r} (hash {recipe.model_hash[:12]}...): "
            f"say where it lies, with --model"
        )
    loaded = load(model or recipe.model, **{"dtype": recipe.versions.get("dtype"), **told})
    if loaded.model.hash != recipe.model_hash:
        raise InvalidRequest(
            f"{path} was made by other weights of {recipe.model!r} (hash {recipe.model_hash[:12]}..., "
            f"this one {loaded.model.hash[:12]}...): its recipe cannot be followed exactly; "
            f"use its prompt and seed as they are with `sfumato generate`"
        )
    made = loaded.run(
        task, rows=_whole(recipe.versions.get("rows", "0")), exactly=exactly, extra=recipe.extra
    )
    now = made.images[0].recipe.versions
    changed = [
        f"{key} was {then}, is {now.get(key)}"
        for key, then in recipe.versions.items()
        if now.get(key) != then
    ]
    note = (f"the picture may differ in the last bits: {'; '.join(changed)}",) if changed else ()
    return Images(images=made.images, notes=(*made.notes, *note))


def _whole(text: str) -> int:
    """The size of calls that a recipe names; 0 if that is no number from 1 to 1024."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= 1024 else 0


def _again(
    recipe: Recipe, path: str | os.PathLike[str], parents: dict[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The task of ``recipe`` with the pictures it was made from, which must be the same ones."""
    arguments = dict(recipe.arguments)
    hashes: Any = arguments.pop("parents", None) or {}
    needed, given = set(hashes), set(parents)
    if needed - given:
        raise InvalidRequest(
            f"{path} was made from pictures that its recipe knows by their hashes alone; give them: "
            f"{', '.join('--' + name.replace('_', '-') for name in sorted(needed - given))}"
        )
    if given - needed:
        raise InvalidRequest(f"{path} was made without {', '.join(sorted(given - needed))}: leave it out")
    task, notes = request(recipe.task, **arguments, **parents)
    for name, wanted in hashes.items():
        found = getattr(task, name).hash
        if found != wanted:
            raise InvalidRequest(
                f"{name} is not the picture that {path} was made from: its hash is {found[:12]}..., and the recipe "
                f"has {str(wanted)[:12]}..."
            )
    return task, notes
