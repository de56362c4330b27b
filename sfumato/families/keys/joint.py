"""Names of the joint transformers: ours, the authors' (Stability AI, Black Forest Labs), and diffusers'."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.nn.flux import FluxConfig
from sfumato.nn.mmdit import MMDiTConfig
from sfumato.weights.keys import KeyTable

Triple = tuple[str, str, str]

_ENDS = """
steer.clock.first    t_embedder.mlp.0                    time_text_embed.timestep_embedder.linear_1
steer.clock.second   t_embedder.mlp.2                    time_text_embed.timestep_embedder.linear_2
steer.vector.first   y_embedder.mlp.0                    time_text_embed.text_embedder.linear_1
steer.vector.second  y_embedder.mlp.2                    time_text_embed.text_embedder.linear_2
words                context_embedder                    context_embedder
enter                x_embedder.proj                     pos_embed.proj
places               pos_embed                           pos_embed.pos_embed
modulation           final_layer.adaLN_modulation.1      ~norm_out.linear
leave                final_layer.linear                  proj_out
"""
_FLUX_ENDS = """
steer.clock.first     time_in.in_layer                   time_text_embed.timestep_embedder.linear_1
steer.clock.second    time_in.out_layer                  time_text_embed.timestep_embedder.linear_2
steer.vector.first    vector_in.in_layer                 time_text_embed.text_embedder.linear_1
steer.vector.second   vector_in.out_layer                time_text_embed.text_embedder.linear_2
words                 txt_in                             context_embedder
enter                 img_in                             x_embedder
modulation            final_layer.adaLN_modulation.1     ~norm_out.linear
leave                 final_layer.linear                 proj_out
"""
_FLUX_GUIDANCE = """
steer.guidance.first   guidance_in.in_layer    time_text_embed.guidance_embedder.linear_1
steer.guidance.second  guidance_in.out_layer   time_text_embed.guidance_embedder.linear_2
"""
FLUX_DOUBLE = """
picture.modulation           img_mod.lin                        norm1.linear
picture.look.qkv             img_attn.qkv                       attn.[to_q,to_k,to_v]
picture.look.q_norm.weight   img_attn.norm.query_norm.scale     attn.norm_q.weight
picture.look.k_norm.weight   img_attn.norm.key_norm.scale       attn.norm_k.weight
picture.out                  img_attn.proj                      attn.to_out.0
picture.up                   img_mlp.0                          ff.net.0.proj
picture.down                 img_mlp.2                          ff.net.2
text.modulation              txt_mod.lin                        norm1_context.linear
text.look.qkv                txt_attn.qkv                       attn.[add_q_proj,add_k_proj,add_v_proj]
text.look.q_norm.weight      txt_attn.norm.query_norm.scale     attn.norm_added_q.weight
text.look.k_norm.weight      txt_attn.norm.key_norm.scale       attn.norm_added_k.weight
text.out                     txt_attn.proj                      attn.to_add_out
text.up                      txt_mlp.0                          ff_context.net.0.proj
text.down                    txt_mlp.2                          ff_context.net.2
"""
FLUX_SINGLE = """
modulation      modulation.lin           norm.linear
enter           linear1                  [attn.to_q,attn.to_k,attn.to_v,proj_mlp*4]
q_norm.weight   norm.query_norm.scale    attn.norm_q.weight
k_norm.weight   norm.key_norm.scale      attn.norm_k.weight
leave           linear2                  proj_out
"""


def mmdit_table(config: MMDiTConfig) -> KeyTable:
    """The rows for an MMDiT of ``config``."""
    return KeyTable.parse(_ENDS) + KeyTable.of(_joint(config))


def _joint(config: MMDiTConfig) -> Iterator[Triple]:
    for i in range(config.depth):
        last = i == config.depth - 1
        ours, original, diffusers = f"blocks.{i}", f"joint_blocks.{i}", f"transformer_blocks.{i}"
        for side, block, words, norm, ff, out, added in (
            ("picture", "x_block", "to_q,to_k,to_v", "norm1", "ff", "to_out.0", ""),
            (
                "text",
                "context_block",
                "add_q_proj,add_k_proj,add_v_proj",
                "norm1_context",
                "ff_context",
                "to_add_out",
                "added_",
            ),
        ):
            here, there = f"{ours}.{side}", f"{original}.{block}"
            swapped = "~" if last and side == "text" else ""
            yield f"{here}.modulation", f"{there}.adaLN_modulation.1", f"{swapped}{diffusers}.{norm}.linear"
            yield f"{here}.look.qkv", f"{there}.attn.qkv", f"{diffusers}.attn.[{words}]"
            if config.norm:
                for letter in "qk":
                    yield (
                        f"{here}.look.{letter}_norm",
                        f"{there}.attn.ln_{letter}",
                        f"{diffusers}.attn.norm_{added}{letter}",
                    )
            if not (last and side == "text"):
                yield f"{here}.out", f"{there}.attn.proj", f"{diffusers}.attn.{out}"
                yield f"{here}.up", f"{there}.mlp.fc1", f"{diffusers}.{ff}.net.0.proj"
                yield f"{here}.down", f"{there}.mlp.fc2", f"{diffusers}.{ff}.net.2"
        if i < config.dual:
            here, there = f"{ours}.picture", f"{original}.x_block.attn2"
            yield f"{here}.look2.qkv", f"{there}.qkv", f"{diffusers}.attn2.[to_q,to_k,to_v]"
            yield f"{here}.out2", f"{there}.proj", f"{diffusers}.attn2.to_out.0"
            if config.norm:
                for letter in "qk":
                    yield (
                        f"{here}.look2.{letter}_norm",
                        f"{there}.ln_{letter}",
                        f"{diffusers}.attn2.norm_{letter}",
                    )


def flux_table(config: FluxConfig) -> KeyTable:
    """The rows for a Flux of ``config``."""
    whole = KeyTable.parse(_FLUX_ENDS)
    if config.guidance:
        whole += KeyTable.parse(_FLUX_GUIDANCE)
    double, single = KeyTable.parse(FLUX_DOUBLE), KeyTable.parse(FLUX_SINGLE)
    for i in range(config.double):
        whole += double.prefixed(f"double_blocks.{i}.", f"double_blocks.{i}.", f"transformer_blocks.{i}.")
    for i in range(config.single):
        whole += single.prefixed(
            f"single_blocks.{i}.", f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
        )
    return whole
