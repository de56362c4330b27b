"""U-Nets on pixels against diffusers' UNet2DModel and DDPMPipeline, every parameter redrawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sfumato.condition import Cond, Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.model import Model
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module, save_tensors
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers.further import UNETS, pixel_unet
from tests.peers.pipelines import Wide

F64, F32 = torch.float64, torch.float32


def opened(folder: Path, dtype: torch.dtype = F32) -> Model:
    """Our model of a folder."""
    with open_source(folder) as source:
        return load_checkpoint(open_checkpoint(source), dtype=dtype)


@pytest.mark.parametrize("name", UNETS)
def test_networks(name: str, tmp_path: Path) -> None:
    net = pixel_unet(name, diffusers.DDPMScheduler(), tmp_path)
    draws = torch.Generator().manual_seed(8)
    x = torch.randn(1, net.config.in_channels, 16, 16, generator=draws, dtype=F64)
    label = torch.tensor([7]) if net.config.num_class_embeds else None
    with torch.no_grad():
        expected = net(x, torch.tensor([431.0], dtype=F64), label).sample
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = opened(tmp_path, dtype)
        at = row_levels([model.schedule(x.shape[1:]).level(431.0)])
        assert far(model.denoiser.output(x, at, Cond(label=label)), expected) < most
    with open_source(tmp_path) as source:
        report = inspect(source)
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    assert (report.family, report.variant) == ("pixels", "by class" if label is not None else "unconditional")
    save_module(tmp_path / "back.safetensors", module, part.table, "diffusers")
    with open_source(tmp_path / "back.safetensors") as back:
        assert back.entries.keys() == net.state_dict().keys()
        for key, tensor in net.state_dict().items():
            assert torch.equal(back.read(key).double(), tensor), key


@pytest.mark.parametrize("name", ["ddpm attention", "adm"])
def test_no_two_rows_of_a_key_table_can_be_exchanged(name: str, tmp_path: Path) -> None:
    pixel_unet(name, diffusers.DDPMScheduler(), tmp_path)
    with open_source(tmp_path) as source:
        part = open_checkpoint(source).parts["denoiser"]
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 16, 16, generator=draws)
    doors = {"label": torch.tensor([7])} if part.config.classes else {}

    def say(table: Any) -> list[Tensor]:
        made = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [made(x, torch.tensor([431.0]), **doors)]

    check(part, say)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_walks_of_ddpm_with_its_variances_and_clipping(
    variance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "adm learned" if variance == "learned_range" else "ddpm attention"
    net = pixel_unet(name, diffusers.DDPMScheduler(variance_type=variance), tmp_path)
    draws = torch.Generator().manual_seed(3)

    def drawn(shape: Any, **_: Any) -> Tensor:
        return torch.randn(tuple(shape), generator=draws).double()

    for owner in (diffusers.DDPMPipeline, diffusers.DDPMScheduler):
        monkeypatch.setattr(f"{owner.__module__}.randn_tensor", drawn)
    monkeypatch.setattr(f"{diffusers.DDPMScheduler.__module__}.torch", Wide())
    pipe = diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler(variance_type=variance))
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pictures = pipe(num_inference_steps=5, output_type="pt").images
    monkeypatch.undo()
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        _, pixels = walked(opened(tmp_path, dtype), Unconditional(steps=5, seed=3))  # type: ignore[arg-type]
        assert far(pixels / 2 + 0.5, pictures) < most


def test_defaults_classes_and_what_is_refused(tmp_path: Path) -> None:
    pixel_unet("adm", diffusers.DDPMScheduler(variance_type="fixed_large", beta_end=0.015), tmp_path / "adm")
    model = opened(tmp_path / "adm")
    assert (model.defaults.sampler, model.defaults.grid) == ("ddpm(variance=large)", "leading(offset=0)")
    assert (model.defaults.width, model.defaults.least, model.defaults.most) == (16, 16, 16)
    seven, eight = (
        walked(model, Class2Image(label=n, steps=2, seed=3))[1]  # type: ignore[arg-type]
        for n in ("7", "8")
    )
    assert far(seven, eight) > 1e-2
    with pytest.raises(InvalidRequest, match="no class: allowed are 0 to 9"):
        model.conditioner([Prompt(text="cat")])
    with pytest.raises(
        InvalidRequest, match=r"task class2image \(sfumato class\) with one: allowed are 0 to 9"
    ):
        walked(model, Unconditional(steps=2))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="guidance other than 1"):
        walked(model, Class2Image(label="7", steps=2, guidance=4.0))  # type: ignore[arg-type]
    pixel_unet("grey", diffusers.DDPMScheduler(), tmp_path / "grey")
    grey = opened(tmp_path / "grey")
    assert grey.codec.shape(16, 16) == (1, 16, 16)
    with pytest.raises(InvalidRequest, match="use the task 'unconditional'"):
        walked(grey, Text2Image(prompt="a cat", steps=2))


def changed(folder: Path, **more: Any) -> None:
    """Other settings of the network."""
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **more}), "utf-8")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ({"mid_block_scale_factor": 1.41}, "mid_block_scale_factor = 1.41"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "down_block_types"),
        ({"sample_size": None}, "of which size its pictures are"),
        ({"norm_num_groups": 7}, "fit no pixels: .*divisible"),
        ({"norm_num_groups": "x"}, "norm_num_groups = 'x', which must be above 0"),
        ({"attn_norm_num_groups": 5}, "fit no pixels: .*divisible"),
    ],
)
def test_settings_that_are_not_followed_are_told(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    pixel_unet("ddpm attention", diffusers.DDPMScheduler(), tmp_path)
    changed(tmp_path, **more)
    with pytest.raises(WeightsError, match=words):
        opened(tmp_path)


def test_older_names_of_attention_are_read(tmp_path: Path) -> None:
    pixel_unet("ddpm attention", diffusers.DDPMScheduler(), tmp_path)
    expected = opened(tmp_path).denoiser.network.state_dict()
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    with open_source(path) as source:
        whole = {name: source.read(name) for name in source.entries}
    for new, old in older.items():
        whole = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in whole.items()}
    save_tensors(path, whole)
    found = opened(tmp_path).denoiser.network.state_dict()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_components_that_lie_beside_the_index_are_read(tmp_path: Path) -> None:
    pixel_unet("ddpm attention", diffusers.DDPMScheduler(variance_type="fixed_large"), tmp_path)
    expected = opened(tmp_path)
    for file in [*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()]:
        file.rename(tmp_path / file.name)
    (tmp_path / "unet").rmdir()
    (tmp_path / "scheduler").rmdir()
    found = opened(tmp_path)
    assert found.defaults == expected.defaults
    assert found.defaults.sampler == "ddpm(variance=large)"
    for key, tensor in expected.denoiser.network.state_dict().items():
        assert torch.equal(found.denoiser.network.state_dict()[key], tensor), key
    with open_source(tmp_path) as source:
        assert inspect(source).family == "pixels"
