"""Families that are wrapped, whole: from prompt and noise to pixels as diffusers' own pipeline makes them."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.families.ways import WAYS
from sfumato.families.wrapped import wrapped
from sfumato.model import Model
from sfumato.nn.flux import folded
from sfumato.process.level import Level
from sfumato.tasks.table import request
from sfumato.tasks.text2image import Text2Image
from tests.families.test_published import far, walked
from tests.peers.pipelines import wide_tables
from tests.peers.wrapped_pipelines import NARROW, OPTIONS, WRAPPED, wrapped_pipeline

STEPS = 4
ALIKE = ("klein", "klein distilled", "krea distilled", "hunyuan 1.2", "hidream full", "hidream dev")
"""Those whose networks are others' too."""


def sides(name: str) -> tuple[int, int]:
    """Height and width of the pictures; HiDream's pipeline makes all pictures of one area."""
    return (64, 256) if name.startswith("hidream") else (64, 96)


def noise_of(model: Model, name: str) -> Tensor:
    """The noise that seed 3 begins with."""
    draws = torch.Generator().manual_seed(3)
    return torch.randn(1, *model.codec.shape(*sides(name)), generator=draws).double()


def theirs(name: str, pipe: Any, model: Model, guidance: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The pipeline's picture in [-1, 1], from our noise."""
    height, width = sides(name)
    noise = noise_of(model, name)
    side = int(model.denoiser.network.config.packed)  # type: ignore[union-attr,arg-type]
    take = inspect.signature(type(pipe).__call__).parameters
    told: dict[str, Any] = {
        "height": height,
        "width": width,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    told["true_cfg_scale" if name == "qwen" else "guidance_scale"] = guidance
    if name.startswith("hidream"):
        pipe.default_sample_size = 16
    if "negative_prompt" in take and guidance > 1:
        told["negative_prompt"] = "dog"
    draws = torch.Generator().manual_seed(3)
    torch.randn(noise.shape, generator=draws)  # which x began with

    def drawn(shape: Any, **_: Any) -> Tensor:
        return torch.randn(tuple(shape), generator=draws).double()

    module = sys.modules[type(pipe.scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", drawn)
    with torch.no_grad(), wide_tables(pipe):
        latents = folded(noise, side) if side > 1 else noise
        if name == "kandinsky":
            latents = noise.movedim(1, -1)[:, None]
        made = pipe(prompt="a red cat", latents=latents, **told, **OPTIONS.get(name, {}))
    pictures: Tensor = made[0]
    return pictures * 2 - 1


def task_of(name: str, pipe: Any, guidance: float) -> Text2Image:
    """The same, asked of us."""
    height, width = sides(name)
    avoids = "negative_prompt" in inspect.signature(type(pipe).__call__).parameters
    negative = "dog" if avoids and guidance > 1 else None
    return Text2Image(
        prompt="a red cat",
        negative=negative,
        steps=STEPS,
        seed=3,
        size=f"{width}x{height}",
        guidance=guidance,
    )


@pytest.mark.parametrize("name", WRAPPED)
def test_a_walk_is_the_pipelines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers rounds the times of a rectified flow to float32 before it shifts them, which is all that differs."""
    pipe = wrapped_pipeline(name)
    model = wrapped(pipe, Path())
    plain = 0.0 if name.startswith("krea") else 1.0  # Krea 2's pipeline counts what is added
    for guidance in (plain,) if "distilled" in name else (plain, 4.0):
        _, pixels = walked(model, task_of(name, pipe, guidance + 1 - plain))
        assert (pixels.abs() < 1).float().mean() > 0.5  # little is cut off
        most = 1e-4 if name in NARROW else 2e-5
        assert far(pixels, theirs(name, pipe, model, guidance, monkeypatch)) < most


def test_every_row_is_walked() -> None:
    seen = {type(getattr(pipe, "transformer", None) or pipe.unet).__name__ for pipe in map(_made, WRAPPED)}
    assert seen | {"AuraFlowTransformer2DModel"} == set(WAYS)


def _made(name: str) -> Any:
    return WRAPPED[name]()


@pytest.mark.parametrize("name", ["flux2", "klein"])
def test_a_picture_is_changed_by_an_instruction_as_the_pipeline_does(name: str) -> None:
    """FLUX.2 looks at a picture as more places of its own."""
    pipe = wrapped_pipeline(name)
    model = wrapped(pipe, Path())
    height, width = sides(name)
    draws = torch.Generator().manual_seed(1)
    image = (torch.rand(height, width, 3, generator=draws) * 255).byte().numpy()
    with torch.no_grad(), wide_tables(pipe):
        made = pipe(
            image=[Image.fromarray(image)],
            prompt="a red cat",
            latents=noise_of(model, name),
            num_inference_steps=STEPS,
            guidance_scale=4.0,
            output_type="pt",
        )
    task, _ = request("instruct", image=image, prompt="a red cat", steps=STEPS, seed=3, guidance=4.0)
    _, pixels = walked(model, task)
    assert far(pixels, made[0] * 2 - 1) < 2e-5
    plain, _ = request(
        "text2image", prompt="a red cat", size=f"{width}x{height}", steps=STEPS, seed=3, guidance=4.0
    )
    assert far(walked(model, plain)[1], pixels) > 0.01


@pytest.mark.parametrize("name", WRAPPED)
def test_rows_of_different_requests_share_a_call(name: str) -> None:
    """At levels of their own: what a row is answered does not depend on the other."""
    pipe = wrapped_pipeline(name)
    model = wrapped(pipe, Path())
    shape = model.codec.shape(*sides(name))
    schedule = model.schedule(shape)
    x = noise_of(model, name).expand(2, -1, -1, -1) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    levels = [schedule.level(schedule.t_max * share) for share in (1.0, 0.3)]
    with torch.no_grad():
        cond = model.conditioner([Prompt(text="a red cat", guidance=4.0)])
        both = model.denoiser.output(x, row_levels(levels), cond.expand(2))
        for row, level in enumerate(levels):
            alone = model.denoiser.output(x[row : row + 1], row_levels([level]), cond)
            assert far(both[row : row + 1], alone) < (1e-5 if name in NARROW else 1e-6)


@pytest.mark.parametrize("name", [name for name in WRAPPED if name not in ALIKE])
def test_a_network_runs_in_bfloat16_as_diffusers_loads_it(name: str, tmp_path: Path) -> None:
    """With the parts that it keeps in float32; at a clock of 500 or 0.5, which 8 bits hold, since most round it."""
    pipe = wrapped_pipeline(name)
    model = wrapped(pipe, Path())
    place = "transformer" if hasattr(pipe, "transformer") else "unet"
    net = getattr(pipe, place)
    net.save_pretrained(tmp_path)
    shape = model.codec.shape(*sides(name))
    schedule, x = model.schedule(shape), noise_of(model, name)
    level = row_levels([Level(0.5, 0.5, 0.5) if schedule.t_max <= 1 else schedule.level(500)])
    with torch.no_grad():
        cond = model.conditioner([Prompt(text="a red cat", guidance=4.0)])
        expected = model.denoiser.output(x, level, cond)
        setattr(pipe, place, type(net).from_pretrained(tmp_path, torch_dtype=torch.bfloat16))
        narrow = wrapped(pipe, Path())
        assert far(narrow.denoiser.output(x, level, cond), expected) < 0.05  # a dozen roundings of 2^-8
        pipe.vae.to(torch.bfloat16)
        latent = narrow.codec.encode(narrow.codec.decode(x))
    assert (latent.shape, latent.dtype) == (x.shape, torch.float32)
