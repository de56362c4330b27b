"""The layers of an adapter in the networks of a model: each finds exactly one place, or the adapter is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sfumato.adapters.formula import Formula, bare, fits
from sfumato.adapters.names import Network, Spot, joined
from sfumato.adapters.read import PARTIAL, Adapter, Layer, listed
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.nn.flux import Flux

Networks = Mapping[str, Network]
"""A model's networks by place: denoiser, text, text_2, text_3."""
LACKS = "the model has no"
WIDER = (
    "makes FLUX.1 read a map: give it with --adapter (adapters=[...]) when the model is loaded; it cannot be merged "
    "into files, and no prompt can name it"
)
"""What is told of an adapter with more columns in the first layer than a model has that was loaded without it."""
STRONGEST = 1e4
"""The largest strength, as that of a weight in a prompt."""


@dataclass(frozen=True, eq=False)
class Update:
    """One formula, and the rows of the network at ``place`` that it changes; ``layer`` is the file's name for them."""

    place: str
    spot: Spot
    formula: Formula
    layer: str

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of ours that it changes."""
        return tuple(dict.fromkeys(run.name for run in self.spot.runs))


@dataclass(frozen=True, eq=False)
class Placed:
    """An adapter with all its updates placed; ``missing`` are layers that found no place, each with the reason."""

    adapter: Adapter
    updates: tuple[Update, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
        if not self.missing:
            return self.adapter.notes
        told = f"{self.adapter.path.name} has layers without a place in this model: {listed(self.missing)}"
        return (*self.adapter.notes, told)


def place(adapter: Adapter, networks: Networks, *, partial: bool = False) -> Placed:
    """The updates of ``adapter`` in ``networks``.

    WeightsError names every layer (the first ten) that finds no place, with the reason: no such layer, no such network,
    another shape. With ``partial`` these are left out and listed in the result, if any layer finds a place at all.
    """
    updates: list[Update] = []
    missing: dict[str, str] = {}
    taken: dict[tuple[str, str], str] = {}
    for layer in adapter.layers:
        found = _find(layer, networks)
        if isinstance(found, str):
            missing[layer.name] = found
            continue
        twice = [taken[key] for each in found if (key := (each.place, each.spot.name)) in taken]
        if twice:
            missing[layer.name] = f"it lies where {twice[0]} does"
            continue
        taken |= {(each.place, each.spot.name): layer.name for each in found}
        updates += found
    if missing and (not partial or not updates):
        raise WeightsError(_refused(adapter, networks, missing, bool(updates)))
    return Placed(adapter, tuple(updates), missing)


def _refused(adapter: Adapter, networks: Networks, missing: Mapping[str, str], some: bool) -> str:
    """Why ``adapter``, of which ``some`` layers find a place, does not act."""
    if WIDER in missing.values():
        return f"the adapter {adapter.path} {WIDER}"
    total, here = len(adapter.layers), ", ".join(networks)
    if some:
        return (
            f"{len(missing):,} of {total:,} layers of the adapter {adapter.path} find no place in this model ({here}); "
            f"{PARTIAL} leaves them out: {listed(missing)}"
        )
    lacks = all(reason.startswith(LACKS) for reason in missing.values())
    verdict = "is for networks that this model does not have" if lacks else "is made for another family"
    return (
        f"the adapter {adapter.path} {verdict}: of its {total:,} layers none finds a place in this model ({here}): "
        f"{listed(missing, 3)}"
    )


def _find(layer: Layer, networks: Networks) -> list[Update] | str:
    """The updates of ``layer`` in the first network that has it in its shape; or why there is none."""
    places = [where for where in layer.places if where in networks]
    if not places:
        return f"{LACKS} {' or '.join(layer.places)}"
    reason = "no such layer"
    for where in places:
        for names in layer.names:
            spots: dict[str, Spot] = {}
            for kind in layer.formulas:
                parts = [networks[where].index.find(name, kind) for name in names]
                whole = [part for part in parts if part is not None]
                if len(whole) == len(parts):
                    spots[kind] = whole[0] if len(whole) == 1 else joined(whole)
            if not spots:
                continue
            if absent := layer.formulas.keys() - spots.keys():
                reason = f"the layer has no {' and '.join(sorted(absent))}"
                continue
            wrong = [kind for kind, spot in spots.items() if not _fits(layer.formulas[kind], spot)]
            if not wrong:
                return [Update(where, spot, layer.formulas[kind], layer.name) for kind, spot in spots.items()]
            made, wanted = layer.formulas[wrong[0]].shape(), spots[wrong[0]].shape
            if _widens(made, spots[wrong[0]], networks[where]):
                return WIDER
            reason = f"it changes a {wrong[0]} of shape {made}, the model's is {wanted}"
    return reason


def _widens(made: tuple[int, ...], spot: Spot, network: Network) -> bool:
    """Whether an update of the shape ``made`` is of the first layer of FLUX.1 with the columns of a map."""
    net = network.module
    if not isinstance(net, Flux) or {run.name for run in spot.runs} != {"enter.weight"}:
        return False
    return len(made) == 2 and made[0] == spot.shape[0] and made[1] > spot.shape[1]


def _fits(formula: Formula, spot: Spot) -> bool:
    """Whether ``formula`` has the shape of ``spot``, which may be a matrix in a file and a convolution there."""
    return fits(formula, spot.shape) or bare(formula.shape()) == bare(spot.shape)


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strongly an adapter acts: ``value``, ``text`` on text encoders, times a factor by block, between two levels.

    ``blocks`` maps patterns over ``place.parameter`` (our names; ``*`` for anything) to factors, of which the last
    that matches counts: ``{"text*": 0, "denoiser.middle.*": 0.5}``. The adapter acts where ``lo <= share <= hi``, with
    ``share = sigma / hypot(alpha, sigma)`` of the level, 0 without noise and 1 in pure noise. InvalidRequest for
    numbers outside of that.
    """

    value: float = 1.0
    text: float | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    lo: float = 0.0
    hi: float = 1.0

    def __post_init__(self) -> None:
        told = {"value": self.value, "text": self.value if self.text is None else self.text, **self.blocks}
        for name, number in told.items():
            if not abs(number) <= STRONGEST:
                raise InvalidRequest(
                    f"the strength {name} = {number:g} of an adapter is no finite number from {-STRONGEST:.0f} to "
                    f"{STRONGEST:.0f}"
                )
        if not 0 <= self.lo <= self.hi <= 1:
            raise InvalidRequest(
                f"lo = {self.lo:g} and hi = {self.hi:g} are not an interval of levels: 0 <= lo <= hi <= 1 is "
                f"allowed, in sigma / hypot(alpha, sigma)"
            )

    def at(self, place: str) -> float:
        """The strength in the network at ``place``."""
        return self.value if self.text is None or place == "denoiser" else self.text

    @property
    def always(self) -> bool:
        """Whether it acts at every level."""
        return self.lo == 0 and self.hi == 1
