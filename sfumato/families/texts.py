"""Prompts to the conditions of a published model: by its text encoders, or of what they made of them before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from sfumato.condition import Cond, Masks, Prompt, ready_or
from sfumato.errors import InvalidRequest
from sfumato.families.checkpoint import Part
from sfumato.families.family import Family, Kit, Parts
from sfumato.families.looks import pictured, seen, wordless
from sfumato.families.reads import READS, Reads, reads_of
from sfumato.model import Conditioner, Texts
from sfumato.nn.unet import UNetConfig

ENCODERS = ("text", "language")
"""How the places of text encoders begin."""
MASKS: dict[str, Masks] = {"unet": "never", "mmdit": "may", "flux": "may"}
"""Of denoisers that attend to padding too, whether they may be told not to; others are told always."""


def encoders(parts: Iterable[str]) -> list[str]:
    """Those of the places ``parts`` that are text encoders."""
    return [place for place in parts if place.startswith(ENCODERS)]


def encoded(kind: Family, kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """What the text encoders make of ``prompts``; InvalidRequest if they were not loaded."""
    if lacking := [place for place in encoders(kind.needs) if place not in kit.nets]:
        if pictured(kit.parts) and not any(p.text.strip() or p.apart for p in prompts):
            return wordless(kit.parts["denoiser"].config, kit.nets, len(prompts))
        raise InvalidRequest(
            f"the model was loaded without its text encoders ({', '.join(lacking)}), so that it reads embedded prompts "
            "alone: give a file of them with embedded (--embedded), which `sfumato embed` writes where the encoders are"
        )
    return kind.condition(kit, prompts)


def conditioner(kind: Family, kit: Kit) -> Conditioner:
    """From prompts to all that the network of ``kind`` reads of them; prompts that are ready are not encoded."""
    told = ready_or(lambda prompts: encoded(kind, kit, prompts), masks_of(kit))

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        asked = [p if isinstance(p, Prompt) else Prompt(text=p) for p in prompts]
        return kind.request(kit, asked, seen(told(asked), asked, kit.nets))

    return condition


def masks_of(kit: Kit) -> Masks:
    """Whether the denoiser reads a mask of tokens."""
    return MASKS.get(kit.parts["denoiser"].kind, "always")


def texts_of(
    kind: Family, kit: Kit, families: tuple[str, ...], identity: str | Callable[[], str]
) -> Texts | None:
    """What a model of ``kind`` reads of texts; None if it reads none. ``families`` are those of equal conditions."""
    if not encoders(kind.needs):
        return None
    reads = reads_of(kind.name, kind.variant) or ""
    rule = READS.get(reads, Reads())
    return Texts(
        families=families,
        tokens=int(kit.parts["denoiser"].config.tokens),
        vector=_pooled(kind, kit.parts),
        masked=masks_of(kit) != "never",
        reads=reads,
        length=rule.t5 or rule.language,
        encode=lambda prompts: encoded(kind, kit, prompts),
        encoders=hashes({place: part for place, part in kit.parts.items() if place in encoders(kit.nets)}),
        identity=identity,
    )


def hashes(parts: Mapping[str, Part]) -> Callable[[], Mapping[str, str]]:
    """Finds the sha256 of the files of each of ``parts``, once; at once where the files will be gone."""
    if any(part.source.closing for part in parts.values()):
        found = {place: part.source.hash() for place, part in parts.items()}
        return lambda: found
    return cache(lambda: {place: part.source.hash() for place, part in parts.items()})


def _pooled(kind: Family, parts: Parts) -> int:
    """How wide the vector of a text is: what the network reads, without the numbers that the request adds."""
    net = parts["denoiser"]
    if not isinstance(net.config, UNetConfig):
        return int(getattr(net.config, "vector", 0))
    if not net.config.vector:
        return 0
    if "text_2" in parts:
        return int(parts["text_2"].config.projection)
    features = net.source.config.get("addition_time_embed_dim", 256)
    return int(net.config.vector) - kind.numbers * int(str(features))
