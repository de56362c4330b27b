"""Which encoders read the prompts of a family, and how much of them; light to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reads:
    """``clips`` are CLIP encoders by what fills their rows: its own end token (end) or token 0 (zero).

    They are text, text_2 and so on, from the number ``first`` on.
    ``t5`` is how many tokens of T5 are read, its end among them, 0 without T5; ``small`` whether in small letters.
    ``language`` is how many tokens of a language model.
    """

    clips: tuple[str, ...] = ()
    first: int = 1
    t5: int = 0
    small: bool = False
    language: int = 0


READS = {
    "sd1": Reads(clips=("end",)),
    "sd2": Reads(clips=("zero",)),
    "sdxl": Reads(clips=("end", "zero")),
    "sdxl-refiner": Reads(clips=("zero",), first=2),
    "sd3": Reads(clips=("end", "zero"), t5=256),
    "flux": Reads(clips=("end",), t5=512),
    "flux-schnell": Reads(clips=("end",), t5=256),
    "chroma": Reads(t5=512),
    "pixart": Reads(t5=120, small=True),
    "pixart-sigma": Reads(t5=300, small=True),
    "lumina2": Reads(language=256),
    "z-image": Reads(language=512),
    "sana": Reads(language=300),
}
"""By the family's name, with its variant where that reads differently."""
OF_KINDS = {"x4": "sd2", "kontext": "flux", "z-image-turbo": "z-image"}
"""Families that read as another one does."""


def reads_of(family: str, variant: str | None) -> str | None:
    """The name in READS of a ``family`` and its ``variant``; None for one that reads no sentences."""
    name = OF_KINDS.get(family, family)
    special = f"{name}-{(variant or '').lower()}"
    return special if special in READS else name if name in READS else None
