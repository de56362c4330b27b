"""When a prompt says what: the conditions of a walk of so many steps, and the steps that each holds for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.dialects import parts_at
from sfumato.text.prompt.parts import Parsed, Part
from sfumato.text.prompt.templates import changes


@dataclass(frozen=True, slots=True)
class Stage:
    """What holds from step ``begin`` up to, and not with, step ``end``: conditions by their ``index``, with weights."""

    begin: int
    end: int
    parts: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A prompt over a walk: its distinct ``conditions`` (Parts of weight 1), and ``stages`` that fill all steps."""

    conditions: tuple[Part, ...]
    stages: tuple[Stage, ...]

    def at(self, step: int) -> Stage:
        """The stage of ``step``."""
        return next(stage for stage in self.stages if stage.begin <= step < stage.end)


def at_step(parsed: Parsed, step: int, steps: int) -> tuple[Part, ...]:
    """The parts of ``parsed`` at ``step``, 0 to ``steps - 1``. InvalidRequest for a step outside."""
    if not 0 <= step < steps:
        raise InvalidRequest(f"step = {step} is outside what is allowed: 0 to {steps - 1}")
    return parts_at(parsed, step, steps)


def timeline(parsed: Parsed, steps: int) -> Timeline:
    """All that ``parsed`` says in ``steps`` steps. Equal conditions are one, so that each is encoded once.

    A condition holds in its steps from the first evaluation to the last, whatever the sampler does between.
    """
    if steps < 1:
        raise InvalidRequest(f"steps = {steps} is too few; a walk has at least 1")
    cuts = {step for part in parsed.parts for step in changes(part.template, steps)}
    begins = [0, *sorted(cuts)]
    known: dict[Part, int] = {}
    stages: list[Stage] = []
    for begin, end in zip(begins, [*begins[1:], steps], strict=True):
        told = []
        for part in parts_at(parsed, begin, steps):
            place = known.setdefault(Part(part.words), len(known))
            told.append((place, part.weight))
        if stages and stages[-1].parts == tuple(told):
            begin = stages.pop().begin
        stages.append(Stage(begin, end, tuple(told)))
    return Timeline(tuple(known), tuple(stages))


def step_of(levels: Sequence[float], level: float) -> int:
    """The step that an evaluation at ``level`` belongs to, by the levels' falling ratios sigma / alpha.

    Step k begins at ``levels[k]`` and ends above ``levels[k + 1]``; what lies above the first level is step 0, what
    lies at or below the last one is the last step.
    """
    reached = bisect_left([-one for one in levels], -level)
    inside = reached if reached < len(levels) and levels[reached] == level else reached - 1
    return min(max(inside, 0), len(levels) - 2)
