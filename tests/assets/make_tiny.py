"""Make ``emoji-tiny.tar`` and ``emoji-tiny.jsonl`` beside this file from the prepared corpus.

    python tests/assets/make_tiny.py --corpus FOLDER

About 200 pictures at 64 pixels, one or more of every (style, split) and (style, group) that the corpus has.
Families with the smallest hash come first, so that many concepts are there in several styles.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sfumato.data.record import json_lines
from sfumato.data.tar import TarPictures
from sfumato.files import write_atomic, write_bytes

COUNT, SIDE = 200, 64
LICENCES = ("MIT", "Apache-2.0", "CC-BY-4.0")


def choose(rows: list[dict[str, Any]]) -> list[int]:
    """The indices of COUNT rows that cover every (style, split) and (style, group)."""
    order = [i for i, row in enumerate(rows) if row["license"] in LICENCES]
    order.sort(key=lambda i: (hashlib.sha256(rows[i]["family"].encode()).hexdigest(), i))
    chosen: dict[int, None] = {}
    for cell in (("style", "split"), ("style", "group")):
        covered = {tuple(rows[i][key] for key in cell) for i in chosen}
        for i in order:
            place = tuple(rows[i][key] for key in cell)
            if place not in covered:
                covered.add(place)
                chosen[i] = None
    for i in order:
        if len(chosen) < COUNT:
            chosen[i] = None
    return sorted(chosen)


def main() -> None:
    """Choose, make smaller, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of emoji-128.tar and emoji.jsonl")
    corpus = parser.parse_args().corpus
    pictures = TarPictures(corpus / "emoji-128.tar", corpus / "emoji.jsonl")
    rows = [row for _, row in json_lines(pictures.lines)]
    chosen = choose(rows)
    here = Path(__file__).parent

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i in chosen:
                data = smaller(Image.fromarray(pictures.read(i)))
                info = tarfile.TarInfo(rows[i]["file"])
                info.size = len(data)
                rows[i] |= {"offset": tar.offset + tarfile.BLOCKSIZE, "size": info.size}
                tar.addfile(info, io.BytesIO(data))

    write_atomic(here / "emoji-tiny.tar", write)
    text = "".join(json.dumps(rows[i], ensure_ascii=False) + "\n" for i in chosen)
    write_bytes(here / "emoji-tiny.jsonl", text.encode())


def smaller(image: Image.Image) -> bytes:
    """The picture at SIDE pixels, as lossless WebP."""
    file = io.BytesIO()
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    small.save(file, "WEBP", lossless=True, quality=100, method=6, exact=False)
    return file.getvalue()


if __name__ == "__main__":
    main()
