from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from sfumato.errors import DataError, InvalidRequest, MissingExtra, SfumatoError
from sfumato.picture.kinds import MAX_SCANS
from sfumato.picture.png import encode_png
from sfumato.picture.read import Read, colour, picture_hash, read_picture
from tests.picture.fuzz import fuzz, mutated, seeds

ROOT = Path(__file__).parents[2]
DRAWN = np.random.default_rng(0)
RGBA = DRAWN.integers(0, 256, (7, 5, 4), np.uint8)
RGB = np.ascontiguousarray(RGBA[..., :3])
DEEP = np.arange(65536, dtype=np.uint16)


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG file from scratch; ``rows`` have their filter bytes, ``more`` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def deep_png(values: np.ndarray, *more: tuple[bytes, bytes], filters: tuple[int, ...] = (0,)) -> bytes:
    """A 16-bit PNG of (H, W, 1 to 4), each row with the next of ``filters`` (0 none, 2 up)."""
    height, width, channels = values.shape
    big = values.astype(">u2").view(np.uint8).reshape(height, -1)
    up = np.vstack([np.zeros_like(big[:1]), big[:-1]])
    rows = [
        bytes([filters[y % len(filters)]]) + (big[y] - up[y] * (filters[y % len(filters)] == 2)).tobytes()
        for y in range(height)
    ]
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], b"".join(rows), *more)


def interlaced_png(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG in Adam7's seven passes."""
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    parts = [values[top::down, left::across].astype(">u2") for top, left, down, across in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    data = png(values.shape[1], values.shape[0], 16, 2, rows)
    header = data[12:28] + b"\1"  # the header again, with its last byte, the way of interlacing, at 1
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def deep_tiff(
    values: np.ndarray, order: str, photometric: int = 2, extra: int | None = None, deflate: bool = False
) -> bytes:
    """A 16-bit TIFF of (H, W, 3 or 4) of either byte order."""
    height, width, channels = values.shape
    data = values.astype(order + "u2").tobytes()
    data = zlib.compress(data) if deflate else data
    data += bytes(len(data) % 2)
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [16] * channels), (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]), (278, 4, [height]), (279, 4, [len(data)]),
    ]  # fmt: skip
    if extra is not None:
        tags.append((338, 3, [extra]))
    start = 8 + len(data)
    beyond, after = b"", start + 2 + 12 * len(tags) + 4
    table = struct.pack(order + "H", len(tags))
    for tag, kind, numbers in tags:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            beyond, packed = beyond + packed, struct.pack(order + "I", after + len(beyond))
        table += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + data + table + bytes(4) + beyond


def matrix_profile(primaries: list[tuple[float, float]], gamma: float, name: bytes = b"made up") -> bytes:
    """An ICC v2 profile of an RGB display: its primaries (x, y), white D65, one gamma. Bradford to D50."""
    white = np.array([0.9504, 1.0, 1.0888])
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    columns = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag(bradford @ d50 / (bradford @ white)) @ bradford

    def fixed(values: Any) -> bytes:
        return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    blocks = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(d50),
        **{
            tag: b"XYZ " + bytes(4) + fixed(adapt @ columns[:, i])
            for i, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, start = struct.pack(">I", len(blocks)), b"", 128 + 4 + 12 * len(blocks)
    for tag, data in blocks.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    ) + bytes(12)
    head += b"acsp" + bytes(28) + fixed(d50)
    return head.ljust(128, b"\0") + table + body


P3 = matrix_profile([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], 2.2, b"Display P3, gamma 2.2")
ADOBE = matrix_profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.19921875, b"Adobe RGB")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

LOSSLESS: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG": lambda a: saved(a, "PNG"),
    "BMP": lambda a: saved(a, "BMP"),
    "TIFF": lambda a: saved(a, "TIFF"),
    "TIFF LZW": lambda a: saved(a, "TIFF", compression="tiff_lzw"),
    "TIFF deflate": lambda a: saved(a, "TIFF", compression="tiff_adobe_deflate"),
    "WebP": lambda a: saved(a, "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_lossless_files_give_the_same_pixels_and_the_same_hash(kind: str, mode: str) -> None:
    whole = Image.fromarray(RGBA)
    image = whole.convert("RGB").quantize(9) if mode == "P" else whole.convert(mode)
    if kind == "BMP" and mode in ("LA", "RGBA"):
        image = image.convert(mode[:-1])
    if kind == "WebP":
        image = image.convert("RGBA" if mode in ("LA", "RGBA", "P") else "RGB")
    read = read_picture(LOSSLESS[kind](image), background=None)  # type: ignore[arg-type]
    want = np.asarray(image.convert("RGBA"))
    assert np.array_equal(read.pixels, want[..., :3])
    if read.alpha is None:
        assert (want[..., 3] == 255).all()
    else:
        assert np.array_equal(read.alpha, want[..., 3])
    assert read.notes == ()
    assert read.hash == read_picture(want, background=None).hash == picture_hash(read.pixels, read.alpha)
    assert (read.pixels.dtype, read.size) == (np.uint8, (5, 7))


def test_a_picture_written_by_sfumato_comes_back_from_path_bytes_pillow_and_array(tmp_path: Path) -> None:
    (tmp_path / "wrong.jpg").write_bytes(encode_png(RGB))
    sources = [
        str(tmp_path / "wrong.jpg"),
        tmp_path / "wrong.jpg",
        encode_png(RGB),
        bytearray(encode_png(RGB)),
    ]
    reads = [read_picture(source) for source in [*sources, Image.fromarray(RGB), RGB]]
    assert {read.hash for read in reads} == {picture_hash(RGB)}
    assert all(np.array_equal(read.pixels, RGB) for read in reads)


def test_the_hash_knows_shape_and_alpha() -> None:
    one = np.zeros((2, 6, 3), np.uint8)
    hashes = {
        picture_hash(one), picture_hash(one.reshape(3, 4, 3)), picture_hash(one.reshape(6, 2, 3)),
        picture_hash(one, np.zeros((2, 6), np.uint8)), picture_hash(one, np.ones((2, 6), np.uint8)),
    }  # fmt: skip
    assert len(hashes) == 5


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_files_are_what_pillow_decodes(kind: str) -> None:
    data = saved(Image.fromarray(RGB).resize((40, 30), Image.Resampling.BILINEAR), kind)
    assert np.array_equal(read_picture(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("filters", [(0,), (0, 2)])
def test_sixteen_bits_are_rounded_to_the_nearest_level_exactly(
    channels: int, filters: tuple[int, ...]
) -> None:
    values = np.stack([DRAWN.permutation(DEEP).reshape(256, 256) for _ in range(channels)], -1)
    read = read_picture(deep_png(values, filters=filters), background=None)
    want = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(
        read.pixels, np.broadcast_to(want[..., : channels - 1 + channels % 2], read.pixels.shape)
    )
    assert (read.alpha is not None) == (channels in (2, 4))
    assert read.alpha is None or np.array_equal(read.alpha, want[..., -1])
    assert read.notes == ("its values of 16 bits were rounded to 8",)
    assert read.hash == read_picture(values, background=None).hash
    assert read.hash == read_picture(values.astype(">u2"), background=None).hash


def test_interlaced_sixteen_bits() -> None:
    values = np.stack([DRAWN.permutation(DEEP).reshape(256, 256) for _ in range(3)], -1)
    assert np.array_equal(read_picture(interlaced_png(values)).pixels, np.rint(values / 257))


def test_sixteen_bit_inks_are_rounded_before_they_are_mixed() -> None:
    values = np.stack([DRAWN.permutation(DEEP).reshape(256, 256) for _ in range(4)], -1)
    inks = Image.frombytes("CMYK", (256, 256), np.rint(values / 257).astype(np.uint8).tobytes())
    assert np.array_equal(read_picture(deep_tiff(values, "<", 5)).pixels, np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("channels", "extra"), [(3, None), (4, 2), (4, 0)])
def test_sixteen_bit_tiffs(order: str, channels: int, extra: int | None, deflate: bool) -> None:
    values = np.stack([DRAWN.permutation(DEEP).reshape(256, 256) for _ in range(channels)], -1)
    read = read_picture(deep_tiff(values, order, extra=extra, deflate=deflate), background=None)
    want = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(read.pixels, want[..., :3])
    assert (read.alpha is not None) == (extra == 2)
    assert read.alpha is None or np.array_equal(read.alpha, want[..., 3])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_sixteen_bit_grey_tiffs(compression: str | None) -> None:
    values = DRAWN.permutation(DEEP).reshape(256, 256)
    read = read_picture(saved(values, "TIFF", compression=compression))
    assert np.array_equal(read.pixels[..., 1], np.rint(values / 257))


def test_float_tiffs_lie_between_0_and_1() -> None:
    values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    assert np.array_equal(read_picture(saved(values, "TIFF")).pixels[..., 0], np.rint(values * 255))
    with pytest.raises(DataError, match=r"from 0 to 2, which must lie in \[0, 1\]"):
        read_picture(saved(values * 2, "TIFF"))


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


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(turn: int, kind: str) -> None:
    marks = np.zeros((16, 24, 3), np.uint8)
    marks[:8, :8], marks[8:, :8], marks[:8, 16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = {  # what is stored so that a viewer that follows the flag shows ``marks``
        1: marks, 2: marks[:, ::-1], 3: marks[::-1, ::-1], 4: marks[::-1], 5: marks.swapaxes(0, 1),
        6: np.rot90(marks, 1), 7: np.rot90(marks, 2).swapaxes(0, 1), 8: np.rot90(marks, -1),
    }[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    data = saved(np.ascontiguousarray(stored), kind, exif=exif, **lossless.get(kind, {}))
    read = read_picture(data)
    assert read.pixels.shape == marks.shape
    assert np.abs(read.pixels.astype(int) - marks).mean() < (1e-9 if kind in ("PNG", "WEBP", "TIFF") else 6)
    assert all(read.pixels[y, x].argmax() == c for y, x, c in ((4, 4, 0), (12, 4, 1), (4, 20, 2)))
    assert read.pixels.flags.c_contiguous


def test_damaged_exif_is_left_alone() -> None:
    data = saved(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    read = read_picture(data)
    assert np.array_equal(read.pixels, RGB)


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


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_many_pictures_the_first_is_taken_and_said(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), name) for name in ("red", "lime", "blue")]
    read = read_picture(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(read.pixels.astype(int) - (255, 0, 0)).max() <= 3
    assert read.notes[0] == "it holds more than one picture: the first was taken"


def test_a_long_animation_costs_as_much_as_its_first_frame() -> None:
    frames = [Image.new("L", (64, 64), value % 256) for value in range(300)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(read_picture(data).pixels, np.zeros((64, 64, 3)))


def test_heif_or_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50))).save(buffer, quality=90)
    read = read_picture(buffer.getvalue())
    assert read.size == (64, 48)
    assert np.abs(read.pixels.astype(int) - (200, 100, 50)).max() <= 3
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sfumato\[heif\]'"):
        read_picture(buffer.getvalue())


SIDES = struct.pack("<HH", 30000, 30000)
HUGE = {
    "PNG": png(30000, 30000, 8, 2, b""),
    "JPEG": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 30000, 30000) + b"\3\1\x22\0\2\x11\1\3\x11\1\xff\xd9",
    "GIF": b"GIF89a" + SIDES + bytes(3) + b",\0\0\0\0" + SIDES + b"\0\2\0;",
    "BMP": b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
    "TIFF": deep_tiff(np.zeros((1, 1, 3), np.uint16), "<").replace(
        struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, 30000)
    ).replace(struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 257, 4, 1, 30000)),
    "WebP": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X\x0a" + bytes(7) + b"\x2f\x75\0\x2f\x75\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_too_large_is_said_by_the_header(kind: str) -> None:
    with pytest.raises(
        InvalidRequest, match="30000 x 30000 pixels is too large: at most 67108864 pixels are allowed"
    ):
        read_picture(HUGE[kind])


def test_the_limit_is_one_of_the_caller() -> None:
    assert read_picture(saved(RGB, "PNG"), most_pixels=35).size == (5, 7)
    for source in (
        saved(RGB, "PNG"),
        Image.fromarray(RGB),
        RGB,
        saved(RGB, "WEBP"),
        saved(RGB, "WEBP", lossless=True),
    ):
        with pytest.raises(InvalidRequest, match="of 5 x 7 pixels is too large: at most 34"):
            read_picture(source, most_pixels=34)
    for name, data in seeds().items():
        with pytest.raises(InvalidRequest, match="of 33 x 24 pixels is too large: at most 791 pixels"):
            read_picture(data, most_pixels=791)
        assert read_picture(data, most_pixels=792).pixels.size == 3 * 792, name


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
def test_thin_pictures(size: tuple[int, int]) -> None:
    assert read_picture(saved(Image.new("RGB", size, "red"), "PNG")).size == size


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"hello", "it is no picture"),
        (b"  <!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"%PDF-1.7", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\0\0\0\x18ftypisom" + bytes(12), "a film"),
        (saved(RGB, "PNG")[:30], "damaged or cut short"),
        (saved(RGB, "JPEG")[:300], "damaged or cut short"),
        (saved(RGB, "PNG").replace(b"IHDR", b"IHDX"), "damaged or cut short"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "its header is damaged or cut short"),
        (b"\xff\xd8\xff" + b"\xff\xda" * (MAX_SCANS + 1), "more than 100 scans"),
    ],
)
def test_what_is_no_picture(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=f"cannot read the picture: .*{said}"):
        read_picture(data)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "it is a folder"),
        (tmp_path / "missing.png", "No such file"),
        (tmp_path / ("x" * 300), "too long"),
        ("a\0b", "null"),
        ("/dev/zero", "it is not a file"),
    ):
        with pytest.raises(InvalidRequest, match=f"cannot read .*{said}"):
            read_picture(path)
    closed = tmp_path / "closed.png"
    closed.write_bytes(encode_png(RGB))
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InvalidRequest, match="Permission denied"):
        read_picture(closed)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4, 3), np.int32), "must be uint8, uint16 or floats in"),
        (np.zeros((3, 40, 40), np.uint8), r"\(height, width, 1 to 4\), not \(3, 40, 40\)"),
        (np.zeros(4, np.uint8), "must be an array"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels is empty"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.array([[-np.inf, np.inf]]), "not finite"),
        (np.full((4, 4, 3), -1.0), r"from -1 to -1, which must lie in \[0, 1\]: give \(x \+ 1\) / 2"),
        (np.full((4, 4, 3), 255.0), "uint8 for 0 to 255"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_picture(array)


@pytest.mark.parametrize("source", [None, 3, ["a"]])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be a path, bytes, a Pillow picture or an array"):
        read_picture(source)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]), (3, 4, 3), elements=st.floats(0, 1, width=16)
    )
)
def test_floats_are_rounded_to_the_nearest_level(array: np.ndarray) -> None:
    pixels = read_picture(array).pixels
    assert np.abs(pixels - 255 * array.astype(np.float64)).max() <= 0.5 + 1e-4


def test_sources_are_not_changed_nor_shared() -> None:
    array, image = RGBA.copy(), Image.fromarray(RGBA)
    for source in (array, image, array[..., :3], np.ascontiguousarray(array[..., :3])):
        read = read_picture(source)
        read.pixels[:] = 7
    assert np.array_equal(array, RGBA)
    assert np.array_equal(np.asarray(image), RGBA)


@pytest.mark.parametrize("name", ["png", "tiff", "bmp", "webp_lossless", "gif", "png16", "tiff_lzw"])
def test_a_cut_file_is_refused_or_whole(name: str) -> None:
    data = seeds()[name]
    whole = read_picture(data)
    for end in range(0, len(data), max(1, len(data) // 60)):
        try:
            cut = read_picture(data[:end])
        except SfumatoError:
            continue
        assert cut.hash == whole.hash, f"{name} cut at {end} of {len(data)} gives another picture"


def test_mutated_files_open_or_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    came = fuzz(600, seed=random.Random(1).randrange(10**6))
    assert came["read"] > 50
    assert came["DataError"] > 50
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux alone")
def test_mutated_files_stay_within_bounded_memory() -> None:
    command = [sys.executable, "-m", "tests.picture.fuzz", "--times", "300", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_filter_of_warnings_is_left_behind_by_threads() -> None:
    before = list(warnings.filters)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                read_picture(saved(RGB, "PNG"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert list(warnings.filters) == before


def test_colours_are_css() -> None:
    assert [colour(text) for text in ("#0f0", " lime ", "rgb(0, 255, 0)", "#00ff0080")] == [(0, 255, 0)] * 4
    for text in ("", "nocolour", "#12345", "x" * 10000):
        with pytest.raises(InvalidRequest, match="is not a colour"):
            colour(text)


def test_read_is_frozen() -> None:
    read = read_picture(RGB)
    assert isinstance(read, Read)
    with pytest.raises(AttributeError):
        read.hash = ""  # type: ignore[misc]
