"""Conditions by door: named tensors with a leading row axis that steer a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a condition is made from: a text, and what else published models want to know of the request.

    ``absent`` marks a prompt that nobody gave, such as the negative one left out: some models were trained to see zeros
    there, and the empty text stands in elsewhere. ``negative`` is whether the picture should keep away from it.
    ``width`` and ``height`` are the picture's in pixels, 0 where nothing is known; ``guidance`` is the strength that a
    distilled network is told.
    """

    text: str
    absent: bool = False
    negative: bool = False
    width: int = 0
    height: int = 0
    guidance: float = 1.0


def texts(prompts: Sequence[str | Prompt]) -> list[str]:
    """The bare texts of ``prompts``."""
    return [p.text if isinstance(p, Prompt) else p for p in prompts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cond:
    """What steers a row, by the door through which it enters the network; None for a door not used.

    ``tokens`` (B, L, D) with ``mask`` (B, L), True where a token counts; ``vector`` (B, D); ``label``
    (B,) int; ``channels`` (B, C, H, W), laid beside x; ``guidance`` (B,), the strength that a distilled network
    reads; ``reference`` (B, C, H', W'), latents of a picture to look at.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    label: Tensor | None = None
    channels: Tensor | None = None
    guidance: Tensor | None = None
    reference: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors that are there, by door."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    @property
    def rows(self) -> int | None:
        """How many rows there are; None without any condition."""
        return next((len(value) for value in self.named().values()), None)

    def expand(self, rows: int) -> Cond:
        """The same condition for ``rows`` rows, where this one has a single row (or that many already)."""
        return Cond(**{name: value.expand(rows, *value.shape[1:]) for name, value in self.named().items()})

    def row(self, index: int) -> Cond:
        """Row ``index`` by itself."""
        return Cond(**{name: value[index : index + 1] for name, value in self.named().items()})

    def to(self, dtype: torch.dtype, device: torch.device) -> Cond:
        """All tensors on ``device``, floating ones as ``dtype``."""
        return Cond(
            **{
                name: value.to(device, dtype if value.is_floating_point() else value.dtype)
                for name, value in self.named().items()
            }
        )

    @property
    def key(self) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """What two conditions must share to be stacked: doors, shapes of a row, dtypes."""
        return tuple((name, tuple(v.shape[1:]), v.dtype) for name, v in self.named().items())


def join(conditions: list[Cond]) -> Cond:
    """Rows of several conditions with the same key, one below the other."""
    names = conditions[0].named()
    return Cond(**{name: torch.cat([c.named()[name] for c in conditions]) for name in names})
