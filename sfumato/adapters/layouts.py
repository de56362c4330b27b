"""The spellings that adapters have in the world: prefixes of components, endings of tensors, names of layers.

A key is ``<component><layer><ending>``. The endings tell which tensor of a formula it is, the component in which
networks to look, and what is left is a layer's name in some layout of the network's table, dotted or underscored.
Layouts mix freely: any component goes with any ending, as files of the world do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLACES = ("denoiser", "text", "text_2", "text_3")

ROLES = (
    "down", "up", "mid", "up_bias", "alpha", "dora", "magnitude", "diff", "diff_b", "set", "set_b",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip

_NAMED = r"(?:\.(?!weight\b|bias\b)[\w-]+)?"  # PEFT puts the adapter's name before the last word
_ENDINGS = (
    (r"\.lora_down\.weight", "down", "lora_down"),
    (r"\.lora_up\.weight", "up", "lora_down"),
    (r"\.lora_up\.bias", "up_bias", "lora_down"),
    (r"\.lora_mid\.weight", "mid", "lora_down"),
    (rf"\.lora_A{_NAMED}(?:\.weight)?", "down", "lora_A"),
    (rf"\.lora_B{_NAMED}(?:\.weight)?", "up", "lora_A"),
    (rf"\.lora_B{_NAMED}\.bias", "up_bias", "lora_A"),
    (rf"\.lora_magnitude_vector{_NAMED}(?:\.weight)?", "magnitude", "lora_A"),
    (r"\.lora(?:_linear_layer)?\.down\.weight", "down", "old"),
    (r"\.lora(?:_linear_layer)?\.up\.weight", "up", "old"),
    (r"(?<=[a-z0])_lora\.down\.weight", "down", "old"),
    (r"(?<=[a-z0])_lora\.up\.weight", "up", "old"),
    (r"(?<=_lora[12])\.down\.weight", "down", "old"),
    (r"(?<=_lora[12])\.up\.weight", "up", "old"),
    (r"\.alpha", "alpha", ""),
    (r"\.dora_scale", "dora", ""),
    (r"\.(?:diff|w_norm)", "diff", ""),
    (r"\.(?:diff_b|b_norm)", "diff_b", ""),
    (r"\.set_weight", "set", ""),
    *((rf"\.{role}", role, "") for role in ROLES if role.startswith(("hada", "lokr"))),
    (r"(?<=_norm)\.scale", "set", ""),  # BFL's control adapters bring the norms of queries and keys whole
)
_ENDING = re.compile("|".join(f"(?P<e{n}>{text})$" for n, (text, _, _) in enumerate(_ENDINGS)))

_UNDERSCORED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("lora_unet_", ("denoiser",), "kohya"),
    ("lora_transformer_", ("denoiser",), "onetrainer"),
    ("lora_te1_", ("text",), "kohya"),
    ("lora_te2_", ("text_2", "text_3"), "kohya"),
    ("lora_te3_", ("text_3",), "kohya"),
    ("lora_te_", ("text", "text_2"), "kohya"),
    ("lycoris_", PLACES, "lycoris"),
)
_DOTTED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("model.diffusion_model.", ("denoiser",), "comfyui"),
    ("diffusion_model.", ("denoiser",), "comfyui"),
    ("unet.", ("denoiser",), "diffusers"),
    ("transformer.", ("denoiser",), "diffusers"),
    ("text_encoders.clip_l.transformer.", ("text",), "comfyui"),
    ("text_encoders.clip_g.transformer.", ("text_2",), "comfyui"),
    ("text_encoders.t5xxl.transformer.", ("text_3",), "comfyui"),
    ("text_encoder.", ("text", "text_2"), "diffusers"),
    ("text_encoder_2.", ("text_2", "text_3"), "diffusers"),
    ("text_encoder_3.", ("text_3",), "diffusers"),
)
_PEFT = "base_model.model."
_XLABS = re.compile(r"^(double|single)_blocks\.(\d+)\.processor\.(qkv|proj)(?:_lora([12]))?$")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a file, read: the layer it belongs to as it is spelled, its role in a formula, and the ending's kind."""

    layer: str
    role: str
    ending: str


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's name, read: in which networks it may lie, its possible names there, and whose spelling it is.

    Each of ``names`` is one name, or several whose tensors are joined along dimension 0.
    """

    places: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    layout: str


def read_key(key: str) -> Key | None:
    """``key`` in its parts; None if its ending is not one of an adapter's."""
    found = _ENDING.search(key)
    if not found or not found.lastgroup or not found.start():
        return None
    _, role, ending = _ENDINGS[int(found.lastgroup[1:])]
    # A norm's scale is told by its whole name, which is that of the tensor.
    layer = key if key.endswith("_norm.scale") else key[: found.start()]
    return Key(layer, role, ending)


def read_layer(layer: str, ending: str = "") -> Layer:
    """The name ``layer`` with its component told, and what it may be called in a network's table."""
    for prefix, found, layout in _UNDERSCORED:
        if layer.startswith(prefix) and "." not in layer:
            name = layer.removeprefix(prefix)
            return Layer(found, ((name,), (f"text_model_{name}",)), layout)
    bare, told = layer, ""
    if bare.startswith(_PEFT):
        bare, told = bare.removeprefix(_PEFT), "peft"
    places: tuple[str, ...] = PLACES
    for prefix, found, layout in _DOTTED:
        if bare.startswith(prefix):
            bare, places, told = bare.removeprefix(prefix), found, told or layout
            break
    if names := _xlabs(bare):
        return Layer(("denoiser",), names, "xlabs")
    if ending == "old":
        told = "diffusers-old"
    return Layer(places, tuple((name,) for name in _spellings(bare)), told or "bare")


def _spellings(name: str) -> tuple[str, ...]:
    """``name`` and what older versions of diffusers and transformers would mean by it."""
    plain = name.replace(".processor.", ".")
    found = [name, plain]
    if plain.endswith(".to_out"):
        found.append(f"{plain}.0")
    if ".self_attn.to_" in plain:
        found.append(plain.replace(".self_attn.to_", ".self_attn.") + "_proj")
    found += [f"text_model.{each}" for each in found]
    return tuple(dict.fromkeys(found))


def _xlabs(name: str) -> tuple[tuple[str, ...], ...]:
    """XLabs' name of a FLUX.1 layer in terms of diffusers'; empty if it is none."""
    found = _XLABS.match(name)
    if not found:
        return ()
    kind, index, part, side = found.groups()
    if kind == "single":
        where = f"single_transformer_blocks.{index}"
        alone = ((f"{where}.attn.to_q", f"{where}.attn.to_k", f"{where}.attn.to_v"), (f"{where}.proj_out",))
        return () if side else (alone[part == "proj"],)
    if side is None:
        return ()
    where = f"transformer_blocks.{index}.attn"
    if part == "proj":
        return ((f"{where}.to_out.0" if side == "1" else f"{where}.to_add_out",),)
    queries = ("to_q", "to_k", "to_v") if side == "1" else ("add_q_proj", "add_k_proj", "add_v_proj")
    return (tuple(f"{where}.{each}" for each in queries),)
