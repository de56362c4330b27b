"""Tiny pipelines of diffusers with every weight redrawn, saved as folders: what published checkpoints are compared to.

Pipelines are built from configurations that are those of the published ones but for their sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch

from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.published import load_checkpoint
from sfumato.model import Model
from sfumato.weights.source import open_source
from tests.peers.tiny import FLOW_VAE, clip, clip_tokenizer, in_float64, redraw, t5, t5_tokenizer, unet, vae

PNDM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
DDIM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
EULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def sd1(**more: Any) -> Any:
    """Stable Diffusion 1."""
    return diffusers.StableDiffusionPipeline(
        unet=unet(**more),
        vae=vae(0.18215),
        text_encoder=clip(64, 3, quick=True),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        scheduler=diffusers.PNDMScheduler(**PNDM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


LINEAR = {
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "cross_attention_dim": 128,
}


def sd2(predicts: str = "v_prediction", **more: Any) -> Any:
    """Stable Diffusion 2: of 768 pixels ("v_prediction") or the base ("epsilon")."""
    return diffusers.StableDiffusionPipeline(
        unet=unet(**LINEAR, **more),
        vae=vae(0.18215),
        text_encoder=clip(128, 3, quick=False),
        tokenizer=clip_tokenizer("!"),
        scheduler=diffusers.DDIMScheduler(**DDIM, prediction_type=predicts)
        if predicts == "v_prediction"
        else diffusers.PNDMScheduler(**PNDM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scheduler: Any = None, zeros: bool = True, latents: Any = None, **more: Any) -> Any:
    """Stable Diffusion XL: two text encoders, pooled text and sizes as a vector."""
    return diffusers.StableDiffusionXLPipeline(
        unet=unet(
            **{
                **LINEAR,
                "cross_attention_dim": 64 + 128,
                "transformer_layers_per_block": (1, 2),
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 16,
                "projection_class_embeddings_input_dim": 48 + 6 * 16,
                **more,
            }
        ),
        vae=latents or vae(0.13025),
        text_encoder=clip(64, 3, quick=True),
        text_encoder_2=clip(128, 3, quick=False, projection=48),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        tokenizer_2=clip_tokenizer("!"),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**EULER),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def refiner() -> Any:
    """The refiner of Stable Diffusion XL: the larger encoder alone, and beauty beside the sizes."""
    made = sdxl(
        cross_attention_dim=128,
        transformer_layers_per_block=(1, 4),
        projection_class_embeddings_input_dim=48 + 5 * 16,
    )
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        **{
            **made.components,
            "text_encoder": None,
            "tokenizer": None,
            "requires_aesthetics_score": True,
            "force_zeros_for_empty_prompt": False,
            "add_watermarker": False,
        }
    )


def upscaler() -> Any:
    """The upscaler of Stable Diffusion, four times as large."""
    return diffusers.StableDiffusionUpscalePipeline(
        unet=unet(
            **{
                **LINEAR,
                "block_out_channels": (32, 64, 128),
                "in_channels": 7,
                "attention_head_dim": 8,
                "only_cross_attention": (True, True, False),
                "num_class_embeds": 1000,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            }
        ),
        vae=vae(0.08333),
        text_encoder=clip(128, 3, quick=False),
        tokenizer=clip_tokenizer("!"),
        low_res_scheduler=diffusers.DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.0001,
            beta_end=0.02,
            prediction_type="v_prediction",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
    )


def sd3(*, norm: bool = False, dual: int = 0, with_t5: bool = True) -> Any:
    """Stable Diffusion 3 (no norm), 3.5 large (norm) and medium (norm, two attentions in its first blocks)."""
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            num_layers=3,
            attention_head_dim=64,
            num_attention_heads=2,
            joint_attention_dim=208,
            caption_projection_dim=128,
            pooled_projection_dim=24 + 48,
            pos_embed_max_size=20,
            dual_attention_layers=tuple(range(dual)),
            qk_norm="rms_norm" if norm else None,
        ),
        vae=vae(1.5305, shift_factor=0.0609, **FLOW_VAE),
        text_encoder=clip(64, 3, quick=True, projection=24),
        text_encoder_2=clip(128, 3, quick=False, projection=48),
        text_encoder_3=t5(208) if with_t5 else None,
        tokenizer=clip_tokenizer("<|endoftext|>"),
        tokenizer_2=clip_tokenizer("!"),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(*, guided: bool = True, columns: int = 64, kind: Any = diffusers.FluxPipeline) -> Any:
    """FLUX.1 dev (guided) and schnell; ``columns`` 384 for Fill."""
    dynamic = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
    return kind(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=columns,
            out_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=48,
            pooled_projection_dim=64,
            axes_dims_rope=(4, 14, 14),
            guidance_embeds=guided,
        ),
        vae=vae(0.3611, shift_factor=0.1159, **FLOW_VAE),
        text_encoder=clip(64, 3, quick=True),
        text_encoder_2=t5(48),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**dynamic)
        if guided
        else diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
    )


class Wide:
    """torch, with float64 where float32 is said."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def wide_tables(pipe: Any) -> Iterator[None]:
    """Let the pipeline's scheduler keep its tables, and make its steps, in float64 instead of float32."""
    module = sys.modules[type(pipe.scheduler).__module__]
    before = pipe.scheduler
    module.torch = Wide()  # type: ignore[attr-defined]
    try:
        pipe.scheduler = type(before).from_config(before.config)
        yield
    finally:
        module.torch = torch  # type: ignore[attr-defined]
        pipe.scheduler = before


NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True, eq=False)
class Peer:
    """A pipeline in float64 and the folder it was saved to in float32; text encoders are shared between pipelines."""

    pipe: Any
    folder: Path

    def part(self, name: str) -> Any:
        """One of its networks."""
        return getattr(self.pipe, name)


@dataclass(frozen=True, eq=False)
class Case:
    """A pipeline of PIPELINES by its name, in float64, and our models of it by dtype."""

    name: str
    peer: Peer
    models: dict[torch.dtype, Model] = field(default_factory=dict)

    @property
    def pipe(self) -> Any:
        """The pipeline."""
        return self.peer.pipe

    def model(self, dtype: torch.dtype) -> Model:
        """Our model of its folder."""
        if dtype not in self.models:
            with open_source(self.peer.folder) as source:
                self.models[dtype] = load_checkpoint(open_checkpoint(source), dtype=dtype)
        return self.models[dtype]


def peer(make: Callable[[], Any], folder: Path, **options: Any) -> Peer:
    """The pipeline that ``make`` builds, redrawn, saved to ``folder``, then in float64."""
    pipe = make()
    for number, name in enumerate(NETWORKS):
        network = getattr(pipe, name, None)
        # One in float64 was another pipeline's before.
        if network is not None and next(network.parameters()).dtype != torch.float64:
            redraw(network, seed=number)
    return saved(pipe, folder, **options)


def saved(pipe: Any, folder: Path, **options: Any) -> Peer:
    """``pipe`` saved to ``folder`` in float32, then in float64."""
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        if network is not None:
            network.float().eval()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder, **options)
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        if network is not None:
            in_float64(network)
    return Peer(pipe, folder)


def ztsnr() -> Any:
    """Stable Diffusion XL trained on v with zero terminal signal (Lin et al. 2024)."""
    return sdxl(
        diffusers.DDIMScheduler(
            **{
                **DDIM,
                "set_alpha_to_one": True,
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": "trailing",
            }
        )
    )


def cosxl() -> Any:
    """CosXL: v over EDM's process."""
    return sdxl(
        diffusers.EDMEulerScheduler(
            sigma_min=0.002,
            sigma_max=120.0,
            sigma_data=1.0,
            prediction_type="v_prediction",
            sigma_schedule="exponential",
        )
    )


def playground() -> Any:
    """Playground 2.5: EDM's preconditioned process over latents with a mean and a deviation for each channel."""
    latents = vae(0.5, latents_mean=[-1.6, 1.9, -1.4, 2.5], latents_std=[8.5, 5.9, 6.5, 5.2])
    return sdxl(diffusers.EDMDPMSolverMultistepScheduler(), latents=latents)


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd1": sd1,
    "sd2 v": sd2,
    "sd2 eps": lambda: sd2("epsilon"),
    "sdxl": sdxl,
    "sdxl no zeros": lambda: sdxl(zeros=False),
    "sdxl ztsnr": ztsnr,
    "cosxl": cosxl,
    "playground": playground,
    "refiner": refiner,
    "inpaint": lambda: sd1(in_channels=9),
    "instruct": lambda: sd1(in_channels=8),
    "x4": upscaler,
    "sd3": sd3,
    "sd3 without t5": lambda: sd3(with_t5=False),
    "sd3.5 large": lambda: sd3(norm=True),
    "sd3.5 medium": lambda: sd3(norm=True, dual=2),
    "flux": flux,
    "schnell": lambda: flux(guided=False),
    "fill": lambda: flux(columns=384),
}
"""Pipelines by the names of the models that they are small versions of."""
