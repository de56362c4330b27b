"""Conditions by door: named tensors with a leading row axis that steer a network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.manner import Manner
from sfumato.text.embedded import States, wording
from sfumato.text.prompt.parts import Part, Section, Span, Words


@dataclass(frozen=True)
class Look:
    """A picture as part of a prompt: uint8 ``pixels`` (H, W, 3), known by their ``hash``, and its strength.

    The strength multiplies its tokens, or how often they count in ``attention``.
    """

    pixels: NDArray[np.uint8] = field(repr=False, compare=False)
    hash: str
    strength: float = 1.0
    attention: bool = False


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a condition is made from: a text, and what else published models want to know of the request.

    ``absent`` marks a prompt that nobody gave, such as the negative one left out: some models were trained to see zeros
    there, and the empty text stands in elsewhere. ``negative`` is whether the picture should keep away from it.
    ``width`` and ``height`` are the picture's in pixels, 0 where nothing is known; ``guidance`` is the strength that a
    distilled network is told.

    ``part`` is the text with its weights where it was written in a ``dialect`` that has some; None is plain text.
    ``apart`` are the parts that other encoders read in its place, by their names (text_2, text_3). ``skip`` is how
    many more blocks CLIP encoders leave out at their end, ``padding`` whether T5's is "seen" or "masked", empty for as
    the family has it. ``ready`` is what text encoders made of all this before, which is then not encoded again.
    ``looks`` are pictures that are read with the text.
    """

    text: str
    absent: bool = False
    negative: bool = False
    width: int = 0
    height: int = 0
    guidance: float = 1.0
    part: Part | None = None
    dialect: str = "plain"
    apart: tuple[tuple[str, Part], ...] = ()
    skip: int = 0
    padding: str = ""
    ready: States | None = None
    looks: tuple[Look, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the text alone says all of it, to every encoder."""
        more = self.part or self.apart or self.skip or self.padding or self.ready is not None or self.looks
        return not more

    @property
    def wording(self) -> str:
        """All that text encoders are told, as one text; not the sizes and the guidance, which networks are told."""
        plain = self.part is None and not self.apart and not self.skip and not self.padding
        more: dict[str, Any] = {}
        if not plain:
            more = {"dialect": self.dialect, "skip": self.skip, "part": self.part and asdict(self.part)}
            more["apart"] = {place: asdict(part) for place, part in self.apart}
            more |= {"padding": self.padding} if self.padding else {}
        return wording(self.text, negative=self.negative, absent=self.absent, **more)

    def read_by(self, encoder: str) -> Part:
        """What the ``encoder`` (text, text_2, text_3) reads."""
        own = dict(self.apart).get(encoder, self.part)
        return own or Part((Words((Section((Span(self.text),) if self.text else ()),)),))


def texts(prompts: Sequence[str | Prompt]) -> list[str]:
    """The bare texts of ``prompts``."""
    return [p.text if isinstance(p, Prompt) else p for p in prompts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cond:
    """What steers a row, by the door through which it enters the network; None for a door not used.

    ``tokens`` (B, L, D) with ``mask`` (B, L), True where a token counts; ``vector`` (B, D); ``label``
    (B,) int; ``channels`` (B, C, H, W), laid beside x; ``guidance`` (B,), the strength that a distilled network
    reads; ``reference`` (B, C, H', W'), latents of a picture to look at.

    ``counts`` (B, L) is how often each token counts where it is attended to, once if it is not said.

    ``regions`` (B, R, h, w) is above 0 where the picture sees the tokens whose number in ``owner`` (B, L) is that of
    the region. ``exemplar`` (B, C, h, w) is a reference at x's own level, walked beside x under the conditions
    ``exemplar_tokens`` and so on; what x takes from it, and all else that is not as usual, says ``manner``, which is no
    tensor and the same for all rows.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    counts: Tensor | None = None
    vector: Tensor | None = None
    label: Tensor | None = None
    channels: Tensor | None = None
    guidance: Tensor | None = None
    reference: Tensor | None = None
    regions: Tensor | None = None
    owner: Tensor | None = None
    exemplar: Tensor | None = None
    exemplar_tokens: Tensor | None = None
    exemplar_mask: Tensor | None = None
    exemplar_vector: Tensor | None = None
    exemplar_label: Tensor | None = None
    exemplar_counts: Tensor | None = None
    manner: Manner | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors that are there, by door."""
        held = ((f.name, getattr(self, f.name)) for f in fields(Cond))
        return {name: value for name, value in held if isinstance(value, Tensor)}

    @property
    def rows(self) -> int | None:
        """How many rows there are; None without any condition."""
        return next((len(value) for value in self.named().values()), None)

    def expand(self, rows: int) -> Cond:
        """The same condition for ``rows`` rows, where this one has a single row (or that many already)."""
        return self._of({name: value.expand(rows, *value.shape[1:]) for name, value in self.named().items()})

    def row(self, index: int) -> Cond:
        """Row ``index`` by itself."""
        return self._of({name: value[index : index + 1] for name, value in self.named().items()})

    def to(self, dtype: torch.dtype, device: torch.device) -> Cond:
        """All tensors on ``device``, floating ones as ``dtype``."""
        return self._of(
            {
                name: value.to(device, dtype if value.is_floating_point() else value.dtype)
                for name, value in self.named().items()
            }
        )

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What two conditions must share to be stacked: doors, shapes of a row, dtypes, the manner."""
        doors = tuple((name, tuple(v.shape[1:]), v.dtype) for name, v in self.named().items())
        return doors if self.manner is None else (*doors, self.manner)

    def _of(self, doors: dict[str, Tensor]) -> Cond:
        return made(doors, self.manner)


def made(doors: Mapping[str, Tensor], manner: Manner | None = None) -> Cond:
    """The condition of the tensors ``doors``, by name, with a ``manner``."""
    held: dict[str, Any] = dict(doors)
    return Cond(**held, manner=manner)


def join(conditions: list[Cond]) -> Cond:
    """Rows of several conditions with the same key, one below the other."""
    names = conditions[0].named()
    doors = {name: torch.cat([c.named()[name] for c in conditions]) for name in names}
    return made(doors, conditions[0].manner)


Masks = Literal["always", "may", "never"]
"""Whether a network reads a mask of its tokens: it must be told one, it may be, or it attends to all."""


def ready_or(encode: Callable[[Sequence[Prompt]], Cond], masks: Masks) -> Callable[[Sequence[Prompt]], Cond]:
    """The conditions of prompts by ``encode``, or of their states where these are ready, with ``masks`` so."""

    def given(states: States) -> Cond:
        every = torch.ones(states.tokens.shape[:2], dtype=torch.bool) if masks == "always" else None
        mask = states.mask if masks != "never" and states.mask is not None else every
        return Cond(tokens=states.tokens, mask=mask, vector=states.vector)

    def condition(prompts: Sequence[Prompt]) -> Cond:
        if all(prompt.ready is None for prompt in prompts):
            return encode(prompts)
        return join([encode([p]) if p.ready is None else given(p.ready) for p in prompts])

    return condition
