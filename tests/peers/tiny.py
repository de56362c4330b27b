"""Tiny networks of diffusers and transformers, their tokenizers, and their weights drawn anew.

In a freshly built network many tensors are all 0 or all 1, so that exchanging two changes nothing; redraw leaves none.
"""

from __future__ import annotations

import gzip
import types
from functools import cache
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from sfumato.text import clip as clip_text
from sfumato.text.clip import END, START

WORDS = [
    *("a", "the", "red", "green", "blue", "cat", "dog", "rocket", "house", "moon", "runs", "flies"),
    *("on", "in", "of", "and", "at", "night", "sea"),
]


def redraw(module: nn.Module, seed: int = 1) -> None:
    """Every parameter and buffer anew: norms 1 + 0.3 n, vectors 0.3 n, weights as wide as keeps the signal's size."""
    draws = torch.Generator().manual_seed(seed)
    norms = {
        id(parameter)
        for part in module.modules()
        if "Norm" in type(part).__name__ and not list(part.children())
        for name, parameter in part.named_parameters(recurse=False)
        if name == "weight"
    }
    kept = module.state_dict().keys()  # tables that are computed are no weights
    for name, tensor in sorted(
        [*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]
    ):
        if name not in kept or not tensor.is_floating_point():
            continue
        draw = torch.randn(tensor.shape, generator=draws)
        wide = tensor.ndim > 1 and len(tensor) < 1000 and tensor.shape[0] > 1
        scaled = draw * tensor[0].numel() ** -0.5 if wide else 0.3 * draw
        tensor.data = (1 + 0.3 * draw if id(tensor) in norms else scaled).to(tensor.dtype)


def in_float64(module: nn.Module) -> nn.Module:
    """``module`` in float64 throughout.

    The peers take the mean squares of norms and the sinusoids of clocks in float32 whatever they are given, which
    would be all that differs.
    """

    def normed(self: Any, x: Tensor) -> Tensor:
        eps = getattr(self, "eps", None) or getattr(self, "variance_epsilon", None)
        out = self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return out if getattr(self, "bias", None) is None else out + self.bias

    def clock(self: Any, times: Tensor) -> Tensor:
        half = self.num_channels // 2
        rates = 10000 ** (torch.arange(half, dtype=torch.float64) / -(half - self.downscale_freq_shift))
        angles = self.scale * times.double()[:, None] * rates
        pair = (angles.cos(), angles.sin()) if self.flip_sin_to_cos else (angles.sin(), angles.cos())
        return torch.cat(pair, -1)

    for part in module.modules():
        if type(part).__name__ in ("RMSNorm", "T5LayerNorm"):
            part.forward = types.MethodType(normed, part)  # type: ignore[method-assign]
        if isinstance(part, diffusers.models.embeddings.Timesteps):
            part.forward = types.MethodType(clock, part)  # type: ignore[method-assign]
    return module.double()


def unet(**more: Any) -> diffusers.UNet2DConditionModel:
    """A U-Net of two levels, text at the second."""
    return diffusers.UNet2DConditionModel(
        **{
            "block_out_channels": (32, 64),
            "layers_per_block": 2,
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
            **more,
        }
    )


def vae(scale: float, **more: Any) -> diffusers.AutoencoderKL:
    """An autoencoder of factor 2."""
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (32, 64),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 2,
            "latent_channels": 4,
            "scaling_factor": scale,
            **more,
        }
    )


FLOW_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


@cache
def clip(
    width: int, layers: int, quick: bool, projection: int = 0, **more: Any
) -> transformers.CLIPTextModel | transformers.CLIPTextModelWithProjection:
    """A CLIP text encoder with heads of 64."""
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": 49408,
            "hidden_size": width,
            "intermediate_size": 80,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "hidden_act": "quick_gelu" if quick else "gelu",
            "projection_dim": projection or width,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": 1,
            **more,
        }
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


@cache
def clip_tokenizer(pad: str) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer; ``pad`` is "<|endoftext|>" for OpenAI's encoder and "!" for OpenCLIP's."""
    vocabulary = clip_text.pipeline().get_vocab() | {"<|startoftext|>": START, "<|endoftext|>": END}
    merges = gzip.decompress(clip_text.MERGES.read_bytes()).decode().split("\n")[:-1]
    made = transformers.CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(m.split(" ")) for m in merges], pad_token=pad
    )
    made.model_max_length = 77
    return made


@cache
def t5(width: int) -> transformers.T5EncoderModel:
    """A T5 encoder over WORDS."""
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=64,
            d_model=width,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


@cache
def t5_tokenizer() -> transformers.T5Tokenizer:
    """T5's tokenizer with a vocabulary of WORDS."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -float(i)) for i, word in enumerate(WORDS, 1)]
    made = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    made.model_max_length = 512
    return made
