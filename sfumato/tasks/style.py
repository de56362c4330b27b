"""Pictures in the style of another one, by attention that the two share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from sfumato.condition import Cond
from sfumato.errors import InvalidRequest
from sfumato.guidance import guide
from sfumato.guidance.classifier_free import Branches
from sfumato.guidance.interval import share
from sfumato.manner import chosen, told
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.samplers.inversion import invert, rising
from sfumato.tasks.canvas import canvas_for, sized
from sfumato.tasks.given import MaybePicture, Picture
from sfumato.tasks.picture import latents
from sfumato.tasks.sampling import CONFIG, Part, Plan, Prompted, Sized, Text, one_by_one, plan
from sfumato.tasks.script import single

Reference = Callable[[Level], Tensor]
"""The reference's x at a level."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Style(Sized, Prompted):
    """Make pictures of a sentence in the style of a picture: in every step both are walked, and share their attention.

    (Hertz et al. 2024, StyleAligned.) The places of the new picture also look at those of the reference; with ``align``
    their queries and keys first get its mean and deviation. ``inject`` lets them look at the reference alone, which
    keeps more of what it shows. With ``content`` that picture is redrawn, as far as ``strength`` allows.
    """

    image: Picture = Field(description="the picture whose style is taken")
    source: Text = Field(default="", description="what that picture shows")
    content: MaybePicture = Field(default=None, description="a picture to redraw, in place of a new one")
    strength: Part = Field(default=0.7, description="how much of the content may change")
    method: Literal["align", "share", "inject"] = Field(
        default="align",
        description="look at both and take the reference's statistics, look at both, or look at the reference alone",
    )
    weight: Annotated[float, Ge(0), Le(100)] = Field(
        default=1.0,
        description="how much the reference counts beside the picture's own places: 0 is not at all",
    )
    layers: str = Field(
        default="all", description="the attention layers that share: all, middle, down, up, ... or [0, 2]"
    )
    path: Literal["noised", "inverted"] = Field(
        default="noised",
        description="how the reference is walked: as noise is laid over it, or on its own way up to noise",
    )

    def __post_init__(self) -> None:
        """Read the layers once, so that what cannot be read is told before anything is loaded."""
        super().__post_init__()
        wanted(self.layers)

    async def __call__(self, model: Any) -> Any:
        """Encode the reference, find its path, and walk with attention to it."""
        width, height = self.sides(model.defaults)
        strength = 1.0 if self.content is None else self.strength
        to = plan(self, model, (width, height), strength=strength or 1.0)
        names = model.denoiser.attention_layers
        if not names:
            raise InvalidRequest(
                f"the model {model.name!r} has no attention layers for two pictures to share: use image2image or "
                "resample, which need none"
            )
        share_in = chosen(names, wanted(self.layers))
        if to.split:
            return await one_by_one(self, model)
        canvas = canvas_for(width, height, model.defaults)
        y = await latents(model, sized(self.image.pixels, f"{width}x{height}"), canvas)
        first = to.grid[0]
        if self.content is None:
            x = to.start()
            noise = x / (first.deviation if model.defaults.unit_start else first.sigma)
        else:
            z = await latents(model, sized(self.content.pixels, f"{width}x{height}"), canvas)
            if self.strength == 0:
                return to.result(await model.decode(z.expand(len(to.rows), *z.shape[1:])))
            x = to.start(z)
            noise = (x - first.alpha * z) / first.sigma
        reference = single((await to.conditions(self.source, None, looks=()))[0], "source")
        if self.path == "inverted":
            along = await inverted_path(to, y, reference)
        else:
            along = noised_path(y, noise)
        to = replace(to, branches=beside(to.branches, along, reference))
        manner = {"share": share_in, "align": self.method == "align", "own": self.method != "inject"}
        want, avoid = (
            told(cond, weight=self.weight, **manner)
            for cond in await to.conditions(self.prompt, self.negative)
        )
        return to.result(await model.decode(await to.walk(x, to.guided(want, avoid))))

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        steps = int(self.resolved(model.defaults)["steps"])
        down = Sized.evaluations(replace(self, strength=1.0) if self.content is None else self, model)
        return down if down is None or self.path == "noised" else down + steps


def wanted(text: str) -> str | list[float]:
    """Layers as a word or a list of numbers; ValueError for what is neither."""
    if text.isalpha():
        return text
    numbers = re.fullmatch(r"\[\s*(\d{1,4}(?:\s*,\s*\d{1,4})*)\s*\]|(\d{1,4})", text.strip())
    if numbers is None:
        raise ValueError(
            f"layers = {text[:40]!r} is not allowed: write all, middle, a part's name such as down, or numbers such as "
            "[0, 2]"
        )
    return [float(number) for number in (numbers[1] or numbers[2]).split(",")]


def beside(denoise: Branches, along: Reference, reference: Cond) -> Branches:
    """``denoise`` with the reference beside every condition whose manner shares, at x's level on its path ``along``."""
    own = reference.named()

    async def shared(x: Tensor, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
        other = along(at)
        return await denoise(x, at, *(_with(cond, other, own) for cond in conds))

    return shared


def _with(cond: Cond, other: Tensor, own: dict[str, Tensor]) -> Cond:
    """``cond`` with the reference ``other`` and its condition, tokens of both filled up to one length and masked."""
    if cond.manner is None or not cond.manner.share:
        return cond
    doors: dict[str, Any] = {"exemplar": other}
    for name in ("vector", "label"):
        if getattr(cond, name) is not None and name in own:
            doors[f"exemplar_{name}"] = own[name]
    if cond.tokens is None or "tokens" not in own:
        return replace(cond, **doors)
    mine, value = cond.named(), dict(own)
    counts = [each["tokens"].shape[1] for each in (mine, value)]
    for name, begin in (("mask", torch.bool), ("counts", cond.tokens.dtype)):
        uneven = name == "mask" and counts[0] != counts[1]
        if name in mine or name in value or uneven:
            for each in (mine, value):
                rows = each["tokens"]
                each.setdefault(name, torch.ones(rows.shape[:2], dtype=begin, device=rows.device))
    for name in ("tokens", "mask", "counts"):
        if name in mine:
            doors[name] = _filled(mine[name], max(counts))
            doors[f"exemplar_{name}"] = _filled(value[name], max(counts))
    return replace(cond, **doors)


def _filled(values: Tensor, length: int) -> Tensor:
    """Tokens (B, L, D), or what is said of each (B, L), with zeros up to ``length``."""
    missing = length - values.shape[1]
    return functional.pad(values, (0, 0) * (values.ndim - 2) + (0, missing)) if missing else values


def noised_path(y: Tensor, noise: Tensor) -> Reference:
    """``alpha y + sigma n`` with noise of its own: that of the picture, ``noise`` (B, C, h, w), turned half round.

    So the reference of a seed is its own, and no place of it has the noise of the place that looks at it.
    """
    turned = noise.flip(-2, -1)
    return lambda at: at.alpha * y + at.sigma * turned


async def inverted_path(to: Plan, y: Tensor, reference: Cond) -> Reference:
    """The levels of the plan's grid on the way up from latents ``y``; between them the noise goes straight."""
    denoise = replace(to, by=guide("cfg"), scale=1.0).guided(reference, reference)
    x, shares, noises = y, [0.0], []
    for pair in pairwise(rising(to.grid)):
        x = await invert(x, pair, denoise, to.draws)
        shares.append(share(pair[1]))
        noises.append((x - pair[1].alpha * y) / pair[1].sigma)
    noises.insert(0, noises[0])

    def along(at: Level) -> Tensor:
        place = share(at)
        above = next((i for i, each in enumerate(shares) if each >= place - 1e-12), len(shares) - 1)
        below = max(above - 1, 0)
        gap = shares[above] - shares[below]
        part = 1.0 if gap == 0 else min(max((place - shares[below]) / gap, 0.0), 1.0)
        return at.alpha * y + at.sigma * torch.lerp(noises[below], noises[above], part)

    return along
