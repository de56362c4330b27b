"""What is refused, in how much memory, and what is left behind."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import DataError, InvalidRequest, SfumatoError
from sfumato.picture.kinds import MAX_SCANS
from sfumato.picture.png import encode_png
from sfumato.picture.read import read_picture
from tests.picture.files import RGB, deep_tiff, png, saved
from tests.picture.fuzz import fuzz, seeds
from tests.rights import without_rights

ROOT = Path(__file__).parents[2]


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


def test_a_picture_without_permission() -> None:
    # Not below tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        closed = Path(place) / "closed.png"
        closed.write_bytes(encode_png(RGB))
        closed.chmod(0)
        with without_rights(), pytest.raises(InvalidRequest, match="Permission denied"):
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
