"""Tiny pipelines of the further families, redrawn; see pipelines.py, whose way of building and saving they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import tokenizers
import torch
import transformers
from torch import Tensor, nn

from tests.peers.pipelines import (
    FLOW_VAE,
    NETWORKS,
    Case,
    in_float64,
    redraw,
    saved,
    sdxl,
    t5,
    t5_tokenizer,
    vae,
)

PATCHES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "patch_size": 2,
}
SOLVER = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "timestep_spacing": "linspace"}
NAMES = {0: "tench, Tinca tinca", 1: "goldfish", 9: "ostrich, Struthio camelus"}


def pixart(kind: Any, scale: float, side: int, **more: Any) -> Any:
    """PixArt of ``kind``, with a latent ``scale``, trained on latents of ``side``."""
    return kind(
        transformer=diffusers.PixArtTransformer2DModel(
            **{
                **PATCHES,
                "sample_size": side,
                "cross_attention_dim": 144,
                "caption_channels": 48,
                **more,
            }
        ),
        vae=vae(scale),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(),
        scheduler=diffusers.DPMSolverMultistepScheduler(**SOLVER),
    )


def dit() -> Any:
    """DiT, its embedders copied to every block, as the published folder has them; see ``as_published``."""
    return diffusers.DiTPipeline(
        transformer=diffusers.DiTTransformer2DModel(**PATCHES, sample_size=16, num_embeds_ada_norm=1000),
        vae=vae(0.18215),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False
        ),
        id2label=NAMES,
    )


def as_published(net: nn.Module, frequencies: float = 0.0) -> nn.Module:
    """The embedders of the first block in every block; the authors' sinusoid and norms.

    (diffusers computes DiT's clock with ``downscale_freq_shift = 1`` and the norm before the perceptron with 1e-5; the
    authors, who trained it, with 0 and 1e-6.)
    """
    first = net.transformer_blocks[0].norm1.emb  # type: ignore[index,union-attr]
    for block in net.transformer_blocks:  # type: ignore[union-attr]
        block.norm1.emb.load_state_dict(first.state_dict())  # type: ignore[union-attr]
        block.norm3.eps = 1e-6  # type: ignore[union-attr]
        block.norm1.emb.time_proj.downscale_freq_shift = frequencies  # type: ignore[union-attr]
    return net


def wide_places(net: nn.Module) -> None:
    """Let a table of positions have float64's digits."""
    wide = net.patch_embed if hasattr(net, "patch_embed") else net.pos_embed
    assert isinstance(wide, nn.Module)
    size, step = wide.proj.out_channels, wide.interpolation_scale  # type: ignore[union-attr]

    def table(height: int, width: int) -> Tensor:
        rates = 10000 ** (-torch.arange(size // 4, dtype=torch.float64) / (size // 4))  # type: ignore[operator]
        rows, columns = (
            (torch.arange(n, dtype=torch.float64) * wide.base_size / n / step)[:, None] * rates  # type: ignore[operator]
            for n in (height, width)
        )
        halves = [torch.cat((x.sin(), x.cos()), -1) for x in (columns, rows)]
        first, second = halves[0][None].expand(height, -1, -1), halves[1][:, None].expand(-1, width, -1)
        return torch.cat((first, second), -1).flatten(0, 1)[None]

    def forward(x: Tensor) -> Tensor:
        rows = wide.proj(x)  # type: ignore[operator]
        return rows.flatten(2).transpose(1, 2) + table(*rows.shape[-2:]).to(x.dtype)

    wide.forward = forward


SHORT: dict[str, Any] = {
    "block_out_channels": (64, 64, 128),
    "attention_head_dim": (1, 1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
}


def chroma() -> Any:
    """Chroma; its norms have the author's eps, where diffusers leaves it to the dtype."""
    net = diffusers.ChromaTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 14, 14),
        approximator_hidden_dim=40,
        approximator_layers=2,
    )
    for norm in net.distilled_guidance_layer.norms:
        norm.eps = 1e-6
    return diffusers.ChromaPipeline(
        transformer=net,
        vae=vae(0.3611, shift_factor=0.1159, **FLOW_VAE),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15
        ),
    )


GEMMA_WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def gemma_tokenizer() -> Any:
    """Gemma's tokenizer with words of single letters."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>.,-", "\u2581"})
    made = transformers.GemmaTokenizer(
        vocab={word: number for number, word in enumerate([*GEMMA_WORDS, *letters])}, merges=[]
    )
    made.add_bos_token = True
    made.update_post_processor()
    return made


def gemma() -> Any:
    """Gemma 2 of three layers."""
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=80,
            hidden_size=48,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def lumina() -> Any:
    """Lumina-Image 2, whose heads of keys serve two heads of queries each."""
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=32,
            hidden_size=96,
            num_layers=2,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=20,
            axes_dim_rope=(8, 8, 8),
            cap_feat_dim=48,
        ),
        vae=vae(0.3611, shift_factor=0.1159, **FLOW_VAE),
        text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def sana(*, norm: bool = True, side: int = 32, shift: float = 3.0, sprint: bool = False) -> Any:
    """SANA with a tiny DC-AE; norms of queries and keys in 1.5, positions in the large ones.

    The authors' norm of queries and keys of the text adds 1e-6, diffusers' 1e-5.
    """
    net = diffusers.SanaTransformer2DModel(
        in_channels=32,
        out_channels=32,
        num_attention_heads=7,
        attention_head_dim=32,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=112,
        cross_attention_dim=224,
        caption_channels=48,
        sample_size=side,
        interpolation_scale=None if side < 64 else side / 64,
        qk_norm="rms_norm_across_heads" if norm else None,
        guidance_embeds=sprint,
    )
    for block in net.transformer_blocks if norm else ():
        block.attn2.norm_q.eps = block.attn2.norm_k.eps = 1e-6
    kind = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    return kind(
        transformer=net,
        vae=dcae(),
        text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=diffusers.SCMScheduler()
        if sprint
        else diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction"
        ),
    )


def dcae() -> Any:
    """DC-AE of six levels, most of them of one block."""
    return diffusers.AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        encoder_block_types=["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        decoder_block_types=["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        encoder_block_out_channels=(8, 8, 16, 16, 32, 32),
        decoder_block_out_channels=(8, 8, 16, 16, 32, 32),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


QWEN_WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_TALK = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{%- endif %}"
)
"""What Qwen 3's chat template says where there is one message, no tool and nothing thought."""


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer whose words are single bytes."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = transformers.Qwen2Tokenizer(vocab={letter: n for n, letter in enumerate(letters)}, merges=[])
    made.add_special_tokens({"additional_special_tokens": QWEN_WORDS[1:]})
    made.chat_template = QWEN_TALK
    return made


def zimage(shift: float = 3.0) -> Any:
    """Z-Image, by its scheduler's ``shift`` the Turbo or the base."""
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            dim=96,
            n_layers=2,
            n_refiner_layers=2,
            n_heads=3,
            n_kv_heads=3,
            cap_feat_dim=48,
            axes_dims=[8, 12, 12],
            axes_lens=[1024, 64, 64],
        ),
        vae=vae(0.3611, shift_factor=0.1159, **FLOW_VAE),
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(
                vocab_size=260,
                hidden_size=48,
                intermediate_size=40,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=128,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        tokenizer=qwen_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    )


def aura() -> Any:
    """AuraFlow, which is not native."""
    return diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ),
        vae=vae(0.13025),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


PUBLISHED: dict[str, dict[str, Any]] = {
    "SSD-1B": {
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "Vega": {
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
    },
}
"""How many layers the published networks have."""

FURTHER: dict[str, Callable[[], Any]] = {
    "pixart alpha": lambda: pixart(diffusers.PixArtAlphaPipeline, 0.18215, 16),
    "pixart alpha 1024": lambda: pixart(diffusers.PixArtAlphaPipeline, 0.18215, 128),
    "pixart sigma": lambda: pixart(
        diffusers.PixArtSigmaPipeline, 0.13025, 128, use_additional_conditions=False, interpolation_scale=2
    ),
    "dit": dit,
    "aura": aura,
    "chroma": chroma,
    "lumina": lumina,
    "sana 1.5": sana,
    "sana": lambda: sana(norm=False),
    "sana sprint": lambda: sana(sprint=True),
    "sana 4K": lambda: sana(norm=False, side=128, shift=6.0),
    "z-image": lambda: zimage(6.0),
    "z-image turbo": zimage,
    "ssd": lambda: sdxl(
        **SHORT,
        transformer_layers_per_block=[1, [1, 1], [1, 2]],
        reverse_transformer_layers_per_block=[[1, 1, 3], [2, 1, 1], 1],
    ),
    "vega": lambda: sdxl(
        **SHORT,
        transformer_layers_per_block=[1, 1, 2],
    ),
}
"""Pipelines by the names of the models that they are small versions of."""


def further(name: str, folder: Path) -> Case:
    """The case called ``name``, saved to ``folder``, in float64."""
    pipe = FURTHER[name]()
    for number, part in enumerate(NETWORKS):
        net = getattr(pipe, part, None)
        if net is not None and next(net.parameters()).dtype != torch.float64:
            redraw(net, seed=number)
    if name == "dit":
        as_published(pipe.transformer)
    case = Case(name, saved(pipe, folder))
    if name == "dit":  # the published folder has the names, which save_pretrained leaves out
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        (folder / "model_index.json").write_text(json.dumps({**index, "id2label": NAMES}), "utf-8")
    if name.startswith(("pixart", "dit")) or name == "sana 4K":
        wide_places(pipe.transformer)
    return case


SQUARE: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
ADM = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "block_out_channels": (32, 64, 64),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 16,
    "attn_norm_num_groups": 16,
    "num_class_embeds": 10,
}
UNETS: dict[str, dict[str, Any]] = {
    "ddpm": {
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
    },
    "ddpm attention": {
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    "grey": {"in_channels": 1, "out_channels": 1, "add_attention": False, "norm_num_groups": 16},
    "adm": ADM,
    "adm learned": {**ADM, "out_channels": 6, "num_class_embeds": None},
}
"""Settings of UNet2DModel by what they are small versions of."""


def pixel_unet(name: str, scheduler: Any, folder: Path) -> diffusers.UNet2DModel:
    """A U-Net of UNETS, redrawn and saved with ``scheduler`` in ``folder``, then in float64."""
    net = diffusers.UNet2DModel(**{**SQUARE, **UNETS[name]})
    redraw(net, seed=3)
    pipe = diffusers.DDPMPipeline(unet=net.eval(), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return in_float64(net)  # type: ignore[return-value]
