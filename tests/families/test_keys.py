"""The key tables: each fills our network from the reference's own state, and back, and every row matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.families import shapes
from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.text import clip_table, t5_table
from sfumato.families.keys.unet import table as unet_table
from sfumato.families.keys.vae import table as vae_table
from sfumato.families.keys.vae import tiny_table
from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.t5 import T5Config, T5Encoder
from sfumato.nn.tiny import TinyConfig, TinyVae
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import Vae, VaeConfig
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source


@dataclass(frozen=True)
class Case:
    """A network of ours, its table, and the reference it equals."""

    ours: Callable[[], nn.Module]
    table: KeyTable
    theirs: Callable[[], nn.Module]


def unet(attention: tuple[str, ...], linear: bool, their: dict[str, Any], **more: Any) -> Case:
    config = UNetConfig(
        **{
            "inner": 4,
            "outer": 4,
            "widths": (8, 16, 16),
            "middle": "text",
            "tokens": 12,
            "groups": 4,
            "head": 4,
            **more,
        },
        attention=attention,  # type: ignore[arg-type]
    )
    kinds = tuple("CrossAttn" if a == "text" else "" for a in attention)
    return Case(
        lambda: UNet(config),
        unet_table(config, linear=linear),
        lambda: diffusers.UNet2DConditionModel(
            **{
                "block_out_channels": (8, 16, 16),
                "layers_per_block": 2,
                "cross_attention_dim": 12,
                "norm_num_groups": 4,
                "attention_head_dim": (2, 4, 4),
                "use_linear_projection": linear,
                "down_block_types": tuple(f"{k}DownBlock2D" for k in kinds),
                "up_block_types": tuple(f"{k}UpBlock2D" for k in reversed(kinds)),
                **their,
            }
        ),
    )


XL = {
    "transformer_layers_per_block": (1, 2, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 60,
}
VAE = VaeConfig(widths=(8, 16), groups=4)
CLIP = ClipConfig(width=8, layers=2, heads=2, mlp=16, vocabulary=30, length=7, projection=6, end=29)
T5 = T5Config(vocabulary=30, width=8, layers=2, heads=2, head=4, mlp=12)
SD3 = MMDiTConfig(depth=3, width=16, heads=2, tokens=20, vector=12, side=6, norm=True, dual=1)
FLUX = FluxConfig(double=1, single=2, width=16, heads=2, tokens=20, vector=12, axes=(2, 2, 4))

CASES: dict[str, Case] = {
    "sd1": unet(("text", "text", "none"), False, {}),
    "sd2": unet(("text", "text", "none"), True, {}),
    "sdxl": unet(("none", "text", "text"), True, XL, vector=60, depth=(1, 2, 2), middle_depth=2),
    "x4": unet(
        ("none", "text", "text"),
        True,
        {"only_cross_attention": (True, True, False), "num_class_embeds": 10},
        only_text=(True, True, False),
        classes=10,
    ),
    "vae": Case(
        lambda: Vae(VAE),
        vae_table(VAE),
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
            norm_num_groups=4,
        ),
    ),
    "taesd": Case(
        lambda: TinyVae(TinyConfig(width=8)),
        tiny_table(TinyConfig(width=8)),
        lambda: diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ),
    ),
    "clip": Case(
        lambda: ClipText(CLIP),
        clip_table(CLIP),
        lambda: transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                vocab_size=30,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=7,
                projection_dim=6,
                bos_token_id=28,
                eos_token_id=29,
                pad_token_id=29,
            )
        ),
    ),
    "t5": Case(
        lambda: T5Encoder(T5),
        t5_table(T5),
        lambda: transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=30,
                d_model=8,
                d_kv=4,
                d_ff=12,
                num_layers=2,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        ),
    ),
    "sd3": Case(
        lambda: MMDiT(SD3),
        mmdit_table(SD3),
        lambda: diffusers.SD3Transformer2DModel(
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            caption_projection_dim=16,
            pooled_projection_dim=12,
            pos_embed_max_size=6,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    ),
    "flux": Case(
        lambda: Flux(FLUX),
        flux_table(FLUX),
        lambda: diffusers.FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            pooled_projection_dim=12,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ),
    ),
}


def drawn(module: nn.Module) -> dict[str, Tensor]:
    """The state of ``module`` with every tensor redrawn, so that no two are alike."""
    draws = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(tensor.shape, generator=draws) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_references_own_names_fill_our_network_and_come_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    state = {k: v for k, v in drawn(case.theirs()).items() if k != "encoder.embed_tokens.weight"}
    save_file(state, tmp_path / "theirs.safetensors")
    with open_source(tmp_path / "theirs.safetensors") as source:
        ours = load_into(case.ours, source, case.table, "diffusers")
    save_module(tmp_path / "back.safetensors", ours, case.table, "diffusers")
    with open_source(tmp_path / "back.safetensors") as back:
        assert back.entries.keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(back.read(key), tensor), key


@pytest.mark.parametrize("name", [n for n in CASES if n != "t5"])
def test_the_original_names_hold_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    made = case.ours()
    made.load_state_dict(drawn(made))
    save_module(tmp_path / "original.safetensors", made, case.table, "original")
    with open_source(tmp_path / "original.safetensors") as source:
        again = load_into(case.ours, source, case.table, "original")
        assert len(source.entries) <= len(case.theirs().state_dict())
    for key, tensor in made.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


READERS: dict[str, Callable[[dict, str], Any]] = {
    "vae": shapes.vae,
    "taesd": shapes.tiny,
    "clip": shapes.clip,
    "t5": lambda found, layout: shapes.t5(found),
    "sd3": shapes.mmdit,
    "flux": shapes.flux,
}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("name", CASES)
def test_shapes_alone_tell_what_a_network_is(name: str, layout: str, tmp_path: Path) -> None:
    if (name, layout) == ("t5", "original"):
        layout = "diffusers"  # there is no other
    case = CASES[name]
    made = case.ours()
    save_module(tmp_path / "it.safetensors", made, case.table, layout)
    with open_source(tmp_path / "it.safetensors") as source:
        found = source.shapes
    config = made.config
    assert isinstance(
        config, UNetConfig | VaeConfig | TinyConfig | ClipConfig | T5Config | MMDiTConfig | FluxConfig
    )
    if isinstance(config, UNetConfig):
        read, linear = shapes.unet(found, layout)
        assert linear == (name != "sd1")
        # Shapes do not tell heads and groups; what an empty tuple stands for is read as it is.
        told = {"depth": read.depth, "only_text": read.only_text}
        assert read == replace(config, head=read.head, groups=read.groups, **told)
        assert told["depth"] == (config.depth or (1, 1, 1))
        assert told["only_text"] == tuple(
            a == "text" and bool(config.only_text) and config.only_text[i]
            for i, a in enumerate(config.attention)
        )
        return
    read = READERS[name](found, layout)
    if isinstance(config, VaeConfig):
        config = replace(config, groups=read.groups)
    if isinstance(config, ClipConfig):
        config = replace(config, heads=read.heads)
    if isinstance(config, FluxConfig):
        config = replace(config, axes=read.axes)
    assert read == config
