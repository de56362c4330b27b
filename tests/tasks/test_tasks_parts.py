"""The parts of tasks: canvases, holes, windows, mixtures of noise and of conditions, what lies beside x."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.model import Defaults, Model
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.noise import Stream
from sfumato.picture.read import picture_hash
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.table import scaled_linear
from sfumato.tasks.beside import fill_channels
from sfumato.tasks.canvas import canvas_for, scaled, tensor
from sfumato.tasks.given import Raster
from sfumato.tasks.hole import at_latent, feathered, hidden, kept_by_level
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.mix import Between, mixed, slerp
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.tiled import starts, tiled
from tests.tasks.toys import corner, picture, toy

DEFAULTS = Defaults(
    steps=4,
    sampler="ddim",
    grid="leading",
    guidance=2.0,
    width=32,
    height=32,
    multiple=8,
    least=16,
    most=64,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64))
def test_a_canvas_holds_the_picture_and_gives_it_back(width: int, height: int) -> None:
    canvas = canvas_for(width, height, DEFAULTS)
    image = picture(width, height)
    laid = canvas.pad(image)
    assert laid.shape == (canvas.height, canvas.width, 3)
    for side, given_ in ((canvas.width, width), (canvas.height, height)):
        assert side % 8 == 0
        assert max(16, given_) <= side < max(24, given_ + 8)
    assert np.array_equal(canvas.crop(laid), image)
    assert set(map(tuple, laid.reshape(-1, 3))) == set(map(tuple, image.reshape(-1, 3)))


def test_a_margin_is_left_room_by_the_size_that_is_advised() -> None:
    most, margin = DEFAULTS.most, 24
    with pytest.raises(InvalidRequest, match=f"with size = {most - margin}, or ask for tile"):
        canvas_for(most + margin, most, DEFAULTS, margin=margin)
    assert canvas_for(most, most - margin, DEFAULTS, margin=margin).width == most
    with pytest.raises(InvalidRequest, match="add less, or ask for tile"):
        canvas_for(2 * most, most, DEFAULTS, margin=most)


def test_scaling_keeps_flat_pictures_and_averages() -> None:
    assert (scaled(np.full((5, 7, 3), 91, np.uint8), 3, 11) == 91).all()
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(scaled(stripes, 2, 2).astype(int) - 100).max() <= 12


def test_a_picture_has_the_hash_of_a_read_one() -> None:
    image = picture(3, 5)
    assert Raster(image).hash == picture_hash(image)
    assert Raster(image) == Raster(image.copy()) != Raster(image[::-1])
    with pytest.raises(ValueError, match="read-only"):
        Raster(image).pixels[0, 0, 0] = 1


def test_a_hole_is_hidden_by_what_is_around_it() -> None:
    image = picture(16, 16)
    hole = np.zeros((16, 16), np.float32)
    hole[4:12, 4:12] = 1
    filled = hidden(image, hole)
    other = image.copy()
    other[hole > 0] = 0
    assert np.array_equal(filled, hidden(other, hole))
    assert np.array_equal(filled[hole == 0], image[hole == 0])
    assert (hidden(np.full_like(image, 80), hole) == 80).all()
    ramp = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    inside = hidden(ramp, hole)[8, 4:12, 0].astype(int)
    assert inside[-1] > inside[0]
    assert (hidden(image, np.ones((16, 16), np.float32)) == 128).all()


def test_masks_at_the_size_of_latents_free_every_place_that_is_touched() -> None:
    hole = np.zeros((16, 24), np.float32)
    hole[3, 9] = 0.25
    small = at_latent(hole, (4, 2, 3))[0, 0]
    assert small.tolist() == [[0, 0.25, 0], [0, 0, 0]]
    soft = feathered(np.pad(np.ones((4, 4), np.float32), 10), 1.0)
    assert soft[12, 12] > 0.5 > soft[8, 12] > 0
    assert soft[0, 0] == 0


def test_late_masks_free_places_step_by_step() -> None:
    grid = tuple(Level(t, 1 - t, t) for t in (1.0, 0.75, 0.5, 0.25, 0.0))
    mask = kept_by_level(torch.tensor([0.0, 0.25, 0.5, 1.0]), grid)
    free = [[1 - v for v in mask(at).tolist()] for at in grid[:-1]]
    assert free == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.9))
def test_windows_cover_everything_and_overlap(length: int, window: int, overlap: float) -> None:
    places = starts(length, window, overlap)
    assert places[0] == 0
    assert places[-1] == max(0, length - window)
    for one, other in pairwise(places):
        assert 0 < other - one <= max(1, window * (1 - overlap) + 1e-9)


def test_windows_keep_to_the_line_of_x_and_leave_constants_alone() -> None:
    at = Level(0.5, 0.6, 0.8)

    async def denoise(x: Any, level: Level, *conds: Any) -> tuple[Estimate, ...]:
        assert x.shape[-2:] == (4, 4)
        x0 = torch.full_like(x, 0.25) + 0.1 * x.mean((-1, -2), keepdim=True)
        return tuple(Estimate(level, x0, (x - level.alpha * x0) / level.sigma) for _ in conds)

    x = torch.randn(2, 3, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,) = run(tiled(denoise, (3, 4, 4))(x, at, Cond()))
    assert torch.allclose(at.alpha * found.x0 + at.sigma * found.eps, x, atol=1e-12)
    (flat,) = run(tiled(denoise, (3, 4, 4))(torch.ones_like(x), at, Cond()))
    assert torch.allclose(flat.x0, torch.full_like(x, 0.35), atol=1e-12)


def test_slerp_keeps_the_variance_and_its_ends() -> None:
    first, last = (torch.randn(1, 20_000, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    for part in (0.25, 0.5, 0.8):
        turned = slerp(first, last, torch.tensor([part]))
        assert abs(float(turned.std()) - 1) < 0.02
        # The angle to both ends is shared out by the part.
        angles = [
            float(torch.acos(torch.nn.functional.cosine_similarity(turned, end))) for end in (first, last)
        ]
        assert angles[0] / sum(angles) == pytest.approx(part, abs=1e-3)
    assert torch.equal(slerp(first, last, torch.zeros(1)), first)
    assert torch.equal(slerp(first, last, torch.ones(1)), last)
    assert torch.allclose(slerp(first, first, torch.tensor([0.3])), first)
    noise = Between(Stream([3], (2, 2)), Stream([4], (2, 2)), torch.ones(1))
    other = Stream([4], (2, 2))
    assert torch.equal(noise.start(), other.start())
    at = Level(1.0, 0.0, 1.0)
    assert torch.equal(noise(at, at), other(at, at))


def test_conditions_are_mixed_by_door() -> None:
    def cond(length: int, value: float) -> Cond:
        return Cond(
            tokens=torch.full((1, length, 2), value),
            mask=torch.ones(1, length, dtype=torch.bool),
            vector=torch.full((1, 3), value),
        )

    row = mixed(cond(2, 1.0), cond(3, 3.0), torch.tensor([0.0, 0.5, 1.0]))
    assert row is not None
    assert row.vector is not None
    assert row.tokens is not None
    assert row.mask is not None
    assert row.vector[:, 0].tolist() == [1, 2, 3]
    assert row.tokens[1, :, 0].tolist() == [2, 2, 1.5]
    assert row.mask.tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert mixed(Cond(label=torch.tensor([0])), Cond(label=torch.tensor([1])), torch.ones(1)) is None
    assert mixed(cond(2, 1.0), Cond(label=torch.tensor([1])), torch.ones(1)) is None


class Half:
    """A codec of 4 channels at half the size, whose latents are averages."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels, 2)
        return torch.cat((small, small.mean(1, keepdim=True)), dim=1)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latent[:, :3], scale_factor=2.0)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 4, height // 2, width // 2


def filling(inner: int) -> Model:
    """A tiny random U-Net that reads ``inner`` channels and answers 4."""
    torch.manual_seed(0)
    config = UNetConfig(inner=inner, outer=4, widths=(16, 16), blocks=1, attention=("none", "none"), groups=4)
    network = UNet(config).eval().requires_grad_(False)
    return Model(
        name="tiny",
        identity="0" * 64,
        denoiser=Denoiser(network, scaled_linear(), prediction("eps")),
        codec=Half(),
        conditioner=lambda prompts: Cond(),
        defaults=replace(DEFAULTS, guidance=1.0),
    )


def test_a_network_of_nine_channels_reads_x_mask_and_masked_latents_in_that_order() -> None:
    model = filling(9)
    image = picture(32, 32)
    hole = np.zeros((32, 32), bool)
    hole[:, 16:] = True
    read: list[torch.Tensor] = []
    model.denoiser.network.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    made = run(make(Inpaint, image=image, mask=hole, prompt="x", steps=2)(model))
    assert np.array_equal(made.pixels[0][:, :16], image[:, :16])
    first = read[0]
    assert first.shape == (1, 9, 16, 16)
    mask, masked = first[:, 4:5], first[:, 5:]
    small = torch.nn.functional.interpolate(torch.from_numpy(hole).float()[None, None], (16, 16))
    assert torch.equal(mask, small)
    grey = tensor(image) * (1 - torch.from_numpy(hole).float())
    assert torch.allclose(masked, Half().encode(grey))
    assert not torch.equal(first[:, :4], read[1][:, :4])
    assert torch.equal(first[:, 4:], read[1][:, 4:])


def test_the_channels_are_those_of_diffusers() -> None:
    """prepare_mask_latents of its inpainting pipeline: the mask by nearest pixel, then the latents."""
    model = filling(9)
    hole = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    ours = fill_channels(model, latents, hole, (4, 4, 4))
    theirs = torch.cat([torch.nn.functional.interpolate(hole, size=(32 // 8, 32 // 8)), latents], dim=1)
    assert torch.equal(ours, theirs)


def test_the_channels_of_fill_are_those_of_flux() -> None:
    """FLUX.1 Fill packs masked latents and 8 x 8 pixels of mask a place; both packed 2 x 2 as latents are."""
    model = filling(4 + 4 + 64)
    hole = (torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    ours = fill_channels(model, latents, hole, (4, 4, 6))

    def packed(x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(batch, height * width // 4, channels * 4)

    # FluxFillPipeline.prepare_mask_latents
    mask = hole[:, 0].view(1, 4, 8, 6, 8).permute(0, 2, 4, 1, 3).reshape(1, 64, 4, 6)
    theirs = torch.cat((packed(latents), packed(mask)), dim=-1)
    assert torch.equal(packed(ours), theirs)


def test_a_model_that_reads_more_is_refused_where_nothing_lies_beside_x() -> None:
    for task, fields in ((Text2Image, {}), (Inpaint, {"image": picture(), "mask": corner()})):
        with pytest.raises(InvalidRequest, match=r"12 channels beside the 4.*not known here"):
            run(make(task, prompt="x", **fields)(filling(16)))
    with pytest.raises(InvalidRequest, match="use the task inpaint"):
        run(make(Text2Image, prompt="x")(filling(9)))
    with pytest.raises(InvalidRequest, match="by an instruction"):
        run(make(Inpaint, prompt="x", image=picture(), mask=corner())(filling(8)))
    assert len(run(make(Text2Image, prompt="left")(toy())).pixels) == 1


def test_a_filling_model_is_tiled_with_what_lies_beside_it() -> None:
    image = picture(96, 72)
    hole = np.zeros((72, 96), bool)
    hole[30:50, 40:80] = True
    made = run(make(Inpaint, image=image, mask=hole, prompt="x", steps=1, tile=True)(filling(9)))
    assert made.pixels[0].shape == image.shape
    assert np.array_equal(made.pixels[0][~hole], image[~hole])
