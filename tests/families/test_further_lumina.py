"""Lumina-Image 2 against diffusers' pipeline: conditions, network, walk, both layouts."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from diffusers.models import activations, embeddings, normalization
from safetensors.torch import save_file
from torch import Tensor

from sfumato.adapters import Network, apply, load_adapter
from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families import languages
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.settings import network
from sfumato.families.split import opened
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from sfumato.text.t5 import T5Tokens
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
from tests.peers.pipelines import Case, Wide, wide_tables

F64, F32 = torch.float64, torch.float32
TEXTS = ("a red cat at night", "dog")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case, built once."""
    return further("lumina", tmp_path_factory.mktemp("lumina"))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' sinusoids, norms, rotations and SiLU have float64's digits, which it rounds to float32."""
    for module in (embeddings, normalization, activations):
        monkeypatch.setattr(module, "torch", Wide())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(activations.FP32SiLU, "forward", lambda self, x: torch.nn.functional.silu(x))


def test_the_network_and_its_conditions(case: Case, wide: None) -> None:
    x = torch.randn(2, 16, 20, 16, generator=torch.Generator().manual_seed(8), dtype=F64)
    pipe = case.pipe
    with torch.no_grad():
        tokens, mask, other, no = pipe.encode_prompt([TEXTS[0]], negative_prompt=[TEXTS[1]])
        tokens, mask = torch.cat((tokens, other)), torch.cat((mask, no))
        expected = -pipe.transformer(x, torch.tensor([0.375, 0.8], dtype=F64), tokens, mask).sample
    assert int(mask[0].sum()) != int(mask[1].sum())
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = case.model(dtype)
        cond = model.conditioner([Prompt(text=TEXTS[0]), Prompt(text=TEXTS[1], negative=True)])
        assert cond.mask is not None
        assert cond.tokens is not None
        assert torch.equal(cond.mask, mask.bool())
        kept = mask.bool()
        assert far(cond.tokens[kept], tokens[kept]) < most
        at = row_levels([Level(0.625, 0.375, 0.625), Level(0.2, 0.8, 0.2)])
        assert far(model.denoiser.output(x, at, cond), expected) < most


def test_a_long_prompt_is_cut_and_an_absent_negative_one_is_empty(case: Case) -> None:
    long = "the red cat flies and " * 40
    with torch.no_grad():
        tokens, mask, other, _ = case.pipe.encode_prompt([long])
    cond = case.model(F64).conditioner([Prompt(text=long)])
    assert int(mask.sum()) == 256
    assert far(cond.tokens, tokens) < 1e-6
    over = len(case.pipe.tokenizer(f"{case.pipe.system_prompt} <Prompt Start> {long}").input_ids) - 256
    told = f"the prompt is long: Gemma 2 does not read its last {over} tokens"
    assert case.model(F64).notes(Prompt(text=long)) == [told]
    assert case.model(F64).notes(Prompt(text="", negative=True)) == []
    absent = case.model(F64).conditioner([Prompt(text="", absent=True, negative=True)])
    assert int(absent.mask.sum()) == 1
    assert far(absent.tokens[:, :1], other[:, :1]) < 1e-6


def test_a_whole_walk(case: Case, wide: None) -> None:
    noise = torch.randn(1, 16, 40, 32, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad(), wide_tables(case.pipe):
        expected = case.pipe(
            "a red cat",
            negative_prompt="dog",
            height=320,
            width=256,
            num_inference_steps=3,
            guidance_scale=4.0,
            cfg_normalization=False,
            latents=noise,
            output_type="latent",
        ).images
    task = Text2Image(prompt="a red cat", negative="dog", steps=3, seed=3, size="64x80", guidance=4.0)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        assert far(walked(case.model(dtype), task)[0], expected) < most


def test_dialects_whose_texts_are_words_alone_are_followed(case: Case) -> None:
    """One text is what it is in each; switches and sums are of conditions, which a language model makes too."""
    model = case.model(F32)

    def walk(prompt: str, dialect: str = "a1111") -> Tensor:
        told = {"prompt": prompt, "negative": "hat", "dialect": dialect, "guidance": 4.0}
        return walked(model, Text2Image(**told, steps=4, seed=3, size="64x64"))[0]

    first, second = walk("a red cat", "plain"), walk("dog", "plain")
    for dialect in ("a1111", "comfyui", "compel"):
        assert torch.equal(walk("a red cat", dialect), first)
    assert torch.equal(walk("[a red cat:dog:0]"), second)
    assert torch.equal(walk("[a red cat:dog:4]"), first)
    assert far(walk("a red cat AND dog :0"), first) < 1e-5
    switched = walk("[a red cat:dog:0.5]")
    assert min(far(switched, first), far(switched, second)) > 1e-3


@pytest.mark.parametrize(
    ("prompt", "dialect", "found"),
    [
        (
            "a (red:1.4) cat",
            "a1111",
            "the weight 1.4 of 'red', which the dialect 'a1111' marks; leave out --dialect",
        ),
        ("a BREAK b", "a1111", "texts in rows of their own"),
        ('("a", "b").blend(1, 2)', "compel", "a blend of texts"),
        ("a embedding:toy", "comfyui", "marks of embeddings"),
    ],
)
def test_marks_that_a_language_model_cannot_follow_are_named(
    case: Case, prompt: str, dialect: str, found: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(found)):
        walked(case.model(F32), Text2Image(prompt=prompt, dialect=dialect, steps=1, size="64x64"))


def test_defaults_are_those_of_the_pipeline(case: Case) -> None:
    defaults = case.model(F32).defaults
    assert (defaults.steps, defaults.guidance, defaults.sampler) == (30, 4.0, "euler")
    assert (defaults.width, defaults.height, defaults.multiple) == (64, 64, 16)


def test_both_layouts_hold_the_same(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_source(case.peer.folder) as source:
        report = inspect(source)
        assert (report.family, report.title, report.prediction) == ("lumina2", "Lumina-Image 2", "flow")
        assert not report.missing
    part = kept_in_both_layouts(case.peer.folder, tmp_path, "Lumina-Image 2", languages.lumina)
    told = type(case.pipe.transformer).from_config(network(part, "lumina2"))
    state = case.pipe.transformer.state_dict()
    assert {k: v.shape for k, v in told.state_dict().items()} == {k: v.shape for k, v in state.items()}
    with open_source(tmp_path / "diffusers.safetensors") as back:
        assert back.entries.keys() == state.keys()
    # diffusers' reader of the authors' file has the published numbers of heads in it: 24 and 8, here 4 and 2
    monkeypatch.setattr(single_file_utils, "torch", Halves())
    with open_source(tmp_path / "original.safetensors") as source:
        theirs = {name: source.read(name) for name in source.entries}
    read = single_file_utils.convert_lumina2_to_diffusers({**theirs, "norm_final.weight": torch.ones(96)})
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read[name].double(), tensor), name


class Halves:
    """torch, whose ``split`` divides rows as four heads and two groups want it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def split(self, rows: Tensor, sizes: list[int], dim: int = 0) -> tuple[Tensor, ...]:
        one = len(rows) // 4
        return torch.split(rows, [2 * one, one, one], dim=dim)


def test_files_of_their_own_make_the_same_pictures(case: Case, tmp_path: Path) -> None:
    file, folder = tmp_path / "lumina_2.safetensors", case.peer.folder
    with open_source(folder / "transformer") as source:
        convert(source, file, "original")
    beside = [folder / "text_encoder", folder / "vae"]
    with opened(file, beside) as checkpoint:
        model = load_checkpoint(checkpoint, tokens=T5Tokens.load(folder / "tokenizer"))
    task = Text2Image(prompt="a red cat", steps=3, seed=3, size="64x80")
    assert torch.equal(walked(model, task)[0], walked(case.model(F32), task)[0])
    with opened(file, beside) as checkpoint, pytest.raises(WeightsError, match="Gemma 2's vocabulary"):
        load_checkpoint(checkpoint)
    with opened(file, beside[1:]) as checkpoint, pytest.raises(WeightsError, match="lacks language"):
        load_checkpoint(checkpoint)


def test_one_file_of_all_networks_as_comfyui_has_it(case: Case, tmp_path: Path) -> None:
    more = {
        "text_encoders.gemma2_2b.logit_scale": torch.ones(()),
        "model.diffusion_model.norm_final.weight": torch.ones(96),
    }
    in_one_file(case.peer.folder, tmp_path / "lumina_2.safetensors", "gemma2_2b", more)
    with opened(tmp_path / "lumina_2.safetensors") as checkpoint:
        report = inspect(checkpoint.source)
        assert (report.family, report.missing) == ("lumina2", ())
        model = load_checkpoint(checkpoint, tokens=T5Tokens.load(case.peer.folder / "tokenizer"))
    task = Text2Image(prompt="a red cat", steps=3, seed=3, size="64x80")
    assert torch.equal(walked(model, task)[0], walked(case.model(F32), task)[0])


def test_one_file_becomes_a_folder_and_that_file_again(case: Case, tmp_path: Path) -> None:
    more = {"model.diffusion_model.norm_final.weight": torch.ones(96)}
    in_one_file(case.peer.folder, tmp_path / "lumina_2.safetensors", "gemma2_2b", more)
    folder = there_and_back(
        tmp_path / "lumina_2.safetensors", case.peer.folder / "tokenizer", diffusers.Lumina2Pipeline
    )
    with open_source(folder) as source:
        model = load_checkpoint(open_checkpoint(source))
    task = Text2Image(prompt="a red cat", steps=2, seed=3, size="64x64")
    assert torch.equal(walked(model, task)[0], walked(case.model(F32), task)[0])


def test_a_gemma_of_published_size_is_told_by_its_shapes() -> None:
    wanted = transformers.Gemma2Config()
    with torch.device("meta"):
        state = transformers.Gemma2Model(wanted).state_dict()
    for prefix in ("", "model."):
        config = languages.language({prefix + k: tuple(v.shape) for k, v in state.items()}, "gemma2")
        assert config.told == {name: getattr(wanted, name) for name in config.told}
        assert (config.width, config.layers) == (2304, 26)


def test_a_folder_is_written_again(case: Case, tmp_path: Path) -> None:
    with open_source(case.peer.folder) as source:
        convert(source, tmp_path / "again", "diffusers")
    with open_source(tmp_path / "again") as source:
        model = load_checkpoint(open_checkpoint(source))
    task = Text2Image(prompt="a red cat", steps=2, seed=3, size="64x64")
    assert torch.equal(walked(model, task)[0], walked(case.model(F32), task)[0])


def test_what_is_not_of_one_model_or_not_followed_is_refused(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(case.peer.folder, folder)
    told = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    text = json.dumps({**told, "use_dynamic_shifting": True})
    (folder / "scheduler" / "scheduler_config.json").write_text(text, "utf-8")
    with open_source(folder) as source:
        checkpoint = open_checkpoint(source)
        with pytest.raises(WeightsError, match="use_dynamic_shifting"):
            load_checkpoint(checkpoint)
        part = checkpoint.parts["language"]
        other = replace(part, config=replace(part.config, width=64))
        with pytest.raises(WeightsError, match="text of width 48, and the encoders have 64"):
            load_checkpoint(replace(checkpoint, parts={**checkpoint.parts, "language": other}))
        with pytest.raises(InvalidRequest, match="as it is written"):
            case.model(F32).conditioner([Prompt(text="a", skip=1)])


def test_without_transformers_the_extra_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages.util, "find_spec", lambda name: None)
    with open_source(case.peer.folder) as source:
        assert inspect(source).family == "lumina2"
        with pytest.raises(MissingExtra, match=r"pip install 'sfumato\[transformers\]'"):
            load_checkpoint(open_checkpoint(source))


def test_no_two_rows_of_the_key_tables_can_be_exchanged(case: Case) -> None:
    check_rows(case.peer.folder)


NAMES = {
    "time_caption_embed.caption_embedder": "cap_embedder",
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
    "feed_forward.linear_": "feed_forward.w",
    "norm1.linear": "adaLN_modulation.1",
    "attn.to_out.0": "attention.out",
    "attn.to_q": "attention.qkv",
}
"""diffusers' names of layers, and the authors'."""


@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_an_adapter_of_every_layer_does_what_diffusers_says(case: Case, tmp_path: Path, names: str) -> None:
    draws = torch.Generator().manual_seed(5)
    net = copy.deepcopy(case.pipe.transformer).float()
    theirs = drawn_lora(net, draws)
    ours = theirs if names == "diffusers" else fused(theirs, NAMES)
    save_file(ours, tmp_path / "ours.safetensors")
    net.load_lora_adapter(dict(theirs), prefix="transformer")
    x, tokens = torch.randn(2, 16, 8, 8, generator=draws), torch.randn(2, 5, 48, generator=draws)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    clock = torch.tensor([0.375, 0.8])
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        own = load_into(part.make, part.source, part.table, part.layout, dtype=F32)
    parts = {"denoiser": Network(own, part.table)}
    with torch.no_grad():
        expected = -net(x, clock, tokens, mask).sample
        before = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
        for merged in (False, True):
            with apply(parts, [(load_adapter(tmp_path / "ours.safetensors"), 1.0)], merged=merged):
                found = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
                assert far(found, expected.double()) < 1e-5
        after = own(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
    assert torch.equal(after, before)
    assert far(before, expected.double()) > 0.05
