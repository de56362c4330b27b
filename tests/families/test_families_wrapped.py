"""Folders of families that are not native: diffusers' networks in our hands make what its pipelines make."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

import sfumato
from sfumato.cli.families import families
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families import listing
from sfumato.families.published import FAMILIES
from sfumato.families.ways import WAYS
from sfumato.families.wrapped import is_for, load_wrapped, wrapped
from sfumato.nn.wrapped import called
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Unconditional
from tests.families.test_published import far, walked
from tests.peers.further import SQUARE, further
from tests.peers.pipelines import PIPELINES, Case, Wide, in_float64, peer, redraw, wide_tables

F64, F32 = torch.float64, torch.float32
ODD = {
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "mid_block_scale_factor": 1.41421356237,
}


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case of a name, built once for all tests of a module."""
    folder = tmp_path_factory.mktemp("wrapped")
    name = request.param
    return Case(name, peer(PIPELINES[name], folder)) if name in PIPELINES else further(name, folder)


@pytest.mark.parametrize("case", ["sd1", "pixart sigma"], indirect=True)
def test_a_wrapped_pipeline_makes_what_the_native_model_makes(case: Case) -> None:
    """The native ones are held to the pipelines elsewhere, so this holds the seam to them too."""
    assert not is_for(case.peer.folder)
    task = Text2Image(
        prompt="A red cat at NIGHT", negative="dog", steps=3, seed=3, size="64x80", guidance=4.0
    )
    native, ours = case.model(F64), wrapped(case.pipe, case.peer.folder)
    assert far(walked(ours, task)[0], walked(native, task)[0]) < 1e-6
    for name in ("sampler", "grid", "final", "unit_start"):
        assert getattr(ours.defaults, name) == getattr(native.defaults, name), name
    assert "not native" in ours.notes("a")[0]


@pytest.mark.parametrize("case", ["aura"], indirect=True)
def test_sizes_end_with_the_table_of_places_and_opening_is_quiet(
    case: Case, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """AuraFlow's setting counts the places of a square: 256 of them are 16 patches of 2 a side."""
    capfd.readouterr()
    model = load_wrapped(case.peer.folder)
    assert "%|" not in capfd.readouterr().err
    assert not [str(one.message) for one in recwarn if "torch_dtype" in str(one.message)]
    assert diffusers.utils.logging.is_progress_bar_enabled()
    assert model.defaults.most == 64
    walked(model, Text2Image(prompt="a", steps=1, size="64x64"))
    with pytest.raises(InvalidRequest, match="size = '68x64' is not one that this model can make"):
        walked(model, Text2Image(prompt="a", steps=1, size="68x64"))


@pytest.mark.parametrize("case", ["aura"], indirect=True)
def test_a_family_that_is_not_native_walks_as_its_pipeline(case: Case) -> None:
    assert is_for(case.peer.folder)
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad(), wide_tables(case.pipe):
        expected = case.pipe(
            "a red cat",
            negative_prompt="dog",
            height=64,
            width=64,
            num_inference_steps=3,
            guidance_scale=4.0,
            latents=noise,
            output_type="latent",
        ).images
    task = Text2Image(prompt="a red cat", negative="dog", steps=3, seed=3, size="64x64", guidance=4.0)
    for model, most in ((wrapped(case.pipe, case.peer.folder), 1e-5), (load_wrapped(case.peer.folder), 1e-4)):
        assert (model.name, model.defaults.guidance, model.defaults.multiple) == ("AuraFlow", 3.5, 4)
        assert far(walked(model, task)[0], expected) < most


def odd_folder(folder: Path) -> nn.Module:
    """A U-Net of kinds of blocks that are not native, saved, then in float64."""
    net = diffusers.UNet2DModel(**{**SQUARE, **ODD})
    redraw(net, seed=3)
    pipe = diffusers.DDPMPipeline(unet=net.eval(), scheduler=diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return in_float64(net)


def test_a_u_net_that_is_not_native_walks_as_its_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = odd_folder(tmp_path)
    assert is_for(tmp_path)
    draws = torch.Generator().manual_seed(3)

    def drawn(shape: Any, **_: Any) -> Tensor:
        return torch.randn(tuple(shape), generator=draws).double()

    for owner in (diffusers.DDPMPipeline, diffusers.DDPMScheduler):
        monkeypatch.setattr(f"{owner.__module__}.randn_tensor", drawn)
    monkeypatch.setattr(f"{diffusers.DDPMScheduler.__module__}.torch", Wide())
    pipe = diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pictures = pipe(num_inference_steps=4, output_type="pt").images
    monkeypatch.undo()
    with pytest.raises(InvalidRequest, match="are for native ones"):
        sfumato.load(str(tmp_path), predicts="v")
    assert sfumato.load(str(tmp_path), dtype="float32").name == "DDPM"
    exact = wrapped(pipe, tmp_path)
    for model, most in ((exact, 1e-5), (load_wrapped(tmp_path), 1e-4)):
        _, pixels = walked(model, Unconditional(steps=4, seed=3))  # type: ignore[arg-type]
        assert far(pixels / 2 + 0.5, pictures) < most
    with pytest.raises(InvalidRequest, match="use the task 'unconditional'"):
        walked(exact, Text2Image(prompt="a cat", steps=2))


def test_what_cannot_be_wrapped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(hidden_states: Tensor, timestep: Tensor, img_ids: Tensor) -> None: ...

    with pytest.raises(ValueError, match="needs img_ids"):
        called(forward)
    with pytest.raises(ValueError, match="needs no latent"):
        called(lambda timestep=None: None)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"transformer": ["diffusers", "NoSuchTransformer"]}), "utf-8")
    assert is_for(tmp_path)
    with pytest.raises(
        WeightsError, match=r"NoSuchTransformer, which the installed diffusers .* does not have"
    ):
        load_wrapped(tmp_path)
    index.write_text(json.dumps({"transformer": ["diffusers", "SanaTransformer2DModel"]}), "utf-8")
    with pytest.raises(WeightsError, match="diffusers cannot open"):
        load_wrapped(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"sfumato\[diffusers\]"):
        load_wrapped(tmp_path)


def test_pickles_and_code_of_a_folders_own_are_never_opened(tmp_path: Path) -> None:
    """diffusers falls back on pickles, in this very process, where a folder has no safetensors."""
    odd_folder(tmp_path)
    file, index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "model_index.json"
    torch.save(load_file(file), file.with_suffix(".bin"))
    load_wrapped(tmp_path)
    file.unlink()
    with pytest.raises(WeightsError, match="diffusers cannot open"):
        sfumato.load(str(tmp_path))
    with pytest.raises(InvalidRequest, match="leave allow_pickle out"):
        sfumato.load(str(tmp_path), allow_pickle=True)
    told = json.loads(index.read_text("utf-8"))
    for changed, words in (
        ({"_class_name": ["evil", "Evil"]}, "a file of its own, whose code is not run"),
        ({"scheduler": ["evil", "Evil"]}, "scheduler is of 'evil', whose code is not run"),
    ):
        index.write_text(json.dumps({**told, **changed}), "utf-8")
        with pytest.raises(WeightsError, match=words):
            sfumato.load(str(tmp_path))


@pytest.mark.parametrize("linked", ["", "file", "folder"])
@pytest.mark.parametrize(
    "name", ["unet/diffusers.py", "scheduler/diffusers.py", "pipeline.py", "unet/Evil.PY"]
)
def test_code_beside_the_parts_is_refused_before_diffusers_looks(
    tmp_path: Path, name: str, linked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 0.37 it runs a part's diffusers.py, though the library that is named is its own."""
    folder, away = tmp_path / "model", tmp_path / "away"
    odd_folder(folder)
    load_wrapped(folder)
    away.mkdir()
    file = folder / name
    if linked == "folder" and file.parent != folder:
        file.parent.rename(away / file.parent.name)
        file.parent.symlink_to(away / file.parent.name, target_is_directory=True)
        load_wrapped(folder)
    target = away / "kept" if linked == "file" else file
    target.write_text("raise SystemExit('code ran')", "utf-8")
    if linked == "file":
        file.symlink_to(target)

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("diffusers was asked")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", opened)
    with pytest.raises(WeightsError, match=f"holds {re.escape(name)}, whose code is not run here"):
        sfumato.load(str(folder))


def test_settings_that_are_no_settings_are_told(tmp_path: Path) -> None:
    odd_folder(tmp_path)
    path = tmp_path / "unet" / "config.json"
    told = json.loads(path.read_text("utf-8"))
    for kinds in (3, "DownBlock2D", [["DownBlock2D"]], {}):
        path.write_text(json.dumps({**told, "down_block_types": kinds}), "utf-8")
        with pytest.raises(WeightsError):
            sfumato.load(str(tmp_path))


def test_every_native_family_is_listed_and_none_else() -> None:
    assert {row.name for row in listing.NATIVE} == {family.name for family in FAMILIES}
    wrapped = {row.name for row in listing.wrappable()}
    assert wrapped == {*WAYS, "KolorsPipeline", "*"} - {"UNet2DConditionModel"}


def test_the_command_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    out = CliRunner().invoke(families, ["--json"])
    rows = {row["name"]: row for row in json.loads(out.output)}
    assert rows["pixart"]["native"]
    assert not rows["AuraFlowTransformer2DModel"]["native"]
    assert rows["AuraFlowTransformer2DModel"]["source"].startswith("diffusers ")
    monkeypatch.setattr(listing, "installed", lambda: None)
    listing.wrappable.cache_clear()
    plain = CliRunner().invoke(families, []).output
    assert "sfumato[diffusers]" in plain
    assert "AuraFlow" not in plain
    listing.wrappable.cache_clear()
