"""Adapters merged into a checkpoint's files: bit-equal to the model with them merged at run time; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sfumato
from sfumato.adapters import Network, save_adapter, trained
from sfumato.adapters.formula import Difference, Formula, Lora
from sfumato.adapters.found import digest, use
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.split import opened
from sfumato.loaded import Loaded
from sfumato.merging import MARK, merge
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.peers.pipelines import PIPELINES, peer
from tests.peers.single_files import single_file
from tests.weights import ggufs

CASES = {"sdxl": "diffusers", "sd3": "kohya", "sd2 v": "kohya"}


class Made:
    """A tiny checkpoint as folder and as single file, and two adapters of its networks."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self.folder = peer(PIPELINES[name], place / "folder").folder
        self.file = single_file(name, self.folder, place / "one.safetensors")
        words = {"sd3": "tokenizer_3", "flux": "tokenizer_2"}
        self.words = self.folder / words[name] if name in words else None
        plain = sfumato.load(str(self.folder), dtype="float32")
        assert plain.model.seams is not None
        places = {where: Network(*pair) for where, pair in plain.model.seams.networks().items()}
        self.adapters = [place / "ink.safetensors", place / "toy.safetensors"]
        for seed, path in enumerate(self.adapters):
            draws = torch.Generator().manual_seed(seed)
            own = {where: drawn(network, draws, seed) for where, network in places.items()}
            save_adapter(path, trained(own), places, CASES.get(name, "kohya"))
        self.asked = [f"{path}:{strength}" for path, strength in zip(self.adapters, (0.8, -0.5), strict=True)]

    def load(self, path: Path, dtype: str = "float32", **more: Any) -> Loaded:
        """The model at ``path``, which may lack T5's vocabulary."""
        tokens = self.words if self.words is not None and path.is_file() else None
        return sfumato.load(str(path), dtype=dtype, tokens=tokens, **more)


def drawn(network: Network, draws: torch.Generator, seed: int) -> dict[str, Formula]:
    """Low-rank updates of some layers, others for each seed, and a difference."""
    own: dict[str, Formula] = {}
    linear = [(name, m) for name, m in network.layers.items() if isinstance(m, nn.Linear)]
    for number, (name, module) in enumerate(linear):
        if number % 3 != seed and name not in ("text", "enter"):
            down = torch.randn(4, module.in_features, generator=draws) * module.in_features**-0.5
            own[name] = Lora(down, torch.randn(module.out_features, 4, generator=draws) * 0.1)
    return own


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A case by its name."""
    return Made(request.param, tmp_path_factory.mktemp("merging"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Stable Diffusion 1."""
    return Made("sd1", tmp_path_factory.mktemp("sd1"))


def weights(model: Loaded) -> dict[str, Tensor]:
    """All weights by place and name."""
    seams = model.model.seams
    assert seams is not None
    return {
        f"{place}.{name}": p
        for place, (net, _) in seams.networks().items()
        for name, p in net.named_parameters()
    }


def equal(one: Loaded, other: Loaded) -> int:
    """How many weights there are, all bit-equal."""
    left, right = weights(one), weights(other)
    assert (
        left.keys() >= right.keys()
    )  # the original layout of Stable Diffusion 2 has a block that nothing reads
    assert [
        name for name, value in left.items() if name in right and not torch.equal(value, right[name])
    ] == []
    return len(left)


def test_what_is_merged_into_files_is_what_is_merged_into_a_loaded_model(made: Made, tmp_path: Path) -> None:
    wanted = made.load(made.folder, adapters=made.asked, merged=True)
    bare = weights(made.load(made.folder))
    touched = [name for name, value in weights(wanted).items() if not torch.equal(value, bare[name])]
    assert {name.split(".")[0] for name in touched} == {name.split(".")[0] for name in bare}
    for source, layout, name in (
        (made.folder, "original", "one.safetensors"),
        (made.file, "diffusers", "folder"),
    ):
        target = tmp_path / name
        told = ["convert", str(source), str(target), "--to", layout]
        assert main([*told, *(word for one in made.asked for word in ("--adapter", one))]) == 0
        if layout == "diffusers" and made.words is not None:
            shutil.copytree(made.words, target / made.words.name)
        assert equal(made.load(target), wanted) > 20
        with open_source(target) as after:
            marks = [part.metadata.get(MARK) for part in (after, *after.parts.values())]
        assert json.loads(next(mark for mark in marks if mark)) == [
            {"file": path.name, "sha256": digest(path), "strength": strength}
            for path, strength in zip(made.adapters, (0.8, -0.5), strict=True)
        ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_of_files_in_half_precision_the_sum_is_rounded_once(sd1: Made, tmp_path: Path, dtype: str) -> None:
    half, merged = tmp_path / "half.safetensors", tmp_path / "merged.safetensors"
    assert main(["convert", str(sd1.file), str(half), "--to", "original", "--dtype", dtype]) == 0
    assert main(["convert", str(half), str(merged), "--to", "original", "--adapter", sd1.asked[0]]) == 0
    if dtype == "bfloat16":  # a CPU computes float16 in another dtype
        equal(sd1.load(merged, dtype), sd1.load(half, dtype, adapters=sd1.asked[:1], merged=True))
    exact = weights(sd1.load(half, "float32", adapters=sd1.asked[:1], merged=True))
    for name, value in weights(sd1.load(merged, "float32")).items():
        assert torch.equal(value, exact[name].to(getattr(torch, dtype)).float()), name
    # from float32 to bfloat16: the sum of what the file has, rounded once, where a model rounds the weights first too
    assert (
        main(
            [
                "convert",
                str(sd1.file),
                str(tmp_path / "b.safetensors"),
                "--to",
                "original",
                "--dtype",
                dtype,
                "--adapter",
                sd1.asked[0],
            ]
        )
        == 0
    )
    exact = weights(sd1.load(sd1.file, "float32", adapters=sd1.asked[:1], merged=True))
    for name, value in weights(sd1.load(tmp_path / "b.safetensors", "float32")).items():
        assert torch.equal(value, exact[name].to(getattr(torch, dtype)).float()), name


def test_quantized_weights_are_unpacked_and_a_lone_denoiser_is_merged(tmp_path: Path) -> None:
    flux = Made("flux", tmp_path / "flux")
    alone = tmp_path / "flux1.safetensors"
    begin = "model.diffusion_model."
    tensors = {n.removeprefix(begin): v for n, v in load_file(flux.file).items() if n.startswith(begin)}
    save_tensors(alone, tensors)
    packed = tmp_path / "flux1-Q8_0.gguf"
    kinds = {n: "Q8_0" if v.ndim == 2 and v.shape[-1] % 32 == 0 else "F32" for n, v in tensors.items()}
    assert "Q8_0" in kinds.values()
    ggufs.write(packed, {name: value.numpy() for name, value in tensors.items()}, kinds)
    ink = only(flux.adapters[0], "lora_unet_", tmp_path / "unet.safetensors")
    for source, dtype in ((alone, "float32"), (packed, "float32"), (packed, None)):
        target = tmp_path / f"{source.stem}-{dtype}.safetensors"
        with open_source(source) as opened_source:
            kind = None if dtype is None else torch.float32
            done = merge(opened_source, target, "original", [use(f"{ink}:0.8")], dtype=kind)
        assert any("merged unet into" in note for note in done.notes)
        with open_source(target) as after, open_source(source) as before:
            made = {name: after.read(name, torch.float32) for name in after.entries}
            old = {name: before.read(name, torch.float32) for name in before.entries}
        wanted = merged_by_hand(old, load_file(ink), 0.8)
        for name, value in made.items():
            if dtype == "float32":
                torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-6)
            else:
                assert torch.equal(value, value.bfloat16().float()), name
                torch.testing.assert_close(value, wanted[name], rtol=2**-8, atol=1e-6)
    with (
        pytest.raises(WeightsError, match=r"find no place in this model \(denoiser\).*the model has no text"),
        open_source(alone) as one,
    ):
        merge(one, tmp_path / "no.safetensors", "original", [use(str(flux.adapters[0]))])
    assert not (tmp_path / "no.safetensors").exists()


def only(path: Path, begin: str, target: Path) -> Path:
    """The tensors of an adapter whose names begin so."""
    save_file({name: value for name, value in load_file(path).items() if name.startswith(begin)}, target)
    return target


def merged_by_hand(
    weights: dict[str, Tensor], adapter: dict[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """``W + s alpha / rank up down`` by kohya's names, in float64."""
    found = dict(weights)
    for name in weights:
        layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{layer}.lora_up.weight" in adapter and name.endswith(".weight"):
            up, down = (adapter[f"{layer}.lora_{side}.weight"].double() for side in ("up", "down"))
            scale = float(adapter.get(f"{layer}.alpha", torch.tensor(len(down)))) / len(down)
            found[name] = (weights[name].double() + strength * scale * (up @ down)).float()
    return found


def test_merging_twice_is_told_twice_and_a_difference_of_a_bias_too(sd1: Made, tmp_path: Path) -> None:
    seams = sd1.load(sd1.folder).model.seams
    assert seams is not None
    places = {where: Network(*pair) for where, pair in seams.networks().items()}
    name, module = next((n, m) for n, m in places["denoiser"].layers.items() if isinstance(m, nn.Conv2d))
    assert module.bias is not None
    diff = tmp_path / "diff.safetensors"
    own: dict[str, dict[str, Formula]] = {
        "denoiser": {name: Difference(torch.full_like(module.weight, 0.25))}
    }
    save_adapter(diff, trained(own), places, "kohya")
    once, twice = tmp_path / "once", tmp_path / "twice.safetensors"
    for source, target, layout in ((sd1.file, once, "diffusers"), (once, twice, "original")):
        with open_source(source) as one:
            merge(one, target, layout, [use(f"{diff}:0.5")])
    with open_source(twice) as one:
        assert [fact["strength"] for fact in json.loads(one.metadata[MARK])] == [0.5, 0.5]
    before, after = weights(sd1.load(sd1.file)), weights(sd1.load(twice))
    wanted = before[f"denoiser.{name}.weight"] + 0.125 + 0.125
    assert torch.equal(after[f"denoiser.{name}.weight"], wanted)
    assert [n for n in before if not torch.equal(before[n], after[n])] == [f"denoiser.{name}.weight"]


def test_a_key_without_a_place_stops_all_and_partial_tells_it(
    sd1: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd.safetensors"
    more = {
        "lora_unet_nowhere.lora_up.weight": torch.ones(4, 2),
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4),
    }
    save_file({**load_file(sd1.adapters[0]), **more}, odd)
    target = tmp_path / "made.safetensors"
    told = ["convert", str(sd1.file), str(target), "--to", "original", "--adapter", str(odd)]
    assert main(told) == 5
    assert "1 of " in (said := capsys.readouterr().err)
    assert "--partial (partial=True) leaves them out: lora_unet_nowhere (no such layer)" in said
    assert not target.exists()
    assert main([*told, "--partial"]) == 0
    assert "odd.safetensors has layers without a place" in capsys.readouterr().err
    equal(sd1.load(target), sd1.load(sd1.file, adapters=[str(sd1.adapters[0])], merged=True))


def test_what_cannot_be_merged_is_one_sentence_and_no_file(
    sd1: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {name: torch.full_like(value, float("nan")) for name, value in load_file(sd1.adapters[0]).items()}
    save_file(bad, tmp_path / "nan.safetensors")
    wide = {name: value * (1e30 if value.ndim else 1) for name, value in load_file(sd1.adapters[0]).items()}
    save_file(wide, tmp_path / "wide.safetensors")
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(48, 2)}
    flux |= {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 16)}
    save_file(flux, tmp_path / "flux.safetensors")
    (tmp_path / "huge.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    left = sorted(tmp_path.iterdir())
    for adapter, code, said in (
        (f"{tmp_path / 'nan.safetensors'}", 5, "NaN"),
        (f"{tmp_path / 'wide.safetensors'}", 5, "lower the strength"),
        (f"{tmp_path / 'flux.safetensors'}", 5, "is made for another family: of its 1 layers none"),
        (f"{tmp_path / 'huge.safetensors'}", 5, "damaged"),
        (f"{tmp_path / 'none.safetensors'}", 2, "does not exist"),
        (f"{sd1.adapters[0]}:hi=0.5", 2, "act at every level"),
    ):
        target = tmp_path / "made.safetensors"
        assert main(["convert", str(sd1.file), str(target), "--to", "original", "--adapter", adapter]) == code
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1, err
    assert sorted(tmp_path.iterdir()) == left
    assert main(["convert", str(sd1.file), str(tmp_path / "x"), "--to", "diffusers", "--partial"]) == 2
    with pytest.raises(InvalidRequest, match="no adapter to merge"), opened(sd1.file) as checkpoint:
        merge(checkpoint.source, tmp_path / "x", "diffusers", [])
