"""Bytes of a file into tensors, converted on the way, a few megabytes at a time.

Files are read by position and not mapped. A mapped file that another process truncates kills the reader with
SIGBUS, and nothing can catch that; a positioned read comes back short, and that is an error with a name. Where
values are converted (an fp16 file computed in bf16) this is also the faster way, since each piece is converted
while the cache still has it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.header import Entry, File
from sfumato.weights.memory import page_in

_THREAD = threading.local()
HALVES = (torch.float16, torch.bfloat16)  # the conversion that most checkpoints need
RUN = 2**17  # values in float32 that stay in a core's second cache
PIECE = 2**21  # bytes: stays in the cache of a core, and is long enough that calls cost nothing


def read_into(name: str, entry: Entry, out: Tensor, *, first: int = 0, finite: bool = False) -> None:
    """Fill ``out`` (contiguous, any dtype and device) with values of ``entry``, from its value ``first`` on.

    Packed values are unpacked. ``name`` is for errors. Some megabytes at most are held besides ``out``. With
    ``finite``, NaN and infinity are refused, also those that conversion makes. Raises WeightsError if the file is
    gone, was changed or truncated since its header was read, or holds what is refused; MissingExtra for values that
    an optional package unpacks.
    """
    flat = out.detach().view(-1)
    if first + flat.numel() > entry.values:
        raise ValueError(f"{name} has fewer than {first + flat.numel()} values")
    if entry.quantized:
        _read_quantized(name, entry, flat, first, finite)
        return
    stored = entry.torch_dtype
    here = flat.device.type == "cpu"
    direct = flat.dtype == stored and here
    inside = here and (stored, flat.dtype) == HALVES  # as wide: converted where it was read to
    count = PIECE // stored.itemsize
    spare = flat[:0] if direct or inside else _scratch().view(stored)
    with _opened(entry.file) as handle:
        handle.seek(entry.start + first * stored.itemsize)
        for at in range(0, flat.numel(), count):
            target = flat[at : at + count]
            if direct or inside:
                page_in(target)
            piece = target.view(stored) if direct or inside else spare[: target.numel()]
            _read_exactly(name, entry.file, handle, piece)
            if stored == torch.bool and piece.view(torch.uint8).max() > 1:
                raise WeightsError(
                    f"the weights {entry.file.path} are damaged: {name} holds bytes beside 0 and 1"
                )
            if not direct:
                _convert(target, piece)
            if finite and not is_finite(target):
                raise _unsound(name, entry.file)


def _convert(target: Tensor, piece: Tensor) -> None:
    """Copy ``piece`` into ``target``; HALVES, which may share memory, by way of float32: twice as fast, the same."""
    if (piece.dtype, target.dtype) != HALVES or target.device.type != "cpu":
        target.copy_(piece)
        return
    wide = torch.empty(min(RUN, piece.numel()), dtype=torch.float32)
    for at in range(0, piece.numel(), RUN):
        part = piece[at : at + RUN]
        target[at : at + RUN].copy_(wide[: part.numel()].copy_(part))


def _scratch() -> Tensor:
    """PIECE bytes of this thread's own, kept between tensors: fresh ones would be paged in for every tensor."""
    found: Tensor | None = getattr(_THREAD, "scratch", None)
    if found is None:
        found = _THREAD.scratch = torch.empty(PIECE, dtype=torch.uint8)
    return found


def read_raw(name: str, entry: Entry, out: Tensor, *, first: int = 0) -> None:
    """Fill ``out`` (contiguous, uint8, on the CPU) with bytes of ``entry`` as they are, from its byte ``first`` on."""
    if first + out.numel() > entry.bytes:
        raise ValueError(f"{name} has fewer than {first + out.numel()} bytes")
    with _opened(entry.file) as handle:
        handle.seek(entry.start + first)
        _read_exactly(name, entry.file, handle, out.view(-1))


def read_scale(name: str, entry: Entry) -> Tensor | None:
    """The scale of ``entry``, float32 (rows, 1) or (1, 1), or None; WeightsError unless it is finite."""
    if entry.scale is None:
        return None
    scale = torch.empty(entry.scale.values, 1)
    read_into(f"the scale of {name}", entry.scale, scale, finite=True)
    return scale


def _read_quantized(name: str, entry: Entry, flat: Tensor, first: int, finite: bool) -> None:
    """Fill ``flat`` with values that are computed from what is stored."""
    from sfumato.weights.quantized import CHUNK, block_of, unpacked

    values, size = block_of(entry.dtype)
    scale = read_scale(name, entry)
    inner = entry.values // max(entry.shape[0], 1) if entry.shape else 1
    count = max(1, CHUNK // values)  # blocks at once
    begin, end = first // values, -(-(first + flat.numel()) // values)
    spare = torch.empty(min(count, end - begin), size, dtype=torch.uint8)
    with _opened(entry.file) as handle:
        handle.seek(entry.start + begin * size)
        for block in range(begin, end, count):
            raw = spare[: min(count, end - block)]
            _read_exactly(name, entry.file, handle, raw)
            low, high = max(first, block * values), min(first + flat.numel(), (block + len(raw)) * values)
            piece = unpacked(entry.dtype, raw).view(-1)[low - block * values : high - block * values]
            if scale is not None:
                rows = torch.arange(low, high) // inner if len(scale) > 1 else slice(None)
                piece = piece * scale[rows, 0]
            target = flat[low - first : high - first]
            target.copy_(piece)
            if finite and not is_finite(target):
                raise _unsound(name, entry.file)


@contextmanager
def _opened(file: File) -> Iterator[FileIO]:
    """``file``, which must be as it was when its header was read; what goes wrong with it is a WeightsError."""
    try:
        with open(file.path, "rb", buffering=0) as handle:
            status = os.fstat(handle.fileno())
            if (status.st_size, status.st_mtime_ns) != (file.size, file.changed):
                raise WeightsError(f"the weights {file.path} were changed while they were being read")
            yield handle
    except OSError as error:
        raise WeightsError(f"cannot read the weights {file.path}: {error.strerror or error}") from error


def _read_exactly(name: str, file: File, handle: FileIO, piece: Tensor) -> None:
    """Fill ``piece`` with the next bytes."""
    view = piece.view(-1).view(torch.uint8).numpy().data
    while view.nbytes:
        got = handle.readinto(view)
        if not got:
            raise WeightsError(f"the weights {file.path} were truncated: {name} ends too early")
        view = view[got:]


def _unsound(name: str, file: File) -> WeightsError:
    return WeightsError(f"the weights {file.path} are damaged: {name} holds NaN or infinity")


def is_finite(values: Tensor) -> bool:
    """Whether none of ``values`` is NaN or infinite, in one pass and without a mask beside them."""
    if values.numel() == 0 or not (values.is_floating_point() or values.is_complex()):
        return True
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.dtype.itemsize == 1:
        values = values.to(torch.float32)
    low, high = values.aminmax()  # both are NaN as soon as one value is
    return bool(torch.isfinite(low) & torch.isfinite(high))
