"""Tiny checkpoints of every family in their single-file layout, every tensor redrawn, to convert and inspect."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.families.checkpoint import NETWORKS, TABLES
from sfumato.families.convert import SINGLE
from sfumato.families.keys.unet import table as unet_table
from sfumato.nn.clip import ClipConfig
from sfumato.nn.flux import FluxConfig
from sfumato.nn.mmdit import MMDiTConfig
from sfumato.nn.t5 import T5Config
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VaeConfig
from sfumato.weights.save import save_module, save_tensors
from sfumato.weights.source import open_source

OPENAI = ClipConfig(width=64, layers=2, heads=1, mlp=16, vocabulary=49408, length=77)
BIG = ClipConfig(width=128, layers=3, heads=2, mlp=16, vocabulary=49408, length=77, projection=48)
# A quick GELU belongs to a width of 768, so a tiny OpenAI encoder has the plain one.
T5 = T5Config(vocabulary=40, width=24, layers=2, heads=2, head=8, mlp=12)
VAE = VaeConfig(widths=(32, 64), blocks=1)
VAE16 = VaeConfig(widths=(32, 64), blocks=1, latent=16, quant=False)
WIDE = MMDiTConfig(depth=2, width=128, heads=2, tokens=24, vector=48 + 48, side=8)


def _unet(*, inner: int = 4, tokens: int, **more: object) -> UNetConfig:
    told = {"widths": (64, 128), "attention": ("text", "none"), "blocks": 1, "middle": "text", **more}
    return UNetConfig(inner=inner, outer=4, tokens=tokens, **told)  # type: ignore[arg-type]


def _sizes(pooled: int, count: int) -> dict[str, object]:
    return {"vector": pooled + 8 * count, "attention": ("none", "text"), "depth": (1, 2), "middle_depth": 2}


DEEP: dict[str, object] = {
    "widths": (64, 64, 64, 64),
    "attention": ("text", "text", "text", "none"),
    "blocks": 2,
}
"""As many blocks as the published network, since one of the last of them tells what it predicts."""
XL = {"vae": VAE, "text_2": BIG}
JOINT = {
    "vae": VAE16,
    "text": ClipConfig(**{**vars(OPENAI), "projection": 48}),
    "text_2": BIG,
    "text_3": T5,
}
CONFIGS = {
    "sd1": ("sd1", {"denoiser": _unet(tokens=64), "vae": VAE, "text": OPENAI}),
    "sd1-inpaint": ("sd1", {"denoiser": _unet(inner=9, tokens=64), "vae": VAE, "text": OPENAI}),
    "sd2": ("sd2", {"denoiser": _unet(tokens=128, **DEEP), "vae": VAE, "text": BIG}),
    "x4": (
        "x4",
        {
            "denoiser": _unet(inner=7, tokens=128, classes=12, only_text=(True, False)),
            "vae": VAE,
            "text": BIG,
        },
    ),
    "sdxl": ("sdxl", {"denoiser": _unet(tokens=192, **_sizes(48, 6)), "text": OPENAI, **XL}),
    "sdxl-refiner": ("sdxl-refiner", {"denoiser": _unet(tokens=128, **_sizes(48, 5)), **XL}),
    "sd3": ("sd3", {"denoiser": WIDE, **JOINT}),
    "sd3.5": ("sd3", {"denoiser": MMDiTConfig(**{**vars(WIDE), "norm": True, "dual": 1}), **JOINT}),
    "flux": (
        "flux",
        {
            "denoiser": FluxConfig(
                double=1, single=2, width=64, heads=2, tokens=24, vector=64, axes=(4, 14, 14)
            ),
            "vae": VAE16,
            "text": OPENAI,
            "text_3": T5,
        },
    ),
}
CONFIGS["flux-schnell"] = (
    "flux",
    {
        **CONFIGS["flux"][1],
        "denoiser": FluxConfig(**{**vars(CONFIGS["flux"][1]["denoiser"]), "guidance": False}),
    },
)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """``module`` with every parameter drawn, so that no two tensors are alike."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draws))
    return module


def kind_of(config: object) -> str:
    """What a configuration's network is called."""
    name = type(config).__name__.removesuffix("Config").lower()
    return {"cliptext": "clip"}.get(name, name)


def write_original(path: Path, name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Write the checkpoint ``name`` of CONFIGS to ``path``, with what published files hold besides; its tensors."""
    family, configs = CONFIGS[name]
    tensors: dict[str, Tensor] = {"betas": torch.linspace(0, 1, 5)}
    for number, (place, config) in enumerate(configs.items()):
        prefix, layout = SINGLE[family][place]
        kind = kind_of(config)
        table = unet_table(config, linear=family != "sd1") if kind == "unet" else TABLES[kind](config)
        part = path.with_name(f"{place}.part.safetensors")
        save_module(part, drawn(NETWORKS[kind](config), number), table, layout)
        with open_source(part) as source:
            tensors |= {prefix + key: source.read(key) for key in source.entries}
        part.unlink()
    if family in ("sd2", "x4"):
        tensors["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    if family == "sd1":
        key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        tensors[key] = torch.arange(77)[None]
    tensors = {k: v.to(dtype) if v.is_floating_point() and k != "betas" else v for k, v in tensors.items()}
    save_tensors(path, tensors, metadata={"modelspec.title": name, "modelspec.license": "openrail++"})
    return tensors
