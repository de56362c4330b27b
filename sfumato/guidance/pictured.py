"""Guidance by a picture beside guidance by text (Brooks et al. 2023, InstructPix2Pix)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sfumato.guidance.classifier_free import Branches
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector


def pictured(denoise: Branches, seen: Any, blind: Any, scale: float) -> Branches:
    """Branches that are drawn towards a picture: ``(s - 1) (seen - blind)`` is added to every answer.

    ``seen`` is the condition with the picture and without text, ``blind`` that without both. Any way of guidance by
    text may stand above; with classifier-free guidance it is equation 3 of the paper, ``b + s (i - b) + w (t - i)``.
    ``scale`` 1 is off, and then nothing more is evaluated.
    """
    if scale == 1:
        return denoise

    async def drawn(x: Vector, at: Level, *conds: Any) -> tuple[Estimate, ...]:
        asked = dict.fromkeys((*conds, seen, blind))
        found = dict(zip(asked, await denoise(x, at, *asked), strict=True))
        pull = (scale - 1) * (found[seen] - found[blind])
        return tuple(replace(found[cond] + pull, learned=found[cond].learned) for cond in conds)

    return drawn
