"""SSD-1B and Vega, Stable Diffusion XL with fewer layers, against diffusers' pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.families.inspect import SHORT as SHORT_NAMES
from sfumato.families.inspect import facts_of, inspect
from sfumato.families.settings import network
from sfumato.families.shapes import unet
from sfumato.families.signatures import Found
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers.further import PUBLISHED, SHORT, further
from tests.peers.pipelines import Case, wide_tables

F64, F32 = torch.float64, torch.float32


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case of a name, built once for all tests of a module."""
    return further(request.param, tmp_path_factory.mktemp("short"))


def denoiser(case: Case) -> Part:
    """The U-Net of the folder."""
    with open_source(case.peer.folder) as source:
        return open_checkpoint(source).parts["denoiser"]


@pytest.mark.parametrize("case", ["ssd", "vega"], indirect=True)
def test_networks_and_walks(case: Case) -> None:
    x = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(8), dtype=F64)
    with torch.no_grad():
        tokens, _, pooled, _ = case.pipe.encode_prompt("a red cat", do_classifier_free_guidance=False)
        told = torch.tensor([[48.0, 32, 0, 0, 48, 32]], dtype=F64)
        added = {"text_embeds": pooled, "time_ids": told}
        expected = case.pipe.unet(x, 512.0, tokens, added_cond_kwargs=added).sample
        noise = torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(3)).double()
        with wide_tables(case.pipe):
            wanted: Tensor = case.pipe(
                "a red cat",
                height=48,
                width=32,
                num_inference_steps=2,
                guidance_scale=4.0,
                latents=noise,
                output_type="latent",
            ).images
    task = Text2Image(prompt="a red cat", steps=2, seed=3, size="32x48", guidance=4.0)
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = case.model(dtype)
        cond = model.conditioner([Prompt(text="a red cat", width=32, height=48)])
        at = row_levels([model.schedule(x.shape[1:]).level(512.0)])
        assert far(model.denoiser.output(x, at, cond), expected) < most
        assert far(walked(model, task)[0], wanted) < 10 * most


@pytest.mark.parametrize("case", ["ssd"], indirect=True)
def test_both_layouts_and_the_settings_hold_the_same(case: Case, tmp_path: Path) -> None:
    part = denoiser(case)
    module = load_into(part.make, part.source, part.table, part.layout)
    for layout in ("original", "diffusers"):
        save_module(tmp_path / "it.safetensors", module, part.table, layout)
        with open_source(tmp_path / "it.safetensors") as source:
            report = inspect(source)
            config, linear = unet(source.shapes, layout)
            again = load_into(part.make, source, part.table, layout)
        assert (report.family, report.variant) == (
            "sdxl",
            {"ssd": "fewer layers", "vega": "Vega"}[case.name],
        )
        assert linear
        assert (config.downs, config.ups, config.depth) == (
            part.config.downs,
            part.config.ups,
            part.config.depth,
        )
        assert config.short_middle
        for name, tensor in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
    told = network(part, "sdxl", vector=48)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(told)
    state = case.pipe.unet.state_dict()
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_ones_are_named_by_how_many_layers_they_have(name: str) -> None:
    with torch.device("meta"):
        net = diffusers.UNet2DConditionModel(
            **{**unet_settings(), **SHORT, **PUBLISHED[name]},
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=96,
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    facts = facts_of(Found("unet", "diffusers", Sized(shapes)))  # type: ignore[arg-type]
    assert SHORT_NAMES[int(facts["layers"])] == name
    config, _ = unet(shapes, "diffusers")
    assert sum(config.downs[2:]) + sum(config.ups[:6]) == facts["layers"] if config.downs else name == "Vega"


@dataclass(frozen=True)
class Sized:
    """Shapes alone, as a source has them."""

    shapes: dict[str, tuple[int, ...]]


def unet_settings() -> dict[str, Any]:
    """What a U-Net of two layers a level has in common with the published ones."""
    return {"layers_per_block": 2, "cross_attention_dim": 64, "in_channels": 4, "out_channels": 4}


@pytest.mark.parametrize("case", ["ssd"], indirect=True)
def test_no_two_rows_of_a_key_table_can_be_exchanged(case: Case) -> None:
    part = denoiser(case)
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 4, 8, 8, generator=draws), torch.randn(1, 5, 192, generator=draws)
    vector = torch.randn(1, part.config.vector, generator=draws)

    def say(table: KeyTable) -> list[Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [net(x, torch.tensor([431.0]), tokens=tokens, vector=vector)]

    check(part, say)
