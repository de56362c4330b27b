"""Which networks a checkpoint holds and in which layout, told by the names of its tensors; no torch is needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sfumato.errors import WeightsError
from sfumato.weights.header import Entry
from sfumato.weights.source import Source

FOLDERS = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae": "vae",
    "text_encoder": "text",
    "text_encoder_2": "text_2",
    "text_encoder_3": "text_3",
    "image_encoder": "looker",
    "image_embedder": "redux",
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
    ("text_encoders.gemma2_2b.transformer.", "language"),
    ("text_encoders.qwen3_4b.transformer.", "language"),
)
"""Under which prefixes single files keep their networks."""

SIGNATURES: tuple[tuple[str, str, str], ...] = (
    ("mmdit", "original", "joint_blocks.0.context_block.adaLN_modulation.1.weight"),
    ("mmdit", "diffusers", "transformer_blocks.0.attn.add_q_proj.weight pos_embed.proj.weight"),
    ("zimage", "original", "cap_pad_token noise_refiner.0.attention.qkv.weight"),
    ("zimage", "diffusers", "cap_pad_token all_x_embedder.2-1.weight"),
    ("lumina", "original", "cap_embedder.1.weight noise_refiner.0.attention.qkv.weight"),
    (
        "lumina",
        "diffusers",
        "time_caption_embed.caption_embedder.1.weight noise_refiner.0.norm1.linear.weight",
    ),
    (
        "sana",
        "original",
        "attention_y_norm.weight blocks.0.mlp.depth_conv.conv.weight blocks.0.cross_attn.q_linear.weight",
    ),
    ("sana", "diffusers", "caption_norm.weight transformer_blocks.0.ff.conv_depth.weight"),
    ("chroma", "original", "distilled_guidance_layer.in_proj.weight double_blocks.0.img_attn.qkv.weight"),
    ("chroma", "diffusers", "distilled_guidance_layer.in_proj.weight x_embedder.weight"),
    ("flux", "original", "double_blocks.0.img_attn.norm.query_norm.scale single_blocks.0.linear1.weight"),
    ("flux", "diffusers", "single_transformer_blocks.0.proj_mlp.weight x_embedder.weight"),
    ("pixart", "original", "t_block.1.weight y_embedder.y_proj.fc1.weight"),
    (
        "pixart",
        "diffusers",
        "adaln_single.linear.weight caption_projection.linear_1.weight pos_embed.proj.weight",
    ),
    ("dit", "original", "x_embedder.proj.weight y_embedder.embedding_table.weight"),
    (
        "dit",
        "diffusers",
        "pos_embed.proj.weight transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
    ),
    ("unet", "original", "input_blocks.0.0.weight middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
    ("unet", "diffusers", "conv_in.weight mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
    (
        "unet",
        "original",
        "input_blocks.0.0.weight middle_block.0.in_layers.2.weight label_emb.0.0.weight",
    ),
    (
        "unet",
        "diffusers",
        "conv_in.weight mid_block.resnets.0.conv1.weight add_embedding.linear_1.weight",
    ),
    ("dhariwal", "original", "map_layer0.weight map_layer1.weight out_norm.weight out_conv.weight"),
    ("song", "original", "map_layer0.weight map_layer1.weight"),
    ("noised", "original", "input_blocks.0.0.weight middle_block.1.qkv.weight out.2.positional_embedding"),
    ("pixels", "original", "input_blocks.0.0.weight middle_block.1.qkv.weight out.2.weight"),
    (
        "pixels",
        "diffusers",
        "conv_in.weight mid_block.resnets.0.time_emb_proj.weight down_blocks.0.resnets.0.conv1.weight",
    ),
    ("vae", "original", "encoder.down.0.block.0.conv1.weight decoder.mid.attn_1.q.weight"),
    (
        "vae",
        "diffusers",
        "encoder.down_blocks.0.resnets.0.conv1.weight decoder.mid_block.resnets.0.conv1.weight",
    ),
    ("dcae", "original", "decoder.project_in.main.conv.weight decoder.project_out.op_list.0.weight"),
    ("dcae", "diffusers", "decoder.norm_out.weight encoder.conv_out.weight"),
    ("tiny", "diffusers", "encoder.layers.0.weight decoder.layers.0.weight"),
    ("tiny", "original", "encoder.0.weight decoder.1.weight"),
    (
        "siglip",
        "diffusers",
        "vision_model.embeddings.patch_embedding.bias vision_model.post_layernorm.weight",
    ),
    ("redux", "original", "redux_up.weight redux_down.weight"),
    ("clip", "diffusers", "text_model.embeddings.token_embedding.weight"),
    ("clip", "original", "transformer.resblocks.0.attn.in_proj_weight token_embedding.weight"),
    ("gemma2", "diffusers", "embed_tokens.weight layers.0.post_feedforward_layernorm.weight"),
    ("gemma2", "diffusers", "model.embed_tokens.weight model.layers.0.post_feedforward_layernorm.weight"),
    (
        "qwen3",
        "diffusers",
        "embed_tokens.weight layers.0.self_attn.q_norm.weight layers.0.mlp.gate_proj.weight",
    ),
    (
        "qwen3",
        "diffusers",
        "model.embed_tokens.weight model.layers.0.self_attn.q_norm.weight model.layers.0.mlp.gate_proj.weight",
    ),
    ("t5", "diffusers", "shared.weight encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
)
"""Kind, layout, and the keys that a network of that kind and layout always has."""

FOREIGN = {
    "FLUX.2": "double_stream_modulation_img.lin.weight",
    "HunyuanVideo": "txt_in.individual_token_refiner.blocks.0.norm1.weight",
    "Qwen-Image": "transformer_blocks.0.img_mod.1.weight",
    "Wan": "head.modulation",
    "LTX-Video": "patchify_proj.weight",
    "Z-Image Omni": "siglip_pad_token",
    "ControlNet of Z-Image": "control_all_x_embedder.2-1.weight",
    "OmniGen2": "image_index_embedding",
    "AuraFlow": "double_layers.0.attn.w1q.weight",
    "Stable Cascade": "clip_txt_mapper.weight",
    "ControlNet": "zero_convs.0.0.weight",
    "ControlNet (diffusers)": "controlnet_cond_embedding.conv_in.weight",
}
"""Networks that are known by name and not read here, by a key that only they have."""

LANGUAGES = {"gemma2": "Gemma 2", "qwen3": "Qwen 3"}
"""Language models that read prompts, by kind."""

APART = {
    "t5": "text_3",
    **dict.fromkeys(LANGUAGES, "language"),
    "siglip": "looker",
    "redux": "redux",
    "noised": "classifier",
}
"""Networks with one place, wherever they were found."""

LOOKERS = {"image_encoder": "siglip"}
"""Components that are read only where they are of a kind: pipelines carry other ones, which nothing here asks."""

ADAPTERS = (
    ".lora_up.",
    ".lora_down.",
    ".lora_A.",
    ".lora_B.",
    ".lora.up.",
    ".hada_w1_a",
    ".lokr_w1",
)
"""What stands in the keys of files that change a network and are none."""

OTHER_ADAPTERS = {"OFT": ".oft_", "BOFT": ".boft_", "IA3": ".ia3_l", "VeRA": "vera_lambda_"}
"""Kinds of adapters that are not read, by what stands in their keys."""

OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the attention's parts before 0.17, as in the published folders of Stable Diffusion 1 and 2."""


ROWS = ("x_pad_token", "cap_pad_token")
"""Matrices of one row, which GGUF files may hold as vectors: ggml knows no last side of 1."""


@dataclass(frozen=True)
class Found:
    """A network among a checkpoint's tensors: its kind and layout, and its tensors by their usual names."""

    kind: str
    layout: str
    source: Source


def networks(source: Source) -> dict[str, Source]:
    """The tensors of each network of ``source`` by place; place "" if all of it is one network, or none."""
    if source.parts:
        held = {name: part for name, part in source.parts.items() if name in FOLDERS and part.entries}
        return {
            place: held[name]
            for name, place in FOLDERS.items()
            if name in held and (name not in LOOKERS or _is(LOOKERS[name], held[name]))
        }
    begins = {place: prefix for prefix, place in PREFIXES if _any(source.entries, prefix)}
    return {place: source.under(prefix) for place, prefix in begins.items()} or {"": source}


def _is(kind: str, source: Source) -> bool:
    names = usual_names(source).entries
    return any(all(key in names for key in keys.split()) for one, _, keys in SIGNATURES if one == kind)


def place_of(kind: str, found: str) -> str:
    """The place of a network of ``kind`` that was ``found`` at a place, "" if it comes alone.

    T5 is always "text_3": it is the second encoder of FLUX.1's folders, the third of Stable Diffusion 3's. A language
    model is always "language".
    """
    if kind in APART:
        return APART[kind]
    return found or {"vae": "vae", "tiny": "vae", "dcae": "vae", "clip": "text"}.get(kind, "denoiser")


def recognise(source: Source, name: str) -> Found:
    """The network that ``source`` is, its keys without prefix. WeightsError names the nearest kinds if it is none."""
    source = usual_names(source)
    found = source.entries
    for title, key in FOREIGN.items():
        if any(k == key or k.endswith(f".{key}") for k in found):
            raise WeightsError(
                f"{name} of {source.path} is no network that is known here; by its key {key} it is {title}, "
                "which is not read yet"
            )
    scores = []
    for kind, layout, keys in SIGNATURES:
        wanted = keys.split()
        missing = [key for key in wanted if key not in found]
        if not missing:
            return Found(kind, layout, source)
        scores.append((len(missing) / len(wanted), f"{kind} ({layout}) lacks {', '.join(missing)}"))
    for title, mark in OTHER_ADAPTERS.items():
        if any(mark in key for key in found):
            raise WeightsError(
                f"{name} of {source.path} is an adapter by {title}, which is not read; LoRA and its kin are "
                "(docs/adapters.md)"
            )
    if is_adapter(source):
        raise WeightsError(
            f"{source.path} is an adapter such as a LoRA, which changes a network and is none: give it with --adapter "
            "(adapters=[...]) beside the model that it is for"
        )
    nearest = "; ".join(text for _, text in sorted(scores)[:2])
    raise WeightsError(
        f"{name} of {source.path} is no network that is known here: {len(found)} tensors such as "
        f"{', '.join(list(found)[:3])}; nearest: {nearest}"
    )


def is_adapter(source: Source) -> bool:
    """Whether keys of ``source`` are those of an adapter that is read."""
    return any(mark in key for key in source.entries for mark in ADAPTERS)


def usual_names(source: Source) -> Source:
    """The same tensors with older or newer spellings of a layout replaced by the usual ones."""
    names = {name: _usual(name) for name in source.entries}
    if "embeddings.token_embedding.weight" in names:  # transformers 5 leaves the first word out
        names = {n: n if n.startswith("text_projection") else f"text_model.{n}" for n in names}
    if "embeddings.patch_embedding.weight" in names:
        names = {n: f"vision_model.{n}" for n in names}
    if "model.map_layer0.weight" in names:  # EDM's networks lie below what preconditions them
        names = {n: n.removeprefix("model.") for n in names}
    entries = {usual: source.entries[name] for name, usual in names.items()}
    flat = [name for name in ROWS if name in entries and len(entries[name].shape) == 1]
    if not flat and all(name == usual for name, usual in names.items()):
        return source
    return replace(source, entries=entries | {name: _row(entries[name]) for name in flat})


def _row(entry: Entry) -> Entry:
    return replace(entry, shape=(1, *entry.shape))


def _usual(name: str) -> str:
    head, _, last = name.rpartition(".")
    before, _, middle = head.rpartition(".")
    if middle in OLDER and before.rpartition(".")[0].endswith("attentions"):
        return f"{before}.{OLDER[middle]}.{last}"
    return name


def _any(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
