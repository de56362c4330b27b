"""Lumina-Image 2: a transformer on a rectified flow that reads the states of Gemma 2.

Qin et al. 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from dataclasses import replace

from sfumato.families.family import is_kind
from sfumato.families.flows import FLUX
from sfumato.families.reader import Reader
from sfumato.families.reads import READS
from sfumato.process.schedule import Flow

BEFORE = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""What stands before every prompt, but not before negative ones."""
READER = Reader(
    length=READS["lumina2"].language,
    written=lambda prompt: prompt.text if prompt.negative else BEFORE + prompt.text,
)
"""How Gemma 2 reads for it."""

LUMINA = replace(
    FLUX,
    name="lumina2",
    title="Lumina-Image 2",
    fits=is_kind("lumina"),
    needs=("denoiser", "vae", "language"),
    schedule=Flow(6.0),
    by_size=False,
    condition=READER.condition,
    dropped=READER.dropped,
    defaults=replace(FLUX.defaults, steps=30, guidance=4.0, distilled=False),
    quick=(),
    words="tokenizer",
)
