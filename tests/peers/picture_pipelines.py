"""diffusers' pipelines that work on pictures, made of the tiny ones, and what they must share with ours to compare.

They draw latents from the autoencoder's posterior, where ours take its mean, and draw noise in an order of their own:
both are put in by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from sfumato.engine.run import run
from sfumato.model import Model
from sfumato.nn.flux import folded
from sfumato.tasks.task import make
from tests.peers.pipelines import DDIM, FLOW_VAE, PIPELINES, Case, flux, peer, sd2, vae, wide_tables

EIGHTH = {
    "block_out_channels": (32,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
}
"""An autoencoder of factor 8, which FLUX.1 Fill's mask of 8 x 8 pixels a place presupposes."""


def fill() -> Any:
    """FLUX.1 Fill."""
    made = flux(columns=384, kind=diffusers.FluxFillPipeline)
    made.register_modules(vae=vae(0.3611, shift_factor=0.1159, **FLOW_VAE, **EIGHTH))
    return diffusers.FluxFillPipeline(**made.components)


MORE: dict[str, Callable[[], Any]] = {
    **PIPELINES,
    "fill of eighths": fill,
    "kontext": lambda: flux(kind=diffusers.FluxKontextPipeline),
    "control": lambda: flux(columns=128, kind=diffusers.FluxControlPipeline),
    "depth": lambda: sd2("epsilon", in_channels=5),
}
"""Pipelines by name, those of tests.peers.pipelines among them."""


def built(name: str, folder: Any) -> Case:
    """The case called ``name``, saved to ``folder``."""
    return Case(name, peer(MORE[name], folder))


def as_kind(pipe: Any, kind: Any, scheduler: Any = None, **more: Any) -> Any:
    """The parts of ``pipe`` as a pipeline of another ``kind``, with DDIM unless a scheduler is given."""
    parts = {**pipe.components, "scheduler": scheduler or diffusers.DDIMScheduler(**DDIM), **more}
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def as_depth(pipe: Any) -> Any:
    """The parts of ``pipe`` as the pipeline that follows depth; its maps are given, so that it estimates none."""
    parts = {k: v for k, v in pipe.components.items() if k in ("vae", "text_encoder", "tokenizer", "unet")}
    none: Any = torch.nn.Module()
    none.device = torch.device("cpu")
    made = diffusers.StableDiffusionDepth2ImgPipeline(
        **parts, scheduler=diffusers.DDIMScheduler(**DDIM), depth_estimator=none, feature_extractor=None
    )
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def noise_of(pipe: Any, *draws: Tensor) -> Iterator[None]:
    """Let ``pipe`` draw ``draws`` in order, take the mean of every posterior, and keep tables in float64."""
    module = sys.modules[type(pipe).__module__]
    left = list(draws)

    def drawn(shape: Sequence[int], **_: Any) -> Tensor:
        first = left.pop(0)
        assert tuple(first.shape) == tuple(shape)
        return first

    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), wide_tables(pipe):
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", drawn)
        patch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        yield
    assert not left


def draw(model: Model, width: int, height: int, seed: int = 3) -> Tensor:
    """The noise that our tasks begin with for ``seed``."""
    shape = model.codec.shape(height, width)
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)).double()


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture of smooth colours, uint8 (height, width, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def latent_of(task: type[Any], model: Model, **fields: Any) -> Tensor:
    """The latents that ``task`` decodes."""
    seen: list[Tensor] = []

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "decode":
            seen.append(ask.arguments[0])

    run(make(task, **fields)(model), listen)
    assert len(seen) == 1
    return seen[0]


def far(found: Tensor, expected: Tensor) -> float:
    """The root of the mean square of the difference, in parts of that of what is expected."""
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


def unfolded(rows: Tensor, height: int, width: int) -> Tensor:
    """What ``folded`` made rows of."""
    return torch.nn.functional.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


__all__ = ["MORE", "as_kind", "built", "draw", "far", "folded", "latent_of", "noise_of", "photo", "unfolded"]
