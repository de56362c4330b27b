"""Layers whose weights stay packed in memory and are unpacked for each call, so that a model takes what its file does.

A weight of (outer, inner) values is rows of bytes, with a function that makes float32 values of rows and scales beside
them. For a product the whole weight of one layer is unpacked into the dtype of its input, some rows at a time; outputs
are those of the layer with that weight, bit for bit. Gradients with respect to inputs unpack it again and keep nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.residual import Adding

CHUNK = 2**18
"""Values unpacked at once: what they pass through stays in a core's cache."""


class Rows(Protocol):
    """Some rows of a packed weight."""

    @property
    def raw(self) -> Tensor:
        """Their bytes, uint8 (rows, bytes)."""
        ...

    @property
    def scale(self) -> Tensor | None:
        """What their values are multiplied by, float32 (rows, 1) or (1, 1)."""
        ...

    @property
    def unpack(self) -> Callable[[Tensor], Tensor]:
        """What makes float32 values (n, columns) of n rows of ``raw``."""
        ...


class Quantized(nn.Module):
    """What layers with a packed weight share: its bytes and scales, as buffers that move between devices.

    They are bytes all, so that a change of the module's dtype leaves them alone, and not in its ``state_dict``.
    """

    unpacks: list[tuple[Callable[[Tensor], Tensor], bool]]
    dtype: torch.dtype
    rows: int
    columns: int

    def keep(self, parts: Sequence[Rows], rows: int, columns: int, dtype: torch.dtype) -> None:
        """Take over ``parts``, whose rows are ``rows`` together; ``dtype`` is that of ``weight``."""
        if sum(len(part.raw) for part in parts) != rows:
            raise ValueError(f"{[len(part.raw) for part in parts]} rows are not {rows}")
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self.unpacks = [(part.unpack, part.scale is not None) for part in parts]
        for number, part in enumerate(parts):
            self.register_buffer(f"raw{number}", part.raw, persistent=False)
            if part.scale is not None:
                scale = part.scale.contiguous().view(torch.uint8)
                self.register_buffer(f"scale{number}", scale, persistent=False)

    def values(self, part: int, at: slice | Tensor) -> Tensor:
        """The float32 values (n, columns) of the rows ``at`` of a part."""
        unpack, scaled = self.unpacks[part]
        found = unpack(self.get_buffer(f"raw{part}")[at])
        if scaled:
            scale = self.get_buffer(f"scale{part}").view(torch.float32)
            found = found * (scale[at] if len(scale) > 1 else scale)
        return found

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in ``dtype``, newly made."""
        out = torch.empty(self.rows, self.columns, dtype=dtype, device=self.get_buffer("raw0").device)
        step = max(1, CHUNK // self.columns)
        done = 0
        for part in range(len(self.unpacks)):
            count = len(self.get_buffer(f"raw{part}"))
            for first in range(0, count, step):
                stop = min(first + step, count)
                out[done + first : done + stop] = self.values(part, slice(first, stop))
            done += count
        return out


class _Product(torch.autograd.Function):
    """``x W^T + b`` that unpacks W again for the gradient with respect to x, and holds no W until then."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, layer: QuantizedLinear) -> Tensor:
        return F.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor | None, QuantizedLinear], output: Tensor
    ) -> None:
        ctx.layer = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        back = grad @ ctx.layer.unpacked(grad.dtype) if ctx.needs_input_grad[0] else None
        return back, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


class QuantizedLinear(Adding, Quantized, nn.Linear):
    """A Linear whose weight stays packed; it is unpacked into the dtype of the input."""

    def __init__(self, layer: nn.Linear, parts: Sequence[Rows], dtype: torch.dtype) -> None:
        """Stand in for ``layer`` with the weight ``parts``; the bias is that of ``layer``."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.keep(parts, self.out_features, self.in_features, dtype)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight (out, in) in the dtype it was loaded for, made anew for each call."""
        return self.unpacked(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if torch.is_grad_enabled() and x.requires_grad:
            product: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
            return product
        return F.linear(x, self.unpacked(x.dtype), self.bias)

    def add(self, rest: Tensor, x: Tensor, *, overwrite: bool) -> Tensor:
        """``rest + self(x)``."""
        total: Tensor = rest + self(x)
        return total


class QuantizedEmbedding(Quantized, nn.Embedding):
    """An Embedding whose table stays packed; the rows that are looked up are unpacked."""

    def __init__(self, layer: nn.Embedding, parts: Sequence[Rows], dtype: torch.dtype) -> None:
        """Stand in for ``layer``, whose table is one part; its rows come in ``dtype``."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = layer.padding_idx
        self.keep(parts, self.num_embeddings, self.embedding_dim, dtype)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The table (rows, width) in the dtype it was loaded for, made anew for each call."""
        return self.unpacked(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., width) of ``ids`` (...)."""
        return self.values(0, ids.reshape(-1)).to(self.dtype).view(*ids.shape, self.columns)


def quantized(
    layer: nn.Module, parameter: str, read: Callable[[], Sequence[Rows]], dtype: torch.dtype
) -> nn.Module | None:
    """The layer that keeps the weight ``read`` gives packed in the place of ``layer``, None where there is none.

    Plain Linear layers, and embeddings of 1,000 rows or more (smaller tables are read as a whole).
    """
    if parameter != "weight":
        return None
    if type(layer) is nn.Linear:
        return QuantizedLinear(layer, read(), dtype)
    if type(layer) is nn.Embedding and layer.num_embeddings >= 1000:
        parts = read()
        return QuantizedEmbedding(layer, parts, dtype) if len(parts) == 1 else None
    return None


def dtype_of(layer: nn.Linear) -> torch.dtype:
    """The dtype of the weight of ``layer``, told without unpacking it."""
    return layer.dtype if isinstance(layer, QuantizedLinear) else layer.weight.dtype
