"""SANA's files: both layouts, networks in files of their own, adapters, what is refused, the command line."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sana_transformer_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

import sfumato
from sfumato.adapters import Network, apply, load_adapter
from sfumato.cli.main import main
from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.settings import network
from sfumato.families.split import opened
from sfumato.picture.read import read_picture
from sfumato.tasks.text2image import Text2Image
from sfumato.text.t5 import T5Tokens
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers.further import further
from tests.peers.pipelines import Case

F32 = torch.float32


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """SANA 1.5, built once."""
    return further("sana 1.5", tmp_path_factory.mktemp("sana"))


def authors(case: Case, path: Path) -> dict[str, Tensor]:
    """The denoiser of a case as the authors' file has it, with what lies beside its weights."""
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    save_module(path, module, part.table, "original")
    whole = load_file(path)
    side = 128 if case.name == "sana 4K" else 32
    whole["pos_embed"] = torch.zeros(1, side * side, 224)
    whole["y_embedder.y_embedding"] = torch.zeros(300, 48)
    save_file(whole, path)
    return whole


@pytest.mark.parametrize("name", ["sana 1.5", "sana", "sana 4K"])
def test_both_layouts_hold_the_same(name: str, tmp_path: Path) -> None:
    case = further(name, tmp_path / "it")
    theirs = authors(case, tmp_path / "theirs.safetensors")
    with open_source(case.peer.folder) as source:
        report = inspect(source)
        assert (report.family, report.title, report.prediction) == ("sana", "SANA", "flow")
        side = 4096 if case.name == "sana 4K" else 1024
        version = "1.5" if case.name == "sana 1.5" else "1.0"
        assert report.variant == f"{version}, {side} pixels"
        assert not report.missing
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    with open_source(tmp_path / "theirs.safetensors") as source:
        assert inspect(source).variant == report.variant
        alone = open_checkpoint(source).parts["denoiser"]
        assert alone.layout == "original"
        assert alone.config == part.config
        again = load_into(part.make, alone.source, part.table, "original")
        convert(source, tmp_path / "made", "diffusers")
    for key, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    state = {key: tensor.float() for key, tensor in case.pipe.transformer.state_dict().items()}
    made = load_file(tmp_path / "made" / "diffusion_pytorch_model.safetensors")
    assert made.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(made[key], tensor), key
    told = type(case.pipe.transformer).from_config(network(part, "sana"))
    assert {k: v.shape for k, v in told.state_dict().items()} == {k: v.shape for k, v in state.items()}
    for key in ("sample_size", "interpolation_scale", "num_cross_attention_heads", "mlp_ratio", "qk_norm"):
        assert told.config[key] == case.pipe.transformer.config[key], key
    # diffusers' reader of the authors' file does not know the norms of 1.5, whose names are its converter's
    norms = {
        f"blocks.{i}.{ours}.{one}_norm.weight": f"transformer_blocks.{i}.{name}.norm_{one}.weight"
        for i in range(2)
        for ours, name in (("attn", "attn1"), ("cross_attn", "attn2"))
        for one in "qk"
        if case.name == "sana 1.5"
    }
    read = {name: theirs.pop(key) for key, name in norms.items()}
    read |= convert_sana_transformer_to_diffusers(theirs)
    assert read.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(read[key], tensor), key


def test_files_of_their_own_make_the_same_pictures(case: Case, tmp_path: Path) -> None:
    file, folder = tmp_path / "sana.pth", case.peer.folder
    whole = authors(case, tmp_path / "it.safetensors")
    torch.save({"state_dict": whole}, file)
    asked: dict[str, Any] = {
        "dtype": "float32",
        "tokens": folder / "tokenizer",
        "allow_pickle": True,
        "parts": [folder / "text_encoder", folder / "vae"],
    }
    ours, theirs = sfumato.load(str(file), **asked), sfumato.load(str(folder), dtype="float32")
    found, wanted = (m("a red cat", steps=2, size="128x128").images[0].pixels for m in (ours, theirs))
    assert (found == wanted).all()
    with (
        opened(file, asked["parts"][1:], allow_pickle=True) as checkpoint,
        pytest.raises(WeightsError, match="lacks language"),
    ):
        load_checkpoint(checkpoint, tokens=T5Tokens.load(folder / "tokenizer"))


def test_a_folder_is_written_again(case: Case, tmp_path: Path) -> None:
    with open_source(case.peer.folder) as source:
        convert(source, tmp_path / "again", "diffusers")
    with open_source(tmp_path / "again") as source:
        model = load_checkpoint(open_checkpoint(source))
    task = Text2Image(prompt="a red cat", steps=2, seed=3, size="128x128")
    assert torch.equal(walked(model, task)[0], walked(case.model(F32), task)[0])


def test_what_is_not_of_one_model_or_not_followed_is_refused(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(case.peer.folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    told = json.loads(path.read_text("utf-8"))
    for wrong, why in (
        ({"use_flow_sigmas": False}, "use_flow_sigmas = False"),
        ({"solver_order": 3}, "solver_order = 3"),
        ({"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ({"_class_name": "UniPCMultistepScheduler"}, "UniPCMultistepScheduler"),
        ({"_class_name": "SCMScheduler"}, "SCMScheduler"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
    ):
        path.write_text(json.dumps({**told, **wrong}), "utf-8")
        with open_source(folder) as source, pytest.raises(WeightsError, match=why):
            load_checkpoint(open_checkpoint(source))
    with open_source(case.peer.folder) as source:
        checkpoint = open_checkpoint(source)
        part = checkpoint.parts["language"]
        other = replace(part, config=replace(part.config, width=64))
        with pytest.raises(WeightsError, match="text of width 48, and the encoders have 64"):
            load_checkpoint(replace(checkpoint, parts={**checkpoint.parts, "language": other}))
    with pytest.raises(InvalidRequest, match="as it is written"):
        case.model(F32).conditioner([Prompt(text="a", skip=1)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_cross_attention_heads": 5},
        {"num_attention_heads": 0},
        {"sample_size": 0},
        {"timestep_scale": 1000.0},
    ],
)
def test_settings_that_fit_no_network_are_told(case: Case, wrong: dict[str, float], tmp_path: Path) -> None:
    shutil.copytree(case.peer.folder, tmp_path / "it")
    path = tmp_path / "it" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **wrong}), "utf-8")
    with pytest.raises(WeightsError, match="does not fit"):
        sfumato.load(str(tmp_path / "it"))


def test_no_two_rows_of_the_key_table_can_be_exchanged(case: Case) -> None:
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 32, 4, 6, generator=draws), torch.randn(1, 5, 48, generator=draws)
    mask = torch.tensor([[True] * 4 + [False]])

    def say(table: KeyTable) -> list[Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [net(x, torch.tensor([431.0]), tokens=tokens, mask=mask)]

    check(part, say)


def as_original(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """An adapter by diffusers' names with those of the authors' layers, of which some are several of diffusers'."""
    names = {
        "attn1.to_out.0": "attn.proj",
        "attn2.to_q": "cross_attn.q_linear",
        "attn2.to_out.0": "cross_attn.proj",
        "ff.conv_inverted": "mlp.inverted_conv.conv",
        "ff.conv_depth": "mlp.depth_conv.conv",
        "ff.conv_point": "mlp.point_conv.conv",
    }
    joined = {
        "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
        "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    }
    ends = {
        "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_embed.linear": "t_block.1",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1",
        "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "patch_embed.proj": "x_embedder.proj",
        "proj_out": "final_layer.linear",
    }
    made: dict[str, Tensor] = {}
    for kind in ("lora_A", "lora_B"):
        for name, own in ends.items():
            made[f"diffusion_model.{own}.{kind}.weight"] = theirs[f"transformer.{name}.{kind}.weight"]
        for i in range(2):
            begin, own_begin = f"transformer.transformer_blocks.{i}.", f"diffusion_model.blocks.{i}."
            for name, own in names.items():
                made[f"{own_begin}{own}.{kind}.weight"] = theirs[f"{begin}{name}.{kind}.weight"]
            for own, parts in joined.items():
                found = [theirs[f"{begin}{name}.{kind}.weight"] for name in parts]
                made[f"{own_begin}{own}.{kind}.weight"] = found[0] if kind == "lora_A" else torch.cat(found)
    assert sum(len(t) for k, t in made.items() if "lora_B" in k) == sum(
        len(t) for k, t in theirs.items() if "lora_B" in k
    )
    return made


@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_an_adapter_of_every_layer_does_what_diffusers_says(case: Case, tmp_path: Path, names: str) -> None:
    draws = torch.Generator().manual_seed(5)
    net = copy.deepcopy(case.pipe.transformer).float()
    theirs: dict[str, Tensor] = {}
    for name, layer in net.named_modules():
        if not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        shared = name.replace("to_v", "to_k")  # one matrix for all parts of a fused layer, as in files
        shared = shared.replace("to_k", "to_q") if "attn1" in name else shared
        wide = tuple(layer.weight.shape[1:])
        drawn = 0.3 / layer.weight[0].numel() ** 0.5 * torch.randn(3, *wide, generator=draws)
        down = theirs.get(f"transformer.{shared}.lora_A.weight")
        theirs[f"transformer.{name}.lora_A.weight"] = drawn if down is None else down.clone()
        up = torch.randn(len(layer.weight), 3, *(1,) * (len(wide) - 1), generator=draws)
        theirs[f"transformer.{name}.lora_B.weight"] = up
    save_file(theirs, tmp_path / "theirs.safetensors")
    ours = theirs if names == "diffusers" else as_original(theirs)
    save_file(ours, tmp_path / "ours.safetensors")
    depth = [name for name in theirs if "conv_depth" in name]
    for i, block in enumerate(net.transformer_blocks):  # PEFT has none for convolutions by channels
        down, up = (theirs[f"transformer.transformer_blocks.{i}.ff.conv_depth.lora_{x}.weight"] for x in "AB")
        with torch.no_grad():
            block.ff.conv_depth.weight += (up.flatten(1) @ down.flatten(1)).view_as(
                block.ff.conv_depth.weight
            )
    net.load_lora_adapter({k: v for k, v in theirs.items() if k not in depth}, prefix="transformer")
    x, tokens = torch.randn(2, 32, 6, 4, generator=draws), torch.randn(2, 5, 48, generator=draws)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    clock = torch.tensor([625.0, 200.0])
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        own = load_into(part.make, part.source, part.table, part.layout, dtype=F32)
    parts = {"denoiser": Network(own, part.table)}
    with torch.no_grad():
        expected = net(x, tokens, clock, None, mask.long()).sample
        before = own(x, clock, tokens=tokens, mask=mask)
        for merged in (False, True):
            with apply(parts, [(load_adapter(tmp_path / "ours.safetensors"), 1.0)], merged=merged):
                found = own(x, clock, tokens=tokens, mask=mask)
                assert far(found, expected.double()) < 1e-5
        after = own(x, clock, tokens=tokens, mask=mask)
    assert torch.equal(after, before)
    assert far(before, expected.double()) > 0.05


def test_from_the_command_line(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authors(case, tmp_path / "theirs.safetensors")

    def said(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    told = json.loads(said("inspect", case.peer.folder, "--json"))
    assert (told["family"], told["variant"], told["missing"]) == ("sana", "1.5, 1024 pixels", [])
    assert [part["kind"] for part in told["components"]] == ["sana", "dcae", "gemma2"]
    assert "deep compression autoencoder" in said("inspect", case.peer.folder / "vae")
    said("convert", tmp_path / "theirs.safetensors", tmp_path / "made", "--to", "diffusers")
    made = diffusers.SanaTransformer2DModel.from_pretrained(tmp_path / "made")
    for name, tensor in case.pipe.transformer.state_dict().items():
        assert torch.equal(made.state_dict()[name].double(), tensor), name
    assert "SANA 1.5" in said("families")
    picture = tmp_path / "cat.png"
    said("generate", "a cat", "--model", case.peer.folder, "--steps", 2, "--size", "128x160", "-o", picture)
    assert read_picture(picture).pixels.shape == (160, 128, 3)
