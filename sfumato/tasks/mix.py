"""Between two noises and between two conditions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.condition import Cond, made
from sfumato.noise import Noise
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.tasks.script import Script


def slerp(a: Tensor, b: Tensor, part: Tensor) -> Tensor:
    """Rows on the great arc from ``a`` to ``b`` (B, ...), at ``part`` (B,) of its angle: 0 is a, 1 is b, exactly.

    (Shoemake 1985.) The norm goes evenly from one to the other, so that noise stays noise of its variance; rows
    almost parallel go on the straight line.
    """
    w = part.to(torch.float64).view(-1, *[1] * (a.ndim - 1))
    first, last = a.to(torch.float64), b.to(torch.float64)
    norms = [torch.linalg.vector_norm(v.flatten(1), dim=1).view_as(w) for v in (first, last)]
    units = [v / n.clamp_min(1e-12) for v, n in zip((first, last), norms, strict=True)]
    cosine = (units[0] * units[1]).flatten(1).sum(1).view_as(w).clamp(-1, 1)
    angle = torch.arccos(cosine)
    bent = angle.sin() > 1e-4
    over = torch.where(bent, angle.sin(), 1)
    near = torch.where(bent, ((1 - w) * angle).sin() / over, 1 - w)
    far = torch.where(bent, (w * angle).sin() / over, w)
    length = (1 - w) * norms[0] + w * norms[1]
    arc = (length * (near * units[0] + far * units[1])).to(a.dtype)
    return torch.where(w == 0, a, torch.where(w == 1, b, arc))


@dataclass(frozen=True, eq=False)
class Between:
    """Noise between two others of as many rows, at ``part`` (rows,) of the arc of every draw."""

    first: Noise
    last: Noise
    part: Tensor

    def start(self) -> Tensor:
        """The first draw of every row."""
        return slerp(self.first.start(), self.last.start(), self.part)

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """Fresh noise for the step from ``at`` to ``to``."""
        return slerp(self.first(at, to, visit), self.last(at, to, visit), self.part)


def mixed(a: Cond, b: Cond, part: Tensor) -> Cond | None:
    """Conditions on the line from ``a`` to ``b``, of one row each, a row for each value of ``part``.

    None where they cannot be mixed: other doors, a label, which is a number of a class, or a prompt that changes over
    the steps. The shorter row of tokens is filled with zeros, and a token counts where it does in either.
    """
    if isinstance(a, Script) or isinstance(b, Script):
        return None
    one, other = a.named(), b.named()
    if one.keys() != other.keys():
        return None
    rows: dict[str, Tensor] = {}
    for name, first in one.items():
        last = other[name]
        if name in ("tokens", "mask"):
            length = max(first.shape[1], last.shape[1])
            first, last = _longer(first, length), _longer(last, length)
        if first.shape != last.shape:
            return None
        w = part.to(first.device).view(-1, *[1] * (first.ndim - 1))
        if name == "mask":
            rows[name] = torch.where(w == 0, first, torch.where(w == 1, last, first | last))
        elif first.is_floating_point():
            rows[name] = ((1 - w) * first + w * last).to(first.dtype)
        elif bool((first == last).all()):
            rows[name] = first.expand(len(part), *first.shape[1:])
        else:
            return None
    return made(rows, a.manner)


def blended(one: Denoise, other: Denoise, part: Tensor) -> Denoise:
    """Estimates on the line from those of ``one`` to those of ``other``, at ``part`` (B,) for each row."""

    async def denoise(x: Vector, at: Level) -> Estimate:
        first, last = await one(x, at), await other(x, at)
        w = part.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
        return Estimate(at, (1 - w) * first.x0 + w * last.x0, (1 - w) * first.eps + w * last.eps)

    return denoise


def _longer(values: Tensor, length: int) -> Tensor:
    missing = length - values.shape[1]
    if not missing:
        return values
    return torch.cat((values, values.new_zeros(1, missing, *values.shape[2:])), dim=1)
