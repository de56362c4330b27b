import errno
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.errors import DataError, InvalidRequest, OutputError, SfumatoError
from sfumato.picture.chunks import MAX_TEXT, SIGNATURE
from sfumato.picture.images import to_image, to_rgb
from sfumato.picture.infotext import parse_infotext
from sfumato.picture.png import encode_png, read_infotext, read_recipe, save_png
from sfumato.picture.recipe import Recipe

HASH = "0123456789abcdef" * 4
FULL: dict[str, Any] = {
    "prompt": "a red circle, on blue",
    "negative": "blurry",
    "steps": 20,
    "sampler": "dpmpp-2m",
    "grid": "karras",
    "guidance": 3.5,
    "seed": 1234,
    "size": [6, 4],
}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
IHDR = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
IDAT = zlib.compress(bytes(4))


def recipe(**changes: Any) -> Recipe:
    return Recipe("text2image", "sfumato-64", HASH, FULL | changes, {"sfumato": "0.1.0"})


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*texts: bytes, header: bytes = IHDR) -> bytes:
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(texts) + chunk(b"IDAT", IDAT) + chunk(b"IEND")


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.png"
    path.write_bytes(data)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a.png", PIXELS, recipe())
    assert read_recipe(path) == recipe()
    assert np.array_equal(np.asarray(Image.open(path)), PIXELS)
    assert parse_infotext(read_infotext(path) or "").fields["Seed"] == "1234"
    assert os.listdir(tmp_path) == ["a.png"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_prompt_survives(tmp_path: Path, prompt: str) -> None:
    path = written(tmp_path, encode_png(PIXELS, recipe(prompt=prompt)))
    assert read_recipe(path).arguments["prompt"] == prompt
    Image.open(path).load()


@pytest.mark.parametrize(
    "prompt", ["a\nNegative prompt: b", "Steps: 1, Sampler: x, Seed: 3", " a ", "a\0b", "\r\n\u2028日本語 🎨"]
)
def test_prompts_that_the_infotext_cannot_hold(tmp_path: Path, prompt: str) -> None:
    path = save_png(tmp_path / "a.png", PIXELS, recipe(prompt=prompt))
    assert read_recipe(path).arguments["prompt"] == prompt
    assert "\0" not in (read_infotext(path) or "")


@pytest.mark.parametrize("prompt", ["a red circle, on blue", "日本語 🎨: (x:1.2)\nsecond line"])
def test_an_independent_reader_agrees(tmp_path: Path, prompt: str) -> None:
    sd_parsers = pytest.importorskip("sd_parsers")
    path = save_png(tmp_path / "a.png", PIXELS, recipe(prompt=prompt))
    info = sd_parsers.ParserManager().parse(path)
    assert info.generator.name == "AUTOMATIC1111"
    (sampler,) = info.samplers
    assert sampler.name == "dpmpp-2m"
    assert [each.value for each in sampler.prompts] == [prompt]
    assert [each.value for each in sampler.negative_prompts] == ["blurry"]
    assert (sampler.model.name, sampler.model.hash) == ("sfumato-64", HASH[:10])
    expected = {"steps": "20", "scheduler": "karras", "cfg_scale": "3.5", "seed": "1234"}
    assert sampler.parameters == expected
    assert info.metadata == {"Size": "6x4", "RNG": "CPU", "Version": "sfumato 0.1.0"}


def test_bytes_are_deterministic_and_hold_nothing_else() -> None:
    assert encode_png(PIXELS, recipe()) == encode_png(PIXELS.copy(), recipe())
    image = Image.fromarray(PIXELS)
    image.info |= {"icc_profile": b"secret", "dpi": (3, 3), "Comment": "secret", "transparency": (1, 2, 3)}
    assert encode_png(image, recipe()) == encode_png(PIXELS, recipe())
    assert encode_png(image) == encode_png(PIXELS)
    assert not Image.open(io.BytesIO(encode_png(PIXELS))).info


def test_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import sys, numpy as np; from sfumato.picture.png import *; from sfumato.picture.recipe import *\n"
        "r = Recipe('t', 'm', 'a' * 64, {'b': {'y': 1, 'x': 2}, 'a': 1}, {'z': '1', 'y': '2'})\n"
        "sys.stdout.buffer.write(encode_png(np.zeros((8, 8, 3), np.uint8), r))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].startswith(SIGNATURE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16"])
def test_modes(tmp_path: Path, mode: str) -> None:
    path = save_png(tmp_path / "a.PNG", Image.new(mode, (3, 2)), recipe())
    assert Image.open(path).mode == (mode if mode in ("RGB", "RGBA", "L") else "RGB")


def test_transparent_becomes_white() -> None:
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "picture",
    [
        PIXELS.astype(np.float32),
        PIXELS[..., 0],
        PIXELS[:0],
        np.zeros((2, 2, 4), np.uint8),
        np.broadcast_to(np.zeros(3, np.uint8), (14000, 14000, 3)),
        "a.png",
    ],
)
def test_bad_pictures_are_refused(picture: Any) -> None:
    with pytest.raises(InvalidRequest, match="picture"):
        to_image(picture)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"\.png"):
        save_png(tmp_path / "a.jpg", PIXELS)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save_png(tmp_path / "a.png", PIXELS, recipe())
    before = path.read_bytes()
    monkeypatch.setattr(os, function, full)
    for name in ("a.png", "b.png"):
        with pytest.raises(OutputError, match="disk is full"):
            save_png(tmp_path / name, PIXELS, recipe(seed=2))
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np; from sfumato.picture.png import save_png\n"
        "noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: save_png(sys.argv[1], noise)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    target = str(tmp_path / "a.png")
    answer = subprocess.run(
        [sys.executable, "-B", "-c", code, target], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "OutputError\n"
    assert not os.listdir(tmp_path)


def test_unwritable_outputs(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder.png", "missing/a.png", "file/a.png", "x" * 300 + ".png"):
        with pytest.raises(OutputError):
            save_png(tmp_path / name, PIXELS)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def itxt(key: bytes, value: bytes, *, zipped: bool = False) -> bytes:
    data = zlib.compress(value) if zipped else value
    return chunk(b"iTXt", key + (b"\0\1\0\0\0" if zipped else b"\0\0\0\0\0") + data)


GOOD = recipe().to_json().encode()
BOMB = zlib.compress(bytes(64 * 2**20), 9)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", DataError, "no PNG, JPEG or WebP"),
        (b"hello", DataError, "no PNG, JPEG or WebP"),
        (SIGNATURE, DataError, "end is missing"),
        (png(), DataError, "holds no recipe"),
        (png(chunk(b"tEXt", b"parameters\0a cat")), DataError, "read_infotext"),
        (png(chunk(b"tEXt", b"Comment\0a cat")), DataError, "holds no recipe$"),
        (png(itxt(b"sfumato", GOOD[:-1])), DataError, "not valid JSON"),
        (png(itxt(b"sfumato", b'{"schema":2}')), DataError, "schema 2"),
        (png(itxt(b"sfumato", b"\xff")), DataError, "'sfumato' is damaged"),
        (png(chunk(b"iTXt", b"sfumato\0\0\0")), DataError, "'sfumato' is damaged"),
        (png(chunk(b"iTXt", b"sfumato\0\2\0\0\0{}")), DataError, "'sfumato' is damaged"),
        (png(chunk(b"zTXt", b"sfumato\0\1x")), DataError, "unknown compression"),
        (png(chunk(b"zTXt", b"sfumato\0\0xyz")), DataError, "'sfumato' is damaged"),
        (png(chunk(b"zTXt", b"sfumato\0\0" + BOMB)), DataError, "when decompressed"),
        (png(itxt(b"sfumato", bytes(64 * 2**20), zipped=True)), DataError, "when decompressed"),
        (png(chunk(b"tEXt", b"sfumato\0" + bytes(MAX_TEXT))), DataError, "takes more than"),
        (png(header=struct.pack(">II", 14000, 14000) + IHDR[8:]), InvalidRequest, "14000x14000.*too large"),
        (png(header=struct.pack(">II", 2**31, 2**31) + IHDR[8:]), InvalidRequest, "too large"),
        (png(header=struct.pack(">II", 0, 5) + IHDR[8:]), DataError, "no pixels"),
        (png(header=IHDR[:8]), DataError, "header is damaged"),
        (SIGNATURE + chunk(b"IDAT", IDAT) + chunk(b"IEND"), DataError, "header is damaged"),
        (SIGNATURE + chunk(b"IHDR", IHDR) + chunk(b"IEND"), DataError, "no pixels"),
        (SIGNATURE + chunk(b"IHDR", IHDR) + chunk(b"ab\0c") + png(), DataError, "no proper name"),
        (SIGNATURE + chunk(b"IHDR", IHDR) + chunk(b"teST") * 100_001, DataError, "100000 chunks"),
        (SIGNATURE + chunk(b"IHDR", IHDR) + b"\xff\xff\xff\xffIDATabcd", DataError, "end is missing"),
        (png(itxt(b"sfumato", GOOD)).replace(b"circle", b"square"), DataError, "wrong checksum"),
    ],
)
def test_hostile_files(tmp_path: Path, data: bytes, kind: type[SfumatoError], words: str) -> None:
    path = written(tmp_path, data)
    start = time.perf_counter()
    with pytest.raises(kind, match=words) as caught:
        read_recipe(path)
    assert time.perf_counter() - start < 3
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"cannot read {path}: ")


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = encode_png(PIXELS, recipe())
    for length in range(len(whole)):
        path = written(tmp_path, whole[:length])
        with pytest.raises(DataError):
            read_recipe(path)
        with pytest.raises(DataError):
            read_infotext(path)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_flipped_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(encode_png(PIXELS, recipe()))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SfumatoError):
        read_recipe(written(tmp_path, bytes(whole)))


def test_other_containers_of_the_recipe_are_read(tmp_path: Path) -> None:
    for text in (itxt(b"sfumato", GOOD, zipped=True), chunk(b"zTXt", b"sfumato\0\0" + zlib.compress(GOOD))):
        big = chunk(b"tEXt", b"workflow\0" + bytes(MAX_TEXT + 1))
        first = itxt(b"sfumato", recipe(seed=2).to_json().encode())
        assert read_recipe(written(tmp_path, png(big, text, first))) == recipe()


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        read_recipe(tmp_path / "a.png")
    with pytest.raises(InvalidRequest, match="not a file"):
        read_recipe(tmp_path)
    path = save_png(tmp_path / "a.png", PIXELS)
    monkeypatch.setattr("sfumato.picture.png.MAX_FILE", 10)
    with pytest.raises(InvalidRequest, match="too large"):
        read_recipe(path)


TEXT = "日本語 a cat\nSteps: 20, Sampler: Euler, Seed: 1"


def with_comment(path: Path, comment: Any) -> Path:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    Image.fromarray(PIXELS).save(path, exif=exif)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-be"),
        b"UNICODE\0" + TEXT.encode("utf-16"),
        b"ASCII\0\0\0" + TEXT.encode(),
        TEXT.encode(),
    ],
)
def test_comments_in_other_formats(tmp_path: Path, name: str, comment: bytes) -> None:
    path = with_comment(tmp_path / name, comment)
    assert read_infotext(path) == TEXT
    with pytest.raises(DataError, match="no recipe: only PNG files and moving pictures"):
        read_recipe(path)


def test_odd_comments(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    assert read_infotext(tmp_path / "a.jpg") is None
    assert read_infotext(with_comment(tmp_path / "b.webp", b"UNICODE\0a")) == "\ufffd"
    with pytest.raises(DataError, match="takes more than"):
        read_infotext(with_comment(tmp_path / "c.webp", bytes(MAX_TEXT + 1)))


def test_a_jpeg_with_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path)
    frame = struct.pack(">HH", 4, 6)
    for size, words in ((9000, "9000x9000"), (60000, "too many pixels")):
        path.write_bytes(path.read_bytes().replace(frame, struct.pack(">HH", size, size), 1))
        with pytest.raises(InvalidRequest, match=words):
            read_infotext(path)
        frame = struct.pack(">HH", size, size)
