"""Packing a data set to a given size: lossy WebP in the layout of the corpus, to carry it to another machine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sfumato.data.decode import Pixels
from sfumato.data.pictures import PictureSet
from sfumato.data.record import Record
from sfumato.errors import InvalidRequest
from sfumato.files import write_atomic, write_bytes

QUALITIES = (95, 90, 85, 80, 70, 60, 50)
SAMPLE = 150


def pack(
    pictures: PictureSet, folder: Path, most: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write ``packed.tar`` and ``packed.jsonl`` into ``folder``, together at most ``most`` bytes.

    The best of a few WebP qualities that fits is found on a sample, then taken for all; alpha stays lossless.
    InvalidRequest if even the lowest does not fit.
    """
    records = pictures.records
    lines = sum(len(_line(record, 0, 0)) for record in records)
    rows = list(range(0, len(pictures), max(1, len(pictures) // SAMPLE)))
    for quality in QUALITIES:
        mean = sum(_tar_size(_encode(pictures.read(i), quality)) for i in rows) / len(rows)
        if 1.03 * mean * len(pictures) + lines <= most:
            break
    else:
        raise InvalidRequest(
            f"{len(pictures)} pictures do not fit in {most} bytes even at WebP quality {QUALITIES[-1]} "
            f"(about {mean * len(pictures) + lines:.0f}); allow more"
        )
    written: list[bytes] = []

    def fill(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i, record in enumerate(records):
                data = _encode(pictures.read(i), quality)
                info = tarfile.TarInfo(f"{i:06d}.webp")
                info.size = len(data)
                written.append(_line(record, tar.offset + tarfile.BLOCKSIZE, len(data)))
                tar.addfile(info, io.BytesIO(data))
                if progress is not None:
                    progress(i + 1, len(records))

    folder.mkdir(parents=True, exist_ok=True)
    tar = write_atomic(folder / "packed.tar", fill)
    write_bytes(folder / "packed.jsonl", b"".join(written))
    size = tar.stat().st_size + (folder / "packed.jsonl").stat().st_size
    return {"pictures": len(records), "quality": quality, "bytes": size, "folder": str(folder)}


def _encode(pixels: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, alpha_quality=100, method=4)
    return buffer.getvalue()


def _tar_size(data: bytes) -> int:
    """What ``data`` takes in a tar: a header and whole blocks."""
    return tarfile.BLOCKSIZE * (1 + -(-len(data) // tarfile.BLOCKSIZE))


def _line(record: Record, offset: int, size: int) -> bytes:
    row = {
        "id": record.id,
        "label": record.label,
        "captions": record.captions,
        "style": record.style,
        "split": record.split,
        "group": record.group,
        "family": record.family,
        "w": record.weight,
        "license": record.licence,
        "attribution": record.attribution,
        "flippable": record.flippable,
        "tags": record.tags,
        "offset": offset,
        "size": size,
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
