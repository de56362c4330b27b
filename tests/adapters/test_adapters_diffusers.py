"""Files that diffusers loads: its output with PEFT's layers against ours, on the same redrawn weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from sfumato.adapters import apply, load_adapter, metadata_for, save_adapter
from tests.adapters import files
from tests.adapters.cases import CASES, networks, output, theirs
from tests.adapters.files import FLUX_ORIGINAL, original

PIPELINES: dict[str, Any] = {
    "sd1": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
    "flux": diffusers.FluxPipeline,
    "chroma": diffusers.ChromaPipeline,
    "clip": diffusers.StableDiffusionPipeline,
}


def loaded(case: str, path: Path, net: nn.Module | None = None) -> nn.Module:
    """The reference with the adapter in ``path``, loaded as its pipelines do."""
    net = net or theirs(case)
    options: dict[str, Any] = {"unet_config": net.config} if case == "sdxl" else {}
    found = PIPELINES[case].lora_state_dict(
        path.parent, weight_name=path.name, return_lora_metadata=True, **options,
        **({"return_alphas": True} if case in ("flux", "chroma", "sd3") else {}),
    )  # fmt: skip
    state, *alphas, told = found
    alpha = alphas[0] if alphas else None
    alpha = None if told else alpha
    if case == "clip":
        PIPELINES[case].load_lora_into_text_encoder(
            state, alpha, net, prefix="text_encoder", metadata=told or None
        )
    else:
        net.load_lora_adapter(state, prefix=CASES[case].prefix, network_alphas=alpha, metadata=told or None)
    return net


def equal(case: str, path: Path, *, atol: float = 1e-5) -> Tensor:
    """Check that diffusers and we, live and merged, answer alike; the answer."""
    expected = output(case, loaded(case, path))
    parts = networks(case)
    own = parts[CASES[case].place]
    before = output(case, own)
    adapter = load_adapter(path)
    for merged in (False, True):
        with apply(parts, [(adapter, 1.0)], merged=merged) as applied:
            assert applied.notes == ()
            torch.testing.assert_close(output(case, own), expected, rtol=0, atol=atol)
    assert (expected - before).abs().max() > 0.05
    assert torch.equal(output(case, own), before)
    return expected


def chosen(case: str) -> dict[str, nn.Module]:
    """Layers that diffusers loads: of a U-Net a part, of a transformer all, of an encoder its blocks."""
    found = files.layers(theirs(case))
    if case in ("sd1", "sdxl"):
        return {k: v for n, (k, v) in enumerate(found.items()) if n % 9 == 0 or ("conv" in k and n % 8 == 1)}
    return {k: v for k, v in found.items() if case != "clip" or ".layers." in k}


def factors(
    case: str, algorithm: str, names: Callable[[str], bool] = lambda name: True
) -> dict[str, files.Factors]:
    draws = torch.Generator().manual_seed(3)
    make = files.ALGORITHMS[algorithm][0]
    found = {k: make(v.weight.detach(), draws) for k, v in chosen(case).items() if names(k)}
    for own in found.values():
        if "down" in own:
            own["down"] *= own["down"][0].numel() ** -0.5
    return found


@pytest.mark.parametrize("algorithm", ["lora", "dora"])
@pytest.mark.parametrize("case", PIPELINES)
def test_diffusers_layout_on_every_layer(case: str, algorithm: str, tmp_path: Path) -> None:
    own = factors(case, algorithm)
    endings = dict(files.PEFT)
    if case == "clip":
        endings["magnitude"] += ".weight"
    for factor in own.values():
        if factor["down"].ndim == 4 and "magnitude" in factor:
            factor["magnitude"] = factor["magnitude"].view(1, -1, 1, 1)
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: f"{CASES[case].prefix}.{n}", endings, alpha=None
    )
    equal(case, path)


@pytest.mark.parametrize("case", PIPELINES)
def test_diffusers_layout_with_scales_in_its_header(case: str, tmp_path: Path) -> None:
    own = factors(case, "lora")
    names = sorted(own)
    prefix = CASES[case].prefix
    told = {
        "r": files.RANK,
        "lora_alpha": 2.0,
        "alpha_pattern": {f"^{names[0]}": 0.5, f"^{names[-1]}": 4.0},
        "rank_pattern": {},
        "target_modules": names,
        "use_rslora": case == "flux",
    }
    flat = json.dumps({f"{prefix}.{k}": v for k, v in told.items()})
    path = files.written(
        tmp_path / "a.safetensors",
        own,
        lambda n: f"{prefix}.{n}",
        files.PEFT,
        alpha=None,
        metadata={"format": "pt", "lora_adapter_metadata": flat},
    )
    equal(case, path)


@pytest.mark.parametrize("case", ["sd1", "sdxl"])
def test_old_diffusers_layout(case: str, tmp_path: Path) -> None:
    own = factors(case, "lora", lambda n: ".attn" in n and "to_" in n)

    def spell(name: str) -> str:
        head, _, last = name.removesuffix(".0").rpartition(".")
        return f"unet.{head}.processor.{last}_lora"

    endings = {"down": "down.weight", "up": "up.weight"}
    path = files.written(tmp_path / "a.safetensors", own, spell, endings, alpha=None)
    assert load_adapter(path).layout == "diffusers-old" or load_adapter(path).layout == "diffusers"
    equal(case, path)


@pytest.mark.parametrize("case", ["sd1", "sdxl", "clip"])
def test_kohya_layout_with_diffusers_names(case: str, tmp_path: Path) -> None:
    own = factors(
        case, "lora", lambda n: any(k in n for k in (".attn", "self_attn", ".ff.", ".mlp.", "conv1"))
    )
    prefix = "lora_te_" if case == "clip" else "lora_unet_"
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: prefix + n.replace(".", "_"), files.LYCORIS
    )
    assert load_adapter(path).layout == "kohya"
    equal(case, path)


def test_kohya_layout_of_flux(tmp_path: Path) -> None:
    path = files.written(
        tmp_path / "a.safetensors",
        # diffusers 0.42 cuts linear1 at the published widths, so it cannot read a small one, and it loses what does
        # not lie in a block (img_in, time_in, ...): it names them without "transformer." and then passes them over.
        original({k: v for k, v in FLUX_ORIGINAL.items() if "blocks" in k and not k.endswith("linear1")}),
        lambda n: "lora_unet_" + n.replace(".", "_"),
        files.LYCORIS,
    )
    equal("flux", path)


def test_xlabs_layout_of_flux(tmp_path: Path) -> None:
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (48, 16),
        "double_blocks.0.processor.qkv_lora2": (48, 16),
        "double_blocks.0.processor.proj_lora1": (16, 16),
        "double_blocks.0.processor.proj_lora2": (16, 16),
        "single_blocks.0.processor.qkv_lora": (48, 16),
        "single_blocks.1.processor.proj_lora": (16, 80),
    }
    endings = {"down": "down.weight", "up": "up.weight"}
    path = files.written(tmp_path / "a.safetensors", original(shapes), lambda n: n, endings, alpha=None)
    assert load_adapter(path).layout == "xlabs"
    equal("flux", path)


SGM = {
    # Stability's names beside diffusers', for two levels of transformers and the layers around them.
    "input_blocks.4.0.in_layers.2": "down_blocks.1.resnets.0.conv1",
    "input_blocks.4.0.emb_layers.1": "down_blocks.1.resnets.0.time_emb_proj",
    "input_blocks.4.0.out_layers.3": "down_blocks.1.resnets.0.conv2",
    "input_blocks.4.1.proj_in": "down_blocks.1.attentions.0.proj_in",
    "input_blocks.5.1.transformer_blocks.1.attn2.to_k": "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k",
    "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj": (
        "down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj"
    ),
    "middle_block.1.transformer_blocks.1.attn1.to_out.0": "mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0",
    "middle_block.0.in_layers.2": "mid_block.resnets.0.conv1",
    "output_blocks.0.1.transformer_blocks.0.attn1.to_q": "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "output_blocks.4.1.proj_out": "up_blocks.1.attentions.1.proj_out",
}


def test_kohya_layout_of_sdxl_with_stabilitys_names(tmp_path: Path) -> None:
    found = files.layers(theirs("sdxl"))
    shapes = {name: tuple(found[other].weight.shape) for name, other in SGM.items()}
    own = original(shapes)  # type: ignore[arg-type]
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: "lora_unet_" + n.replace(".", "_"), files.LYCORIS
    )
    equal("sdxl", path)


@pytest.mark.parametrize("algorithm", ["lora", "dora"])
@pytest.mark.parametrize("case", PIPELINES)
def test_diffusers_reads_what_we_write(case: str, algorithm: str, tmp_path: Path) -> None:
    own = factors(case, algorithm)
    for number, factor in enumerate(own.values()):  # ranks differ between layers
        if number % 3 == 0:
            factor["down"], factor["up"] = factor["down"][:2], factor["up"][:, :2]
    prefix = {"clip": "lora_te_"}.get(case, "lora_unet_")
    kohya = files.written(
        tmp_path / "a.safetensors", own, lambda n: prefix + n.replace(".", "_"), files.LYCORIS
    )
    adapter = load_adapter(kohya)
    told = metadata_for(adapter, "sd1", title="drawn")
    save_adapter(tmp_path / "b.safetensors", adapter, networks(case), "diffusers", metadata=told)
    ours = equal(case, tmp_path / "b.safetensors")
    expected = files.changed(theirs(case), own, files.ALGORITHMS[algorithm][1])
    short = [n for n, f in own.items() if len(f["down"]) == 2]
    assert short
    torch.testing.assert_close(ours, output(case, expected), rtol=0, atol=2e-5)
