"""Attention, one function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 128 * 128
"""Queries times keys up to which training on a CPU uses the plain formula."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v`` by heads (Vaswani et al. 2017, equation 1).

    ``query`` (B, L, H, d), ``key`` and ``value`` (B, S, H, d); ``mask`` (B, S), or (B or 1, L or 1, S), is bool, True
    where a key counts, or numbers that are added to the scores. Returns (B, L, H d).
    """
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    where = None if mask is None else mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    if q.requires_grad and q.device.type == "cpu" and q.shape[2] * k.shape[2] <= SHORT:
        out = _attend_short(q, k, v, where)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=where)
    rows: Tensor = out.transpose(1, 2).flatten(2)
    return rows


def _attend_short(q: Tensor, k: Tensor, v: Tensor, where: Tensor | None) -> Tensor:
    """The formula as it stands: for short rows its backward is far quicker on a CPU than the fused kernel's."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if where is not None:
        scores = scores.masked_fill(~where, float("-inf")) if where.dtype == torch.bool else scores + where
    out: Tensor = scores.softmax(-1) @ v
    return out
