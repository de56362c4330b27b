"""Adapters and embedded prompts: encoders are adapted where prompts are embedded, denoisers where pictures are made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.adapters.found import digest
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.loaded import Loaded
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
    whole = sfumato.load(str(sd1.folder), dtype="float32", adapters=sd1.asked)
    for number, model in enumerate((whole, bare)):  # each recipe asks for what was there
        picture = model("a red cat", embedded=plain.path, **ask).images[0]
        path = picture.save(tmp_path / f"{number}.png")
        loading = {"adapters": sd1.asked}
        again = sfumato.remake(path, str(sd1.folder), loading, embedded=plain.path).images[0]
        np.testing.assert_array_equal(again.pixels, picture.pixels)


def test_a_file_is_of_prompts_in_which_the_same_acts_and_each_is_encoded_once(tmp_path: Path) -> None:
    """Rows are known by their texts: a negative prompt that is left out would be another one under each adapter."""
    sd1 = Made("sd1", tmp_path / "sd1")
    model = sd1.load(sd1.folder, adapters_in=sd1.adapters[0].parent)
    file, here = tmp_path / "pets.safetensors", {"dialect": "a1111"}
    cat, dog = {"prompt": "a cat <lora:ink:0.8>", **here}, {"prompt": "a dog", **here}
    texts = model.model.texts
    assert texts is not None
    read: list[str] = []

    def encode(prompts: Any) -> Any:
        read.extend(prompt.wording for prompt in prompts)
        return texts.encode(prompts)

    counted = Loaded(
        replace(model.model, texts=replace(texts, encode=encode)), model.dtype, (), model.adapters.given
    )
    for other, said in (
        (dog, r"'a cat <lora:ink:0.8>' \(ink at 0.8\) and 'a dog' \(none\): write a file for each"),
        ({"prompt": "a dog <lora:ink:0.5>", **here}, r"\(ink at 0.8\) and .*\(ink at 0.5\)"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            counted.embed(file, cat, other)
    with pytest.raises(InvalidRequest, match="steps = 0 is outside what is allowed: 1 to 1000"):
        counted.embed(file, dog, steps=0)
    assert main(["embed", "a cat", "-o", str(file), "--steps", "1000000000"]) == 2
    assert (read, file.exists()) == ([], False)
    dog["prompt"] += " <lora:ink:0.8>"
    counted.embed(file, cat, dog, cat, dog)
    assert len(read) == len(set(read)) == 3  # both, and the negative prompt that is left out
    assert [one["strength"] for one in header(file)["adapters"]] == [0.8]
    ask: dict[str, Any] = {"steps": 1, "size": "64x64", "seed": 4}
    for told in (cat, dog):
        wanted, found = model(**told, **ask), model(**told, embedded=file, **ask)
        np.testing.assert_array_equal(found.images[0].pixels, wanted.images[0].pixels)


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
