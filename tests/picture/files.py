"""Files from scratch, and pictures for tests of reading."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

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
