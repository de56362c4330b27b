"""Tiny pipelines of families that are wrapped and read latents as maps; see wrapped_pipelines.py."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.peers.further import t5, t5_tokenizer
from tests.peers.tiny import unet, vae
from tests.peers.wrapped_words import EIGHT, Said, Words, drawn, flow, one, saying


def cogview4() -> Any:
    """CogView4, its scheduler as published."""
    pipe = diffusers.CogView4Pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(1.0, **{**EIGHT, "latent_channels": 16}),
        transformer=diffusers.CogView4Transformer2DModel(
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=24,
            time_embed_dim=16,
            condition_dim=8,
            rope_axes_dim=(16, 16),
            sample_size=16,
        ),
        scheduler=flow(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear", shift=1.0
        ),
    )

    def states(self: Any, prompt: Any, length: int, *told: Any) -> Tensor:
        return drawn(24, one(prompt), length)

    return saying(pipe, _get_glm_embeds=states)


def cogview3() -> Any:
    """CogView3-Plus, which predicts v over a table without a signal at its end."""
    return diffusers.CogView3PlusPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(48),
        vae=vae(0.7, **{**EIGHT, "latent_channels": 16}),
        transformer=diffusers.CogView3PlusTransformer2DModel(
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=48,
            time_embed_dim=16,
            condition_dim=8,
            pos_embed_max_size=16,
            sample_size=16,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=4.0,
            timestep_spacing="trailing",
        ),
    )


def hunyuan(told: bool = True) -> Any:
    """HunyuanDiT; ``told`` of sizes and style, as up to version 1.1."""
    return diffusers.HunyuanDiTPipeline(
        vae=vae(0.13025, **EIGHT),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        text_encoder_2=t5(48),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            hidden_size=32,
            num_layers=4,
            in_channels=4,
            patch_size=2,
            sample_size=16,
            cross_attention_dim=32,
            cross_attention_dim_t5=48,
            pooled_projection_dim=24,
            use_style_cond_and_image_meta_size=told,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.03 if told else 0.018,
            clip_sample=False,
            prediction_type="v_prediction",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def kolors() -> Any:
    """Kolors: a U-Net of Stable Diffusion XL's kind, told by a language model through a projection."""
    return diffusers.KolorsPipeline(
        vae=vae(0.13025, **EIGHT),
        text_encoder=Said(24, first=False),
        tokenizer=Words(),
        unet=unet(
            cross_attention_dim=40,
            encoder_hid_dim=24,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 48,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.014,
            num_train_timesteps=1100,
            timestep_spacing="leading",
            steps_offset=1,
        ),
    )


def hidream(scheduler: Any = None) -> Any:
    """HiDream, whose Llama answers with every layer."""
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=scheduler or flow(shift=3.0),
        vae=vae(0.3611, shift_factor=0.1159, **{**EIGHT, "latent_channels": 16}),
        **{f"text_encoder{n}": None for n in ("", "_2", "_3", "_4")},
        **{f"tokenizer{n}": None for n in ("", "_2", "_3", "_4")},
        transformer=diffusers.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_channels=[24, 20],
            text_emb_dim=12,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(8, 4, 4),
            max_resolution=(32, 32),
            llama_layers=[1, 2],
        ),
    )

    def wide(self: Any, prompt: Any, length: int, *told: Any) -> Tensor:
        return drawn(24, one(prompt), length, length=128)

    def deep(self: Any, prompt: Any, length: int, *told: Any) -> Tensor:
        return torch.stack([drawn(20, one(prompt), length, layer, length=128) for layer in range(3)])

    def pooled(self: Any, tokenizer: Any, encoder: Any, prompt: Any, length: int, *told: Any) -> Tensor:
        return drawn(6, one(prompt), length, length=1)[:, 0]

    return saying(
        pipe, _get_t5_prompt_embeds=wide, _get_llama3_prompt_embeds=deep, _get_clip_prompt_embeds=pooled
    )
