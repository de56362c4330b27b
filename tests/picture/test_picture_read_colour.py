"""Transparency, colour profiles, inks."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from sfumato.errors import InvalidRequest
from sfumato.picture.read import colour, picture_hash, read_picture
from tests.picture.files import ADOBE, DRAWN, P3, RGB, RGBA, SRGB, deep_png, png, saved
from tests.picture.fuzz import mutated


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_of_a_png_may_stand_for_transparent(depth: int) -> None:
    levels = np.arange(2**depth)[:16] if depth < 16 else np.array([256, 257, 258, 65535])
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    key = int(levels[1])
    data = png(len(levels), 1, depth, 0, b"\0" + packed, (b"tRNS", struct.pack(">H", key)))
    read = read_picture(data, background=None)
    assert read.alpha is not None
    assert list(read.alpha[0]) == [0 if level == key else 255 for level in levels]
    assert list(read.pixels[0, :, 0]) == [round(int(level) * 255 / (2**depth - 1)) for level in levels]


def test_one_colour_of_a_png_may_stand_for_transparent() -> None:
    chunk = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    read = read_picture(png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 1, 2, 4]), chunk))
    assert read.pixels.tolist() == [[[255, 255, 255], [1, 2, 4]]]
    chunk = (b"tRNS", struct.pack(">HHH", 256, 512, 768))
    deep = np.array([[[256, 512, 768], [256, 512, 769]]], np.uint16)
    alpha = read_picture(deep_png(deep, chunk)).alpha
    assert alpha is not None
    assert alpha.tolist() == [[0, 255]]


def test_palettes_with_alpha_of_their_own() -> None:
    data = saved(Image.fromarray(RGB).quantize(8), "PNG", transparency=bytes([0, 100, 200]))
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    read = read_picture(data, background=None)
    assert read.alpha is not None
    assert np.array_equal(read.alpha, want[..., 3])
    assert len(set(read.alpha.ravel().tolist())) > 2
    image = Image.fromarray(RGBA).quantize(9)
    read = read_picture(image, background=None)
    assert read.alpha is not None
    assert np.array_equal(np.dstack([read.pixels, read.alpha]), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize("ground", ["white", "#204060"])
def test_transparent_parts_are_laid_over_a_colour_and_rounded_to_the_nearest(ground: str) -> None:
    pixels = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8)
    array = np.dstack([pixels[..., 0], pixels[..., 0], pixels[..., 0], pixels[..., 1]])
    read = read_picture(array, background=ground)
    share = array[..., 3:] / 255
    want = np.rint(array[..., :3] * share + np.array(colour(ground)) * (1 - share))
    assert np.array_equal(read.pixels, want)
    assert read.alpha is not None
    assert np.array_equal(read.alpha, array[..., 3])
    assert read.notes == (f"its transparent parts were laid over {ground}",)
    assert read.hash == picture_hash(read.pixels, read.alpha)


def test_an_alpha_channel_that_hides_nothing_is_none() -> None:
    opaque = RGBA.copy()
    opaque[..., 3] = 255
    assert read_picture(saved(opaque, "PNG")).hash == read_picture(RGB).hash


@pytest.mark.parametrize("profile", [P3, ADOBE], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_profiles_are_converted_as_lcms_does(profile: bytes, kind: str) -> None:
    pixels = DRAWN.integers(0, 256, (64, 64, 3), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    read = read_picture(saved(pixels, kind, icc_profile=profile, **options))
    target = ImageCms.createProfile("sRGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    want = ImageCms.profileToProfile(Image.fromarray(pixels), source, target)
    assert want is not None
    assert np.abs(read.pixels.astype(int) - np.asarray(want)).max() <= 2
    assert np.abs(read.pixels.astype(int) - pixels).max() > 20
    name = "Display P3, gamma 2.2" if profile is P3 else "Adobe RGB"
    assert read.notes == (f"its colours were converted from {name} to sRGB",)


def test_profiles_are_converted_as_the_matrices_say() -> None:
    pixels = DRAWN.integers(0, 256, (64, 64, 3), np.uint8)
    read = read_picture(saved(pixels, "PNG", icc_profile=P3))
    to_srgb = np.array(  # linear Display P3 to linear sRGB, both with white D65 (CSS Color 4)
        [[1.2249402, -0.2249402, 0.0], [-0.0420570, 1.0420570, 0.0], [-0.0196376, -0.0786361, 1.0982737]]
    )
    linear = ((pixels / 255) ** (563 / 256) @ to_srgb.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(read.pixels - 255 * encoded).max() <= 2


def test_a_picture_tagged_srgb_keeps_its_pixels() -> None:
    read = read_picture(saved(RGB, "PNG", icc_profile=SRGB))
    assert (read.hash, read.notes) == (picture_hash(RGB), ())


def test_a_profile_leaves_alpha_alone_and_can_be_ignored() -> None:
    read = read_picture(saved(RGBA, "PNG", icc_profile=ADOBE), background=None)
    assert read.alpha is not None
    assert np.array_equal(read.alpha, RGBA[..., 3])
    assert not np.array_equal(read.pixels, RGB)
    assert np.array_equal(
        read_picture(saved(RGBA, "PNG", icc_profile=ADOBE), background=None, profile=False).pixels, RGB
    )


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "kind"])
def test_a_bad_profile_is_noted_and_ignored(damage: str) -> None:
    bad = {"cut": P3[:200], "noise": bytes(range(256)), "empty": b"\0", "kind": P3.replace(b"RGB ", b"CMYK")}[
        damage
    ]
    read = read_picture(saved(RGB, "PNG", icc_profile=bad))
    assert np.array_equal(read.pixels, RGB)
    assert [note.partition(":")[0] for note in read.notes] == ["its colour profile was ignored"]


def test_mutated_profiles_are_used_or_ignored() -> None:
    draw = random.Random(0)
    for number in range(200):
        profile = mutated((P3, ADOBE, SRGB)[number % 3], draw)
        read = read_picture(saved(RGBA, "PNG", icc_profile=profile))
        assert read.pixels.shape == RGB.shape


def test_cmyk_by_the_plain_formula_and_lab_by_its_own() -> None:
    inks = Image.frombytes("CMYK", (5, 7), RGBA.tobytes())
    read = read_picture(saved(inks, "TIFF"))
    assert np.array_equal(read.pixels, np.asarray(inks.convert("RGB")))
    assert read.notes == ("its CMYK colours were converted without a profile, by the plain formula",)
    flat = Image.new("CMYK", (16, 16), (200, 40, 10, 30))
    assert (
        np.abs(
            read_picture(saved(flat, "JPEG")).pixels[8, 8].astype(int) - flat.convert("RGB").getpixel((8, 8))
        ).max()
        <= 2
    )
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert read_picture(saved(lab, "TIFF")).pixels.min() >= 254


def test_colours_are_css() -> None:
    assert [colour(text) for text in ("#0f0", " lime ", "rgb(0, 255, 0)", "#00ff0080")] == [(0, 255, 0)] * 4
    for text in ("", "nocolour", "#12345", "x" * 10000):
        with pytest.raises(InvalidRequest, match="is not a colour"):
            colour(text)
