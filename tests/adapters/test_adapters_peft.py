"""PEFT's own folders, of each of its algorithms that are read here: its output against ours, on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from sfumato.adapters import apply, load_adapter, save_adapter
from sfumato.errors import WeightsError
from tests.adapters import files
from tests.adapters.cases import CASES, networks, output, theirs

CONFIGS: dict[str, Callable[..., Any]] = {
    "lora": lambda **more: peft.LoraConfig(r=3, lora_alpha=2, **more),
    "lora rank-stabilized": lambda **more: peft.LoraConfig(r=3, lora_alpha=2, use_rslora=True, **more),
    "lora bias": lambda **more: peft.LoraConfig(r=3, lora_alpha=2, lora_bias=True, **more),
    "dora": lambda **more: peft.LoraConfig(r=3, lora_alpha=2, use_dora=True, **more),
    "loha": lambda **more: peft.LoHaConfig(r=3, alpha=2, **more),
    "loha of kernels": lambda **more: peft.LoHaConfig(r=3, alpha=2, use_effective_conv2d=True, **more),
    "lokr": lambda **more: peft.LoKrConfig(r=3, alpha=2, **more),
    "lokr in parts": lambda **more: peft.LoKrConfig(
        r=1, alpha=2, decompose_both=True, use_effective_conv2d=True, **more
    ),
}


def folder(case: str, kind: str, to: Path) -> nn.Module:
    """A PEFT model of some layers with every tensor drawn, saved to ``to``; the model."""
    net = theirs(case)
    kinds = (nn.Linear,) if case in ("clip", "t5") else (nn.Linear, nn.Conv2d)
    names = [n for n in files.layers(net, kinds) if CASES[case].adapted(n)]
    if kind == "lora bias":
        names = [n for n in names if getattr(net.get_submodule(n), "bias", None) is not None]
    model: Any = peft.get_peft_model(net, CONFIGS[kind](target_modules=names[:: max(1, len(names) // 12)]))
    draws = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in ("lora_A", "lora_B", "hada_", "lokr_", "lora_magnitude")):
            wide = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 1.0
            drawn = torch.randn(parameter.shape, generator=draws) * wide
            parameter.data = drawn.abs() + 0.5 if "magnitude" in name else drawn
    model.save_pretrained(to)
    return model.base_model.model.eval()  # type: ignore[no-any-return]


NO_BIAS = [("t5", "lora bias")]
"""Networks whose layers have none."""


@pytest.mark.parametrize(("case", "kind"), [(c, k) for c in CASES for k in CONFIGS if (c, k) not in NO_BIAS])
def test_pefts_folder_is_pefts_output(case: str, kind: str, tmp_path: Path) -> None:
    expected = output(case, folder(case, kind, tmp_path / "theirs"))
    parts = networks(case)
    own = parts[CASES[case].place]
    before = output(case, own)
    adapter = load_adapter(tmp_path / "theirs")
    assert adapter.layout == "peft"
    atol = 1e-5 * max(1.0, float(expected.abs().max()))  # outputs are up to 12
    for merged in (False, True):
        with apply(parts, [(adapter, 1.0)], merged=merged) as applied:
            assert applied.notes == ()
            torch.testing.assert_close(output(case, own), expected, rtol=1e-5, atol=atol)
    assert (expected - before).abs().max() > 0.01
    assert torch.equal(output(case, own), before)


@pytest.mark.parametrize("kind", ["lora", "lora rank-stabilized", "dora"])
@pytest.mark.parametrize("case", ["sd1", "flux", "clip"])
def test_peft_reads_what_we_write(case: str, kind: str, tmp_path: Path) -> None:
    expected = output(case, folder(case, kind, tmp_path / "theirs"))
    save_adapter(tmp_path / "ours", load_adapter(tmp_path / "theirs"), networks(case), "peft")
    again: Any = peft.PeftModel.from_pretrained(theirs(case), tmp_path / "ours")
    torch.testing.assert_close(output(case, again.base_model.model.eval()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["BOFTConfig", "OFTConfig", "IA3Config", "VeraConfig"])
def test_what_is_not_read_is_refused_by_its_keys(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"feedforward_modules": []} if kind == "IA3Config" else {}
    sizes = {
        "BOFTConfig": {"boft_block_size": 4},
        "OFTConfig": {"oft_block_size": 4, "r": 0},
        "VeraConfig": {"r": 2},
    }
    config = getattr(peft, kind)(target_modules=["to_q"], **more, **sizes.get(kind, {}))
    model: Any = peft.get_peft_model(theirs("flux"), config)
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"base_model\.model\..*|is no adapter"):
        load_adapter(tmp_path)
