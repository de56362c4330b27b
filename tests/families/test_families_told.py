"""Settings of schedulers that are no numbers, or none that could be: told in a sentence, before anything is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import open_checkpoint, refined
from sfumato.families.published import family_of
from sfumato.families.told import number, process_of
from sfumato.nn.sincos import SincosConfig
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


def test_a_scale_of_places_below_0_is_named() -> None:
    config = SincosConfig(depth=1, width=8, heads=1, channels=4, outer=4)
    with pytest.raises(ValueError, match="interpolation_scale = -2, which must be above 0"):
        refined(config, {"interpolation_scale": -2})


def test_what_is_not_told_or_null_is_the_usual() -> None:
    assert number({}, "shift", 3.0, "x") == number({"shift": None}, "shift", 3.0, "x") == 3.0
    assert number({"shift": 5}, "shift", 3.0, "x") == 5.0
