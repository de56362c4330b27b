"""Names of Chroma: ours, the author's, and diffusers'; FLUX.1's without modulations, and what makes them."""

from __future__ import annotations

from sfumato.families.keys.joint import FLUX_DOUBLE, FLUX_SINGLE
from sfumato.nn.chroma import ChromaConfig
from sfumato.weights.keys import KeyTable

_ENDS = """
words                 txt_in                                      context_embedder
enter                 img_in                                      x_embedder
leave                 final_layer.linear                          proj_out
steer.enter           distilled_guidance_layer.in_proj            distilled_guidance_layer.in_proj
steer.leave           distilled_guidance_layer.out_proj           distilled_guidance_layer.out_proj
"""
_LAYER = """
layers.{i}.first      layers.{i}.in_layer       layers.{i}.linear_1
layers.{i}.second     layers.{i}.out_layer      layers.{i}.linear_2
norms.{i}.weight      norms.{i}.scale           norms.{i}.weight
"""


def chroma_table(config: ChromaConfig) -> KeyTable:
    """The rows for a Chroma of ``config``."""
    guide = "distilled_guidance_layer."
    whole = KeyTable.parse(_ENDS)
    whole += KeyTable.parse(_LAYER, {"i": config.layers}).prefixed("steer.", guide, guide)
    double, single = (
        KeyTable.parse("\n".join(line for line in text.splitlines() if "modulation" not in line))
        for text in (FLUX_DOUBLE, FLUX_SINGLE)
    )
    for i in range(config.double):
        whole += double.prefixed(f"double_blocks.{i}.", f"double_blocks.{i}.", f"transformer_blocks.{i}.")
    for i in range(config.single):
        whole += single.prefixed(
            f"single_blocks.{i}.", f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
        )
    return whole
