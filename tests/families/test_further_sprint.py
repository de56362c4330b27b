"""SANA-Sprint against diffusers' pipeline: network, walks with the same fresh noise, both layouts."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import activations, attention_processor, embeddings
from diffusers.schedulers import scheduling_scm
from torch import Tensor

from sfumato.condition import Cond
from sfumato.denoiser import row_levels
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.dcae import sana
from sfumato.families.inspect import inspect
from sfumato.families.settings import network
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Flow
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published import far
from tests.families.test_published_rows import check
from tests.peers.further import further
from tests.peers.pipelines import Case, Wide

F64, F32 = torch.float64, torch.float32


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """SANA-Sprint, built once."""
    return further("sana sprint", tmp_path_factory.mktemp("sprint"))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' sinusoids, SiLU, linear attention and times have float64's digits."""
    for module in (embeddings, activations, attention_processor, scheduling_scm):
        monkeypatch.setattr(module, "torch", Wide())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(activations.FP32SiLU, "forward", lambda self, x: torch.nn.functional.silu(x))


def test_the_network_is_told_guidance(case: Case, wide: None) -> None:
    draws = torch.Generator().manual_seed(8)
    x = torch.randn(2, 32, 10, 8, generator=draws, dtype=F64)
    tokens = torch.randn(2, 30, 48, generator=draws, dtype=F64)
    mask = torch.arange(30) < torch.tensor([[21], [3]])
    guidance, clock = torch.tensor([4.5, 2.0], dtype=F64), torch.tensor([0.625, 0.2], dtype=F64)
    with torch.no_grad():
        expected = case.pipe.transformer(x, tokens, clock, 0.1 * guidance, mask.long()).sample
    at = row_levels([Level(0.625, 0.375, 0.625), Level(0.2, 0.8, 0.2)])
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        denoiser = case.model(dtype).denoiser
        assert far(denoiser.output(x, at, Cond(tokens=tokens, mask=mask, guidance=guidance)), expected) < most
        with pytest.raises(ValueError, match="give it guidance"):
            denoiser.output(x, at, Cond(tokens=tokens, mask=mask))


@pytest.mark.parametrize("steps", [None, 1, 4])
def test_walks_with_the_same_noise(
    case: Case, steps: int | None, wide: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = steps or 2
    task = Text2Image(prompt="A red cat", seed=3, size="256x320", steps=steps, guidance=3.0)
    levels = make_grid("trig(middle=1.3)", steps=count, schedule=Flow())
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        fresh, seen = walk(case.model(dtype), task, levels)
        noises = iter([*fresh, torch.zeros(1, 32, 10, 8, dtype=F64)])  # none is needed at the end
        monkeypatch.setattr(scheduling_scm, "randn_tensor", lambda *_, noises=noises, **__: next(noises))
        with torch.no_grad():
            expected = case.pipe(
                "A red cat",
                height=320,
                width=256,
                num_inference_steps=count,
                max_timesteps=math.pi / 2,  # theirs, 1.57080, lies beyond pure noise
                intermediate_timesteps=1.3 if count == 2 else None,
                guidance_scale=3.0,
                latents=torch.randn(1, 32, 10, 8, generator=torch.Generator().manual_seed(3)).double(),
                use_resolution_binning=False,
                output_type="latent",
            ).images
        assert far(seen, expected) < most


def walk(model: Any, task: Text2Image, levels: Any) -> tuple[list[Tensor], Tensor]:
    """The fresh noise of a walk, found in what the network was asked and answered, and the latent at its end."""
    told: list[tuple[Tensor, Tensor]] = []
    end: list[Tensor] = []

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "denoise":
            found = reply[0] if isinstance(reply, tuple) else reply
            told.append((ask.arguments[0].double(), found.x0.double()))
        if ask.verb == "decode":
            end.append(ask.arguments[0])

    run(task(model), listen)
    pairs = zip(told[:-1], told[1:], levels[1:], strict=False)
    return [(x - at.alpha * x0) / at.sigma for (_, x0), (x, _), at in pairs], end[0]


def test_its_defaults_and_what_it_has_not(case: Case) -> None:
    model = case.model(F32)
    defaults = model.defaults
    assert (defaults.steps, defaults.guidance, defaults.sampler, defaults.width) == (2, 4.5, "lcm", 1024)
    with pytest.raises(InvalidRequest, match="no negative prompt"):
        run(Text2Image(prompt="a", negative="b", size="128x128")(model))


def test_both_layouts_hold_the_same(case: Case, tmp_path: Path) -> None:
    with open_source(case.peer.folder) as source:
        report = inspect(source)
        assert (report.family, report.variant, report.missing) == ("sana", "Sprint, 1024 pixels", ())
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    save_module(tmp_path / "theirs.safetensors", module, part.table, "original")
    with open_source(tmp_path / "theirs.safetensors") as source:
        assert "cfg_embedder.mlp.0.weight" in source.entries
        assert sana(source.shapes, "original") == part.config
        assert inspect(source).variant == report.variant
        convert(source, tmp_path / "made", "diffusers")
    made = type(case.pipe.transformer).from_pretrained(tmp_path / "made")
    for name, tensor in case.pipe.transformer.state_dict().items():
        assert torch.equal(made.state_dict()[name].double(), tensor), name
    told = type(case.pipe.transformer).from_config(network(part, "sana")).config
    for key in ("guidance_embeds", "guidance_embeds_scale", "qk_norm"):
        assert told[key] == case.pipe.transformer.config[key], key
    assert asdict(part.config)["guidance"]


def test_no_two_rows_of_the_key_table_can_be_exchanged(case: Case) -> None:
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 32, 4, 6, generator=draws), torch.randn(1, 5, 48, generator=draws)
    doors = {"tokens": tokens, "guidance": torch.tensor([4.5])}

    def say(table: Any) -> list[Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [net(x, torch.tensor([0.431]), **doors)]

    check(part, say)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_grid_is_that_of_their_scheduler(steps: int) -> None:
    peer = scheduling_scm.SCMScheduler()
    peer.set_timesteps(steps, max_timesteps=math.pi / 2, intermediate_timesteps=1.3 if steps == 2 else None)
    grid = make_grid("trig(middle=1.3)", steps=steps, schedule=Flow())
    angles = [math.atan2(at.sigma, at.alpha) for at in grid]
    assert angles == pytest.approx(peer.timesteps.tolist(), abs=1e-6)
    with pytest.raises(InvalidRequest, match="middle = 2"):
        make_grid("trig(middle=2)", steps=2, schedule=Flow())
