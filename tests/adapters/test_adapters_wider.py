"""Adapters that make FLUX.1 read a map (Canny's and Depth's), beside diffusers, by the names that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.loaded import Loaded
from sfumato.tasks.control import Control
from tests.adapters.files import layers
from tests.peers.picture_pipelines import built, draw, far, folded, latent_of, noise_of, photo, unfolded
from tests.peers.pipelines import Case, wide_tables

WIDTH, HEIGHT = 64, 80
COMMON: dict[str, Any] = {"prompt": "a red cat", "steps": 2, "guidance": 4.0, "seed": 3}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return built("flux", tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="module")
def state(case: Case) -> dict[str, Tensor]:
    """An adapter of every linear map but embedders, of 128 columns in the first, by diffusers' names."""
    draws = torch.Generator().manual_seed(7)
    found = {}
    for name, layer in layers(case.pipe.transformer, (nn.Linear,)).items():
        outer, inner = layer.weight.shape  # type: ignore[union-attr,misc]
        inner = 128 if name == "x_embedder" else inner  # type: ignore[has-type]
        found[f"transformer.{name}.lora_A.weight"] = torch.randn(3, inner, generator=draws) / inner**0.5
        found[f"transformer.{name}.lora_B.weight"] = 0.5 * torch.randn(outer, 3, generator=draws)
    return found


@pytest.fixture(scope="module")
def path(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("adapter") / "canny.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def expected(case: Case, path: Path) -> Tensor:
    """The latent of FluxControlPipeline with the adapter, whose scheduler and noise are as for ours."""
    pipe = diffusers.FluxControlPipeline.from_pretrained(case.peer.folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    assert pipe.transformer.x_embedder.in_features == 128
    noise = draw(case.model(torch.float64), WIDTH, HEIGHT)
    with noise_of(pipe), wide_tables(pipe), torch.no_grad():
        out = pipe(
            prompt="a red cat",
            control_image=Image.fromarray(photo(WIDTH, HEIGHT)),
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=2,
            guidance_scale=4.0,
            latents=folded(noise).float(),
            output_type="latent",
        ).images
    return unfolded(out.double(), *noise.shape[-2:])


def loaded(case: Case, *adapters: str | Path, **options: Any) -> Loaded:
    return sfumato.load(str(case.peer.folder), dtype="float32", adapters=adapters, **options)


@pytest.mark.parametrize("merged", [False, True], ids=["live", "merged"])
def test_a_map_is_followed_as_in_diffusers(case: Case, path: Path, expected: Tensor, merged: bool) -> None:
    model = loaded(case, path, merged=merged)
    image = photo(WIDTH, HEIGHT)
    assert far(latent_of(Control, model.model, image=image, **COMMON), expected) < 1e-4
    model.adapters.remove()
    model.adapters.add(path, 0.0)
    plain = latent_of(Control, model.model, image=image, **COMMON)
    other = latent_of(Control, model.model, image=255 - image, **COMMON)
    assert torch.equal(plain, other), "without the adapter the map says nothing"
    assert far(plain, expected) > 1e-2


def test_the_authors_names_do_the_same(
    case: Case, state: dict[str, Tensor], expected: Tensor, tmp_path: Path
) -> None:
    theirs = {"x_embedder": "img_in", "context_embedder": "txt_in"}
    own = {
        key.replace("transformer.", "", 1).replace(name, other): value
        for key, value in state.items()
        for name, other in theirs.items()
        if f"transformer.{name}." in key
    }
    rest = {k: v for k, v in state.items() if not any(f"transformer.{name}." in k for name in theirs)}
    save_file({**own, **rest}, tmp_path / "mixed.safetensors")
    model = loaded(case, tmp_path / "mixed.safetensors")
    found = latent_of(Control, model.model, image=photo(WIDTH, HEIGHT), **COMMON)
    assert far(found, expected) < 1e-4


def test_what_does_not_fit_is_refused(
    case: Case,
    state: dict[str, Tensor],
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InvalidRequest, match="control"):
        loaded(case, path)("a red cat", size="64x80", steps=1)
    odd = {**state, "transformer.x_embedder.lora_A.weight": torch.randn(3, 100)}
    save_file(odd, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"changes 100 columns of the first layer, and this FLUX.1 has 64"):
        loaded(case, tmp_path / "odd.safetensors")
    plain = loaded(case)
    with pytest.raises(WeightsError, match=r"makes FLUX.1 read a map: give it with --adapter") as error:
        plain.adapters.add(path)
    assert "partial" not in str(error.value)
    convert = ("convert", str(case.peer.folder), str(tmp_path / "x"), "--to", "diffusers")
    assert main([*convert, "--adapter", str(path)]) == 5
    assert "cannot be merged into files" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    named = loaded(case, adapters_in=path.parent)
    with pytest.raises(WeightsError, match=r"canny.* makes FLUX.1 read a map"):
        named("a cat <lora:canny:0.8>", size="64x80", steps=1, dialect="a1111")


def test_a_picture_by_the_command_line_is_made_again(case: Case, path: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(WIDTH, HEIGHT)).save(tmp_path / "map.png")
    model = ("-m", str(case.peer.folder), "--adapter", f"{path}:0.8", "--dtype", "float32")
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    given = ("control", str(tmp_path / "map.png"), "a red cat", "--steps", "1", "-o", str(first))
    assert main([*given, *model]) == 0
    like = ("generate", "--like", str(first), "--image", str(tmp_path / "map.png"), "-o", str(again))
    assert main([*like, *model]) == 0
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert first.read_bytes() == again.read_bytes()
