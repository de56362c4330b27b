"""Tiny networks that make tokens of pictures, of transformers and diffusers, with every weight redrawn."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel

from tests.peers.tiny import redraw

TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 7,
}
"""A small SigLIP whose patches do not cover its pictures, as those of the published one do not."""


def tower() -> Any:
    """The vision tower, redrawn."""
    made = SiglipVisionModel(SiglipVisionConfig(**TOWER)).eval()
    redraw(made, seed=11)
    return made


def embedder(tokens: int = 48) -> Any:
    """The embedder that follows it into tokens of so many values, redrawn."""
    made = ReduxImageEncoder(TOWER["hidden_size"], tokens)
    redraw(made, seed=12)
    return made
