"""Z-Image's files: both layouts, networks in files of their own and in one, adapters, and the command line."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import lora_conversion_utils, single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.adapters import Network, apply, load_adapter
from sfumato.cli.main import main
from sfumato.errors import WeightsError
from sfumato.families import languages
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.settings import network
from sfumato.families.split import opened
from sfumato.nn.quantized import QuantizedLinear
from sfumato.tasks.text2image import Text2Image
from sfumato.text.t5 import T5Tokens
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.source import open_source
from tests.families.language_files import (
    check_rows,
    drawn_lora,
    fused,
    in_one_file,
    kept_in_both_layouts,
    there_and_back,
)
from tests.families.test_published import far, walked
from tests.peers.further import further
from tests.peers.pipelines import Case
from tests.weights import ggufs

F32 = torch.float32
TASK = Text2Image(prompt="a red cat", steps=2, seed=3, size="64x64")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The Turbo, built once."""
    return further("z-image turbo", tmp_path_factory.mktemp("turbo"))


@pytest.fixture(scope="module")
def whole(case: Case) -> Tensor:
    """What the folder makes of TASK."""
    return walked(case.model(F32), TASK)[0]


def test_both_layouts_hold_the_same(case: Case, tmp_path: Path) -> None:
    """diffusers' own reader of the files in circulation finds its network in ours, with and without their prefix."""
    part = kept_in_both_layouts(case.peer.folder, tmp_path, "Z-Image", languages.zimage)
    told = type(case.pipe.transformer).from_config(network(part, "z-image"))
    state = case.pipe.transformer.state_dict()
    assert {k: v.shape for k, v in told.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert load_file(tmp_path / "diffusers.safetensors").keys() == state.keys()
    with open_source(tmp_path / "original.safetensors") as source:
        module = load_into(part.make, source, part.table, "original").state_dict()
    theirs = {**load_file(tmp_path / "original.safetensors"), "norm_final.weight": torch.ones(96)}
    for prefix in ("", "model.diffusion_model."):
        read = single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers(
            {prefix + name: tensor for name, tensor in theirs.items()}
        )
        assert read.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(read[name].double(), tensor), name
        save_file({prefix + k: v for k, v in theirs.items()}, tmp_path / "prefixed.safetensors")
        with open_source(tmp_path / "prefixed.safetensors") as source:
            found = open_checkpoint(source).parts["denoiser"]
            again = load_into(found.make, found.source, found.table, found.layout).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in module.items())


def test_files_of_their_own_make_the_same_pictures(case: Case, whole: Tensor, tmp_path: Path) -> None:
    file, folder = tmp_path / "z_image_turbo.safetensors", case.peer.folder
    with open_source(folder / "transformer") as source:
        convert(source, file, "original")
    words = load_file(folder / "text_encoder" / "model.safetensors")
    named = {f"model.{name.removeprefix('model.')}": tensor for name, tensor in words.items()}
    save_file({**named, "lm_head.weight": torch.ones(260, 48)}, tmp_path / "qwen_3_4b.safetensors")
    beside = [tmp_path / "qwen_3_4b.safetensors", folder / "vae"]
    tokens = T5Tokens.load(folder / "tokenizer")
    with opened(file, beside) as checkpoint:
        model = load_checkpoint(checkpoint, tokens=tokens)
        assert (model.name, model.denoiser.schedule.shift) == ("z-image-turbo", 3.0)
    assert torch.equal(walked(model, TASK)[0], whole)
    with opened(file, beside) as checkpoint, pytest.raises(WeightsError, match="Qwen 3's vocabulary"):
        load_checkpoint(checkpoint)
    with opened(file, beside[1:]) as checkpoint, pytest.raises(WeightsError, match="lacks language"):
        load_checkpoint(checkpoint)
    with opened(file, beside) as checkpoint:
        part = checkpoint.parts["language"]
        other = replace(part, config=replace(part.config, width=64))
        with pytest.raises(WeightsError, match="text of width 48, and the encoders have 64"):
            load_checkpoint(replace(checkpoint, parts={**checkpoint.parts, "language": other}))


def test_one_file_of_all_networks_as_comfyui_has_it(case: Case, whole: Tensor, tmp_path: Path) -> None:
    more = {
        "text_encoders.qwen3_4b.logit_scale": torch.ones(()),
        "text_encoders.qwen3_4b.transformer.lm_head.weight": torch.ones(260, 48),
        "model.diffusion_model.norm_final.weight": torch.ones(96),
    }
    in_one_file(case.peer.folder, tmp_path / "z_image_turbo_aio.safetensors", "qwen3_4b", more)
    with opened(tmp_path / "z_image_turbo_aio.safetensors") as checkpoint:
        report = inspect(checkpoint.source)
        assert (report.family, report.missing) == ("z-image-turbo", ())
        model = load_checkpoint(checkpoint, tokens=T5Tokens.load(case.peer.folder / "tokenizer"))
    assert torch.equal(walked(model, TASK)[0], whole)


@pytest.mark.parametrize(("name", "shift"), [("z_image_turbo", 3.0), ("z_image", 6.0)])
def test_one_file_becomes_a_folder_and_that_file_again(
    case: Case, whole: Tensor, tmp_path: Path, name: str, shift: float
) -> None:
    more = {
        "text_encoders.qwen3_4b.transformer.lm_head.weight": torch.ones(260, 48),
        "model.diffusion_model.norm_final.weight": torch.ones(96),
    }
    in_one_file(case.peer.folder, tmp_path / f"{name}.safetensors", "qwen3_4b", more)
    folder = there_and_back(
        tmp_path / f"{name}.safetensors", case.peer.folder / "tokenizer", diffusers.ZImagePipeline
    )
    with open_source(folder) as source:
        model = load_checkpoint(open_checkpoint(source))
    assert model.denoiser.schedule.shift == shift
    if shift == 3:
        assert torch.equal(walked(model, TASK)[0], whole)


@pytest.mark.parametrize("flat", ["F32", "BF16"])
def test_a_gguf_whose_rows_are_vectors(case: Case, tmp_path: Path, flat: str) -> None:
    """As llama.cpp's tools write them, which drop a last side of 1 from the learned tokens' shapes."""
    plain, folder = tmp_path / "plain.safetensors", case.peer.folder
    with open_source(folder / "transformer") as source:
        convert(source, plain, "original")
    state = {name: tensor.numpy() for name, tensor in load_file(plain).items()}
    kinds = {
        name: "Q8_0" if v.ndim == 2 and len(v) > 1 and v.shape[1] % 32 == 0 else "F32"
        for name, v in state.items()
    }
    tokens, made = T5Tokens.load(folder / "tokenizer"), []
    for file, pads in (("z_image_turbo-Q8_0", state), ("z_image_turbo_flat-Q8_0", {})):
        held = state | {name: state[name][0] for name in ("x_pad_token", "cap_pad_token") if not pads}
        own = kinds | dict.fromkeys(("x_pad_token", "cap_pad_token"), "F32" if pads else flat)
        ggufs.write(tmp_path / f"{file}.gguf", held, own, "lumina2")
        for packed in (False, True):
            with opened(tmp_path / f"{file}.gguf", [folder / "text_encoder", folder / "vae"]) as checkpoint:
                assert inspect(checkpoint.source).family == "z-image-turbo"
                model = load_checkpoint(checkpoint, tokens=tokens, packed=packed)
            kept = [m for m in model.denoiser.network.modules() if isinstance(m, QuantizedLinear)]
            assert bool(kept) == packed
            made.append(walked(model, TASK)[0])
    assert torch.equal(made[1], made[0])
    assert torch.equal(made[3], made[2])
    assert far(made[2], made[0].double()) < (1e-9 if flat == "F32" else 0.02)


def test_a_qwen_of_published_size_is_told_by_its_shapes() -> None:
    """Qwen 3 of 4 billion parameters, as transformers' class has it."""
    wanted = transformers.Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    with torch.device("meta"):
        state = transformers.Qwen3Model(wanted).state_dict()
    for prefix in ("", "model."):
        config = languages.language({prefix + k: tuple(v.shape) for k, v in state.items()}, "qwen3")
        made = transformers.Qwen3Config.from_dict(dict(config.told))
        assert made.to_dict() == {**wanted.to_dict(), "architectures": made.architectures}
        assert (config.width, config.layers, config.prefix) == (2560, 36, prefix)


def test_the_states_that_are_read(case: Case) -> None:
    """Before the last layers, and after all of them and the norm, beside the class with its own mask."""
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["language"]
        net = load_into(part.make, part.source, part.table, part.layout, dtype=F32)
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    peer = copy.deepcopy(case.pipe.text_encoder).float()
    with torch.no_grad():
        for row, count in enumerate((9, 6)):
            alone = peer(ids[row : row + 1, :count], output_hidden_states=True)
            assert far(net(ids, mask, skip=0)[row, :count], alone.last_hidden_state[0].double()) < 1e-5
            for skip in (1, 2, 3):
                expected = alone.hidden_states[3 - skip][0].double()
                assert far(net(ids, mask, skip=skip)[row, :count], expected) < 1e-5


def test_the_command_line_knows_it(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(case.peer.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["title"], told["prediction"]) == ("z-image-turbo", "Z-Image Turbo", "flow")
    assert [part["kind"] for part in told["components"]] == ["zimage", "vae", "qwen3"]
    assert main(["convert", str(case.peer.folder), str(tmp_path / "again"), "--to", "diffusers"]) == 0
    with open_source(tmp_path / "again") as source:
        model = load_checkpoint(open_checkpoint(source))
    assert torch.equal(walked(model, TASK)[0], walked(case.model(F32), TASK)[0])
    alone = tmp_path / "z_image_turbo.safetensors"
    assert main(["convert", str(case.peer.folder / "transformer"), str(alone), "--to", "original"]) == 0
    assert main(["convert", str(alone), str(tmp_path / "net"), "--to", "diffusers"]) == 0
    before = load_file(case.peer.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "net" / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    capsys.readouterr()
    assert main(["families"]) == 0
    assert "z-image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "name"),
    [("siglip_pad_token", "Z-Image Omni"), ("control_all_x_embedder.2-1.weight", "ControlNet of Z-Image")],
)
def test_its_relatives_are_refused_by_name(tmp_path: Path, key: str, name: str) -> None:
    save_file({key: torch.ones(1, 4), "cap_pad_token": torch.ones(1, 4)}, tmp_path / "z.safetensors")
    with (
        open_source(tmp_path / "z.safetensors") as source,
        pytest.raises(WeightsError, match=f"{key} it is {name}"),
    ):
        inspect(source)


def test_no_two_rows_of_the_key_tables_can_be_exchanged(case: Case) -> None:
    def pads(table: KeyTable) -> tuple[int, int]:
        first, second = (
            number
            for number, row in enumerate(table.rows)
            if row.ours is not None and row.ours.names[0] in ("no_word", "no_patch")
        )
        return first, second

    check_rows(case.peer.folder, pads)


NAMES = ("diffusers", "original", "ai-toolkit", "kohya")


@pytest.mark.parametrize("names", NAMES)
def test_an_adapter_of_every_layer_does_what_diffusers_says(case: Case, tmp_path: Path, names: str) -> None:
    """By diffusers' names, by those of the files in circulation (queries, keys, values in one), and by mixtures."""
    draws = torch.Generator().manual_seed(5)
    net = copy.deepcopy(case.pipe.transformer).float()
    theirs = drawn_lora(net, draws)
    ours = spelled(theirs, names)
    save_file(ours, tmp_path / "ours.safetensors")
    if names in ("ai-toolkit", "kohya"):  # diffusers' own reader of these says the same
        read = lora_conversion_utils._convert_non_diffusers_z_image_lora_to_diffusers(dict(ours))
        assert {k: v.sum() for k, v in read.items()} == {k: v.sum() for k, v in theirs.items()}
    net.load_lora_adapter(dict(theirs), prefix="transformer")
    x = torch.randn(2, 16, 8, 8, generator=draws)
    tokens, mask = (
        torch.randn(2, 5, 48, generator=draws),
        torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    )
    # diffusers rounds the angles of its clock, up to 1000, to float32, so these are small ones
    clock = torch.tensor([2.0**-8, 2.0**-7])
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        own = load_into(part.make, part.source, part.table, part.layout, dtype=F32)
    parts = {"denoiser": Network(own, part.table)}
    with torch.no_grad():
        told = net([row[:, None] for row in x], clock, [tokens[0], tokens[1, :3]])[0]
        expected = -torch.stack(list(told))[:, :, 0]
        before = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
        for merged in (False, True):
            with apply(parts, [(load_adapter(tmp_path / "ours.safetensors"), 1.0)], merged=merged):
                found = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
                assert far(found, expected.double()) < 1e-5
        after = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
    assert torch.equal(after, before)
    assert far(before, expected.double()) > 0.05


def spelled(state: dict[str, Tensor], names: str) -> dict[str, Tensor]:
    """An adapter as others would write it."""
    if names == "diffusers":
        return state
    if names == "ai-toolkit":
        return {key.replace("transformer.", "diffusion_model."): value for key, value in state.items()}
    if names == "kohya":
        ends = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
        out = {}
        for key, value in state.items():
            layer, a, b = key.removeprefix("transformer.").rsplit(".", 2)
            out[f"lora_unet_{layer.replace('.', '_')}.{ends[f'{a}.{b}']}"] = value
        return out
    fused_names = {
        "all_x_embedder.2-1": "x_embedder",
        "all_final_layer.2-1": "final_layer",
        "attention.to_out.0": "attention.out",
        "attention.to_q": "attention.qkv",
    }
    return fused(state, fused_names)
