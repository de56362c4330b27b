"""SANA against diffusers' pipeline: conditions, network, the whole default walk, both layouts."""

from __future__ import annotations

import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models import activations, attention_processor, embeddings
from torch import Tensor

from sfumato.condition import Cond, Prompt
from sfumato.denoiser import row_levels
from sfumato.families import sana
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.published import load_checkpoint
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.peers.further import further
from tests.peers.pipelines import Case, Wide, wide_tables

F64, F32 = torch.float64, torch.float32
NAMES = ["sana 1.5", "sana", "sana 4K"]
TEXTS = ("A Red cat at NIGHT ", "dog")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """The cases, each built once."""
    return {name: further(name, tmp_path_factory.mktemp("sana")) for name in NAMES}


@pytest.fixture
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    """A case by its name."""
    return cases[getattr(request, "param", NAMES[0])]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' sinusoids, SiLU and linear attention have float64's digits, which it rounds to float32."""
    for module in (embeddings, activations, attention_processor):
        monkeypatch.setattr(module, "torch", Wide())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(activations.FP32SiLU, "forward", lambda self, x: torch.nn.functional.silu(x))


def instructed(pipe: Any, text: str) -> tuple[Tensor, Tensor]:
    """States and mask that the pipeline makes of a prompt behind its instruction."""
    with torch.no_grad():
        tokens, mask, _, _ = pipe.encode_prompt(
            text, False, complex_human_instruction=sana.BEHIND.split("\n")
        )
    return tokens, mask


def test_the_instruction_is_that_of_the_pipeline() -> None:
    taken = signature(diffusers.SanaPipeline.__call__).parameters
    assert "\n".join(taken["complex_human_instruction"].default) == sana.BEHIND
    assert (taken["num_inference_steps"].default, taken["guidance_scale"].default) == (20, 4.5)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_the_network(case: Case, wide: None) -> None:
    draws = torch.Generator().manual_seed(8)
    x = torch.randn(2, 32, 10, 8, generator=draws, dtype=F64)
    tokens = torch.randn(2, 30, 48, generator=draws, dtype=F64)
    mask = torch.arange(30) < torch.tensor([[21], [3]])
    with torch.no_grad():
        clock = torch.tensor([625.0, 200.0], dtype=F64)
        expected = case.pipe.transformer(x, tokens, clock, None, mask.long()).sample
    # The clock's whole part is told.
    at = row_levels([Level(0.6254, 0.3746, 0.6254), Level(0.2, 0.8, 0.2)])
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        cond = Cond(tokens=tokens, mask=mask)
        assert far(case.model(dtype).denoiser.output(x, at, cond), expected) < most


def test_conditions(case: Case, wide: None) -> None:
    pipe = case.pipe
    tokens, mask = instructed(pipe, TEXTS[0])
    with torch.no_grad():
        _, _, other, no = pipe.encode_prompt(TEXTS[0], True, negative_prompt=TEXTS[1])
    tokens, mask = torch.cat((tokens, other)), torch.cat((mask, no))
    assert int(mask[0].sum()) != int(mask[1].sum())
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        cond = case.model(dtype).conditioner([Prompt(text=TEXTS[0]), Prompt(text=TEXTS[1], negative=True)])
        assert cond.tokens is not None
        assert cond.mask is not None
        assert torch.equal(cond.mask, mask.bool())
        kept = mask.bool()
        assert far(cond.tokens[kept], tokens[kept]) < most


def test_a_long_prompt_is_cut_and_an_absent_negative_one_is_empty(case: Case) -> None:
    long = "the red cat flies and " * 40
    tokens, mask = instructed(case.pipe, long)
    with torch.no_grad():
        _, _, other, no = case.pipe.encode_prompt("a", True, negative_prompt=long)
    model = case.model(F64)
    cond = model.conditioner([Prompt(text=long), Prompt(text=long, negative=True)])
    assert mask.all()
    assert no.all()
    assert cond.tokens is not None
    assert far(cond.tokens, torch.cat((tokens, other))) < 1e-6
    split = case.pipe.tokenizer
    over = len(split(sana.BEHIND + long.strip()).input_ids) - len(split(sana.BEHIND).input_ids) - 298
    assert model.notes(Prompt(text=long)) == [
        f"the prompt is long: Gemma 2 does not read its last {over} tokens"
    ]
    assert model.notes(Prompt(text="", negative=True)) == []
    absent = model.conditioner([Prompt(text="", absent=True, negative=True)])
    assert absent.mask is not None
    assert int(absent.mask.sum()) == 1


def their_walk(case: Case, monkeypatch: pytest.MonkeyPatch, steps: int) -> Tensor:
    """The latent at the end of the pipeline's walk from our noise.

    Its solver rounds the clocks that the network is told down to whole numbers, as ours does.
    """
    noise = torch.randn(1, 32, 10, 8, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad(), wide_tables(case.pipe):
        module = __import__(type(case.pipe.scheduler).__module__, fromlist=["np"])
        monkeypatch.setattr(module, "np", WideNumbers())
        out: Tensor = case.pipe(
            TEXTS[0],
            negative_prompt=TEXTS[1],
            height=320,
            width=256,
            num_inference_steps=steps,
            latents=noise,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="latent",
        ).images
    return out


class WideNumbers:
    """numpy, with float64 where float32 is said."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.mark.parametrize(("case", "steps"), [("sana 1.5", None), ("sana 4K", 4)], indirect=["case"])
def test_the_whole_default_walk(
    case: Case, steps: int | None, wide: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = their_walk(case, monkeypatch, steps or 20)
    task = Text2Image(prompt=TEXTS[0], negative=TEXTS[1], seed=3, size="256x320", steps=steps)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        model = case.model(dtype)
        latent, pixels = walked(model, task)
        assert far(latent, expected) < most
    with torch.no_grad():
        wanted = case.pipe.vae.decode(expected / 0.41407).sample.clamp(-1, 1)
    assert float((pixels - wanted).abs().max()) < 1e-2


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_defaults_are_those_of_the_pipeline(case: Case) -> None:
    defaults = case.model(F32).defaults
    assert (defaults.steps, defaults.guidance, defaults.sampler) == (20, 4.5, "dpmpp_2m")
    side = 4096 if case.name == "sana 4K" else 1024
    assert (defaults.width, defaults.height, defaults.multiple) == (side, side, 32)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_grids_are_those_of_both_schedulers(case: Case, steps: int, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(case.peer.folder, folder)
    for peer in (
        case.pipe.scheduler,
        diffusers.DPMSolverMultistepScheduler.from_config({**case.pipe.scheduler.config, "flow_shift": 5.0}),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ):
        peer.save_pretrained(folder / "scheduler")
        with open_source(folder) as source:
            model = load_checkpoint(open_checkpoint(source))
        peer.set_timesteps(steps)
        defaults = model.defaults
        grid = make_grid(defaults.grid, steps=steps, schedule=model.schedule((32, 8, 8)))
        np.testing.assert_allclose([at.sigma for at in grid], peer.sigmas, rtol=1e-5)
        assert defaults.sampler == ("euler" if "Euler" in type(peer).__name__ else "dpmpp_2m")
