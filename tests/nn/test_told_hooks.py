"""The manners of joint transformers beside diffusers' own: blocks left out, queries averaged by its hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.flux import folded, positions
from tests.peers.pipelines import PIPELINES, Case, peer

diffusers = pytest.importorskip("diffusers")
registry = pytest.importorskip("diffusers.hooks.hooks")
smooths = pytest.importorskip("diffusers.hooks.smoothed_energy_guidance_utils")
F64 = torch.float64


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, peer(PIPELINES[request.param], tmp_path_factory.mktemp("peer")))


@contextmanager
def changed(net: Any, kind: str, layer: int) -> Iterator[None]:
    """``net`` with diffusers' hook of smoothed energy on a block, or without the block; as it was afterwards.

    Its hook that leaves blocks out hands on text and picture in each other's place, so they are taken out of the
    lists.
    """
    if kind == "smooth":
        config = smooths.SmoothedEnergyGuidanceConfig(indices=[layer])
        smooths._apply_smoothed_energy_guidance_hook(net, config, 1.0, name="told")
        yield
        registry.HookRegistry.check_if_exists_or_initialize(net).remove_hook("told", recurse=True)
        return
    double = len(net.transformer_blocks)
    name = "transformer_blocks" if layer < double else "single_transformer_blocks"
    blocks, number = getattr(net, name), layer if layer < double else layer - double
    setattr(net, name, nn.ModuleList(block for i, block in enumerate(blocks) if i != number))
    yield
    setattr(net, name, blocks)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("case", "kind", "layer"),
    [
        ("sd3.5 large", "smooth", 0),
        ("sd3.5 large", "smooth", 1),
        ("sd3.5 large", "skip", 1),
        ("flux", "skip", 1),
        ("flux", "skip", 2),
    ],
    indirect=["case"],
)
def test_the_networks_of_diffusers(case: Case, kind: str, layer: int) -> None:
    """Its hook of smoothed energy averages where it should blur, so a small sigma there is no limit here."""
    net, draws = case.pipe.transformer, torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 8, 8, generator=draws, dtype=F64)
    flow = case.name == "flux"
    tokens = torch.randn(1, 5, 48 if flow else 208, generator=draws, dtype=F64)
    vector = torch.randn(1, 64 if flow else 72, generator=draws, dtype=F64)
    clock, ours = torch.tensor([625.0], dtype=F64), case.model(F64).denoiser.network
    doors = {"tokens": tokens, "vector": vector}
    if flow:
        doors["guidance"] = torch.ones(1, dtype=F64)

    def theirs() -> Tensor:
        if not flow:
            found: Tensor = net(x, tokens, vector, clock).sample
            return found
        places, none = positions(4, 4, 0).double(), torch.zeros(5, 3, dtype=F64)
        rows = net(folded(x), tokens, vector, clock / 1000, places, none, doors["guidance"]).sample
        return torch.nn.functional.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (4, 4)), 2)

    manner = Manner(**{kind: frozenset({layer})})
    plain = theirs()
    with changed(net, kind, layer):
        expected = theirs()
    found = ours(x, clock, **doors, manner=manner)
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert float((found - plain).norm() / plain.norm()) > 1e-3
    assert torch.equal(theirs(), plain)
