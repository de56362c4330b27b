"""How to walk a grid: one table of names; each sampler is a coroutine that awaits a denoiser."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.spec import check_options, parse
from sfumato.samplers.ode import ODE
from sfumato.samplers.sampler import Sampler
from sfumato.samplers.sde import SDE

SAMPLERS: dict[str, Sampler] = {s.name: s for s in sorted((*ODE, *SDE), key=lambda s: s.name)}
"""Every sampler by name."""


def sampler(text: str) -> Sampler:
    """The sampler called ``text`` (or by an alias), with options where it has some: ``"edm(churn=40)"``.

    Names as other programs show them will do, ``"DPM++ 2M SDE"`` or ``"Euler a"``: case, blanks and underscores do not
    count. Raises UnknownName with the nearest names for a name or an option that does not exist, and InvalidRequest
    for a name that is a sampler's and a grid's together, ``"DPM++ 2M Karras"``.
    """
    blank, begins, rest = text.partition("(")
    name, options = parse("_".join(blank.split()) + begins + rest, "sampler")
    entry = _EXACT.get(name) or _FOLDED.get(_folded(name))
    if entry is not None:
        if not options:
            return entry
        check_options(entry.name, entry.walk, options)
        return replace(entry, walk=partial(entry.walk, **options))
    for grid in ("karras", "exponential"):
        begun = _FOLDED.get(_folded(name).removesuffix(grid))
        if begun is not None and _folded(name).endswith(grid):
            raise InvalidRequest(
                f"sampler = {text!r} names a grid too: use sampler = {begun.name!r} and grid = {grid!r}"
            )
    raise UnknownName("sampler", name, [*SAMPLERS, *(a for s in SAMPLERS.values() for a in s.aliases)])


def _folded(name: str) -> str:
    return name.lower().replace("_", "")


_EXACT = {name: entry for entry in SAMPLERS.values() for name in (*entry.aliases, entry.name)}
# Names come last: where folding makes an alias of one the name of another, the name counts.
_FOLDED = {_folded(name): _EXACT[name] for name in sorted(_EXACT, key=lambda name: name in SAMPLERS)}


__all__ = ["SAMPLERS", "Sampler", "sampler"]
