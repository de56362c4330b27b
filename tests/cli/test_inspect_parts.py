"""inspect and convert of split files, folders that diffusers reads, embedded prompts, and what nothing reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato
from sfumato.cli.main import main
from sfumato.families import foreign, listing
from sfumato.families.split import assembled, opened
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.peers.further import FURTHER
from tests.peers.pipelines import PIPELINES, peer
from tests.peers.single_files import places, single_file, tensors

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny FLUX.1."""
    return peer(PIPELINES["flux"], tmp_path_factory.mktemp("flux") / "folder").folder


@pytest.fixture(scope="module")
def split(flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its networks in files of their own."""
    folder = tmp_path_factory.mktemp("split")
    for place, part in places(flux).items():
        layout = "diffusers" if place.startswith("text") else "original"
        save_tensors(
            folder / f"{place}.safetensors", tensors(part, "", layout, folder.parent / "scratch.safetensors")
        )
    return folder


def told(capsys: Out, *arguments: str) -> Any:
    """What a command prints as JSON."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def parts(split: Path) -> list[str]:
    """The denoiser's file, and the other ones each with ``--part``."""
    others = [
        word for name in ("text", "vae", "text_3") for word in ("--part", str(split / f"{name}.safetensors"))
    ]
    return [str(split / "denoiser.safetensors"), *others]


def test_split_files_are_inspected_as_the_whole_they_make(flux: Path, split: Path, capsys: Out) -> None:
    alone = told(capsys, "inspect", str(split / "denoiser.safetensors"))
    assert (alone["family"], alone["missing"]) == ("flux", ["vae", "text", "text_3"])
    whole = told(capsys, "inspect", str(flux))
    for arguments in (parts(split), [str(split)]):
        report = told(capsys, "inspect", *arguments)
        assert (report["family"], report["missing"], report["layout"]) == ("flux", [], "files of their own")
        sizes = {one["place"]: one["parameters"] for one in report["components"]}
        assert sizes == {one["place"]: one["parameters"] for one in whole["components"]}
        assert len(report["files"]) == 4
    assert main(["inspect", *parts(split)]) == 0
    assert "files of their own" in capsys.readouterr().out
    assert main(["inspect", str(split / "vae.safetensors"), "--part", str(split / "text.safetensors")]) == 5
    assert "none of the files holds a denoiser" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_split_files_are_converted_and_make_the_same_pictures(
    flux: Path, split: Path, layout: str, tmp_path: Path, capsys: Out
) -> None:
    target = tmp_path / ("folder" if layout == "diffusers" else "one.safetensors")
    assert main(["convert", *parts(split)[:1], str(target), *parts(split)[1:], "--to", layout]) == 0
    capsys.readouterr()
    words = flux / "tokenizer_2"
    if layout == "diffusers":
        shutil.copytree(words, target / "tokenizer_2")
    ask: dict[str, Any] = {"prompt": "a red cat", "steps": 1, "seed": 5, "size": "64x64"}
    made = sfumato.load(str(target), dtype="float32", tokens=words if layout == "original" else None)
    wanted = sfumato.load(str(flux), dtype="float32")
    np.testing.assert_array_equal(made(**ask).images[0].pixels, wanted(**ask).images[0].pixels)
    if layout == "original":
        single = single_file("flux", flux, tmp_path / "ours.safetensors")
        mine = load_file(target)
        theirs = {
            name.replace("first_stage_model.", "vae."): value for name, value in load_file(single).items()
        }
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_marks_of_a_main_file_and_the_last_block_are_kept(tmp_path: Path, capsys: Out) -> None:
    """Stable Diffusion 2 in one file without its autoencoder, which comes beside it."""
    folder = peer(PIPELINES["sd2 v"], tmp_path / "sd2").folder
    whole = single_file("sd2 v", folder, tmp_path / "whole.safetensors", {"v_pred": torch.zeros(0)})
    both = load_file(whole)
    begin = "first_stage_model."
    save_file({n: v for n, v in both.items() if not n.startswith(begin)}, tmp_path / "main.safetensors")
    save_file(
        {n.removeprefix(begin): v for n, v in both.items() if n.startswith(begin)},
        tmp_path / "ae.safetensors",
    )
    told_ = [
        "convert",
        str(tmp_path / "main.safetensors"),
        str(tmp_path / "again.safetensors"),
        "--to",
        "original",
    ]
    assert main([*told_, "--part", str(tmp_path / "ae.safetensors")]) == 0
    capsys.readouterr()
    made = load_file(tmp_path / "again.safetensors")
    assert {n for n in both if n not in made} <= {"v_pred", "cond_stage_model.model.text_projection"} | {
        n for n in both if n.startswith("cond_stage_model.model.transformer.resblocks.")
    }
    assert all(torch.equal(both[name], value) for name, value in made.items())
    report = told(
        capsys, "inspect", str(tmp_path / "main.safetensors"), "--part", str(tmp_path / "ae.safetensors")
    )
    assert (report["family"], report["prediction"]) == ("sd2", "v")


@pytest.mark.parametrize(
    ("pipeline", "name", "variant"),
    [
        ("FluxPipeline", "folder", "dev"),
        ("FluxKontextPipeline", "folder", "Kontext"),
        (None, "flux1-kontext-dev.safetensors", "Kontext"),
        (None, "flux1.safetensors", "dev or Kontext"),
    ],
)
def test_which_flux_it_is_where_a_class_or_a_name_tells(
    flux: Path, split: Path, tmp_path: Path, capsys: Out, pipeline: str | None, name: str, variant: str
) -> None:
    path = tmp_path / name
    if pipeline is None:
        shutil.copy(split / "denoiser.safetensors", path)
    else:
        shutil.copytree(flux, path)
        index = json.loads((path / "model_index.json").read_text("utf-8"))
        (path / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}), "utf-8")
    assert told(capsys, "inspect", str(path))["variant"] == variant


def test_what_nothing_reads_is_said_and_not_loaded(
    flux: Path, split: Path, tmp_path: Path, capsys: Out
) -> None:
    whole = shutil.copytree(flux, tmp_path / "whole")
    (whole / "safety_checker").mkdir()
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(2)}, whole / "safety_checker" / "model.safetensors")
    index = json.loads((whole / "model_index.json").read_text("utf-8"))
    (whole / "model_index.json").write_text(json.dumps({**index, "safety_checker": ["x", "Y"]}), "utf-8")
    notes = told(capsys, "inspect", str(whole))["notes"]
    assert notes == ["safety_checker has 2 tensors, 0.00 GB, that nothing here reads"]
    other = peer(PIPELINES["sd3"], tmp_path / "sd3").folder
    big = tmp_path / "clip_g.safetensors"
    save_tensors(big, tensors(places(other)["text_2"], "", "diffusers", tmp_path / "scratch.safetensors"))
    more = ["--part", str(big)]
    said = "nothing of this family reads text_2 (clip), which is there"
    assert told(capsys, "inspect", str(flux), *more)["notes"] == [said]
    model = sfumato.load(str(flux), parts=[big], dtype="float32")
    made = model("a red cat", steps=1, size="64x64")
    assert f"{said}; it was not loaded" in made.notes
    seams = model.model.seams
    assert seams is not None
    assert "text_2" not in seams.networks()
    with open_source(other) as source:  # T5 may lie in Stable Diffusion 3
        from sfumato.families.inspect import inspect

        assert inspect(source).notes == ()


def test_folders_that_diffusers_reads_are_named_with_what_they_need(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = FURTHER["aura"]()
    pipe.save_pretrained(tmp_path / "aura")
    report = told(capsys, "inspect", str(tmp_path / "aura"))
    assert (report["kind"], report["pipeline"]) == ("wrapped", "AuraFlowPipeline")
    assert (report["denoiser"], report["needs"]) == ("AuraFlowTransformer2DModel", "sfumato[diffusers]")
    assert report["known"]
    assert report["installed"] == listing.installed()
    assert report["refused"] == ""
    counts = {one["name"]: one["parameters"] for one in report["components"]}
    for name in ("transformer", "vae", "text_encoder"):
        held = load_file(next((tmp_path / "aura" / name).glob("*.safetensors")))
        assert counts[name] == sum(value.numel() for value in held.values())
    assert main(["inspect", str(tmp_path / "aura")]) == 0
    assert "AuraFlowTransformer2DModel, not native: read through diffusers" in capsys.readouterr().out
    monkeypatch.setattr(foreign, "installed", lambda: None)
    assert main(["inspect", str(tmp_path / "aura")]) == 0
    assert "needs     sfumato[diffusers] (diffusers: not installed)" in capsys.readouterr().out
    index = json.loads((tmp_path / "aura" / "model_index.json").read_text("utf-8"))
    index |= {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (tmp_path / "aura" / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert told(capsys, "inspect", str(tmp_path / "aura"))["refused"]


def test_embedded_prompts_are_shown(tmp_path: Path, capsys: Out) -> None:
    file = tmp_path / "pets.safetensors"
    assert main(["embed", "a cat", "a dog", "--negative", "grey", "-o", str(file)]) == 0
    capsys.readouterr()
    report = told(capsys, "inspect", str(file))
    assert (report["kind"], report["family"]) == ("embedded", "emoji")
    assert [row["prompt"] for row in report["rows"]] == [
        "the prompt 'a cat'",
        "the negative prompt that is left out",
        "the negative prompt 'grey'",
        "the prompt 'a dog'",
    ]
    assert main(["inspect", str(file)]) == 0
    assert "pets.safetensors: 4 embedded prompts, BOOL, F32" in capsys.readouterr().out


def test_one_file_is_its_own_source(split: Path) -> None:
    with opened(split / "denoiser.safetensors") as checkpoint:
        assert assembled(checkpoint) is checkpoint.source
