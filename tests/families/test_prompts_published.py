"""Prompts and adapters through whole published models: diffusers' pipelines, compel's package, PEFT's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

import sfumato
from sfumato.api import Loaded
from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.model import Model
from sfumato.process.level import Level
from sfumato.tasks.script import read
from sfumato.tasks.text2image import Text2Image
from tests.families.test_published import family, far, our_task, sizes, walked
from tests.peers.compel_parts import encoder
from tests.peers.pipelines import Case, wide_tables

F64, F32 = torch.float64, torch.float32
PROMPT = "a red cat at night"


def told(model: Model, prompt: Prompt, **apart: str) -> Any:
    """The condition of a prompt that is one."""
    (one,) = read(prompt, apart, 1).prompts
    return model.conditioner([replace(one, width=32, height=48)])


@pytest.mark.parametrize("case", ["sd1", "sd2 v", "sdxl", "sd3"], indirect=True)
def test_clip_skip_is_diffusers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers looks for the final norm where transformers had it before version 5.
    if family(case.name) == "sd":
        own = property(lambda encoder: encoder)
        monkeypatch.setattr(type(case.pipe.text_encoder), "text_model", own, raising=False)
    more: dict[str, Any] = {"prompt_2": None, "prompt_3": None} if case.name == "sd3" else {}
    if family(case.name) == "sd":
        more = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        wanted = case.pipe.encode_prompt(PROMPT, clip_skip=1, **more)[0]
        plain = case.pipe.encode_prompt(PROMPT, **more)[0]
    found = case.model(F64).conditioner([Prompt(text=PROMPT, skip=1, width=32, height=48)]).tokens
    assert far(found, wanted) < 1e-6
    assert far(plain, wanted) > 0.05
    with pytest.raises(InvalidRequest, match=r"clip_skip = 3 is too much.*at most [12] of its 3"):
        case.model(F64).conditioner([Prompt(text=PROMPT, skip=3)])


@pytest.mark.parametrize("case", ["sdxl", "sd3", "flux"], indirect=True)
def test_each_encoder_reads_its_own_text(case: Case) -> None:
    texts = {"text_2": "the moon", "text_3": "a blue dog runs"}
    model = case.model(F64)
    with torch.no_grad():
        if case.name == "sdxl":
            tokens, _, pooled, _ = case.pipe.encode_prompt(PROMPT, "the moon")
            texts.pop("text_3")
        elif case.name == "sd3":
            tokens, _, pooled, _ = case.pipe.encode_prompt(PROMPT, "the moon", "a blue dog runs")
        else:
            tokens, pooled, _ = case.pipe.encode_prompt(PROMPT, "a blue dog runs", max_sequence_length=512)
            texts.pop("text_2")
    found = told(model, Prompt(text=PROMPT), **texts)
    assert far(found.tokens, tokens) < 1e-6
    assert far(found.vector[:, : pooled.shape[1]], pooled) < 1e-6
    absent = ({"text_2", "text_3"} - texts.keys() or {"text_4"}).pop()
    with pytest.raises(InvalidRequest, match=f"the encoder '{absent}'.*not for this model"):
        told(model, Prompt(text=PROMPT), **{absent: "x"})


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
@pytest.mark.parametrize("prompt", ["a (red)1.4 cat-- at night", '("a red cat", "the moon++").blend(1, 2)'])
def test_a_whole_walk_in_compels_dialect_is_that_of_its_embeddings(case: Case, prompt: str) -> None:
    pipe = case.pipe
    package = encoder.Compel(
        tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, truncate_long_prompts=False
    )
    task = replace(our_task(case, 3, "a dog+"), prompt=prompt, dialect="compel")
    height, width = sizes("sd1")
    noise = torch.randn(
        1, *case.model(F64).codec.shape(height, width), generator=torch.Generator().manual_seed(3)
    ).double()
    with torch.no_grad(), wide_tables(pipe):
        expected = pipe(
            prompt_embeds=package(prompt).double(),
            negative_prompt_embeds=package("a dog+").double(),
            height=height,
            width=width,
            num_inference_steps=3,
            guidance_scale=4.0,
            latents=noise,
            output_type="latent",
        ).images
    assert far(walked(case.model(F64), task)[0], expected) < 1e-5
    assert far(walked(case.model(F64), replace(task, dialect="plain"))[0], expected) > 1e-3


@pytest.mark.parametrize("case", ["sd1", "sdxl", "sd3", "flux"], indirect=True)
def test_a_text_without_marks_is_the_same_in_every_dialect(case: Case) -> None:
    """Bit for bit; and weights, rows and both together change what they should, T5's places among it."""
    model = case.model(F32)
    plain = model.conditioner([Prompt(text=PROMPT, width=32, height=48)])
    for dialect in ("plain", "a1111", "comfyui", "compel"):
        same = told(model, Prompt(text=PROMPT, dialect=dialect))
        for name, value in plain.named().items():
            assert torch.equal(value, same.named()[name])
    long = told(model, Prompt(text="the red cat flies and " * 30, dialect="a1111")).tokens
    rows = {"sd1": 154, "sdxl": 154, "sd3": 154 + 256, "flux": 512}
    assert long.shape[1] == rows[case.name]
    weighted = told(model, Prompt(text="a (red:1.5) cat at night", dialect="comfyui"))
    assert far(weighted.tokens, plain.tokens) > 1e-3
    if case.name == "flux":  # the third token of T5's row alone: e + w (z - e)
        empty = model.conditioner([Prompt(text="")]).tokens[0, 1]
        state = plain.tokens[0, 1]
        torch.testing.assert_close(weighted.tokens[0, 1], empty + 1.5 * (state - empty))
        others = [0, *range(2, 512)]
        assert torch.equal(weighted.tokens[0, others], plain.tokens[0, others])
        with pytest.raises(InvalidRequest, match="avoids nothing"):
            sfumato.run(Text2Image(prompt="a AND b", dialect="a1111", size="64x80")(model))


def test_rows_of_two_encoders_are_filled_to_one_length(sdxl: Loaded) -> None:
    """A long text for one encoder: the other's places behind its own row are those of the empty prompt."""
    model = sdxl.model
    long = told(model, Prompt(text="a cat", dialect="a1111"), text_2="the red cat flies and " * 30).tokens
    empty = told(model, Prompt(text="", dialect="a1111")).tokens
    short = told(model, Prompt(text="a cat", dialect="a1111")).tokens
    assert torch.equal(long[:, :77, :64], short[:, :, :64])
    assert torch.equal(long[:, 77:, :64], empty[:, :, :64])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.peers.pipelines import PIPELINES, peer

    base = tmp_path_factory.mktemp("folders")
    return {name: peer(PIPELINES[name], base / name).folder for name in ("sd1", "sdxl")}


@pytest.fixture(scope="module")
def sdxl(folders: dict[str, Path]) -> Loaded:
    return sfumato.load(str(folders["sdxl"]), dtype="float32")


def lora(folder: Path, to: Path, seed: int = 1, **more: Any) -> Path:
    """A LoRA that PEFT made and diffusers wrote, of the U-Net's and the text encoder's attention; B is drawn too."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    parts = {"unet": ["to_q", "to_v", "to_out.0"], "text_encoder": ["q_proj", "out_proj"]}
    draws = torch.Generator().manual_seed(seed)
    states = {}
    for name, targets in parts.items():
        net = getattr(pipe, name)
        net.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=targets))
        for key, parameter in net.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn(parameter.shape, generator=draws) * parameter.shape[1] ** -0.5
        states[f"{name}_lora_layers"] = get_peft_model_state_dict(net)
    told = {"r": 4, "lora_alpha": 6}
    configs = {f"{n}_lora_adapter_metadata": {**told, "target_modules": t} for n, t in parts.items()}
    pipe.save_lora_weights(to.parent, weight_name=to.name, **states, **configs)
    return to


def their_latent(pipe: Any, prompt: str, scale: float | None = None) -> Tensor:
    """What diffusers walks to in float32."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(3))
    options = {} if scale is None else {"cross_attention_kwargs": {"scale": scale}}
    with torch.no_grad():
        found: Tensor = pipe(
            prompt, height=48, width=32, num_inference_steps=3, guidance_scale=4.0, latents=noise,
            output_type="latent", **options,
        ).images  # fmt: skip
    return found


ASKED: dict[str, Any] = {"steps": 3, "seed": 3, "size": "32x48", "guidance": 4.0}


def our_latent(loaded: Loaded, prompt: str, **more: Any) -> Tensor:
    """The same by us, with what stands and what the prompt names."""
    task = Text2Image(prompt=prompt, **{**ASKED, **more})
    with loaded.adapters.during(task):
        return walked(loaded.model, task)[0]


def test_a_lora_of_peft_on_a_folder_of_diffusers(folders: dict[str, Path], tmp_path: Path) -> None:
    """Named by the prompt, given by hand, merged and beside the weights: diffusers' walk; then gone to the last bit."""
    path = lora(folders["sd1"], tmp_path / "ink.safetensors")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folders["sd1"])
    bare = their_latent(pipe, PROMPT)
    pipe.load_lora_weights(tmp_path, weight_name="ink.safetensors")
    expected = their_latent(pipe, PROMPT, 0.8)
    assert far(expected, bare) > 0.02
    load = {"dtype": "float32", "adapters_in": tmp_path}
    loaded, merged = (sfumato.load(str(folders["sd1"]), merged=put, **load) for put in (False, True))
    before = our_latent(loaded, PROMPT)
    assert far(before, bare) < 1e-4
    for model in (loaded, merged):
        named = our_latent(model, f"{PROMPT}<lora:ink:0.8>", dialect="a1111")
        assert far(named, expected) < 1e-4
        assert torch.equal(our_latent(model, PROMPT), before)
        model.adapt(path, 0.8)
        assert far(our_latent(model, PROMPT), expected) < 1e-4
        assert [one.name for one in model.adapters] == ["ink"]
        half = our_latent(model, f"{PROMPT}<lora:ink:0.4>", dialect="a1111")
        assert far(half, expected) > 1e-3
        model.adapters.remove("ink")
        assert torch.equal(our_latent(model, PROMPT), before)


def test_a_recipe_makes_the_picture_again_with_its_adapters(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = str(folders["sd1"])
    paths = [lora(folders["sd1"], tmp_path / f"{n}.safetensors", k) for k, n in enumerate(("ink", "toy"))]
    load: dict[str, Any] = {
        "dtype": "float32",
        "adapters": [f"{paths[0]}:0.5:text=0.1"],
        "adapters_in": tmp_path,
    }
    loaded = sfumato.load(folder, **load)
    picture = loaded(f"{PROMPT} <lora:toy:0.3>", dialect="a1111", **ASKED).images[0]
    facts = picture.recipe.arguments["adapters"]
    assert [(one["file"], one["strength"]) for one in facts] == [
        ("ink.safetensors", 0.5),
        ("toy.safetensors", 0.3),
    ]
    picture.save(tmp_path / "a.png")
    for given in ({"adapters_in": tmp_path}, {"adapters": paths}):
        again = sfumato.remake(tmp_path / "a.png", folder, given).images[0]
        assert np.array_equal(again.pixels, picture.pixels)
        assert again.recipe == picture.recipe
    with pytest.raises(
        InvalidRequest, match=r"made with toy\.safetensors, which was not found.*--adapters-in"
    ):
        sfumato.remake(tmp_path / "a.png", folder, {"adapters": paths[:1]})
    lora(folders["sd1"], paths[1], 7)
    with pytest.raises(InvalidRequest, match=r"toy\.safetensors is not the file.*its hash is"):
        sfumato.remake(tmp_path / "a.png", folder, {"adapters_in": tmp_path})


def test_another_familys_adapter_is_refused_and_nothing_is_changed(
    folders: dict[str, Path], sdxl: Loaded, tmp_path: Path
) -> None:
    path = lora(folders["sd1"], tmp_path / "ink.safetensors")
    before = our_latent(sdxl, PROMPT)
    with pytest.raises(WeightsError, match=r"layers of the adapter .* find no place in this model"):
        sdxl.adapt(path)
    assert list(sdxl.adapters) == []
    assert torch.equal(our_latent(sdxl, PROMPT), before)


def test_learned_words_are_diffusers(folders: dict[str, Path], sdxl: Loaded, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(2)
    vectors = torch.randn(3, 64, generator=draws) * 0.3
    save_file({"emb_params": vectors}, tmp_path / "inky.safetensors")
    save_file({"<inky>": vectors}, tmp_path / "theirs.safetensors")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folders["sd1"])
    pipe.load_textual_inversion(tmp_path, weight_name="theirs.safetensors", token="<inky>")
    expected = their_latent(pipe, "a <inky> cat")
    loaded = sfumato.load(str(folders["sd1"]), dtype="float32", embeddings_in=tmp_path)
    before = our_latent(loaded, "a cat")
    for prompt, dialect in (
        ("a embedding:inky cat", "comfyui"),
        ("a inky cat", "a1111"),
        ("a inky cat", "compel"),
    ):
        assert far(our_latent(loaded, prompt, dialect=dialect), expected) < 1e-4
    assert torch.equal(our_latent(loaded, "a cat"), before)
    picture = loaded("a embedding:inky cat", dialect="comfyui", **ASKED).images[0]
    picture.save(tmp_path / "b.png")
    again = sfumato.remake(tmp_path / "b.png", str(folders["sd1"]), {"embeddings_in": tmp_path})
    assert np.array_equal(again.images[0].pixels, picture.pixels)
    save_file({"emb_params": 2 * vectors}, tmp_path / "inky.safetensors")
    with pytest.raises(InvalidRequest, match="is not the file"):
        sfumato.remake(tmp_path / "b.png", str(folders["sd1"]), {"embeddings_in": tmp_path})
    other = sfumato.load(str(folders["sdxl"]), dtype="float32", embeddings_in=tmp_path)
    with pytest.raises(WeightsError, match="'inky' has no vectors for text_2"):
        other("a embedding:inky cat", dialect="comfyui", **ASKED)


@pytest.mark.parametrize("case", ["sd3", "flux"], indirect=True)
def test_masked_padding_might_as_well_not_be_there(case: Case) -> None:
    """T5's states are transformers' under its attention mask, and the network answers as for the tokens alone."""
    model = case.model(F64)
    model.conditioner([Prompt(text=PROMPT, padding="seen", width=32, height=48)])
    cond = model.conditioner([Prompt(text=PROMPT, padding="masked", width=32, height=48)])
    plain = model.conditioner([Prompt(text=PROMPT, width=32, height=48)])
    assert plain.mask is None
    assert cond.mask is not None
    assert cond.tokens is not None
    last = "_3" if case.name == "sd3" else "_2"
    told = getattr(case.pipe, "tokenizer" + last)([PROMPT], return_tensors="pt")
    with torch.no_grad():
        wanted = getattr(case.pipe, "text_encoder" + last)(**told).last_hidden_state
    count, clips = wanted.shape[1], cond.mask.shape[1] - (256 if case.name == "sd3" else 512)
    assert cond.mask.tolist() == [[True] * (clips + count) + [False] * (cond.mask.shape[1] - clips - count)]
    assert far(cond.tokens[:, clips : clips + count], wanted) < 1e-6
    x = torch.randn(1, *model.codec.shape(80, 64), generator=torch.Generator().manual_seed(1)).double()
    at = row_levels([Level(0.625, 0.375, 0.625)])
    alone = replace(cond, tokens=cond.tokens[:, : clips + count], mask=None)
    found = model.denoiser.output(x, at, cond)
    assert far(found, model.denoiser.output(x, at, alone)) < 1e-9
    assert far(found, model.denoiser.output(x, at, plain)) > 1e-3


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_padding_of_t5_where_there_is_none(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="about T5, which this model does not read"):
        case.model(F32).conditioner([Prompt(text=PROMPT, padding="masked")])
