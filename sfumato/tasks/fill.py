"""A hole in a picture filled: what inpainting and outpainting share."""

from __future__ import annotations

from collections.abc import Callable
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
from sfumato.process.estimate import Denoise
from sfumato.samplers import sampler
from sfumato.tasks.beside import WAYS, check_reads, fill_channels
from sfumato.tasks.canvas import Canvas, latent_shape, tensor
from sfumato.tasks.hole import at_latent, closed, feathered, hidden, kept, kept_by_level
from sfumato.tasks.picture import latents
from sfumato.tasks.repeat import repeated
from sfumato.tasks.sampling import CONFIG, Part, Plan, Sampling, one_by_one, plan

Soft = Literal["blend", "late"]
Keep = Literal["held", "free"]
Pixels = NDArray[np.uint8]
Hole = NDArray[np.float32]


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
    keep: Keep = Field(
        default="held",
        description="what is known is held on its way through the noise, or left to a model trained to fill (free)",
    )
    repeat: Annotated[int, Ge(1), Le(100)] | None = Field(
        default=None,
        description="walk every step so many times, with fresh noise, so that both sides of an edge agree: 4, or 1 "
        "with models trained to fill",
    )

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        once = Sampling.evaluations(self, model)
        if not once:
            return once
        each = (sampler(self.resolved(model.defaults)["sampler"]).evaluations or 1) * self.windows(model)
        steps = once // each
        times = model.defaults.repeat if self.repeat is None else self.repeat
        return each * ((steps - 1) * times + 1)


async def fill(
    task: Any,
    model: Model,
    pixels: Pixels,
    hole: Hole,
    canvas: Canvas,
    *,
    blank: bool,
    times: float = 1.0,
    true: Hole | None = None,
    finish: Callable[[Pixels, Hole], Pixels] | None = None,
) -> Any:
    """Fill the ``hole`` (H, W) of ``pixels`` (H, W, 3) on ``canvas`` as ``task`` says.

    ``blank`` hides what is in the hole before anything is encoded. ``finish`` makes the result of what was made and
    of the hole it covers, which is ``true`` where ``pixels`` are a picture ``times`` as large; else the hole is laid
    into ``pixels``. InvalidRequest for a hole of nothing.
    """
    if not hole.any():
        raise InvalidRequest(
            "the mask is black everywhere: nothing would be made anew; white is what is made anew, and invert "
            "turns a mask round"
        )
    covers = feathered(hole if true is None else true, task.feather)
    hole = feathered(hole, task.feather * times)
    size = (canvas.width, canvas.height)
    reads = check_reads(model, latent_shape(model, *size), ("mask",))
    told = reads is not None and reads.kind == "mask"
    if task.keep == "free" and not told:
        raise InvalidRequest(
            f"keep = 'free' is for models that were trained to fill holes, such as {WAYS['mask'].models}, and the "
            f"model {model.name!r} would lose the picture: use keep = 'held'"
        )
    once = 1 if told else model.defaults.repeat
    task = replace(task, repeat=once if task.repeat is None else task.repeat)
    to = plan(task, model, size, strength=task.strength or 1.0, beside=("mask",))
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
        denoise = to.guided(want, avoid)
        if task.keep == "free":
            alone = task.strength == 1  # as such models were trained: from noise alone
            x = await _walk(to, to.start(None if alone else y), denoise, task.repeat)
        else:
            small = at_latent(wide, to.shape).to(y)
            mask = kept_by_level(small, to.grid) if task.soft == "late" else kept(small)
            # Where nothing is known there is no other side of an edge.
            times = 1 if bool((small == 1).all()) else task.repeat
            x = await _walk(to, to.start(y), known(denoise, y, mask), times)
            if to.grid[-1].sigma:  # what is known has no noise at the end, where a table's walk has a little
                x = torch.where(small == 0, y.to(x), x)
    covers = np.where(covers > 0, 1, 0).astype(np.float32) if task.soft == "late" else covers
    lay = finish or (lambda made, hole: closed(pixels, made, hole))
    return to.result(await model.decode(x), lambda made: lay(canvas.crop(made), covers))


async def _walk(to: Plan, x: Tensor, denoise: Denoise, times: int) -> Tensor:
    """The plan's walk, each step ``times`` times."""
    if times == 1:
        return await to.walk(x, denoise)
    found: Tensor = await repeated(to.walker.walk, times)(x, to.grid, denoise, to.draws)
    return found


async def beside_x(model: Model, pixels: Pixels, hole: Hole, shape: tuple[int, ...]) -> Tensor:
    """What a model that fills holes reads beside x: the mask, and the latents of the picture with its hole grey."""
    free = torch.from_numpy((hole > 0).astype(np.float32))[None, None]
    grey = tensor(pixels) * (1 - free)
    return fill_channels(model, await model.encode(grey), free, shape)
