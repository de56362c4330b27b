from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.data.folder import FolderPictures
from sfumato.data.idx import FASHION, IdxPictures, read_idx
from sfumato.data.pictures import open_pictures
from sfumato.errors import DataError, InvalidRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for name, colour in (("red_cat.png", "red"), ("dog.png", "blue"), ("more/a-bird.jpg", "green")):
        Image.new("RGB", (5, 4), colour).save(tmp_path / name)
    (tmp_path / "dog.txt").write_text("a blue dog\n\n a dog \n")
    (tmp_path / "notes.md").write_text("not a picture")
    return tmp_path


def test_captions_from_texts_and_names(folder: Path) -> None:
    pictures = open_pictures(folder)
    assert isinstance(pictures, FolderPictures)
    assert {r.id: r.captions for r in pictures.records} == {
        "dog.png": ("a blue dog", "a dog"),
        "red_cat.png": ("red cat",),
        "more/a-bird.jpg": ("a bird",),
    }
    dog = [r.id for r in pictures.records].index("dog.png")
    assert pictures.read(dog).shape == (4, 5, 4)
    assert pictures.read(dog)[0, 0].tolist() == [0, 0, 255, 255]
    assert not any(r.flippable for r in pictures.records)


def test_metadata_lines_win(folder: Path) -> None:
    rows = [
        {"file_name": "more/a-bird.jpg", "text": "a green bird", "flippable": True},
        {"file_name": "dog.png", "captions": ["one", "two"], "split": "val", "w": 2},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for path in (folder, folder / "metadata.jsonl"):
        bird, dog = open_pictures(path).records
        assert (bird.id, bird.captions, bird.flippable) == ("more/a-bird.jpg", ("a green bird",), True)
        assert (dog.captions, dog.split, dog.weight) == (("one", "two"), "val", 2.0)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x"},
        {"file_name": "../x.png", "text": "x"},
        {"file_name": "/etc/passwd", "text": "x"},
        {"file_name": "absent.png", "text": "x"},
        {"file_name": "a\0b", "text": "x"},
        {"file_name": "dog.png"},
        {"file_name": "dog.png", "text": 3},
    ],
)
def test_bad_metadata_names_file_and_line(row: dict[str, object], folder: Path) -> None:
    good = {"file_name": "dog.png", "text": "a dog"}
    (folder / "metadata.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row))
    with pytest.raises(DataError, match=r"metadata\.jsonl line 2"):
        open_pictures(folder)


def test_damage_in_a_folder_is_named(folder: Path) -> None:
    (folder / "dog.png").write_bytes(b"no picture")
    pictures = open_pictures(folder)
    with pytest.raises(DataError, match=r"dog\.png"):
        pictures.read([r.id for r in pictures.records].index("dog.png"))
    (folder / "dog.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"dog\.txt"):
        open_pictures(folder)
    (folder / "dog.txt").write_text("\n")
    with pytest.raises(DataError, match="no caption"):
        open_pictures(folder)


def test_a_folders_hash_depends_on_names_and_bytes(folder: Path) -> None:
    before = open_pictures(folder).sha256()
    assert open_pictures(folder).sha256() == before
    (folder / "dog.png").rename(folder / "wolf.png")
    assert open_pictures(folder).sha256() != before


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_pairs_round_trip(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (12, 7, 5), np.uint8), np.arange(12, dtype=np.uint8) % 10
    pack = gzip.compress if ending else bytes
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))
    pictures = open_pictures(folder)
    assert isinstance(pictures, IdxPictures)
    assert pictures.path.name.startswith("train")
    assert [r.label for r in pictures.records] == [FASHION[n] for n in labels]
    seen = pictures.read(3)
    assert (seen[..., :3] == pixels[3][..., None]).all()
    assert (seen[..., 3] == 255).all()
    test = open_pictures(folder / f"t10k-images-idx3-ubyte{ending}")
    assert {r.split for r in test.records} == {"test"}


def test_classes_of_other_sets_are_numbers_or_listed(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 3, 3), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 9], np.uint8)))
    (tmp_path / "classes.txt").write_text("zero\none\n")
    assert [r.label for r in open_pictures(tmp_path).records] == ["one", "class 9"]


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(idx(np.zeros((2, 3, 3), np.uint8)))
    with pytest.raises(InvalidRequest, match="train-labels"):
        open_pictures(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="3 labels for 2 pictures"):
        open_pictures(images)
    images.write_bytes(idx(np.zeros((2, 3, 3), np.uint8))[:-1])
    with pytest.raises(DataError, match="only 17"):
        open_pictures(images)
    images.write_bytes(idx(np.zeros((2, 3, 3), np.uint8)) + b"x")
    with pytest.raises(DataError, match="more"):
        open_pictures(images)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(*[st.integers(0, 5) | st.integers(0, 2**32 - 1)] * 3), tail=st.binary())
def test_any_idx_header_reads_or_raises_data_errors(
    shape: tuple[int, int, int], tail: bytes, tmp_path: Path
) -> None:
    check_idx(tmp_path, b"\0\0\x08\x03" + struct.pack(">3I", *shape) + tail)
    check_idx(tmp_path, tail)


def check_idx(folder: Path, data: bytes) -> None:
    for name, content in (
        ("x", data),
        ("x.gz", data),
        ("x.gz", gzip.compress(data)),
        ("x.gz", gzip.compress(data)[:-4]),
    ):
        path = folder / name
        path.write_bytes(content)
        try:
            assert read_idx(path, 3).ndim == 3
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017
