"""Hub names in the local cache, whose layout is built here as the hub's own tools build it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import try_to_load_from_cache

from sfumato.errors import MissingExtra, WeightsError
from sfumato.weights.hub import cache_folder, cached, resolve
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
NAME = "some-org/tiny.model-v1-5"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two revisions of one model, whose files are links to blobs."""
    home = tmp_path / "hub"
    model = home / "models--some-org--tiny.model-v1-5"
    for commit, value in ((COMMIT, 1.0), (OTHER, 2.0)):
        blob = model / "blobs" / f"blob{value}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(blob, {"conv.weight": torch.full((2, 2), value)})
        unet = model / "snapshots" / commit / "unet"
        unet.mkdir(parents=True)
        (unet / "diffusion_pytorch_model.safetensors").symlink_to(f"../../../blobs/blob{value}")
        config = model / "blobs" / f"config{value}"
        config.write_text(f'{{"value": {value}}}')
        (unet / "config.json").symlink_to(f"../../../blobs/config{value}")
        (unet.parent / "model_index.json").write_text(
            '{"_class_name": "Pipe", "unet": ["diffusers", "UNet"]}'
        )
    for ref, commit in (("main", COMMIT), ("fp16", OTHER), ("refs/pr/3", OTHER), ("broken", "nothing")):
        (model / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (model / "refs" / ref).write_text(commit)
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return home


@pytest.mark.parametrize(
    ("name", "value"),
    [(NAME, 1.0), (f"{NAME}@fp16", 2.0), (f"{NAME}@refs/pr/3", 2.0), (f"{NAME}@{OTHER}", 2.0)],
)
def test_a_name_opens_the_cached_snapshot(cache: Path, name: str, value: float) -> None:
    source = open_source(resolve(name))
    assert source.read("unet.conv.weight").tolist() == [[value] * 2] * 2
    assert source.part("unet").config == {"value": value}


def test_the_hub_s_own_tool_finds_the_same_file(cache: Path) -> None:
    file = "unet/diffusion_pytorch_model.safetensors"
    theirs = try_to_load_from_cache(NAME, file, cache_dir=cache, revision="fp16")
    assert theirs == str(resolve(f"{NAME}@fp16") / file)


def test_an_existing_path_wins(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-org").mkdir()
    (tmp_path / NAME).mkdir()
    assert resolve(NAME) == Path(NAME)


@pytest.mark.parametrize("name", ["other/model", f"{NAME}@nowhere", f"{NAME}@broken", f"{NAME}@{'0' * 40}"])
def test_what_is_not_cached_says_where_was_looked_and_what_would_fetch_it(cache: Path, name: str) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(name)
    assert str(cache) in str(caught.value)
    assert "--download" in str(caught.value)
    assert "sfumato[hub]" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "a/b/c",
        "../x/y",
        "org/..",
        f"{NAME}@../../x",
        "org/na me",
        "/no/such",
        "",
        "a\0/b",
        "x" * 5000,
    ],
)
def test_what_is_neither_path_nor_name_is_refused(cache: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"there are no weights at|cannot look at|not there"):
        open_source(resolve(name))


def test_the_cache_lies_where_its_variables_say(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "/b")
    assert cache_folder() == Path("/b")
    monkeypatch.setenv("HF_HUB_CACHE", "/a")
    assert cache_folder() == Path("/a")
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable)
    assert cache_folder() == Path(os.path.expanduser("~/.cache/huggingface/hub"))
    assert cached("x/y") is None


def test_downloading_without_the_extra_names_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"sfumato\[hub\]"):
        resolve("other/model", download=True)


def test_downloading_offline_is_an_error_of_ours(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **options: object) -> str:
        assert args == ("other/model",)
        assert options["revision"] == "main"
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(WeightsError, match=r"cannot download other/model at 'main': no route$"):
        resolve("other/model", download=True)
