"""Composing and moving batches, held against the one-picture code of sfumato.data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.data.compose import BACKGROUNDS, on_background, placed
from sfumato.train.augment import compose, jitter


def pictures(count: int, side: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(
        256, (count, 4, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def colours() -> Tensor:
    return torch.tensor(list(BACKGROUNDS.values()), dtype=torch.uint8)


def levels(x: Tensor) -> Tensor:
    """[-1, 1] as 0 .. 255."""
    return (x + 1) * 127.5


def identity(count: int) -> Tensor:
    return torch.eye(2, 3).expand(count, 2, 3).clone()


def test_composing_is_what_data_compose_does() -> None:
    grounds = colours()
    rgba = pictures(len(grounds))
    rgba[:, 3, 0], rgba[:, 3, 1] = 0, 255
    found = levels(compose(rgba, grounds))
    for picture, ground, out in zip(rgba, grounds, found, strict=True):
        wanted = on_background(picture.permute(1, 2, 0).numpy(), tuple(ground.tolist()))
        assert np.abs(out.permute(1, 2, 0).numpy() - wanted.astype(float)).max() <= 0.5 + 1e-3
    assert torch.allclose(found[:, :, 0], grounds[:, :, None].float().expand(-1, -1, 9), atol=1e-3)
    assert torch.allclose(found[:, :, 1], rgba[:, :3, 1].float(), atol=1e-3)


def test_the_map_that_changes_nothing_changes_nothing() -> None:
    rgba = pictures(12)
    assert torch.allclose(compose(rgba, colours(), identity(12)), compose(rgba, colours()), atol=1e-5)
    for flip in (None, torch.zeros(12, dtype=torch.bool)):
        assert torch.equal(jitter(12, torch.Generator(), most=0.0, flip=flip), identity(12))


def test_a_mirror_map_mirrors_and_a_shift_of_whole_pixels_shifts() -> None:
    rgba, side = pictures(12), 9
    mirror = identity(12)
    mirror[:, 0, 0] = -1
    plain = compose(rgba, colours())
    assert torch.allclose(compose(rgba, colours(), mirror), plain.flip(-1), atol=1e-4)
    shift = identity(12)
    shift[:, 0, 2], shift[:, 1, 2] = 2 * 2 / side, -2 * 1 / side
    moved = compose(rgba, colours(), shift)
    assert torch.allclose(moved[:, :, 1:, :-2], plain[:, :, :-1, 2:], atol=1e-4)
    ground = colours()[:, :, None].float().expand(-1, -1, side)
    assert torch.allclose(levels(moved[:, :, 0]), ground, atol=1e-2)  # what comes into view is background


def test_a_scaled_and_shifted_picture_is_where_data_compose_puts_it() -> None:
    side = 64
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    alpha = 255 * torch.sigmoid((20 - torch.hypot(y - 30.0, x - 34.0)) / 3)
    rgba = torch.stack((2 * x + 60, 3 * y, 255 - x - y, alpha)).round().to(torch.uint8)
    scale, across, down = 0.9, 0.05, -0.03
    # placed() moves by shares of the side after scaling; a map takes places of the result to the source.
    theta = torch.tensor([[[1 / scale, 0, -2 * across / scale], [0, 1 / scale, -2 * down / scale]]])
    found = levels(compose(rgba[None], torch.tensor([[255, 255, 255]], dtype=torch.uint8), theta))[0]
    wanted = on_background(placed(rgba.permute(1, 2, 0).numpy(), scale, across, down), (255, 255, 255))
    error = np.abs(found.permute(1, 2, 0).numpy() - wanted.astype(float))
    assert error.max() < 4  # the map is inverted only to second order by bytes and Pillow's own rounding
    assert error.mean() < 0.5


def test_no_hidden_colour_bleeds_over_edges() -> None:
    """Red everywhere, but opaque black is all that shows: no mixture of places may show any red."""
    rgba = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
    rgba[:, 0] = 255
    rgba[:, 3, 4:12, 4:12] = 255
    rgba[:, 0, 4:12, 4:12] = 0
    theta = jitter(1, torch.Generator().manual_seed(0), most=0.3)
    out = compose(rgba, torch.zeros(1, 3, dtype=torch.uint8), theta)
    assert out.max() <= -1 + 1e-6


def test_only_allowed_rows_are_mirrored_and_half_of_those() -> None:
    flip = torch.arange(4000) % 2 == 0
    theta = jitter(4000, torch.Generator().manual_seed(0), flip=flip)
    mirrored = theta[:, 0, 0] < 0
    assert not mirrored[~flip].any()
    assert abs(int(mirrored.sum()) - 1000) < 4 * 22.4  # four deviations of a fair coin tossed 2,000 times
    assert (jitter(100, torch.Generator().manual_seed(0))[:, 0, 0] > 0).all()


@pytest.mark.parametrize("most", [0.0, 0.06, 0.25])
def test_maps_stay_within_their_limits_and_never_turn(most: float) -> None:
    theta = jitter(2000, torch.Generator().manual_seed(1), most=most, flip=torch.ones(2000, dtype=torch.bool))
    scale = theta[:, 1, 1]
    assert torch.equal(theta[:, 0, 0].abs(), scale)
    assert (theta[:, 0, 1] == 0).all()
    assert (theta[:, 1, 0] == 0).all()
    for values, centre in ((scale, 1.0), (theta[:, 0, 2], 0.0), (theta[:, 1, 2], 0.0)):
        assert (values - centre).abs().max() <= most + 1e-6
        assert (values - centre).abs().max() >= 0.95 * most
        assert abs(float(values.mean()) - centre) <= 0.06 * most


def test_the_same_generator_gives_the_same_maps_and_flips_draw_nothing_more() -> None:
    flip = torch.ones(50, dtype=torch.bool)
    one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    a, b = jitter(50, one, flip=flip), jitter(50, two)
    assert torch.equal(a[:, 1], b[:, 1])
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=two))
