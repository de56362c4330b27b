"""Prompts that change over the steps or are sums of several: read, made conditions, and answered step by step.

A prompt without any of this is one condition for the whole walk, and nothing here touches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.text.prompt.dialects import parse
from sfumato.text.prompt.parts import Part, bare
from sfumato.text.prompt.schedule import Stage, step_of, timeline


@dataclass(frozen=True, kw_only=True, eq=False)
class Script(Cond):
    """Several conditions in the place of one: ``stages`` say which hold when, and their weights in the sum.

    A door of its own (``channels``, as a rule) is opened for all of them alike.
    """

    conds: tuple[Cond, ...]
    stages: tuple[Stage, ...]

    def at(self, step: int) -> list[tuple[Cond, float]]:
        """The conditions of ``step`` with their weights."""
        stage = next(stage for stage in self.stages if stage.begin <= step < stage.end)
        own: dict[str, Any] = dict(self.named())
        if self.manner is not None:
            own["manner"] = self.manner
        return [(replace(self.conds[index], **own), weight) for index, weight in stage.parts]


def single(cond: Cond, where: str) -> Cond:
    """``cond``; InvalidRequest if it is several, ``where`` only one can be."""
    if isinstance(cond, Script):
        raise InvalidRequest(
            f"{where} takes one prompt for the whole walk: write it without AND, schedules and a weight of the whole"
        )
    return cond


@dataclass(frozen=True, slots=True)
class Told:
    """A prompt over a walk: distinct ``prompts``, and ``stages`` that fill its steps; ``adapters`` are named in it."""

    prompts: tuple[Prompt, ...]
    stages: tuple[Stage, ...]
    adapters: tuple[str, ...] = ()

    @property
    def steady(self) -> bool:
        """Whether it is one condition of weight 1 from the first step to the last."""
        return len(self.stages) == 1 and self.stages[0].parts == ((0, 1.0),)


def read(prompt: Prompt, apart: Mapping[str, str], steps: int) -> Told:
    """``prompt``, a text in its dialect, and the texts that other encoders read ``apart``, over so many ``steps``.

    A negative prompt, and what is read apart, has one part: AND is a word there. InvalidRequest says why a text
    cannot be read.
    """
    name = prompt.dialect
    parsed = parse(prompt.text, name, compose=not prompt.negative)
    beside_it = {place: parse(text, name, compose=False) for place, text in apart.items()}
    main, others = timeline(parsed, steps), {place: timeline(p, steps) for place, p in beside_it.items()}
    begins = sorted({stage.begin for line in (main, *others.values()) for stage in line.stages})
    known: dict[tuple[Part, tuple[tuple[str, Part], ...]], int] = {}
    stages = []
    for begin, end in zip(begins, [*begins[1:], steps], strict=True):
        beside = tuple((place, line.conditions[line.at(begin).parts[0][0]]) for place, line in others.items())
        parts = [
            (known.setdefault((main.conditions[index], beside), len(known)), weight)
            for index, weight in main.at(begin).parts
        ]
        stages.append(Stage(begin, end, tuple(parts)))
    prompts = tuple(replace(prompt, text=bare(part), part=part, apart=beside) for part, beside in known)
    adapters = (adapter.name for each in (parsed, *beside_it.values()) for adapter in each.adapters)
    return Told(prompts, tuple(stages), tuple(dict.fromkeys(adapters)))


def scripted(branches: Branches, avoid: Cond, grid: Sequence[Level]) -> Branches:
    """``branches`` that also answer for Scripts on a walk of ``grid``; ``avoid`` is what the negative prompt says.

    A sum of conditions p_i with weights w_i is answered by ``u + sum_i w_i (p_i - u)``, u being the answer for
    ``avoid``: guided with the scale w this is the conjunction of Liu et al. 2022, equation 11 (guidance.composed), and
    every other way of guidance takes it for the branch that is wanted.
    """
    ratios = [_ratio(level) for level in grid]

    # Scripts are resolved once a stage: one object a condition, so that one that several ask for is evaluated once.
    kept: dict[tuple[Cond, int], list[tuple[Cond, float]]] = {}

    def parts_of(cond: Cond, step: int) -> list[tuple[Cond, float]]:
        if not isinstance(cond, Script):
            return [(cond, 1.0)]
        number = next(n for n, stage in enumerate(cond.stages) if stage.begin <= step < stage.end)
        if (cond, number) not in kept:
            parts = cond.at(step)
            rest = 1 - math.fsum(weight for _, weight in parts)
            if abs(rest) > 1e-12 and cond is not avoid:
                parts += [(other, rest * weight) for other, weight in parts_of(avoid, step)]
            kept[cond, number] = parts
        return kept[cond, number]

    async def answered(x: Vector, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
        step = step_of(ratios, _ratio(at))
        sums = [parts_of(cond, step) for cond in conds]
        asked = dict.fromkeys(cond for parts in sums for cond, _ in parts)
        answers = await branches(x, at, *asked)
        found = dict(zip(asked, answers, strict=True))
        return tuple(_sum([(found[cond], weight) for cond, weight in parts]) for parts in sums)

    return answered


def _sum(parts: Sequence[tuple[Estimate, float]]) -> Estimate:
    """The weighted sum; what a network says of the next step's noise is the first one's."""
    (first, weight), *others = parts
    if not others and weight == 1:
        return first
    total = weight * first
    for estimate, share in others:
        total = total + share * estimate
    return replace(total, learned=first.learned)


def _ratio(at: Level) -> float:
    """sigma / alpha, which falls along a walk."""
    return math.inf if at.alpha == 0 else float(at.sigma / at.alpha)
