"""What a checkpoint is said to be: as the loader finds it, without torch, whatever the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import NEEDS, TITLES, inspect, needed
from sfumato.families.marks import deviation
from sfumato.families.published import FAMILIES, family_of
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.families.originals import CONFIGS, write_original


@pytest.mark.parametrize("name", CONFIGS)
def test_both_layouts_are_told_as_the_loader_finds_them(name: str, tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "one.safetensors", name)
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
    for path in (tmp_path / "one.safetensors", tmp_path / "folder"):
        with open_source(path) as source:
            report = inspect(source)
            checkpoint = open_checkpoint(source)
        assert report.family == family_of(checkpoint).name == CONFIGS[name][0].removesuffix("-refiner")
        if family_of(checkpoint).variant:
            assert report.variant
            assert report.variant.startswith(family_of(checkpoint).variant)
        assert not report.missing
        assert {one.place for one in report.components} == set(checkpoint.parts) == set(CONFIGS[name][1])
        for one in report.components:
            part = checkpoint.parts[one.place]
            assert (one.kind, one.layout) == (part.kind, part.layout)
            assert one.parameters == sum(
                torch.Size(entry.shape).numel() for entry in part.source.entries.values()
            )
            assert one.bytes == 4 * one.parameters or "I64" in one.dtypes
    with open_source(tmp_path / "one.safetensors") as source:
        report = inspect(source)
    held = sum(one.tensors for one in report.components) + report.others
    assert held == len(tensors)
    assert report.other_names == ("betas",)
    assert report.licence == "openrail++"


def test_the_tables_of_families_agree() -> None:
    assert set(TITLES) == set(NEEDS) == {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert needed(family.name, family.variant) == family.needs


VARIANTS = {
    "sdxl-refiner": "refiner",
    "sd1": "base",
    "sd1-inpaint": "inpainting",
    "sd3": "3 medium",
    "sd3.5": "3.5 medium",
    "flux": "dev or Kontext",
    "flux-schnell": "schnell",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", name)
    with open_source(tmp_path / "one.safetensors") as source:
        assert inspect(source).variant == VARIANTS[name]


def test_what_is_predicted_and_why(tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "one.safetensors", "sdxl")
    path = tmp_path / "marked.safetensors"
    for marks, wanted in [
        ((), ("eps", "the family's")),
        (("v_pred",), ("v", "marker v_pred")),
        (("v_pred", "ztsnr"), ("v", "marker v_pred and ztsnr: the noisiest level is pure noise")),
        (
            ("edm_mean", "edm_std"),
            ("edm", "markers edm_mean and edm_std: preconditioned as Karras et al. 2022 do"),
        ),
    ]:
        save_tensors(path, {**tensors, **{name: torch.zeros(1) for name in marks}})
        with open_source(path) as source:
            report = inspect(source)
            assert (report.prediction, report.why) == wanted
            convert(source, tmp_path / f"folder{len(marks)}{wanted[0]}", "diffusers")
    told = json.loads((tmp_path / "folder2v" / "scheduler" / "scheduler_config.json").read_text())
    assert told["prediction_type"] == "v_prediction"
    assert told["rescale_betas_zero_snr"]
    with open_source(tmp_path / "folder1v") as folder:
        assert inspect(folder).why == "scheduler_config.json"
        done = convert(folder, tmp_path / "back.safetensors", "original")
    with open_source(done.path) as source:
        assert inspect(source).prediction == "v"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_bias_that_tells_sd2_is_measured_without_torch(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(320, generator=torch.Generator().manual_seed(1)).mul(0.1).to(dtype)
    save_tensors(tmp_path / "one.safetensors", {"other": torch.ones(3), "bias": values})
    with open_source(tmp_path / "one.safetensors") as source:
        assert deviation(source, "bias") == pytest.approx(float(values.double().std()), rel=1e-9)


def test_networks_alone_and_hashes(tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", "sd3")
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
        report = inspect(source, hashes=True)
    (file,) = report.files
    assert file.name == "one.safetensors"
    assert file.sha256 == source.hash()
    assert file.bytes == (tmp_path / "one.safetensors").stat().st_size
    for name, title in {
        "vae": "autoencoder, 16 channels at 1/2",
        "text_encoder": "CLIP text encoder, width 64",
        "text_encoder_3": "T5 encoder, width 24",
    }.items():
        with open_source(tmp_path / "folder" / name) as source:
            report = inspect(source)
        assert (report.family, report.title, report.prediction) == (None, title, None)
    (tmp_path / "folder" / "README.md").write_text("---\ntags: [a]\nlicense: other\n---\nlicense: no\n")
    with open_source(tmp_path / "folder") as source:
        assert inspect(source).licence == "other"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_mid.lora_up.weight", "lora_unet_mid.lora_down.weight"], ["LoRA", "--adapter"]),
        (["base_model.model.to_q.oft_R.weight", "base_model.model.to_k.oft_R.weight"], ["by OFT, which is not read"]),
        (["base_model.model.to_q.ia3_l"], ["by IA3, which is not read"]),
        (["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"], ["Qwen-Image"]),
        (["double_blocks.0.img_attn.norm.query_norm.scale", "single_blocks.0.linear1.weight",
          "txt_in.individual_token_refiner.blocks.0.norm1.weight"], ["HunyuanVideo"]),
        (["layer.weight"], ["no network that is known", "layer.weight", "nearest:", "lacks"]),
        (["input_blocks.0.0.weight"], ["nearest: unet (original) lacks middle_block.1"]),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_what_decided(
    names: list[str], words: list[str], tmp_path: Path
) -> None:
    save_tensors(tmp_path / "one.safetensors", {name: torch.zeros(2) for name in names})
    with open_source(tmp_path / "one.safetensors") as source, pytest.raises(WeightsError) as error:
        inspect(source)
    for word in words:
        assert word in str(error.value)


def test_missing_parts_are_told(tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "one.safetensors", "sd1")
    save_tensors(
        tmp_path / "net.safetensors", {k: v for k, v in tensors.items() if k.startswith("model.diffusion")}
    )
    with open_source(tmp_path / "net.safetensors") as source:
        report = inspect(source)
    assert report.family == "sd1"
    assert report.missing == ("vae", "text")
