"""What Lumina-Image 2 and Z-Image are asked alike: files of theirs in several layouts, adapters of every layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.shapes import Shapes
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.families.test_published_rows import check, exchanged


def kept_in_both_layouts(folder: Path, out: Path, title: str, read: Callable[[Shapes, str], Any]) -> Part:
    """The denoiser in ``folder``, after it was written to ``out`` in both layouts and read again."""
    with open_source(folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    for layout in ("original", "diffusers"):
        save_module(out / f"{layout}.safetensors", module, part.table, layout)
        with open_source(out / f"{layout}.safetensors") as source:
            assert inspect(source).title == title
            assert read(source.shapes, layout) == part.config
            again = load_into(part.make, source, part.table, layout)
        for name, tensor in module.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
    return part


def in_one_file(folder: Path, file: Path, language: str, more: Mapping[str, Tensor]) -> None:
    """Write ``file``: the networks in ``folder`` as ComfyUI keeps them in one, with ``more`` that nothing reads."""
    held = dict(more)
    with open_source(folder) as source:
        for place, prefix in (
            ("denoiser", "model.diffusion_model."),
            ("vae", "vae."),
            (
                "language",
                f"text_encoders.{language}.transformer.model.",
            ),  # as those of the class without a head
        ):
            part = open_checkpoint(source).parts[place]
            module = load_into(part.make, part.source, part.table, part.layout)
            layout = "original" if place != "language" else part.layout
            save_module(file.with_name(f"{place}.safetensors"), module, part.table, layout)
            found = load_file(file.with_name(f"{place}.safetensors"))
            held |= {prefix + name: tensor for name, tensor in found.items()}
    save_file(held, file)


def there_and_back(file: Path, tokenizer: Path, kind: Any) -> Path:
    """The folder that ``file`` becomes, with ``tokenizer``: ``kind`` opens it, and it becomes the file again."""
    folder, back = file.with_name("folder"), file.with_name(f"back_{file.name}")
    with open_source(file) as source:
        notes = convert(source, folder, "diffusers").notes
    assert any("tokenizer is not in the source" in note for note in notes)
    with open_source(folder) as source:
        convert(source, back, "original")
    before, after = load_file(file), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    shutil.copytree(tokenizer, folder / "tokenizer")
    pipe = kind.from_pretrained(folder)
    assert type(pipe) is kind
    for name in ("transformer", "vae", "text_encoder"):
        found = load_file(next((folder / name).glob("*.safetensors")))
        held = {key.removeprefix("model."): tensor for key, tensor in found.items()}
        state = getattr(pipe, name).state_dict()
        assert held.keys() == state.keys()
        assert all(torch.equal(state[key], value) for key, value in held.items())
    return folder


def check_rows(folder: Path, also: Callable[[KeyTable], tuple[int, int]] | None = None) -> None:
    """Exchanging two rows of a key table in ``folder`` is heard, among them those that ``also`` names."""
    with open_source(folder) as source:
        parts = open_checkpoint(source).parts
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 16, 4, 6, generator=draws), torch.randn(1, 5, 48, generator=draws)
    mask = torch.tensor([[True] * 4 + [False]])

    def said(place: str, table: KeyTable) -> list[Tensor]:
        part = parts[place]
        net = load_into(part.make, part.source, table, part.layout, dtype=torch.float32)
        with torch.no_grad():
            if place == "language":
                return [net(torch.arange(5, 10)[None], mask)]
            return [net(x, torch.tensor([431.0]), tokens=tokens, mask=mask)]

    table = parts["denoiser"].table
    check(parts["denoiser"], lambda rows: said("denoiser", rows))
    if also is not None:
        before, after = (said("denoiser", rows)[0] for rows in (table, exchanged(table, *also(table))))
        assert float((before - after).abs().max()) > 1e-3
    first = KeyTable(parts["language"].table.rows)
    assert not torch.equal(said("language", first)[0], said("language", exchanged(first, 2, 3))[0])


def drawn_lora(net: nn.Module, draws: torch.Generator) -> dict[str, Tensor]:
    """An adapter of every linear layer of diffusers' ``net``; queries, keys and values share a matrix, as in files."""
    made: dict[str, Tensor] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            shared = name.replace("to_k", "to_q").replace("to_v", "to_q")
            down = made.get(f"transformer.{shared}.lora_A.weight")
            drawn = 0.3 / layer.in_features**0.5 * torch.randn(3, layer.in_features, generator=draws)
            made[f"transformer.{name}.lora_A.weight"] = drawn if down is None else down.clone()
            made[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 3, generator=draws)
    return made


def fused(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """An adapter by other ``names``, as ComfyUI has them: queries, keys and values in one."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if "to_k" in key or "to_v" in key:
            continue
        if "to_q.lora_B" in key:
            value = torch.cat([state[key.replace("to_q", f"to_{letter}")] for letter in "qkv"])
        for theirs, original in {**names, "transformer.": "diffusion_model."}.items():
            key = key.replace(theirs, original)
        out[key] = value.clone()
    return out
