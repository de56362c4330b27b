"""A model: denoiser, codec and conditioner in one bundle, with four verbs that tasks await."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from sfumato.ask import Ask
from sfumato.codec import Codec
from sfumato.condition import Cond, Prompt
from sfumato.denoiser import Denoiser
from sfumato.process.estimate import Estimate
from sfumato.process.grid import Final
from sfumato.process.level import Level
from sfumato.process.schedule import Schedule

Conditioner = Callable[[Sequence[str | Prompt]], Cond]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a task uses where a person chose nothing, and the sizes that the model can make.

    ``final`` is the last level of the model's grids (see make_grid); with ``unit_start`` pictures begin at noise of
    unit variance, not of the first level's sigma. A ``distilled`` model is told the guidance, which is then not
    computed from two branches.
    """

    steps: int
    sampler: str
    grid: str
    guidance: float
    width: int
    height: int
    multiple: int = 16
    least: int = 128
    most: int = 128
    final: Final = "zero"
    unit_start: bool = False
    distilled: bool = False
    guide: str = "cfg"


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Everything that makes pictures, as values; ``identity`` is the sha256 (hex) of the weights, or finds it.

    ``schedule_of`` gives the schedule by the shape of a latent, where it depends on that. ``refused`` says, by the
    name of a task, why this model cannot do it.
    """

    name: str
    identity: str | Callable[[], str]
    denoiser: Denoiser
    codec: Codec
    conditioner: Conditioner
    defaults: Defaults
    notes: Callable[[str], list[str]] = field(default=lambda prompt: [])
    schedule_of: Callable[[tuple[int, ...]], Schedule] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """The sha256 of the weights, in hexadecimal; found when first asked for, since it reads all of them."""
        return self.identity if isinstance(self.identity, str) else self.identity()

    def schedule(self, shape: tuple[int, ...]) -> Schedule:
        """The schedule for latents of ``shape`` (C, H, W): some models' depends on how many there are."""
        return self.denoiser.schedule if self.schedule_of is None else self.schedule_of(shape)

    async def embed(self, prompts: Sequence[str | Prompt]) -> Cond:
        """The conditions for ``prompts``, one row each."""
        cond: Cond = await Ask("embed", self, (tuple(prompts),))
        return cond

    async def encode(self, pixels: Tensor) -> Tensor:
        """The latents of ``pixels`` (B, 3, H, W) in [-1, 1]."""
        latent: Tensor = await Ask("encode", self, (pixels,))
        return latent

    async def denoise(self, x: Tensor, at: Level, *conds: Cond, grad: bool = False) -> tuple[Estimate, ...]:
        """One estimate of rows ``x`` (B, ...) at the level ``at`` (floats) for each condition.

        With ``grad`` they can be differentiated with respect to ``x``.
        """
        estimates: tuple[Estimate, ...] = await Ask("denoise", self, (x, at, conds), grad)
        return estimates

    async def decode(self, latent: Tensor) -> Tensor:
        """The pixels of ``latent``, (B, 3, H, W) in [-1, 1]."""
        pixels: Tensor = await Ask("decode", self, (latent,))
        return pixels
