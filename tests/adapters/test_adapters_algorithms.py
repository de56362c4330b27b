"""Each algorithm on each family, against the formula written out on the reference's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.adapters import Strength, apply, load_adapter
from tests.adapters import files
from tests.adapters.cases import CASES, networks, output, theirs

KINDS = {**dict.fromkeys(CASES, (nn.Linear, nn.Conv2d)), "t5": (nn.Linear,), "clip": (nn.Linear,)}


def spelled(case: str, style: str) -> dict[str, str]:
    prefix = CASES[case].prefix
    kohya = {"unet": "lora_unet_", "transformer": "lora_unet_", "text_encoder": "lora_te1_"}
    if style == "kohya":
        return {"prefix": kohya.get(prefix, "lora_te3_")}
    return {"prefix": f"{prefix}."}


PAIRS = [
    (case, algorithm)
    for case in CASES
    for algorithm in files.ALGORITHMS
    if algorithm not in files.KERNELS_ONLY
    or case not in ("clip", "t5", "flux", "chroma")  # they have no kernels
]


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "live"])
@pytest.mark.parametrize(("case", "algorithm"), PAIRS)
def test_an_algorithm_is_its_formula(case: str, algorithm: str, merged: bool, tmp_path: Path) -> None:
    make, update = files.ALGORITHMS[algorithm]
    net = theirs(case)
    draws = torch.Generator().manual_seed(3)
    found = {k: v for k, v in files.layers(net, KINDS[case]).items() if CASES[case].adapted(k)}
    if algorithm in files.KERNELS_ONLY:
        found = {k: v for k, v in found.items() if isinstance(v, nn.Conv2d) and v.kernel_size != (1, 1)}
    own = {
        name: make(found[name].weight.detach(), draws) for name in list(found)[:: max(1, len(found) // 12)]
    }
    style = spelled(case, "kohya")["prefix"]
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: style + n.replace(".", "_"), files.LYCORIS
    )
    adapter = load_adapter(path)
    # The autoregressive sum of many updates would leave the range of float32's comfort: a tenth of each.
    strength = 0.1
    expected = output(case, files.changed(net, own, update, strength))
    parts = networks(case)
    net_of_ours = parts[CASES[case].place]
    before = output(case, net_of_ours)
    with apply(parts, [(adapter, Strength(value=strength))], merged=merged) as applied:
        assert applied.notes == ()
        found = output(case, net_of_ours)
    assert (expected - before).abs().max() > 1e-3  # the adapter does something
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(output(case, net_of_ours), before)
