"""Chroma against diffusers' pipeline: conditions, network, walk, both layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.inspect import inspect
from sfumato.families.settings import network
from sfumato.families.shapes import chroma
from sfumato.nn.flux import folded, positions
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published import far, unfolded, walked
from tests.families.test_published_rows import check
from tests.peers.further import further
from tests.peers.pipelines import Case, wide_tables

F64, F32 = torch.float64, torch.float32


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case, built once."""
    return further("chroma", tmp_path_factory.mktemp("chroma"))


def test_the_network_and_its_conditions(case: Case) -> None:
    x = torch.randn(1, 16, 20, 16, generator=torch.Generator().manual_seed(8), dtype=F64)
    with torch.no_grad():
        tokens, mask = case.pipe._get_t5_prompt_embeds("a red cat at night", max_sequence_length=512)
        whole = torch.cat((mask.bool(), torch.ones(1, 80, dtype=torch.bool)), 1)
        expected = unfolded(
            case.pipe.transformer(
                folded(x),
                tokens,
                torch.tensor([0.625], dtype=F64),
                positions(10, 8, 0).double(),
                torch.zeros(512, 3, dtype=F64),
                whole,
            ).sample,
            20,
            16,
        )
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = case.model(dtype)
        cond = model.conditioner([Prompt(text="a red cat at night")])
        assert cond.mask is not None
        assert torch.equal(cond.mask, mask.bool())
        assert int(cond.mask.sum()) == 7  # five words, the end, one of padding
        assert far(cond.tokens, tokens) < most
        at = row_levels([Level(0.625, 0.375, 0.625)])
        assert far(model.denoiser.output(x, at, cond), expected) < most


def test_a_whole_walk(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(1, 16, 40, 32, generator=torch.Generator().manual_seed(3)).double()
    kind = type(case.pipe)
    prepare = kind._prepare_attention_mask

    def masked(self: Any, *args: Any, **options: Any) -> Tensor:
        # diffusers hands a mask of 0.0 and 1.0 to the attention, which adds it to the scores; the author's is of bools.
        return prepare(self, *args, **options).bool()

    monkeypatch.setattr(kind, "_prepare_attention_mask", masked)
    with torch.no_grad(), wide_tables(case.pipe):
        expected = case.pipe(
            "a red cat",
            negative_prompt="dog",
            height=80,
            width=64,
            num_inference_steps=3,
            guidance_scale=4.0,
            latents=folded(noise),
            output_type="latent",
        ).images
    task = Text2Image(prompt="a red cat", negative="dog", steps=3, seed=3, size="64x80", guidance=4.0)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        assert far(walked(case.model(dtype), task)[0], unfolded(expected, 40, 32)) < most


def test_both_layouts_hold_the_same(case: Case, tmp_path: Path) -> None:
    with open_source(case.peer.folder) as source:
        assert inspect(source).family == "chroma"
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    for layout in ("original", "diffusers"):
        save_module(tmp_path / "it.safetensors", module, part.table, layout)
        with open_source(tmp_path / "it.safetensors") as source:
            assert inspect(source).title == "Chroma"
            assert chroma(source.shapes, layout) == part.config
            again = load_into(part.make, source, part.table, layout)
        for name, tensor in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
    told = type(case.pipe.transformer).from_config(network(part, "chroma"))
    assert {k: v.shape for k, v in told.state_dict().items()} == {
        k: v.shape for k, v in case.pipe.transformer.state_dict().items()
    }
    with open_source(tmp_path / "it.safetensors") as back:
        state = case.pipe.transformer.state_dict()
        assert back.entries.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(back.read(name).double(), tensor), name


def test_no_two_rows_of_the_key_table_can_be_exchanged(case: Case) -> None:
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 16, 4, 6, generator=draws), torch.randn(1, 5, 48, generator=draws)

    def say(table: KeyTable) -> list[Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [net(x, torch.tensor([431.0]), tokens=tokens, mask=torch.tensor([[True] * 4 + [False]]))]

    check(part, say)
