"""Weights to safetensors files in either layout, single or sharded, each whole or not at all.

Tensors are converted and written a few megabytes at a time, so that no second copy of a model is ever in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor, nn

from sfumato.errors import OutputError, WeightsError
from sfumato.files import write_atomic, write_bytes
from sfumato.weights.header import make_header
from sfumato.weights.keys import KeyTable
from sfumato.weights.links import Link, links, pieces
from sfumato.weights.reading import PIECE


class Writable(Protocol):
    """A tensor that can be written: its dtype and shape in the file, its bytes, and what writes them."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        ...

    @property
    def bytes(self) -> int:
        """How many bytes ``write`` writes."""
        ...

    def write(self, file: BinaryIO) -> None:
        """Write the values to ``file``."""
        ...


@dataclass(frozen=True)
class Stored:
    """A tensor as it will be written: dtype, shape, and the runs of values (tensor, first, count) it is made of."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    runs: tuple[tuple[Tensor, int, int], ...]

    @property
    def bytes(self) -> int:
        """How many bytes it takes in the file."""
        return sum(count for _, _, count in self.runs) * self.dtype.itemsize

    def write(self, file: BinaryIO) -> None:
        """Write the values to ``file``, converted piece by piece."""
        for tensor, first, count in self.runs:
            _write_values(file, tensor.reshape(-1)[first : first + count], self.dtype)


def save_module(
    path: str | Path,
    module: nn.Module,
    table: KeyTable,
    layout: str,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the weights of ``module`` to ``path`` in ``layout``; see save_tensors for the rest."""
    state = {name: tensor.detach() for name, tensor in _state(module)}
    stored: dict[str, Stored] = {}
    for link in links(table, layout, state):
        stored |= stored_link(link, [state[name] for name in link.ours], dtype)
    return write_all(Path(path), stored, shard_bytes, metadata or {})


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``tensors`` by their names to the safetensors file ``path``; return the file that opens them.

    ``dtype`` converts floating-point tensors. With ``shard_bytes`` and more bytes than that, shards
    ``<stem>-00001-of-0000N.safetensors`` and then the index ``<stem>.safetensors.index.json`` are written and the
    index returned; it alone makes the shards a set, and it is written last. ``metadata`` stands in every header.
    Raises OutputError if it cannot be written, WeightsError for a dtype that the format does not have.
    """
    stored = {name: _whole(tensor.detach(), dtype) for name, tensor in tensors.items()}
    return write_all(Path(path), stored, shard_bytes, metadata or {})


def save_component(
    folder: str | Path,
    module: nn.Module,
    table: KeyTable,
    config: Mapping[str, object],
    *,
    stem: str = "diffusion_pytorch_model",
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
) -> Path:
    """Write ``module`` as a component of a diffusers folder: weights in diffusers' layout, and ``config.json``.

    ``stem`` is "model" for text encoders. The folder is made if it is missing; returns it.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {place}: {error.strerror or error}") from error
    marks = {"format": "pt"}
    target = place / f"{stem}.safetensors"
    save_module(target, module, table, "diffusers", dtype=dtype, shard_bytes=shard_bytes, metadata=marks)
    write_bytes(place / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return place


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the module's state by name; one that is shared comes once, under its first name."""
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _kind(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype in which ``tensor`` is written."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _whole(tensor: Tensor, dtype: torch.dtype | None) -> Stored:
    """``tensor`` as it is."""
    return Stored(_kind(tensor, dtype), tuple(tensor.shape), ((tensor, 0, tensor.numel()),))


def stored_link(link: Link, tensors: Sequence[Tensor], dtype: torch.dtype | None) -> dict[str, Stored]:
    """The tensors of a file that hold our ``tensors``, by name."""
    kinds = {_kind(tensor, dtype) for tensor in tensors}
    if len(kinds) > 1:
        told = ", ".join(map(str, kinds))
        raise WeightsError(f"{', '.join(link.ours)} go to one tensor but are of {told}; give one dtype")
    shapes = link.their_shapes([tuple(tensor.shape) for tensor in tensors])
    if link.transposed and tensors[0].ndim == 2:
        return {link.theirs[0]: _whole(tensors[0].T, dtype)}
    runs: list[list[tuple[Tensor, int, int]]] = [[] for _ in shapes]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    for which, _, mine, at, count in pieces(link, [tensor.numel() for tensor in tensors], sizes):
        runs[which].append((tensors[mine], at, count))
    (kind,) = kinds
    parts = zip(link.theirs, shapes, runs, strict=True)
    return {name: Stored(kind, shape, tuple(own)) for name, shape, own in parts}


def write_all(
    path: Path, stored: Mapping[str, Writable], shard_bytes: int | None, metadata: Mapping[str, str]
) -> Path:
    """Write one file, or shards and their index, of tensors in the order of ``stored``; see save_tensors."""
    # Wide values first: then each tensor begins at a multiple of its itemsize, which mapping readers like.
    names = sorted(stored, key=lambda name: -stored[name].dtype.itemsize)
    shards: list[list[str]] = [[]]
    size = 0
    for name in names:
        if shard_bytes is not None and shards[-1] and size + stored[name].bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += stored[name].bytes
    if len(shards) == 1:
        return _write_file(path, {name: stored[name] for name in names}, metadata)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        part = path.with_name(f"{path.stem}-{number:05d}-of-{len(shards):05d}{path.suffix}")
        _write_file(part, {name: stored[name] for name in shard}, metadata)
        where |= dict.fromkeys(shard, part.name)
    total = sum(each.bytes for each in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return write_bytes(
        path.with_name(f"{path.name}.index.json"), json.dumps(index, indent=2).encode() + b"\n"
    )


def _write_file(path: Path, stored: Mapping[str, Writable], metadata: Mapping[str, str]) -> Path:
    """Write one safetensors file."""
    header = make_header({name: (each.dtype, each.shape) for name, each in stored.items()}, metadata)

    def write(file: BinaryIO) -> None:
        file.write(header)
        for each in stored.values():
            each.write(file)

    return write_atomic(path, write)


def _write_values(file: BinaryIO, values: Tensor, dtype: torch.dtype) -> None:
    """Write ``values`` (flat) in ``dtype``, piece by piece."""
    count = PIECE // dtype.itemsize
    for at in range(0, values.numel(), count):
        piece = values[at : at + count].to(device="cpu", dtype=dtype).contiguous()
        file.write(piece.view(torch.uint8).numpy().data)
