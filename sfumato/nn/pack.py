"""Fast inference on a CPU: weights laid out for oneDNN once, not in every call, and operations joined.

A convolution in torch reorders its kernel into the blocked layout of the processor's matrix units in every
call; for small pictures that costs as much as the arithmetic. ``pack`` does it once. It also joins what
inference allows to join: queries, keys and values in one product, residual sums and GELU inside the products
before them, the clock's projections of all blocks in one product.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attention import Attention, GatedMLP
from sfumato.nn.residual import Adding
from sfumato.nn.resnet import ResBlock
from sfumato.nn.unet import UNet

M = TypeVar("M", bound=nn.Module)
_OPERATIONS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_reorder_linear_weight",
    "_linear_pointwise",
)
_NONE: tuple[str, list[float | None], str] = ("none", [], "")


def available() -> bool:
    """Whether this torch has the oneDNN operations that packing needs; they are not public, so they are asked."""
    return torch._C._has_mkldnn and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


def pack(module: M) -> M:
    """A module that computes what ``module`` does, faster, for inference on this CPU.

    For bf16 and float32 modules in eval mode; anything else, what is packed already, and all if this torch
    lacks the operations, is returned as it is. In float32 outputs agree to rounding, in bf16 to bf16's noise:
    the single layers are bit-equal, but a residual that is added inside a product is rounded once where it was
    rounded twice.

    ``module`` itself is not changed and may be dropped: a layer forgets its plain weight as it packs it, at its
    first call, so that weights are in memory once. The result has no ``state_dict`` of its weights, cannot
    move to another device or dtype and cannot be trained; a layer packed for one picture size serves all
    others. Its remaining parameters (norms, biases) have the dtype and device of the module.

    Gradients with respect to inputs are those of the plain module: where torch records them, layers unpack their
    weights and run as torch has them, at its speed.
    """
    kinds = {(p.dtype, p.device.type) for p in module.parameters()}
    fits = kinds in ({(t, "cpu")} for t in (torch.bfloat16, torch.float32))
    done = any(isinstance(part, Adding) for part in module.modules())
    if not available() or module.training or not fits or done:
        return module
    return _packed(module)  # type: ignore[return-value]


def _recorded(*inputs: Tensor | None) -> bool:
    """Whether torch records gradients with respect to one of ``inputs``, which oneDNN's joined operations have not."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


class PackedConv2d(Adding):
    """A Conv2d whose kernel is packed at its first call, for that call's size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the weights of ``conv``."""
        super().__init__()
        self.plain: Tensor | None = conv.weight.detach()
        self.packed: Tensor | None = None
        self.bias = conv.bias
        self.stride, self.padding = list(conv.stride), [int(p) for p in conv.padding]
        self.dilation, self.groups = list(conv.dilation), conv.groups

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W), channels-last; ``bias`` (outer,) stands in for the layer's own."""
        x = x.contiguous(memory_format=torch.channels_last)
        bias = self.bias if bias is None else bias
        if _recorded(x, bias):
            return F.conv2d(x, _dense(self), bias, self.stride, self.padding, self.dilation, self.groups)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight(x), bias, self.padding, self.stride, self.dilation, self.groups, *_NONE
        )
        return out

    def add(self, rest: Tensor, x: Tensor, *, overwrite: bool) -> Tensor:
        """``rest + self(x)`` for ``rest`` of the output's shape."""
        if _recorded(rest, x):
            total: Tensor = rest + self(x)
            return total
        x = x.contiguous(memory_format=torch.channels_last)
        rest = rest.contiguous(memory_format=torch.channels_last)
        ops = torch.ops.mkldnn
        how: tuple[object, ...] = (
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "add",
            1.0,
            None,
            [],
            None,
        )
        if overwrite:
            done: Tensor = ops._convolution_pointwise_.binary(rest, x, self._weight(x), *how)
            return done
        out: Tensor = ops._convolution_pointwise.binary(x, rest, self._weight(x), *how)
        return out

    def _weight(self, x: Tensor) -> Tensor:
        plain = self.plain
        if self.packed is None and plain is not None:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                plain, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
            self.plain = None
        assert self.packed is not None  # set before ``plain`` is forgotten, also by another thread
        return self.packed


class PackedLinear(Adding):
    """A Linear whose weight is packed at its first call; float32 is left to the BLAS, which is as fast."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over ``weight`` (outer, inner) and ``bias`` (outer,)."""
        super().__init__()
        self.plain: Tensor | None = weight.detach()
        self.packed: Tensor | None = None
        self.bias: Tensor | None = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.keeps = weight.dtype == torch.float32

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Map (..., inner) to (..., outer), through GELU if ``gelu``."""
        if self.keeps or _recorded(x):
            y = F.linear(x, _dense(self), self.bias)
            return F.gelu(y) if gelu else y
        kind = ("gelu", [], "none") if gelu else _NONE
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight(x), self.bias, *kind)
        return out

    def add(self, rest: Tensor, x: Tensor, *, overwrite: bool) -> Tensor:
        """``rest + self(x)`` for ``rest`` of the output's shape."""
        return self._joined(rest, x, "add")

    def times(self, factor: Tensor, x: Tensor) -> Tensor:
        """``factor * self(x)`` for ``factor`` of the output's shape."""
        return self._joined(factor, x, "mul")

    def _joined(self, other: Tensor, x: Tensor, how: str) -> Tensor:
        if self.keeps or _recorded(other, x):
            y: Tensor = self(x)
            return other + y if how == "add" else other * y
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight(x), self.bias, how)
        return out

    def _weight(self, x: Tensor) -> Tensor:
        plain = self.plain
        if self.packed is None and plain is not None:
            rows = x.numel() // x.shape[-1]
            self.packed = torch.ops.mkldnn._reorder_linear_weight(plain.contiguous(), rows)
            self.plain = None
        assert self.packed is not None
        return self.packed


def _dense(layer: PackedConv2d | PackedLinear) -> Tensor:
    """The plain weight of ``layer``, unpacked if it is packed."""
    plain = layer.plain
    if plain is None:
        assert layer.packed is not None  # set before ``plain`` is forgotten
        return layer.packed.to_dense()
    return plain


class PackedAttention(Attention):
    """Attention with one product for queries, keys and values, or one for the keys and values of a context."""

    joined: PackedLinear

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of ``x``, keys and values of ``context``, or all of ``x``."""
        if "q" in self._modules:
            key, value = self.joined(x if context is None else context).chunk(2, dim=-1)
            return self.q(x), key, value
        query, key, value = self.joined(x).chunk(3, dim=-1)
        if context is not None:
            _, key, value = self.joined(context).chunk(3, dim=-1)
        return query, key, value


class PackedGatedMLP(nn.Module):
    """GatedMLP with GELU and the gate's product inside the linear layers."""

    def __init__(self, mlp: GatedMLP) -> None:
        """Take over the weights of ``mlp``."""
        super().__init__()
        (value, gate), biases = mlp.enter.weight.chunk(2), mlp.enter.bias.chunk(2)
        self.value, self.gate = PackedLinear(value, biases[0]), PackedLinear(gate, biases[1])
        self.leave = PackedLinear(mlp.leave.weight, mlp.leave.bias)

    def forward(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Map (..., width) to (..., width), added to ``rest``."""
        h = self.value.times(self.gate(x, gelu=True), x)
        if rest is not None:
            return self.leave.add(rest, h, overwrite=False)
        out: Tensor = self.leave(h)
        return out


class Piece(nn.Module):
    """The part of a joined projection that belongs to one block."""

    def __init__(self, begin: int, end: int) -> None:
        """Take columns ``begin`` to ``end``."""
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, x: Tensor) -> Tensor:
        """Cut (B, all) to (B, end - begin)."""
        return x.narrow(1, self.begin, self.end - self.begin)


class PackedResBlock(ResBlock):
    """A block whose clock's shift includes the first convolution's bias: for a single row it is that bias."""

    def shifted(self, x: Tensor, shift: Tensor) -> Tensor:
        """The first convolution of ``x``, plus ``shift`` (B, outer)."""
        if len(x) == 1:
            alone: Tensor = self.conv1(x, shift[0])
            return alone
        out: Tensor = self.conv1(x).add_(shift[:, :, None, None])
        return out


def _packed(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with packed layers; weights are shared until they are packed."""
    if type(module) is nn.Conv2d:
        usual = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return PackedConv2d(module) if usual else module
    if type(module) is nn.Linear:
        return PackedLinear(module.weight, module.bias)
    if type(module) is GatedMLP:
        return PackedGatedMLP(module)
    made = copy.copy(module)
    made._parameters = dict(module._parameters)
    made._buffers = dict(module._buffers)
    made._modules = {n: None if child is None else _packed(child) for n, child in module._modules.items()}
    if isinstance(made, Attention):
        _join_attention(made)
    if isinstance(made, UNet):
        _join_clocks(made)
    return made


def _join_attention(made: Attention) -> None:
    """Turn ``made``, whose layers are packed, into a PackedAttention."""
    parts = ("k", "v") if made.context else ("q", "k", "v")
    layers = [made._modules.pop(name) for name in parts]
    linear = [layer for layer in layers if isinstance(layer, PackedLinear)]
    weights = [layer.plain for layer in linear if layer.plain is not None]
    biases: list[Tensor] = [layer.bias for layer in linear if layer.bias is not None]
    made._modules["joined"] = PackedLinear(torch.cat(weights), torch.cat(biases) if biases else None)
    made.__class__ = PackedAttention  # the copy keeps its norms and its number of heads


def _join_clocks(made: UNet) -> None:
    """Let one product after the clock's activation serve all blocks of ``made``."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    begin = 0
    for block in made.modules():
        layer = block._modules.get("clock")
        if not isinstance(block, ResBlock) or not isinstance(layer, PackedLinear):
            continue
        weight, bias = layer.plain, layer.bias
        if weight is None or bias is None:
            continue
        if not block.scale_shift and block.conv1.bias is not None:
            bias = bias + block.conv1.bias
            block.conv1.bias = None
            block.__class__ = PackedResBlock
        weights.append(weight)
        biases.append(bias)
        block._modules["clock"] = Piece(begin, begin + len(bias))
        begin += len(bias)
    if weights:
        made._modules["act"] = nn.Sequential(nn.SiLU(), PackedLinear(torch.cat(weights), torch.cat(biases)))
