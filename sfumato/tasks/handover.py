"""Two models for one walk: the second takes over where little noise is left, as a refiner does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level


@dataclass(frozen=True, kw_only=True, eq=False)
class Handed(Cond):
    """A condition of one model, and the ``later`` model's own."""

    later: Cond


@dataclass(frozen=True, kw_only=True, eq=False)
class Handover(Model):
    """A model whose last steps another makes: ``later`` answers at times below ``until`` (an ensemble of denoisers).

    All else is the first model's. (Balaji et al. 2022, eDiff-I; Podell et al. 2023, section 2.5, the refiner.)
    """

    later: Model
    until: float

    async def embed(self, prompts: Sequence[str | Prompt]) -> Cond:
        """The conditions for ``prompts`` of both models."""
        first, later = await Model.embed(self, prompts), await self.later.embed(prompts)
        own: dict[str, Any] = first.named()
        return Handed(**own, later=later)

    async def denoise(self, x: Tensor, at: Level, *conds: Cond, grad: bool = False) -> tuple[Estimate, ...]:
        """One estimate of rows ``x`` for each condition, by the model whose time it is."""
        if at.t >= self.until:
            return await Model.denoise(self, x, at, *conds, grad=grad)
        return await self.later.denoise(x, at, *(_later(cond) for cond in conds), grad=grad)


def handover(first: Model, later: Model, part: float) -> Handover:
    """``first`` for the ``part`` of the schedule's time with the most noise, ``later`` for the rest.

    InvalidRequest for a part outside 0 to 1, and for models that do not walk the same way in the same latents.
    """
    if not 0 < part < 1:
        raise InvalidRequest(
            f"handover = {part:g} is outside what is allowed: above 0 and below 1 (0.8 is usual)"
        )
    side = first.defaults.most
    ways = [(m.denoiser.schedule, m.codec.shape(side, side), m.defaults.distilled) for m in (first, later)]
    if ways[0] != ways[1] or first.schedule_of is not later.schedule_of:
        raise InvalidRequest(
            f"the model {later.name!r} cannot go on with what {first.name!r} began: their schedules, latents or ways "
            "of guidance differ; the refiner of Stable Diffusion XL goes on with Stable Diffusion XL"
        )
    t_max = first.denoiser.schedule.t_max

    def both() -> str:  # when asked for: it reads all weights
        return hashlib.sha256(f"{first.hash} {later.hash} {part}".encode()).hexdigest()

    own = {f.name: getattr(first, f.name) for f in fields(Model)}
    own |= {"name": f"{first.name}+{later.name}@{part:g}", "identity": both}
    return Handover(**own, later=later, until=(1 - part) * t_max)


def _later(cond: Any) -> Cond:
    """The later model's own condition, in the same manner; InvalidRequest for one that was made of several."""
    if not isinstance(cond, Handed):
        raise InvalidRequest("conditions of two models cannot be mixed: leave the refiner out")
    return cond.later if cond.manner is None else replace(cond.later, manner=cond.manner)
