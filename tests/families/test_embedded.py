"""Embedded prompts: the same pictures without text encoders, files of other programs, and what is refused."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato
from sfumato.cli.main import main
from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.loaded import Loaded
from sfumato.picture.png import read_recipe
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.text.embedded import MARK, open_embedded
from tests.peers.further import further
from tests.peers.pipelines import PIPELINES, peer

NATIVE = ("sd1", "sdxl", "refiner", "sd3", "flux", "schnell")
FURTHER = ("pixart alpha", "chroma", "lumina", "sana", "z-image")
ASK: dict[str, Any] = {"steps": 1, "seed": 5}
SIZES = {"flux": "64x64", "schnell": "64x64", "chroma": "64x64", "z-image": "64x64"}


class Made:
    """A tiny pipeline of diffusers, its folder, the same without text encoders, and our models of both."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        made = (
            further(name, folder / "whole").peer
            if name in FURTHER
            else peer(PIPELINES[name], folder / "whole")
        )
        self.pipe, self.whole, self.bare = made.pipe, made.folder, folder / "bare"
        # a tiny refiner is told by the width of its encoder, which must be there to be looked at
        left = ("tokenizer*",) if name == "refiner" else ("text_encoder*", "tokenizer*")
        shutil.copytree(self.whole, self.bare, ignore=shutil.ignore_patterns(*left))
        self.full = sfumato.load(str(self.whole), dtype="float32")
        self.texts = sfumato.load(str(self.whole), dtype="float32", draws=False)
        self.draws = sfumato.load(str(self.bare), dtype="float32", encoders=False)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Cases by name, each built once."""
    return cache(lambda name: Made(name, tmp_path_factory.mktemp("embedded")))


@pytest.fixture(scope="module", params=(*NATIVE, *FURTHER))
def made(request: pytest.FixtureRequest, cases: Callable[[str], Made]) -> Made:
    """A case by its name."""
    return cases(request.param)


@pytest.fixture(scope="module")
def sdxl(cases: Callable[[str], Made]) -> Made:
    """Stable Diffusion XL."""
    return cases("sdxl")


def picture(model: Loaded, **told: Any) -> np.ndarray:
    """The pixels of one request."""
    task = "image2image" if "image" in told else "text2image"
    pixels: np.ndarray = model.task(task, **{**ASK, **told}).images[0].pixels
    return pixels


def test_a_model_without_encoders_makes_the_same_picture_of_an_embedded_prompt(
    made: Made, tmp_path: Path
) -> None:
    avoided = {} if made.full.model.defaults.distilled else {"negative": "grey dog"}
    file = made.texts.embed(tmp_path / "cat.safetensors", {"prompt": "a red cat", **avoided}).path
    more: dict[str, Any] = {"size": SIZES[made.name]} if made.name in SIZES else {}
    if made.name == "refiner":
        side = made.full.model.defaults.width
        more = {"image": np.random.default_rng(3).integers(0, 255, (side, side, 3), dtype=np.uint8)}
        more |= {"strength": 1.0}
    wanted = picture(made.full, prompt="a red cat", **avoided, **more)
    np.testing.assert_array_equal(picture(made.draws, embedded=file, **more), wanted)
    np.testing.assert_array_equal(
        picture(made.full, prompt="a red cat", **avoided, embedded=str(file), **more), wanted
    )
    other = picture(made.full, prompt="a blue dog", **avoided, **more)
    assert (other != wanted).any()
    with pytest.raises(InvalidRequest, match=r"loaded without its text encoders .*embedded"):
        picture(made.draws, prompt="a red cat", **more)
    if made.name == "refiner":
        return
    with pytest.raises(
        WeightsError, match=r"lacks (text|language).*--embedded FILE .*encoders=False.*sfumato embed"
    ):
        sfumato.load(str(made.bare))


def test_the_networks_that_only_read_have_no_memory_and_those_that_draw_no_encoders(made: Made) -> None:
    assert {p.device.type for p in made.texts.model.denoiser.parameters()} == {"meta"}
    seams = made.draws.model.seams
    assert seams is not None
    assert list(seams.networks()) == ["denoiser"]
    assert made.draws.model.hash_without_texts == made.full.model.hash_without_texts != made.full.model.hash


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_padding_that_was_masked_is_masked(name: str, cases: Callable[[str], Made], tmp_path: Path) -> None:
    made = cases(name)
    file = made.texts.embed(tmp_path / "cat.safetensors", {"prompt": "a red cat", "padding": "masked"}).path
    more: dict[str, Any] = {"size": SIZES[name]} if name in SIZES else {}
    wanted = picture(made.full, prompt="a red cat", padding="masked", **more)
    np.testing.assert_array_equal(picture(made.draws, embedded=file, **more), wanted)
    assert (picture(made.full, prompt="a red cat", **more) != wanted).any()
    with pytest.raises(
        InvalidRequest, match=r"'a red cat' is not among the embedded prompts.*padding masked"
    ):
        picture(made.draws, prompt="a red cat", embedded=file, **more)


def test_sizes_and_guidance_are_the_requests(sdxl: Made, tmp_path: Path) -> None:
    file = sdxl.texts.embed(tmp_path / "cat.safetensors", "a red cat").path
    for size in ("64x64", "128x64"):
        for scale in (1.0, 6.0):
            ask = {"size": size, "guidance": scale, "prompt": "a red cat"}
            np.testing.assert_array_equal(
                picture(sdxl.draws, **ask, embedded=file), picture(sdxl.full, **ask)
            )
    cond = sdxl.full.model.conditioner
    rows = [cond([Prompt(text="a red cat", width=w, height=64)]).named()["vector"] for w in (64, 128)]
    assert not torch.equal(rows[0], rows[1])
    assert load_file(file)["pooled_prompt_embeds"].shape[-1] < rows[0].shape[-1]


def test_distilled_guidance_is_the_requests(cases: Callable[[str], Made], tmp_path: Path) -> None:
    flux = cases("flux")
    file = flux.texts.embed(tmp_path / "cat.safetensors", "a red cat").path
    made = []
    for scale in (1.0, 9.0):
        ask = {"guidance": scale, "prompt": "a red cat", "size": "64x64"}
        made.append(picture(flux.draws, **ask, embedded=file))
        np.testing.assert_array_equal(made[-1], picture(flux.full, **ask))
    assert (made[0] != made[1]).any()


# What the refiner reads is told by sdxl's files; Z-Image's pipeline takes lists.
@pytest.mark.parametrize("name", [name for name in (*NATIVE, *FURTHER) if name not in ("refiner", "z-image")])
def test_our_files_are_arguments_of_diffusers_pipelines_and_theirs_are_read(
    cases: Callable[[str], Made], name: str, tmp_path: Path
) -> None:
    """Theirs in float64 beside ours in float32, rounded to theirs' dtype on the way."""
    made = cases(name)
    file = made.texts.embed(
        tmp_path / "cat.safetensors", {"prompt": "a red cat", "negative": "grey dog"}
    ).path
    ours = load_file(file)
    call = made.pipe.encode_prompt
    if made.name in ("flux", "schnell"):
        length = ours["prompt_embeds"].shape[1]  # 256 for schnell, whose pipeline is told so
        tokens, pooled, _ = call("a red cat", None, device="cpu", max_sequence_length=length)
        wanted = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}
    elif made.name in ("sdxl", "sd3"):
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        texts = {"prompt": "a red cat", "negative_prompt": "grey dog"}
        texts |= {"prompt_2": None, "prompt_3": None} if made.name == "sd3" else {}
        wanted = dict(zip(names, call(**texts, device="cpu"), strict=True))
    elif made.name == "sd1":
        found = call("a red cat", "cpu", 1, True, negative_prompt="grey dog")
        wanted = dict(zip(("prompt_embeds", "negative_prompt_embeds"), found, strict=True))
    elif made.name == "chroma":
        tokens, _, mask, no, _, no_mask = call("a red cat", "grey dog", device="cpu")
        wanted = {"prompt_embeds": tokens, "prompt_attention_mask": mask}
        wanted |= {"negative_prompt_embeds": no, "negative_prompt_attention_mask": no_mask}
    else:
        usual = inspect.signature(
            type(made.pipe).__call__
        ).parameters  # SANA's instruction is the call's default
        more = {n: usual[n].default for n in ("complex_human_instruction",) if n in usual}
        found = call("a red cat", negative_prompt="grey dog", device="cpu", **more)
        names = (
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        )
        wanted = dict(zip(names, found, strict=True))
    # the left out negative prompt stands first, so the one that was asked for has a number
    told = {name: ours["1." + name if name.startswith("negative") else name] for name in wanted}
    for name, value in wanted.items():
        kept = slice(None)
        if "mask" in name:
            assert torch.equal(told[name], value.bool()), name
            continue
        if (mask := wanted.get(name.replace("embeds", "attention_mask"))) is not None:
            kept = mask.bool()
        apart = (told[name].double() - value)[kept].norm() / value[kept].norm()
        assert apart < 1e-5, (name, float(apart))
    if made.name in (
        "sd1",
        "sdxl",
        "sd3",
        "flux",
        "lumina",
    ):  # a file of one prompt is a call of the pipeline
        alone = load_file(made.texts.embed(tmp_path / "alone.safetensors", "a red cat").path)
        doors = {
            name: value.double() if value.is_floating_point() else value for name, value in alone.items()
        }
        calls = ({"prompt": "a red cat"}, doors)
        latents = [
            made.pipe(
                **c, num_inference_steps=1, output_type="latent", generator=torch.Generator().manual_seed(0)
            )
            for c in calls
        ]
        apart = (latents[0].images - latents[1].images).norm() / latents[0].images.norm()
        assert apart < 1e-5, float(apart)
    theirs = tmp_path / "a red cat.safetensors"
    save_file({name: value.float().contiguous() for name, value in wanted.items()}, theirs)
    size: dict[str, Any] = {"size": SIZES[made.name]} if made.name in SIZES else {}
    avoided: dict[str, Any] = {"negative": "grey dog", "guidance": 2.0}
    avoided = avoided if any(name.startswith("negative") for name in wanted) else {"guidance": 1.0}
    expected = picture(made.full, prompt="a red cat", **avoided, **size)
    found = picture(made.draws, embedded=theirs, guidance=avoided["guidance"], **size)
    assert np.abs(found.astype(int) - expected).max() <= 1  # a rounding of bytes


def test_a_file_of_one_prompt_needs_no_negative_where_guidance_is_off(sdxl: Made, tmp_path: Path) -> None:
    file = sdxl.texts.embed(tmp_path / "cat.safetensors", "a red cat").path
    mine = load_file(file)
    names = ("prompt_embeds", "pooled_prompt_embeds")
    save_file({name: mine[name][0] for name in names}, tmp_path / "alone.safetensors")
    off = picture(sdxl.draws, embedded=tmp_path / "alone.safetensors", guidance=1.0)
    np.testing.assert_array_equal(off, picture(sdxl.full, prompt="a red cat", guidance=1.0))
    with pytest.raises(InvalidRequest, match="the negative prompt that is left out is not among"):
        picture(sdxl.draws, embedded=tmp_path / "alone.safetensors")


def test_recipes_carry_text_and_hash_and_are_followed_with_the_file(sdxl: Made, tmp_path: Path) -> None:
    file = sdxl.texts.embed(tmp_path / "cat.safetensors", {"prompt": "a red cat", "negative": "grey"}).path
    for number, folder in enumerate((sdxl.whole, sdxl.bare)):  # made with encoders at hand, and without
        image, again = tmp_path / f"{number}.png", tmp_path / f"{number}-again.png"
        told = ["-m", str(folder), "--dtype", "float32", "--embedded", str(file)]
        assert main(["generate", "--steps", "1", "-o", str(image), *told]) == 0
        told[1] = str(sdxl.bare)
        assert main(["generate", "--like", str(image), "-o", str(again), *told]) == 0
        assert image.read_bytes() == again.read_bytes()
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    recipe = read_recipe(tmp_path / "0.png")
    assert (recipe.arguments["prompt"], recipe.arguments["negative"]) == ("a red cat", "grey")
    assert recipe.arguments["parents"] == {"embedded": open_embedded(file).hash}
    sdxl.texts.embed(tmp_path / "dog.safetensors", {"prompt": "a red cat", "negative": "grey"}, "a dog")
    with pytest.raises(InvalidRequest, match=r"embedded is not .*its hash is"):
        sfumato.remake(tmp_path / "0.png", str(sdxl.bare), embedded=tmp_path / "dog.safetensors")
    made = sdxl.full.task("text2image", embedded=file, **ASK).images[0]
    made.save(tmp_path / "library.png")
    same = sfumato.remake(tmp_path / "library.png", str(sdxl.bare), embedded=file).images[0]
    np.testing.assert_array_equal(same.pixels, made.pixels)


def test_many_prompts_serve_every_task_and_dialects_keep_their_weights(
    cases: Callable[[str], Made], tmp_path: Path
) -> None:
    sd1 = cases("sd1")
    listed = tmp_path / "prompts.txt"
    listed.write_text("a red cat\n\na blue dog\n", "utf-8")
    file = tmp_path / "many.safetensors"
    assert (
        main(["embed", "--from", str(listed), "-m", str(sd1.whole), "--dtype", "float32", "-o", str(file)])
        == 0
    )
    ask: dict[str, Any] = {"prompt": "a red cat", "steps": 1, "size": "64x64"}
    for task, more in (
        ("compose", {"regions": ("rect(0, 0, 50%, 100%): a blue dog",)}),
        ("interpolate", {"prompt_to": "a blue dog", "count": 2}),
        ("tile", {}),
    ):
        two = [
            [p.pixels for p in m.task(task, **ask, **more, **e).images]
            for m, e in ((sd1.draws, {"embedded": file}), (sd1.full, {}))
        ]
        np.testing.assert_array_equal(*two)
    with pytest.raises(
        InvalidRequest, match="holds 2 embedded prompts: say which, such as 'a red cat' or 'a blue dog'"
    ):
        sd1.draws.task("text2image", embedded=file)
    with pytest.raises(
        InvalidRequest, match=r"the prompt 'a cat' is not among .*the prompt 'a red cat'.*sfumato embed"
    ):
        make(Text2Image, prompt="a cat", embedded=file)
    written = {
        "prompt": "a (red:1.4) cat [by day:at night:0.5] AND snow",
        "dialect": "a1111",
        "negative": "grey",
    }
    written |= {"clip_skip": 1}
    file = sd1.texts.embed(tmp_path / "one.safetensors", written, steps=2).path
    ask = {"steps": 2, "size": "64x64"}
    np.testing.assert_array_equal(
        sd1.draws.task("text2image", embedded=file, **ask).images[0].pixels,
        sd1.full.task("text2image", **written, **ask).images[0].pixels,
    )


def test_another_encoder_is_told_and_another_family_or_width_refused(sdxl: Made, tmp_path: Path) -> None:
    file = sdxl.texts.embed(tmp_path / "cat.safetensors", "a red cat").path
    tensors, text = load_file(file), header(file)
    ask: dict[str, Any] = {"embedded": tmp_path / "x.safetensors", **ASK}

    def written(**changed: Any) -> None:
        save_file(tensors, tmp_path / "x.safetensors", {MARK: json.dumps({**text, **changed})})

    written()
    assert sdxl.full.task("text2image", **ask).notes == ()
    written(encoders={**text["encoders"], "text_2": "0" * 64})
    notes = sdxl.full.task("text2image", **ask).notes
    assert notes == ("x.safetensors was embedded by another encoder (text_2) than this model's own",)
    written(family="flux")
    with pytest.raises(InvalidRequest, match="family 'flux', and this one is of 'sdxl'"):
        sdxl.draws.task("text2image", **ask)
    for door, cut, said in (
        ("prompt_embeds", 4, "tokens of width 4, and the model 'sdxl' reads tokens of width"),
        ("pooled_prompt_embeds", 4, "vector of width 4, and the model 'sdxl' reads vector of width"),
    ):
        odd = {
            name: value[..., :cut].contiguous() if name == door else value for name, value in tensors.items()
        }
        save_file(odd, tmp_path / "x.safetensors", {MARK: json.dumps(text)})
        with pytest.raises(InvalidRequest, match=said):
            sdxl.draws.task("text2image", **ask)
    save_file({"prompt_embeds": tensors["prompt_embeds"]}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match="has no vector, and the model 'sdxl' reads vector of width"):
        sdxl.draws.task("text2image", **ask, guidance=1.0)
    mask = torch.tensor([[1] * 40 + [0] * 37])
    save_file({**without_numbers(tensors), "prompt_attention_mask": mask}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match="has a mask, and the model 'sdxl' reads all tokens"):
        sdxl.draws.task("text2image", **ask)
    broken = replace(sdxl.full.model, texts=None)
    with pytest.raises(InvalidRequest, match="takes no embedded prompts"):
        Loaded(broken, torch.float32).task("text2image", embedded=file, **ASK)


def header(path: Path) -> dict[str, Any]:
    """What one of our files says of itself."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][MARK])
    return found


def without_numbers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first prompt and the first negative one."""
    return {name: value for name, value in tensors.items() if not name[0].isdigit()}
