"""What comes out of files, arrays and Pillow's pictures."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sfumato.errors import DataError, MissingExtra
from sfumato.picture.png import encode_png
from sfumato.picture.read import Read, picture_hash, read_picture
from tests.picture.files import DEEP, DRAWN, LOSSLESS, RGB, RGBA, deep_png, deep_tiff, interlaced_png, saved


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


def test_read_is_frozen() -> None:
    read = read_picture(RGB)
    assert isinstance(read, Read)
    with pytest.raises(AttributeError):
        read.hash = ""  # type: ignore[misc]
