"""Split files and packed files through ``load`` and the command line: the same pictures, and what is said of faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.split import loose
from sfumato.nn.quantized import QuantizedLinear
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.peers.pipelines import PIPELINES, Peer, peer
from tests.peers.single_files import places, tensors
from tests.weights import ggufs

FILES = {"denoiser": "flux1-dev", "vae": "ae", "text": "clip_l", "text_3": "t5xxl_fp16"}
ASK: dict[str, Any] = {"prompt": "a red cat", "steps": 1, "seed": 5, "size": "64x64"}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A tiny FLUX.1 of diffusers."""
    return peer(PIPELINES["flux"], tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def split(flux: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its networks as files of their own, with the names that they go by, and T5's vocabulary."""
    folder = tmp_path_factory.mktemp("split")
    for place, part in places(flux.folder).items():
        layout = "diffusers" if place.startswith("text") else "original"
        save_tensors(
            folder / f"{FILES[place]}.safetensors", tensors(part, "", layout, folder / "scratch.safetensors")
        )
    (folder / "scratch.safetensors").unlink()
    for words in (flux.folder / "tokenizer_2").iterdir():
        shutil.copy(words, folder)
    return folder


@pytest.fixture
def files(split: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return shutil.copytree(split, tmp_path / "files")


def pixels(model: Any) -> np.ndarray:
    """The picture of ``ASK``."""
    made: np.ndarray = model(**ASK).images[0].pixels
    return made


def test_split_files_and_a_folder_of_them_make_the_folders_picture(flux: Peer, split: Path) -> None:
    whole = sfumato.load(str(flux.folder), dtype="float32")
    parts = [split / f"{FILES[place]}.safetensors" for place in ("text_3", "vae", "text")]
    apart = sfumato.load(str(split / "flux1-dev.safetensors"), parts=parts, tokens=split, dtype="float32")
    loose = sfumato.load(str(split), dtype="float32")
    np.testing.assert_array_equal(pixels(apart), pixels(whole))
    np.testing.assert_array_equal(pixels(loose), pixels(whole))
    assert apart.model.hash == loose.model.hash


def test_the_command_line_takes_parts_and_follows_recipes(split: Path, tmp_path: Path) -> None:
    told = ["--model", str(split / "flux1-dev.safetensors"), "--tokens", str(split), "--dtype", "float32"]
    for place in ("text_3", "vae", "text"):
        told += ["--part", str(split / f"{FILES[place]}.safetensors")]
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    asked = ["--steps", "1", "--seed", "5", "--size", "64x64", "-o", str(first)]
    assert main(["generate", "a red cat", *asked, *told]) == 0
    assert main(["generate", "--like", str(first), "-o", str(again), *told]) == 0
    assert first.read_bytes() == again.read_bytes()


def test_what_is_missing_twice_or_of_another_model_is_named(split: Path, files: Path, tmp_path: Path) -> None:
    def refused(match: str, name: Path, *parts: Path) -> None:
        with pytest.raises(WeightsError, match=match):
            sfumato.load(str(name), parts=parts, tokens=split)

    net, clip, t5, vae = (split / f"{FILES[p]}.safetensors" for p in ("denoiser", "text", "text_3", "vae"))
    refused(r"lacks vae \(the autoencoder\), text \(the smaller CLIP encoder\), text_3 .*--part", net)
    refused(r"lacks text_3 \(the T5 encoder\)", net, clip, vae)
    refused(
        "clip_l.safetensors holds a CLIP encoder of width 64, as .*clip_l.* does", net, clip, t5, vae, clip
    )
    refused("none of the files holds a denoiser.*ae.safetensors: vae", vae, clip)
    refused("holds the denoiser, which .* holds too", net, net)
    shutil.copy(files / "t5xxl_fp16.safetensors", files / "t5xxl_fp8.safetensors")
    refused("t5xxl_fp8.safetensors holds the T5 encoder, which .*t5xxl_fp16.safetensors holds too", files)
    narrow = load_file(t5)
    save_file(
        {k: v[..., :16].contiguous() if v.ndim else v for k, v in narrow.items()},
        tmp_path / "narrow.safetensors",
    )
    refused("they belong to another model|have other shapes", net, clip, tmp_path / "narrow.safetensors", vae)
    with pytest.raises(WeightsError, match="T5's vocabulary is not in"):
        sfumato.load(str(net), parts=[clip, t5, vae])
    with pytest.raises(InvalidRequest, match="parts is for checkpoints"):
        sfumato.load("emoji", parts=[clip])


@pytest.mark.parametrize(
    ("names", "each"),
    [
        (("ae.safetensors", "clip_l.safetensors"), True),
        (("flux1-dev-Q8_0.gguf",), True),
        (("flux1-dev-Q8_0.gguf", "model.safetensors"), True),
        (("one.safetensors",), False),
        (("model.safetensors", "model.fp16.safetensors", "config.json"), False),
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), False),
        (("ae.safetensors", "clip_l.safetensors", "model_index.json"), False),
        (("pytorch_model.bin", "other.bin"), False),
        ((), False),
    ],
)
def test_which_folders_are_of_loose_files(tmp_path: Path, names: tuple[str, ...], each: bool) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in loose(tmp_path)] == (sorted(names) if each else [])


def packed_files(files: Path) -> None:
    """The transformer as GGUF (Q8_0), and T5 as 8-bit floats with scales, in the place of the plain ones."""
    net = files / "flux1-dev.safetensors"
    state = {name: value.numpy() for name, value in load_file(net).items()}
    kinds = {name: "Q8_0" if v.ndim == 2 and v.shape[1] % 32 == 0 else "F32" for name, v in state.items()}
    ggufs.write(files / "flux1-dev-Q8_0.gguf", state, kinds)
    net.unlink()
    t5 = files / "t5xxl_fp16.safetensors"
    eight: dict[str, torch.Tensor] = {}
    for name, value in load_file(t5).items():
        eight[name] = value
        if value.ndim == 2 and "relative_attention_bias" not in name:
            scale = value.abs().max() / 448
            eight[name] = (value / scale).to(torch.float8_e4m3fn)
            eight[name.removesuffix("weight") + "scale_weight"] = scale
    save_file(eight, files / "t5xxl_fp8_scaled.safetensors")
    t5.unlink()


def test_packed_weights_stay_packed_and_make_the_same_picture(files: Path) -> None:
    packed_files(files)
    plain = sfumato.load(str(files), dtype="float32")
    packed = sfumato.load(str(files), dtype="float32", packed=True)
    kept = [m for m in packed.model.denoiser.network.modules() if isinstance(m, QuantizedLinear)]
    assert len(kept) > 10
    assert not any(isinstance(m, QuantizedLinear) for m in plain.model.denoiser.network.modules())
    np.testing.assert_array_equal(pixels(packed), pixels(plain))
    notes = plain(**ASK).notes
    assert any("the denoiser is stored as Q8_0 and was unpacked" in note for note in notes)
    assert any("the T5 encoder is stored as F8_E4M3 and was unpacked" in note for note in notes)
    assert not any("unpacked" in note for note in packed(**ASK).notes)


def test_inspect_names_packed_weights_and_convert_unpacks_them(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed_files(files)
    for file, kind in (("flux1-dev-Q8_0.gguf", "Q8_0"), ("t5xxl_fp8_scaled.safetensors", "F8_E4M3")):
        assert main(["inspect", str(files / file)]) == 0
        assert f"packed    {kind};" in capsys.readouterr().out
        assert main(["inspect", str(files / file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["packed"] == [kind]
    out = tmp_path / "unpacked"
    assert main(["convert", str(files / "flux1-dev-Q8_0.gguf"), str(out), "--to", "diffusers"]) == 0
    assert "written as bfloat16" in capsys.readouterr().err
    state = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    with open_source(files / "flux1-dev-Q8_0.gguf") as source:
        wanted = source.read("img_in.weight", torch.bfloat16)
    assert torch.equal(state["x_embedder.weight"], wanted)
