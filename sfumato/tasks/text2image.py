"""Text to picture."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, MaxLen
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest

MAX_PROMPT = 4000


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Text2Image:
    """Make pictures from a sentence.

    Fields left at None take the model's own default; the recipe that a picture carries has them all filled in.
    """

    prompt: Annotated[str, MaxLen(MAX_PROMPT)] = Field(description="what the picture shows")
    negative: Annotated[str, MaxLen(MAX_PROMPT)] = Field(
        default="", description="what the picture should keep away from"
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
        import torch

        from sfumato.guidance import check, guide
        from sfumato.noise import MAX_SEED, Stream
        from sfumato.process.grid import make_grid
        from sfumato.samplers import sampler
        from sfumato.tasks.task import Result

        chosen = self.resolved(model.defaults)
        width, height = parse_size(chosen["size"], model.defaults)
        if self.seed > MAX_SEED - self.count + 1:
            raise InvalidRequest(
                f"seed = {self.seed} is too large for {self.count} pictures that count on from it"
            )
        walker, by = sampler(chosen["sampler"]), guide(chosen["guide"])
        check(by, walker, scale=chosen["guidance"], steps=chosen["steps"])
        grid = make_grid(chosen["grid"], steps=chosen["steps"], schedule=model.denoiser.schedule)
        seeds = range(self.seed, self.seed + self.count)
        noise = Stream(seeds, model.codec.shape(height, width))

        want, avoid = await model.embed([self.prompt]), await model.embed([self.negative])
        prediction = model.denoiser.prediction
        denoise = by(model.denoise, want, avoid, scale=chosen["guidance"], prediction=prediction, grid=grid)
        x = grid[0].sigma * noise.start()
        x = await walker.walk(x, grid, denoise, noise)
        pixels = await model.decode(x)

        if not torch.isfinite(pixels).all():
            raise InvalidRequest(
                f"the picture is not finite after {chosen['steps']} steps of {chosen['sampler']!r} at guidance "
                f"{chosen['guidance']:g}; lower the guidance or choose another sampler"
            )
        return Result(
            pixels=tuple(to_bytes(p) for p in pixels.to(torch.float32).cpu().numpy()),
            arguments=tuple({**chosen, "seed": seed, "count": 1} for seed in seeds),
            notes=tuple(model.notes(self.prompt)),
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
        given = {
            name: getattr(self, name)
            for name in (
                "prompt",
                "negative",
                "steps",
                "sampler",
                "grid",
                "guidance",
                "guide",
                "seed",
                "count",
                "size",
            )
        }
        return {name: own[name] if value is None else value for name, value in given.items()}


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
