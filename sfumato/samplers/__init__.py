"""How to walk a grid: one table of names; each sampler is a coroutine that awaits a denoiser."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sfumato.errors import UnknownName
from sfumato.process.spec import check_options, parse
from sfumato.samplers.ode import ODE
from sfumato.samplers.sampler import Sampler
from sfumato.samplers.sde import SDE

SAMPLERS: dict[str, Sampler] = {s.name: s for s in sorted((*ODE, *SDE), key=lambda s: s.name)}
"""Every sampler by name."""


def sampler(text: str) -> Sampler:
    """The sampler called ``text`` (or by an alias), with options where it has some: ``"edm(churn=40)"``.

    Raises UnknownName with the nearest names for a name or an option that does not exist.
    """
    name, options = parse(text, "sampler")
    for entry in SAMPLERS.values():
        if name == entry.name or name in entry.aliases:
            if not options:
                return entry
            check_options(entry.name, entry.walk, options)
            return replace(entry, walk=partial(entry.walk, **options))
    raise UnknownName("sampler", name, [*SAMPLERS, *(a for s in SAMPLERS.values() for a in s.aliases)])


__all__ = ["SAMPLERS", "Sampler", "sampler"]
