"""Adapters merged into a checkpoint's files: tensor by tensor on their way to the new file, no network is built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial as bound
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.adapters import Merging, Network, load_adapter
from sfumato.adapters.found import Use, digest
from sfumato.errors import InvalidRequest
from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.families.convert import Converted, convert
from sfumato.families.published import UNTOUCHED
from sfumato.families.stream import reader
from sfumato.weights.load import hollow
from sfumato.weights.source import Source

MARK = "sfumato.merged"
"""The name in a file's header of what was merged into it."""


@dataclass(frozen=True, eq=False)
class Read(Network):
    """A network in a file: its module has names and shapes alone, parameters are read when they are asked for."""

    read: Callable[[str], Tensor]

    def parameter(self, name: str) -> nn.Parameter:
        """Our parameter ``name``, read now."""
        return nn.Parameter(self.read(name), requires_grad=False)


def merge(
    source: Source,
    target: str | Path,
    layout: str,
    adapters: Sequence[Use],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    family: str | None = None,
    allow_pickle: bool = False,
) -> Converted:
    """``convert`` with ``adapters`` in the weights: ``W + sum_k s_k delta_k(W)`` in float32, rounded once when written.

    The header tells what was merged, after what was before. WeightsError names the layers of an adapter that find no
    place, before anything is written (``partial`` leaves them out); the others are those of ``convert``.
    """
    if not adapters:
        raise InvalidRequest("there is no adapter to merge")
    parts = {place: part for place, part in open_checkpoint(source).parts.items() if place not in UNTOUCHED}
    networks = {place: network_in(part) for place, part in parts.items()}
    read = [
        (load_adapter(one.path, partial=one.partial, allow_pickle=allow_pickle), one.strength)
        for one in adapters
    ]
    merging = Merging(networks, read, partial=any(one.partial for one in adapters))
    facts = [one.facts(digest(one.path, allow_pickle=allow_pickle)) for one in adapters]
    done = convert(
        source,
        target,
        layout,
        dtype=dtype,
        shard_bytes=shard_bytes,
        family=family,
        changes={
            place: {name: bound(merging.value, place, name) for name in names}
            for place, names in merging.changed.items()
        },
        metadata={MARK: json.dumps([*before(source), *facts])},
    )
    counts = ", ".join(f"{len(names):,} tensors of {place}" for place, names in merging.changed.items())
    told = [note for each in merging.placed for note in each.notes]
    told.append(f"merged {', '.join(one.name for one in adapters)} into {counts or 'no tensor'}")
    return replace(done, notes=(*told, *done.notes))


def network_in(part: Part) -> Read:
    """The network of ``part``, of which adapters change what is written."""
    return Read(hollow(part.make), part.table, reader(part))


def before(source: Source) -> list[Mapping[str, object]]:
    """What the headers of ``source`` say was merged into it before."""
    told = source.metadata.get(MARK) or next(
        (part.metadata[MARK] for part in source.parts.values() if MARK in part.metadata), "[]"
    )
    try:
        found = json.loads(told)
    except (ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
