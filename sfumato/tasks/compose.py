"""One picture of several sentences, each for an area of its own."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, MaxLen, MinLen
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from sfumato.condition import Cond
from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches
from sfumato.picture.read import Read
from sfumato.picture.shapes import is_form, parse_mask
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.tasks.canvas import sized
from sfumato.tasks.given import MaybePicture
from sfumato.tasks.hole import feathered
from sfumato.tasks.sampling import CONFIG, Prompted, Sized, Text, one_by_one, plan
from sfumato.tasks.script import Script, scripted


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Compose(Sized, Prompted):
    """Make a picture of several sentences, each in an area; ``prompt`` is for what no area covers.

    Every region is written ``AREA: sentence``, the area as masks are in words: ``rect(0, 0, 50%, 100%): a cat``,
    ``ellipse(...)``, ``outside(...)``, or ``color(#ff0000): a dog`` for the red part of the picture ``map``. Either
    every sentence is asked for the whole picture and the answers are laid together by areas, which any model can
    (Bar-Tal et al. 2023, MultiDiffusion), or all are read at once and each place attends to its own sentence alone.
    """

    regions: Annotated[tuple[Text, ...], MinLen(1), MaxLen(16)] = Field(
        description="AREA: sentence, such as 'rect(0, 0, 50%, 100%): a cat'; areas as masks in words"
    )
    map: MaybePicture = Field(
        default=None, description="a picture whose colours are areas: color(#ff0000): ..."
    )
    by: Literal["estimates", "attention"] = Field(
        default="estimates",
        description="what is divided: the model's answers, or what each place of its network attends to",
    )
    feather: Annotated[float, Ge(0), Le(256)] = Field(
        default=0.0, description="blur the edges of the areas by so many pixels (estimates alone)"
    )

    def __post_init__(self) -> None:
        """Read the regions once, so that what is wrong is told before anything is loaded."""
        super().__post_init__()
        for text in self.regions:
            area, sentence = parted(text)
            if not sentence:
                raise ValueError(f"regions: {text!r} has no sentence; write AREA: sentence")
            if "color" not in area and "colour" not in area:
                parse_mask(area, (64, 64))
        if self.by == "attention" and self.feather:
            raise ValueError("feather goes with by = estimates: a place attends to a sentence or it does not")

    async def __call__(self, model: Any) -> Any:
        """Embed all sentences, walk with the answers or the attention divided by areas, decode."""
        sides = self.sides(model.defaults)
        to = plan(self, model, sides)
        names = model.denoiser.attention_layers
        areas = self.areas(sides)
        sentences = [self.prompt, *(parted(text)[1] for text in self.regions)]
        if to.split:
            return await one_by_one(self, model)
        parts = at_latents(areas, to.shape, hard=self.by == "attention")
        held = [number for number in range(len(sentences)) if parts[:, number].any()]
        wants, parts = [], parts[:, held]
        for number in held:
            want, avoid = await to.conditions(sentences[number], self.negative)
            wants.append(want)
        changing = any(isinstance(cond, Script) for cond in (*wants, avoid))
        if self.by == "attention":
            if changing:
                raise InvalidRequest(
                    "by = attention reads sentences that are the same in all steps: use by = estimates for these"
                )
            if not names or any(want.tokens is None for want in wants):
                raise InvalidRequest(
                    f"by = attention: no layer of the model {model.name!r} attends to text; use by = estimates, "
                    "which any model can"
                )
            want = merged(wants, parts)
        else:
            inner = scripted(to.branches, avoid, to.grid) if changing else to.branches
            to = replace(to, branches=divided(inner))
            want = Areas(conds=tuple(wants), parts=parts / parts.sum(1, keepdim=True))
        return to.result(await model.decode(await to.walk(to.start(), to.guided(want, avoid))))

    def areas(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """The areas (1 + regions, H, W) for a picture of ``size``: what none covers, then each; they may overlap."""
        read = None
        if self.map is not None:
            pixels = sized(self.map.pixels, f"{size[0]}x{size[1]}")
            read = Read(pixels, None, (), hashlib.sha256(pixels.tobytes()).hexdigest())
        masks = []
        for text in self.regions:
            mask = parse_mask(parted(text)[0], size, read)
            if not mask.any():
                raise InvalidRequest(
                    f"regions: the area of {text!r} is empty in a picture of {size[0]}x{size[1]}: use one that lies "
                    "in it"
                )
            masks.append(feathered(mask, self.feather))
        rest = np.clip(1 - np.sum(masks, axis=0), 0, 1)
        found: NDArray[np.float32] = np.stack([rest, *masks]).astype(np.float32)
        return found


def parted(text: str) -> tuple[str, str]:
    """The area and the sentence of ``AREA: sentence``; ValueError if there is no area."""
    area, mark, sentence = text.partition(":")
    if not mark or not is_form(area):
        raise ValueError(
            f"regions: {text!r} does not begin with an area; write AREA: sentence, such as "
            "'rect(0, 0, 50%, 100%): a cat'"
        )
    return area.strip(), sentence.strip()


def at_latents(areas: NDArray[np.float32], shape: tuple[int, ...], *, hard: bool) -> Tensor:
    """``areas`` (R, H, W) for latents of ``shape``, (1, R, h, w): averaged, or ``hard``, all ones and zeros."""
    small = functional.interpolate(torch.from_numpy(areas)[None], shape[-2:], mode="area")
    if not hard:
        return small
    held = small > 0.5
    # A place that lies in none by half belongs to the one that has most of it.
    most = functional.one_hot(small.argmax(1), small.shape[1]).movedim(-1, 1) > 0
    return torch.where(held.any(1, keepdim=True), held, most).to(small.dtype)


def merged(wants: list[Cond], regions: Tensor) -> Cond:
    """One condition that holds the tokens of all, each seen from its region (1, R, h, w); the rest is the first's.

    The pooled vector is the mean of all that have a place, weighed by their areas.
    """
    tokens = [want.tokens for want in wants if want.tokens is not None]
    owner = [torch.full(part.shape[:2], number) for number, part in enumerate(tokens)]
    doors: dict[str, Any] = {"tokens": torch.cat(tokens, 1), "owner": torch.cat(owner, 1), "regions": regions}
    masks = [want.mask for want in wants if want.mask is not None]
    if masks:
        doors["mask"] = torch.cat(masks, 1)
    if any(want.counts is not None for want in wants):
        often = [want.counts for want in wants]
        once = [torch.ones(part.shape[:2], device=part.device) for part in tokens]
        doors["counts"] = torch.cat([b if a is None else a for a, b in zip(often, once, strict=True)], 1)
    vectors = [want.vector for want in wants if want.vector is not None]
    if vectors:
        weights = regions.mean((0, 2, 3)) / regions.mean((0, 2, 3)).sum()
        doors["vector"] = torch.stack([w.to(v) * v for w, v in zip(weights, vectors, strict=True)]).sum(0)
    return replace(wants[0], **doors)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Areas(Cond):
    """Several conditions in the place of one, each for a part of the picture: ``parts`` (1, R, h, w) add up to 1.

    A manner of its own is that of all of them.
    """

    conds: tuple[Cond, ...]
    parts: Tensor


def divided(denoise: Branches) -> Branches:
    """``denoise`` that also answers for Areas, by the sum of the answers for each, weighed by their parts.

    (Bar-Tal et al. 2023, equation 5, of both ends of the estimates, which so stay on the line of x.) All are asked for
    at once, and each that several need but once; guidance sees one answer for the whole picture.
    """
    kept: dict[Areas, tuple[Cond, ...]] = {}

    def held(cond: Cond) -> tuple[Cond, ...]:
        if not isinstance(cond, Areas):
            return (cond,)
        if cond not in kept:
            own = cond.conds
            kept[cond] = own if cond.manner is None else tuple(replace(c, manner=cond.manner) for c in own)
        return kept[cond]

    async def laid(x: Tensor, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
        asked = dict.fromkeys(part for cond in conds for part in held(cond))
        found = dict(zip(asked, await denoise(x, at, *asked), strict=True))
        return tuple(
            _sum([found[part] for part in held(cond)], cond.parts) if isinstance(cond, Areas) else found[cond]
            for cond in conds
        )

    return laid


def _sum(found: list[Estimate], parts: Tensor) -> Estimate:
    """The estimates of all areas added by their ``parts``; what is said of the next step's noise too."""
    first = found[0]
    weights = parts.to(first.x0.device, first.x0.dtype)[:, :, None].unbind(1)

    def added(ends: list[Any]) -> Any:
        total = weights[0] * ends[0]
        for weight, end in zip(weights[1:], ends[1:], strict=True):
            total = total + weight * end
        return total

    learned = None if first.learned is None else added([one.learned for one in found])
    return Estimate(first.at, added([one.x0 for one in found]), added([one.eps for one in found]), learned)
