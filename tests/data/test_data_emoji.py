from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.data.emoji import build as building
from sfumato.data.emoji import names, packages, sets, splits
from sfumato.data.emoji.packages import Package, PackageCache, sha512_of
from sfumato.data.emoji.render import picture
from sfumato.data.pictures import open_pictures
from sfumato.errors import DataError, InvalidRequest, SfumatoError, UnknownName


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def packed(folder: Path, name: str, files: dict[str, bytes]) -> Package:
    """A package whose archive lies in ``folder`` as npm would have left it."""
    folder.mkdir(exist_ok=True)
    path = folder / Package(name, "1.0.0", "").archive
    archive(path, files)
    return Package(name, "1.0.0", sha512_of(path))


def test_captions_and_families_of_the_corpus_are_made_by_these_rules(tiny_rows: list[dict[str, Any]]) -> None:
    for row in tiny_rows:
        assert names.captions_of(row["label"], row["style"], row["tags"]) == row["captions"]
        named = not row["concept"].startswith("name:")
        assert (names.family_of(row["concept"]) if named else row["concept"]) == row["family"]
        chosen = next(s for s in sets.SETS if s.name == row["set"])
        assert (chosen.style, chosen.licence, chosen.attribution) == (
            row["style"],
            row["license"],
            row["attribution"],
        )


def test_splits_of_the_corpus_follow_from_names(tiny_rows: list[dict[str, Any]]) -> None:
    for row in tiny_rows:
        if row["group"] in splits.NOT_HELD_OUT or row.get("twin"):
            assert row["split"] == "train"
        elif row["split"] != "test_style":
            concept = splits.chance(f"concept:{row['family']}") < 0.04
            assert (row["split"] == "test_concept") is concept
            if not concept:
                assert (row["split"] == "val") is (splits.chance(f"val:{row['id']}") < 0.02)


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("1f44b-1f3fd", "1f44b"),
        ("1f468-200d-1f680", "1f9d1-200d-1f680"),
        ("1f469-1f3ff-200d-1f9b0", "1f9d1"),
        ("1f3c3-200d-2640", "1f3c3"),
    ],
)
def test_tone_gender_and_hair_share_a_family(code: str, family: str) -> None:
    assert names.family_of(code) == family


def test_words() -> None:
    assert names.slug("flag: Côte d’Ivoire") == "flag-cote-divoire"
    assert names.spoken("flag: Chad") == "flag of Chad"
    assert names.spoken("keycap: 3") == "keycap 3"
    assert names.spoken("man: beard") == "man, beard"
    assert names.code_of("0023-FE0F-20E3") == "0023-20e3"
    assert names.captions_of("cat", "flat", ["catty", "pet", "no1", "flag x", "meow", "claws", "paw"]) == [
        "cat",
        "cat, flat style",
        "flat emoji of cat",
        "cat, catty, pet, flat style",
        "flat emoji of cat, meow, claws",
    ]


def test_icons_find_their_emoji() -> None:
    known = [
        names.Emoji("1", "cat face", (), "", "", False),
        names.Emoji("2", "flag: Chad", (), "", "", False),
        names.Emoji("3", "OK button", (), "", "", False),
        names.Emoji("4", "dog", (), "", "", False),
    ]
    find = names.Names(known).find
    icons = ("cat", "catface", "flag-for-chad", "ok", "dog-face", "dog-2", "eel")
    assert [find(icon, False) for icon in icons] == [
        "1",
        "1",
        "2",
        "3",
        "4",
        None,
        None,
    ]
    assert find("dog-2", True) == "4"


def test_weights_count_a_family_once_in_a_set() -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"s/{i}", "family": "f", "set": "s", "group": "other", "subgroup": "other"} for i in range(2)
    ]
    splits.assign(rows, [("f", "s")] * 6)
    assert [row["w"] for row in rows] == [0.1667, 0.1667]


def test_twins_are_those_within_six_levels() -> None:
    train = np.full((3, 768), 100, np.uint8)
    held_out = np.stack([np.full(768, 105), np.full(768, 107), np.full(768, 40)]).astype(np.uint8)
    assert splits.twins(held_out, train).tolist() == [True, False, False]
    assert splits.twins(held_out, train[:0]).tolist() == [False] * 3


def test_svg_canvases_are_square_and_centred() -> None:
    icons = {"height": 10, "icons": {"a": {"body": "<g/>", "width": 20}, "b": {"body": "", "left": 3}}}
    assert 'viewBox="0.0 -5.0 20 20"' in sets.svg_of(icons, "a", 64)
    assert 'width="64" height="64"' in sets.svg_of(icons, "a", 64)
    assert 'viewBox="3.0 -3.0 16 16"' in sets.svg_of(icons, "b")


def test_empty_and_broken_drawings_are_left_out() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (32, 32)).save(file, "PNG")
    assert picture(file.getvalue(), 16) is None
    assert picture(b"no picture", 16) is None


def test_packages_are_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path, "@a/b", {"x.json": b"[1]", "dir/y": b"y"})
    assert package.archive == "a-b-1.0.0.tgz"
    cache = PackageCache(tmp_path)
    assert cache.read_json(package, "x.json") == [1]
    assert cache.read(package, lambda path: path.startswith("dir/")) == {"dir/y": b"y"}
    with open(tmp_path / package.archive, "ab") as file:
        file.write(b"altered")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(InvalidRequest, match="npm"):
        PackageCache(tmp_path).read_json(package, "x.json")


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_missing_packages_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path / "registry", "b", {"x.json": b"{}"})
    source = tmp_path / "registry" / package.archive
    count = tmp_path / "count"
    fake_npm(tmp_path / "bin", f'echo "$5" >> {count}; cp {source} "$4/"', monkeypatch)
    for _ in range(2):
        assert PackageCache(tmp_path / "cache").read_json(package, "x.json") == {}
    assert count.read_text() == "b@1.0.0\n"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [package.archive]
    with pytest.raises(DataError, match="SHA-512"):
        PackageCache(tmp_path / "other").read_json(Package("b", "1.0.0", "AAAA"), "x.json")
    assert list((tmp_path / "other").iterdir()) == []


def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", "echo 'npm error offline' >&2; exit 1", monkeypatch)
    with pytest.raises(SfumatoError, match="b@1: npm error offline"):
        PackageCache(tmp_path / "cache").read_json(Package("b", "1", ""), "x")


def webp(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (256, 256), colour).save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three emoji of one set, one of them with a skin tone."""
    folder = tmp_path / "cache"
    data = [
        {"hexcode": "1F431", "emoji": "c", "label": "cat face", "tags": ["pet"], "group": 3, "subgroup": 1},
        {
            "hexcode": "1F44B",
            "emoji": "w",
            "label": "waving hand",
            "group": 1,
            "subgroup": 2,
            "skins": [{"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone"}],
        },
    ]
    groups = {"groups": {"3": "animals-nature", "1": "people-body"}, "subgroups": {"1": "animal-mammal"}}
    base = {"meta/groups.json": groups, "en/data.json": data}
    made = {
        "EMOJIBASE": packed(folder, "base", {k: json.dumps(v).encode() for k, v in base.items()}),
        "EMOJILIB": packed(folder, "lib", {"dist/emoji-en-US.json": json.dumps({"c": ["kitty"]}).encode()}),
        "FLUENT_3D": packed(
            folder,
            "3d",
            {
                "assets/1f431.webp": webp("orange"),
                "assets/1f44b.webp": webp("gold"),
                "assets/1f44b-1f3fb.webp": webp("tan"),
                "assets/ffff.webp": webp("red"),
                "package.json": b"{}",
            },
        ),
    }
    for module in (packages, names, sets):
        for name, package in made.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, package)
    monkeypatch.setattr(building, "need_renderer", lambda: None)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_writes_a_set_that_opens(registry: Path, tmp_path: Path, workers: int) -> None:
    made = building.build(tmp_path / "new" / "out", registry, sets=["fluent-3d"], workers=workers)
    assert (made.pictures, made.left_out, made.reference) == (2, 0, False)
    pictures = open_pictures(tmp_path / "new" / "out")
    assert pictures.sha256() == made.sha256
    cat, wave = sorted(pictures.records, key=lambda r: r.id)
    assert (cat.id, cat.label, cat.captions[3]) == (
        "fluent-3d/1f431",
        "cat face",
        "cat face, pet, kitty, 3d style",
    )
    assert (cat.weight, wave.weight) == (1.0, 0.5)
    first = next(i for i, r in enumerate(pictures.records) if r.id == cat.id)
    assert (pictures.read(first) == (255, 165, 0, 255)).all()
    assert pictures.read(first).shape == (128, 128, 4)


def test_builds_refuse_what_they_cannot_do(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'noto"):
        building.build(tmp_path, registry, sets=["notto"])
    with pytest.raises(InvalidRequest, match="worker"):
        building.build(tmp_path, registry, workers=0)


def test_a_held_out_picture_that_equals_its_own_skin_tone_goes_back_to_train() -> None:
    rows = [
        {"id": f"s/{i}", "family": str(i), "set": "s", "split": "val" if i < 2 else "train"} for i in range(3)
    ]
    shades = {"0": webp("red"), "1": webp("green"), "2": webp("blue"), "tone": webp("green")}
    drawn = {key: picture(data, 16) for key, data in shades.items()}
    entries = [building._Entry(row, found) for row in rows if (found := drawn[row["family"]])]
    toned = [sets.Drawing({"family": "1", "set": "s"}, shades["tone"], toned=True)]
    building._return_twins(entries, toned, lambda sources: (picture(s, 16) for s in sources))
    assert [e.row["split"] for e in entries] == ["val", "train", "train"]
    assert [e.row.get("twin") for e in entries] == [None, True, None]
