"""Networks that make tokens of pictures against transformers' and diffusers': weights, pictures, files, settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from sfumato.errors import WeightsError
from sfumato.families import looks
from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.weights.load import load_into
from sfumato.weights.source import open_source
from tests.families.test_published import far
from tests.families.test_published_rows import check
from tests.peers.looks import TOWER, embedder, tower
from tests.peers.tiny import in_float64

F64, F32 = torch.float64, torch.float32


def pictures(count: int = 2, side: int = 32) -> torch.Tensor:
    """Random pictures in [-1, 1]."""
    draws = torch.Generator().manual_seed(4)
    return 2 * torch.rand(count, 3, side, side, generator=draws, dtype=F64) - 1


def part_in(path: Path, place: str) -> Part:
    """The network at ``place`` of a checkpoint."""
    return open_checkpoint(open_source(path)).parts[place]


def loaded(part: Part, dtype: torch.dtype) -> torch.nn.Module:
    """The network of ``part``, filled."""
    return load_into(part.make, part.source, part.table, part.layout, dtype=dtype)


@pytest.mark.parametrize("names", ["now", "published", "whole"])
def test_the_vision_tower_is_transformers(tmp_path: Path, names: str) -> None:
    theirs = tower()
    state = {name: value.float() for name, value in theirs.state_dict().items()}
    if names != "now":  # transformers 4's files, and the published ones, begin with another word
        state = {f"vision_model.{name}": value for name, value in state.items()}
    if names == "whole":
        text = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        whole = SiglipModel(SiglipConfig(text_config={**text, "vocab_size": 9}, vision_config=TOWER))
        state = {**whole.state_dict(), **state}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "sigclip.safetensors")
    part = part_in(tmp_path / "sigclip.safetensors", "looker")
    assert (part.kind, part.config.side, part.config.pixels) == ("siglip", 4, 32)
    x = pictures()
    with torch.no_grad():
        expected = in_float64(theirs)(x).last_hidden_state
        assert far(loaded(part, F64)(x), expected) < 1e-6
        assert far(loaded(part, F32)(x.float()), expected) < 1e-5


def test_the_embedder_is_diffusers(tmp_path: Path) -> None:
    theirs = embedder()
    save_file(theirs.state_dict(), tmp_path / "flux1-redux-dev.safetensors")
    part = part_in(tmp_path / "flux1-redux-dev.safetensors", "redux")
    assert vars(part.config) == {"width": 128, "hidden": 144, "tokens": 48}
    states = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(1), dtype=F64)
    with torch.no_grad():
        expected = in_float64(theirs)(states).image_embeds
        assert far(loaded(part, F64)(states), expected) < 1e-6
        assert far(loaded(part, F32)(states.float()), expected) < 1e-5


@pytest.mark.parametrize("size", [(500, 333), (384, 384), (31, 700), (1, 1)])
def test_pictures_come_in_bit_for_bit_as_by_siglips_processor(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    expected = processor.preprocess(images=Image.fromarray(pixels), return_tensors="pt").pixel_values
    assert torch.equal(looks.prepared(pixels, 384), expected)


def test_no_two_rows_of_the_key_table_can_be_exchanged(tmp_path: Path) -> None:
    tower().save_pretrained(tmp_path)
    part = part_in(tmp_path, "looker")

    def look(table: object) -> list[torch.Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)  # type: ignore[arg-type]
        with torch.no_grad():
            return [net(pictures(1).float())]

    check(part, look)


def test_the_published_sizes_are_told_by_shapes() -> None:
    wide = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    with torch.device("meta"):
        shapes = {
            f"vision_model.{k}": tuple(v.shape) for k, v in SiglipVisionModel(wide).state_dict().items()
        }
        redux = {k: tuple(v.shape) for k, v in ReduxImageEncoder().state_dict().items()}
    config = looks.siglip(shapes, "diffusers")
    assert config == looks.SiglipConfig(pools=True)
    assert config.side**2 == 729
    assert looks.redux(redux, "original") == looks.ReduxConfig()
    told = looks.siglip_settings(config)
    del told["architectures"]
    assert {name: getattr(wide, name) for name in told} == told


def test_inspect_names_them_and_convert_writes_folders_that_the_peers_open(tmp_path: Path) -> None:
    theirs, small = tower(), embedder()
    state = {f"vision_model.{k}": v for k, v in theirs.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "sigclip.safetensors")
    save_file(small.state_dict(), tmp_path / "flux1-redux-dev.safetensors")
    for name, title in (
        ("sigclip", "SigLIP vision tower, 16 patches, width 128"),
        ("flux1-redux-dev", "FLUX.1 Redux, tokens of width 48"),
    ):
        with open_source(tmp_path / f"{name}.safetensors") as source:
            assert inspect(source).title == title
            convert(source, tmp_path / name, "diffusers")
    again = ReduxImageEncoder.from_pretrained(tmp_path / "flux1-redux-dev").state_dict()
    assert all(torch.equal(again[name], value) for name, value in small.state_dict().items())
    told = json.loads((tmp_path / "sigclip" / "config.json").read_text("utf-8"))
    assert SiglipVisionConfig(**told).image_size == 32
    read = SiglipVisionModel.from_pretrained(tmp_path / "sigclip")
    assert read.config.num_attention_heads == theirs.config.num_attention_heads
    kept = read.state_dict()
    assert kept.keys() == theirs.state_dict().keys()
    assert all(torch.equal(kept[name], value) for name, value in theirs.state_dict().items())
    with open_source(tmp_path / "flux1-redux-dev") as source:
        convert(source, tmp_path / "back.safetensors", "original")
    back = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], value) for name, value in small.state_dict().items())
    with open_source(tmp_path / "sigclip") as source, pytest.raises(WeightsError, match="has one layout"):
        convert(source, tmp_path / "s.safetensors", "original")


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ({"num_attention_heads": 5}, "5 heads of a width of 128"),
        ({"image_size": 64}, "pictures of 64 pixels"),
    ],
)
def test_settings_that_fit_no_tower_are_told(tmp_path: Path, told: dict[str, object], fault: str) -> None:
    tower().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **told}), "utf-8")
    with pytest.raises(WeightsError, match=fault):
        part_in(tmp_path, "looker")
