"""Answers: each verb of a model as a plain function of a batch of rows.

A picture's rows go through a network in a call of their own: kernels choose their order of addition by the size
of a batch, so only this gives every picture the same bits alone and in company. On a processor whose cores one
picture keeps busy it costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.ask import Ask
from sfumato.condition import Cond, join
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level


def answer(ask: Ask) -> object:
    """The answer to ``ask``; nothing reduces over rows. With ``ask.grad`` it can be differentiated."""
    model: Model = ask.model
    with torch.enable_grad() if ask.grad else torch.no_grad():
        if ask.verb == "embed":
            return model.conditioner(*ask.arguments)
        if ask.verb == "encode":
            return each(model.codec.encode, *ask.arguments)
        if ask.verb == "decode":
            return each(model.codec.decode, *ask.arguments)
        if ask.verb == "denoise":
            return denoise(model, *ask.arguments)
    raise InvalidRequest(f"a model has no verb {ask.verb!r}; it has embed, encode, denoise and decode")


def each(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``function`` of every row of ``rows`` by itself."""
    return torch.cat([function(row) for row in torch.split(rows, 1)])


def denoise(model: Model, x: Tensor, at: Level, conds: Sequence[Cond]) -> tuple[Estimate, ...]:
    """One estimate of ``x`` for each condition.

    All branches of one picture go through the network as rows of one call, if their conditions can be stacked.
    """
    branches = [cond.expand(len(x)) for cond in conds]
    together = len({cond.key for cond in branches}) == 1
    rows: list[list[Estimate]] = []
    for i, row in enumerate(torch.split(x, 1)):
        own = [cond.row(i) for cond in branches]
        if together:
            level = row_levels([at] * len(own))
            found = model.denoiser(row.expand(len(own), *row.shape[1:]), level, join(own))
            rows.append([Estimate(at, found.x0[k : k + 1], found.eps[k : k + 1]) for k in range(len(own))])
        else:
            found = [model.denoiser(row, row_levels([at]), cond) for cond in own]
            rows.append([Estimate(at, f.x0, f.eps) for f in found])
    return tuple(
        Estimate(at, torch.cat([r[k].x0 for r in rows]), torch.cat([r[k].eps for r in rows]))
        for k in range(len(branches))
    )
