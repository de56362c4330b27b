"""SANA: a transformer of linear attention on a rectified flow that reads Gemma 2, in the latents of DC-AE.

Xie et al. 2024; Xie et al. 2025; Chen et al. 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from dataclasses import replace

from sfumato.families.dcae import SCALE
from sfumato.families.family import Family, Parts, is_kind
from sfumato.families.flows import flux_request
from sfumato.families.reader import Reader
from sfumato.families.reads import READS
from sfumato.model import Defaults
from sfumato.process.schedule import Flow

BEHIND = "\n".join(
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing "
        "street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering "
        "glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    )
)
"""What stands before every prompt, as in training (Xie et al. 2024, section 2.3: complex human instruction)."""
READER = Reader(
    length=READS["sana"].language,
    written=lambda prompt: prompt.text.lower().strip(),
    skip=0,
    behind=BEHIND,
)
"""How Gemma 2 reads for it."""
LARGE = 128
"""The side of the latents from which on the flow is shifted more (4096 pixels)."""


def is_large(parts: Parts) -> bool:
    """The SANA of 4096 pixels, told by the side of its settings or of the authors' table of positions."""
    return is_kind("sana")(parts) and parts["denoiser"].config.side >= LARGE


SANA = Family(
    name="sana",
    title="SANA",
    fits=is_kind("sana"),
    needs=("denoiser", "vae", "language"),
    predicts="flow",
    # Its solver walks from 999 thousandths, to which the shift comes after.
    schedule=Flow(3.0, t_max=0.999),
    clock="thousand",
    scale=SCALE,
    defaults=Defaults(
        steps=20,
        sampler="dpmpp_2m",
        grid="linspace",
        guidance=4.5,
        width=1024,
        height=1024,
        multiple=32,
        least=128,
        most=8192,
        unit_start=True,
    ),
    condition=READER.condition,
    dropped=READER.dropped,
    latent=32,
    words="tokenizer",
)
SANA_4K = replace(SANA, variant="4K", title="SANA 4K", fits=is_large, schedule=Flow(6.0, t_max=0.999))
SPRINT = replace(
    SANA,
    variant="Sprint",
    title="SANA-Sprint",
    fits=lambda parts: is_kind("sana")(parts) and parts["denoiser"].config.guidance,
    schedule=Flow(),
    clock="t",
    defaults=replace(
        SANA.defaults, steps=2, sampler="lcm", grid="trig(middle=1.3)", unit_start=False, distilled=True
    ),
    request=flux_request,
)
"""Distilled to few steps over TrigFlow, a rectified flow by another time and scale (Chen et al. 2025, section 3.1)."""
