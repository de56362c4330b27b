"""Names of SANA and of its autoencoder DC-AE: ours, the authors' (Xie et al.; Chen et al.), and diffusers'."""

from __future__ import annotations

from sfumato.nn.dcae import DcaeConfig, DcaeHalf
from sfumato.nn.sana import SanaConfig
from sfumato.weights.keys import KeyTable

_ENDS = """
enter                x_embedder.proj             patch_embed.proj
all_blocks           t_block.1                   time_embed.linear
words_up             y_embedder.y_proj.fc1       caption_projection.linear_1
words_down           y_embedder.y_proj.fc2       caption_projection.linear_2
words_norm           attention_y_norm            caption_norm
table                final_layer.scale_shift_table   scale_shift_table
leave                final_layer.linear          proj_out
"""
_CLOCK = """
clock.first          t_embedder.mlp.0            time_embed.emb.timestep_embedder.linear_1
clock.second         t_embedder.mlp.2            time_embed.emb.timestep_embedder.linear_2
"""
_SPRINT = """
clock.first          t_embedder.mlp.0            time_embed.timestep_embedder.linear_1
clock.second         t_embedder.mlp.2            time_embed.timestep_embedder.linear_2
guidance.first       cfg_embedder.mlp.0          time_embed.guidance_embedder.linear_1
guidance.second      cfg_embedder.mlp.2          time_embed.guidance_embedder.linear_2
"""
_BLOCK = """
table                scale_shift_table           scale_shift_table
look.qkv             attn.qkv                    attn1.[to_q,to_k,to_v]
look.out             attn.proj                   attn1.to_out.0
text.q               cross_attn.q_linear         attn2.to_q
text.[k,v]           cross_attn.kv_linear        attn2.[to_k,to_v]
text.out             cross_attn.proj             attn2.to_out.0
mix.up               mlp.inverted_conv.conv      ff.conv_inverted
mix.depth            mlp.depth_conv.conv         ff.conv_depth
mix.down             mlp.point_conv.conv         ff.conv_point
"""
_NORMS = """
look.q_norm          attn.q_norm                 attn1.norm_q
look.k_norm          attn.k_norm                 attn1.norm_k
text.q_across        cross_attn.q_norm           attn2.norm_q
text.k_across        cross_attn.k_norm           attn2.norm_k
"""
UNUSED = ("pos_embed", "y_embedder.y_embedding", "logvar_linear.*")
"""What the authors' file has besides: a table of positions, the embedding of no text, a head of training."""

_PLAIN = """
conv1                main.conv1.conv             conv1
conv2                main.conv2.conv             conv2
norm                 main.conv2.norm             norm
"""
_LOOK = """
qkv                  context_module.main.qkv.conv            attn.[to_q,to_k,to_v] : conv->linear
out                  context_module.main.proj.conv           attn.to_out : conv->linear
norm                 context_module.main.proj.norm           attn.norm_out
mix.up               local_module.main.inverted_conv.conv    conv_out.conv_inverted
mix.depth            local_module.main.depth_conv.conv       conv_out.conv_depth
mix.down             local_module.main.point_conv.conv       conv_out.conv_point
mix_norm             local_module.main.point_conv.norm       conv_out.norm
"""
_SCALE = """
scales.{i}.near      context_module.main.aggreg.{i}.0        attn.to_qkv_multiscale.{i}.proj_in
scales.{i}.mix       context_module.main.aggreg.{i}.1        attn.to_qkv_multiscale.{i}.proj_out
"""


def sana_table(config: SanaConfig) -> KeyTable:
    """The rows for a Sana of ``config``."""
    block = KeyTable.parse(_BLOCK) + (KeyTable.parse(_NORMS) if config.norm else KeyTable(()))
    whole = KeyTable.parse(_ENDS, ignore={"original": UNUSED})
    whole += KeyTable.parse(_SPRINT if config.guidance else _CLOCK)
    for i in range(config.depth):
        whole += block.prefixed(f"blocks.{i}.", f"blocks.{i}.", f"transformer_blocks.{i}.")
    return whole


def dcae_table(config: DcaeConfig) -> KeyTable:
    """The rows for a Dcae of ``config``."""
    down, up = config.encoder, config.decoder
    # The authors keep every convolution in a module of its own, and those that move channels in one more.
    halved = "conv.conv" if down.shuffle else "conv"
    enter = ("enter", "project_in.conv", "conv_in")
    if not down.blocks[0]:
        enter = ("enter.conv", f"project_in.{halved}", "conv_in.conv")
    leave = ("leave", "project_out.op_list.2.conv", "conv_out")
    if not up.blocks[0]:
        leave = ("leave.conv", "project_out.op_list.2.conv.conv", "conv_out.conv")
    encoder = KeyTable.of([enter, ("leave", "project_out.main.op_list.0.conv", "conv_out")])
    decoder = KeyTable.of(
        [("enter", "project_in.main.conv", "conv_in"), ("norm", "project_out.op_list.0", "norm_out"), leave]
    )
    encoder += _levels(down, "down", "down_blocks", f"main.{halved}")
    decoder += _levels(up, "up", "up_blocks", "main.conv.conv")
    halves = (("encoder.", encoder), ("decoder.", decoder))
    return sum((table.prefixed(name, name, name) for name, table in halves), KeyTable(()))


def _levels(half: DcaeHalf, ours: str, theirs: str, moved: str) -> KeyTable:
    """The rows of all levels: a list from end to end with us, a list for each level with the others."""
    whole = KeyTable(())
    number = 0
    levels = range(len(half.widths))
    for level in levels if ours == "down" else reversed(levels):
        count = half.blocks[level]
        rows = [_block(half, level)] * count
        if count and level < len(half.widths) - 1:
            rows.insert(count if ours == "down" else 0, KeyTable.of([("conv", moved, "conv")]))
        for place, row in enumerate(rows):
            whole += row.prefixed(
                f"{ours}.{number}.", f"stages.{level}.op_list.{place}.", f"{theirs}.{level}.{place}."
            )
            number += 1
    return whole


def _block(half: DcaeHalf, level: int) -> KeyTable:
    """The rows of a block of a level."""
    if not half.looks[level]:
        return KeyTable.parse(_PLAIN)
    scales = KeyTable.parse(_SCALE, {"i": len(half.scales[level])})
    return KeyTable.parse(_LOOK) + scales
