"""Chroma: FLUX.1's blocks without pooled text, guided by a second prompt.

Lodestone Rock 2025. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sfumato.condition import Cond, Prompt
from sfumato.families.family import Kit, is_kind
from sfumato.families.flows import FLUX
from sfumato.families.sincos import check_plain

LENGTH = 512
"""How many tokens of T5 it reads."""


def condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """T5's states, which do not see padding; in the transformer the first token of padding counts, the others not.

    A negative prompt that nobody gave is the empty text.
    """
    check_plain(prompts)
    assert kit.tokens is not None
    network = kit.nets["text_3"]
    place = network.token.weight.device
    ids, mask, _ = kit.tokens([prompt.text for prompt in prompts], LENGTH)
    states = network(ids.to(place), mask.to(place))
    kept = mask.clone()
    kept[:, 1:] |= mask[:, :-1]
    return Cond(tokens=states, mask=kept.to(place))


CHROMA = replace(
    FLUX,
    name="chroma",
    title="Chroma",
    fits=is_kind("chroma"),
    needs=("denoiser", "vae", "text_3"),
    condition=condition,
    defaults=replace(FLUX.defaults, steps=35, guidance=5.0, distilled=False),
    quick=(),
    words="tokenizer",
)
