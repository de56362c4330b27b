"""What a prompt is, whatever language it was written in.

::

    Parsed      what was written: parts of a picture, and adapters
     └ Scheduled  one part: a template, and its weight in the guided sum
        └ Template  text with switches and cycles, which change over the steps

    Part        one part at one step
     └ Words      a text; several with shares where a part is a blend of texts
        └ Section  what begins a chunk of tokens of its own (BREAK)
           └ Span    a run of text with one weight
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from sfumato.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text with one weight; 1 is plain text."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Section:
    """Spans that share rows of tokens. ``weight`` moves all its states from the empty prompt's (compel's ``.and``)."""

    spans: tuple[Span, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """A text, as sections whose states follow one another. ``share`` is its part in a blend."""

    sections: tuple[Section, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """One condition: the blend of ``words`` (as a rule one), which has ``weight`` in the sum of guidance (AND)."""

    words: tuple[Words, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter named in a prompt: ``kind`` (lora, lyco, ...), and its strengths on text encoder and denoiser.

    ``options`` are further named values, as they were written.
    """

    kind: str
    name: str
    text: float = 1.0
    denoiser: float = 1.0
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """``before`` in the first steps, ``after`` in the others.

    ``when`` is how many steps come before, or the part of all steps if ``relative``.
    """

    before: Template
    after: Template
    when: float
    relative: bool = False

    def step(self, steps: int) -> int:
        """The first step of ``after``, of ``steps`` in all; 0 to ``steps``."""
        told = self.when * steps if self.relative else self.when
        return int(min(max(told, 0), steps))


@dataclass(frozen=True, slots=True)
class Cycle:
    """Each step the next of ``options``, in a circle."""

    options: tuple[Template, ...]


Template = tuple[str | Switch | Cycle, ...]
"""Text as it was written, with what changes over the steps taken out of it."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A part over all steps: its ``template``, in its dialect's own notation, and its ``weight``."""

    template: Template
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A prompt that was read: ``dialect`` tells how the templates' texts are read at a step."""

    dialect: str
    parts: tuple[Scheduled, ...]
    adapters: tuple[Adapter, ...] = field(default=())


def bare(part: Part) -> str:
    """The text of ``part`` without weights, for encoders that know none: its sections with a space between."""
    return " ".join(
        "".join(s.text for s in section.spans) for words in part.words for section in words.sections
    )


HEAVIEST = 1e4
"""The largest weight; a number far beyond what any model tells apart from nonsense, and well within its floats."""


def checked(weight: float, text: str) -> float:
    """``weight``; InvalidRequest if it is not within HEAVIEST of 0, naming the ``text`` that it is for."""
    if not abs(weight) <= HEAVIEST:
        raise InvalidRequest(
            f"the weight of {shown(text)}, {weight:.4g}, is not a finite number from {-HEAVIEST:.0f} to "
            f"{HEAVIEST:.0f}; use fewer brackets or a number"
        )
    return weight


def shown(text: str) -> str:
    """``text`` in quotes, cut where it is long."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Neighbours of equal weight as one; weights are equal that differ by rounding alone."""
    runs: list[tuple[list[str], float]] = []
    for span in spans:
        if runs and math.isclose(runs[-1][1], span.weight, rel_tol=1e-9):
            runs[-1][0].append(span.text)
        else:
            runs.append(([span.text], span.weight))
    return tuple(Span("".join(texts), weight) for texts, weight in runs)


def number(value: float) -> str:
    """``value`` without an exponent, as every dialect reads it back exactly."""
    from decimal import Decimal

    text = format(Decimal(repr(float(value))), "f")
    return text.removesuffix(".0") if "." in text else text
