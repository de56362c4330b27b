"""Files: both writers' round trips, hostile files, keys without a place, what is told of an adapter."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfumato.adapters import apply, describe, load_adapter, metadata_for, place, save_adapter
from sfumato.errors import WeightsError
from tests.adapters import files
from tests.adapters.cases import CASES, networks, theirs
from tests.adapters.files import FLUX_ORIGINAL, layers

A, B = torch.randn(2, 16), torch.randn(48, 2)
LAYER = "lora_unet_double_blocks_0_img_attn_qkv"


def kohya(path: Path, algorithm: str = "lora") -> Path:
    names = {n: s for n, s in FLUX_ORIGINAL.items() if n != "img_in"}
    if algorithm == "lokr":
        own = {n: files.lokr(torch.empty(s), torch.Generator().manual_seed(1)) for n, s in names.items()}
    else:
        own = {
            n: files.ALGORITHMS[algorithm][0](torch.rand(s), torch.Generator().manual_seed(1))
            for n, s in names.items()
        }
    return files.written(path, own, lambda n: "lora_unet_" + n.replace(".", "_"), files.LYCORIS)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "dora", "full"])
def test_kohyas_writer_gives_the_same_bits_back(algorithm: str, tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", algorithm)
    save_adapter(tmp_path / "b.safetensors", load_adapter(path), networks("flux"), "kohya")
    with safe_open(path, "pt") as first, safe_open(tmp_path / "b.safetensors", "pt") as second:
        assert sorted(first.keys()) == sorted(second.keys())
        for key in sorted(first.keys()):
            assert torch.equal(first.get_tensor(key), second.get_tensor(key)), key


@pytest.mark.parametrize("algorithm", ["lora", "loha", "dora", "full"])
def test_cut_into_diffusers_tensors_and_put_together_again(algorithm: str, tmp_path: Path) -> None:
    """LoRA and DoRA come back bit for bit; what is written as rows has the same update in between."""
    path, parts = kohya(tmp_path / "a.safetensors", algorithm), networks("flux")
    save_adapter(tmp_path / "b.safetensors", load_adapter(path), parts, "diffusers")
    cut = load_adapter(tmp_path / "b.safetensors")
    assert len(cut.layers) > len(load_adapter(path).layers)
    with apply(parts, [(load_adapter(path), 1.0)], merged=True):
        expected = {k: v.clone() for k, v in parts["denoiser"].module.state_dict().items()}
    with apply(parts, [(cut, 1.0)], merged=True):
        for key, value in parts["denoiser"].module.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)
    if algorithm == "loha":
        with pytest.raises(WeightsError, match="several updates of loha are not one"):
            save_adapter(tmp_path / "c.safetensors", cut, parts, "kohya")
        return
    save_adapter(tmp_path / "c.safetensors", cut, parts, "kohya")
    with safe_open(path, "pt") as first, safe_open(tmp_path / "c.safetensors", "pt") as last:
        assert sorted(first.keys()) == sorted(last.keys())
        for key in sorted(first.keys()):
            assert torch.equal(first.get_tensor(key), last.get_tensor(key)), key


@pytest.mark.parametrize("case", ["sd1", "sdxl", "sd3", "flux", "pixart", "chroma"])
def test_diffusers_adapters_of_every_family_are_written_for_kohyas_scripts(case: str, tmp_path: Path) -> None:
    """Of every attention, with other factors for queries, keys and values: the same update in the other names."""
    draws = torch.Generator().manual_seed(3)
    tensors, mine = dict[str, Tensor](), networks(case)
    for name, layer in layers(theirs(case), (torch.nn.Linear,)).items():
        if "attn" in name and CASES[case].adapted(name) and "norm" not in name:
            outer, inner = layer.weight.shape  # type: ignore[union-attr,misc]
            tensors[f"{CASES[case].prefix}.{name}.lora_A.weight"] = torch.randn(2, inner, generator=draws)  # type: ignore[has-type]
            tensors[f"{CASES[case].prefix}.{name}.lora_B.weight"] = torch.randn(outer, 2, generator=draws)  # type: ignore[has-type]
    assert len(tensors) > 8
    adapter = load_adapter(saved(tmp_path / "a.safetensors", tensors))
    before = {k: v.clone() for k, v in mine["denoiser"].module.state_dict().items()}
    with apply(mine, [(adapter, 1.0)], merged=True):
        expected = {k: v.clone() for k, v in mine["denoiser"].module.state_dict().items()}
    assert sum(not torch.equal(expected[k], before[k]) for k in before) >= 4
    save_adapter(tmp_path / "b.safetensors", adapter, mine, "kohya")
    with apply(mine, [(load_adapter(tmp_path / "b.safetensors"), 1.0)], merged=True):
        for key, value in mine["denoiser"].module.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-6)


def test_different_factors_below_one_tensor_become_blocks(tmp_path: Path) -> None:
    own = {
        f"transformer_blocks.0.attn.to_{p}": files.lora(
            torch.empty(16, 16), torch.Generator().manual_seed(n), n + 1
        )
        for n, p in enumerate("qkv")
    }
    path = files.written(
        tmp_path / "a.safetensors", own, lambda n: f"transformer.{n}", files.PEFT, alpha=None
    )
    parts = networks("flux")
    save_adapter(tmp_path / "b.safetensors", load_adapter(path), parts, "kohya")
    again = load_adapter(tmp_path / "b.safetensors")
    assert again.ranks == (6,)
    with apply(parts, [(load_adapter(path), 1.0)], merged=True):
        expected = parts["denoiser"].module.double_blocks[0].picture.look.qkv.weight.clone()  # type: ignore[index,union-attr]
    with apply(parts, [(again, 1.0)], merged=True):
        found = parts["denoiser"].module.double_blocks[0].picture.look.qkv.weight  # type: ignore[index,union-attr]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_pefts_folder_comes_back_with_its_scales(tmp_path: Path) -> None:
    path, parts = kohya(tmp_path / "a.safetensors"), networks("flux")
    save_adapter(tmp_path / "peft", load_adapter(path), parts, "peft")
    told = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (told["r"], told["lora_alpha"], told["peft_type"]) == (files.RANK, files.ALPHA, "LORA")
    again = load_adapter(tmp_path / "peft")
    assert again.layout == "peft"
    assert {layer.weight.scale for layer in again.layers} == {files.ALPHA / files.RANK}


def test_the_header_says_what_it_is_and_its_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    adapter = load_adapter(kohya(tmp_path / "a.safetensors"))
    told = metadata_for(adapter, "flux", title="Inks", author="A", predicts="flow", masked=True)
    path = save_adapter(
        tmp_path / "b.safetensors", adapter, networks("flux"), "kohya", dtype=torch.float16, metadata=told
    )
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    facts = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert facts["modelspec.hash_sha256"] == "0x" + hashlib.sha256(raw[8 + length :]).hexdigest()
    assert facts["modelspec.architecture"] == "flux-1-dev/lora"
    assert (facts["ss_network_dim"], facts["ss_network_alpha"]) == (str(files.RANK), str(files.ALPHA))
    shown = describe(path)
    assert (shown["title"], shown["predicts"], shown["padding"]) == ("Inks", "flow", "masked")
    again = metadata_for(load_adapter(path), "flux", title="Inks")
    assert again["ss_apply_t5_attn_mask"] == "True"  # what it says of itself stays
    assert "ss_apply_t5_attn_mask" not in metadata_for(adapter, "flux", title="Inks")  # nothing is made up
    assert metadata_for(adapter, "sd1", title="x", predicts="eps")["modelspec.prediction_type"] == "epsilon"
    assert shown["scales"] == [files.ALPHA / files.RANK]
    assert shown["algorithms"] == {"lora": len(adapter.layers)}
    assert shown["zero"] is False


def saved(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({k: v.clone() for k, v in tensors.items()}, path, metadata)
    return path


HOSTILE = {
    "another rank": ({f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": torch.ones(48, 3)}, "do not multiply"),
    "no up": ({f"{LAYER}.lora_down.weight": A}, "lacks up"),
    "nothing known": ({"conv_in.weight": A}, "is no adapter that is known"),
    "nan": ({f"{LAYER}.lora_down.weight": A / 0, f"{LAYER}.lora_up.weight": B}, "lora_down.*NaN or infinity"),
    "whole numbers": ({f"{LAYER}.lora_down.weight": A.int(), f"{LAYER}.lora_up.weight": B}, "real numbers"),
    "long alpha": (
        {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": B, f"{LAYER}.alpha": A},
        "alpha has the shape",
    ),
    "unknown key": (
        {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": B, f"{LAYER}.oft_blocks": A},
        r"1 of 3 keys .*oft_blocks \(no key of an adapter",
    ),
    "kronecker bomb": (
        {f"{LAYER}.lokr_w1": torch.ones(4000, 4000, dtype=torch.float16), f"{LAYER}.lokr_w2": torch.ones(900, 900)},
        r"shape \(3600000, 3600000\)",
    ),
    "another family": (
        {"lora_unet_down_blocks_0_x.lora_down.weight": A, "lora_unet_down_blocks_0_x.lora_up.weight": B},
        r"another family: of its 1 layers none.*down_blocks_0_x \(no such layer\)",
    ),
    "another shape": (
        {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": torch.ones(32, 2)},
        r"of shape \(32, 16\), the model's is \(48, 16\)",
    ),
    "another network": (
        {f"lora_te2_x.{k}": v for k, v in (("lora_down.weight", A), ("lora_up.weight", B))},
        "the model has no text_2 or text_3",
    ),
    "twice in one place": (
        {
            f"{LAYER}.lora_down.weight": A,
            f"{LAYER}.lora_up.weight": B,
            "double_blocks.0.img_attn.qkv.lora_A.weight": A,
            "double_blocks.0.img_attn.qkv.lora_B.weight": B,
        },
        "lies where",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_adapters_are_refused_and_name_their_keys(name: str, tmp_path: Path) -> None:
    tensors, told = HOSTILE[name]
    path = saved(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(WeightsError, match=f"(?s){told}"):
        place(load_adapter(path), networks("flux"))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[1]", '{"transformer.lora_alpha": NaN}', '{"transformer.lora_alpha": true}',
     '{"transformer.alpha_pattern": {"(a+)+$": 1}}', '{"transformer.alpha_pattern": 3}'],
)  # fmt: skip
def test_hostile_settings_are_refused(text: str, tmp_path: Path) -> None:
    base = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{base}.lora_A.weight": A, f"{base}.lora_B.weight": B[:16]}
    path = saved(tmp_path / "bad.safetensors", tensors, {"lora_adapter_metadata": text})
    with pytest.raises(WeightsError):
        load_adapter(path)


def test_a_million_keys_are_refused_by_the_header(tmp_path: Path) -> None:
    entry = '"k%d.lora_A.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(entry % n for n in range(1_000_000)) + "}").encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(WeightsError, match="more than 65,536 tensors"):
        load_adapter(path)


def test_metadata_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A header that says it is larger than any, one that is, and a pickled adapter that unpacks to a thousandfold."""
    tensors = {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": B}
    path = saved(tmp_path / "many.safetensors", tensors, {"ss_tag_frequency": "x" * 17_000_000})
    with pytest.raises(WeightsError, match=r"many\.safetensors"):
        load_adapter(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match=r"many\.safetensors"):
        load_adapter(path)
    torch.save({key: torch.zeros(4_000_000) for key in tensors}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in plain.infolist():
            bomb.writestr(item.filename, plain.read(item))
    with pytest.raises(WeightsError, match=r"bomb\.pt"):
        load_adapter(tmp_path / "bomb.pt", allow_pickle=True)
    with pytest.raises(WeightsError, match="pickle"):
        load_adapter(tmp_path / "bomb.pt")


def test_partial_loading_reports_what_it_leaves_out(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": B, "x.oft_blocks": A}
    tensors |= {"lora_te1_x.lora_down.weight": A, "lora_te1_x.lora_up.weight": B}
    path = saved(tmp_path / "some.safetensors", tensors)
    adapter = load_adapter(path, partial=True)
    assert list(adapter.left_out) == ["x.oft_blocks"]
    parts = networks("flux")
    with pytest.raises(
        WeightsError, match=r"--partial \(partial=True\) leaves them out: lora_te1_x \(the model"
    ):
        apply(parts, [(adapter, 1.0)])
    with pytest.raises(WeightsError, match=r"--partial \(partial=True\) leaves them out: x\.oft_blocks"):
        load_adapter(path)
    with apply(parts, [(adapter, 1.0)], partial=True) as applied:
        assert applied.placed[0].missing == {"lora_te1_x": "the model has no text"}
        assert "x.oft_blocks" in applied.notes[0]
        assert "lora_te1_x" in applied.notes[1]


def test_an_adapter_that_was_not_trained_is_said_to_be_zero(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "new.safetensors", {f"{LAYER}.lora_down.weight": A, f"{LAYER}.lora_up.weight": B * 0}
    )
    parts = networks("flux")
    with apply(parts, [(load_adapter(path), 1.0)]) as applied:
        assert "all zero" in applied.notes[0]
    assert describe(path)["zero"] is True
