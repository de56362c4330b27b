"""Bytes of a file into tensors, converted on the way, a few megabytes at a time.

Files are read by position and not mapped. A mapped file that another process truncates kills the reader with
SIGBUS, and nothing can catch that; a positioned read comes back short, and that is an error with a name. Where
values are converted (an fp16 file computed in bf16) this is also the faster way, since each piece is converted
while the cache still has it.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.header import Entry

PIECE = 2**21  # bytes: stays in the cache of a core, and is long enough that calls cost nothing


def read_into(name: str, entry: Entry, out: Tensor, *, first: int = 0, finite: bool = False) -> None:
    """Fill ``out`` (contiguous, any dtype and device) with values of ``entry``, from its value ``first`` on.

    ``name`` is for errors. No more than PIECE bytes are held besides ``out``. With ``finite``, NaN and infinity
    are refused, also those that conversion makes. Raises WeightsError if the file is gone, was changed or
    truncated since its header was read, or holds what is refused.
    """
    flat = out.detach().view(-1)
    stored = entry.torch_dtype
    begin = entry.start + first * stored.itemsize
    if begin + flat.numel() * stored.itemsize > entry.start + entry.bytes:
        raise ValueError(f"{name} has fewer than {first + flat.numel()} values")
    direct = flat.dtype == stored and flat.device.type == "cpu"
    count = PIECE // stored.itemsize
    spare = flat[:0] if direct else torch.empty(min(count, flat.numel()), dtype=stored)
    file = entry.file
    try:
        with open(file.path, "rb", buffering=0) as handle:
            status = os.fstat(handle.fileno())
            if (status.st_size, status.st_mtime_ns) != (file.size, file.changed):
                raise WeightsError(f"the weights {file.path} were changed while they were being read")
            handle.seek(begin)
            for at in range(0, flat.numel(), count):
                target = flat[at : at + count]
                piece = target if direct else spare[: target.numel()]
                view = piece.view(torch.uint8).numpy().data
                while view.nbytes:
                    got = handle.readinto(view)
                    if not got:
                        raise WeightsError(f"the weights {file.path} were truncated: {name} ends too early")
                    view = view[got:]
                if stored == torch.bool and piece.view(torch.uint8).max() > 1:
                    raise WeightsError(
                        f"the weights {file.path} are damaged: {name} holds bytes beside 0 and 1"
                    )
                if not direct:
                    target.copy_(piece)
                if finite and not is_finite(target):
                    raise WeightsError(f"the weights {file.path} are damaged: {name} holds NaN or infinity")
    except OSError as error:
        raise WeightsError(f"cannot read the weights {file.path}: {error.strerror or error}") from error


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
