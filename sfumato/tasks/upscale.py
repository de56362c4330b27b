"""Larger pictures in two passes: enlarge, lay noise over it, and walk it off again."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.noise import MAX_SEED, Stream
from sfumato.tasks.beside import WAYS
from sfumato.tasks.canvas import Canvas, canvas_for, scaled, tensor
from sfumato.tasks.given import MOST_PIXELS, MaybePicture
from sfumato.tasks.picture import latents
from sfumato.tasks.sampling import CONFIG, MaybePrompted, Part, Sampling, one_by_one, plan, windows_of
from sfumato.tasks.task import Result
from sfumato.tasks.text2image import Text2Image


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Upscale(Sampling, MaybePrompted):
    """Enlarge a picture, or one that is first made from the prompt, and draw in what the larger one has room for.

    The picture is enlarged as pixels or as latents, noise is laid over it (``strength``), and the walk takes it off
    again. What is larger than the model makes is walked in overlapping windows. The x4 upscaler (Rombach et al. 2022)
    looks at the small picture itself, with a little noise that it is told of, and walks from noise.
    """

    image: MaybePicture = Field(
        default=None, description="the picture; without one it is made from the prompt"
    )
    factor: Annotated[float, Ge(1), Le(16)] | None = Field(
        default=None, description="how many times as large: 2, or the 4 that an upscaler was trained for"
    )
    strength: Part | None = Field(
        default=None, description="how much may change: 0.4; 0 is plain enlarging; an upscaler takes none"
    )
    space: Literal["pixels", "latent"] = Field(
        default="pixels", description="what is enlarged: pixels, or the model's latents (sharper, rougher)"
    )
    noise_level: Annotated[int, Ge(0), Le(350)] | None = Field(
        default=None,
        description="for an upscaler: noise on the small picture, as an index of its schedule: 20",
    )

    async def __call__(self, model: Any) -> Any:
        """Make or take the pictures, enlarge, begin at ``alpha y + sigma n``, walk, decode, crop."""
        if model.beside is not None and model.beside.kind == "small":
            return await self._upscaler(model)
        if self.noise_level is not None:
            raise InvalidRequest(
                f"noise_level = {self.noise_level} is for models that were trained to enlarge, such as "
                f"{WAYS['small'].models}: leave it out, and use strength"
            )
        task = replace(
            self, factor=self.factor or 2.0, strength=0.4 if self.strength is None else self.strength
        )
        return await task._two_passes(model, task.factor or 2.0, task.strength or 0.0)

    async def _two_passes(self, model: Any, factor: float, strength: float) -> Any:
        """With a model that makes pictures."""
        if self.image is None and not self.prompt.strip() and not self.look:
            raise InvalidRequest("there is nothing to enlarge: give a picture, a prompt, or both")
        defaults = model.defaults
        width, height = (defaults.width, defaults.height) if self.image is None else self.image.size
        small = canvas_for(width, height, defaults, tile=True)
        large = self._larger(width, height, small, defaults, factor)
        check_room(large, factor, width, height)
        to = plan(self, model, (large.width, large.height), strength=strength or 1.0)
        if to.split:
            return await one_by_one(self, model)
        if self.image is None:
            first: Result = await self._first()(model)
            pictures = list(first.pixels)
        else:
            pictures = [self.image.pixels]
        rows = []
        for picture in pictures:
            if self.space == "pixels":
                wide = scaled(picture, large.box[2], large.box[3])
                rows.append(await latents(model, wide, large))
            else:
                y = await latents(model, picture, small)
                rows.append(functional.interpolate(y, to.shape[-2:], mode="bicubic"))
        x = torch.cat(rows).expand(len(to.rows), *to.shape)
        if strength > 0:
            denoise = to.guided(*await to.conditions(self.prompt, self.negative))
            x = await to.walk(to.start(x), denoise)
        return to.result(await model.decode(x), large.crop)

    async def _upscaler(self, model: Any) -> Any:
        """With a model that was trained to make pictures four times as large."""
        if self.image is None:
            raise InvalidRequest(
                f"the model {model.name!r} makes pictures larger and none itself: give a picture"
            )
        # Its latents are of the small picture's size, and what the autoencoder makes of them is the large one.
        side = model.defaults.most
        times = side // model.codec.shape(side, side)[-1]
        wrong = {
            "factor": self.factor not in (None, times),
            "strength": self.strength not in (None, 1),
            "space": self.space != "pixels",
        }
        if any(wrong.values()):
            names = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
            raise InvalidRequest(
                f"the model {model.name!r} makes a picture {times} times as large, from noise: leave out {names}"
            )
        level = self.noise_level if self.noise_level is not None else 20
        task = replace(self, factor=float(times), strength=1.0, noise_level=level)
        at, least = model.denoiser.schedule.level(float(level)), model.defaults
        width, height = self.image.size
        parts = {name: max(1, getattr(least, name) // times) for name in ("multiple", "least", "most")}
        small = canvas_for(width, height, replace(least, **parts), tile=True)
        large = enlarged(small, times)
        check_room(large, times, width, height)
        to = plan(task, model, (large.width, large.height), beside=("small",))
        if to.split:
            return await one_by_one(task, model)
        seeds = [apart(self.seed + row, "small picture") for row in to.rows]
        y = tensor(small.pad(self.image.pixels))
        seen = at.alpha * y + at.sigma * Stream(seeds, tuple(y.shape[1:])).start()
        label = torch.full((1,), level)
        want, avoid = (
            replace(cond, channels=seen, label=label)
            for cond in await to.conditions(self.prompt, self.negative)
        )
        return to.result(await model.decode(await to.walk(to.start(), to.guided(want, avoid))), large.crop)

    def _larger(self, width: int, height: int, small: Canvas, defaults: Any, factor: float) -> Canvas:
        """Where the enlarged picture lies."""
        if self.space == "pixels":
            return canvas_for(
                max(1, round(width * factor)), max(1, round(height * factor)), defaults, tile=True
            )
        if int(factor) != factor:
            raise InvalidRequest(
                f"factor = {factor:g} is not allowed in latent space: use a whole number, or space = pixels"
            )
        return enlarged(small, int(factor))

    def _first(self) -> Text2Image:
        """The task of the first pass."""
        shared = {f.name for f in dataclasses.fields(Text2Image)} & {f.name for f in dataclasses.fields(self)}
        return Text2Image(**{name: getattr(self, name) for name in shared})

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        upscaler = model.beside is not None and model.beside.kind == "small"
        if upscaler:
            side = model.defaults.most
            factor, strength = float(side // model.codec.shape(side, side)[-1]), 1.0
        else:
            factor = 2.0 if self.factor is None else self.factor
            strength = 0.4 if self.strength is None else self.strength
        walked = Sampling.evaluations(replace(self, strength=strength), model)
        if walked is None:
            return None
        made = model.defaults.width, model.defaults.height
        width, height = (
            max(1, round(side * factor)) for side in (made if self.image is None else self.image.size)
        )
        large = canvas_for(width, height, model.defaults, tile=True)
        made_first = self.image is None and bool(self.prompt.strip() or self.look)
        first = (Sampling.evaluations(self._first(), model) or 0) if made_first else 0
        return first + walked * windows_of(model, large)


def enlarged(canvas: Canvas, times: int) -> Canvas:
    """``canvas`` with every length ``times`` as long."""
    left, top, across, down = (times * part for part in canvas.box)
    return Canvas(times * canvas.width, times * canvas.height, (left, top, across, down))


def check_room(large: Canvas, factor: float, width: int, height: int) -> None:
    """Refuse a picture of more pixels than are allowed."""
    if large.width * large.height > MOST_PIXELS:
        raise InvalidRequest(
            f"factor = {factor:g} makes {large.width}x{large.height} pixels of {width}x{height}; at most "
            f"{MOST_PIXELS} pixels are allowed"
        )


def apart(seed: int, purpose: str) -> int:
    """A seed for other noise than that of ``seed``, the same for the same ``purpose``."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8], "big") % (MAX_SEED + 1)
