"""Adapters at work: several at once, merged into the weights or beside them, and gone again to the last bit.

Merged, a parameter's tensor is exchanged for a new one, ``W + sum_k s_k delta_k(W)``, computed in float32 and rounded
once; the old tensor is kept untouched and put back on removal, so that the weights are the same bits whatever came
between. That takes the memory of the touched parameters once more. Live, the weights stay and each touched layer gets a
hook of its own that adds to its output (see ``live.py``): less memory for low ranks, exact in low precision, and
able to act between two levels only. Every delta is of the original weight, so the order of adapters does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sfumato.adapters.live import Gate, Share, attach, is_plain
from sfumato.adapters.names import Network, gather, scatter, split
from sfumato.adapters.place import Networks, Placed, Strength, Update, place
from sfumato.adapters.read import Adapter
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.nn.residual import Adding
from sfumato.weights.reading import is_finite

Chosen = Sequence[tuple[Adapter, float | Strength]]

KNOWN = 16
"""Adapters whose places are remembered."""

_ADAPTED: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class _Act:
    """An update of one parameter of ours, with its factor there."""

    update: Update
    factor: float
    strength: Strength


class Applied:
    """Adapters that act on the networks of a model, until ``remove`` or the end of a ``with``.

    ``placed`` says what found its place, ``notes`` what a person should know. ``switch`` exchanges the adapters for
    others. Neither may be called while the networks compute.
    """

    def __init__(
        self, networks: Networks, *, merged: bool, partial: bool, denoiser: nn.Module | None
    ) -> None:
        """Nothing acts yet; use ``apply``."""
        self.networks, self.merged, self.partial, self.denoiser = networks, merged, partial, denoiser
        self.placed: tuple[Placed, ...] = ()
        self._originals: list[tuple[nn.Parameter, Tensor]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._known: dict[tuple[Adapter, bool], Placed] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be told of the adapters: zero updates, keys that were left out."""
        return tuple(note for each in self.placed for note in each.notes)

    @property
    def bytes(self) -> int:
        """Memory that the kept original tensors take, beside the weights in use."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self._originals)

    def switch(self, adapters: Chosen) -> Self:
        """Let ``adapters`` act in the place of those that do.

        What can be wrong with them is found before anything is changed; see ``apply`` for the errors.
        """
        touched = {where for adapter, _ in adapters for layer in adapter.layers for where in layer.places}
        for where, network in self.networks.items():
            if where in touched and any(isinstance(part, Adding) for part in network.layers.values()):
                raise InvalidRequest(
                    f"the network {where!r} is packed: adapt the plain network (a checkpoint loaded without packed)"
                )
        placed, acts = _choose([self._place(adapter) for adapter, _ in adapters], adapters)
        self._check(acts)
        self.remove()
        modules = {network.module for network in self.networks.values()}
        if busy := [name for name, network in self.networks.items() if network.module in _ADAPTED]:
            raise InvalidRequest(
                f"other adapters act on {', '.join(busy)}: remove them first, or switch them"
            )
        with torch.inference_mode(False), torch.no_grad():
            try:
                self._act(acts)
            except BaseException:
                self.remove()
                raise
        _ADAPTED.update(modules)
        self.placed = placed
        return self

    def remove(self) -> None:
        """Put the networks back as they were, bit for bit; what is not there is not removed."""
        for handle in self._handles:
            handle.remove()
        for parameter, original in self._originals:
            parameter.data = original
        if self.placed:
            for network in self.networks.values():
                _ADAPTED.discard(network.module)
        self._handles, self._originals, self.placed = [], [], ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self.remove()

    def _place(self, adapter: Adapter) -> Placed:
        """Where ``adapter`` lies, found once for the last few of them."""
        known = self._known.pop((adapter, self.partial), None)
        found = known or place(adapter, self.networks, partial=self.partial)
        self._known[adapter, self.partial] = found
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return found

    def _beside(self, where: str, name: str) -> bool:
        """Whether the update of a parameter acts beside the weights: live, and on a layer that allows it."""
        owner, _ = split(name)
        return not self.merged and is_plain(self.networks[where].layers[owner])

    def _check(self, acts: dict[tuple[str, str], list[_Act]]) -> None:
        """Refuse what cannot be done, before anything is."""
        bound = [
            key
            for key, found in acts.items()
            if not all(a.strength.always for a in found) and not self._beside(*key)
        ]
        if bound:
            how = "adapters that are merged act" if self.merged else f"an update of {'.'.join(bound[0])} acts"
            raise InvalidRequest(
                f"{how} at every level: lo and hi are for live adapters of linear maps and kernels"
            )
        timed = any(not act.strength.always for found in acts.values() for act in found)
        if timed and self.denoiser is None:
            raise InvalidRequest("an adapter between two levels needs the denoiser, which is told the level")
        if texts := [
            key[0]
            for key, found in acts.items()
            if key[0] != "denoiser" and any(not a.strength.always for a in found)
        ]:
            raise InvalidRequest(
                f"the network {texts[0]!r} knows no level, so an adapter that changes it cannot act between two: "
                "give it the strength 0 there (text=0)"
            )

    def _act(self, acts: dict[tuple[str, str], list[_Act]]) -> None:
        """Compute all new tensors, then exchange them and attach what acts beside the weights."""
        exchanged: list[tuple[nn.Parameter, Tensor]] = []
        gate = Gate()
        for (where, name), found in acts.items():
            network = self.networks[where]
            if not self._beside(where, name):
                exchanged.append((network.parameter(name), self._merge(where, name, found)))
                continue
            owner, kind = split(name)
            shares = [
                Share(act.update.formula, act.update.spot, act.factor, act.strength.lo, act.strength.hi)
                for act in found
            ]
            self._handles.append(attach(network, owner, kind, shares, gate))
        if self.denoiser is not None and any(
            not act.strength.always for found in acts.values() for act in found
        ):
            self._handles += gate.watch(self.denoiser)
        for parameter, value in exchanged:
            self._originals.append((parameter, parameter.data))
            parameter.data = value

    def _merge(self, where: str, name: str, acts: Iterable[_Act]) -> Tensor:
        """The parameter ``name`` with all its updates."""
        network = self.networks[where]
        new = _sum(network, name, acts).to(network.parameter(name).dtype)
        check_held(new, where, name)
        return new


class Merging:
    """Adapters in weights that are read one by one: ``value`` is each changed parameter of ours, float32.

    ``changed`` are their names by place, ``placed`` says where the adapters lie.
    """

    def __init__(self, networks: Networks, adapters: Chosen, *, partial: bool = False) -> None:
        """Find all places; the errors are those of ``apply``, and InvalidRequest for strengths between two levels."""
        found = [place(adapter, networks, partial=partial) for adapter, _ in adapters]
        self.networks = networks
        self.placed, self._acts = _choose(found, adapters)
        if any(not act.strength.always for acts in self._acts.values() for act in acts):
            raise InvalidRequest("adapters that are merged act at every level: leave lo and hi out")
        self.changed: dict[str, tuple[str, ...]] = {}
        for where, name in self._acts:
            self.changed[where] = (*self.changed.get(where, ()), name)

    def value(self, where: str, name: str) -> Tensor:
        """The parameter ``name`` of the network at ``where`` with all its updates, not yet rounded."""
        with torch.no_grad():
            return _sum(self.networks[where], name, self._acts[where, name])


def _sum(network: Network, name: str, acts: Iterable[_Act]) -> Tensor:
    """The parameter ``name`` with all its updates, float32."""
    old = network.parameter(name).detach()
    total = old.float()
    total = total.clone(memory_format=torch.preserve_format) if total is old else total
    for act in acts:
        spot = act.update.spot
        scatter(spot, act.update.formula.delta(gather(spot, network)), name, total, act.factor)
    return total


def check_held(values: Tensor, where: str, name: str) -> None:
    """Refuse merged ``values`` that their dtype cannot hold."""
    if not is_finite(values):
        raise WeightsError(
            f"{where}.{name} with its adapters has values beyond {values.dtype}: lower the strength"
        )


def apply(
    networks: Networks,
    adapters: Chosen,
    *,
    merged: bool = False,
    partial: bool = False,
    denoiser: nn.Module | None = None,
) -> Applied:
    """Let ``adapters`` act on ``networks``, each with its strength (a number or a Strength), until they are removed.

    ``merged`` puts them into the weights, otherwise they act beside them. ``denoiser`` is what is called with
    ``(x, level, condition)``; strengths between two levels need it. WeightsError names the layers that find no place
    (``partial`` leaves them out and reports them); InvalidRequest for strengths that cannot be, for patterns of blocks
    that match nothing, and where adapters act already.
    """
    return Applied(networks, merged=merged, partial=partial, denoiser=denoiser).switch(adapters)


def _choose(
    placed: Sequence[Placed], adapters: Chosen
) -> tuple[tuple[Placed, ...], dict[tuple[str, str], list[_Act]]]:
    """The adapters' places again, and for each touched parameter (place, name) what acts on it, with its factor."""
    acts: dict[tuple[str, str], list[_Act]] = {}
    for each, (_, given) in zip(placed, adapters, strict=True):
        strength = given if isinstance(given, Strength) else Strength(value=float(given))
        used = set()
        for update in each.updates:
            for name in update.names:
                factor = strength.at(update.place)
                hits = [
                    pattern for pattern in strength.blocks if fnmatchcase(f"{update.place}.{name}", pattern)
                ]
                used.update(hits)
                if hits:
                    factor *= strength.blocks[hits[-1]]
                if factor and not update.formula.zero:
                    acts.setdefault((update.place, name), []).append(_Act(update, factor, strength))
        if unused := [pattern for pattern in strength.blocks if pattern not in used]:
            raise InvalidRequest(
                f"the pattern {unused[0]!r} matches no block that {each.adapter.path.name} changes; "
                f"one of them is {each.updates[0].place}.{each.updates[0].names[0]}"
            )
    return tuple(placed), acts
