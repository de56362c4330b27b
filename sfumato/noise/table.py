"""The noises by name, for choice as text: ``"stream"``, ``"brownian"``, ``"cuda(multiprocessors=82)"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.noise.batch import Card, CudaBatch, CudaRows, TorchBatch
from sfumato.noise.brownian import Brownian
from sfumato.noise.stream import Noise, Stream, checked_seeds
from sfumato.process.spec import check_options, parse

Make = Callable[..., Noise]
"""``make(seeds, shape, dtype, *, options)``."""


@dataclass(frozen=True, kw_only=True)
class NoiseKind:
    """A named noise: how it is made and what there is to know of it.

    ``equals`` says in words what draws the same numbers. ``by_row`` noise gives row k of a batch by its own seed
    alone; other noise depends on the first seed and the size of the batch, and row k of it cannot be made again
    by itself. ``cite`` are keys of sfumato.references.
    """

    name: str
    make: Make
    equals: str
    by_row: bool
    cite: tuple[str, ...] = ()


def stream(seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype) -> Stream:
    """One CPU generator for each of ``seeds``."""
    return Stream(seeds, shape, dtype)


def brownian(seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype) -> Brownian:
    """One Brownian path for each of ``seeds``."""
    return Brownian(seeds, shape, dtype)


def torch_batch(seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype) -> TorchBatch:
    """One CPU generator, seeded by the first of ``seeds``; InvalidRequest where they do not count on by one."""
    return TorchBatch(_first(seeds, "torch"), len(seeds), shape, dtype)


def cuda_batch(
    seeds: Sequence[int],
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    multiprocessors: int = 0,
    threads: int = 0,
) -> CudaBatch:
    """One CUDA generator, seeded by the first of ``seeds``, on a card of so many ``multiprocessors``.

    Each holds so many ``threads``. Both 0 are no card; InvalidRequest where seeds do not count on by one.
    """
    card = _card(multiprocessors, threads)
    return CudaBatch(_first(seeds, "cuda"), len(seeds), shape, dtype, card=card)


def cuda_rows(
    seeds: Sequence[int],
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    multiprocessors: int = 0,
    threads: int = 0,
) -> CudaRows:
    """One CUDA generator for each of ``seeds``, on a card named as for ``cuda_batch``."""
    return CudaRows(seeds, shape, dtype, card=_card(multiprocessors, threads))


NOISES: dict[str, NoiseKind] = {
    entry.name: entry
    for entry in (
        NoiseKind(
            name="stream",
            make=stream,
            equals="a list of torch CPU generators, one a picture",
            by_row=True,
        ),
        NoiseKind(
            name="brownian",
            make=brownian,
            equals="no other program; it begins as stream does",
            by_row=True,
            cite=("li2020scalable",),
        ),
        NoiseKind(
            name="torch",
            make=torch_batch,
            equals="one torch CPU generator for the whole batch",
            by_row=False,
        ),
        NoiseKind(
            name="cuda",
            make=cuda_batch,
            equals="one torch CUDA generator for the whole batch, to about 1e-6",
            by_row=False,
            cite=("salmon2011random",),
        ),
        NoiseKind(
            name="cuda_rows",
            make=cuda_rows,
            equals="a list of torch CUDA generators, one a picture, to about 1e-6",
            by_row=True,
            cite=("salmon2011random",),
        ),
    )
}
"""Every noise by name."""


def noise(text: str, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Noise:
    """The noise called ``text``, with options where it has some: ``"cuda(multiprocessors=82, threads=1536)"``.

    Rows of ``shape``, one for each of ``seeds``. UnknownName with the nearest names for a name or an option that
    does not exist; InvalidRequest for bad seeds, and for seeds that do not count on by one where one generator
    makes the whole batch.
    """
    name, options = parse(text, "noise")
    if name not in NOISES:
        raise UnknownName("noise", name, NOISES)
    make = NOISES[name].make
    check_options(name, make, options)
    return make(seeds, shape, dtype, **options)


def _first(seeds: Sequence[int], name: str) -> int:
    checked = checked_seeds(seeds)
    if checked != tuple(range(checked[0], checked[0] + len(checked))):
        raise InvalidRequest(
            f"the noise {name!r} has one seed for the whole batch, so seeds must count on from the first by one, "
            f"and {list(checked[:4])}{'...' if len(checked) > 4 else ''} do not: use 'stream', or make the "
            f"pictures one by one"
        )
    return checked[0]


def _card(multiprocessors: int, threads: int) -> Card | None:
    return (multiprocessors, threads) if multiprocessors or threads else None
