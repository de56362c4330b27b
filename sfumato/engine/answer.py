"""Answers: each verb of a model as a plain function of a batch of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.ask import Ask
from sfumato.condition import Cond, join
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level

ROWS = 32
"""The most rows in one network call, so that memory does not grow with the number of pictures asked for."""


def answer(ask: Ask) -> object:
    """The answer to ``ask``; nothing outside the network reduces over rows."""
    model: Model = ask.model
    with torch.inference_mode():
        if ask.verb == "embed":
            return model.conditioner(*ask.arguments)
        if ask.verb == "encode":
            return torch.cat([model.codec.encode(part) for part in ask.arguments[0].split(ROWS)])
        if ask.verb == "decode":
            return torch.cat([model.codec.decode(part) for part in ask.arguments[0].split(ROWS)])
        if ask.verb == "denoise":
            return denoise(model, *ask.arguments)
    raise InvalidRequest(f"a model has no verb {ask.verb!r}; it has embed, encode, denoise and decode")


def denoise(model: Model, x: Tensor, at: Level, conds: Sequence[Cond]) -> tuple[Estimate, ...]:
    """One estimate of ``x`` for each condition; all branches go through the network as rows of one batch."""
    rows = len(x)
    wide = [cond.expand(rows) for cond in conds]
    if len({cond.key for cond in wide}) == 1:
        both = _split(model, x.repeat(len(wide), *[1] * (x.ndim - 1)), at, join(wide))
        return tuple(
            Estimate(at, both.x0[i * rows : (i + 1) * rows], both.eps[i * rows : (i + 1) * rows])
            for i in range(len(wide))
        )
    return tuple(_split(model, x, at, cond) for cond in wide)


def _split(model: Model, x: Tensor, at: Level, cond: Cond) -> Estimate:
    """The estimate of any number of rows, at most ROWS at a time."""
    parts = []
    for begin in range(0, len(x), ROWS):
        piece = x[begin : begin + ROWS]
        doors = {name: value[begin : begin + ROWS] for name, value in cond.named().items()}
        parts.append(model.denoiser(piece, row_levels([at] * len(piece)), Cond(**doors)))
    return Estimate(at, torch.cat([p.x0 for p in parts]), torch.cat([p.eps for p in parts]))
