"""Names of DiT and PixArt: ours, the authors' (Peebles & Xie; Chen et al.), and diffusers'."""

from __future__ import annotations

from sfumato.nn.sincos import SincosConfig
from sfumato.weights.keys import KeyTable

_PIXART = """
enter                x_embedder.proj             pos_embed.proj
clock.first          t_embedder.mlp.0            adaln_single.emb.timestep_embedder.linear_1
clock.second         t_embedder.mlp.2            adaln_single.emb.timestep_embedder.linear_2
all_blocks           t_block.1                   adaln_single.linear
words_up             y_embedder.y_proj.fc1       caption_projection.linear_1
words_down           y_embedder.y_proj.fc2       caption_projection.linear_2
table                final_layer.scale_shift_table   scale_shift_table
leave                final_layer.linear          proj_out
"""
_SIZES = """
size.first           csize_embedder.mlp.0        adaln_single.emb.resolution_embedder.linear_1
size.second          csize_embedder.mlp.2        adaln_single.emb.resolution_embedder.linear_2
aspect.first         ar_embedder.mlp.0           adaln_single.emb.aspect_ratio_embedder.linear_1
aspect.second        ar_embedder.mlp.2           adaln_single.emb.aspect_ratio_embedder.linear_2
"""
_BLOCK = """
look.[q,k,v]         attn.qkv                    attn1.[to_q,to_k,to_v]
look.out             attn.proj                   attn1.to_out.0
up                   mlp.fc1                     ff.net.0.proj
down                 mlp.fc2                     ff.net.2
"""
_PIXART_BLOCK = """
table                scale_shift_table           scale_shift_table
text.q               cross_attn.q_linear         attn2.to_q
text.[k,v]           cross_attn.kv_linear        attn2.[to_k,to_v]
text.out             cross_attn.proj             attn2.to_out.0
"""
# diffusers keeps the embedders of clock and class in every block, each time the same: those of the first are read.
_DIT = """
enter                x_embedder.proj             pos_embed.proj
clock.first          t_embedder.mlp.0            transformer_blocks.0.norm1.emb.timestep_embedder.linear_1
clock.second         t_embedder.mlp.2            transformer_blocks.0.norm1.emb.timestep_embedder.linear_2
label                y_embedder.embedding_table  transformer_blocks.0.norm1.emb.class_embedder.embedding_table
modulation           final_layer.adaLN_modulation.1  proj_out_1
leave                final_layer.linear          proj_out_2
"""
_DIT_BLOCK = """
modulation           adaLN_modulation.1          norm1.linear
"""
REPEATED = "transformer_blocks.{}.norm1.emb."
"""Under which prefix diffusers' DiT keeps the embedders of a block."""


def pixart_table(config: SincosConfig) -> KeyTable:
    """The rows for PixArt; the authors' table of positions and embedding of no text are passed over."""
    ignored = {"original": ["pos_embed", "y_embedder.y_embedding"]}
    whole = KeyTable.parse(_PIXART, ignore=ignored)
    if config.sizes:
        whole += KeyTable.parse(_SIZES)
    return whole + _blocks(config, KeyTable.parse(_BLOCK) + KeyTable.parse(_PIXART_BLOCK))


def dit_table(config: SincosConfig) -> KeyTable:
    """The rows for DiT; the authors' table of positions and diffusers' repeated embedders are passed over."""
    repeated = [f"{REPEATED.format(i)}*" for i in range(1, config.depth)]
    whole = KeyTable.parse(_DIT, ignore={"original": ["pos_embed"], "diffusers": repeated})
    return whole + _blocks(config, KeyTable.parse(_BLOCK) + KeyTable.parse(_DIT_BLOCK))


def _blocks(config: SincosConfig, block: KeyTable) -> KeyTable:
    whole = KeyTable(())
    for i in range(config.depth):
        whole += block.prefixed(f"blocks.{i}.", f"blocks.{i}.", f"transformer_blocks.{i}.")
    return whole
