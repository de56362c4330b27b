"""Inversion: from a picture up to the noise that a deterministic sampler would make it from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sfumato.errors import InvalidRequest
from sfumato.process.between import Levels
from sfumato.process.estimate import Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend


def rising(grid: Sequence[Level]) -> Levels:
    """``grid`` from its last level to its first: what ``invert`` walks."""
    return Levels(reversed(grid), getattr(grid, "schedule", None))


async def invert(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, refine: int = 0
) -> Vector:
    """DDIM inversion: x at the last level of a ``grid`` whose noise rises, from x at its first.

    It seeks the x_to from which a DDIM step leads back to x: ``x_to = (alpha_to / alpha) (x - sigma eps) + sigma_to
    eps`` with eps as the network sees it at x_to, the level above. The equation is solved by fixed-point iteration
    from x itself (Pan et al. 2023). One evaluation a step, ``refine`` 0, is the inversion in use (Song
    et al. 2021a; Mokady et al. 2023, whose network is told the level above as well): it
    errs at first order in the step. ``refine`` more evaluations a step lead to the exact inverse of the ``ddim``
    walk wherever the iteration contracts, as it does for a Gaussian.

    The network is never asked at the lower level of a step, so a walk may begin at sigma = 0. To pure noise, where
    x_to is its own eps, the step is solved for x0 in place of eps: ``x_to = (sigma_to / sigma) (x - alpha x0)``.
    No noise is drawn. Raises InvalidRequest for a negative ``refine``, a grid whose noise falls, and a step from no
    noise to nothing but noise, which has forgotten the picture.
    """
    if refine < 0:
        raise InvalidRequest(f"refine = {refine} is outside what is allowed: 0 and above")
    for at, to in pairwise(grid):
        if to.lam > at.lam:
            raise InvalidRequest("inversion walks a grid whose noise rises; turn it round with rising(grid)")
        if to.alpha == 0 and at.sigma == 0:
            raise InvalidRequest(
                "no step leads from a clean picture to pure noise and back; take a grid of two steps or more"
            )
        guess = x
        for _ in range(1 + refine):
            seen = await denoise(guess, to)
            if to.alpha > 0:
                scale = to.alpha / at.alpha
                guess = blend(scale, x, to.sigma - scale * at.sigma, seen.eps)
            else:
                scale = to.sigma / at.sigma
                guess = blend(scale, x, -scale * at.alpha, seen.x0)
        x = guess
    return x
