"""Packed tensors: blocks of small integers with scales (ggml's types), 8-bit floats with scales, and their values.

A block of type Q4_0, say, is a float16 ``d`` and 32 numbers q of 4 bits with ``w = d (q - 8)``; the K types keep 256
values in parts of 16 or 32, each with a scale (and a minimum) of 4 or 6 bits that is itself scaled by a float16.
Layouts: ggml-quants of https://github.com/ggml-org/ggml. Values are computed in float32, operation by operation as
the package ``gguf`` does, so that they are its bits. The types that it packs by tables (IQ*, TQ*, MXFP4) it unpacks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import MissingExtra
from sfumato.weights.gguf import BLOCKS
from sfumato.weights.header import DTYPES

Unpack = Callable[[Tensor], Tensor]
CHUNK = 2**18  # values unpacked at once: what they pass through stays in a core's cache


@dataclass(frozen=True)
class Packed:
    """Rows of a matrix as a file has them: ``raw`` uint8 (rows, bytes), their type ``kind``, and their scale.

    ``scale`` is float32, (rows, 1) or (1, 1), or None.
    """

    kind: str
    raw: Tensor
    scale: Tensor | None = None

    @property
    def unpack(self) -> Unpack:
        """What makes float32 values (n, columns) of any ``n`` rows of ``raw``, before the scale."""
        return functools.partial(unpacked, self.kind)


def block_of(kind: str) -> tuple[int, int]:
    """Values and bytes of a block of the type ``kind``; of a plain dtype, one value."""
    return BLOCKS[kind] if kind in BLOCKS else (1, DTYPES[kind][1])


def unpacked(kind: str, raw: Tensor) -> Tensor:
    """The float32 values (..., columns) of ``raw`` uint8 (..., bytes), whole blocks of the type ``kind``.

    Raises MissingExtra for a type that the package ``gguf`` unpacks, where it is not installed.
    """
    if kind == "F8_E4M3":  # torch converts value by value; a table of all of them takes a third of the time
        table = _eight_bits(raw.device)
        return table.index_select(0, raw.reshape(-1).to(torch.int32)).view(raw.shape)
    if kind in DTYPES:
        stored: torch.dtype = getattr(torch, DTYPES[kind][0])
        return raw.view(stored).to(torch.float32)
    values, size = BLOCKS[kind]
    blocks = raw.reshape(-1, size)
    out = UNPACK[kind](blocks) if kind in UNPACK else _by_package(kind, blocks)
    return out.reshape(*raw.shape[:-1], raw.shape[-1] // size * values)


@functools.cache
def _eight_bits(device: torch.device) -> Tensor:
    """What each byte means as a float8_e4m3fn."""
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    return codes.view(torch.float8_e4m3fn).to(torch.float32)


def _by_package(kind: str, blocks: Tensor) -> Tensor:
    """What the package ``gguf`` makes of ``blocks``."""
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", f"reading weights packed as {kind}") from error
    found = gguf.quants.dequantize(blocks.cpu().numpy(), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(found).to(blocks.device)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte ``at`` of each block, (n, 1) float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def _nibbles(quants: Tensor, group: int) -> Tensor:
    """The low and the high halves of bytes (n, b) in turn for each ``group`` of them, (n, 2 b) uint8."""
    parts = quants.view(len(quants), -1, 1, group)
    return torch.cat((parts & 15, parts >> 4), dim=2).view(len(quants), -1)


def _pairs(quants: Tensor, group: int) -> Tensor:
    """The four 2-bit numbers of bytes (n, b), by planes for each ``group`` of them, (n, 4 b) uint8."""
    parts = quants.view(len(quants), -1, 1, group)
    return torch.cat([(parts >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2).view(len(quants), -1)


def _bits(quants: Tensor, group: int) -> Tensor:
    """The eight bits of bytes (n, b), by planes for each ``group`` of them, (n, 8 b) uint8."""
    parts = quants.view(len(quants), -1, 1, group)
    return torch.cat([(parts >> shift) & 1 for shift in range(8)], dim=2).view(len(quants), -1)


def _fifths(quants: Tensor) -> Tensor:
    """The 32 bits of four bytes (n, 4), lowest first, (n, 32) uint8."""
    shifts = torch.arange(8, dtype=torch.uint8, device=quants.device)
    return ((quants[:, :, None] >> shifts) & 1).view(len(quants), 32)


def _signed(quants: Tensor, less: int) -> Tensor:
    """``quants - less`` as float32, exact."""
    return quants.to(torch.float32).sub_(less)


def _q4_0(blocks: Tensor) -> Tensor:
    return _signed(_nibbles(blocks[:, 2:], 16), 8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    values = _nibbles(blocks[:, 4:], 16).to(torch.float32)
    return values.mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 6:], 16) | (_fifths(blocks[:, 2:6]) << 4)
    return _signed(quants, 16).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 8:], 16) | (_fifths(blocks[:, 4:8]) << 4)
    return quants.to(torch.float32).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).to(torch.float32).mul_(_half(blocks, 0))


def _q2_k(blocks: Tensor) -> Tensor:
    scales, (d, least) = blocks[:, :16], (_half(blocks, 80), _half(blocks, 82))
    steps, lows = d * (scales & 15).to(torch.float32), least * (scales >> 4).to(torch.float32)
    values = _pairs(blocks[:, 16:80], 32).to(torch.float32).view(-1, 16, 16)
    return values.mul_(steps[..., None]).sub_(lows[..., None])


def _q3_k(blocks: Tensor) -> Tensor:
    high, low, scales = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108]
    first, last = scales[:, :8], scales[:, 8:]
    fours = torch.cat((first & 15, first >> 4), dim=1)
    twos = torch.cat([(last >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)
    steps = _half(blocks, 108) * _signed(fours | (twos << 4), 32)
    # A bit that is not set takes four away.
    quants = _signed(_pairs(low, 32) | (_bits(high, 32) << 2), 4).view(-1, 16, 16)
    return quants.mul_(steps[..., None])


def _sixes(scales: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight minima of 6 bits in 12 bytes (n, 12) of Q4_K and Q5_K, as float32."""
    first, second, third = scales[:, :4], scales[:, 4:8], scales[:, 8:]
    steps = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), dim=1)
    lows = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), dim=1)
    return steps.to(torch.float32), lows.to(torch.float32)


def _with_lows(blocks: Tensor, quants: Tensor) -> Tensor:
    """Values of Q4_K and Q5_K: ``d s q - dmin m``."""
    steps, lows = _sixes(blocks[:, 4:16])
    steps, lows = _half(blocks, 0) * steps, _half(blocks, 2) * lows
    return quants.to(torch.float32).view(-1, 8, 32).mul_(steps[..., None]).sub_(lows[..., None])


def _q4_k(blocks: Tensor) -> Tensor:
    return _with_lows(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Tensor) -> Tensor:
    return _with_lows(blocks, _nibbles(blocks[:, 48:], 32) | (_bits(blocks[:, 16:48], 32) << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    steps = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8).to(torch.float32)
    quants = _nibbles(blocks[:, :128], 64) | (_pairs(blocks[:, 128:192], 32) << 4)
    return _signed(quants, 32).view(-1, 16, 16).mul_(steps[..., None])


UNPACK: dict[str, Unpack] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
"""What makes float32 values of blocks (n, bytes), for the types that need no package."""
