"""Chroma: FLUX.1's blocks without pooled text, guided by a second prompt.

Lodestone Rock 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sfumato.condition import Cond, Prompt
from sfumato.families import prompts as rules
from sfumato.families.family import Kit, is_kind
from sfumato.families.flows import FLUX
from sfumato.families.prompts import T5
from sfumato.families.reads import READS


def condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """T5's states, which do not see padding; in the transformer the first token of padding counts, the others not.

    A negative prompt that nobody gave is the empty text.
    """
    t5 = reader(kit)

    def one(prompt: Prompt) -> Cond:
        states, mask = rules.t5_alone(t5, prompt)
        kept = mask.clone()
        kept[:, 1:] |= mask[:, :-1]
        return Cond(tokens=states, mask=kept)

    return rules.one_by_one(one, prompts)


def reader(kit: Kit) -> T5:
    """T5 as Chroma reads it."""
    assert kit.tokens is not None
    return T5(kit.nets["text_3"], kit.tokens, READS["chroma"].t5, learned=kit.learned, masked=True)


CHROMA = replace(
    FLUX,
    name="chroma",
    title="Chroma",
    fits=is_kind("chroma"),
    needs=("denoiser", "vae", "text_3"),
    condition=condition,
    dropped=lambda kit, prompt: rules.dropped(prompt, False, reader(kit)),
    defaults=replace(FLUX.defaults, steps=35, guidance=5.0, distilled=False),
    quick=(),
    words="tokenizer",
)
