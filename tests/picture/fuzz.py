"""Damaged pictures: every one opens or is refused with an error of ours, within bounded memory.

``python -m tests.picture.fuzz --times 5000`` runs more of what the tests run a little of.
"""

from __future__ import annotations

import argparse
import functools
import io
import random
import resource
import sys
import time
import warnings
from collections import Counter

import numpy as np
from PIL import Image, ImageCms

from sfumato.errors import SfumatoError
from sfumato.picture.read import read_picture

MOST_PIXELS = 1 << 20
"""What a mutated header may ask for."""

ROOM = 768 << 20
"""Address space beyond what the interpreter has when it begins, in bytes."""


@functools.cache
def seeds() -> dict[str, bytes]:
    """One small file of each kind and mode, by name."""
    drawn = np.random.default_rng(0)
    colours = Image.fromarray(drawn.integers(0, 256, (24, 33, 4), np.uint8))
    deep = Image.fromarray(drawn.integers(0, 65536, (24, 33), np.uint16))
    rgb, grey = colours.convert("RGB"), colours.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    both = {"exif": exif, "icc_profile": profile}
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    files = {
        "png": _file(colours, "PNG", **both),
        "png16": _file(deep, "PNG"),
        "png_palette": _file(rgb.quantize(16), "PNG", transparency=3),
        "png_one_bit": _file(grey.convert("1"), "PNG"),
        "apng": _file(rgb, "PNG", **frames),
        "jpeg": _file(rgb, "JPEG", **both),
        "jpeg_progressive": _file(rgb, "JPEG", progressive=True),
        "jpeg_cmyk": _file(rgb.convert("CMYK"), "JPEG"),
        "webp": _file(colours, "WEBP", **both),
        "webp_lossless": _file(colours, "WEBP", lossless=True),
        "webp_animated": _file(rgb, "WEBP", **frames),
        "avif": _file(colours, "AVIF", **both),
        "gif": _file(rgb, "GIF", **frames),
        "tiff": _file(colours, "TIFF", **both),
        "tiff16": _file(deep, "TIFF"),
        "tiff_lzw": _file(rgb, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": _file(rgb, "TIFF", compression="jpeg"),
        "tiff_deflate": _file(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff_group4": _file(grey.convert("1"), "TIFF", compression="group4"),
        "bmp": _file(rgb, "BMP"),
    }
    try:
        import pillow_heif
    except ImportError:
        return files
    buffer = io.BytesIO()
    pillow_heif.from_pillow(colours).save(buffer)
    return files | {"heif": buffer.getvalue()}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """``data`` with a few bytes changed, cut, doubled, or taken out; mostly near its beginning."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        reach = draw.choice((64, 512, len(made)))
        at = draw.randrange(max(1, min(reach, len(made))))
        way = draw.randrange(6)
        if way == 0:
            made[at : at + 1] = bytes([draw.randrange(256)])
        elif way == 1 and made:
            made[min(at, len(made) - 1)] ^= 1 << draw.randrange(8)
        elif way == 2:
            made[at : at + 4] = draw.choice((b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\1\0\0"))
        elif way == 3:
            del made[draw.randrange(len(made) + 1) :]
        elif way == 4:
            made[at:at] = made[at : at + draw.randint(1, 64)]
        else:
            del made[at : at + draw.randint(1, 16)]
    return bytes(made)


def fuzz(times: int, seed: int = 0, kinds: tuple[str, ...] = ()) -> Counter[str]:
    """Read ``times`` mutated files and count what came of them; anything but a picture or our error is raised."""
    draw = random.Random(seed)
    files = {name: data for name, data in seeds().items() if not kinds or name in kinds}
    came: Counter[str] = Counter()
    for number in range(times):
        name = draw.choice(list(files))
        data = mutated(files[name], draw)
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read = read_picture(data, most_pixels=MOST_PIXELS)
            assert read.pixels.dtype == np.uint8
            assert 0 < read.pixels.size <= 3 * MOST_PIXELS
            came["read"] += 1
        except SfumatoError as error:
            came[type(error).__name__] += 1
            came["longest text"] = max(came["longest text"], len(str(error).splitlines()[0]))
        except BaseException:
            print(f"mutation {number} of {name} with seed {seed}: {data[:64].hex()}", file=sys.stderr)
            raise
        came["slowest, ms"] = max(came["slowest, ms"], int(1000 * (time.perf_counter() - began)))
    return came


def bound_memory() -> None:
    """Let this process take ROOM more of address space than it has now, and no more."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[])
    asked = parser.parse_args()
    if sys.platform == "linux":
        bound_memory()
    print(dict(fuzz(asked.times, asked.seed, tuple(asked.kind))))


if __name__ == "__main__":
    main()
