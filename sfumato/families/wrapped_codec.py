"""Autoencoders of diffusers as codecs of ours, one row a class: how they are called, how their latents are normal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.codec import Codec, Latent, Pixels
from sfumato.errors import WeightsError
from sfumato.families.told import channels as channels_of
from sfumato.families.told import number
from sfumato.families.ways import Way
from sfumato.nn.wrapped import WrappedVae, WrappedVaeConfig


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """What is special to a class of autoencoders: frames, the side of patches that are places, how latents are normal.

    ``normal`` is "scale" (scaling_factor and shift_factor), "channels" (latents_mean and latents_std) or "batch" (the
    running mean and variance of a batch norm).
    """

    frames: bool = False
    patch: int = 1
    normal: str = "scale"


AUTOENCODERS = {
    "AutoencoderKL": Autoencoder(),
    "AutoencoderDC": Autoencoder(),
    "AutoencoderTiny": Autoencoder(),
    "AutoencoderKLQwenImage": Autoencoder(frames=True, normal="channels"),
    "AutoencoderKLFlux2": Autoencoder(patch=2, normal="batch"),
}


def codec_of(pipe: Any, path: Path, channels: int, way: Way) -> tuple[int, Codec, int]:
    """The channels of x, pixels and latents, and how many pixels a side of a place is.

    ``channels`` go into the network, which is called the ``way`` that says in which patches.
    """
    side = way.packed or 1
    vae = getattr(pipe, "vae", None)
    if vae is None:
        size = pipe.unet.config.get("sample_size") if hasattr(pipe, "unet") else None
        if channels not in (1, 3) or not isinstance(size, int) or hasattr(pipe, "vqvae"):
            raise WeightsError(f"{path} has no autoencoder that is known here, and its values are no pixels")
        return channels, Pixels(channels, size, size), 1
    named, told = type(vae).__name__, vae.config
    if named not in AUTOENCODERS:
        raise WeightsError(
            f"the autoencoder of {path} is {named}, which is not known how to call; known: {', '.join(AUTOENCODERS)}"
        )
    kind = AUTOENCODERS[named]
    latent = int(told.get("latent_channels") or told["z_dim"]) * kind.patch**2
    if channels != latent * side**2:
        raise WeightsError(
            f"the denoiser of {path} reads {channels} channels, and its autoencoder makes "
            f"{latent}: packed latents, and pictures beside them, are followed for the classes of `sfumato families`"
        )
    if kind.normal == "scale" and told.get("latents_mean") is not None:
        raise WeightsError(f"the autoencoder of {path} has a mean for each channel, which is not followed")
    blocks = told.get("block_out_channels") or told.get("encoder_block_out_channels")
    factor = kind.patch * 2 ** (len(blocks) - 1 if blocks else len(told["temperal_downsample"]))
    config = WrappedVaeConfig(latent=latent, factor=factor, frames=kind.frames, patch=kind.patch)
    mean, std = normal_of(vae, kind, latent, path, centred=way.centred)
    return latent, Latent(WrappedVae(vae.eval().requires_grad_(False), config), mean, std), factor


def normal_of(
    vae: Any, kind: Autoencoder, latent: int, path: Path, *, centred: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each of ``latent`` channels, or of all; a mean of all is 0 unless ``centred``.

    WeightsError for settings that are no such numbers.
    """
    told = vae.config
    if kind.normal == "channels":
        mean = channels_of(told, "latents_mean", latent, str(path))
        return mean, channels_of(told, "latents_std", latent, str(path), least=1e-9)
    if kind.normal == "batch":
        spread = (vae.bn.running_var.double() + told["batch_norm_eps"]).sqrt()
        return vae.bn.running_mean.detach().double().clone(), spread.detach()
    shift = number(told, "shift_factor", 0.0, str(path), least=-1e9, owner="autoencoder")
    scale = number(told, "scaling_factor", 1.0, str(path), owner="autoencoder")
    one = torch.ones(1, dtype=torch.float64)
    return shift * centred * one, one / scale
