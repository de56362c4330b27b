"""The proof is not blind: exchanging two rows of equal shapes in any key table changes what the network says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sfumato.families.checkpoint import Part
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from tests.peers.pipelines import Case
from tests.peers.single_files import places

PAIRS = 5


def exchanged(table: KeyTable, first: int, second: int) -> KeyTable:
    """``table`` with what two rows say of the file exchanged."""
    rows = list(table.rows)
    a, b = rows[first], rows[second]
    rows[first] = replace(a, original=b.original, diffusers=b.diffusers)
    rows[second] = replace(b, original=a.original, diffusers=a.diffusers)
    return KeyTable(tuple(rows), table.ignore)


def alike(part: Part, table: KeyTable) -> list[tuple[int, int]]:
    """Pairs of rows whose tensors have equal shapes, drawn from all."""
    with torch.device("meta"):
        state = {name: tuple(tensor.shape) for name, tensor in part.make().state_dict().items()}
    by_shape: dict[object, list[int]] = {}
    for number, row in enumerate(table.rows):
        column, ours = row.column(part.layout), row.ours
        assert ours is not None
        assert column is not None
        shapes = sorted((k.removeprefix(ours.names[0]), s) for k, s in state.items() if _of(k, ours.names[0]))
        if shapes:  # rows stand in tables for shortcuts that a block may not have
            kind = (len(ours.names), column.shares, column.swap, column.turn, column.rounds)
            by_shape.setdefault((*shapes, *kind), []).append(number)
    pairs = [(a, b) for found in by_shape.values() for a in found for b in found if a < b]
    return random.Random(4).sample(pairs, min(PAIRS, len(pairs)))


def _of(name: str, row: str) -> bool:
    return name == row or name.startswith(row + ".")


def asked(kind: str, net: nn.Module, config: object) -> list[Tensor]:
    """All that a network says to fixed questions."""
    draws = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    clock = torch.tensor([431.0])
    if kind == "vae":
        mean, _ = net.moments(draw(1, 3, 8, 8))  # type: ignore[operator]
        return [mean, net.decode(draw(1, config.latent, 4, 4))]  # type: ignore[attr-defined,operator]
    if kind == "clip":
        ids = torch.tensor([[49406, 320, 2368, 539, 49407, 0, 0]])
        return [x for x in (*net(ids), *net(ids, skip=1, normed=False)) if x is not None]
    if kind == "t5":
        return [net(torch.arange(3, 19)[None])]
    if kind == "unet":
        label = torch.tensor([20]) if config.classes else None  # type: ignore[attr-defined]
        vector = draw(1, config.vector) if config.vector else None  # type: ignore[attr-defined]
        tokens = draw(1, 5, config.tokens)  # type: ignore[attr-defined]
        return [net(draw(1, config.inner, 8, 8), clock, tokens=tokens, vector=vector, label=label)]  # type: ignore[attr-defined]
    more = {"guidance": torch.tensor([3.0])} if kind == "flux" else {}
    tokens, vector = draw(1, 5, config.tokens), draw(1, config.vector)  # type: ignore[attr-defined]
    return [net(draw(1, config.channels, 4, 6), clock, tokens=tokens, vector=vector, **more)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", ["sd1", "sdxl", "x4", "sd3.5 medium", "flux"], indirect=True)
def test_no_two_rows_of_a_key_table_can_be_exchanged(case: Case) -> None:
    for part in places(case.peer.folder).values():
        if part.kind == "clip" and case.name != "sdxl":
            continue

        def say(table: KeyTable, part: Part = part) -> list[Tensor]:
            net = load_into(part.make, part.source, table, part.layout, dtype=torch.float32)
            with torch.no_grad():
                return asked(part.kind, net, part.config)

        check(part, say)


def check(part: Part, say: Callable[[KeyTable], list[Tensor]]) -> None:
    """Every exchanged pair of rows must be heard."""
    whole = say(part.table)
    assert all(torch.equal(a, b) for a, b in zip(whole, say(part.table), strict=True))
    pairs = alike(part, part.table)
    assert pairs
    for first, second in pairs:
        other = say(exchanged(part.table, first, second))
        off = max(float((a - b).abs().max()) for a, b in zip(whole, other, strict=True))
        assert off > 1e-3, (part.kind, part.table.rows[first], part.table.rows[second])
