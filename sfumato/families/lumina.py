"""Lumina-Image 2: a transformer on a rectified flow that reads the states of Gemma 2.

Qin et al. 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfumato.condition import Cond, Prompt
from sfumato.families.family import Kit, is_kind
from sfumato.families.flows import FLUX
from sfumato.families.sincos import check_plain
from sfumato.nn.language import LanguageConfig
from sfumato.process.schedule import Flow

LENGTH = 256
"""How many tokens of Gemma 2 it reads."""
BEFORE = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""What stands before every prompt, but not before negative ones."""


def ids_of(kit: Kit, prompt: Prompt) -> list[int]:
    """All tokens of ``prompt``, however many: the first says that a text begins."""
    assert kit.tokens is not None
    text = prompt.text if prompt.negative else BEFORE + prompt.text
    return [kit.nets["language"].config.begin, *kit.tokens.split(text)]


def dropped(kit: Kit, prompt: Prompt) -> list[str]:
    """What is not read of a long ``prompt``."""
    over = len(ids_of(kit, prompt)) - LENGTH
    return [f"the prompt is long: Gemma 2 does not read its last {over} tokens"] if over > 0 else []


def condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """Gemma 2's states before its last layer, padding masked. A negative prompt nobody gave is the empty text."""
    check_plain(prompts)
    network = kit.nets["language"]
    config: LanguageConfig = network.config
    ids = torch.full((len(prompts), LENGTH), config.padding)
    mask = torch.zeros(len(prompts), LENGTH, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        kept = ids_of(kit, prompt)[:LENGTH]
        ids[row, : len(kept)] = torch.tensor(kept)
        mask[row, : len(kept)] = True
    ids, mask = ids.to(network.device), mask.to(network.device)
    return Cond(tokens=network(ids, mask), mask=mask)


LUMINA = replace(
    FLUX,
    name="lumina2",
    title="Lumina-Image 2",
    fits=is_kind("lumina"),
    needs=("denoiser", "vae", "language"),
    schedule=Flow(6.0),
    by_size=False,
    condition=condition,
    dropped=dropped,
    defaults=replace(FLUX.defaults, steps=30, guidance=4.0, distilled=False),
    quick=(),
    words="tokenizer",
)
