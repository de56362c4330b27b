"""Answers: each verb of a model as a plain function of rows that share a call.

An ask is split into rows, rows are answered in calls, and an ask's answers are built into its reply. Nothing on the
way reduces over rows, so whose rows share a call is free: the engine chooses it, and ``answer`` is the choice that
looks at one picture alone. Kernels choose their order of addition by the size of a batch, so only a call of its own,
or calls that all have one size, give a picture the same last bits alone and in company.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.ask import Ask
from sfumato.condition import Cond, made
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, OutOfMemory
from sfumato.model import Model
from sfumato.process.estimate import Estimate


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One row of an ask; it may share a call with every row of an equal ``key``.

    ``place`` is where its answer stands among those of ``ask``, ``given`` what it brings to the call.
    """

    ask: Ask
    place: int
    key: Hashable
    given: tuple[Any, ...]


Unit = tuple[Row, ...]
"""The rows of one picture that share a call in the exact mode: the branches of guidance."""


@dataclass(frozen=True)
class Verb:
    """A verb as three functions: an ask into units, the given of rows into an answer a row, answers into a reply."""

    split: Callable[[Ask], list[Unit]]
    call: Callable[[Model, list[tuple[Any, ...]]], list[Any]]
    build: Callable[[Ask, list[Any]], object]


def answer(ask: Ask) -> object:
    """The reply to ``ask``, every picture in calls of its own. With ``ask.grad`` it can be differentiated.

    OutOfMemory if there is no memory for a call; any other error of the network comes as it is.
    """
    units = split(ask)
    answers: list[Any] = [None] * sum(len(unit) for unit in units)
    for unit in units:
        try:
            for row, found in zip(unit, call(unit), strict=True):
                answers[row.place] = found
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise no_memory(unit) from error
    return build(ask, answers)


def split(ask: Ask) -> list[Unit]:
    """The rows of ``ask``, in order, by pictures. InvalidRequest for a verb that models do not have."""
    if ask.verb not in VERBS:
        raise InvalidRequest(f"a model has no verb {ask.verb!r}; it has embed, encode, denoise and decode")
    with torch.set_grad_enabled(ask.grad):
        return VERBS[ask.verb].split(ask)


def call(rows: Sequence[Row], size: int = 0) -> list[Any]:
    """One call of a model for ``rows``, which have equal keys: an answer a row, in order.

    Calls of fewer rows than ``size`` are filled up with copies of the last one.
    """
    ask = rows[0].ask
    given = [row.given for row in rows]
    given += given[-1:] * (size - len(given))
    with torch.set_grad_enabled(ask.grad):
        return VERBS[ask.verb].call(ask.model, given)[: len(rows)]


def build(ask: Ask, answers: list[Any]) -> object:
    """The reply to ``ask`` from its rows' answers, in the order of their places."""
    with torch.set_grad_enabled(ask.grad):
        return VERBS[ask.verb].build(ask, answers)


def lacks_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "DefaultCPUAllocator", "out of memory")
    )


def no_memory(rows: Sequence[Row], size: int = 0) -> OutOfMemory:
    """What to tell the one whose ``rows`` do not fit in memory, in a call filled up to ``size`` rows."""
    ask = rows[0].ask
    parts = [part for part in rows[0].given if isinstance(part, Tensor)]
    sizes = "".join(f", each {tuple(p.shape[1:])} {str(p.dtype).removeprefix('torch.')}" for p in parts)
    count = f"{max(len(rows), size)} rows" if max(len(rows), size) > 1 else "one row"
    return OutOfMemory(
        f"there is not enough memory to {ask.verb} {count}{sizes}; make smaller pictures, load the model in "
        f"bfloat16, or free memory that others use"
    )


def _embed_split(ask: Ask) -> list[Unit]:
    """Prompts of several asks share a call if they are plain: others may have more tokens."""
    plain = all(isinstance(prompt, str) or prompt.plain for prompt in ask.arguments[0])
    return [(Row(ask, 0, ("embed", id(ask.model), 0 if plain else id(ask)), ask.arguments),)]


def _embed_call(model: Model, given: list[tuple[Any, ...]]) -> list[Any]:
    """The conditions of several asks' prompts; a prompt that several ask for is encoded once."""
    if len(given) == 1:
        return [model.conditioner(*given[0])]
    places = {prompt: i for i, prompt in enumerate(dict.fromkeys(p for (prompts,) in given for p in prompts))}
    named = model.conditioner(tuple(places)).named()
    wanted = [[places[prompt] for prompt in prompts] for (prompts,) in given]
    return [made({name: value[rows] for name, value in named.items()}) for rows in wanted]


def _embed_build(ask: Ask, answers: list[Any]) -> object:
    return answers[0]


def _pixels_split(ask: Ask) -> list[Unit]:
    (rows,) = ask.arguments
    key = (ask.verb, id(ask.model), *_like(rows))
    return [(Row(ask, i, key, (row,)),) for i, row in enumerate(torch.split(rows, 1))]


def _pixels_build(ask: Ask, answers: list[Tensor]) -> Tensor:
    return torch.cat(answers)


def _encode(model: Model, given: list[tuple[Any, ...]]) -> list[Any]:
    return list(torch.split(model.codec.encode(torch.cat([row for (row,) in given])), 1))


def _decode(model: Model, given: list[tuple[Any, ...]]) -> list[Any]:
    return list(torch.split(model.codec.decode(torch.cat([row for (row,) in given])), 1))


def _denoise_split(ask: Ask) -> list[Unit]:
    """A row for each picture and condition; conditions that cannot be stacked are units of their own."""
    x, at, conds = ask.arguments
    like = ("denoise", id(ask.model), *_like(x))
    branches = [(cond.key, _by_row(cond, len(x))) for cond in conds]
    units: list[Unit] = []
    for i, row in enumerate(torch.split(x, 1)):
        by_key: dict[Hashable, list[Row]] = {}
        for k, (key, rows) in enumerate(branches):
            place = i * len(branches) + k
            by_key.setdefault(key, []).append(
                Row(ask, place, (*like, key), (row, at, rows[i], conds[k].manner))
            )
        units += [tuple(unit) for unit in by_key.values()]
    return units


def _denoise_call(model: Model, given: list[tuple[Any, ...]]) -> list[Any]:
    """An estimate a row, each at the level it was asked at."""
    x, levels, conds, manners = zip(*given, strict=True)
    doors = {name: torch.cat([one[name] for one in conds]) for name in conds[0]}
    cond = made(doors, manners[0])  # rows of one call have one key, and so one manner
    found = model.denoiser(torch.cat(x), row_levels(list(levels)), cond)
    rows = [[None] * len(x) if part is None else torch.split(part, 1) for part in _ends(found)]
    return [Estimate(at, *parts) for at, *parts in zip(levels, *rows, strict=True)]


def _denoise_build(ask: Ask, answers: list[Any]) -> tuple[Estimate, ...]:
    """One estimate of all pictures for each condition."""
    _, at, conds = ask.arguments
    found = []
    for k in range(len(conds)):
        ends = zip(*(_ends(one) for one in answers[k :: len(conds)]), strict=True)
        found.append(Estimate(at, *(None if part[0] is None else torch.cat(part) for part in ends)))
    return tuple(found)


def _by_row(cond: Cond, rows: int) -> list[dict[str, Tensor]]:
    """The tensors of ``cond`` for each of ``rows`` rows, by door."""
    parts = {name: torch.split(value, 1) for name, value in cond.expand(rows).named().items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(rows)]


def _ends(estimate: Estimate) -> tuple[Any, Any, Any]:
    return estimate.x0, estimate.eps, estimate.learned


def _like(x: Tensor) -> tuple[Hashable, ...]:
    """What rows of two tensors must share to be stacked."""
    return tuple(x.shape[1:]), x.dtype, x.device


VERBS = {
    "embed": Verb(_embed_split, _embed_call, _embed_build),
    "encode": Verb(_pixels_split, _encode, _pixels_build),
    "denoise": Verb(_denoise_split, _denoise_call, _denoise_build),
    "decode": Verb(_pixels_split, _decode, _pixels_build),
}
"""The four verbs of a model."""
