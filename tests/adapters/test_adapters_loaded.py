"""Adapters on the built-in model, whose U-Net works on a copy: acting, gone, in recipes, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato
from sfumato.adapters import Network, describe, save_adapter, trained
from sfumato.adapters.formula import Formula, Lora
from sfumato.api import Loaded
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, SfumatoError, WeightsError
from sfumato.families.gaussian import mixture
from sfumato.picture.png import read_recipe

ASKED: dict[str, Any] = {"steps": 1, "seed": 7}


@pytest.fixture(scope="module")
def model() -> Loaded:
    return sfumato.load("emoji", dtype="float32")


@pytest.fixture(scope="module")
def folder(model: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of the U-Net's attention and the text encoder, in kohya's layout."""
    assert model.model.seams is not None
    places = {place: Network(*pair) for place, pair in model.model.seams.networks().items()}
    made = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("ink", "toy"), 1):
        draws = torch.Generator().manual_seed(seed)
        own: dict[str, dict[str, Formula]] = {"denoiser": {}, "text": {}}
        for place, wanted in (("denoiser", "look"), ("text", "blocks.0")):
            for layer, module in places[place].layers.items():
                if isinstance(module, torch.nn.Linear) and wanted in layer:
                    down = torch.randn(4, module.in_features, generator=draws) * module.in_features**-0.5
                    up = torch.randn(module.out_features, 4, generator=draws) * 0.1
                    own[place][layer] = Lora(down, up)
        save_adapter(made / f"{name}.safetensors", trained(own), places, "kohya")
    return made


def pixels(model: Loaded, prompt: str = "a rocket", **more: Any) -> Any:
    return model(prompt, **{**ASKED, **more}).images[0].pixels


def test_an_adapter_acts_and_is_gone_to_the_last_bit(model: Loaded, folder: Path) -> None:
    bare = pixels(model)
    seen = [bare]
    ways: list[dict[str, Any]] = [
        {},
        {"text": 0.0},
        {"interval": (0.3, 0.8), "text": 0.0},
        {"blocks": {"denoiser.middle*": 0.0}},
        {"strength": 0.4},
    ]
    for way in ways:
        assert model.adapt(folder / "ink.safetensors", **way) == ()
        seen.append(pixels(model))
        model.adapters.remove("ink")
        assert np.array_equal(pixels(model), bare)
    for number, one in enumerate(seen):
        assert not any(np.array_equal(one, other) for other in seen[:number])


def test_beside_the_weights_of_the_plain_network_it_is_the_same_to_rounding(
    model: Loaded, folder: Path
) -> None:
    """In a whole interval but a hair of it the adapter acts live, on the network that is not packed."""
    task = sfumato.Text2Image(prompt="a rocket", **ASKED)

    def latent() -> torch.Tensor:
        seen: list[torch.Tensor] = []
        sfumato.run(task(model.model), lambda ask, reply: seen.append(ask.arguments[0]))
        return seen[-1]

    found = []
    for interval in ((0.0, 1.0), (1e-9, 1.0)):
        model.adapt(folder / "ink.safetensors", 0.8, text=0, interval=interval)
        found.append(latent())
        model.adapters.remove()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-4)
    assert (latent() - found[0]).abs().max() > 0.05


def test_prompts_name_adapters_for_one_request(folder: Path) -> None:
    model = sfumato.load("emoji", dtype="float32", adapters_in=folder)
    bare = pixels(model)
    model.adapt(folder / "toy.safetensors", 0.5)
    standing = pixels(model)
    named = model("a rocket <lora:ink:0.8>", dialect="a1111", **ASKED).images[0]
    facts = named.recipe.arguments["adapters"]
    assert [(f["file"], f["strength"], f.get("text")) for f in facts] == [
        ("toy.safetensors", 0.5, None),
        ("ink.safetensors", 0.8, 0.8),
    ]
    assert np.array_equal(pixels(model), standing)
    again = pixels(model, "a rocket <lora:ink:te=0:unet=0.8> <lora:toy:0>", dialect="a1111")
    model.adapters.remove()
    model.adapt(folder / "ink.safetensors", 0.8, text=0)
    assert np.array_equal(again, pixels(model))
    model.adapters.remove()
    assert np.array_equal(pixels(model), bare)
    compel = pixels(model, "a rocket withLora(ink, 0.8)", dialect="compel")
    assert np.array_equal(compel, pixels(model, "a rocket<lora:ink:0.8>", dialect="a1111"))
    for prompt, told in (
        ("<lora:inc:1> a", "did you mean 'ink'"),
        ("<lora:ink:1> a <lora:ink:2>", "named with two strengths"),
        ("<lora:ink:1:dyn=3> a", "only te and unet"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            pixels(model, prompt, dialect="a1111")
    assert np.array_equal(pixels(model), bare)


def test_a_bare_name_of_learned_words_is_a_word_and_no_part_of_one(tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "at.safetensors")
    model = sfumato.load("emoji", dtype="float32", embeddings_in=tmp_path)
    pixels(model, "a cat, attentive", dialect="a1111")
    for prompt in ("look At this", "a cat (at:1.2)"):
        with pytest.raises(InvalidRequest, match="textual inversion is for CLIP"):
            pixels(model, prompt, dialect="a1111")


def test_what_cannot_act_changes_nothing(model: Loaded, folder: Path, tmp_path: Path) -> None:
    bare = pixels(model)
    model.adapt(folder / "toy.safetensors", 0.5)
    standing = pixels(model)
    tensors = load_file(folder / "ink.safetensors")
    key = next(key for key in tensors if "up.weight" in key)
    save_file({**tensors, key: tensors[key] * float("nan")}, tmp_path / "nan.safetensors")
    save_file({**tensors, key: tensors[key] * 1e37}, tmp_path / "huge.safetensors")
    save_file(
        {key.replace("input_blocks_3", "input_blocks_33"): v for key, v in tensors.items()},
        tmp_path / "x.safetensors",
    )
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nan.safetensors", {}, "NaN or infinity"),
        (tmp_path / "huge.safetensors", {"strength": 1e4}, "lower the strength"),
        (tmp_path / "x.safetensors", {}, "find no place in this model"),
        (folder / "toy.safetensors", {}, "acts already"),
        (folder / "ink.safetensors", {"interval": (0.2, 0.8)}, "the strength 0 there"),
        (folder / "ink.safetensors", {"blocks": {"denoiser.nowhere*": 0.5}}, "matches no block"),
        (tmp_path / "none.safetensors", {}, "cannot read the adapter"),
    ]
    for path, way, told in refused:
        with pytest.raises(SfumatoError, match=told):
            model.adapt(path, **way)
        assert [one.name for one in model.adapters] == ["toy"]
        assert np.array_equal(pixels(model), standing)
    assert "without a place" in model.adapt(tmp_path / "x.safetensors", partial=True)[0]
    model.adapters.remove()
    with pytest.raises(InvalidRequest, match="no adapter 'toy' acts; there are none"):
        model.adapters.remove("toy")
    assert np.array_equal(pixels(model), bare)


def test_what_finds_no_place_is_left_out_where_that_was_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line: refused with the keys; with --partial told, and kept in the recipe."""
    tensors = load_file(folder / "ink.safetensors")
    for key, shape in (("lora_down", (2, 4)), ("lora_up", (4, 2))):
        tensors[f"lora_unet_nowhere.{key}.weight"] = torch.ones(shape)
    save_file(tensors, tmp_path / "ink.safetensors")
    out, again = tmp_path / "a.png", tmp_path / "b.png"
    asked = [
        "generate",
        "a cat",
        "--steps",
        "1",
        "--adapter",
        str(tmp_path / "ink.safetensors"),
        "-o",
        str(out),
    ]
    assert main(asked) == 5
    assert "lora_unet_nowhere" in capsys.readouterr().err
    assert main([*asked, "--partial"]) == 0
    assert "lora_unet_nowhere" in capsys.readouterr().err
    assert main(["generate", "--like", str(out), "--adapters-in", str(tmp_path), "-o", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_models_without_networks_take_none(folder: Path) -> None:
    law = Loaded(mixture(torch.zeros(1, 4), torch.eye(4)[None], torch.ones(1)), torch.float64)
    with pytest.raises(InvalidRequest, match="takes no adapters"):
        law.adapt(folder / "ink.safetensors")


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given and named, in a recipe by their hashes, made again in a folder of its own, missing, changed."""
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    size = ("--steps", "1", "--seed", "3")
    toy, given = f"{folder / 'toy.safetensors'}:0.5:text=0", ("--adapters-in", str(folder))
    prompt = ("a cat <lora:ink:0.7>", "--dialect", "a1111")
    assert main(["generate", *prompt, *size, "--adapter", toy, *given, "-o", str(first)]) == 0
    facts = read_recipe(first).arguments["adapters"]
    assert [(f["strength"], f.get("text")) for f in facts] == [(0.5, 0.0), (0.7, 0.7)]  # type: ignore[index, union-attr]
    assert main(["generate", "--like", str(first), *given, "-o", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    capsys.readouterr()
    for more, told in (
        ((), "made with toy.safetensors, which was not found"),
        (("--adapter", str(folder / "toy.safetensors")), "made with ink.safetensors, which was not found"),
        (("--adapter", "none.safetensors"), "none.safetensors does not exist"),
        (("--draw", "3"), "leave out --draw"),
    ):
        assert main(["generate", "--like", str(first), *more, "-o", str(tmp_path / "c.png")]) == 2
        assert told in capsys.readouterr().err
    for more, told in (
        (("--adapter", "x.safetensors:abc"), "'abc'"),
        (("--adapter", f"{toy}", "--adapter", f"{toy}:hi=0.9"), "'toy' is named with two strengths"),
        (("--adapter", f"{toy}", "--adapter", f"{toy}"), "'toy' is named twice"),
        (("--adapter", f"{toy}:hi=0.5", "--merged"), "leave lo and hi out"),
        (("--merged",), "--merged is about adapters: it goes with --adapter or --adapters-in"),
        (("--partial",), "--partial is about adapters"),
    ):
        assert main(["generate", "x", *more, "-o", str(tmp_path / "c.png")]) == 2
        assert told in capsys.readouterr().err
    assert main(["generate", "a cat", *size, "--draw", "3", "-o", str(tmp_path / "drawn.png")]) == 0
    assert "--draw drew nothing" in capsys.readouterr().err
    assert (
        main(["generate", "a {cat|dog}", *size, "--draw", "3", "--force", "-o", str(tmp_path / "drawn.png")])
        == 0
    )
    assert "drew nothing" not in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()
    fields = ["--steps", "2", "--adapter", toy, "--strength", "0.6", "-o", str(tmp_path / "edit.png")]
    assert main(["edit", str(first), "a dog", *fields]) == 0
    assert read_recipe(tmp_path / "edit.png").arguments["adapters"][0]["file"] == "toy.safetensors"  # type: ignore[index, call-overload]


def test_two_files_of_one_name_are_refused_and_a_merged_adapter_acts_at_every_level(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "ink.safetensors").write_bytes((folder / "toy.safetensors").read_bytes())
    with pytest.raises(InvalidRequest, match="two adapters are called 'ink'"):
        sfumato.load("emoji", adapters=[folder / "ink.safetensors", tmp_path / "ink.safetensors"])
    merged = sfumato.load("emoji", dtype="float32", merged=True)
    with pytest.raises(InvalidRequest, match=r"'ink' is to be merged.*interval"):
        merged.adapt(folder / "ink.safetensors", text=0.0, interval=(0.2, 0.8))
    assert list(merged.adapters) == []


def test_a_changed_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes((folder / "ink.safetensors").read_bytes())
    model = sfumato.load("emoji", dtype="float32", adapters_in=tmp_path)
    first = pixels(model, "a <lora:one:1>", dialect="a1111")
    path.write_bytes((folder / "toy.safetensors").read_bytes())
    assert not np.array_equal(pixels(model, "a <lora:one:1>", dialect="a1111"), first)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError):
        pixels(model, "a <lora:one:1>", dialect="a1111")


def test_an_adapter_is_written_in_another_layout_and_acts_the_same(
    model: Loaded, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = folder / "ink.safetensors", tmp_path / "ink-diffusers.safetensors"
    assert main(["adapter", str(source), str(target), "--to", "diffusers", "--title", "Inks"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    facts = describe(target)
    assert (facts["title"], facts["layout"], facts["algorithms"]) == ("Inks", "diffusers", {"lora": 52})
    found = []
    for path in (source, target):
        model.adapt(path, 0.8)
        found.append(pixels(model))
        model.adapters.remove()
    assert np.array_equal(found[0], found[1])
    for arguments, code, told in (
        ((str(source), str(target), "--to", "kohya"), 2, "exists"),
        ((str(source), str(tmp_path / "x"), "--to", "kohya", "-m", "none"), 2, ".safetensors files"),
        ((str(source), str(tmp_path / "x.pt"), "--to", "diffusers"), 2, ".safetensors files"),
        ((str(source), str(tmp_path / "x.safetensors"), "--to", "peft", "-m", "none"), 2, "is a folder"),
        ((str(source), str(tmp_path / "x"), "--to", "peft"), 2, "the layout 'peft' is for one network"),
        ((str(tmp_path / "no.safetensors"), str(tmp_path / "x"), "--to", "peft"), 2, "does not exist"),
    ):
        assert main(["adapter", *arguments]) == code
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_adapter_is_written_in_parts_where_that_was_asked_and_the_default_model_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(folder / "ink.safetensors")
    odd = {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")}
    save_file({**tensors, **odd}, tmp_path / "odd.safetensors")
    save_file(odd, tmp_path / "other.safetensors")
    target = tmp_path / "made.safetensors"
    asked = ("adapter", str(tmp_path / "odd.safetensors"), str(target), "--to", "kohya")
    assert main([*asked]) == 5
    assert "--partial (partial=True) leaves them out: lora_unet_nowhere" in capsys.readouterr().err
    assert main(["adapter", str(tmp_path / "other.safetensors"), str(target), "--to", "kohya"]) == 5
    assert "another family" in (told := capsys.readouterr().err)
    assert "no -m MODEL was given, and the default is emoji" in told
    assert (
        main(["adapter", str(tmp_path / "other.safetensors"), str(target), "--to", "kohya", "-m", "emoji"])
        == 5
    )
    assert "no -m" not in capsys.readouterr().err
    assert not target.exists()
    assert main([*asked, "--partial"]) == 0
    assert "lora_unet_nowhere" in capsys.readouterr().err
    made = load_file(target)
    assert made.keys() == tensors.keys()
    assert all(torch.equal(made[name], value) for name, value in tensors.items())
