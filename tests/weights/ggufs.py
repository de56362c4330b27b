"""GGUF files for tests, written by the package gguf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.weights.keys import KeyTable
from sfumato.weights.save import save_module

Kind = gguf.GGMLQuantizationType
WRITABLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "BF16")


def packed(values: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """``values`` in the type ``kind``; of types that the package cannot write, drawn blocks with moderate scales."""
    if kind in WRITABLE:
        return quantize(values, Kind[kind])
    length, size = gguf.constants.GGML_QUANT_SIZES[Kind[kind]]
    count = values.shape[-1] // length
    raw = np.random.default_rng(seed).integers(0, 256, (*values.shape[:-1], count, size), dtype=np.uint8)
    for at in HALVES[kind]:
        raw[..., at : at + 2] = np.frombuffer(np.float16(2**-12).tobytes(), np.uint8)
    return raw.reshape(*values.shape[:-1], count * size)


HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,)}
"""At which bytes of a block its float16 scales stand."""


def write(
    path: Path, tensors: Mapping[str, np.ndarray], kinds: Mapping[str, str], architecture: str = "flux"
) -> Path:
    """The GGUF file ``path`` with ``tensors`` in ``kinds``."""
    writer = gguf.GGUFWriter(path, architecture)
    for number, (name, values) in enumerate(tensors.items()):
        kind = kinds[name]
        if kind in ("F32", "F16"):
            writer.add_tensor(name, values.astype(np.float32 if kind == "F32" else np.float16))
        else:
            writer.add_tensor(name, packed(values, kind, number), raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def original_state(
    net: nn.Module, table: KeyTable, path: Path, layout: str = "original"
) -> dict[str, Tensor]:
    """The tensors of ``net`` by the names of ``layout``."""
    return load_file(save_module(path, net, table, layout))
