"""From prompts to conditions, by each published family's rules: layers, padding, pooled vectors, what is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.condition import Cond
from sfumato.nn.clip import ClipText
from sfumato.nn.embed import sinusoid
from sfumato.nn.t5 import T5Encoder
from sfumato.text.clip import clip_ids
from sfumato.text.t5 import T5Tokens

CLIP_PAD, OPEN_PAD = None, 0
"""What fills a row of tokens: OpenAI's encoder is padded with its end token, OpenCLIP's with token 0."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP encoder as a family uses it: ``pad`` (None: the end token) fills rows, ``skip`` blocks are left out."""

    network: ClipText
    pad: int | None = CLIP_PAD
    skip: int = 0
    normed: bool = True

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, 77) on the network's device."""
        config = self.network.config
        pad = config.end if self.pad is None else self.pad
        ids, _ = clip_ids(prompts, pad, config.length)
        return ids.to(self.network.token.weight.device)

    def states(self, prompts: Sequence[str]) -> Tensor:
        """States (B, 77, D)."""
        states: Tensor = self.network(self.ids(prompts), skip=self.skip, normed=self.normed, pooled=False)[0]
        return states

    def both(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, 77, D) and the pooled vector (B, P)."""
        states, pooled = self.network(self.ids(prompts), skip=self.skip, normed=self.normed)
        assert pooled is not None
        return states, pooled


def sd(clip: Clip, prompts: Sequence[str]) -> Cond:
    """Stable Diffusion 1 and 2: the states are all."""
    return Cond(tokens=clip.states(prompts))


def sdxl(
    small: Clip | None,
    big: Clip,
    prompts: Sequence[str],
    sizes: Sequence[float],
    features: int = 256,
    zeros: bool = False,
) -> Cond:
    """Stable Diffusion XL: both encoders' penultimate states side by side; pooled text and ``sizes`` as a vector.

    (Podell et al. 2023, section 2.2 and 2.1.) ``small`` is None for the refiner. ``sizes`` are original height and
    width, crop top and left, target height and width; for the refiner aesthetic score in place of the last two.
    Each becomes ``features`` sinusoids. ``zeros`` stands for "no negative prompt", as the base model was trained.
    """
    states, pooled = big.both(prompts)
    if small is not None:
        states = torch.cat((small.states(prompts), states), dim=-1)
    if zeros:
        states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
    told = sinusoid(torch.tensor(sizes, dtype=torch.float64).to(pooled.device), features, like=pooled)
    vector = torch.cat((pooled, told.flatten()[None].expand(len(pooled), -1)), dim=-1)
    return Cond(tokens=states, vector=vector)


def sd3(
    small: Clip,
    big: Clip,
    t5: tuple[T5Encoder, T5Tokens] | None,
    prompts: Sequence[str],
    width: int,
    length: int,
) -> Cond:
    """Stable Diffusion 3: both CLIPs' penultimate states side by side, filled with zeros to ``width``, then T5's.

    (Esser et al. 2024, section 4.) Without T5 its ``length`` places are zeros; its padding is attended to like the
    rest. The vector is both pooled vectors side by side.
    """
    first, pooled = small.both(prompts)
    second, more = big.both(prompts)
    clips = torch.cat((first, second), dim=-1)
    clips = F.pad(clips, (0, width - clips.shape[-1]))
    if t5 is None:
        words = clips.new_zeros(len(prompts), length, width)
    else:
        words = t5_states(*t5, prompts, length).to(clips.dtype)
    return Cond(tokens=torch.cat((clips, words), dim=1), vector=torch.cat((pooled, more), dim=-1))


def flux(
    clip: Clip, t5: tuple[T5Encoder, T5Tokens], prompts: Sequence[str], length: int, guidance: float | None
) -> Cond:
    """FLUX.1: T5's states as tokens, CLIP's pooled vector, and the strength of distilled guidance if it reads one."""
    _, pooled = clip.both(prompts)
    told = None if guidance is None else torch.full((len(prompts),), guidance, dtype=torch.float32)
    return Cond(tokens=t5_states(*t5, prompts, length), vector=pooled, guidance=told)


def t5_states(network: T5Encoder, tokens: T5Tokens, prompts: Sequence[str], length: int) -> Tensor:
    """States (B, length, D) of ``prompts``, their padding included and attended to."""
    ids, _, _ = tokens(prompts, length)
    states: Tensor = network(ids.to(network.token.weight.device))
    return states
