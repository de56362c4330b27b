"""Networks of another library, called as ours are: what their ``forward`` takes is read from its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DOORS: dict[str, tuple[str, ...]] = {
    "x": ("sample", "hidden_states"),
    "clock": ("timestep", "timesteps"),
    "tokens": ("encoder_hidden_states",),
    "mask": ("encoder_attention_mask",),
    "vector": ("pooled_projections",),
    "label": ("class_labels",),
}
"""What is told a network, and what diffusers' networks call it."""


def called(forward: Callable[..., Any]) -> dict[str, str]:
    """Of each door, the parameter of ``forward`` that it goes to.

    ValueError that names the parameters without a default that no door knows, or that no latent can go in.
    """
    parameters = inspect.signature(forward).parameters
    known = {name: door for door, names in DOORS.items() for name in names}
    found = {known[name]: name for name in parameters if name in known}
    odd = [
        n
        for n, p in parameters.items()
        if n not in known and p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    if odd or not {"x", "clock"} <= found.keys():
        raise ValueError(f"its forward needs {', '.join(odd) or 'no latent'}, which is not known how to give")
    return found


@dataclass(frozen=True, kw_only=True)
class WrappedConfig:
    """What is asked of a network's config here: the channels that go in and come out."""

    channels: int
    outer: int


class Wrapped(nn.Module):
    """A network of diffusers with the doors of ours; ``names`` are the doors that its forward has.

    ``share`` is what it is told of the clock: 0.001 of one that counts 1000 sigma and is told sigma.
    """

    def __init__(self, network: nn.Module, config: WrappedConfig, share: float = 1.0) -> None:
        """Wrap ``network``; ValueError if its forward cannot be called."""
        super().__init__()
        self.network, self.config, self.share = network, config, share
        self.names = called(network.forward)

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """The output (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,); doors as Cond has them."""
        told = {"x": x, "tokens": tokens, "mask": mask, "vector": vector, "label": label}
        given = {
            self.names[door]: value
            for door, value in told.items()
            if value is not None and door in self.names
        }
        given[self.names["clock"]] = (self.share * clock).to(x.dtype)
        out: Tensor = self.network(**given, return_dict=False)[0]
        return out


@dataclass(frozen=True, kw_only=True)
class WrappedVaeConfig:
    """The channels of a latent, and how many pixels a side of one is."""

    latent: int
    factor: int


class WrappedVae(nn.Module):
    """An autoencoder of diffusers as a codec needs it."""

    def __init__(self, network: nn.Module, config: WrappedVaeConfig) -> None:
        """Wrap ``network``."""
        super().__init__()
        self.network, self.config = network, config

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of ``pixels``; a log-variance of 0 where there is none."""
        found: Any = self.network.encode(pixels, return_dict=False)[0]  # type: ignore[operator]
        if isinstance(found, Tensor):
            return found, torch.zeros_like(found)
        return found.mean, found.logvar

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels of ``latent``."""
        out: Tensor = self.network.decode(latent, return_dict=False)[0]  # type: ignore[operator]
        return out
