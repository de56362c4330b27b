"""Tasks on pictures with a model on a GPU: tensors of pictures, masks and noise meet on one device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.codec import Latent
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.model import Defaults, Model
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import Vae, VaeConfig
from sfumato.process.prediction import prediction
from sfumato.process.table import scaled_linear
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.instruct import Instruct
from sfumato.tasks.restore import Restore
from sfumato.tasks.upscale import Upscale
from sfumato.tasks.vary import Vary
from tests.tasks.toys import corner, done, picture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SIDE = 32
DEFAULTS = Defaults(
    steps=3, sampler="ddim", grid="leading", guidance=1.0, width=32, height=32, multiple=8, least=16, most=64
)


def tiny(device: str, inner: int = 4) -> Model:
    """A U-Net that reads ``inner`` channels and an autoencoder of factor 2, both random, on ``device``."""
    torch.manual_seed(0)
    config = UNetConfig(inner=inner, outer=4, widths=(16, 16), blocks=1, attention=("none", "none"), groups=4)
    network = UNet(config).eval().requires_grad_(False)
    vae = Vae(VaeConfig(widths=(32, 32), blocks=1, latent=4)).eval().requires_grad_(False)
    return Model(
        name="tiny",
        identity="0" * 64,
        denoiser=Denoiser(network.to(device), scaled_linear(), prediction("eps")),
        codec=Latent(vae.to(device), torch.zeros(1), torch.ones(1)),
        conditioner=lambda prompts: Cond(),
        defaults=replace(DEFAULTS),
    )


@pytest.mark.parametrize(
    ("task", "fields", "inner"),
    [
        (Image2Image, {"image": picture(30, 20), "prompt": "x", "count": 2}, 4),
        (Inpaint, {"image": picture(SIDE, SIDE), "mask": corner(SIDE, SIDE), "prompt": "x"}, 4),
        (Inpaint, {"image": picture(SIDE, SIDE), "mask": corner(SIDE, SIDE), "prompt": "x"}, 9),
        (Instruct, {"image": picture(SIDE, SIDE), "prompt": "x"}, 8),
        (Upscale, {"image": picture(SIDE, SIDE), "space": "latent"}, 4),
        (Vary, {"image": picture(SIDE, SIDE)}, 4),
        (
            Restore,
            {"image": picture(SIDE, SIDE), "damage": "blur", "method": "mmps(iterations=1)", "steps": 2},
            4,
        ),
    ],
)
def test_a_picture_made_on_a_gpu_is_the_one_made_on_the_cpu(
    task: type[Any], fields: dict[str, Any], inner: int
) -> None:
    ours, theirs = (done(task, tiny(device, inner), **fields).pixels for device in ("cpu", "cuda"))
    apart = [float(np.abs(a.astype(float) - b).mean()) for a, b in zip(ours, theirs, strict=True)]
    assert max(apart) < 1
