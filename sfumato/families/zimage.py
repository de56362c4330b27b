"""Z-Image and its Turbo: transformers on a rectified flow that read the states of Qwen 3.

Z-Image Team 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from dataclasses import replace

from sfumato.condition import Prompt
from sfumato.families.family import is_kind
from sfumato.families.flows import FLUX
from sfumato.families.reader import Reader
from sfumato.families.reads import READS
from sfumato.process.schedule import Flow


def written(prompt: Prompt) -> str:
    """``prompt`` as what a person says to Qwen 3, which is about to answer (its chat template, with thinking)."""
    return f"<|im_start|>user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n"


READER = Reader(length=READS["z-image"].language, written=written)
"""How Qwen 3 reads for it."""

BASE = replace(
    FLUX,
    name="z-image",
    title="Z-Image",
    fits=is_kind("zimage"),
    needs=("denoiser", "vae", "language"),
    schedule=Flow(6.0),
    by_size=False,
    condition=READER.condition,
    dropped=READER.dropped,
    defaults=replace(FLUX.defaults, steps=50, guidance=6.0, distilled=False),
    quick=(),
    words="tokenizer",
)
TURBO = replace(
    BASE,
    name="z-image-turbo",
    title="Z-Image Turbo",
    schedule=Flow(3.0),
    defaults=replace(BASE.defaults, steps=8, guidance=1.0),
)
"""Its network has the base's shapes: it is told by its folder's settings, its file's name, or by the person."""
