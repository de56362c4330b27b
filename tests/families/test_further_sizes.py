"""The further families at their published sizes, without memory: shapes tell the network, the table every name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from sfumato.families.checkpoint import NETWORKS, TABLES
from sfumato.families.dcae import sana
from sfumato.families.keys.unet import table as unet_table
from sfumato.families.languages import lumina, zimage
from sfumato.families.shapes import chroma, dit, pixart, pixels, unet
from sfumato.nn.unet import UNet
from sfumato.weights.links import links, prove
from tests.peers.further import PUBLISHED

XL = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
}
PIXART = {**XL, "cross_attention_dim": 1152, "caption_channels": 4096}
DDPM = {
    "attention_head_dim": None,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
}
SHORT = {
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
NETS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "pixart alpha 512": (
        lambda: diffusers.PixArtTransformer2DModel(**PIXART, sample_size=64),
        {"heads": 16, "tokens": 4096, "depth": 28, "sizes": False},
    ),
    "pixart alpha 1024": (
        lambda: diffusers.PixArtTransformer2DModel(**PIXART, sample_size=128),
        {"sizes": True, "single": True, "outer": 8},
    ),
    "dit": (
        lambda: diffusers.DiTTransformer2DModel(**XL, sample_size=32, num_embeds_ada_norm=1000),
        {"classes": 1001, "heads": 16, "outer": 8},
    ),
    "chroma": (
        diffusers.ChromaTransformer2DModel,
        {"double": 19, "single": 38, "heads": 24, "axes": (16, 56, 56), "hidden": 5120, "layers": 5},
    ),
    "lumina": (
        lambda: diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304),
        {"depth": 26, "refiners": 2, "heads": 24, "groups": 8, "hidden": 9216, "axes": (32, 32, 32)},
    ),
    "sana 1.6B": (
        diffusers.SanaTransformer2DModel,
        {"depth": 20, "width": 2240, "heads": 70, "text_heads": 20, "hidden": 5600, "norm": False},
    ),
    "sana 1.5 4.8B": (
        lambda: diffusers.SanaTransformer2DModel(num_layers=60, qk_norm="rms_norm_across_heads"),
        {"depth": 60, "heads": 70, "text_heads": 20, "tokens": 2304, "norm": True},
    ),
    "sana 600M": (
        lambda: diffusers.SanaTransformer2DModel(
            num_attention_heads=36,
            num_layers=28,
            num_cross_attention_heads=16,
            cross_attention_head_dim=72,
            cross_attention_dim=1152,
        ),
        {"depth": 28, "width": 1152, "heads": 36, "text_heads": 16, "hidden": 2880, "channels": 32},
    ),
    "zimage": (
        diffusers.ZImageTransformer2DModel,
        {"depth": 30, "refiners": 2, "heads": 30, "hidden": 10240, "axes": (32, 48, 48), "theta": 256.0},
    ),
    "pixels cifar10": (lambda: diffusers.UNet2DModel(**DDPM), {"blocks": 2, "classes": 0, "inner": 3}),
    "unet SSD-1B": (
        lambda: diffusers.UNet2DConditionModel(**SHORT, **PUBLISHED["SSD-1B"]),
        {"downs": (1, 1, 2, 2, 4, 4), "ups": (4, 4, 10, 2, 1, 1, 1, 1, 1), "vector": 2816},
    ),
    "unet Vega": (
        lambda: diffusers.UNet2DConditionModel(**SHORT, **PUBLISHED["Vega"]),
        {"depth": (1, 1, 2), "tokens": 2048, "short_middle": True},
    ),
}
"""diffusers' networks of the published settings, and some of what their shapes must tell."""


@pytest.mark.parametrize("name", NETS)
def test_shapes_of_published_size_are_told_and_all_names_have_a_row(name: str) -> None:
    make, wanted = NETS[name]
    kind = name.split()[0]
    with torch.device("meta"):
        theirs = {key: tuple(tensor.shape) for key, tensor in make().state_dict().items()}
    linear = True
    config: Any
    if kind == "unet":
        config, linear = unet(theirs, "diffusers")
    elif kind == "pixels":
        config = pixels(theirs)
    else:
        config = {
            "pixart": pixart,
            "dit": dit,
            "chroma": chroma,
            "lumina": lumina,
            "zimage": zimage,
            "sana": sana,
        }[kind](theirs, "diffusers")
    told = asdict(config)
    assert {key: told[key] for key in wanted} == wanted
    with torch.device("meta"):
        ours = (UNet if kind == "unet" else NETWORKS[kind])(config)
    table = unet_table(config, linear=linear) if kind == "unet" else TABLES[kind](config)
    shapes = {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()}
    found = links(table, "diffusers", shapes)
    prove(table, "diffusers", found, theirs.keys())
    for link in found:
        for key, shape in zip(
            link.theirs, link.their_shapes([shapes[one] for one in link.ours]), strict=True
        ):
            assert theirs[key] == shape, key
