"""Text to picture."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le, MaxLen
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest
from sfumato.tasks.task import Result

MAX_PROMPT = 4000


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Text2Image:
    """Make pictures from a sentence.

    Fields left at None take the model's own default; the recipe that a picture carries has them all filled in.
    """

    prompt: Annotated[str, MaxLen(MAX_PROMPT)] = Field(description="what the picture shows")
    negative: Annotated[str, MaxLen(MAX_PROMPT)] | None = Field(
        default=None, description="what the picture should keep away from"
    )
    steps: Annotated[int, Ge(1), Le(1000)] | None = Field(
        default=None, description="how many steps the sampler takes"
    )
    sampler: str | None = Field(default=None, description="how to walk from noise to picture")
    grid: str | None = Field(default=None, description="how the noise levels are spaced")
    guidance: Annotated[float, Ge(0), Le(100)] | None = Field(
        default=None, description="how strongly the prompt steers; 1 is off"
    )
    guide: str | None = Field(default=None, description="how prompt and negative are combined")
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = Field(
        default=0, description="the first picture's seed; the next pictures count on from it"
    )
    count: Annotated[int, Ge(1), Le(1000)] = Field(default=1, description="how many pictures")
    size: str | None = Field(default=None, description="width x height in pixels, such as 128x128")
    noise: str = Field(
        default="stream", description="which generator the seeds are for (see: sfumato noises)"
    )
    pick: Annotated[int, Ge(1), Le(1000)] | None = Field(
        default=None, description="make only the picture of this number, of the many that count asks for"
    )

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the prompt is empty; say what the picture should show")
        return text

    async def __call__(self, model: Any) -> Any:
        """Embed, start from noise, walk the grid under guidance, decode.

        ``model`` is a sfumato Model; the result is a tasks.task.Result. InvalidRequest for a name or a size
        that the model does not have, and for a guide that does not go with the rest.
        """
        from sfumato.guidance import check, guide
        from sfumato.noise import MAX_SEED, NOISES, Only, noise
        from sfumato.process.grid import make_grid, steps_in
        from sfumato.process.spec import parse
        from sfumato.samplers import sampler

        if "text2image" in model.refused:
            raise InvalidRequest(model.refused["text2image"])
        defaults = model.defaults
        if defaults.distilled and self.negative:
            raise InvalidRequest(
                "this model was distilled from one with guidance and has no negative prompt: leave negative out"
            )
        chosen = self.resolved(defaults)
        width, height = parse_size(chosen["size"], defaults)
        if self.seed > MAX_SEED - self.count + 1:
            raise InvalidRequest(
                f"seed = {self.seed} is too large for {self.count} pictures that count on from it"
            )
        if self.pick is not None and self.pick > self.count:
            raise InvalidRequest(
                f"pick = {self.pick} is more than count = {self.count}: there is no such picture"
            )
        shape = model.codec.shape(height, width)
        schedule = model.schedule(shape)
        if self.steps is None:  # a grid that lists its levels says itself how many steps there are
            chosen["steps"] = steps_in(chosen["grid"], schedule) or chosen["steps"]
        walker, by = sampler(chosen["sampler"]), guide(chosen["guide"])
        scale = 1.0 if defaults.distilled else chosen["guidance"]
        check(by, walker, scale=scale, steps=chosen["steps"])
        grid = make_grid(
            chosen["grid"],
            steps=chosen["steps"],
            schedule=schedule,
            final=defaults.final,
            prediction=model.denoiser.prediction,
        )
        seeds = range(self.seed, self.seed + self.count)
        draws = noise(self.noise, seeds, shape)
        if self.pick is not None:
            draws, seeds = Only(draws, self.pick - 1), seeds[self.pick - 1 : self.pick]
        elif walker.by_row and self.count > 1:
            return await self._one_by_one(model)

        asked = {"width": width, "height": height, "guidance": chosen["guidance"]}
        none = self.negative is None
        want = await model.embed([Prompt(text=self.prompt, **asked)])
        avoid = want
        if not defaults.distilled:
            avoid = await model.embed([Prompt(text=self.negative or "", absent=none, negative=True, **asked)])
        prediction = model.denoiser.prediction
        denoise = by(model.denoise, want, avoid, scale=scale, prediction=prediction, grid=grid)
        # Stable Diffusion's own samplers begin at noise of unit variance though their first level has a little less.
        first = grid[0]
        x = (math.hypot(first.alpha, first.sigma) if defaults.unit_start else first.sigma) * draws.start()
        x = await walker.walk(x, grid, denoise, draws)
        pixels = await model.decode(x)

        if not torch.isfinite(pixels).all():
            raise InvalidRequest(
                f"the picture is not finite after {chosen['steps']} steps of {chosen['sampler']!r} at guidance "
                f"{chosen['guidance']:g}; lower the guidance or choose another sampler"
            )
        alone = NOISES[parse(self.noise)[0]].by_row
        return Result(
            pixels=tuple(to_bytes(p) for p in pixels.to(torch.float32).cpu().numpy()),
            arguments=tuple(
                {**chosen, "seed": seed, "count": 1, "pick": None}
                if alone
                else {**chosen, "pick": seed - self.seed + 1}
                for seed in seeds
            ),
            notes=tuple(model.notes(self.prompt)),
        )

    async def _one_by_one(self, model: Any) -> Any:
        """Each picture by a walk of its own, side by side: for samplers whose steps depend on what they see."""
        from sfumato.ask import gather

        single = [dataclasses.replace(self, pick=number + 1) for number in range(self.count)]
        results = await gather([task(model) for task in single])
        return Result(
            pixels=tuple(p for r in results for p in r.pixels),
            arguments=tuple(a for r in results for a in r.arguments),
            notes=results[0].notes,
        )

    def resolved(self, defaults: Any) -> dict[str, Any]:
        """All fields as a dictionary, with the model's ``defaults`` where a field is None."""
        size = f"{defaults.width}x{defaults.height}"
        own = {
            "steps": defaults.steps,
            "sampler": defaults.sampler,
            "grid": defaults.grid,
            "guidance": defaults.guidance,
            "guide": defaults.guide,
            "size": size,
        }
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: own[name] if value is None and name in own else value for name, value in given.items()}


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


def to_bytes(pixels: Any) -> Any:
    """Pixels (3, H, W) float in [-1, 1] as uint8 (H, W, 3), rounded to nearest."""
    scaled = np.clip((pixels.transpose(1, 2, 0) + 1) * 127.5, 0, 255)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8))
