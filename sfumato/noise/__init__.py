"""Noise: unit-variance draws by seed, made on the CPU, so that a seed means the same on every machine."""

from __future__ import annotations

from sfumato.noise.batch import CudaBatch, CudaRows, TorchBatch
from sfumato.noise.brownian import Brownian
from sfumato.noise.stream import MAX_SEED, Noise, Only, Stream
from sfumato.noise.table import NOISES, NoiseKind, noise

__all__ = [
    "MAX_SEED",
    "NOISES",
    "Brownian",
    "CudaBatch",
    "CudaRows",
    "Noise",
    "NoiseKind",
    "Only",
    "Stream",
    "TorchBatch",
    "noise",
]
