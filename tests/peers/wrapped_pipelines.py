"""Tiny pipelines of families that are wrapped, every weight redrawn, their language models replaced by draws by text.

What a language model would say of a text is the same draw for diffusers' pipeline and for us, and differs by the text
and by every argument that its encoder was called with; the pipeline's own ``encode_prompt`` stays as it is.
"""

from __future__ import annotations

import types
import zlib
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from tests.peers.further import t5, t5_tokenizer
from tests.peers.tiny import redraw, unet, vae

EIGHT: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
"""An autoencoder of factor 8, which some pipelines take for granted."""


def drawn(width: int, text: Any, *told: Any, length: int = 0, layers: int = 0) -> Tensor:
    """States of ``text``, (1, L, width) or with ``layers`` (1, L, layers, width), by it and all that was told."""
    draws = torch.Generator().manual_seed(zlib.crc32(repr((text, told)).encode()))
    count = length or 3 + len(str(text)) % 5
    shape = (1, count, layers, width) if layers else (1, count, width)
    return torch.randn(shape, generator=draws).double()


def one(text: Any) -> str:
    """The only text of a list, or the text."""
    return text if isinstance(text, str) else text[0]


def saying(pipe: Any, **methods: Callable[..., Any]) -> Any:
    """``pipe`` with some of its methods replaced."""
    for name, function in methods.items():
        setattr(pipe, name, types.MethodType(function, pipe))
    return pipe


def flow(**told: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    """A scheduler of a rectified flow."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**told)


DYNAMIC: dict[str, Any] = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}


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


class Words:
    """A tokenizer whose ids are the letters of a text."""

    def __init__(self, *made: Any, **more: Any) -> None: ...

    def __call__(self, text: Any = None, **told: Any) -> Any:
        """The ids of a text, padded to a multiple of 8 where that is asked."""
        ids = [1 + ord(letter) % 90 for letter in one(text)] or [1]
        padded = -len(ids) % (told.get("pad_to_multiple_of") or 1)
        if told.get("padding") == "max_length":
            padded = told["max_length"] - len(ids)
        rows = torch.tensor([ids + [0] * padded])
        found = Ids(input_ids=rows, attention_mask=(rows > 0).long())
        found["position_ids"] = torch.arange(rows.shape[1])[None]
        return found

    def apply_chat_template(self, messages: Any, **told: Any) -> str:
        """The words of all messages."""
        return str(messages)

    def save_pretrained(self, *made: Any, **more: Any) -> None:
        """Nothing is kept."""


class Ids(dict[str, Any]):
    """What a tokenizer answers."""

    __getattr__ = dict.__getitem__

    def to(self, *told: Any, **more: Any) -> Ids:
        """Itself."""
        return self


class Said(nn.Module):
    """A language model that draws its states by the ids, in every layer others."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, width: int, first: bool = True) -> None:
        super().__init__()
        self.width, self.first = width, first

    def forward(self, input_ids: Tensor, **told: Any) -> Any:
        """States of three layers; (B, L, D), or (L, B, D) for ChatGLM."""
        ids = input_ids.tolist()
        states = [drawn(self.width, ids, layer, length=len(ids[0])) for layer in range(3)]
        found = [one if self.first else one.transpose(0, 1) for one in states]
        return types.SimpleNamespace(hidden_states=found)


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


def hidream() -> Any:
    """HiDream, whose Llama answers with every layer."""
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=flow(shift=3.0),
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


class Listed(Words):
    """The same, with its ids as a list."""

    def __call__(self, text: Any = None, **told: Any) -> Any:
        """The ids of a text."""
        return {"input_ids": super().__call__(text, **told)["input_ids"][0].tolist()}


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
    "bria": bria,
    "ovis": ovis,
    "longcat": longcat,
    "ernie": ernie,
    "prx": prx,
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


def wrapped_pipeline(name: str) -> Any:
    """The pipeline of ``name``, redrawn, in float64."""
    pipe = WRAPPED[name]()
    for seed, part in enumerate(("transformer", "unet", "vae", "text_encoder", "text_encoder_2")):
        net = getattr(pipe, part, None)
        if isinstance(net, nn.Module) and not isinstance(net, Said):
            if next(net.parameters()).dtype != torch.float64:
                redraw(net, seed=seed)
            net.double().eval()
    if hasattr(pipe.vae, "bn"):
        pipe.vae.bn.running_var.abs_().add_(0.5)
    pipe.set_progress_bar_config(disable=True)
    return pipe
