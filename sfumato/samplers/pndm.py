"""PNDM without Runge-Kutta steps (PLMS): Adams and Bashforth on eps, the first step taken twice."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.process.estimate import Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend
from sfumato.samplers.adams import ipndm
from sfumato.samplers.multistep import multistep


async def pndm(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
    """Pseudo numerical methods of the linear multi-step kind, after an improved Euler step (Liu et al. 2022b).

    The first step is a DDIM step, an evaluation where it ends, and the step again with the mean of both eps; then
    up to four eps are combined by fixed weights, as ``ipndm`` does from its first step on. This is the form that
    Stable Diffusion uses (diffusers' ``skip_prk_steps``); the paper's own start takes three Runge-Kutta steps of
    four evaluations. One evaluation a step and one more in the first, which is a DDIM step where its end has no
    noise to ask at or its start is pure noise, where x does not depend on eps. From a level of nearly pure noise
    the first step is a poor one: the noise seen at its end is weighed with a nearly infinite sigma / alpha.
    """
    if len(grid) < 2:
        return x
    at, to = grid[:2]
    here = await denoise(x, at)
    ahead = here.move(to)
    if to.sigma == 0:
        return ahead
    if at.alpha > 0:
        there = await denoise(ahead, to)
        ahead = here.along(blend(0.5, here.eps, 0.5, there.eps)).move(to)
    return await multistep(ahead, grid[1:], denoise, fresh, rules=(ipndm,) * 4, past=(here,))
