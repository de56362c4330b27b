"""How a network is to work in a call, where that is not as usual: a value that travels with the condition.

Nothing is patched and no hook is set: layers read the value as an argument, and rows whose values differ are answered
in calls of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sfumato.errors import InvalidRequest

NONE: frozenset[int] = frozenset()

FLAT = 9999.0
"""The ``blur`` from which on it is without limit: every query is the mean of all."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """What layers do otherwise; each set holds numbers of attention layers, counted in the order they are passed.

    ``identity``: every place of the picture sees itself alone among the picture (Ahn et al. 2024, PAG).
    ``smooth``: queries are blurred over the picture by a Gaussian of deviation ``blur`` places (Hong 2024, SEG).
    ``skip``: the layer hands on what it is given (skip-layer guidance of Stable Diffusion 3.5).
    ``share``: places also see those of a reference, the condition's ``exemplar`` (Hertz et al. 2024, StyleAligned);
    the reference's keys count ``weight`` times, without ``own`` they take the place of the picture's own, and with
    ``align`` queries and keys first get the reference's mean and deviation.
    ``wrap``: whether convolutions go on from the other edge, along the rows' axis and the columns' axis.
    """

    identity: frozenset[int] = NONE
    smooth: frozenset[int] = NONE
    blur: float = 1e6
    skip: frozenset[int] = NONE
    share: frozenset[int] = NONE
    weight: float = 1.0
    own: bool = True
    align: bool = True
    wrap: tuple[bool, bool] = (False, False)


def told(cond: Any, **changes: Any) -> Any:
    """The condition ``cond`` with ``changes`` in its manner."""
    return replace(cond, manner=replace(cond.manner or Manner(), **changes))


def chosen(layers: Sequence[str], wanted: str | float | Sequence[float]) -> frozenset[int]:
    """The numbers of the layers ``wanted`` of a network whose attention ``layers`` have these names, in order.

    A word is ``all``, ``middle`` (the layers of that name, or else the one in the middle) or a name such as ``down``; a
    number or a list of them counts from 0. InvalidRequest for what is not there, with what is.
    """
    if isinstance(wanted, str):
        found = frozenset(i for i, name in enumerate(layers) if wanted in ("all", name))
        if wanted == "middle" and not found and layers:
            found = frozenset({len(layers) // 2})
    else:
        numbers = [wanted] if isinstance(wanted, (int, float)) else list(wanted)
        fits = all(number in range(len(layers)) for number in numbers)
        found = frozenset(int(number) for number in numbers) if fits else NONE
    if not found:
        held = ", ".join(f"{count} {name}" for name, count in Counter(layers).items())
        names = ", ".join(["all", "middle", *(name for name in dict.fromkeys(layers) if name != "middle")])
        raise InvalidRequest(
            f"layers = {wanted!r} is not among this network's {len(layers)} attention layers ({held}): use "
            f"{names}, or numbers such as [{len(layers) // 2}], from 0 to {len(layers) - 1}"
        )
    return found
