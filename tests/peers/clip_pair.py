"""A small CLIP with the true vocabulary, as transformers' and as ours, with the same redrawn weights."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.text import clip
from sfumato.text.prompt.chunks import clip_vocabulary
from sfumato.text.prompt.weighting import Encode

VOCABULARY = clip_vocabulary()


@cache
def tokenizer() -> Any:
    vocabulary = clip.pipeline().get_vocab() | {"<|startoftext|>": clip.START, "<|endoftext|>": clip.END}
    merges = gzip.decompress(clip.MERGES.read_bytes()).decode().split("\n")[:-1]
    pairs = [tuple(m.split(" ")) for m in merges]
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77)


@cache
def pair() -> tuple[Any, ClipText]:
    """transformers' network and ours, float32, width 16, two layers."""
    generator = torch.Generator().manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, hidden_act="quick_gelu", eos_token_id=clip.END, bos_token_id=clip.START,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.CLIPTextModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)
    ours = ClipText(ClipConfig(width=16, layers=2, heads=2, mlp=24, quick=True)).eval()
    state = {k.removeprefix("text_model."): v for k, v in theirs.state_dict().items()}
    names = {
        "token.weight": state["embeddings.token_embedding.weight"],
        "place.weight": state["embeddings.position_embedding.weight"],
        "norm.weight": state["final_layer_norm.weight"],
        "norm.bias": state["final_layer_norm.bias"],
    }
    inner = {"out": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2"}
    for i in range(2):
        here = f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{here}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            names[f"blocks.{i}.qkv.{kind}"] = torch.cat(parts)
            for mine, other in (inner | {"up": "mlp.fc1", "down": "mlp.fc2"}).items():
                names[f"blocks.{i}.{mine}.{kind}"] = state[f"{here}{other}.{kind}"]
    ours.load_state_dict(names)
    return theirs, ours


def encode(ids: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Our network's states and pooled vector."""
    with torch.no_grad():
        found: tuple[Tensor, Tensor | None] = pair()[1](ids, keep=keep)
    return found


ENCODE: Encode = encode


def clip_ids(prompts: Sequence[str], pad: int = clip.END) -> Tensor:
    """Ids (B, 77) of short ``prompts``: the start, the prompt's pieces, the end, and ``pad`` in what is left."""
    rows = [[clip.START, *clip.pieces(prompt), clip.END] for prompt in prompts]
    return torch.tensor([row + [pad] * (77 - len(row)) for row in rows])
