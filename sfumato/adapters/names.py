"""Where a layer of an adapter lies in our network: its name in any layout, dotted or with underscores, to rows of ours.

Names come from the network's own key table. Each parameter of ours is looked up in every column, and each tensor found
there is indexed under its name and under the same with underscores for dots, as kohya's scripts write it: so no name is
ever split at underscores by guessing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sfumato.weights.keys import LAYOUTS, KeyTable
from sfumato.weights.links import Link, links, pieces

_KIND = re.compile(r"^(.+)[._](weight|bias)$")


@dataclass(frozen=True, slots=True)
class Run:
    """Rows ``first`` to ``first + count`` of a file's tensor are rows from ``row`` on of our parameter ``name``."""

    name: str
    row: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Spot:
    """A tensor of a layout as rows of our parameters: its full name, its shape there, and the runs that make it.

    ``transposed``: the file's matrix is the transpose of ours, and the one run counts nothing.
    """

    layout: str
    name: str
    shape: tuple[int, ...]
    runs: tuple[Run, ...]
    transposed: bool = False

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(run.count for run in self.runs)


@dataclass(frozen=True, eq=False)
class Network:
    """A network that adapters may change, and the table of its names; ``index`` is made once, when it is needed."""

    module: nn.Module
    table: KeyTable

    @cached_property
    def index(self) -> Index:
        """Where names lie."""
        return Index.of(self.module, self.table)

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """The modules by name, looked up once: adapters are switched many times."""
        return dict(self.module.named_modules())

    def parameter(self, name: str) -> nn.Parameter:
        """Our parameter ``name``; AttributeError if there is none."""
        owner, _, leaf = name.rpartition(".")
        found = self.layers[owner]._parameters.get(leaf)
        if found is None:
            raise AttributeError(f"the network has no parameter {name!r}")
        return found


@dataclass(frozen=True, eq=False)
class Index:
    """Spots by layout ("ours" too) and full name, and by the name of their module, dotted or underscored, and kind.

    Where a name stands in several layouts diffusers' goes first, then the authors', then ours.
    """

    spots: dict[str, dict[str, Spot]]
    modules: dict[str, dict[str, Spot]] = field(repr=False)

    @classmethod
    def of(cls, module: nn.Module, table: KeyTable) -> Index:
        """The index of the parameters of ``module``."""
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        spots: dict[str, dict[str, Spot]] = {}
        for layout in reversed(LAYOUTS):
            found = links(table, layout, _known(table, layout, shapes))
            spots[layout] = {spot.name: spot for link in found for spot in _spots(layout, link, shapes)}
        whole = {name: Run(name, 0, 0, shape[0] if shape else 1) for name, shape in shapes.items()}
        spots["ours"] = {name: Spot("ours", name, shapes[name], (run,)) for name, run in whole.items()}
        modules: dict[str, dict[str, Spot]] = {}
        for layout in (*reversed(LAYOUTS), "ours"):
            for name, spot in spots[layout].items():
                owner, kind = split(name)
                for spelled in dict.fromkeys((owner, owner.replace(".", "_"))):
                    modules.setdefault(spelled, {}).setdefault(kind, spot)
        return cls(spots, modules)

    def find(self, owner: str, kind: str = "weight") -> Spot | None:
        """The spot of the ``kind`` ("weight", "bias") of the module ``owner``, however it is spelled."""
        return self.modules.get(owner, {}).get(kind)


def split(name: str) -> tuple[str, str]:
    """The module that a tensor's full ``name`` belongs to, and what it is there: "weight" or "bias"."""
    found = _KIND.match(name)
    return (found[1], found[2]) if found else (name, "weight")


def _known(table: KeyTable, layout: str, names: Iterable[str]) -> Iterator[str]:
    """Those of our ``names`` that ``layout`` has; networks without a table of that layout have none."""
    for name in names:
        hit = table.find("ours", name)
        if hit is not None and hit[0].column(layout) is not None:
            yield name


def _spots(layout: str, link: Link, shapes: dict[str, tuple[int, ...]]) -> Iterator[Spot]:
    """The tensors of a link as spots."""
    own = [shapes[name] for name in link.ours]
    theirs = link.their_shapes(own)
    if link.transposed and len(own[0]) == 2:
        yield Spot(layout, link.theirs[0], theirs[0], (Run(link.ours[0], 0, 0, own[0][0]),), True)
        return
    runs: list[list[Run]] = [[] for _ in theirs]
    heights = [shape[0] if shape else 1 for shape in own], [shape[0] if shape else 1 for shape in theirs]
    for which, first, mine, row, count in pieces(link, *heights):
        runs[which].append(Run(link.ours[mine], row, first, count))
    for name, shape, own_runs in zip(link.theirs, theirs, runs, strict=True):
        yield Spot(layout, name, shape, tuple(own_runs))


def joined(spots: Iterable[Spot]) -> Spot:
    """Several tensors of a layout as one, along dimension 0 (an adapter's name for queries, keys and values)."""
    parts = list(spots)
    runs: list[Run] = []
    at = 0
    for part in parts:
        runs += [Run(run.name, run.row, at + run.first, run.count) for run in part.runs]
        at += part.rows
    return Spot(parts[0].layout, "+".join(p.name for p in parts), (at, *parts[0].shape[1:]), tuple(runs))


def gather(spot: Spot, network: Network) -> Tensor:
    """The values of ``spot`` as the file would have them, float32."""
    if spot.transposed:
        return network.parameter(spot.runs[0].name).detach().float().T
    if len(spot.runs) == 1 and spot.runs[0].count == len(network.parameter(spot.runs[0].name)):
        return network.parameter(spot.runs[0].name).detach().float().reshape(spot.shape)
    parts = [network.parameter(run.name).detach()[run.row : run.row + run.count].float() for run in spot.runs]
    return torch.cat(parts).reshape(spot.shape)


def scatter(spot: Spot, values: Tensor, name: str, target: Tensor, factor: float) -> None:
    """Add what ``values``, of the shape of ``spot``, say of our parameter ``name`` to ``target``, its tensor."""
    for run in spot.runs:
        if run.name != name:
            continue
        piece = values.T if spot.transposed else values[run.first : run.first + run.count]
        own = target[run.row : run.row + run.count]
        own.add_(piece.reshape(own.shape), alpha=factor)
