"""The settings files of a diffusers folder, for networks whose sizes are known and families whose defaults are.

Names and meanings are those of diffusers 0.38 and transformers 5. What neither shapes nor family tell is left to
the libraries' defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sfumato.errors import WeightsError
from sfumato.families import dcae, languages, looks
from sfumato.families.checkpoint import Part
from sfumato.nn.chroma import ChromaConfig
from sfumato.nn.clip import ClipConfig
from sfumato.nn.dcae import DcaeConfig
from sfumato.nn.flux import FluxConfig
from sfumato.nn.language import LanguageConfig
from sfumato.nn.lumina import LuminaConfig
from sfumato.nn.mmdit import MMDiTConfig
from sfumato.nn.sana import SanaConfig
from sfumato.nn.sincos import SincosConfig
from sfumato.nn.t5 import T5Config
from sfumato.nn.tiny import TinyConfig
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VaeConfig
from sfumato.nn.zimage import ZImageConfig

Settings = dict[str, Any]

FOLDER_OF = {
    "sd1": {"denoiser": "unet", "vae": "vae", "text": "text_encoder"},
    "sd2": {"denoiser": "unet", "vae": "vae", "text": "text_encoder"},
    "x4": {"denoiser": "unet", "vae": "vae", "text": "text_encoder"},
    "sdxl": {"denoiser": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"},
    "sdxl-refiner": {"denoiser": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"},
    "sd3": {
        "denoiser": "transformer",
        "vae": "vae",
        "text": "text_encoder",
        "text_2": "text_encoder_2",
        "text_3": "text_encoder_3",
    },
    "flux": {"denoiser": "transformer", "vae": "vae", "text": "text_encoder", "text_3": "text_encoder_2"},
    **{
        name: {"denoiser": "transformer", "vae": "vae", "language": "text_encoder"}
        for name in languages.WHOLE
    },
}
"""Of each family, the folder of each place."""

LATENT = {
    "sd1": (0.18215, None),
    "sd2": (0.18215, None),
    "x4": (0.08333, None),
    "sdxl": (0.13025, None),
    "sdxl-refiner": (0.13025, None),
    "sd3": (1.5305, 0.0609),
    **dict.fromkeys(("flux", *languages.WHOLE), (0.3611, 0.1159)),
}
"""Of each family, the latent's scale and shift."""

_PIPELINES = {
    "sd1": "StableDiffusion",
    "sd2": "StableDiffusion",
    "sdxl": "StableDiffusionXL",
    "sdxl-refiner": "StableDiffusionXLImg2Img",
    "x4": "StableDiffusionUpscale",
    "sd3": "StableDiffusion3",
    "flux": "Flux",
    **{family: whole.pipeline for family, whole in languages.WHOLE.items()},
}
_VARIANTS = {"inpainting": "Inpaint", "instruct": "InstructPix2Pix"}
_VARIANTS |= {name: name for name in ("Fill", "Control", "Kontext")}
_STEPS = {"num_train_timesteps": 1000}
_LATENT_BETAS = {**_STEPS, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_UPSCALER_BETAS = {**_STEPS, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
_LONG = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def network(part: Part, family: str | None, projected: bool = False, vector: int = 0) -> Settings:
    """The ``config.json`` of ``part``.

    ``projected`` is whether a text encoder is the class with a projection; ``vector`` the width of the pooled text,
    without which an XL network's number of sinusoids is taken to be the published one.
    """
    config = part.config
    if isinstance(config, UNetConfig):
        return _unet(config, part.linear, family, vector)
    if isinstance(config, VaeConfig):
        return _vae(config, family)
    if isinstance(config, DcaeConfig):
        return dcae.dcae_settings(config, family)
    if isinstance(config, ClipConfig):
        return _clip(config, projected)
    if (tell := _TELL.get(type(config))) is not None:
        return tell(config)
    assert isinstance(config, TinyConfig)
    return {
        "_class_name": "AutoencoderTiny",
        "latent_channels": config.latent,
        "encoder_block_out_channels": [config.width] * len(config.blocks),
        "decoder_block_out_channels": [config.width] * len(config.blocks),
    }


def _unet(config: UNetConfig, linear: bool, family: str | None, vector: int) -> Settings:
    attention = config.attention
    depth = list(config.depth or (1,) * len(config.widths))
    if attention[-1] == "none":  # the middle has as many layers as the last level would have
        depth[-1] = config.middle_depth
    heads = [config.heads or width // config.head for width in config.widths]
    told: Settings = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": {"sd1": 64, "sd2": 96}.get(family or "", 128),
        "in_channels": config.inner,
        "out_channels": config.outer,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if a == "text" else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a == "text" else "UpBlock2D" for a in reversed(attention)],
        "cross_attention_dim": config.tokens,
        "attention_head_dim": config.heads or heads,
        "use_linear_projection": linear,
        "transformer_layers_per_block": depth,
        "norm_num_groups": config.groups,
    }
    if config.downs:
        told["transformer_layers_per_block"] = _by_level(config.downs, config.blocks)
        told["reverse_transformer_layers_per_block"] = _by_level(config.ups, config.blocks + 1)
    if config.short_middle:
        told["mid_block_type"] = "UNetMidBlock2D"
    if config.vector:
        sizes = 5 if family == "sdxl-refiner" else 6  # numbers that are told beside the text
        told["addition_embed_type"] = "text_time"
        told["projection_class_embeddings_input_dim"] = config.vector
        told["addition_time_embed_dim"] = (config.vector - vector) // sizes if vector else 256
    if config.classes:
        told["num_class_embeds"] = config.classes
    if any(config.only_text):
        told["only_cross_attention"] = list(config.only_text)
    return told


def _by_level(counts: tuple[int, ...], blocks: int) -> list[int | list[int]]:
    """The layers of each stage, in a list for each level; one number where a level has one for all."""
    levels = [list(counts[i : i + blocks]) for i in range(0, len(counts), blocks)]
    return [one[0] if len(set(one)) == 1 else one for one in levels]


def _vae(config: VaeConfig, family: str | None) -> Settings:
    levels = len(config.widths)
    told: Settings = {
        "_class_name": "AutoencoderKL",
        "in_channels": config.pixels,
        "out_channels": config.pixels,
        "latent_channels": config.latent,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": config.groups,
        "use_quant_conv": config.quant,
        "use_post_quant_conv": config.quant,
        "sample_size": {"sd1": 512, "sd2": 768, "x4": 256}.get(family or "", 1024),
    }
    if family:
        told["scaling_factor"], shift = LATENT[family]
        if shift is not None:
            told["shift_factor"] = shift
    return told


def _clip(config: ClipConfig, projected: bool) -> Settings:
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "projection_dim": config.projection or config.width,
        "hidden_act": "quick_gelu" if config.quick else "gelu",
        "layer_norm_eps": config.eps,
        "bos_token_id": config.end - 1,
        "eos_token_id": config.end,
        "pad_token_id": config.end,
    }


def _t5(config: T5Config) -> Settings:
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "d_kv": config.head,
        "d_ff": config.mlp,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": config.eps,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _pixart(config: SincosConfig) -> Settings:
    if config.classes:
        raise WeightsError(
            "a DiT is not written in diffusers' layout, which repeats the embedders of clock and class in every block"
        )
    scale = config.side / config.extent
    return {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": config.side * config.patch,
        "patch_size": config.patch,
        "in_channels": config.channels,
        "out_channels": config.outer,
        "num_layers": config.depth,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.tokens,
        "interpolation_scale": int(scale) if scale == int(scale) else scale,
        "use_additional_conditions": config.sizes,
    }


def _mmdit(config: MMDiTConfig) -> Settings:
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": config.patch,
        "in_channels": config.channels,
        "out_channels": config.outer,
        "num_layers": config.depth,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.tokens,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.vector,
        "pos_embed_max_size": config.side,
        "dual_attention_layers": list(range(config.dual)),
        "qk_norm": "rms_norm" if config.norm else None,
    }


def _flux(config: FluxConfig | ChromaConfig) -> Settings:
    told: Settings = {
        "in_channels": 4 * config.channels,
        "out_channels": 4 * config.outer,
        "num_layers": config.double,
        "num_single_layers": config.single,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.tokens,
        "axes_dims_rope": list(config.axes),
    }
    if isinstance(config, FluxConfig):
        own = {"pooled_projection_dim": config.vector, "guidance_embeds": config.guidance}
        return {"_class_name": "FluxTransformer2DModel", **told, **own}
    own = {
        "approximator_num_channels": config.features,
        "approximator_hidden_dim": config.hidden,
        "approximator_layers": config.layers,
    }
    return {"_class_name": "ChromaTransformer2DModel", **told, **own}


_TELL: dict[type, Callable[[Any], Settings]] = {
    T5Config: _t5,
    MMDiTConfig: _mmdit,
    FluxConfig: _flux,
    ChromaConfig: _flux,
    SincosConfig: _pixart,
    LuminaConfig: languages.lumina_settings,
    ZImageConfig: languages.zimage_settings,
    LanguageConfig: languages.language_settings,
    SanaConfig: dcae.sana_settings,
    **looks.SETTINGS,
}


def _edm(predicts: str, low: float, high: float) -> Settings:
    """The settings of EDM's process: CosXL's where v is predicted, else Playground 2.5's."""
    told = {**_STEPS, "sigma_min": low, "sigma_max": high, "rho": 7.0}
    if predicts == "v":
        more = {"prediction_type": "v_prediction", "sigma_schedule": "exponential", "sigma_data": 1.0}
        return {"_class_name": "EDMEulerScheduler", **told, **more}
    more = {"prediction_type": "epsilon", "sigma_schedule": "karras", "sigma_data": 0.5, "solver_order": 2}
    return {"_class_name": "EDMDPMSolverMultistepScheduler", **told, **more, "final_sigmas_type": "zero"}


def schedulers(
    family: str, predicts: str, zero_terminal: bool, guided: bool, levels: tuple[float, float] | None = None
) -> dict[str, Settings]:
    """The ``scheduler_config.json`` of each scheduler of ``family``, by folder.

    ``levels`` are the least and the greatest sigma of a network of EDM's process, None for others.
    ``guided`` is whether a FLUX.1 network reads the strength of guidance, which schnell does not.
    """
    told = {"prediction_type": _LONG.get(predicts, "epsilon")}
    if zero_terminal:
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}  # type: ignore[dict-item]
    plain = {**_LATENT_BETAS, "steps_offset": 1, "trained_betas": None}
    if family == "sd1":
        steps = {"skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False}
        name = "DDIMScheduler" if zero_terminal else "PNDMScheduler"
        return {"scheduler": {"_class_name": name, **plain, **steps, **told}}
    if family == "sd2":
        steps = {"set_alpha_to_one": False, "clip_sample": False}
        return {"scheduler": {"_class_name": "DDIMScheduler", **plain, **steps, **told}}
    if levels is not None:
        return {"scheduler": _edm(predicts, *levels)}
    if family in ("sdxl", "sdxl-refiner"):
        steps = {"timestep_spacing": "leading"}  # type: ignore[dict-item]
        return {"scheduler": {"_class_name": "EulerDiscreteScheduler", **plain, **steps, **told}}
    if family == "x4":
        low = {"_class_name": "DDPMScheduler", **_UPSCALER_BETAS, "clip_sample": True}
        steps = {"set_alpha_to_one": False, "clip_sample": False}
        high = {"_class_name": "DDIMScheduler", **_UPSCALER_BETAS, "steps_offset": 1, **steps, **told}
        return {"scheduler": high, "low_res_scheduler": low}
    name = "FlowMatchEulerDiscreteScheduler"
    if family == "sd3" or family in languages.WHOLE:
        shift = 3.0 if family == "sd3" else languages.WHOLE[family].shift
        return {"scheduler": {"_class_name": name, **_STEPS, "shift": shift}}
    line = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    moves = {"shift": 3.0 if guided else 1.0, "use_dynamic_shifting": guided}
    return {"scheduler": {"_class_name": name, **_STEPS, **line, **moves}}


def index(
    family: str, variant: str | None, parts: Mapping[str, Part], walk: Mapping[str, Settings] | None = None
) -> Settings:
    """The ``model_index.json`` of a folder with ``parts``; ``walk`` are its schedulers, by default the family's."""
    middle = _VARIANTS.get(variant or "", "")
    told: Settings = {"_class_name": f"{_PIPELINES[family]}{middle}Pipeline"}
    folders = FOLDER_OF[family]
    for place, folder in folders.items():
        if place not in parts:
            told[folder] = [None, None]
            continue
        kind = parts[place].kind
        if (known := languages.KNOWN.get(kind)) is not None:
            told |= {
                folder: ["transformers", f"{known.classes}Model"],
                "tokenizer": ["transformers", known.tokenizer],
            }
        elif kind in ("clip", "t5"):
            projected = is_projected(family, place)
            name = "T5EncoderModel" if kind == "t5" else "CLIPTextModel" + "WithProjection" * projected
            told[folder] = ["transformers", name]
            words = "T5TokenizerFast" if kind == "t5" else "CLIPTokenizer"
            told[folder.replace("text_encoder", "tokenizer")] = ["transformers", words]
        else:
            told[folder] = ["diffusers", network(parts[place], family)["_class_name"]]
    for place, folder in folders.items():
        if folder.startswith("text") and place not in parts:
            told[folder.replace("text_encoder", "tokenizer")] = [None, None]
    for name, settings in (walk or schedulers(family, "eps", False, True)).items():
        told[name] = ["diffusers", settings["_class_name"]]
    if family in ("sd1", "sd2"):
        told |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        told["requires_safety_checker"] = False
    if family == "sdxl":
        told["force_zeros_for_empty_prompt"] = True
    if family == "sdxl-refiner":
        told |= {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
    return told


def is_projected(family: str | None, place: str) -> bool:
    """Whether the CLIP encoder at ``place`` is the class with a projection."""
    return family == "sd3" or place == "text_2"
