"""What a machine computes in: the dtypes that can be chosen, and the one that is fast here."""

from __future__ import annotations

import torch

from sfumato.errors import InvalidRequest, UnknownName

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes that networks may compute in, by name."""


def device_named(name: str) -> torch.device:
    """The device called ``name`` ("cpu", "cuda", "cuda:1", "mps"); InvalidRequest if this machine has none such."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownName("device", name, ("cpu", "cuda", "cuda:1", "mps")) from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            seen = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
            raise InvalidRequest(f"device = {name!r} is not there: this PyTorch sees {seen}; use 'cpu'")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InvalidRequest(f"device = {name!r} is not there: this PyTorch has no Metal; use 'cpu'")
    elif device.type != "cpu":
        raise InvalidRequest(f"device = {name!r} computes nothing; allowed: cpu, cuda, cuda:1, mps")
    return device


def compute_dtype(device: str = "cpu") -> torch.dtype:
    """bf16 where the device multiplies it in hardware, float32 elsewhere."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def dtype_named(name: str | None, device: str = "cpu") -> torch.dtype:
    """The dtype called ``name``, the fast one for None; UnknownName with the nearest names otherwise."""
    if name is None:
        return compute_dtype(device)
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    return DTYPES[name]
