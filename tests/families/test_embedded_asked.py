"""What is asked beside a file of embedded prompts, and what of it is told before any long work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sfumato
from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest
from sfumato.families.checkpoint import Part
from sfumato.families.texts import hashes
from sfumato.loaded import Loaded
from sfumato.tasks.animate import Animate
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.text.embedded import Embedded, open_embedded
from sfumato.weights.source import Source
from tests.peers.further import further
from tests.peers.pipelines import PIPELINES, peer


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1."""
    return peer(PIPELINES["sd1"], tmp_path_factory.mktemp("asked") / "sd1").folder


@pytest.fixture(scope="module")
def texts(sd1: Path) -> Loaded:
    """Its text encoders."""
    return sfumato.load(str(sd1), dtype="float32", draws=False)


def test_what_is_said_counts_before_what_the_file_was_written_for(texts: Loaded, tmp_path: Path) -> None:
    file = tmp_path / "cat.safetensors"
    texts.embed(file, {"prompt": "a red cat", "negative": "grey", "clip_skip": 1})
    task = make(Text2Image, embedded=file, negative="")
    assert (task.prompt, task.negative, task.clip_skip) == ("a red cat", "", 1)
    with pytest.raises(InvalidRequest, match=r"'a red cat' is not among .*'a red cat' \(clip_skip 1\)"):
        make(Text2Image, embedded=file, clip_skip=0)
    task = make(Text2Image, embedded=file, prompt="", negative=None)
    assert (task.prompt, task.negative, task.clip_skip) == ("a red cat", "grey", 1)


def test_a_file_is_opened_once_and_encoders_are_hashed_once(
    texts: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = texts.embed(tmp_path / "cat.safetensors", "a red cat").path
    opened: list[Any] = []
    hashed: list[Path] = []

    def open_counted(path: Any) -> Embedded:
        opened.append(path)
        return open_embedded(path)

    def hash_counted(source: Source) -> str:
        hashed.append(source.path)
        return "0" * 64

    monkeypatch.setattr("sfumato.tasks.embedded.open_embedded", open_counted)
    monkeypatch.setattr(Source, "hash", hash_counted)
    for said in ({}, {"prompt": "a red cat"}):
        assert make(Text2Image, embedded=str(file), **said).embedded == open_embedded(file)
    assert opened == [str(file)] * 2
    places = ("text", "text_2")
    find = hashes(
        {
            place: Part(kind="clip", layout="diffusers", source=Source(Path(place), {}), config=None)
            for place in places
        }
    )
    assert hashed == []
    assert find() == find() == dict.fromkeys(places, "0" * 64)
    assert hashed == [Path(place) for place in places]


def test_prompts_of_an_animation_are_looked_for_before_anything_is_loaded(
    texts: Loaded, tmp_path: Path
) -> None:
    file = texts.embed(tmp_path / "pets.safetensors", "a red cat", "a blue dog").path
    make(Animate, prompts=("a red cat", "a blue dog"), embedded=file)
    for other in ("a cat", ""):
        with pytest.raises(InvalidRequest, match=f"the prompt '{other}' is not among"):
            make(Animate, prompts=("a red cat", other), embedded=file)


def test_prompts_are_read_by_the_rules_of_the_models_variant(tmp_path: Path) -> None:
    """FLUX.1's schnell and dev are one family: of one prompt they read other lengths."""
    folders = {name: peer(PIPELINES[name], tmp_path / name).folder for name in ("flux", "schnell")}
    both = {name: sfumato.load(str(folder), dtype="float32") for name, folder in folders.items()}
    files = {
        name: model.embed(tmp_path / f"{name}.safetensors", "a cat").path for name, model in both.items()
    }
    said = "was read as by {!r}, in {} tokens, and the model 'flux' reads as {!r}, in {} tokens: embed the prompt"
    ask: dict[str, Any] = {"steps": 1, "size": "64x64"}
    short, long = ("flux-schnell", 256), ("flux", 512)
    for file, model, told in (("schnell", "flux", (*short, *long)), ("flux", "schnell", (*long, *short))):
        with pytest.raises(InvalidRequest, match=said.format(*told)):
            both[model]("a cat", embedded=files[file], **ask)
        texts = both[model].model.texts
        assert texts is not None
        assert (texts.reads, texts.length) == told[2:]
        states = open_embedded(files[model]).find(Prompt(text="a cat").wording)
        assert (states.reads, states.tokens.shape[1]) == told[2:]
        texts.check(states, model)
        texts.check(replace(states, family="", reads=""), model)  # of another program, which does not say


def test_pixart_alpha_and_sigma_are_one_family_and_read_other_lengths(tmp_path: Path) -> None:
    alpha, sigma = (
        sfumato.load(
            str(further(f"pixart {name}", tmp_path / name).peer.folder), dtype="float32", draws=False
        )
        for name in ("alpha", "sigma")
    )
    states = open_embedded(alpha.embed(tmp_path / "a.safetensors", "a cat").path).find(
        Prompt(text="a cat").wording
    )
    assert alpha.model.texts is not None
    assert sigma.model.texts is not None
    alpha.model.texts.check(states, "pixart")
    with pytest.raises(InvalidRequest, match=r"'pixart', in 120 tokens, .* as 'pixart-sigma', in 300 tokens"):
        sigma.model.texts.check(states, "pixart")


def test_a_model_without_what_draws_says_so(sd1: Path, texts: Loaded) -> None:
    for model in (texts, sfumato.load(str(sd1), dtype="bfloat16", draws=False)):
        with pytest.raises(InvalidRequest, match=r"text encoders alone \(draws=False\)"):
            model("a cat", steps=1, size="64x64")
    for name in (str(sd1), "emoji"):
        with pytest.raises(InvalidRequest, match="nothing would be loaded"):
            sfumato.load(name, encoders=False, draws=False)
    ways: tuple[dict[str, Any], ...] = ({}, {"draws": False}, {"encoders": False})
    made = [sfumato.load("emoji", **how)("a cat", steps=1).images[0] for how in ways]
    for one in made[1:]:
        np.testing.assert_array_equal(one.pixels, made[0].pixels)


def test_prompts_with_other_learned_words_are_for_a_file_each(
    sd1: Path, texts: Loaded, tmp_path: Path
) -> None:
    assert texts.model.seams is not None
    encoder = dict(texts.model.seams.networks())["text"][0]
    save_file({"emb_params": torch.ones(1, encoder.token.weight.shape[1])}, tmp_path / "blob.safetensors")
    model = sfumato.load(str(sd1), dtype="float32", draws=False, embeddings_in=tmp_path)
    file = tmp_path / "file" / "a.safetensors"
    file.parent.mkdir()
    one, other = ({"prompt": text, "dialect": "a1111"} for text in ("a blob", "a dog"))
    with pytest.raises(
        InvalidRequest, match=r"'a blob' \(blob\) and 'a dog' \(none\): write a file for each"
    ):
        model.embed(file, one, other)
    assert not file.exists()
    model.embed(file, one, {**one, "prompt": "the blob, blue"})
    assert len(open_embedded(file).rows) == 3
