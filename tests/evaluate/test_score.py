"""Scoring a folder against a tiny corpus made on the spot."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli.main import main
from sfumato.data.pictures import PictureSet, open_pictures
from sfumato.errors import DataError, InvalidRequest, UnknownName
from sfumato.evaluate.features import features, on_white
from sfumato.evaluate.score import distances, picture_files, score
from sfumato.nn.efficientnet import EfficientNetLite0, efficientnet_lite0


@pytest.fixture(scope="module")
def model() -> EfficientNetLite0:
    torch.manual_seed(0)
    return efficientnet_lite0().eval()


def picture(seed: int) -> Image.Image:
    """Noise with transparent holes, and rubbish under the holes."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    array[..., 3] = np.where(array[..., 3] > 100, 255, 0)
    return Image.fromarray(array, "RGBA")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    """Twelve pictures of train and five of test_style, as in the real corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    records = []
    with tarfile.open(folder / "c.tar", "w") as tar:
        for i in range(17):
            data = io.BytesIO()
            picture(i).save(data, "webp", lossless=True, exact=True)
            info = tarfile.TarInfo(f"{i}.webp")
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
            split = "train" if i < 12 else "test_style"
            records.append({"id": str(i), "label": "noise", "split": split, "file": info.name})
    (folder / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return open_pictures(folder)


def test_the_split_against_itself_is_zero(
    corpus: PictureSet, model: EfficientNetLite0, tmp_path: Path
) -> None:
    """The same five pictures in a folder, already on white: FD 0, and the KID of equal sets."""
    for i in range(12, 17):
        on_white(picture(i)).save(tmp_path / f"{i}.png")
    got = score(picture_files(tmp_path), corpus, "test_style", model=model)
    x = features([picture(i) for i in range(12, 17)], model)
    assert got.pictures.fd.n == got.pictures.kid.n == got.floor.fd.n == got.floor.kid.n == (5, 5)
    assert got.pictures.fd.value == pytest.approx(0, abs=1e-6 * x.var(0).sum().item())
    assert got.pictures.kid.value == pytest.approx(distances(x, x).kid.value, rel=1e-4)


def test_floor_is_of_two_disjoint_sets(corpus: PictureSet, model: EfficientNetLite0) -> None:
    """Without pictures, train's twelve make three sets of four: scored, and the two of the floor."""
    got = score(None, corpus, "test_style", model=model, seed=3)
    assert got.floor.fd.n == got.pictures.fd.n == (4, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    x = features([picture(i) for i in order], model)
    assert got.floor.fd.value == pytest.approx(distances(x[:4], x[4:8]).fd.value, rel=1e-4)
    assert got.floor.kid.value == pytest.approx(distances(x[:4], x[4:8]).kid.value, rel=1e-3)


def test_n_is_that_of_the_smallest_side_and_is_printed(
    corpus: PictureSet, model: EfficientNetLite0, tmp_path: Path
) -> None:
    for i in range(4):
        picture(i + 50).save(tmp_path / f"{i}.png")
    got = score(picture_files(tmp_path), corpus, "test_style", model=model)
    assert str(got).count("(n = 4, 4)") == 4
    assert str(got).startswith("pictures to test_style: KID ")


def test_what_cannot_be_scored_is_refused(
    corpus: PictureSet, model: EfficientNetLite0, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no pictures"):
        picture_files(tmp_path)
    with pytest.raises(DataError, match="cannot read the folder"):
        picture_files(tmp_path / "absent")
    picture(0).save(tmp_path / "0.png")
    with pytest.raises(InvalidRequest, match="one has 1"):
        score(picture_files(tmp_path), corpus, "test_style", model=model)
    with pytest.raises(UnknownName, match="did you mean 'test_style'"):
        score(picture_files(tmp_path), corpus, "test_styl", model=model)
    for i in range(1, 4):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture"):
        score(picture_files(tmp_path), corpus, "test_style", model=model)


def test_command_line(
    corpus: PictureSet,
    model: EfficientNetLite0,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sfumato.evaluate.features.load_lite0", lambda: model)
    for i in range(4):
        picture(i + 50).save(tmp_path / f"{i}.png")
    command = ["evaluate", "score", "--corpus", str(corpus.path), "--pictures", str(tmp_path)]
    want = score(picture_files(tmp_path), corpus, "test_style", model=model)
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[:2] == str(want).splitlines()[:2]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"]["fd"]["value"] == pytest.approx(
        want.pictures.fd.value
    )
    assert main([*command, "--split", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown split 'nonsense'")
