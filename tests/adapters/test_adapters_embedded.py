"""Adapters and embedded prompts: encoders are adapted where prompts are embedded, denoisers where pictures are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.adapters.found import digest
from sfumato.cli.main import main
from sfumato.errors import WeightsError
from tests.adapters.test_adapters_merging import Made
from tests.families.test_embedded import header


def test_the_parts_of_an_adapter_act_on_two_machines_as_on_one(tmp_path: Path) -> None:
    sd1 = Made("sd1", tmp_path / "sd1")
    ask: dict[str, Any] = {"steps": 1, "size": "64x64", "seed": 4}
    wanted = sfumato.load(str(sd1.folder), dtype="float32", adapters=sd1.asked)("a red cat", **ask)
    file = tmp_path / "cat.safetensors"
    told = ["embed", "a red cat", "-m", str(sd1.folder), "--dtype", "float32", "-o", str(file)]
    assert main([*told, *(word for one in sd1.asked for word in ("--adapter", one))]) == 0
    facts = header(file)["adapters"]
    assert [(one["sha256"], one["strength"]) for one in facts] == [
        (digest(sd1.adapters[0]), 0.8),
        (digest(sd1.adapters[1]), -0.5),
    ]
    with pytest.raises(
        WeightsError, match=r"find no place in this model \(denoiser\).*the model has no text"
    ):
        sfumato.load(str(sd1.folder), dtype="float32", encoders=False, adapters=sd1.asked)
    bare = sfumato.load(str(sd1.folder), dtype="float32", encoders=False, adapters=sd1.asked, partial=True)
    made = bare("a red cat", embedded=file, **ask)
    np.testing.assert_array_equal(made.images[0].pixels, wanted.images[0].pixels)
    plain = sfumato.load(str(sd1.folder), dtype="float32", draws=False).embed(
        tmp_path / "p.safetensors", "a red cat"
    )
    other = bare("a red cat", embedded=plain.path, **ask)
    assert (other.images[0].pixels != wanted.images[0].pixels).any()


def test_a_kontext_is_written_as_the_pipeline_that_it_is(tmp_path: Path) -> None:
    flux = Made("flux", tmp_path / "flux")
    file = flux.file.rename(tmp_path / "flux1-kontext-dev.safetensors")
    assert (
        main(
            ["convert", str(file), str(tmp_path / "folder"), "--to", "diffusers", "--adapter", flux.asked[0]]
        )
        == 0
    )
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == "FluxKontextPipeline"
