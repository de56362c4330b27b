"""A checkpoint's parts: which networks a file or folder holds, in which layout, told by keys and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sfumato.errors import WeightsError
from sfumato.families import shapes
from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.text import clip_table, t5_table
from sfumato.families.keys.unet import table as unet_table
from sfumato.families.keys.vae import OLDER, tiny_table
from sfumato.families.keys.vae import table as vae_table
from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT
from sfumato.nn.t5 import T5Encoder
from sfumato.nn.tiny import TinyVae
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import Vae, VaeConfig
from sfumato.weights.keys import KeyTable
from sfumato.weights.source import Source

FOLDERS = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae": "vae",
    "text_encoder": "text",
    "text_encoder_2": "text_2",
    "text_encoder_3": "text_3",
}
"""The components of a diffusers folder that are networks of ours, and their place here."""

PREFIXES = (
    ("model.diffusion_model.", "denoiser"),
    ("first_stage_model.", "vae"),
    ("vae.", "vae"),
    ("cond_stage_model.transformer.", "text"),
    ("cond_stage_model.model.", "text"),
    ("conditioner.embedders.0.transformer.", "text"),
    ("conditioner.embedders.0.model.", "text_2"),
    ("conditioner.embedders.1.model.", "text_2"),
    ("text_encoders.clip_l.transformer.", "text"),
    ("text_encoders.clip_g.transformer.", "text_2"),
    ("text_encoders.t5xxl.transformer.", "text_3"),
)
"""Under which prefixes single files keep their networks."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a checkpoint: what it is, and how it is made and filled.

    ``kind`` is "unet", "mmdit", "flux", "vae", "tiny", "clip" or "t5"; ``layout`` is "original" or "diffusers";
    ``config`` the network's own, read from shapes; ``linear`` belongs to U-Nets (see shapes.unet).
    """

    kind: str
    layout: str
    source: Source
    config: Any
    linear: bool = True

    @property
    def table(self) -> KeyTable:
        """The names of its weights."""
        if self.kind == "unet":
            return unet_table(self.config, linear=self.linear)
        return TABLES[self.kind](self.config)

    def make(self) -> nn.Module:
        """The network, with weights of no meaning."""
        return NETWORKS[self.kind](self.config)


TABLES: dict[str, Callable[[Any], KeyTable]] = {
    "mmdit": mmdit_table,
    "flux": flux_table,
    "vae": vae_table,
    "tiny": tiny_table,
    "clip": clip_table,
    "t5": t5_table,
}
NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "unet": UNet,
    "mmdit": MMDiT,
    "flux": Flux,
    "vae": Vae,
    "tiny": TinyVae,
    "clip": ClipText,
    "t5": T5Encoder,
}
SIGNATURES: tuple[tuple[str, str, str], ...] = (
    ("mmdit", "original", "joint_blocks.0.context_block.adaLN_modulation.1.weight"),
    ("mmdit", "diffusers", "transformer_blocks.0.attn.add_q_proj.weight pos_embed.proj.weight"),
    ("flux", "original", "double_blocks.0.img_attn.norm.query_norm.scale single_blocks.0.linear1.weight"),
    ("flux", "diffusers", "single_transformer_blocks.0.proj_mlp.weight x_embedder.weight"),
    ("unet", "original", "input_blocks.0.0.weight middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
    ("unet", "diffusers", "conv_in.weight mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
    ("vae", "original", "encoder.down.0.block.0.conv1.weight decoder.mid.attn_1.q.weight"),
    (
        "vae",
        "diffusers",
        "encoder.down_blocks.0.resnets.0.conv1.weight decoder.mid_block.resnets.0.conv1.weight",
    ),
    ("tiny", "diffusers", "encoder.layers.0.weight decoder.layers.0.weight"),
    ("tiny", "original", "encoder.0.weight decoder.1.weight"),
    ("clip", "diffusers", "text_model.embeddings.token_embedding.weight"),
    ("clip", "original", "transformer.resblocks.0.attn.in_proj_weight token_embedding.weight"),
    ("t5", "diffusers", "shared.weight encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
)
"""Kind, layout, and the keys that a network of that kind and layout always has."""


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint by place (denoiser, vae, text, text_2, text_3), and what is told beside them.

    ``configs`` are the settings of a diffusers folder's components by name (scheduler, tokenizer and the networks).
    """

    source: Source
    parts: Mapping[str, Part]
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def open_checkpoint(source: Source) -> Checkpoint:
    """The networks of ``source``; WeightsError, with what was looked for, if there is none that is known."""
    if source.parts:
        parts = {
            place: part_of(source.parts[name], name)
            for name, place in FOLDERS.items()
            if name in source.parts and source.parts[name].entries
        }
        configs = {name: part.config for name, part in source.parts.items()}
    else:
        found = {place: source.under(prefix) for prefix, place in PREFIXES if _has(source, prefix)}
        if not found:
            whole = part_of(source, str(source.path.name))
            found = {_place(whole.kind): source}
        parts = {place: part_of(one, place) for place, one in found.items()}
        configs = {}
    if not parts:
        raise WeightsError(
            f"{source.path} holds no network that is known here; looked for {', '.join(FOLDERS)}"
        )
    return Checkpoint(source, parts, configs)


def _has(source: Source, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in source.entries)


def _place(kind: str) -> str:
    return {"vae": "vae", "tiny": "vae", "clip": "text", "t5": "text_3"}.get(kind, "denoiser")


def part_of(source: Source, name: str) -> Part:
    """The network that ``source`` is, its keys without prefix. WeightsError names the nearest kinds if it is none."""
    source = _usual_names(source)
    found = source.shapes
    scores = []
    for kind, layout, keys in SIGNATURES:
        wanted = keys.split()
        missing = [key for key in wanted if key not in found]
        if not missing:
            return _read(kind, layout, source, name)
        scores.append((len(missing) / len(wanted), f"{kind} ({layout}) lacks {', '.join(missing)}"))
    nearest = "; ".join(text for _, text in sorted(scores)[:2])
    raise WeightsError(
        f"{name} of {source.path} is no network that is known here: {len(found)} tensors such as "
        f"{', '.join(list(found)[:3])}; nearest: {nearest}"
    )


def _read(kind: str, layout: str, source: Source, name: str) -> Part:
    found = source.shapes
    config: Any
    linear = True
    try:
        if kind == "unet":
            config, linear = shapes.unet(found, layout)
        else:
            config = READERS[kind](found, layout)
        config = refined(config, source.config)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"{name} of {source.path} looks like a {kind} in {layout} layout, but {error} does not fit"
        ) from error
    return Part(kind=kind, layout=layout, source=source, config=config, linear=linear)


def refined(config: Any, told: Mapping[str, Any]) -> Any:
    """``config`` with what shapes cannot tell, from the ``config.json`` beside the weights if there is one."""
    if isinstance(config, UNetConfig) and told:
        heads = told.get("num_attention_heads") or told.get("attention_head_dim") or 8
        groups = told.get("norm_num_groups") or config.groups
        if isinstance(heads, int):
            return replace(config, heads=heads, groups=groups)
        wide = {width // count for width, count in zip(config.widths, heads, strict=True)}
        if len(wide) > 1:
            raise ValueError(f"attention_head_dim = {heads}, which makes heads of different widths,")
        return replace(config, head=wide.pop(), groups=groups)
    if isinstance(config, VaeConfig) and told:
        return replace(config, groups=told.get("norm_num_groups", config.groups))
    if isinstance(config, ClipConfig) and told:
        end = told.get("eos_token_id", 2)
        return replace(
            config,
            heads=told.get("num_attention_heads", config.heads),
            quick=told.get("hidden_act", "quick_gelu") == "quick_gelu",
            # Configurations made before transformers 4.30 name 2, which is not the end token of any CLIP.
            end=config.vocabulary - 1 if end == 2 else end,
            eps=told.get("layer_norm_eps", config.eps),
        )
    if isinstance(config, FluxConfig) and told:
        return replace(config, axes=tuple(told.get("axes_dims_rope", config.axes)))
    return config


READERS: dict[str, Callable[[shapes.Shapes, str], Any]] = {
    "mmdit": shapes.mmdit,
    "flux": shapes.flux,
    "vae": shapes.vae,
    "tiny": shapes.tiny,
    "clip": shapes.clip,
    "t5": lambda found, layout: shapes.t5(found),
}


def _usual_names(source: Source) -> Source:
    """The same tensors with older or newer spellings of a layout replaced by the usual ones."""
    names = {name: _usual(name) for name in source.entries}
    if "embeddings.token_embedding.weight" in names:  # transformers 5 leaves the first word out
        whole = {n: n if n.startswith("text_projection") else f"text_model.{n}" for n in names}
        names = whole
    if all(name == usual for name, usual in names.items()):
        return source
    return replace(source, entries={usual: source.entries[name] for name, usual in names.items()})


def _usual(name: str) -> str:
    head, _, last = name.rpartition(".")
    before, _, middle = head.rpartition(".")
    if middle in OLDER and ".mid_block.attentions.0" in before:
        return f"{before}.{OLDER[middle]}.{last}"
    return name
