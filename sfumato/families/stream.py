"""Tensors on their way from one file to another: read when they are written, one group at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import Part
from sfumato.nn.clip import ClipConfig
from sfumato.weights.links import Link, Shape, links, prove
from sfumato.weights.load import check_shapes, fill, hollow, joined_dtype
from sfumato.weights.reading import is_finite
from sfumato.weights.save import Stored, Writable, stored_link
from sfumato.weights.source import Source

HALF_MOST = 65504.0  # the largest float16


@dataclass(frozen=True)
class Streamed:
    """A tensor of the new file; ``load`` reads what it is made of when it is written."""

    dtype: torch.dtype
    shape: Shape
    load: Callable[[], Writable]

    @property
    def bytes(self) -> int:
        """How many bytes it takes in the file."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize

    def write(self, file: BinaryIO) -> None:
        """Read the values and write them."""
        self.load().write(file)


Changes = Mapping[str, Callable[[], Tensor]]
"""New values of parameters of ours, float32, by name: made when they are written."""


def stream(
    part: Part, layout: str, dtype: torch.dtype | None = None, changes: Changes | None = None
) -> tuple[dict[str, Writable], set[str]]:
    """The tensors of ``part`` in ``layout``, read when they are written, and the source's names they are made of.

    Parameters named in ``changes`` are written with the values that these make.
    """
    shapes, before, origin = _origin(part)
    tensors: dict[str, Writable] = {}
    for link in links(part.table, layout, shapes):
        tensors |= _streamed(link, origin, shapes, part.source, dtype, changes or {})
    return tensors, {name for link in before for name in link.theirs}


def reader(part: Part) -> Callable[[str], Tensor]:
    """Reads a parameter of ours of ``part`` by its name, in the dtype of the file."""
    shapes, _, origin = _origin(part)

    def read(name: str) -> Tensor:
        own = origin[name]
        stored = joined_dtype([part.source[each].torch_dtype for each in own.theirs])
        made = [torch.empty(shapes[each], dtype=stored) for each in own.ours]
        fill(own, made, part.source)
        return made[own.ours.index(name)]

    return read


def _origin(part: Part) -> tuple[dict[str, Shape], list[Link], dict[str, Link]]:
    """The shapes of the parameters of ``part``, the links of its file, and each parameter's own."""
    table = part.table
    shapes = {name: tuple(tensor.shape) for name, tensor in hollow(part.make).state_dict().items()}
    before = links(table, part.layout, shapes)
    prove(table, part.layout, before, part.source.entries.keys())
    check_shapes(before, shapes, part.source)
    return shapes, before, {name: link for link in before for name in link.ours}


def _streamed(
    link: Link,
    origin: Mapping[str, Link],
    shapes: Mapping[str, Shape],
    source: Source,
    dtype: torch.dtype | None,
    changes: Changes,
) -> dict[str, Writable]:
    """The tensors of one link of the new layout; all of them are read when the first is written."""
    stored = joined_dtype([source[name].torch_dtype for ours in link.ours for name in origin[ours].theirs])
    kind = dtype if dtype is not None and stored.is_floating_point else stored
    wanted = link.their_shapes([shapes[name] for name in link.ours])
    held: dict[str, Writable] = {}

    def load(name: str) -> Writable:
        if not held:
            held.update(_read(link, origin, shapes, source, stored, kind, changes))
        return held.pop(name)  # what is written is not held

    return {
        name: Streamed(kind, shape, lambda name=name: load(name))  # type: ignore[misc]
        for name, shape in zip(link.theirs, wanted, strict=True)
    }


def _read(
    link: Link,
    origin: Mapping[str, Link],
    shapes: Mapping[str, Shape],
    source: Source,
    stored: torch.dtype,
    kind: torch.dtype,
    changes: Changes,
) -> Mapping[str, Writable]:
    """The tensors of ``link``, their values read, or made by ``changes``."""
    values: dict[str, Tensor] = {}
    for name in link.ours:
        if name not in values:
            own = origin[name]
            made = [torch.empty(shapes[each], dtype=stored) for each in own.ours]
            fill(own, made, source)
            values |= dict(zip(own.ours, made, strict=True))
    for name in [name for name in link.ours if name in changes]:
        values[name] = changes[name]().to(kind)
        if not is_finite(values[name]):
            raise WeightsError(f"{name} with its adapters has values beyond {kind}: lower the strength")
    tensors = [values[name] for name in link.ours]
    if kind == torch.float16 and stored.itemsize > 1:
        for name, tensor in zip(link.theirs, tensors, strict=False):
            low, high = tensor.aminmax() if tensor.numel() else (tensor.new_zeros(()),) * 2
            if max(-float(low), float(high)) > HALF_MOST:
                raise WeightsError(
                    f"{name} has values above {HALF_MOST:,.0f}, which float16 cannot hold; use bfloat16"
                )
    return stored_link(link, tensors, kind)


def as_it_is(source: Source, name: str) -> Writable:
    """The tensor ``name`` of ``source``, in its own dtype."""
    entry = source[name]

    def load() -> Writable:
        tensor = source.read(name)
        return Stored(tensor.dtype, entry.shape, ((tensor, 0, tensor.numel()),))

    return Streamed(entry.torch_dtype, entry.shape, load)


def without_last(part: Part) -> Part:
    """Stable Diffusion 2's text encoder as folders have it: without its last block and its projection."""
    config = replace(part.config, layers=part.config.layers - 1, projection=0)
    unread = ("text_projection", f"transformer.resblocks.{config.layers}.")
    entries = {name: e for name, e in part.source.entries.items() if not name.startswith(unread)}
    return replace(part, config=config, source=replace(part.source, entries=entries))


def last_block(
    tensors: dict[str, Writable],
    config: ClipConfig,
    prefix: str,
    kept: Mapping[str, Writable],
    dtype: torch.dtype | None,
) -> list[str]:
    """A last block for Stable Diffusion 2's text encoder, which folders leave out, unless it was kept."""
    begin = f"{prefix}transformer.resblocks."
    if any(name.startswith(f"{begin}{config.layers}.") for name in kept):
        return []
    like = f"{begin}{config.layers - 1}."
    for name in [name for name in tensors if name.startswith(like)]:
        shape, kind = tensors[name].shape, tensors[name].dtype
        zeros = torch.zeros((), dtype=kind).expand(shape)
        tensors[f"{begin}{config.layers}.{name.removeprefix(like)}"] = Stored(
            kind, shape, ((zeros, 0, zeros.numel()),)
        )
    return [
        f"the text encoder's block {config.layers} is written as zeros: folders leave it out, programs that read "
        "the original layout expect it, and nothing that it gives is read"
    ]
