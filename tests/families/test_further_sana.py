"""SANA against diffusers' pipeline: conditions, network, the whole default walk, both layouts."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sana_transformer_to_diffusers
from diffusers.models import activations, attention_processor, embeddings
from safetensors.torch import load_file, save_file
from torch import Tensor

import sfumato
from sfumato.adapters import Network, apply, load_adapter
from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import sana
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.settings import network
from sfumato.families.split import opened
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from sfumato.text.t5 import T5Tokens
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers.further import further
from tests.peers.pipelines import Case, Wide, wide_tables

F64, F32 = torch.float64, torch.float32
NAMES = ["sana 1.5", "sana", "sana 4K"]
TEXTS = ("A Red cat at NIGHT ", "dog")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """The cases, each built once."""
    return {name: further(name, tmp_path_factory.mktemp("sana")) for name in NAMES}


@pytest.fixture
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    """A case by its name."""
    return cases[getattr(request, "param", NAMES[0])]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' sinusoids, SiLU and linear attention have float64's digits, which it rounds to float32."""
    for module in (embeddings, activations, attention_processor):
        monkeypatch.setattr(module, "torch", Wide())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(activations.FP32SiLU, "forward", lambda self, x: torch.nn.functional.silu(x))


def instructed(pipe: Any, text: str) -> tuple[Tensor, Tensor]:
    """States and mask that the pipeline makes of a prompt behind its instruction."""
    with torch.no_grad():
        tokens, mask, _, _ = pipe.encode_prompt(
            text, False, complex_human_instruction=sana.BEHIND.split("\n")
        )
    return tokens, mask


def test_the_instruction_is_that_of_the_pipeline() -> None:
    taken = signature(diffusers.SanaPipeline.__call__).parameters
    assert "\n".join(taken["complex_human_instruction"].default) == sana.BEHIND
    assert (taken["num_inference_steps"].default, taken["guidance_scale"].default) == (20, 4.5)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_the_network_and_its_conditions(case: Case, wide: None) -> None:
    x = torch.randn(2, 32, 10, 8, generator=torch.Generator().manual_seed(8), dtype=F64)
    pipe = case.pipe
    tokens, mask = instructed(pipe, TEXTS[0])
    with torch.no_grad():
        _, _, other, no = pipe.encode_prompt(TEXTS[0], True, negative_prompt=TEXTS[1])
        tokens, mask = torch.cat((tokens, other)), torch.cat((mask, no))
        expected = pipe.transformer(x, tokens, torch.tensor([625.0, 200.0], dtype=F64), None, mask).sample
    assert int(mask[0].sum()) != int(mask[1].sum())
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = case.model(dtype)
        cond = model.conditioner([Prompt(text=TEXTS[0]), Prompt(text=TEXTS[1], negative=True)])
        assert cond.tokens is not None
        assert cond.mask is not None
        assert torch.equal(cond.mask, mask.bool())
        kept = mask.bool()
        assert far(cond.tokens[kept], tokens[kept]) < most
        at = row_levels(
            [Level(0.6254, 0.3746, 0.6254), Level(0.2, 0.8, 0.2)]
        )  # the clock's whole part is told
        assert far(model.denoiser.output(x, at, cond), expected) < most


def test_a_long_prompt_is_cut_and_an_absent_negative_one_is_empty(case: Case) -> None:
    long = "the red cat flies and " * 40
    tokens, mask = instructed(case.pipe, long)
    with torch.no_grad():
        _, _, other, no = case.pipe.encode_prompt("a", True, negative_prompt=long)
    model = case.model(F64)
    cond = model.conditioner([Prompt(text=long), Prompt(text=long, negative=True)])
    assert mask.all()
    assert no.all()
    assert cond.tokens is not None
    assert far(cond.tokens, torch.cat((tokens, other))) < 1e-6
    split = case.pipe.tokenizer
    over = len(split(sana.BEHIND + long.strip()).input_ids) - len(split(sana.BEHIND).input_ids) - 298
    assert model.notes(Prompt(text=long)) == [
        f"the prompt is long: Gemma 2 does not read its last {over} tokens"
    ]
    assert model.notes(Prompt(text="", negative=True)) == []
    absent = model.conditioner([Prompt(text="", absent=True, negative=True)])
    assert absent.mask is not None
    assert int(absent.mask.sum()) == 1


def their_walk(case: Case, monkeypatch: pytest.MonkeyPatch, steps: int = 20) -> Tensor:
    """The latent at the end of the pipeline's walk from our noise.

    Its solver rounds the clocks that the network is told down to whole numbers, as ours does.
    """
    noise = torch.randn(1, 32, 10, 8, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad(), wide_tables(case.pipe):
        module = __import__(type(case.pipe.scheduler).__module__, fromlist=["np"])
        monkeypatch.setattr(module, "np", WideNumbers())
        out: Tensor = case.pipe(
            TEXTS[0],
            negative_prompt=TEXTS[1],
            height=320,
            width=256,
            num_inference_steps=steps,
            latents=noise,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="latent",
        ).images
    return out


class WideNumbers:
    """numpy, with float64 where float32 is said."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_the_whole_default_walk(case: Case, wide: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = their_walk(case, monkeypatch)
    task = Text2Image(prompt=TEXTS[0], negative=TEXTS[1], seed=3, size="256x320")
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        model = case.model(dtype)
        latent, pixels = walked(model, task)
        assert far(latent, expected) < most
    with torch.no_grad():
        wanted = case.pipe.vae.decode(expected / 0.41407).sample.clamp(-1, 1)
    assert float((pixels - wanted).abs().max()) < 1e-2


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_defaults_are_those_of_the_pipeline(case: Case) -> None:
    defaults = case.model(F32).defaults
    assert (defaults.steps, defaults.guidance, defaults.sampler) == (20, 4.5, "dpmpp_2m")
    side = 4096 if case.name == "sana 4K" else 1024
    assert (defaults.width, defaults.height, defaults.multiple) == (side, side, 32)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_grids_are_those_of_both_schedulers(case: Case, steps: int, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(case.peer.folder, folder)
    for peer in (
        case.pipe.scheduler,
        diffusers.DPMSolverMultistepScheduler.from_config({**case.pipe.scheduler.config, "flow_shift": 5.0}),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ):
        peer.save_pretrained(folder / "scheduler")
        with open_source(folder) as source:
            model = load_checkpoint(open_checkpoint(source))
        peer.set_timesteps(steps)
        defaults = model.defaults
        grid = make_grid(defaults.grid, steps=steps, schedule=model.schedule((32, 8, 8)))
        np.testing.assert_allclose([at.sigma for at in grid], peer.sigmas, rtol=1e-5)
        assert defaults.sampler == ("euler" if "Euler" in type(peer).__name__ else "dpmpp_2m")


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


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_both_layouts_hold_the_same(case: Case, tmp_path: Path) -> None:
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
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    state = {name: tensor.float() for name, tensor in case.pipe.transformer.state_dict().items()}
    made = load_file(tmp_path / "made" / "diffusion_pytorch_model.safetensors")
    assert made.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(made[name], tensor), name
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
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor), name


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


@pytest.mark.parametrize("layout", ["diffusers", "authors"])
def test_sana_sprint_is_refused_by_name(case: Case, layout: str, tmp_path: Path) -> None:
    net = diffusers.SanaTransformer2DModel.from_config(case.pipe.transformer.config, guidance_embeds=True)
    state = {name: tensor.float() for name, tensor in net.state_dict().items()}
    if layout == "authors":
        state = {"cfg_embedder.mlp.0.weight": torch.ones(1, 1), **authors(case, tmp_path / "it.safetensors")}
    save_file(state, tmp_path / "sprint.safetensors")
    with (
        open_source(tmp_path / "sprint.safetensors") as source,
        pytest.raises(WeightsError, match=r"it is SANA Sprint.*which is not read yet"),
    ):
        inspect(source)


@pytest.mark.parametrize(
    "wrong", [{"num_cross_attention_heads": 5}, {"num_attention_heads": 0}, {"sample_size": 0}]
)
def test_settings_that_fit_no_network_are_told(case: Case, wrong: dict[str, int], tmp_path: Path) -> None:
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
