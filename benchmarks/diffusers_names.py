"""The same U-Net under two names: builds sfumato's UNet from a diffusers U-Net, weights and all.

Shared by the tests (diffusers as an oracle) and the benchmarks (equal networks, shown equal in the run).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.nn.unet import Look, UNet, UNetConfig

_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "clock": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "short": "conv_shortcut",
}
_HEADS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "norm3": "norm3",
    "mlp.enter": "ff.net.0.proj",
    "mlp.leave": "ff.net.2",
    **{f"self_attention.{a}": f"attn1.{b}" for a, b in _HEADS.items()},
    **{f"text_attention.{a}": f"attn2.{b}" for a, b in _HEADS.items()},
}


def unet_from(theirs: nn.Module) -> UNet:
    """sfumato's UNet computing the same function as a diffusers UNet2DModel or UNet2DConditionModel.

    The result has copies of the weights, in their dtype. ValueError for a part that UNet does not have.
    """
    config = config_from(theirs.config, text=type(theirs).__name__ == "UNet2DConditionModel")
    ours = UNet(config)
    ours.to(next(theirs.parameters()).dtype)
    state = rename(theirs.state_dict(), config)
    ours.load_state_dict({key: value.view(ours.state_dict()[key].shape) for key, value in state.items()})
    return ours.train(theirs.training)


def config_from(theirs: Any, *, text: bool) -> UNetConfig:
    """The UNetConfig of a diffusers config (a mapping with attributes)."""
    known: dict[str, Look] = {
        "DownBlock2D": "none",
        "UpBlock2D": "none",
        "AttnDownBlock2D": "self",
        "AttnUpBlock2D": "self",
        "CrossAttnDownBlock2D": "text",
        "CrossAttnUpBlock2D": "text",
    }
    down = tuple(known[name] for name in theirs.down_block_types)
    if down != tuple(known[name] for name in reversed(theirs.up_block_types)):
        raise ValueError("the way up is not the way down backwards")
    widths, head = tuple(theirs.block_out_channels), theirs.attention_head_dim
    if text:  # the name is historical: it counts heads
        heads = [head] * len(widths) if isinstance(head, int) else head
        sizes = {w // h for w, h in zip(widths, heads, strict=True)}
        fixed = head if isinstance(head, int) and len(sizes) > 1 else 0
        size = sizes.pop() if len(sizes) == 1 else 0
        if not (fixed or size):
            raise ValueError("neither the number of heads nor their size is the same everywhere")
    else:
        fixed, size = (1, 0) if head is None else (0, head)
    vector = theirs.get("projection_class_embeddings_input_dim") or 0
    return UNetConfig(
        inner=theirs.in_channels,
        outer=theirs.out_channels,
        widths=widths,
        blocks=theirs.layers_per_block,
        attention=down,
        middle="text" if text else "self",
        head=size or 64,
        heads=fixed,
        tokens=theirs.cross_attention_dim if text else 0,
        vector=vector,
        classes=theirs.num_class_embeds or 0,
        groups=theirs.norm_num_groups,
        eps=theirs.norm_eps,
        scale_shift=theirs.resnet_time_scale_shift == "scale_shift",
        cos_first=theirs.flip_sin_to_cos,
        shift=theirs.freq_shift,
        pad=theirs.downsample_padding,
    )


def rename(theirs: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """A diffusers state dict under UNet's names."""
    names = {
        "time_embedding.linear_1": "clock.first",
        "time_embedding.linear_2": "clock.second",
        "class_embedding.linear_1": "vector.first",
        "class_embedding.linear_2": "vector.second",
        "class_embedding": "label",
        "conv_in": "enter",
        "conv_norm_out": "norm",
        "conv_out": "leave",
        **_stage("middle", "mid_block", 0),
        **_stage("after", "mid_block", 1),
    }
    levels, down, up = len(config.widths), 0, 0
    for level in range(levels):
        for block in range(config.blocks):
            names |= _stage(f"down.{down}", f"down_blocks.{level}", block)
            down += 1
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"down.{down}.conv"
        down += 1
    for level in range(levels):
        for block in range(config.blocks + 1):
            names |= _stage(f"up.{up}", f"up_blocks.{level}", block)
            up += 1
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"up.{up}.conv"
        up += 1
    out = {}
    for key, value in theirs.items():
        module, leaf = key.rsplit(".", 1)
        out[f"{names[module]}.{leaf}"] = value
    return out


def _stage(ours: str, theirs: str, index: int) -> dict[str, str]:
    names = {f"{theirs}.resnets.{index}.{b}": f"{ours}.block.{a}" for a, b in _BLOCK.items()}
    attention, look = f"{theirs}.attentions.{index}", f"{ours}.look"
    names |= {f"{attention}.{b}": f"{look}.attention.{a}" for a, b in _HEADS.items()}
    names[f"{attention}.group_norm"] = names[f"{attention}.norm"] = f"{look}.norm"
    names[f"{attention}.proj_in"], names[f"{attention}.proj_out"] = f"{look}.enter", f"{look}.leave"
    for depth in range(16):
        layer = f"{attention}.transformer_blocks.{depth}"
        names |= {f"{layer}.{b}": f"{look}.blocks.{depth}.{a}" for a, b in _LAYER.items()}
    return names


def redraw(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew: matrices by fan-in, norms 1 + 0.3 n, biases 0.3 n, n normal.

    Fresh networks are full of zeros and ones, which hide mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            if parameter.ndim >= 2:
                parameter.copy_(noise / (parameter[0].numel() ** 0.5))
            else:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
