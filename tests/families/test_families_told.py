"""Settings of schedulers that are no numbers, or none that could be: told in a sentence, before anything is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.codec import Latent
from sfumato.errors import WeightsError
from sfumato.families.checkpoint import open_checkpoint, refined
from sfumato.families.published import family_of
from sfumato.families.told import number, process_of
from sfumato.nn.chroma import ChromaConfig
from sfumato.nn.flux import FluxConfig
from sfumato.nn.lumina import LuminaConfig
from sfumato.nn.sincos import SincosConfig
from sfumato.nn.zimage import ZImageConfig
from sfumato.weights.source import open_source
from tests.peers.pipelines import Case

BAD = {
    "beta_start": ["x", 0, 1.5, -0.1, [0.1], True],
    "beta_end": ["0.012", 2],
    "num_train_timesteps": [1, 0.5, "1000", 10**9],
    "steps_offset": ["q", -1, 10**12, 0.5],
}


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
@pytest.mark.parametrize("name", BAD)
def test_a_setting_that_cannot_be_is_named(case: Case, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(case.peer.folder, tmp_path / "model")
    place = folder / "scheduler" / "scheduler_config.json"
    told = json.loads(place.read_text("utf-8"))
    for value in BAD[name]:
        place.write_text(json.dumps({**told, name: value}), "utf-8")
        with open_source(folder) as source:
            checkpoint = open_checkpoint(source)
            kind = family_of(checkpoint, None)
            with pytest.raises(WeightsError, match=f"{name} = .* must be a"):
                process_of(kind, checkpoint, None)


NO_SIZES = {
    "sample_size": [-64, 0, "64", True, [64, -1]],
    "attention_head_dim": [-8, 0, [8, -8], float("nan")],
    "norm_num_groups": [-32, "8"],
}


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
@pytest.mark.parametrize("name", NO_SIZES)
def test_a_size_that_cannot_be_is_named(case: Case, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(case.peer.folder, tmp_path / "model")
    place = folder / "unet" / "config.json"
    told = json.loads(place.read_text("utf-8"))
    for value in NO_SIZES[name]:
        place.write_text(json.dumps({**told, name: value}), "utf-8")
        with (
            open_source(folder) as source,
            pytest.raises(WeightsError, match=f"{name} = .*, which must be above 0"),
        ):
            open_checkpoint(source)


NO_NETWORKS = [
    ("text_encoder", {"num_attention_heads": 7}, "num_attention_heads = 7, which does not divide"),
    ("text_encoder", {"num_attention_heads": 2.0}, "num_attention_heads = 2.0, which must be whole"),
    ("text_encoder", {"eos_token_id": "z"}, "eos_token_id = 'z', which is no word"),
    ("text_encoder", {"eos_token_id": 10**6}, "eos_token_id = 1000000, which is no word"),
    ("text_encoder", {"layer_norm_eps": "z"}, "layer_norm_eps = 'z', which must be above 0"),
    ("unet", {"attention_head_dim": 7}, "7 heads do not divide a width"),
    ("unet", {"norm_num_groups": 8.0}, "norm_num_groups = 8.0, which must be whole"),
]
NO_LATENTS = [
    ({"scaling_factor": value}, "autoencoder of .* says scaling_factor = .*, which must be a number")
    for value in ("abc", [1], True, -1, 0, float("nan"), float("inf"))
]
NO_LATENTS += [
    ({"shift_factor": value}, "says shift_factor = .*, which must be a number")
    for value in ("abc", [1], float("nan"), float("inf"))
]
NO_LATENTS += [
    ({"latents_mean": value, "latents_std": [1.0] * 4}, "says latents_mean = ")
    for value in (["a"] * 4, [0.0] * 3, [0.0] * 3 + [float("nan")], [None] * 4, [[0.0]] * 4, "abcd", 1)
]
NO_LATENTS += [
    ({"latents_mean": [0.0] * 4, "latents_std": value}, "says latents_std = ")
    for value in (["a"] * 4, [1.0] * 3, [1.0] * 3 + [0], [-1.0] * 4)
]


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_settings_of_no_network_are_told_before_a_request(case: Case, tmp_path: Path) -> None:
    """Also those that only the network finds, when it is made: always while the model is loaded."""
    folder = shutil.copytree(case.peer.folder, tmp_path / "model")
    rows = [*NO_NETWORKS, *(("vae", told, why) for told, why in NO_LATENTS)]
    for part, odd, why in rows:
        place = folder / part / "config.json"
        usual = place.read_text("utf-8")
        place.write_text(json.dumps({**json.loads(usual), **odd}), "utf-8")
        with pytest.raises(WeightsError, match=why):
            sfumato.load(str(folder))
        place.write_text(usual, "utf-8")
    told = {"latents_mean": [0.0, 1, -2, 3], "latents_std": [1.0, 2, 3, 4], "scaling_factor": 0.5}
    place.write_text(json.dumps({**json.loads(usual), **told}), "utf-8")
    codec = sfumato.load(str(folder)).model.codec
    assert isinstance(codec, Latent)
    assert codec.mean.flatten().tolist() == told["latents_mean"]
    assert codec.std.flatten().tolist() == [2.0, 4, 6, 8]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FluxConfig(width=64, heads=4, axes=(4, 6, 6)), "axes_dims_rope"),
        (ChromaConfig(width=64, heads=4, axes=(4, 6, 6)), "axes_dims_rope"),
        (LuminaConfig(width=64, heads=4, axes=(4, 6, 6)), "axes_dim_rope"),
        (ZImageConfig(width=64, heads=4, axes=(4, 6, 6)), "axes_dims"),
    ],
)
def test_axes_that_fill_no_head_are_named(config: Any, name: str) -> None:
    wrong = ([4, 12], [2, 2, 2], ["a", 6, 6], [5, 5, 6], [0, 8, 8], [4.0, 6, 6], [4, 6, 6, 0], "466", 16)
    for axes in wrong:
        with pytest.raises(ValueError, match=f"{name} = .*, which must be 3 even numbers whose sum is 16,"):
            refined(config, {name: axes})
    assert refined(config, {name: [8, 4, 4]}).axes == (8, 4, 4)
    assert refined(config, {name: None}).axes == (4, 6, 6)


def test_a_scale_of_places_below_0_is_named() -> None:
    config = SincosConfig(depth=1, width=8, heads=1, channels=4, outer=4)
    with pytest.raises(ValueError, match="interpolation_scale = -2, which must be above 0"):
        refined(config, {"interpolation_scale": -2})


def test_what_is_not_told_or_null_is_the_usual() -> None:
    assert number({}, "shift", 3.0, "x") == number({"shift": None}, "shift", 3.0, "x") == 3.0
    assert number({"shift": 5}, "shift", 3.0, "x") == 5.0
