"""Rows of weighted tokens to states: how each school makes a token count for more or for less.

For the states z of a row, e of the empty prompt's row, and the weight w of each token:

* ``a1111``: ``w z``, then scaled so that the mean over the row is that of z. ``a1111_no_norm`` leaves the scale out.
* ``comfyui``: ``e + w (z - e)``.
* ``compel``: as ``comfyui``; and for each span with w below 1, the states with its tokens hidden from attention join
  a weighted mean, with the weight ``tan((1 - w) pi / 2)`` beside 1 for the states themselves: alike at w = 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.text.prompt.chunks import BACKTRACK, Chunk, Rows, Vocabulary, empty_row, weighted_ids
from sfumato.text.prompt.parts import Part

Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""States (B, L, D) and pooled vectors (B, P) of ids (B, L) int64; what the mask (B, L) bool has False is hidden."""

RULES = ("plain", "a1111", "a1111_no_norm", "comfyui", "compel")
"""The rules of weighting; a dialect's own is called as it is."""

MOST = 64
"""Rows that a prompt may have: 4800 tokens of CLIP."""


def encode_part(
    encode: Encode,
    part: Part,
    vocabulary: Vocabulary,
    dialect: str,
    *,
    rule: str | None = None,
    backtrack: int = BACKTRACK,
) -> tuple[Tensor, Tensor | None]:
    """States (1, n L, D) of ``part``, its n rows one after the other, and the pooled vector (1, P) of its first row.

    ``rule`` is the dialect's unless it is given. Texts of a blend are brought to one length by the empty prompt's
    states; their pooled vectors are blended alike. InvalidRequest for a prompt of more than MOST rows.
    """
    chosen = rule or dialect
    found = [
        encode_weighted(encode, weighted_ids(words, vocabulary, dialect, backtrack), vocabulary, chosen)
        for words in part.words
    ]
    if len(found) == 1:
        return found[0]
    longest = max(states.shape[1] for states, _ in found)
    empty = _encode(encode, (empty_row(vocabulary),))[0]
    mixed, vector = None, None
    for words, (states, pooled) in zip(part.words, found, strict=True):
        missing = (longest - states.shape[1]) // vocabulary.length
        states = torch.cat((states, *[empty] * missing), dim=1) * words.share
        mixed = states if mixed is None else mixed + states
        if pooled is not None:
            vector = pooled * words.share if vector is None else vector + pooled * words.share
    assert mixed is not None
    return mixed, vector


def encode_weighted(
    encode: Encode, rows: Rows, vocabulary: Vocabulary, rule: str
) -> tuple[Tensor, Tensor | None]:
    """States (1, n L, D) of the n ``rows`` weighted by ``rule``, and the pooled vector (1, P) of the first row.

    The pooled vector is not weighted, as in all these schools.
    """
    if rule not in RULES:
        raise UnknownName("rule of weighting", rule, RULES)
    if len(rows.chunks) > MOST:
        raise InvalidRequest(f"the prompt has {len(rows.chunks)} rows of tokens; at most {MOST} are read")
    first: Tensor | None = None
    states = []
    for number, (chunks, weight) in enumerate(rows.sections):
        found, pooled = _encode(encode, chunks)
        if number == 0 and pooled is not None:
            first = pooled[:1]
        weights = torch.tensor([chunk.weights for chunk in chunks], dtype=found.dtype, device=found.device)[
            ..., None
        ]
        moved = weight != 1 or bool((weights != 1).any())
        if moved and rule.startswith("a1111"):
            found = _scaled(found, weights, rule == "a1111")
        elif moved and rule != "plain":
            empty = _encode(encode, (empty_row(vocabulary),))[0]
            weighted = torch.where(weights == 1, found, empty + weights * (found - empty))
            found = weighted
            if rule == "compel":
                found = _without(encode, chunks, weighted, weights, empty)
            if weight != 1:
                found = empty + weight * (found - empty)
        states.append(found.flatten(0, 1))
    return torch.cat(states)[None], first


def _encode(
    encode: Encode, chunks: tuple[Chunk, ...], keep: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    return encode(torch.tensor([chunk.ids for chunk in chunks], dtype=torch.int64), keep)


def _scaled(states: Tensor, weights: Tensor, restore: bool) -> Tensor:
    """``weights`` times ``states``; with ``restore`` each row scaled to the mean it had."""
    scaled = states * weights
    if not restore:
        return scaled
    return scaled * (states.mean((1, 2), keepdim=True) / scaled.mean((1, 2), keepdim=True))


def _without(
    encode: Encode, chunks: tuple[Chunk, ...], weighted: Tensor, weights: Tensor, empty: Tensor
) -> Tensor:
    """The mean of ``weighted`` and of what is left when each weak span is hidden from attention."""
    spans = torch.tensor([chunk.spans for chunk in chunks]).flatten()
    length = len(chunks[0].ids)
    flat = weights.flatten()
    total, sum_ = 1.0, weighted
    for span in range(int(spans.max()) + 1):
        places = (spans == span).nonzero().flatten()
        if len(places) == 0 or (held := float(flat[places[0]])) >= 1:
            continue
        keep = torch.ones(len(spans), dtype=torch.bool)
        # All from the span's first token to its last, which in long prompts includes an end and padding, but not what
        # begins and ends a full row: compel's reckoning.
        keep[int(places[0]) : int(places[-1]) + 1] = False
        keep[::length] = keep[length - 1 :: length] = True
        found, _ = _encode(encode, chunks, keep.view(len(chunks), length))
        hidden = torch.where(weights == 1, found, empty + weights * (found - empty))
        share = math.tan((1 - max(held, 1e-5)) * math.pi / 2)
        sum_ = sum_ + share * hidden
        total += share
    return sum_ / total
