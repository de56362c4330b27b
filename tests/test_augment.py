"""Synthetic sets on the closed form: labels, parents and recipes kept; gone on with where it was left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.augment import Plan, augment
from sfumato.cli.main import main
from sfumato.data.pictures import open_pictures
from sfumato.errors import DataError, InvalidRequest, OutputError
from sfumato.loaded import Loaded
from sfumato.picture.png import read_recipe
from sfumato.tasks.table import request
from tests.tasks.toys import picture, toy

OPTIONS = {"strength": 0.5, "steps": 4}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for place, name in enumerate(("cats/one", "cats/two", "dogs/one")):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=place)).save(file)
        file.with_suffix(".txt").write_text(f"{('left', 'right')[place % 2]}\nanother caption\n")
    return folder


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(toy(), torch.float64)


def test_labels_and_parents_are_kept_and_each_picture_is_that_of_its_recipe(
    photos: Path, loaded: Loaded, tmp_path: Path
) -> None:
    out, seen = tmp_path / "more", []
    plan = Plan(times=2, seed=5, originals=True, options=OPTIONS)
    told = augment(photos, out, loaded, plan, listen=lambda done, of: seen.append((done, of)))
    assert (told["pictures"], told["made"], told["kept"], told["lines"]) == (3, 6, 0, 9)
    assert seen == [(2, 6), (4, 6), (6, 6)]
    rows = {
        row["file_name"]: row for row in map(json.loads, (out / "metadata.jsonl").read_text().splitlines())
    }
    made, given = open_pictures(out), open_pictures(photos)
    assert len(made) == 9
    for index, record in enumerate(given.records):
        stem = record.id.removesuffix(".png")
        original = made.read([r.id for r in made.records].index(f"{stem}.png"))
        assert np.array_equal(original[..., :3], given.read(index)[..., :3])
        for k in (1, 2):
            name = f"{stem}-a{k}.png"
            new = made.records[[r.id for r in made.records].index(name)]
            assert (new.label, new.captions) == (record.label, record.captions)
            assert (rows[name]["parent"], rows[name]["synthetic"]) == (record.id, True)
            recipe = read_recipe(out / name)
            assert recipe.arguments["parents"] == {"image": rows[name]["parent_sha256"]}
            assert recipe.arguments["seed"] == 5 + 2 * index + k - 1
            alone = request(
                "image2image",
                image=given.read(index)[..., :3],
                prompt=record.captions[0],
                seed=recipe.arguments["seed"],
                **OPTIONS,
            )[0]
            (again,) = loaded.run(alone, rows=4).images
            assert np.array_equal(np.asarray(Image.open(out / name)), again.pixels)


def test_a_set_is_gone_on_with_and_ends_as_if_never_stopped(
    photos: Path, loaded: Loaded, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plan = Plan(times=2, options=OPTIONS)
    augment(photos, whole, loaded, plan)

    def stop(done: int, of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment(photos, broken, loaded, plan, listen=stop)
    (broken / "cats" / "one-a2.png").unlink()
    with pytest.raises(OutputError, match="resume"):
        augment(photos, broken, loaded, plan)
    told = augment(photos, broken, loaded, plan, resume=True)
    assert (told["made"], told["kept"]) == (3, 3)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(broken) for p in broken.rglob("*") if p.is_file())
    assert all((whole / f).read_bytes() == (broken / f).read_bytes() for f in files)


def test_another_plan_does_not_go_on(photos: Path, loaded: Loaded, tmp_path: Path) -> None:
    augment(photos, tmp_path / "more", loaded, Plan(times=1, options=OPTIONS))
    for plan in (
        Plan(times=1, options={**OPTIONS, "strength": 0.75}),
        Plan(times=1, prompt="right", options=OPTIONS),
        Plan(times=1, seed=1, options=OPTIONS),
    ):
        with pytest.raises(InvalidRequest, match="another plan"):
            augment(photos, tmp_path / "more", loaded, plan, resume=True)


def test_a_template_and_a_limit(photos: Path, loaded: Loaded, tmp_path: Path) -> None:
    plan = Plan(times=1, prompt="{label}", limit=2, options=OPTIONS)
    assert augment(photos, tmp_path / "more", loaded, plan)["pictures"] == 2
    told = [read_recipe(p).arguments["prompt"] for p in sorted((tmp_path / "more").rglob("*.png"))]
    assert told == ["left", "right"]


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(times=0, options={}), "times = 0"),
        (Plan(prompt="{colour}", options={}), "template"),
        (Plan(prompt="{label", options={}), "template"),
        (Plan(prompt="{label.upper}", options={}), "template"),
        (Plan(prompt="{label[0]}", options={}), "template"),
        (Plan(prompt="{label:999999999}", options={}), "template"),
        (Plan(limit=0, options={}), "limit = 0"),
        (Plan(limit=-1, options={}), "limit = -1"),
        (Plan(split="test", options={}), "there are train"),
        (Plan(options={"strenght": 1}), "did you mean 'strength'"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(
    plan: Plan, told: str, photos: Path, loaded: Loaded, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        augment(photos, tmp_path / "more", loaded, plan)
    assert not (tmp_path / "more").exists()


def test_noise_of_one_seed_for_all_is_gone_on_with_too(photos: Path, loaded: Loaded, tmp_path: Path) -> None:
    plan = Plan(times=2, seed=3, options={**OPTIONS, "noise": "torch"})
    augment(photos, tmp_path / "more", loaded, plan)
    assert augment(photos, tmp_path / "more", loaded, plan, resume=True)["kept"] == 6


def test_no_file_is_written_twice(tmp_path: Path, loaded: Loaded) -> None:
    """Pictures whose names are those of new ones, or differ in their endings alone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, name in enumerate(("one.png", "one.bmp", "one-a1.png", "one-1.png", "one-a1-a1.png")):
        Image.fromarray(picture(seed=place)).save(folder / name)
    told = augment(
        folder, tmp_path / "more", loaded, Plan(times=2, prompt="left", originals=True, options=OPTIONS)
    )
    assert (told["made"], told["lines"]) == (10, 15)
    assert len(list((tmp_path / "more").glob("*.png"))) == 15


def test_a_set_is_not_written_into_itself(photos: Path, loaded: Loaded) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    for out in (photos, photos / "cats", photos / "more"):
        with pytest.raises(OutputError, match="lies in the set"):
            augment(photos, out, loaded, Plan(options=OPTIONS), resume=True)
    assert before == {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}


def test_names_that_lead_out_are_refused(photos: Path, loaded: Loaded, tmp_path: Path) -> None:
    lines = photos / "metadata.jsonl"
    lines.write_text(json.dumps({"file_name": "cats/one.png", "id": "../../out.png", "text": "left"}) + "\n")
    with pytest.raises(DataError, match="leads out"):
        augment(photos, tmp_path / "more", loaded, Plan(options=OPTIONS))


def test_the_command_reads_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(64, 64)).save(folder / "a-cat.png")
    asked = ["augment", str(folder), "-o", str(tmp_path / "more"), "--times", "2", "--steps", "2", "--json"]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 2
    assert [r.captions for r in open_pictures(tmp_path / "more").records] == [("a cat",)] * 2
    assert main([*asked, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    assert main(asked) == 7
