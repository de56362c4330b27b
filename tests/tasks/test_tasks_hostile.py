"""Hostile pictures through the command line: a clear sentence or a picture, bounded memory, nothing half-written."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import api
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, SfumatoError
from sfumato.tasks.table import TASKS, request
from tests.tasks.toys import picture

MEGABYTES = 700
"""How much more memory all of this may take than what was used before; the built-in model is within it."""


def used(peak: bool) -> float:
    """Megabytes that this process holds, or held at most since that was forgotten."""
    told = Path("/proc/self/status").read_text("ascii").splitlines()
    line = next(line for line in told if line.startswith("VmHWM:" if peak else "VmRSS:"))
    return int(line.split()[1]) / 1024


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """The most memory that is in use in this module is no more than MEGABYTES above what was before."""
    if sys.platform != "linux":  # no other system forgets the peak of what ran before
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = used(peak=False)
    yield
    assert used(peak=True) - before < MEGABYTES


@pytest.fixture(scope="module")
def built_in() -> Any:
    """The built-in model."""
    return api.load("emoji")


@pytest.fixture(autouse=True)
def opened_once(built_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands here share one model."""
    monkeypatch.setattr(api, "load", lambda *_, **__: built_in)


def png(width: int, height: int, data: bytes, colour: int = 2) -> bytes:
    """A PNG whose header says so, whatever ``data`` there is."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """``pixels`` as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


WHOLE = encoded(picture(40, 30))
ZEROS = zlib.compress(bytes(1 << 20), 9)
REFUSED = {
    "a header of 30000 x 30000": (png(30_000, 30_000, ZEROS), "30000 x 30000|30000x30000"),
    "a grey header of 30000 x 30000": (png(30_000, 30_000, ZEROS, colour=0), "30000 x 30000|30000x30000"),
    "a header of 2^31 x 1": (png(2**31 - 1, 1, ZEROS), "2147483647"),
    "a bomb: more rows than there is data": (png(8_000, 8_000, ZEROS), "truncated|cut|damaged|ends|broken"),
    "a truncated file": (WHOLE[: len(WHOLE) // 2], "truncated|cut|damaged|ends|broken"),
    "an empty file": (b"", "empty|kind|no picture"),
    "a lying name": (b"%PDF-1.7 and more", "it is a PDF document"),
    "a long thin picture": (
        encoded(np.zeros((20_000, 1, 3), np.uint8)),
        "x20000 and this model makes at most",
    ),
}


def told(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, list[Path]]:
    """The exit code, what is complained, and which files are new in ``folder``."""
    before = set(folder.iterdir())
    code = main([*arguments, "-o", str(folder / "out.png")])
    return code, capsys.readouterr().err, sorted(set(folder.iterdir()) - before)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["edit", "inpaint", "outpaint"])
def test_hostile_pictures_are_refused_in_a_sentence(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = REFUSED[name]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    more = {"edit": [], "inpaint": ["--mask", "rect(0, 0, 1, 1)"], "outpaint": ["--left", "8"]}[command]
    code, err, new = told(capsys, tmp_path, command, str(path), "a cat", *more)
    assert code in (2, 5)
    assert not new
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert any(word in err for word in words.split("|")), err


@pytest.mark.parametrize("name", [n for n in REFUSED if "thin" not in n])
def test_hostile_masks_are_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, photo = tmp_path / "mask.png", tmp_path / "photo.png"
    mask.write_bytes(REFUSED[name][0])
    photo.write_bytes(WHOLE)
    code, err, new = told(capsys, tmp_path, "inpaint", str(photo), "a cat", "--mask", str(mask))
    assert code in (2, 5)
    assert not new
    assert err.count("error:") == 1


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((30, 41), 255, np.uint8), "41 x 30 pixels and the picture 40 x 30"),
        (np.full((60, 80), 255, np.uint8), "80 x 60 pixels and the picture 40 x 30"),
        (np.zeros((30, 40), np.uint8), "black"),
    ],
)
def test_masks_that_do_not_fit(
    mask: np.ndarray, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.png").write_bytes(WHOLE)
    (tmp_path / "mask.png").write_bytes(encoded(mask))
    code, err, new = told(
        capsys,
        tmp_path,
        "inpaint",
        str(tmp_path / "photo.png"),
        "a cat",
        "--mask",
        str(tmp_path / "mask.png"),
    )
    assert (code, new) == (2, [])
    assert words in err


ODD = {
    "one pixel": (picture(1, 1), ["edit", "--strength", "1"], (1, 1)),
    "one pixel, all of it new": (picture(1, 1), ["inpaint", "--mask", "rect(0, 0, 1, 1)"], (1, 1)),
    "a long thin picture, made smaller": (
        picture(1, 20_000),
        ["edit", "--size", "128", "--strength", "1"],
        (1, 128),
    ),
    "a close-up of a long thin picture": (
        picture(1, 20_000),
        ["inpaint", "--mask", "rect(0, 9000, 1, 20)", "--around", "8"],
        (1, 20_000),
    ),
    "strength 0": (picture(5, 3), ["edit", "--strength", "0"], (5, 3)),
    "strength 0 in a hole": (
        picture(5, 3),
        ["inpaint", "--mask", "rect(0,0,2,2)", "--strength", "0"],
        (5, 3),
    ),
    "all white": (picture(5, 3), ["inpaint", "--mask", "rect(0, 0, 5, 3)"], (5, 3)),
    "all black, turned round": (
        picture(5, 3),
        ["inpaint", "--mask", "rect(0, 0, 1, 1)", "--invert"],
        (5, 3),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_pictures(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, (command, *more), size = ODD[name]
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(pixels))
    steps = ["--steps", "1"] + (["--repeat", "1"] if command == "inpaint" else [])
    code, err, new = told(capsys, tmp_path, command, str(path), "a cat", *more, *steps)
    assert (code, [p.name for p in new]) == (0, ["out.png"]), err
    made = np.array(Image.open(tmp_path / "out.png").convert("RGB"))
    assert made.shape[:2] == size[::-1]
    if name == "a close-up of a long thin picture":
        assert np.array_equal(np.delete(made, slice(9000, 9020), 0), np.delete(pixels, slice(9000, 9020), 0))


@pytest.mark.parametrize(
    "task", ["image2image", "inpaint", "outpaint", "upscale", "restore", "instruct", "control"]
)
@pytest.mark.parametrize(
    "bad",
    [
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), np.inf),
        np.full((4, 4, 3), -1.0),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 7), np.uint8),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4, 3), object),
    ],
    ids=["nan", "inf", "below 0", "empty", "seven channels", "complex", "objects"],
)
def test_arrays_that_are_no_pictures(task: str, bad: np.ndarray) -> None:
    assert task in TASKS
    fields = {"image": bad} | ({"mask": np.ones((4, 4), bool)} if task == "inpaint" else {})
    with pytest.raises(SfumatoError) as caught:
        request(task, **fields, **({"prompt": "a cat"} if task != "restore" else {}))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", [np.full((4, 4), np.nan), np.full((4, 4), 2.0), np.full((4, 4), -1.0)])
def test_arrays_that_are_no_masks(bad: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        request("inpaint", image=picture(), mask=bad, prompt="a cat")
