"""A loaded model, and the pictures that it makes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.adapted import Adapters, Exactly, Given
from sfumato.ask import Ask
from sfumato.embedding import Written, embed
from sfumato.engine.engine import Engine
from sfumato.engine.request import Progress as EngineProgress
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.model import Model
from sfumato.picture.png import save_png
from sfumato.picture.recipe import Recipe, current_versions
from sfumato.preview import Previewer
from sfumato.process.estimate import Estimate
from sfumato.tasks.table import TASKS, request
from sfumato.tasks.worded import drawn

Progress = Callable[[int, Callable[[], NDArray[np.uint8]]], None]


@dataclass(frozen=True, eq=False)
class Picture:
    """One finished picture and the recipe that makes it again."""

    pixels: NDArray[np.uint8] = field(repr=False)
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
        self,
        model: Model,
        dtype: torch.dtype,
        notes: tuple[str, ...] = (),
        given: Given | None = None,
        draws: bool = True,
    ) -> None:
        """Wrap ``model``, whose networks compute in ``dtype``; ``notes`` are told with every result.

        A model that does not draw (``draws``, see api.load) reads prompts alone.
        """
        self.model, self.dtype, self.notes, self.draws = model, dtype, notes, draws
        self.adapters = Adapters(model, given)
        self._previewer = Previewer(model.codec)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def __call__(self, prompt: str = "", *, progress: Progress | None = None, **options: Any) -> Images:
        """Pictures of ``prompt``; ``options`` are the fields of Text2Image (negative, steps, seed ...).

        ``embedded`` is a file of embedded prompts, in place of text encoders and, if it holds one, of the prompt.
        ``progress(evaluations, preview)`` is called after each network evaluation; ``preview()`` decodes the
        current estimate of the first picture. InvalidRequest names every option that is not allowed.
        """
        return self.task("text2image", progress=progress, prompt=prompt, **options)

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

    def instruct(self, image: Any, prompt: str, **fields: Any) -> Images:
        """``image`` changed as an instruction says, by a model that was trained to follow one: Instruct."""
        return self.task("instruct", image=image, prompt=prompt, **fields)

    def control(self, image: Any, prompt: str, **fields: Any) -> Images:
        """A picture that follows the map ``image`` of edges or of depth: Control."""
        return self.task("control", image=image, prompt=prompt, **fields)

    def style(self, image: Any, prompt: str, **fields: Any) -> Images:
        """Pictures of ``prompt`` in the style of ``image``: Style."""
        return self.task("style", image=image, prompt=prompt, **fields)

    def compose(self, prompt: str, *regions: str, **fields: Any) -> Images:
        """A picture of ``prompt`` and, in ``regions``, ``"rect(0, 0, 50%, 100%): a cat"``, of other things: Compose."""
        return self.task("compose", prompt=prompt, regions=regions, **fields)

    def tile(self, prompt: str, **fields: Any) -> Images:
        """Pictures of ``prompt`` whose opposite edges fit: Tile."""
        return self.task("tile", prompt=prompt, **fields)

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

    def embed(
        self, path: str | os.PathLike[str], *requests: str | Mapping[str, Any], steps: int | None = None
    ) -> Written:
        """Write what the text encoders make of prompts to ``path``, for requests that say ``embedded=path``.

        Each request is a prompt, or fields of a task in a table (``{"prompt": "a cat", "negative": "grey"}``); see
        embedding.embed.
        """
        told = [{"prompt": one} if isinstance(one, str) else one for one in requests]
        named = str(self.dtype).removeprefix("torch.")
        return embed(self.model, self.adapters, path, told, steps=steps, dtype=named)

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
            for one, patterns, number in drawn(task, seed, None if lists is None else Path(lists))
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
        if not self.draws:
            raise InvalidRequest(
                f"the model {self.name!r} was loaded with its text encoders alone (draws=False), which write embedded "
                "prompts: load it without draws=False to make pictures"
            )
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
                        self.model.hash_without_texts if getattr(task, "embedded", None) else self.model.hash,
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
