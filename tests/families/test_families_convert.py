"""Checkpoints in the other layout and back: the same bits, and what diffusers reads of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor

from sfumato.errors import InvalidRequest, OutputError, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import KEPT, convert
from sfumato.weights.load import load_into
from sfumato.weights.save import save_tensors
from sfumato.weights.source import Source, open_source
from tests.families.originals import CONFIGS, write_original


def tensors(source: Source) -> dict[str, Tensor]:
    return {name: source.read(name) for name in source.entries}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_is_the_same_bits(name: str, tmp_path: Path) -> None:
    wanted = write_original(tmp_path / "one.safetensors", name, torch.float16)
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers", shard_bytes=300_000)
    with open_source(tmp_path / "folder") as folder:
        done = convert(folder, tmp_path / "back.safetensors", "original")
    with open_source(done.path) as back:
        same(tensors(back), wanted)
        assert back.metadata["modelspec.title"] == name
    with open_source(tmp_path / "back.safetensors") as back:  # and once more, from the file that we wrote
        convert(back, tmp_path / "again", "diffusers", shard_bytes=None)
    with open_source(tmp_path / "again") as again, open_source(tmp_path / "folder") as folder:
        same(tensors(again), tensors(folder))


THEIRS: dict[str, Any] = {
    "unet": diffusers.UNet2DConditionModel,
    "mmdit": diffusers.SD3Transformer2DModel,
    "flux": diffusers.FluxTransformer2DModel,
    "vae": diffusers.AutoencoderKL,
    "t5": transformers.T5EncoderModel,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_reads_the_folder_and_computes_the_same(name: str, tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", name)
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert hasattr(diffusers, index["_class_name"])
    # Ours reads the folder with its settings, theirs as well; the original file's own heads are the family's.
    with open_source(tmp_path / "folder") as source:
        parts = open_checkpoint(source).parts
        for part in parts.values():
            folder = part.source.path
            kind = part.kind
            their = THEIRS.get(kind) or getattr(transformers, index[folder.name][1])
            loaded, told = their.from_pretrained(folder, output_loading_info=True)
            assert not told["missing_keys"]
            assert not told["unexpected_keys"]
            assert type(loaded).__name__ == index[folder.name][1]
            ours = load_into(part.make, part.source, part.table, part.layout)
            agree(kind, ours, loaded.eval())
    for path in (tmp_path / "folder").glob("*scheduler"):
        kind = getattr(diffusers, index[path.name][1])
        assert not kind.from_pretrained(path).config.get("unknown")


@torch.no_grad()
def agree(kind: str, ours: Any, theirs: Any) -> None:
    """Both networks give the same for one input."""
    draws = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    clock = torch.tensor([7.0])
    if kind == "unet":
        config = ours.config
        x, tokens = normal(1, config.inner, 8, 8), normal(1, 5, config.tokens)
        more: dict[str, Any] = {}
        told: dict[str, Any] = {}
        if config.classes:
            more["label"], told["class_labels"] = torch.tensor([3]), torch.tensor([3])
        if config.vector:
            count = 5 if config.tokens == 128 else 6
            text, ids = normal(1, config.vector - 8 * count), torch.arange(1.0, count + 1)[None]
            from sfumato.nn.embed import sinusoid

            more["vector"] = torch.cat((text, sinusoid(ids[0], 8).flatten()[None]), dim=1)
            told["added_cond_kwargs"] = {"text_embeds": text, "time_ids": ids}
        got = ours(x, clock, tokens=tokens, **more)
        want = theirs(x, clock, tokens, **told).sample
    elif kind == "mmdit":
        x, tokens, vector = normal(1, 16, 8, 8), normal(1, 5, 24), normal(1, 96)
        got = ours(x, clock, tokens=tokens, vector=vector)
        want = theirs(x, tokens, vector, clock).sample
    elif kind == "flux":
        from sfumato.nn.flux import folded, positions

        x, tokens, vector = normal(1, 16, 8, 8), normal(1, 5, 24), normal(1, 64)
        strength = torch.tensor([3.0]) if ours.config.guidance else None
        got = folded(ours(x, clock, tokens=tokens, vector=vector, guidance=strength))
        places = (torch.zeros(5, 3), positions(4, 4, 0))
        want = theirs(
            folded(x),
            encoder_hidden_states=tokens,
            pooled_projections=vector,
            timestep=clock / 1000,
            guidance=strength,
            txt_ids=places[0],
            img_ids=places[1],
        ).sample
    elif kind == "vae":
        x = normal(1, ours.config.latent, 4, 4)
        got, want = ours.decode(x), theirs.decode(x).sample
    elif kind == "clip":
        ids = torch.tensor([[49406, 3, 500, 49407]])
        states, pooled = ours(ids)
        answer = theirs(ids)
        got, want = states, answer.last_hidden_state
        if hasattr(answer, "text_embeds"):
            torch.testing.assert_close(pooled, answer.text_embeds, atol=2e-4, rtol=1e-4)
    else:
        ids = torch.tensor([[5, 9, 1]])
        got, want = ours(ids), theirs(ids).last_hidden_state
    assert want.std() > 1e-3
    torch.testing.assert_close(got, want, atol=2e-4 * float(want.abs().max()), rtol=1e-4)


def test_the_pipeline_of_diffusers_opens_the_folder(tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", "sd1")
    with open_source(tmp_path / "one.safetensors") as source:
        done = convert(source, tmp_path / "folder", "diffusers")
    assert any("scheduler" in note for note in done.notes)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(done.path, safety_checker=None)
    assert pipeline.tokenizer("A rocket.").input_ids == [49406, 320, 8383, 269, 49407]
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    assert pipeline.vae.config.scaling_factor == 0.18215


def test_a_folder_of_sd2_gets_the_block_that_the_original_has(tmp_path: Path) -> None:
    wanted = write_original(tmp_path / "one.safetensors", "sd2")
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
    (tmp_path / "folder" / KEPT).unlink()  # a folder as it is published
    with open_source(tmp_path / "folder") as folder:
        done = convert(folder, tmp_path / "back.safetensors", "original")
    assert any("zeros" in note for note in done.notes)
    with open_source(done.path) as back:
        last = [name for name in back.entries if ".resblocks.2." in name]
        assert sorted(last) == sorted(name for name in wanted if ".resblocks.2." in name)
        assert not any(back.read(name).any() for name in last)
        for name in back.entries.keys() - set(last) - {"v_pred"}:
            assert torch.equal(back.read(name), wanted[name]), name


@pytest.mark.parametrize("place", ["vae", "text_encoder", "unet"])
def test_one_network_alone(place: str, tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", "sdxl")
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
    with open_source(tmp_path / "folder" / place) as one:
        convert(one, tmp_path / "alone.safetensors", "original")
        wanted = tensors(one)
    with open_source(tmp_path / "alone.safetensors") as alone:
        convert(alone, tmp_path / "again", "diffusers")
    with open_source(tmp_path / "again") as again:
        same(tensors(again), wanted)


def test_dtype_converts_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    wanted = write_original(tmp_path / "one.safetensors", "sd1")
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "half", "diffusers", dtype=torch.bfloat16)
        convert(source, tmp_path / "half.safetensors", "original", dtype=torch.bfloat16)
    with open_source(tmp_path / "half.safetensors") as half:
        for name in half.entries.keys() - {"betas"}:
            tensor = wanted[name]
            assert torch.equal(half.read(name), tensor.bfloat16() if tensor.is_floating_point() else tensor)
    with open_source(tmp_path / "half") as half:
        assert {entry.dtype for entry in half.entries.values()} == {"BF16"}
    key = "first_stage_model.quant_conv.bias"
    save_tensors(tmp_path / "large.safetensors", {**wanted, key: wanted[key] + 70000})
    with (
        open_source(tmp_path / "large.safetensors") as large,
        pytest.raises(WeightsError, match=r"quant_conv.bias.*bfloat16"),
    ):
        convert(large, tmp_path / "large", "diffusers", dtype=torch.float16)
    assert not (tmp_path / "large").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_nothing_is_replaced_and_refusals_are_sentences(tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", "sd1")
    (tmp_path / "there").mkdir()
    with open_source(tmp_path / "one.safetensors") as source:
        with pytest.raises(InvalidRequest, match="exists already"):
            convert(source, tmp_path / "there", "diffusers")
        with pytest.raises(ValueError, match="must end in"):
            convert(source, tmp_path / "file", "original")
        with pytest.raises(OutputError, match="not a folder"):
            convert(source, tmp_path / "none" / "folder", "diffusers")


def test_every_float16_becomes_bfloat16_as_torch_does(tmp_path: Path) -> None:
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16).repeat(5)
    save_tensors(tmp_path / "all.safetensors", {"all": values})
    with open_source(tmp_path / "all.safetensors") as source:
        got = source.read("all", torch.bfloat16)
    torch.testing.assert_close(got, values.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)
