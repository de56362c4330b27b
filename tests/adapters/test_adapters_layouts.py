"""Layouts that diffusers does not load: against the formula on the reference's weights, rows cut by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.adapters import apply, describe, load_adapter
from sfumato.adapters.names import split
from tests.adapters import files
from tests.adapters.cases import CASES, networks, ours, output, theirs
from tests.adapters.files import FLUX_ORIGINAL, original

# Original name: the reference's modules, whose rows make it; "~" for halves in the other order.
FLUX = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("~norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
SD3 = {
    "joint_blocks.0.x_block.attn.qkv": tuple(f"transformer_blocks.0.attn.to_{p}" for p in "qkv"),
    "joint_blocks.0.x_block.attn2.qkv": tuple(f"transformer_blocks.0.attn2.to_{p}" for p in "qkv"),
    "joint_blocks.1.context_block.attn.qkv": tuple(f"transformer_blocks.1.attn.add_{p}_proj" for p in "qkv"),
    "joint_blocks.1.context_block.mlp.fc1": ("transformer_blocks.1.ff_context.net.0.proj",),
    "joint_blocks.2.x_block.adaLN_modulation.1": ("transformer_blocks.2.norm1.linear",),
    "joint_blocks.2.context_block.adaLN_modulation.1": ("~transformer_blocks.2.norm1_context.linear",),
    "final_layer.adaLN_modulation.1": ("~norm_out.linear",),
    "final_layer.linear": ("proj_out",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
}
SD1 = {
    "input_blocks.1.0.in_layers.2": ("down_blocks.0.resnets.0.conv1",),
    "input_blocks.1.1.proj_in": ("down_blocks.0.attentions.0.proj_in",),
    "input_blocks.3.0.op": ("down_blocks.0.downsamplers.0.conv",),
    "middle_block.1.transformer_blocks.0.attn2.to_v": (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    ),
    "output_blocks.3.0.skip_connection": ("up_blocks.1.resnets.0.conv_shortcut",),
    "time_embed.2": ("time_embedding.linear_2",),
    "out.2": ("conv_out",),
}


def flux(name: str) -> tuple[str, ...]:
    block, _, rest = name.partition("blocks.")
    if not rest:
        return FLUX[name]
    index, _, inner = rest.partition(".")
    kind = "transformer_blocks" if block == "double_" else "single_transformer_blocks"
    return tuple(f"{kind}.{index}.{each}" for each in FLUX[inner])


WHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "flux": {n: flux(n) for n in (*FLUX_ORIGINAL, "final_layer.adaLN_modulation.1", "final_layer.linear")},
    "sd3": SD3,
    "sd1": SD1,
}
SPELLINGS: dict[str, tuple[Callable[[str], str], dict[str, str], str]] = {
    "kohya": (lambda n: "lora_unet_" + n.replace(".", "_"), files.LYCORIS, "kohya"),
    "comfyui": (lambda n: f"diffusion_model.{n}", files.PEFT, "comfyui"),
    "comfyui-kohya": (lambda n: f"diffusion_model.{n}", files.LYCORIS, "comfyui"),
    "bfl": (lambda n: n, files.PEFT, "bare"),
    "peft": (lambda n: f"base_model.model.{n}", files.PEFT, "peft"),
    "lycoris": (lambda n: "lycoris_" + n.replace(".", "_"), files.LYCORIS, "lycoris"),
}


def applied_output(case: str, path: Path, merged: bool) -> torch.Tensor:
    parts = networks(case)
    with apply(parts, [(load_adapter(path), 1.0)], merged=merged):
        return output(case, parts[CASES[case].place])


@torch.no_grad()
def added(net: nn.Module, modules: tuple[str, ...], update: torch.Tensor) -> None:
    """Add ``update`` to the rows of ``modules``, one after the other."""
    begin = 0
    for name in modules:
        weight = net.get_submodule(name.removeprefix("~")).weight
        part = update[begin : begin + len(weight)]
        if name.startswith("~"):
            part = torch.cat(part.chunk(2)[::-1])
        weight.copy_(weight.double() + part.reshape(weight.shape))
        begin += len(weight)
    assert begin == len(update)


def shapes(case: str) -> dict[str, tuple[int, ...]]:
    found = theirs(case)
    sizes = {
        name: [found.get_submodule(m.removeprefix("~")).weight.shape for m in modules]
        for name, modules in WHERE[case].items()
    }
    return {name: (sum(s[0] for s in own), *own[0][1:]) for name, own in sizes.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", WHERE)
def test_original_names_in_each_spelling(case: str, spelling: str, tmp_path: Path) -> None:
    spell, endings, layout = SPELLINGS[spelling]
    own = original(shapes(case))  # type: ignore[arg-type]
    path = files.written(tmp_path / "a.safetensors", own, spell, endings)
    assert describe(path)["layout"] == layout
    net = theirs(case)
    for name, modules in WHERE[case].items():
        added(net, modules, files.lora_update(own[name], torch.empty(shapes(case)[name])))
    found = applied_output(case, path, merged=spelling != "kohya")
    torch.testing.assert_close(found, output(case, net), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["sd3", "flux"])
@pytest.mark.parametrize("prefix", ["lora_transformer_", "lycoris_"])
def test_underscored_diffusers_names(case: str, prefix: str, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(6)
    own = {
        n: files.lora(m.weight.detach(), draws) for n, m in files.layers(theirs(case), (nn.Linear,)).items()
    }
    for factor in own.values():
        factor["down"] *= factor["down"][0].numel() ** -0.5
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: prefix + n.replace(".", "_"), files.LYCORIS
    )
    assert describe(path)["layout"] == {"lora_transformer_": "onetrainer"}.get(prefix, "lycoris")
    expected = output(case, files.changed(theirs(case), own, files.lora_update))
    torch.testing.assert_close(applied_output(case, path, False), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["loha", "dora"])
def test_other_algorithms_on_fused_rows(algorithm: str, tmp_path: Path) -> None:
    """A file's part of one of our weights: rows of DoRA and LoHa are updated by themselves."""
    make, update = files.ALGORITHMS[algorithm]
    draws = torch.Generator().manual_seed(7)
    net = theirs("flux")
    names = [
        "single_transformer_blocks.0.attn.to_k",
        "single_transformer_blocks.1.proj_mlp",
        "norm_out.linear",
    ]
    own = {n: make(net.get_submodule(n).weight.detach(), draws) for n in names}
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: "lora_transformer_" + n.replace(".", "_"), files.LYCORIS
    )
    expected = output("flux", files.changed(net, own, update))
    for merged in (True, False):
        torch.testing.assert_close(applied_output("flux", path, merged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_no_name_of_a_family_means_two_things(case: str) -> None:
    """Every tensor of every layout is found by its dotted and its underscored name, and is the right one."""
    index = ours(case).index
    seen: dict[tuple[str, str], tuple[object, ...]] = {}
    for layout, spots in index.spots.items():
        for name, spot in spots.items():
            owner, kind = split(name)
            if (case, layout, owner) == ("clip", "original", "text_projection"):
                continue  # OpenCLIP's is the transpose: as an adapter's layer the name means transformers' matrix
            for spelled in (owner, owner.replace(".", "_")):
                before = seen.setdefault((spelled, kind), (spot.runs, spot.transposed))
                assert before == (spot.runs, spot.transposed), (layout, name)
                found = index.find(spelled, kind)
                assert found is not None
                assert found.runs == spot.runs
    reference = [n for n, _ in theirs(case).named_parameters() if n in index.spots["diffusers"]]
    assert len(reference) >= len(index.spots["diffusers"]) - 1  # T5's token table has a second name there
