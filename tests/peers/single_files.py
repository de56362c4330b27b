"""Single files in the authors' layout, written by our writer from a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module, save_tensors
from sfumato.weights.source import open_source

LDM = {"denoiser": "model.diffusion_model.", "vae": "first_stage_model."}
_SMALL = {"text": ("text_encoders.clip_l.transformer.", "diffusers")}
_SD3 = {
    **_SMALL,
    "text_2": ("text_encoders.clip_g.transformer.", "diffusers"),
    "text_3": ("text_encoders.t5xxl.transformer.", "diffusers"),
}
_FLUX = {**_SMALL, "text_3": ("text_encoders.t5xxl.transformer.", "diffusers")}
PREFIXES: dict[str, dict[str, tuple[str, str]]] = {
    "sd1": {"text": ("cond_stage_model.transformer.", "diffusers")},
    "sd2 v": {"text": ("cond_stage_model.model.", "original")},
    "sdxl": {
        "text": ("conditioner.embedders.0.transformer.", "diffusers"),
        "text_2": ("conditioner.embedders.1.model.", "original"),
    },
    "refiner": {"text_2": ("conditioner.embedders.0.model.", "original")},
    "x4": {"text": ("cond_stage_model.model.", "original")},
    "sd3": _SD3,
    "sd3.5 medium": _SD3,
    "flux": _FLUX,
    "schnell": _FLUX,
    "fill": _FLUX,
}
"""Of each case, the prefix and the layout of its text encoders."""


def places(folder: Path) -> dict[str, Part]:
    """The networks of a diffusers folder, T5 in its own place."""
    with open_source(folder) as source:
        parts = open_checkpoint(source).parts
    return {"text_3" if part.kind == "t5" else place: part for place, part in parts.items()}


def tensors(part: Part, prefix: str, layout: str, scratch: Path) -> dict[str, Tensor]:
    """The tensors of a network as a file in ``layout`` holds them under ``prefix``."""
    module = load_into(part.make, part.source, part.table, part.layout)
    save_module(scratch, module, part.table.prefixed(**{layout: prefix}), layout)
    with open_source(scratch) as source:
        return {name: source.read(name) for name in source.entries}


def single_file(name: str, folder: Path, path: Path, more: Mapping[str, Tensor] | None = None) -> Path:
    """All networks of ``folder`` in one file as the model called ``name`` was published, and ``more`` tensors."""
    whole: dict[str, Tensor] = {}
    for place, part in places(folder).items():
        prefix, layout = (LDM[place], "original") if place in LDM else PREFIXES[name][place]
        whole |= tensors(part, prefix, layout, path.with_suffix(".part.safetensors"))
    if name in ("sd2 v", "x4"):  # the original has one block more than is read, and a projection
        block = "cond_stage_model.model.transformer.resblocks."
        last = max(int(key.removeprefix(block).split(".")[0]) for key in whole if key.startswith(block))
        draws = torch.Generator().manual_seed(6)
        whole |= {
            key.replace(f"{block}{last}.", f"{block}{last + 1}."): torch.randn(value.shape, generator=draws)
            for key, value in whole.items()
            if key.startswith(f"{block}{last}.")
        }
        whole["cond_stage_model.model.text_projection"] = torch.randn(128, 128, generator=draws)
    return save_tensors(path, {**whole, **(more or {})})
