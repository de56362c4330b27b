"""The settings files of a diffusers folder of a U-Net on pixels, for networks that UNet2DModel can hold."""

from __future__ import annotations

from typing import Any

from sfumato.errors import WeightsError
from sfumato.families import edm
from sfumato.families.adm import FLAGS, Trained, trained
from sfumato.families.checkpoint import Part
from sfumato.nn.adm import PixelConfig

Settings = dict[str, Any]
KINDS = ("pixels", "noised", *edm.KINDS)
"""Kinds of U-Nets on pixels, and of what judges their pictures."""


def network(config: PixelConfig) -> Settings:
    """The ``config.json`` of UNet2DModel; WeightsError where that class has no setting for what ``config`` says."""
    looked = [width for width, look in zip(config.widths, config.attention, strict=True) if look]
    wide = {width // config.heads_of(width) for width in (*looked, config.widths[-1])}
    heads = {config.heads_of(width) for width in (*looked, config.widths[-1])}
    odd = {
        f"heads of different widths ({', '.join(map(str, sorted(wide)))})": len(wide) > 1 and heads != {1},
        f"a clock of {config.sinusoids} values before {config.widths[0]} channels": config.sinusoids
        not in (0, config.widths[0]),
        f"a clock that is told {config.rate:g} times itself": config.rate != 1,
    }
    if found := [what for what, is_so in odd.items() if is_so]:
        raise WeightsError(
            f"this U-Net is not written in diffusers' layout, whose UNet2DModel has no {found[0]}"
        )
    inside = all(config.halve)
    kinds = ["Attn" if look else "Resnet" if inside else "" for look in config.attention]
    ends = {"Attn": "Block2D", "": "Block2D"}
    return {
        "_class_name": "UNet2DModel",
        "sample_size": config.side,
        "in_channels": config.inner,
        "out_channels": config.outer,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "down_block_types": [f"{kind}Down{ends.get(kind, 'sampleBlock2D')}" for kind in kinds],
        "up_block_types": [f"{kind}Up{ends.get(kind, 'sampleBlock2D')}" for kind in reversed(kinds)],
        "attention_head_dim": None if heads == {1} else wide.pop(),
        "attn_norm_num_groups": config.middle_groups,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        "downsample_type": "resnet" if inside else "conv",
        "upsample_type": "resnet" if inside else "conv",
        "downsample_padding": config.pad,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "flip_sin_to_cos": config.cos_first,
        "freq_shift": config.shift,
        "num_class_embeds": config.classes or None,
        "add_attention": config.middle,
    }


def scheduler(config: PixelConfig, by: Trained) -> Settings:
    """The ``scheduler_config.json`` of a network that was trained so, as its authors sample it."""
    scale = 1000 / by.steps
    learned = config.outer == 2 * config.inner
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": by.steps,
        "beta_schedule": "squaredcos_cap_v2" if by.cosine else "linear",
        "beta_start": 1e-4 * scale,
        "beta_end": 0.02 * scale,
        "prediction_type": "sample" if by.says == "x0" else "epsilon",
        "variance_type": "learned_range" if learned else "fixed_large",
        "timestep_spacing": "linspace",
        "clip_sample": True,
    }


def folder(part: Part) -> tuple[Settings, Settings, Settings]:
    """The settings of the U-Net and of its scheduler, and the index of the folder of an OpenAI's file ``part``.

    WeightsError where UNet2DModel cannot hold it. diffusers' pipeline gives no class; sfumato reads one all the same.
    """
    if part.kind == "noised":
        raise WeightsError(
            "diffusers has no class for classifiers of noisy pictures; --to original writes safetensors"
        )
    if part.kind in edm.KINDS:
        raise WeightsError(
            "EDM's networks are not written in diffusers' layout, which has no pipeline that preconditions them; "
            "--to original writes a safetensors file with their authors' names"
        )
    config, flags = part.config, part.source.config
    by = trained(config, flags if FLAGS in flags else None)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    return network(config), scheduler(config, by), index
