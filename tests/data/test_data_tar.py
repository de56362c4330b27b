from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.data.decode import decode
from sfumato.data.pictures import open_pictures
from sfumato.data.tar import TarPictures
from sfumato.errors import DataError, InvalidRequest

Copy = Callable[..., Path]


def test_tiny_covers_the_corpus_and_is_small(tiny: TarPictures, tiny_path: Path) -> None:
    assert 190 <= len(tiny) <= 210
    assert len({r.style for r in tiny.records}) == 9
    assert len({r.group for r in tiny.records}) == 11
    assert {r.split for r in tiny.records} == {"train", "val", "test_style", "test_concept"}
    assert {r.licence for r in tiny.records} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    assert all(r.attribution and 3 <= len(r.captions) <= 5 for r in tiny.records)
    assert tiny_path.stat().st_size + tiny_path.with_suffix(".jsonl").stat().st_size < 1 << 20


def test_every_picture_is_the_file_of_its_record(tiny: TarPictures, tiny_path: Path) -> None:
    with tarfile.open(tiny_path) as tar:
        for index, record in enumerate(tiny.records):
            member = tar.extractfile(f"{record.id}.webp")
            assert member is not None
            assert tiny.encoded(index) == member.read()
            pixels = tiny.read(index)
            assert pixels.shape == (64, 64, 4)
            assert pixels.dtype == np.uint8
            assert pixels.flags.writeable


def test_records_without_offsets_are_found_by_name(
    tiny: TarPictures, tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy
) -> None:
    bare = [{k: v for k, v in row.items() if k not in ("offset", "size")} for row in tiny_rows]
    by_name = open_pictures(copy_of_tiny(bare))
    assert by_name.records == tiny.records
    for index in range(0, len(tiny), 17):
        assert np.array_equal(by_name.read(index), tiny.read(index))


def test_three_paths_open_one_set(copy_of_tiny: Copy) -> None:
    tar = copy_of_tiny()
    sized = tar.rename(tar.with_name("set-64.tar"))
    for path in (sized, tar.with_suffix(".jsonl"), tar.parent):
        assert open_pictures(path).path == sized


def test_reading_from_threads_and_copies_agrees(tiny: TarPictures) -> None:
    alone = [tiny.read(i).tobytes() for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: tiny.read(i % 40).tobytes(), range(200)))
    assert together == [alone[i % 40] for i in range(200)]
    assert pickle.loads(pickle.dumps(tiny)).read(3).tobytes() == alone[3]


def test_sha256_is_that_of_the_file(tiny: TarPictures, tiny_path: Path) -> None:
    assert tiny.sha256() == hashlib.sha256(tiny_path.read_bytes()).hexdigest()


def test_flips_are_refused_where_they_change_the_meaning(tiny: TarPictures) -> None:
    flippable = {r.group: {x.flippable for x in tiny.records if x.group == r.group} for r in tiny.records}
    for group in ("flags", "symbols", "component", "other"):
        assert flippable[group] == {False}
    assert flippable["food-drink"] == {True}


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"offset": 1 << 40}, "outside the tar"),
    ({"offset": -1}, "outside the tar"),
    ({"offset": 1.5}, "whole numbers"),
    ({"offset": True}, "whole numbers"),
    ({"offset": None}, "whole numbers"),
    ({"size": 0}, "0 bytes"),
    ({"size": 1 << 60}, "bytes"),
    ({"id": ""}, "'id'"),
    ({"id": 7}, "'id'"),
    ({"captions": []}, "'captions'"),
    ({"captions": "cat"}, "'captions'"),
    ({"captions": [1]}, "'captions'"),
    ({"tags": "cat"}, "'tags'"),
    ({"tags": [1]}, "'tags'"),
    ({"w": -1}, "'w'"),
    ({"w": float("nan")}, "'w'"),
    ({"w": "1"}, "'w'"),
    ({"flippable": 1}, "'flippable'"),
    ({"style": None}, "'style'"),
]


@pytest.mark.parametrize(("fields", "reason"), BAD_FIELDS, ids=[json.dumps(f) for f, _ in BAD_FIELDS])
def test_bad_fields_name_file_record_and_line(
    fields: dict[str, Any], reason: str, tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy
) -> None:
    path = copy_of_tiny([*tiny_rows[:2], {**tiny_rows[2], **fields}])
    with pytest.raises(DataError, match=reason) as caught:
        open_pictures(path)
    text = str(caught.value)
    assert "set.jsonl line 3" in text
    assert str(fields.get("id", tiny_rows[2]["id"])) in text


def test_unknown_and_repeated_names_are_refused(tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy) -> None:
    with pytest.raises(DataError, match="same id"):
        open_pictures(copy_of_tiny([tiny_rows[0], tiny_rows[0]]))
    with pytest.raises(DataError, match=r"no file 'x\.webp'"):
        open_pictures(copy_of_tiny([{"id": "a", "label": "a", "file": "x.webp"}]))
    with pytest.raises(DataError, match="neither"):
        open_pictures(copy_of_tiny([{"id": "a", "label": "a"}]))


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"3", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 50_000, b"{}" * (1 << 20)]
)
def test_bad_lines_are_named(line: bytes, tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy) -> None:
    good = json.dumps(tiny_rows[0]).encode()
    with pytest.raises(DataError, match=r"set\.jsonl line 3"):
        open_pictures(copy_of_tiny(raw=good + b"\n\n" + line + b"\n"))


def test_a_truncated_tar_is_refused(
    tiny_path: Path, tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy
) -> None:
    half = tiny_path.read_bytes()[: tiny_path.stat().st_size // 2]
    with pytest.raises(DataError, match="cut short"):
        open_pictures(copy_of_tiny(tar=half))
    bare = [{k: v for k, v in row.items() if k not in ("offset", "size")} for row in tiny_rows]
    with pytest.raises(DataError):
        open_pictures(copy_of_tiny(bare, tar=half))
    with pytest.raises(DataError, match="whole tar"):
        open_pictures(copy_of_tiny(bare, tar=b"not a tar at all" * 100))


def test_a_tar_cut_short_after_opening_is_noticed(copy_of_tiny: Copy) -> None:
    path = copy_of_tiny()
    pictures = open_pictures(path)
    with open(path, "r+b") as file:
        file.truncate(600)
    with pytest.raises(DataError, match="cut short"):
        pictures.read(len(pictures) - 1)


def test_damaged_pictures_name_file_record_and_line(
    tiny_path: Path, tiny_rows: list[dict[str, Any]], copy_of_tiny: Copy
) -> None:
    data = bytearray(tiny_path.read_bytes())
    row = tiny_rows[1]
    data[row["offset"] : row["offset"] + row["size"]] = bytes(row["size"])
    pictures = open_pictures(copy_of_tiny(tar=bytes(data)))
    with pytest.raises(DataError, match="not a picture") as caught:
        pictures.read(1)
    assert all(part in str(caught.value) for part in ("set.tar", row["id"], "line 2"))
    assert pictures.read(0).shape == (64, 64, 4)


def huge_png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + head
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk
    return start + struct.pack(">II", zlib.crc32(chunk), 100) + b"IDAT"


@pytest.mark.parametrize("side", [9_000, 100_000])
def test_the_size_limit_is_checked_before_decoding(side: int) -> None:
    with pytest.raises(DataError, match=r"x\.png: .*pixels"):
        decode(huge_png(side, side), "x.png")


def test_cut_pictures_are_refused() -> None:
    file = io.BytesIO()
    Image.effect_noise((50, 50), 50).save(file, "PNG")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(file.getvalue()[:600], "x.png")


def test_deep_grey_keeps_its_high_byte() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(file, "PNG")
    assert decode(file.getvalue(), "x")[0, :, 0].tolist() == [0, 128, 255]


def test_what_is_no_data_says_what_is_accepted(tmp_path: Path) -> None:
    other = tmp_path / "x.zip"
    other.write_bytes(b"PK")
    for path in (other, tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidRequest, match="IDX files"):
            open_pictures(path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"a\.jsonl"):
        open_pictures(tmp_path / "a.tar")
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"b\.tar"):
        open_pictures(tmp_path / "b.jsonl")


def test_a_folder_of_several_sets_asks_which(copy_of_tiny: Copy) -> None:
    path = copy_of_tiny()
    for ending in (".tar", ".jsonl"):
        path.with_name(f"other{ending}").write_bytes(path.with_suffix(ending).read_bytes())
    with pytest.raises(InvalidRequest, match=r"other\.tar, set\.tar"):
        open_pictures(path.parent)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["id", "label", "captions", "w", "offset", "size", "file", "flippable", "group"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(keys, json_values, max_size=6), max_size=4), tail=st.binary(max_size=20))
def test_any_lines_open_or_raise_data_errors(rows: list[dict[str, Any]], tail: bytes, tmp_path: Path) -> None:
    tar, lines = tmp_path / "f.tar", tmp_path / "f.jsonl"
    tar.write_bytes(bytes(10240))
    lines.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + tail)
    try:
        pictures = TarPictures(tar, lines)
        for index in range(len(pictures)):
            pictures.read(index)
    except DataError:
        pass


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_or_raise_data_errors(tiny: TarPictures, data: st.DataObject) -> None:
    whole = bytearray(tiny.encoded(data.draw(st.integers(0, 9))))
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]), "x").shape[2] == 4
    except DataError as error:
        assert str(error).startswith("x: ")  # noqa: PT017
