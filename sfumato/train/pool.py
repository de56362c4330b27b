"""Examples computed once: latents of augmented pictures and the text states of their captions, on disk.

A pool holds several variants of every picture, each with its own shift, mirror, background and caption. Text
states are ragged: only the tokens that count are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from torch import Tensor

from sfumato.condition import Cond
from sfumato.errors import WeightsError
from sfumato.files import write_bytes

Condition = Callable[[Sequence[str]], Cond]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Stored examples.

    ``latent`` (N, C, h, w) fp16, already normalised; ``states`` (T, D) fp16 holds the token states of all
    captions end to end, example i's being rows ``start[i] : start[i + 1]``; ``pooled`` (N, D) fp16; ``weight``
    (N,) how often each is drawn. ``empty_states`` and ``empty_pooled`` are those of the empty prompt.
    """

    latent: Tensor
    states: Tensor
    start: Tensor
    pooled: Tensor
    weight: Tensor
    empty_states: Tensor
    empty_pooled: Tensor

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.latent)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` example numbers by weight, with replacement."""
        return torch.multinomial(self.weight, count, replacement=True, generator=generator)

    def latents(self, rows: Tensor) -> Tensor:
        """The latents of ``rows``, float32."""
        return self.latent[rows].to(torch.float32)

    def conditions(self, rows: Tensor, dropped: Tensor) -> Cond:
        """The conditions of ``rows``; where ``dropped`` is True, those of the empty prompt."""
        parts = [
            self.empty_states if drop else self.states[self.start[i] : self.start[i + 1]]
            for i, drop in zip(rows.tolist(), dropped.tolist(), strict=True)
        ]
        length = max(len(p) for p in parts)
        tokens = torch.zeros(len(parts), length, self.states.shape[1])
        mask = torch.zeros(len(parts), length, dtype=torch.bool)
        for k, part in enumerate(parts):
            tokens[k, : len(part)] = part
            mask[k, : len(part)] = True
        vector = torch.where(dropped[:, None], self.empty_pooled[None], self.pooled[rows])
        return Cond(tokens=tokens, mask=mask, vector=vector.to(torch.float32))

    def save(self, path: Path) -> None:
        """Write the pool to ``path``, whole or not at all."""
        write_bytes(path, save_safetensors({k: v.contiguous() for k, v in vars(self).items()}))


def load_pool(path: Path) -> Pool:
    """Read what ``Pool.save`` wrote; WeightsError if the file is damaged."""
    try:
        return Pool(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise WeightsError(f"the stored examples {path} are damaged: {error}; delete the file") from error


def embed(captions: Sequence[str], condition: Condition, batch: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Token states of ``captions`` end to end (T, D) fp16, their starts (N + 1,) and pooled vectors (N, D).

    ``condition(texts)`` gives a Cond with tokens, mask and vector. Captions are encoded once each.
    """
    unique = sorted(set(captions), key=len)
    states: dict[str, Tensor] = {}
    pooled: dict[str, Tensor] = {}
    for begin in range(0, len(unique), batch):
        texts = unique[begin : begin + batch]
        doors = condition(texts).named()
        rows = zip(texts, doors["tokens"], doors["mask"], doors["vector"], strict=True)
        for text, token, keep, vector in rows:
            states[text] = token[keep].to(torch.float16)
            pooled[text] = vector.to(torch.float16)
    lengths = torch.tensor([0] + [len(states[c]) for c in captions])
    flat = torch.cat([states[c] for c in captions])
    return flat, lengths.cumsum(0), torch.stack([pooled[c] for c in captions])
