"""Compact weights: safetensors files whose matrices are int8 per output channel or fp16.

A matrix (or convolution kernel) ``w`` of shape (out, ...) is stored as ``q`` int8 with one float32 scale per
output channel, ``w[o] ~ q[o] * scale[o]``, ``scale[o] = max |w[o]| / 127`` (symmetric, round to nearest).
Everything else (norms, biases, small tensors) is fp16. The scale of ``name`` is stored as ``name::scale``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.files import write_bytes

SCALE = "::scale"
FP16_MAX = 65520.0  # from here on fp16 rounds to infinity


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``weight`` (out, ...) into int8 values and a float32 scale per output channel."""
    rows = weight.detach().to(torch.float32).flatten(1).contiguous()
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    values = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return values.view(weight.shape), scale


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight that ``quantize`` approximated."""
    return values.to(torch.float32) * scale.view(-1, *[1] * (values.ndim - 1))


def as_int8(name: str, tensor: Tensor) -> bool:
    """The default rule: matrices and kernels of at least 4,096 values go to int8."""
    return tensor.ndim >= 2 and tensor.numel() >= 4096


def save_packed(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    int8: Callable[[str, Tensor], bool] = as_int8,
) -> str:
    """Write ``tensors`` to ``path`` (whole or not at all) and return the file's sha256.

    ``metadata`` is stored as JSON under the header key ``sfumato``; ``int8`` says which tensors are quantized.
    Raises WeightsError, and writes nothing, for a value that is not finite or too large for fp16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        most = torch.inf if int8(name, tensor) else FP16_MAX
        if not (tensor.detach().to(torch.float32).abs() < most).all():
            raise WeightsError(
                f"{name} holds values that are not finite or too large to store; {path} not written"
            )
        if int8(name, tensor):
            packed[name], packed[name + SCALE] = quantize(tensor)
        else:
            packed[name] = tensor.detach().to(torch.float16).contiguous()
    data = save_safetensors(packed, {"sfumato": json.dumps(metadata, sort_keys=True)})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_packed(path: str | Path, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read what ``save_packed`` wrote: float32 tensors and the metadata.

    With ``sha256`` the file's bytes must have that hash. Raises WeightsError if the file is missing,
    truncated, altered or holds a value that is not finite.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {file}: {error.strerror or error}") from error
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise WeightsError(
            f"the weights {file} are not the ones expected (sha256 {found[:12]}..., "
            f"expected {sha256[:12]}...): truncated or altered; install sfumato again"
        )
    try:
        stored = load_safetensors(data)
        metadata = read_metadata(data)
        tensors = unpack(stored)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"the weights {file} are damaged: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"the weights {file} are damaged: {name} holds values that are not finite")
    return tensors, metadata


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors of a file's ``stored`` ones; ValueError unless each is fp16 or int8 with its scale."""
    tensors, left = {}, {name for name in stored if name.endswith(SCALE)}
    for name in stored.keys() - left:
        value, scale = stored[name], stored.get(name + SCALE)
        if scale is None and value.dtype == torch.float16:
            tensors[name] = value.to(torch.float32)
        elif (
            scale is not None and value.dtype == torch.int8 and value.ndim and scale.shape == value.shape[:1]
        ):
            left.remove(name + SCALE)
            tensors[name] = dequantize(value, scale)
        else:
            raise ValueError(f"{name} is neither fp16 nor int8 with a scale for each channel")
    if left:
        raise ValueError(f"{', '.join(sorted(left))} belongs to nothing")
    return {name: tensors[name] for name in stored if name in tensors}


def read_metadata(data: bytes) -> dict[str, object]:
    """The JSON that ``save_packed`` put in the header of a safetensors file's bytes; ValueError if it is none."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = json.loads(header["__metadata__"]["sfumato"])
    except (RecursionError, TypeError) as error:
        raise ValueError("the header's metadata is not what sfumato writes") from error
    if not isinstance(metadata, dict):
        raise ValueError("the header's metadata is not an object")
    return metadata
