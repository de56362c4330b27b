"""Tasks for models that read more than x: two guidances, the upscaler's noise, a second model; what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato import api
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.pictured import pictured
from sfumato.model import Beside, Model
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedules import schedule
from sfumato.process.table import scaled_linear
from sfumato.tasks.control import Control
from sfumato.tasks.handover import handover
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.instruct import Instruct
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.upscale import Upscale, apart
from tests.tasks.test_tasks_parts import DEFAULTS, filling
from tests.tasks.toys import alike, done, picture, toy


def reading(kind: Any, inner: int, classes: int = 0) -> Model:
    """A tiny random U-Net that reads ``inner`` channels, of which it knows the ``kind``."""
    torch.manual_seed(1)
    config = UNetConfig(
        inner=inner, outer=4, widths=(16, 16), blocks=1, attention=("none", "none"), groups=4, classes=classes
    )
    network = UNet(config).eval().requires_grad_(False)
    return replace(
        filling(4),
        denoiser=Denoiser(network, scaled_linear(), prediction("eps")),
        beside=Beside(kind=kind),
        defaults=replace(DEFAULTS, guidance=3.0),
    )


def test_two_guidances_are_those_of_the_paper() -> None:
    """Brooks et al. 2023, equation 3, with three branches in one call; none more than asked for where it is off."""
    draws = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(2, 3, generator=draws, dtype=torch.float64) for name in ("t", "i", "b")}
    conds = {name: Cond() for name in rows}
    asked: list[int] = []

    async def denoise(x: Tensor, at: Level, *given: Cond) -> tuple[Estimate, ...]:
        asked.append(len(given))
        names = [next(n for n, c in conds.items() if c is cond) for cond in given]
        return tuple(Estimate(at, rows[n], -rows[n]) for n in names)

    at = Level(0.5, 0.6, 0.8)
    for text, image in ((7.5, 1.5), (1.0, 2.0), (4.0, 1.0)):
        drawn = pictured(denoise, conds["i"], conds["b"], image)
        found = run(classifier_free(drawn, conds["t"], conds["i"], text)(rows["t"], at))
        wanted = rows["b"] + image * (rows["i"] - rows["b"]) + text * (rows["t"] - rows["i"])
        assert torch.allclose(found.x0, wanted, atol=1e-12)
        assert torch.allclose(found.eps, -wanted, atol=1e-12)
    assert asked == [3, 3, 2]


@pytest.mark.parametrize(
    ("task", "kind", "inner", "fields"),
    [
        (Instruct, "picture", 8, {"image": picture(30, 21), "guide": "apg"}),
        (Instruct, "picture", 8, {"image": picture(90, 70), "tile": True, "steps": 2}),
        (Control, "depth", 5, {"image": picture(32, 24)}),
        (Control, "control", 8, {"image": picture(32, 24), "begin": picture(32, 24, 1), "strength": 0.5}),
        (Upscale, "small", 7, {"image": picture(17, 9)}),
    ],
)
@pytest.mark.parametrize("noise", ["stream", "torch"])
def test_pictures_of_such_models_are_made_again_alone(
    task: type[Any], kind: Any, inner: int, fields: dict[str, Any], noise: str
) -> None:
    model = reading(kind, inner, classes=400 if kind == "small" else 0)
    made = done(task, model, prompt="x", count=2, noise=noise, **fields)
    assert not np.array_equal(*made.pixels)
    width, height = fields["image"].shape[1::-1]
    times = 2 if kind == "small" else 1  # the tiny codec's factor
    assert made.pixels[0].shape == (times * height, times * width, 3)
    alike(task, made, model, **{name: v for name, v in fields.items() if name in ("image", "begin")})


def test_a_map_of_depth_is_read_from_end_to_end() -> None:
    """Its darkest place is -1 and its brightest 1, whatever they were; a flat map is 0 and not NaN."""
    model = reading("depth", 5)
    read: list[Tensor] = []
    model.denoiser.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    for low, high in ((100, 140), (7, 7)):
        ramp = np.linspace(low, high, 32).astype(np.uint8)
        done(Control, model, prompt="x", steps=1, image=np.repeat(np.tile(ramp, (24, 1))[..., None], 3, 2))
        depth = read[-1][:, 4]
        assert (float(depth.min()), float(depth.max())) == ((-1, 1) if low < high else (0, 0))


def test_noise_of_a_small_picture_is_none_of_the_walk() -> None:
    assert apart(3, "small picture") == apart(3, "small picture") not in (3, apart(4, "small picture"))
    model = reading("small", 7, classes=400)
    read: list[Tensor] = []
    model.denoiser.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    small = picture(16, 16)
    for level in (0, 300):
        done(Upscale, model, image=small, prompt="x", steps=1, noise_level=level)
    at = model.denoiser.schedule.level(300.0)
    clean = torch.from_numpy(small).permute(2, 0, 1)[None] / 127.5 - 1
    noise = (read[-1][:1, 4:] - at.alpha * clean) / at.sigma
    assert abs(float(noise.std()) - 1) < 4 * (2 * noise.numel()) ** -0.5
    x = read[-1][:1, :3]
    alike_ = float((x * noise).mean() / (x.std() * noise.std()))
    assert abs(alike_) < 4 * noise.numel() ** -0.5
    assert (read[0][:1, 4:] - clean).abs().max() < 0.1


@pytest.mark.parametrize(
    ("model", "task", "fields", "words"),
    [
        (
            reading("small", 7),
            Upscale,
            {"image": picture(), "factor": 3},
            "2 times as large.*leave out factor",
        ),
        (reading("small", 7), Upscale, {"image": picture(), "strength": 0.5}, "leave out strength"),
        (reading("small", 7), Upscale, {"image": picture(), "space": "latent"}, "leave out space"),
        (reading("small", 7), Upscale, {"prompt": "x"}, "makes pictures larger and none itself"),
        (reading("small", 7), Image2Image, {"image": picture(), "prompt": "x"}, "use the task upscale"),
        (reading("picture", 8), Image2Image, {"image": picture(), "prompt": "x"}, "use the task instruct"),
        (reading("control", 8), Text2Image, {"prompt": "x"}, "use the task control"),
        (reading("depth", 5), Instruct, {"image": picture(), "prompt": "x"}, "use the task control"),
        (
            reading("control", 8),
            Control,
            {"image": picture(), "begin": picture(3, 3), "prompt": "x"},
            "one size",
        ),
        (toy(), Upscale, {"image": picture(), "noise_level": 20}, "x4 upscaler: leave it out"),
    ],
)
def test_what_such_models_cannot_do_is_told(
    model: Model, task: type[Any], fields: dict[str, Any], words: str
) -> None:
    asked: list[Any] = []
    with pytest.raises(InvalidRequest, match=words):
        run(make(task, **fields)(model), lambda ask, reply: asked.append(ask))
    assert not asked


def test_kontext_is_told_one_guidance() -> None:
    model = replace(filling(4), beside=Beside(kind="reference"))
    with pytest.raises(InvalidRequest, match="leave image_guidance out"):
        run(make(Instruct, image=picture(), prompt="x", image_guidance=2)(model))
    assert done(Text2Image, model, prompt="x").pixels[0].shape == (
        32,
        32,
        3,
    )  # without a picture it is any model


def test_two_models_for_one_walk() -> None:
    """Each level is asked of the model whose time it is, whatever the sampler and the guide."""
    first, later = toy(kind="v"), toy(kind="v")
    both = handover(first, later, 0.75)
    asked: list[tuple[bool, float]] = []

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "denoise":
            asked.append((ask.model is later, ask.arguments[1].t))

    task = make(Text2Image, prompt="left", steps=8, sampler="heun", guide="apg(momentum=0)", guidance=2)
    result = run(task(both), listen)
    assert {late for late, _ in asked} == {False, True}
    assert all(late == (t < 0.25) for late, t in asked)
    assert np.array_equal(result.pixels[0], run(task(first)).pixels[0])  # both are the same model
    assert both.hash not in (first.hash, later.hash)
    assert both.name == f"{first.name}+{later.name}@0.75"


@pytest.mark.parametrize("part", [0.0, 1.0, float("nan")])
def test_a_handover_lies_between_both_ends(part: float) -> None:
    with pytest.raises(InvalidRequest, match="handover = "):
        handover(toy(), toy(), part)


def test_models_that_cannot_go_on_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="schedules, latents or ways of guidance differ"):
        handover(toy(), toy(schedule=schedule("scaled_linear"), kind="v"), 0.8)
    with pytest.raises(InvalidRequest, match="give refiner"):
        api.load("emoji", handover=0.5)
    with pytest.raises(InvalidRequest, match="refiner is for checkpoints"):
        api.load("emoji", refiner="there/is/none")
