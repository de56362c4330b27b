"""Tiny pipelines of families that are wrapped, every weight redrawn, their language models replaced by draws by text.

What a language model would say of a text is the same draw for diffusers' pipeline and for us, and differs by the text
and by every argument that its encoder was called with; the pipeline's own ``encode_prompt`` stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tests.peers.further import t5, t5_tokenizer
from tests.peers.tiny import redraw, vae
from tests.peers.wrapped_maps import cogview3, cogview4, hidream, hunyuan, kolors
from tests.peers.wrapped_words import DYNAMIC, EIGHT, Listed, Said, Words, drawn, flow, one, saying


def film_vae() -> diffusers.AutoencoderKLQwenImage:
    """Qwen-Image's autoencoder of films, factor 8."""
    return diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


JOINT: dict[str, Any] = {
    "in_channels": 64,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "num_layers": 1,
    "axes_dims_rope": (4, 6, 6),
}


def qwen() -> Any:
    """Qwen-Image, its scheduler as published."""
    pipe = diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(**JOINT, out_channels=16),
        vae=film_vae(),
        text_encoder=None,
        tokenizer=None,
        scheduler=flow(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift=1.0,
            shift_terminal=0.02,
        ),
    )

    def states(self: Any, prompt: Any, *told: Any) -> tuple[Tensor, Tensor]:
        text = one(prompt)
        found = drawn(24, text)
        return found, torch.ones(found.shape[:2], dtype=torch.long)

    return saying(pipe, _get_qwen_prompt_embeds=states)


def nucleus() -> Any:
    """Nucleus-Image, without and with padding among its states."""
    pipe = diffusers.NucleusMoEImagePipeline(
        transformer=diffusers.NucleusMoEImageTransformer2DModel(
            **{**JOINT, "num_layers": 2, "num_attention_heads": 3},
            out_channels=16,
            dense_moe_strategy="leave_first_block_dense",
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=[2.0, 2.0],
        ),
        vae=film_vae(),
        text_encoder=Said(24),
        processor=Words(),
        scheduler=flow(**DYNAMIC),
    )
    pipe.default_return_index = -1
    return pipe


def flux2(kind: Any = diffusers.Flux2Pipeline, guided: bool = True, **more: Any) -> Any:
    """FLUX.2 dev (guided) and klein."""
    latents = diffusers.AutoencoderKLFlux2(**{**EIGHT, "latent_channels": 4, "sample_size": 32})
    pipe = kind(
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guided,
        ),
        vae=latents,
        text_encoder=None,
        tokenizer=None,
        scheduler=flow(**DYNAMIC),
        **more,
    )

    def states(
        self: Any, *, prompt: Any, max_sequence_length: int, hidden_states_layers: Any, **told: Any
    ) -> Tensor:
        return drawn(24, one(prompt), max_sequence_length, tuple(hidden_states_layers), length=6)

    return saying(pipe, _get_mistral_3_small_prompt_embeds=states, _get_qwen3_prompt_embeds=states)


def bria() -> Any:
    """Bria 3.2, on the schedule that its pipeline knows by size."""
    return diffusers.BriaPipeline(
        transformer=diffusers.BriaTransformer2DModel(
            **{**JOINT, "joint_attention_dim": 48}, num_single_layers=1
        ),
        scheduler=flow(**DYNAMIC),
        vae=vae(0.5, shift_factor=0.1, **{**EIGHT, "latent_channels": 16}),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(),
    )


def ovis() -> Any:
    """Ovis-Image."""
    pipe = diffusers.OvisImagePipeline(
        scheduler=flow(**DYNAMIC),
        vae=vae(0.3611, shift_factor=0.1159, **{**EIGHT, "latent_channels": 16}),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.OvisImageTransformer2DModel(**JOINT, num_single_layers=1),
    )

    def states(self: Any, prompt: Any, max_sequence_length: int, **told: Any) -> Tensor:
        return drawn(24, one(prompt), max_sequence_length)

    return saying(pipe, _get_ovis_prompt_embeds=states)


def longcat() -> Any:
    """LongCat-Image."""
    pipe = diffusers.LongCatImagePipeline(
        scheduler=flow(**DYNAMIC),
        vae=vae(0.3611, shift_factor=0.1159, **{**EIGHT, "latent_channels": 16}),
        text_encoder=None,
        tokenizer=None,
        text_processor=None,
        transformer=diffusers.LongCatImageTransformer2DModel(
            **JOINT, num_single_layers=1, pooled_projection_dim=24
        ),
    )

    def states(self: Any, prompt: Any) -> Tensor:
        return drawn(24, one(prompt))

    return saying(pipe, _encode_prompt=states)


def ernie() -> Any:
    """ERNIE-Image, on FLUX.2's autoencoder."""
    return diffusers.ErnieImagePipeline(
        transformer=diffusers.ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=48,
            in_channels=16,
            out_channels=16,
            text_in_dim=24,
            rope_axes_dim=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLFlux2(**{**EIGHT, "latent_channels": 4}, batch_norm_eps=1e-5),
        text_encoder=Said(24),
        tokenizer=Listed(),
        scheduler=flow(shift=4.0),
    )


def prx() -> Any:
    """PRX."""
    pipe = diffusers.PRXPipeline(
        transformer=diffusers.PRXTransformer2DModel(
            in_channels=4, context_in_dim=24, hidden_size=32, num_heads=2, depth=1, axes_dim=[8, 8]
        ),
        scheduler=flow(shift=3.0),
        text_encoder=None,
        tokenizer=None,
        vae=vae(0.5, shift_factor=0.1, **EIGHT),
    )

    def states(
        self: Any, prompt: Any, device: Any, guided: bool, negative: Any, *told: Any, **more: Any
    ) -> Any:
        found = []
        for text in (prompt, negative) if guided else (prompt,):
            mask = torch.ones(1, 12, dtype=torch.bool)
            mask[:, 3 + len(one(text)) % 5 :] = False
            found += [drawn(24, one(text), told, more, length=12), mask]
        return found if guided else (*found, None, None)

    return saying(pipe, _encode_prompt_standard=states)


def krea(**more: Any) -> Any:
    """Krea 2, told by states of three layers."""
    pipe = diffusers.Krea2Pipeline(
        scheduler=flow(**DYNAMIC),
        vae=film_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.Krea2Transformer2DModel(
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=48,
            timestep_embed_dim=16,
            text_hidden_dim=24,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        text_encoder_select_layers=(0, 1, 2),
        **more,
    )

    def states(self: Any, prompt: Any, length: int, *told: Any) -> tuple[Tensor, Tensor]:
        mask = torch.ones(1, 8, dtype=torch.bool)
        mask[:, 3 + len(one(prompt)) % 4 : 7] = False
        return drawn(24, one(prompt), length, length=8, layers=3), mask

    return saying(pipe, get_text_hidden_states=states)


def kandinsky() -> Any:
    """Kandinsky 5 Image, whose pipeline knows its sizes and leaves the shift of the latents alone."""
    pipe = diffusers.Kandinsky5T2IPipeline(
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=24,
            in_text_dim2=12,
            time_dim=16,
            model_dim=32,
            ff_dim=48,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(4, 6, 6),
        ),
        vae=vae(0.5, shift_factor=0.3, **EIGHT),
        text_encoder=Said(24),
        tokenizer=Words(),
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=flow(shift=3.0),
    )
    pipe.resolutions = [(96, 64)]

    def states(
        self: Any, prompt: Any, device: Any, max_sequence_length: int, dtype: Any
    ) -> tuple[Tensor, Tensor]:
        found = drawn(24, one(prompt), max_sequence_length)
        return found, torch.tensor([0, found.shape[1]], dtype=torch.int32)

    def pooled(self: Any, prompt: Any, **told: Any) -> Tensor:
        return drawn(12, one(prompt), length=1)[:, 0]

    return saying(pipe, _encode_prompt_qwen=states, _encode_prompt_clip=pooled)


WRAPPED: dict[str, Callable[[], Any]] = {
    "qwen": qwen,
    "nucleus": nucleus,
    "flux2": flux2,
    "klein": lambda: flux2(diffusers.Flux2KleinPipeline, guided=False),
    "klein distilled": lambda: flux2(diffusers.Flux2KleinPipeline, guided=False, is_distilled=True),
    "cogview4": cogview4,
    "cogview3": cogview3,
    "hunyuan": hunyuan,
    "hunyuan 1.2": lambda: hunyuan(told=False),
    "kolors": kolors,
    "hidream": hidream,
    "hidream full": lambda: hidream(
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
        )
    ),
    "hidream dev": lambda: hidream(diffusers.FlowMatchLCMScheduler(shift=6.0)),
    "bria": bria,
    "ovis": ovis,
    "longcat": longcat,
    "ernie": ernie,
    "prx": prx,
    "kandinsky": kandinsky,
    "krea": krea,
    "krea distilled": lambda: krea(is_distilled=True),
}
"""Pipelines by the names of the models that they are small versions of."""

OPTIONS: dict[str, dict[str, Any]] = {
    "hunyuan": {"use_resolution_binning": False},
    "hunyuan 1.2": {"use_resolution_binning": False},
    "longcat": {"enable_prompt_rewrite": False},
    "prx": {"use_resolution_binning": False},
}
"""What their call is told besides."""


NARROW = ("kandinsky",)
"""Networks that compute their clock in float32 whatever their weights are, and so run in that alone."""


def wrapped_pipeline(name: str) -> Any:
    """The pipeline of ``name``, redrawn, in float64 where it can be."""
    pipe = WRAPPED[name]()
    for seed, part in enumerate(("transformer", "unet", "vae", "text_encoder", "text_encoder_2")):
        net = getattr(pipe, part, None)
        if isinstance(net, nn.Module) and not isinstance(net, Said):
            if next(net.parameters()).dtype != torch.float64:
                redraw(net, seed=seed)
            net.to(torch.float32 if name in NARROW else torch.float64).eval()
    if hasattr(pipe.vae, "bn"):
        pipe.vae.bn.running_var.abs_().add_(0.5)
    pipe.set_progress_bar_config(disable=True)
    return pipe
