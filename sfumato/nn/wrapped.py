"""Networks of another library, called as ours are: what their ``forward`` takes is read from its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.nn.flux import folded
from sfumato.nn.wrapped_more import MORE, Call, More

DOORS: dict[str, tuple[str, ...]] = {
    "x": ("sample", "hidden_states"),
    "clock": ("timestep", "timesteps"),
    "tokens": ("encoder_hidden_states",),
    "mask": ("encoder_attention_mask", "encoder_hidden_states_mask"),
    "vector": ("pooled_projections", "pooled_embeds"),
    "label": ("class_labels",),
    "guidance": ("guidance",),
}
"""What is told a network, and what diffusers' networks call it."""


def called(
    forward: Callable[..., Any], doors: Mapping[str, str] | None = None, *, more: tuple[str, ...] = ()
) -> dict[str, str]:
    """Of each door, the parameter of ``forward`` that it goes to; ``doors`` are those with other names.

    ``more`` are parameters that are given besides. ValueError that names the parameters without a default that nobody
    gives, or that no latent can go in.
    """
    parameters = inspect.signature(forward).parameters
    known = {name: door for door, names in DOORS.items() for name in names}
    known |= {name: door for door, name in (doors or {}).items()}
    found = {known[name]: name for name in parameters if name in known}
    odd = [
        n
        for n, p in parameters.items()
        if n not in known and n not in more and p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    if odd or not {"x", "clock"} <= found.keys():
        raise ValueError(f"its forward needs {', '.join(odd) or 'no latent'}, which is not known how to give")
    return found


@dataclass(frozen=True, kw_only=True)
class WrappedConfig:
    """What is asked of a network here: the channels of x that go in and come out, and how it is called.

    ``share`` is what it is told of the clock, 0.001 of one that counts 1000 sigma and is told sigma. ``sign``
    multiplies its output. ``packed`` is 0 where x goes in as maps, else the side of the patches that are its rows;
    ``last`` is of films of one frame, channels last. ``more`` names the function that gives what it wants besides (see
    MORE), ``doors`` are parameters with names of their own. ``factor`` is how many pixels a side of a place is.
    ``narrow`` ones are told the clock in their own dtype, others in float32 at least.
    """

    channels: int
    outer: int
    share: float = 1.0
    sign: float = 1.0
    packed: int = 0
    last: bool = False
    narrow: bool = False
    more: str = ""
    doors: Mapping[str, str] = field(default_factory=dict)
    factor: int = 8


Before = Callable[[Tensor, tuple[int, ...]], Tensor]
"""From the clock (B,) and the shape of x to the clock that the network is told."""


class Wrapped(nn.Module):
    """A network of diffusers with the doors of ours; ``names`` are the doors that its forward has."""

    def __init__(self, network: nn.Module, config: WrappedConfig, before: Before | None = None) -> None:
        """Wrap ``network``; ``before`` is what it is told instead of the clock. ValueError if it cannot be called."""
        super().__init__()
        self.network, self.config, self.before = network, config, before
        given: tuple[str, ...] = ()
        self.more: More | None = None
        if config.more:
            given, self.more = MORE[config.more]
        self.names = called(network.forward, config.doors, more=given)

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Tensor:
        """The output (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,); doors as Cond has them.

        ``reference`` (B, channels, H', W') is for networks whose rows may be another picture's too.
        """
        config = self.config
        dtype: torch.dtype = self.network.dtype  # type: ignore[assignment]
        x = x.to(dtype)
        tokens, vector = (one if one is None else one.to(dtype) for one in (tokens, vector))
        told = {"tokens": tokens, "mask": mask, "vector": vector, "label": label, "guidance": guidance}
        given: dict[str, Any] = {
            self.names[door]: value
            for door, value in told.items()
            if value is not None and door in self.names
        }
        if self.before is not None:
            clock = self.before(clock, tuple(x.shape))
        given[self.names["clock"]] = (config.share * clock).to(
            dtype if config.narrow else torch.promote_types(dtype, torch.float32)
        )
        given[self.names["x"]] = folded(x, config.packed) if config.packed else x
        if self.more is not None:
            height, width = x.shape[-2:]
            beside = None if reference is None else (reference.shape[-2], reference.shape[-1])
            call = Call(x, tokens, mask, vector, self.network.config, config.factor, height, width, beside)
            given |= self.more(call)
        if reference is not None:
            other = folded(reference.to(dtype), config.packed)
            given[self.names["x"]] = torch.cat((given[self.names["x"]], other), 1)
        if config.last:
            given[self.names["x"]] = x.movedim(1, -1)[:, None]
        found: Any = self.network(**given, return_dict=False)
        out: Tensor = found if isinstance(found, Tensor) else found[0]
        if config.last:
            return config.sign * out[:, 0].movedim(-1, 1)
        if config.packed:
            out = unfolded(out[:, : x.shape[-2] * x.shape[-1] // config.packed**2], x, config.packed)
        return config.sign * out


def unfolded(rows: Tensor, like: Tensor, side: int) -> Tensor:
    """What ``folded`` made rows of, as high and wide as ``like``."""
    height, width = like.shape[-2:]
    maps = rows.transpose(1, 2).reshape(len(rows), -1, height // side, width // side)
    return F.pixel_shuffle(maps, side)


@dataclass(frozen=True, kw_only=True)
class WrappedVaeConfig:
    """The channels of a latent, and how many pixels a side of one is.

    ``frames`` where pictures are films of one frame; ``patch`` is the side of the patches of latents that are its
    places.
    """

    latent: int
    factor: int
    frames: bool = False
    patch: int = 1


class WrappedVae(nn.Module):
    """An autoencoder of diffusers as a codec needs it."""

    def __init__(self, network: nn.Module, config: WrappedVaeConfig) -> None:
        """Wrap ``network``."""
        super().__init__()
        self.network, self.config = network, config

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of ``pixels``; a log-variance of 0 where there is none."""
        inner = pixels[:, :, None] if self.config.frames else pixels
        found: Any = self.network.encode(inner, return_dict=False)[0]  # type: ignore[operator]
        mean, spread = (
            (found, torch.zeros_like(found)) if isinstance(found, Tensor) else (found.mean, found.logvar)
        )
        if self.config.frames:
            mean, spread = mean[:, :, 0], spread[:, :, 0]
        return F.pixel_unshuffle(mean, self.config.patch), F.pixel_unshuffle(spread, self.config.patch)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels of ``latent``."""
        inner = F.pixel_shuffle(latent, self.config.patch)
        inner = inner[:, :, None] if self.config.frames else inner
        out: Tensor = self.network.decode(inner, return_dict=False)[0]  # type: ignore[operator]
        return out[:, :, 0] if self.config.frames else out
