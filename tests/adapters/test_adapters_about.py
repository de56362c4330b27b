"""What is told of a file without a model, and adapters as a person asks for them: in a word, by name, by hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sfumato.adapted import Given, again
from sfumato.adapters import Strength, describe, load_adapter, metadata_for
from sfumato.adapters.found import Use, digest, find, use, use_of
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, UnknownName, WeightsError
from sfumato.picture.png import save_png
from sfumato.picture.recipe import Recipe


def pair(name: str, wide: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """The two factors of a layer, drawn."""
    draws = torch.Generator().manual_seed(wide)
    return {
        f"{name}.lora_down.weight": torch.randn(rank, wide, generator=draws),
        f"{name}.lora_up.weight": torch.randn(320, rank, generator=draws),
    }


UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FAMILIES = {
    "Stable Diffusion 1": pair(UNET, 768),
    "Stable Diffusion 2": pair(UNET, 1024),
    "Stable Diffusion XL": pair(UNET, 2048),
    "Stable Diffusion 3": pair("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536),
    "FLUX.1": pair("lora_unet_double_blocks_0_img_attn_qkv", 3072),
    "": pair("lora_te_text_model_encoder_layers_0_mlp_fc1", 768),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_inspect_names_an_adapter_and_its_family(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(FAMILIES[family], path, {"ss_base_model_version": "sd_v1"})
    assert main(["inspect", str(path), "--json", "--hash"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["family"], told["layout"]) == ("adapter", family, "kohya")
    assert (told["algorithms"], told["ranks"], told["sha256"]) == ({"lora": 1}, [4], digest(path))
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a.safetensors: adapter of 1 layers\n")
    assert ("sd_v1" in shown, family in shown) == (True, True)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("chroma/lora", "Chroma"), ("something/lora", "FLUX.1"), ("", "FLUX.1")],
)
def test_a_header_that_says_the_family_is_believed_before_names(
    architecture: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(FAMILIES["FLUX.1"], path, {"modelspec.architecture": architecture})
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == family


def test_the_family_in_a_header_of_ours_is_believed_though_no_list_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(FAMILIES["FLUX.1"], path)
    facts = metadata_for(load_adapter(path), "AuraFlow", title="a")
    save_file(FAMILIES["FLUX.1"], path, facts)
    assert describe(path)["family"] == "AuraFlow"


def test_inspect_says_that_an_update_is_zero_and_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {key: 0 * value if "up" in key else value for key, value in pair(UNET, 768).items()}
    save_file({**tensors, f"{UNET}.oft_blocks": torch.ones(2)}, tmp_path / "a.safetensors")
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    shown = capsys.readouterr().out
    assert "is all zero" in shown
    assert "oft_blocks" in shown


def test_a_folder_of_adapters_and_an_adapter_in_a_models_place_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ink", "toy"):
        save_file(pair(UNET, 768), tmp_path / f"{name}.safetensors")
    assert main(["inspect", str(tmp_path)]) == 5
    told = capsys.readouterr().err
    assert "several adapters and no model (ink.safetensors, toy.safetensors): name one of them" in told
    out = ("-o", str(tmp_path / "a.png"))
    assert main(["generate", "x", "-m", str(tmp_path / "ink.safetensors"), *out]) == 5
    assert "is an adapter such as a LoRA" in (told := capsys.readouterr().err)
    assert "give it with --adapter" in told
    assert main(["generate", "x", "-m", str(tmp_path), *out]) == 5
    assert "several adapters" in capsys.readouterr().err


def test_inspect_names_learned_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "inky.safetensors"
    save_file({"clip_l": torch.ones(3, 768), "clip_g": torch.ones(3, 1280)}, path)
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "inky.safetensors: textual inversion 'inky'",
        "  vectors   3 of 768 for text, 3 of 1280 for text_2",
    ]


@pytest.mark.parametrize("shape", [(768,), (2, 768)])
def test_diffusers_learned_words_are_one_tensor(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.safetensors"
    save_file({"<toy>": torch.randn(shape)}, path)
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    count = shape[0] if len(shape) == 2 else 1
    assert (told["kind"], told["name"], told["vectors"]) == ("embedding", "<toy>", {"text": [count, 768]})
    save_file({f"{UNET}.diff_b": torch.ones(320)}, path)
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "adapter"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ink.safetensors", Use(path=Path("ink.safetensors"))),
        ("a/ink.safetensors:0.8", Use(path=Path("a/ink.safetensors"), strength=Strength(value=0.8))),
        ("a:b/ink.pt:-1e-1", Use(path=Path("a:b/ink.pt"), strength=Strength(value=-0.1))),
        (
            "ink:0.8:text=0.5:hi=0.7:denoiser.middle.*=0:text.*=2",
            Use(
                path=Path("ink"),
                strength=Strength(value=0.8, text=0.5, hi=0.7, blocks={"denoiser.middle.*": 0.0, "text.*": 2.0}),
            ),
        ),
    ],
)  # fmt: skip
def test_an_adapter_in_a_word(text: str, wanted: Use) -> None:
    assert use(text) == wanted
    assert list(use(text).strength.blocks) == list(wanted.strength.blocks)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ink.safetensors:abc", "'abc'"),
        ("ink.pt:0.5:text=", "'text='"),
        ("x.pt:lo=2", "lo = 2"),
        ("x.pt:1e38", "-10000 to 10000"),
        ("x.pt:1:text=-10001", "strength text = -10001"),
        ("x.pt:1e999", "no finite"),
        ("x.pt:0.8:0.5", "two strengths.*text=NUMBER"),
        ("x.pt:hi=0.5:hi=0.7", "two numbers for hi"),
    ],
)
def test_a_word_that_is_not_understood(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        use(text)


numbers = st.floats(-4, 4).map(lambda value: round(value, 3))


@given(
    value=numbers,
    text=st.none() | numbers,
    blocks=st.dictionaries(st.sampled_from(["text*", "denoiser.up.*", "*"]), numbers),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    partial=st.booleans(),
)
def test_what_a_recipe_says_comes_back(
    value: float, text: float | None, blocks: dict[str, float], span: list[float], partial: bool
) -> None:
    own = Strength(value=value, text=text, blocks=blocks, lo=span[0], hi=span[1])
    wanted = Use(path=Path("ink.safetensors"), strength=own, partial=partial)
    facts = json.loads(json.dumps(wanted.facts("0" * 64)))
    assert (facts["file"], facts["sha256"]) == ("ink.safetensors", "0" * 64)
    assert use_of(facts, wanted.path) == wanted


@pytest.mark.parametrize("facts", [{"strength": "x"}, {"strength": True}, {"blocks": 3}, {"lo": [0]}])
def test_facts_that_are_none_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="are not understood"):
        use_of(facts, Path("x"))


@pytest.mark.parametrize(
    "told",
    [
        {"adapters": 3},
        {"adapters": ["ink"]},
        {"embeddings": {"file": "x"}},
        {"embeddings": ["x"]},
        {"parents": 3},
    ],
)
def test_recipes_of_another_kind_are_refused_in_a_sentence(
    told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.png"
    recipe = Recipe("text2image", "emoji", "0" * 64, {"prompt": "a cat", **told}, {})
    save_png(made, np.zeros((8, 8, 3), np.uint8), recipe)
    assert main(["generate", "--like", str(made), "-o", str(tmp_path / "again.png")]) == 2
    assert "not understood" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b.safetensors", "a" * 5000, "..", ""])
def test_names_that_no_file_has_are_not_found(name: str) -> None:
    recipe = Recipe("text2image", "emoji", "0" * 64, {"prompt": "a", "adapters": [{"file": name}]}, {})
    with pytest.raises(InvalidRequest, match="was not found"):
        again(recipe, Given(), "made.png")
    if name.strip("."):
        with pytest.raises(InvalidRequest, match="does not exist"):
            Given(adapters=[f"{name}.safetensors"]).uses()


def test_a_recipe_opens_no_pickle_that_was_not_allowed(tmp_path: Path) -> None:
    torch.save(pair(UNET, 768), tmp_path / "ink.pt")
    facts = {"file": "ink.pt", "sha256": digest(tmp_path / "ink.pt", allow_pickle=True)}
    recipe = Recipe("text2image", "emoji", "0" * 64, {"prompt": "a cat", "adapters": [facts]}, {})
    with pytest.raises(WeightsError, match="allow it with --allow-pickle"):
        again(recipe, Given(adapters_in=tmp_path), "made.png")
    exactly, bare = again(recipe, Given(adapters_in=tmp_path, allow_pickle=True), "made.png")
    assert [one.path for one in exactly.uses] == [tmp_path / "ink.pt"]
    assert bare.arguments == {"prompt": "a cat"}


def test_updates_of_any_shape_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shape in ((), (3,)):
        save_file({f"{UNET}.diff": torch.ones(shape)}, tmp_path / "a.safetensors")
        assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
        assert "1 diff" in capsys.readouterr().out


def test_files_are_found_by_name_and_never_outside(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    (folder / "peft").mkdir()
    (folder / "peft" / "adapter_config.json").write_text("{}")
    for place in (
        "ink.safetensors",
        "styles/ink.safetensors",
        "styles/toy.pt",
        "peft/adapter_model.safetensors",
    ):
        (folder / place).write_bytes(b"")
    (tmp_path / "out.safetensors").write_bytes(b"")
    assert find("adapter", "toy", folder) == folder / "styles" / "toy.pt"
    assert find("adapter", "styles/ink", folder) == folder / "styles" / "ink.safetensors"
    assert find("adapter", "peft", folder) == folder / "peft"
    with pytest.raises(InvalidRequest, match=r"'ink' may be ink\.safetensors and styles/ink\.safetensors"):
        find("adapter", "ink", folder)
    for name in ("../out", "out", "ink.safetensors", "adapter_model"):
        with pytest.raises(UnknownName):
            find("adapter", name, folder)


def test_the_hash_of_pefts_folder_has_its_settings(tmp_path: Path) -> None:
    save_file(pair("base_model.model.x", 8), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}')
    first = digest(tmp_path)
    assert digest(tmp_path / "adapter_model.safetensors") == first
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    assert digest(tmp_path) != first
