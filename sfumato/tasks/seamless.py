"""Pictures whose opposite edges fit, to be laid side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches
from sfumato.manner import told
from sfumato.model import Model
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.tasks.sampling import CONFIG, Prompted, Sized, one_by_one, plan

Axes = Literal["both", "across", "down"]
SHIFTS = (4, 1, 6, 3, 7, 2, 5)
"""Eighths of a side by which x is rolled, one call after another: never none, and no two that follow are near."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Tile(Sized, Prompted):
    """Make a picture that can be laid beside itself without a seam: its edges go on at the opposite ones.

    ``wrap`` lets the network's convolutions go on from the other edge, so that it knows no edge at all; ``roll`` moves
    the picture round by another way in every step, so that an edge is never twice at one place, which any model can.
    Both decode it with its own continuation around it.
    """

    axes: Axes = Field(
        default="both", description="which edges fit: both, across (left and right) or down (top and bottom)"
    )
    method: Literal["wrap", "roll"] | None = Field(
        default=None,
        description="wrap the convolutions or roll the picture; left out: wrap where the network can, else roll",
    )

    async def __call__(self, model: Any) -> Any:
        """Walk without edges, decode without edges."""
        to = plan(self, model, self.sides(model.defaults))
        wraps = getattr(model.denoiser.network, "wraps", False)
        if self.method == "wrap" and not wraps:
            raise InvalidRequest(
                f"method = wrap is for networks of convolutions, and that of {model.name!r} knows its places: use roll"
            )
        if to.split:
            return await one_by_one(self, model)
        down, across = self.axes != "across", self.axes != "down"
        want, avoid = await to.conditions(self.prompt, self.negative)
        if wraps and self.method != "roll":
            want, avoid = (told(cond, wrap=(down, across)) for cond in (want, avoid))
        else:
            to = replace(to, branches=rolled(to.branches, down, across))
        x = await to.walk(to.start(), to.guided(want, avoid))
        return to.result(await decoded_around(model, x, down, across))


def rolled(denoise: Branches, down: bool, across: bool) -> Branches:
    """``denoise`` of x rolled along its wrapped axes, by another way at every level, and back."""
    ways: dict[float, int] = {}

    async def moved(x: Tensor, at: Level, *conds: Any) -> tuple[Estimate, ...]:
        way = ways.setdefault(float(at.t), len(ways))
        shifts = [
            side * SHIFTS[(way * pace) % len(SHIFTS)] // 8 if wanted else 0
            for side, wanted, pace in zip(x.shape[-2:], (down, across), (1, 2), strict=True)
        ]
        back = [-shift for shift in shifts]
        found = await denoise(x.roll(shifts, (-2, -1)), at, *conds)
        return tuple(
            replace(
                one,
                x0=one.x0.roll(back, (-2, -1)),
                eps=one.eps.roll(back, (-2, -1)),
                learned=None if one.learned is None else one.learned.roll(back, (-2, -1)),
            )
            for one in found
        )

    return moved


async def decoded_around(model: Model, latent: Tensor, down: bool, across: bool) -> Tensor:
    """The pixels of ``latent`` (B, C, h, w), decoded with half of it around it along the axes, which is cut away."""
    height, width = latent.shape[-2:]
    top, left = height // 2 if down else 0, width // 2 if across else 0
    wide = functional.pad(latent, (left, left, 0, 0), mode="circular") if left else latent
    wide = functional.pad(wide, (0, 0, top, top), mode="circular") if top else wide
    pixels = await model.decode(wide)
    times = pixels.shape[-1] // wide.shape[-1]
    found: Tensor = pixels[..., times * top : times * (top + height), times * left : times * (left + width)]
    return torch.clone(found)
