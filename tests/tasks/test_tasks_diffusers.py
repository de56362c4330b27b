"""Tasks on pictures beside diffusers' pipelines, of tiny models with redrawn weights and the same noise."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.engine.run import run
from sfumato.noise import Stream
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid, tail
from sfumato.process.level import Level
from sfumato.process.table import scaled_linear
from sfumato.samplers import SAMPLERS
from sfumato.tasks.control import Control
from sfumato.tasks.handover import handover
from sfumato.tasks.hole import hidden
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.instruct import Instruct
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.upscale import Upscale, apart
from tests.peers.picture_pipelines import (
    as_depth,
    as_kind,
    built,
    draw,
    far,
    folded,
    latent_of,
    noise_of,
    photo,
    unfolded,
)
from tests.peers.pipelines import PNDM, Case

F64, F32 = torch.float64, torch.float32
DTYPES = ((F64, 1e-5), (F32, 1e-4))
WIDTH, HEIGHT = 32, 48
PROMPT, AVOID = "a red cat at night", "dog"
COMMON: dict[str, Any] = {"prompt": PROMPT, "negative": AVOID, "steps": 3, "guidance": 4.0, "seed": 3}
THEIRS: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": AVOID,
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return built(request.param, tmp_path_factory.mktemp("peer"))


def cases(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True)


def agree(case: Case, task: type[Any], expected: Tensor, **fields: Any) -> None:
    """The latents of ``task`` are ``expected``, in both dtypes."""
    for dtype, most in DTYPES:
        assert far(latent_of(task, case.model(dtype), **fields), expected) < most


def hole_of(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A mask whose edges lie between places of the latent (of factor 2)."""
    mask = np.zeros((height, width), bool)
    mask[8:30, 6:20] = True
    return mask


@cases("sd1")
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_image2image(case: Case, strength: float) -> None:
    image, noise = photo(WIDTH, HEIGHT), draw(case.model(F64), WIDTH, HEIGHT)
    pipe = as_kind(case.pipe, diffusers.StableDiffusionImg2ImgPipeline)
    with noise_of(pipe, noise):
        expected = pipe(image=Image.fromarray(image), strength=strength, **THEIRS).images
    agree(case, Image2Image, expected, image=image, strength=strength, sampler="ddim", **COMMON)


@cases("sd1")
@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_inpainting_by_the_known_region(case: Case, strength: float) -> None:
    """At strength 1 diffusers begins at noise alone, where what is known is not on its path yet; else nothing differs.

    There its start is put right by hand: ``alpha y + sigma n``, as at every other strength.
    """
    mask = hole_of()
    image = hidden(
        photo(WIDTH, HEIGHT), mask.astype(np.float32)
    )  # at strength 1 ours sees nothing of the hole
    noise = draw(case.model(F64), WIDTH, HEIGHT)
    pipe = as_kind(case.pipe, diffusers.StableDiffusionInpaintPipeline)
    whole = pipe.prepare_latents
    pipe.prepare_latents = lambda *a, **k: whole(*a, **{**k, "is_strength_max": False})
    shown = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask)}
    with noise_of(pipe, noise):
        expected = pipe(**shown, height=HEIGHT, width=WIDTH, strength=strength, **THEIRS).images
    agree(
        case, Inpaint, expected, image=image, mask=mask, strength=strength, repeat=1, sampler="ddim", **COMMON
    )


@cases("inpaint")
@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_inpainting_by_a_model_that_was_trained_to(case: Case, strength: float) -> None:
    image, mask, noise = photo(WIDTH, HEIGHT), hole_of(), draw(case.model(F64), WIDTH, HEIGHT)
    pipe = as_kind(case.pipe, diffusers.StableDiffusionInpaintPipeline)
    shown = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask)}
    with noise_of(pipe, noise):
        expected = pipe(**shown, height=HEIGHT, width=WIDTH, strength=strength, **THEIRS).images
    fields = {"image": image, "mask": mask, "strength": strength, "sampler": "ddim", **COMMON}
    agree(case, Inpaint, expected, keep="free", **fields)
    held = latent_of(Inpaint, case.model(F64), **fields)
    inside = torch.nn.functional.max_pool2d(torch.from_numpy(mask).double()[None, None], 2) > 0
    y = case.model(F64).codec.encode(torch.from_numpy(image).permute(2, 0, 1)[None].double() / 127.5 - 1)
    if strength < 1:  # at strength 1 the picture is encoded with its hole hidden
        assert far((held - y).masked_fill(inside, 0) + y, y) < 1e-6
    assert far(held, expected) > 1e-3


@cases("instruct")
def test_instructions_with_two_guidances(case: Case) -> None:
    image, noise = photo(WIDTH, HEIGHT), draw(case.model(F64), WIDTH, HEIGHT)
    pipe = as_kind(case.pipe, diffusers.StableDiffusionInstructPix2PixPipeline)
    with noise_of(pipe, noise):
        expected = pipe(image=Image.fromarray(image), image_guidance_scale=1.8, **THEIRS).images
    agree(case, Instruct, expected, image=image, image_guidance=1.8, sampler="ddim", **COMMON)


@cases("x4")
def test_the_upscaler(case: Case) -> None:
    """Our noise for the small picture has a seed of its own; diffusers draws it before the latents'."""
    model, side, times = case.model(F64), (24, 32), 2  # the tiny autoencoder's; the real one's factor is 4
    image, noise = photo(*side), draw(model, times * side[0], times * side[1])
    over = torch.randn(
        1, 3, side[1], side[0], generator=torch.Generator().manual_seed(apart(3, "small picture"))
    )
    assert noise.shape[1:] == (4, side[1], side[0])
    with noise_of(case.pipe, over.double(), noise):
        expected = case.pipe(image=Image.fromarray(image), noise_level=20, **THEIRS).images
    agree(case, Upscale, expected, image=image, noise_level=20, sampler="ddim", **COMMON)


@cases("refiner")
def test_the_refiner_from_a_picture(case: Case) -> None:
    image, noise = photo(WIDTH, HEIGHT), draw(case.model(F64), WIDTH, HEIGHT)
    with noise_of(case.pipe, noise):
        expected = case.pipe(image=Image.fromarray(image), strength=0.7, **THEIRS).images
    agree(case, Image2Image, expected, image=image, strength=0.7, **COMMON)


@cases("sdxl")
def test_the_refiner_goes_on_where_the_base_stopped(
    case: Case, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An ensemble of denoisers: the base model walks 0.6 of the schedule's time, the refiner the rest."""
    other = built("refiner", tmp_path_factory.mktemp("refiner"))
    noise = draw(case.model(F64), WIDTH, HEIGHT)
    size = {"width": WIDTH, "height": HEIGHT}
    with noise_of(case.pipe, noise):
        half = case.pipe(**size, denoising_end=0.6, **THEIRS).images
    with noise_of(other.pipe):
        sizes = {"original_size": (HEIGHT, WIDTH), "target_size": (HEIGHT, WIDTH)}
        expected = other.pipe(image=half, denoising_start=0.6, **sizes, **THEIRS).images
    for dtype, most in DTYPES:
        model = handover(case.model(dtype), other.model(dtype), 0.6)
        assert far(latent_of(Text2Image, model, size=f"{WIDTH}x{HEIGHT}", **COMMON), expected) < most
    alone = latent_of(Text2Image, case.model(F64), size=f"{WIDTH}x{HEIGHT}", **COMMON)
    assert far(alone, expected) > 1e-2


@cases("kontext")
def test_kontext_reads_the_picture_as_tokens(case: Case) -> None:
    width, height = 64, 80
    image, noise = photo(width, height), draw(case.model(F64), width, height)
    told = {"prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    with noise_of(case.pipe):
        out = case.pipe(
            image=Image.fromarray(image),
            height=height,
            width=width,
            max_area=width * height,
            _auto_resize=False,
            latents=folded(noise),
            **told,
        ).images
    fields = {"image": image, "prompt": PROMPT, "steps": 2, "guidance": 4.0, "seed": 3}
    assert case.model(F32).name == "kontext"
    agree(case, Instruct, unfolded(out, *noise.shape[-2:]), **fields)


@cases("fill of eighths")
def test_fill_reads_mask_and_masked_picture(case: Case) -> None:
    width, height = 64, 80
    image, noise = photo(width, height), draw(case.model(F64), width, height)
    mask = np.zeros((height, width), bool)
    mask[11:50, 5:41] = True
    told = {"prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    shown = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask)}
    with noise_of(case.pipe):
        out = case.pipe(**shown, height=height, width=width, latents=folded(noise), **told).images
    fields = {"image": image, "mask": mask, "prompt": PROMPT, "steps": 2, "guidance": 4.0, "seed": 3}
    agree(case, Inpaint, unfolded(out, *noise.shape[-2:]), keep="free", **fields)


@cases("control")
def test_a_map_that_the_picture_follows(case: Case) -> None:
    width, height = 64, 80
    image, noise = photo(width, height), draw(case.model(F64), width, height)
    told = {"prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    shown = {"control_image": Image.fromarray(image), "height": height, "width": width}
    with noise_of(case.pipe):
        out = case.pipe(**shown, latents=folded(noise), **told).images
    fields = {"image": image, "prompt": PROMPT, "steps": 2, "guidance": 4.0, "seed": 3}
    agree(case, Control, unfolded(out, *noise.shape[-2:]), **fields)


@cases("depth")
def test_a_map_of_depth(case: Case) -> None:
    image, noise = photo(WIDTH, HEIGHT), draw(case.model(F64), WIDTH, HEIGHT)
    depth = photo(WIDTH, HEIGHT, seed=1)
    pipe = as_depth(case.pipe)
    map_of = torch.from_numpy(depth).double().mean(-1)[None] / 127.5 - 1
    with noise_of(pipe, noise):
        expected = pipe(image=Image.fromarray(image), depth_map=map_of, strength=0.7, **THEIRS).images
    agree(case, Control, expected, image=depth, begin=image, strength=0.7, sampler="ddim", **COMMON)


def test_pndm_that_begins_half_way_is_a_level_behind_in_diffusers_and_not_here() -> None:
    """With the true noise told at every level, every sampler ends at the picture exactly; diffusers' img2img does not.

    It leaves out steps from the front of a list in which PLMS' second level stands twice, and the scheduler still takes
    the second of what is left for the repetition: x stays where it was, and the network is told the next level.
    """
    theirs = diffusers.PNDMScheduler(**PNDM)
    draws = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(1, 50, generator=draws, dtype=F64) for _ in range(2))

    def off(skipped: int) -> float:
        theirs.set_timesteps(10)
        x = theirs.add_noise(x0, noise, theirs.timesteps[skipped : skipped + 1])
        for time in theirs.timesteps[skipped:]:
            x = theirs.step(noise, time, x).prev_sample
        last = float(theirs.alphas_cumprod[0])
        return far(x, last**0.5 * x0 + (1 - last) ** 0.5 * noise)

    assert off(0) < 1e-5
    assert off(4) > 0.1

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, (x - at.sigma * noise) / at.alpha, noise)

    grid = tail(make_grid("leading", steps=10, schedule=scaled_linear(), final="first"), 0.6)
    start = grid[0].alpha * x0 + grid[0].sigma * noise
    found = run(SAMPLERS["pndm"].walk(start, grid, denoise, Stream([0], (50,))))
    assert far(found, grid[-1].alpha * x0 + grid[-1].sigma * noise) < 1e-10
