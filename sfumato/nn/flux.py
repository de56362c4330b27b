"""The transformer of FLUX.1 (Black Forest Labs 2024, github.com/black-forest-labs/flux)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attend import attend
from sfumato.nn.attention import RMSNorm
from sfumato.nn.joint import EPS, JointBlock, Steer, axis_angles, gated, shifted, turned
from sfumato.nn.told import Place, told_of


@dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """The numbers that make a Flux; ``channels`` and ``outer`` count latent channels before patches are folded in.

    ``guidance`` is whether the network reads the strength of distilled guidance; ``axes`` are how many values of
    a head turn with each coordinate of a position (which picture, row, column).
    """

    double: int = 19
    single: int = 38
    width: int = 3072
    heads: int = 24
    channels: int = 16
    outer: int = 16
    tokens: int = 4096
    vector: int = 768
    guidance: bool = True
    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0


class SingleBlock(nn.Module):
    """Attention and perceptron side by side over one row of text and picture (Dehghani et al. 2023, section 2)."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block of ``width`` values and ``heads`` heads."""
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 3 * width)
        self.enter = nn.Linear(width, 7 * width)
        self.q_norm = RMSNorm(width // heads, EPS)
        self.k_norm = RMSNorm(width // heads, EPS)
        self.leave = nn.Linear(5 * width, width)

    def forward(
        self,
        x: Tensor,
        steer: Tensor,
        turn: tuple[Tensor, Tensor],
        told: Place | None = None,
        text: int = 0,
    ) -> Tensor:
        """Map ``x`` (B, S + L, D), steered by ``steer`` (B, D), at positions ``turn`` (S + L, d / 2).

        ``told`` is what is not as usual, ``text`` is S.
        """
        if told is not None and told.skipped:
            return x
        width = x.shape[-1]
        shift, scale, gate = self.modulation(steer).chunk(3, dim=-1)
        qkv, hidden = self.enter(shifted(x, shift, scale)).split((3 * width, 4 * width), dim=-1)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        if told is not None:
            query = told.blurred(query, text)
        query, key = self.q_norm(query), self.k_norm(key)
        if told is not None:
            query, key = told.aligned(query, key, text)
        query, key = turned(query, *turn), turned(key, *turn)
        seen = attend(query, key, value) if told is None else told.look(query, key, value, text)
        return gated(x, gate, self.leave(torch.cat((seen, F.gelu(hidden, approximate="tanh")), dim=-1)))


class Flux(nn.Module):
    """Joint blocks, then single blocks, over patches of 2 x 2 latents."""

    def __init__(self, config: FluxConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        width = config.width
        self.enter = nn.Linear(4 * config.channels, width)
        self.words = nn.Linear(config.tokens, width)
        self.steer = Steer(width, config.vector, config.guidance)
        self.double_blocks = nn.ModuleList(JointBlock(width, config.heads) for _ in range(config.double))
        self.single_blocks = nn.ModuleList(SingleBlock(width, config.heads) for _ in range(config.single))
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, 4 * config.outer)
        self.attention_layers = ("double",) * config.double + ("single",) * config.single

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor,
        vector: Tensor,
        guidance: Tensor | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), 1000 times sigma.

        ``tokens`` (B, S, tokens), of which those count where ``mask`` (B, S) is True, all without it; ``vector`` (B,
        vector); ``guidance`` (B,) the strength of distilled guidance; ``reference`` (B, C, H', W') a picture's
        latents to look at (Kontext). Sides are even; ValueError otherwise. ``manner``, ``regions``, ``owner`` and
        ``counts`` are Cond's.
        """
        if any(side % 2 for side in (*x.shape[-2:], *(() if reference is None else reference.shape[-2:]))):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be even")
        height, width = (side // 2 for side in x.shape[-2:])
        rows = folded(x)
        places = [torch.zeros(tokens.shape[1], len(self.config.axes)), positions(height, width, 0)]
        if reference is not None:
            rows = torch.cat((rows, folded(reference)), dim=1)
            places.append(positions(reference.shape[-2] // 2, reference.shape[-1] // 2, 1))
        wide = torch.promote_types(x.dtype, torch.float32)
        turn = axis_angles(torch.cat(places).to(x.device), self.config.axes, self.config.theta, wide)
        steer = self.steer(clock, vector, None if guidance is None else 1000 * guidance.double(), x)
        h, text = self.enter(rows), self.words(tokens)
        often = mask if counts is None else counts if mask is None else counts * mask
        told, sides, last = told_of(manner, regions, owner, often), (height, width), len(self.double_blocks)
        for number, block in enumerate(self.double_blocks):
            h, text = block(h, text, steer, turn, None if told is None else told.at(number, sides))
        count = text.shape[1]
        h = torch.cat((text, h), dim=1)
        for number, block in enumerate(self.single_blocks, last):
            h = block(h, steer, turn, None if told is None else told.at(number, sides), count)
        h = h[:, count : count + height * width]
        h = self.leave(shifted(h, *self.modulation(steer).chunk(2, dim=-1)))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (height, width)), 2)


def folded(x: Tensor, side: int = 2) -> Tensor:
    """Patches of ``side`` x ``side`` as rows: (B, C, H, W) -> (B, H W / side^2, side^2 C)."""
    return F.pixel_unshuffle(x, side).flatten(2).transpose(1, 2)


def positions(height: int, width: int, picture: int) -> Tensor:
    """(which picture, row, column) of each patch, (height * width, 3) float."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((torch.full_like(rows, picture), rows, columns), dim=-1).flatten(0, 1).float()
