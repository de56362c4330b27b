"""What a file of an adapter or of learned words is, for people; no model is needed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from sfumato.adapters.embedding import is_embedding, read_embedding
from sfumato.adapters.formula import Loha, Lokr, Lora
from sfumato.adapters.layouts import read_key
from sfumato.adapters.read import Adapter, read_adapter
from sfumato.adapters.write import MASKED
from sfumato.weights.source import Source, open_source

BY_TEXT = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "Stable Diffusion XL",
    1280: "the refiner of XL",
}
"""U-Nets by the width of the text that they read."""


ARCHITECTURES = {
    "stable-diffusion-v1": "Stable Diffusion 1",
    "stable-diffusion-v2-512": "Stable Diffusion 2",
    "stable-diffusion-v2-768-v": "Stable Diffusion 2",
    "stable-diffusion-xl-v1-base": "Stable Diffusion XL",
    "stable-diffusion-3": "Stable Diffusion 3",
    "flux-1-dev": "FLUX.1",
    "flux-1-schnell": "FLUX.1",
    "kontext": "FLUX.1",
    "chroma": "Chroma",
    "flux-1-chroma": "Chroma",
    "lumina-2": "Lumina-Image 2",
    "z-image": "Z-Image",
    "z-image-turbo": "Z-Image",
    "pixart": "PixArt",
    "sana": "SANA",
    "dit": "DiT",
    "emoji": "the built-in model",
}
"""Families by ModelSpec's architecture, or by what is written here for those that it does not name."""


def about(source: Source) -> dict[str, object] | None:
    """What ``source`` is if it is an adapter or a textual inversion (``kind``), by ``describe``; None if neither."""
    if is_embedding(source):
        word = read_embedding(source)
        vectors = {place: list(tensor.shape) for place, tensor in sorted(word.vectors.items())}
        return {"kind": "embedding", "name": word.name, "vectors": vectors, "metadata": dict(word.metadata)}
    keys = sum(read_key(name) is not None for name in source.entries)
    return described(source) if 2 * keys > len(source.entries) else None


def describe(path: str | Path, *, allow_pickle: bool = False) -> dict[str, object]:
    """What the adapter at ``path`` is, for people: no model is needed, and what is not understood is listed.

    Keys: kind ("adapter"), family (guessed from names and shapes, empty if they do not tell), layout, algorithms (with
    counts), ranks, scales (alpha / R, rounded), networks (layers of each), dtypes, layers, bytes, zero, base (as its
    metadata tells), title, trigger words, predicts,
    padding (whether T5's was masked or seen in training), notes, left_out.
    """
    with open_source(path, allow_pickle=allow_pickle) as source:
        return described(source)


def described(source: Source) -> dict[str, object]:
    """The same of an opened ``source``."""
    adapter = read_adapter(source, partial=True)
    dtypes = sorted({entry.dtype for entry in source.entries.values()})
    size = sum(entry.bytes for entry in source.entries.values())
    scales = {
        round(float(formula.scale), 6)
        for each in adapter.layers
        for formula in each.formulas.values()
        if isinstance(formula, Lora | Loha | Lokr)
    }
    facts = adapter.metadata
    base = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "base_model")
    return {
        "kind": "adapter",
        "family": family_of(adapter),
        "layout": adapter.layout,
        "algorithms": adapter.algorithms,
        "ranks": list(adapter.ranks),
        "scales": sorted(scales),
        "networks": dict(Counter("/".join(each.places) for each in adapter.layers)),
        "dtypes": dtypes,
        "layers": len(adapter.layers),
        "bytes": size,
        "zero": adapter.zero,
        "base": {name: facts[name] for name in base if name in facts},
        "title": facts.get("modelspec.title", ""),
        "trigger": facts.get("modelspec.trigger_phrase", ""),
        "predicts": facts.get("modelspec.prediction_type", ""),
        "padding": {"True": "masked", "False": "seen"}.get(facts.get(MASKED, ""), ""),
        "notes": list(adapter.notes),
        "left_out": dict(adapter.left_out),
    }


def family_of(adapter: Adapter) -> str:
    """Which family the header of ``adapter`` tells, else its names and shapes, for people; empty if they do not."""
    told = adapter.metadata.get("modelspec.architecture", "").partition("/")[0]
    if told.lower() in ARCHITECTURES:
        return ARCHITECTURES[told.lower()]
    if told and adapter.metadata.get("modelspec.implementation") == "sfumato":
        return told
    names = [each.name for each in adapter.layers]
    if any(re.search(r"(double|single)_blocks|single_transformer_blocks", name) for name in names):
        return "FLUX.1"
    if any(re.search(r"joint_blocks|add_[qkv]_proj|ff_context", name) for name in names):
        return "Stable Diffusion 3"
    found: Counter[str] = Counter()
    for each in adapter.layers:
        if each.weight is None:
            continue
        _, width, *_ = (*each.weight.shape(), 0, 0)
        if re.search(r"attn2[._](processor[._])?to_[kv]", each.name) and width in BY_TEXT:
            found[BY_TEXT[width]] += 1
        elif re.search(r"transformer_blocks[._][2-9][._]attn", each.name):
            found["Stable Diffusion XL"] += 1
    return found.most_common(1)[0][0] if found else ""
