"""Write the lists of keys and shapes: ``python -m tests.families.published_keys.make``.

The folder layout: diffusers' and transformers' own classes with the ``config.json`` of the published models, built on
the meta device. The original layout: what our tables make of it, written down only if diffusers' own readers of
single files (``diffusers.loaders.single_file_utils``) turn it into the folder layout again, every key and shape, with
no value left over. No file of weights is at hand here, so what a published file holds besides networks (tables of the
schedule, position_ids) is not in these lists.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as single
from torch import nn

from sfumato.families.checkpoint import Part
from sfumato.weights.links import links
from sfumato.weights.load import Unfilled
from tests.families.published_keys import HERE, Keys, digest, lines
from tests.families.published_keys.fake import part_from

SD = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
CROSS, DOWN, UP = "CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D"
CROSS_UP = "CrossAttnUpBlock2D"
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "use_linear_projection": True,
}
BASE = {
    **XL,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": [DOWN, CROSS, CROSS],
    "up_block_types": [CROSS_UP, CROSS_UP, UP],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    **XL,
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": [DOWN, CROSS, CROSS, DOWN],
    "up_block_types": [UP, CROSS_UP, CROSS_UP, UP],
    "transformer_layers_per_block": 4,
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
X4 = {
    "in_channels": 7,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": [DOWN, CROSS, CROSS, CROSS],
    "up_block_types": [CROSS_UP, CROSS_UP, CROSS_UP, UP],
    "only_cross_attention": [True, True, True, False],
    "num_class_embeds": 1000,
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
    "use_linear_projection": True,
}


def unet(**told: Any) -> nn.Module:
    return diffusers.UNet2DConditionModel(**told)


def vae(latent: int, widths: tuple[int, ...] = (128, 256, 512, 512), quant: bool = True) -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=latent,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def clip(kind: Any, width: int, layers: int, heads: int, projection: int) -> nn.Module:
    return kind(
        transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=projection,
        )
    )


def sd3(layers: int, side: int, norm: str | None, dual: int) -> nn.Module:
    return diffusers.SD3Transformer2DModel(
        num_layers=layers,
        num_attention_heads=layers,
        attention_head_dim=64,
        caption_projection_dim=64 * layers,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        pos_embed_max_size=side,
        qk_norm=norm,
        dual_attention_layers=tuple(range(dual)),
    )


def flux(guidance: bool, inputs: int = 64) -> nn.Module:
    return diffusers.FluxTransformer2DModel(guidance_embeds=guidance, in_channels=inputs, out_channels=64)


PLAIN, PROJECTED = transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection
NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "sd15-unet": ("stable-diffusion-v1-5/stable-diffusion-v1-5 unet", lambda: unet(**SD)),
    "sd15-inpaint-unet": (
        "stable-diffusion-v1-5/stable-diffusion-inpainting unet",
        lambda: unet(in_channels=9, **SD),
    ),
    "pix2pix-unet": ("timbrooks/instruct-pix2pix unet", lambda: unet(in_channels=8, **SD)),
    "sd21-unet": ("stabilityai/stable-diffusion-2-1 unet", lambda: unet(**SD2)),
    "sdxl-unet": ("stabilityai/stable-diffusion-xl-base-1.0 unet", lambda: unet(**BASE)),
    "refiner-unet": ("stabilityai/stable-diffusion-xl-refiner-1.0 unet", lambda: unet(**REFINER)),
    "x4-unet": ("stabilityai/stable-diffusion-x4-upscaler unet", lambda: unet(**X4)),
    "vae-c4": ("stabilityai/sd-vae-ft-mse, stable-diffusion-xl-base-1.0 vae", lambda: vae(4)),
    "vae-x4": ("stabilityai/stable-diffusion-x4-upscaler vae", lambda: vae(4, (128, 256, 512))),
    "vae-c16": (
        "stabilityai/stable-diffusion-3-medium, black-forest-labs/FLUX.1-dev vae",
        lambda: vae(16, quant=False),
    ),
    "clip-l": ("openai/clip-vit-large-patch14 text encoder", lambda: clip(PLAIN, 768, 12, 12, 768)),
    "clip-l-projected": (
        "stabilityai/stable-diffusion-3-medium text_encoder",
        lambda: clip(PROJECTED, 768, 12, 12, 768),
    ),
    "clip-h": ("stabilityai/stable-diffusion-2-1 text_encoder", lambda: clip(PLAIN, 1024, 23, 16, 512)),
    "clip-bigg": (
        "stabilityai/stable-diffusion-xl-base-1.0 text_encoder_2",
        lambda: clip(PROJECTED, 1280, 32, 20, 1280),
    ),
    "t5-xxl": (
        "google/t5-v1_1-xxl encoder",
        lambda: transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=32128,
                d_model=4096,
                d_kv=64,
                d_ff=10240,
                num_layers=24,
                num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        ),
    ),
    "sd3-medium": ("stabilityai/stable-diffusion-3-medium transformer", lambda: sd3(24, 192, None, 0)),
    "sd35-medium": (
        "stabilityai/stable-diffusion-3.5-medium transformer",
        lambda: sd3(24, 384, "rms_norm", 13),
    ),
    "sd35-large": ("stabilityai/stable-diffusion-3.5-large transformer", lambda: sd3(38, 192, "rms_norm", 0)),
    "flux-dev": ("black-forest-labs/FLUX.1-dev transformer", lambda: flux(True)),
    "flux-schnell": ("black-forest-labs/FLUX.1-schnell transformer", lambda: flux(False)),
    "flux-fill": ("black-forest-labs/FLUX.1-Fill-dev transformer", lambda: flux(True, 384)),
}


def theirs(name: str) -> tuple[nn.Module, Keys]:
    """The reference's network on the meta device, and its keys as folders have them."""
    with torch.device("meta"), Unfilled():
        module = NETWORKS[name][1]()
    keys = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    keys.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    if "embeddings.token_embedding.weight" in keys:  # what transformers 5 writes without its first word
        keys = {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in keys.items()}
    return module, {key: shape for key, shape in keys.items() if not key.endswith("position_ids")}


def ours(part: Part, layout: str) -> Keys:
    """The keys and shapes that our writer gives ``part`` in ``layout``."""
    with torch.device("meta"), Unfilled():
        shapes = {key: tuple(tensor.shape) for key, tensor in part.make().state_dict().items()}
    return {
        key: shape
        for link in links(part.table, layout, shapes)
        for key, shape in zip(link.theirs, link.their_shapes([shapes[k] for k in link.ours]), strict=True)
    }


def readers_answer(kind: str, module: nn.Module, original: Keys) -> Keys:
    """What diffusers' reader of single files makes of ``original``, without a value in memory."""
    state: Any = {key: torch.empty(shape, device="meta") for key, shape in original.items()}
    config = dict(getattr(module, "config", {})) if kind != "clip" else {}
    if kind == "unet":
        state = {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}
        made = single.convert_ldm_unet_checkpoint(state, config)
    elif kind == "vae":
        made = single.convert_ldm_vae_checkpoint(
            {f"first_stage_model.{k}": t for k, t in state.items()}, config
        )
    elif kind == "mmdit":
        made = single.convert_sd3_transformer_checkpoint_to_diffusers(state)
    elif kind == "flux":
        made = single.convert_flux_transformer_checkpoint_to_diffusers(state)
    else:
        prefix = "conditioner.embedders.1.model."
        state = {prefix + key: tensor for key, tensor in state.items()}
        made = single.convert_open_clip_checkpoint(module, state, prefix)
    return {key: tuple(tensor.shape) for key, tensor in made.items() if not key.endswith("position_ids")}


def main() -> None:
    """Write all lists and their index."""
    told: dict[str, dict[str, Any]] = {}
    for name, (source, _) in NETWORKS.items():
        module, folder = theirs(name)
        part = part_from(name, folder)
        lists = {"diffusers": folder}
        assert ours(part, "diffusers") == folder, name
        if part.kind != "t5" and name not in ("clip-l", "clip-l-projected"):  # these have one layout
            lists["original"] = ours(part, "original")
            again = readers_answer(part.kind, module, lists["original"])
            assert {k.removeprefix("text_model."): v for k, v in again.items()} == {
                k.removeprefix("text_model."): v for k, v in folder.items()
            }, name
        told[name] = {"source": source, "kind": part.kind}
        for layout, keys in lists.items():
            (HERE / f"{name}.{layout}.xz").write_bytes(lzma.compress("".join(lines(keys)).encode(), preset=9))
            count = sum(torch.Size(shape).numel() for shape in keys.values())
            told[name][layout] = {"tensors": len(keys), "parameters": count, "sha256": digest(keys)}
        print(
            name, {k: (v["tensors"], v["parameters"]) for k, v in told[name].items() if isinstance(v, dict)}
        )
    (HERE / "index.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
