"""Published autoencoders against diffusers' modules, every parameter redrawn."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from sfumato.nn.tiny import TinyConfig, TinyVae
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import Vae, VaeConfig


def redraw(module: nn.Module) -> None:
    """Norms around 1, biases of deviation 0.3, weights as wide as keeps the signal's size."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(module.named_parameters()):
        draw = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if parameter.ndim > 1:
            parameter.data = draw * parameter[0].numel() ** -0.5
        else:
            parameter.data = 0.3 * draw
    for part in module.modules():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            part.weight.data += 1


def in_order(theirs: nn.Module, ours: nn.Module, order: list[tuple[str, str]]) -> None:
    """Copy ``theirs`` into ``ours`` by pairs of prefixes (ours, theirs), the most special first."""
    state, filled = theirs.state_dict(), {}
    for name, tensor in state.items():
        other = name
        for mine, its in order:
            other = other.replace(its, mine)
        filled[other] = tensor
    own = ours.state_dict()
    ours.load_state_dict({k: filled[k].reshape(own[k].shape) for k in own})
    assert own.keys() == filled.keys()


BLOCK = [("short", "conv_shortcut")]
MIDDLE = [
    ("middle.before.", "mid_block.resnets.0."),
    ("middle.after.", "mid_block.resnets.1."),
    ("middle.look.norm.", "mid_block.attentions.0.group_norm."),
    ("middle.look.attention.q.", "mid_block.attentions.0.to_q."),
    ("middle.look.attention.k.", "mid_block.attentions.0.to_k."),
    ("middle.look.attention.v.", "mid_block.attentions.0.to_v."),
    ("middle.look.attention.out.", "mid_block.attentions.0.to_out.0."),
]


@pytest.mark.parametrize("quant", [True, False])
def test_the_autoencoder_equals_diffusers(quant: bool) -> None:
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )
    theirs = theirs.double().eval()
    redraw(theirs)
    ours = Vae(VaeConfig(latent=4, widths=(16, 32, 48), groups=8, quant=quant)).double().eval()
    rows = [*MIDDLE, *BLOCK, ("enter", "conv_in"), ("norm", "conv_norm_out"), ("leave", "conv_out")]
    rows += [("out_of", "post_quant_conv"), ("into", "quant_conv")]
    for level in range(3):
        for j in range(3):
            rows.append((f"down.{3 * level + j}.", f"down_blocks.{level}.resnets.{j}."))
            rows.append((f"up.{4 * level + j}.", f"up_blocks.{level}.resnets.{j}."))
        rows.append((f"down.{3 * level + 2}.", f"down_blocks.{level}.downsamplers.0."))
        rows.append((f"up.{4 * level + 3}.", f"up_blocks.{level}.upsamplers.0."))
    in_order(theirs, ours, rows)
    pixels = torch.randn(2, 3, 24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        posterior = theirs.encode(pixels).latent_dist
        mean, logvar = ours.moments(pixels)
        torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(logvar, posterior.logvar, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, rtol=0, atol=1e-10)
    assert ours.config.factor == 4


def test_the_tiny_autoencoder_equals_diffusers() -> None:
    theirs = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4
    )
    theirs = theirs.double().eval()
    redraw(theirs)
    ours = TinyVae(TinyConfig(width=16)).double().eval()
    rows = [(f"conv{k + 1}.", f"conv.{2 * k}.") for k in range(3)]
    rows += [("down.", "encoder.layers."), ("leave.", "decoder.layers.18."), ("enter.", "decoder.layers.0.")]
    at = 0
    for layer in range(2, 18):
        if layer in (5, 10, 15):
            continue
        rows.append((f"up.{at}.conv." if layer in (6, 11, 16) else f"up.{at}.", f"decoder.layers.{layer}."))
        at += 1
    in_order(theirs, ours, sorted(rows, key=lambda row: -len(row[1])))
    pixels = torch.randn(2, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latent = theirs.encode(pixels).latents
        torch.testing.assert_close(ours.encode(pixels), latent, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.decode(latent), theirs.decode(latent).sample, rtol=0, atol=1e-10)


CASES: dict[str, tuple[dict, dict]] = {
    "stable diffusion 1": (
        {
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 4,
        },
        {"attention": ("text", "text", "none"), "heads": 4},
    ),
    "stable diffusion xl": (
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (2, 4, 8),
            "transformer_layers_per_block": (1, 2, 3),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 60,
        },
        {
            "attention": ("none", "text", "text"),
            "head": 8,
            "depth": (1, 2, 3),
            "middle_depth": 3,
            "vector": 60,
        },
    ),
    "the four-fold upscaler": (
        {
            "in_channels": 7,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
            "only_cross_attention": (True, True, False),
            "use_linear_projection": True,
            "num_class_embeds": 10,
        },
        {
            "inner": 7,
            "attention": ("none", "text", "text"),
            "heads": 4,
            "only_text": (True, True, False),
            "classes": 10,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_published_u_nets_equal_diffusers(case: str) -> None:
    their_numbers, our_numbers = CASES[case]
    theirs = diffusers.UNet2DConditionModel(
        **{
            "block_out_channels": (16, 32, 64),
            "layers_per_block": 2,
            "cross_attention_dim": 24,
            "norm_num_groups": 8,
            "sample_size": 8,
            **their_numbers,
        }
    )
    theirs = theirs.double().eval()
    redraw(theirs)
    ours = UNet(
        UNetConfig(
            **{
                "inner": 4,
                "outer": 4,
                "widths": (16, 32, 64),
                "middle": "text",
                "tokens": 24,
                "groups": 8,
                **our_numbers,
            }
        )
    )
    ours = ours.double().eval()
    rows = [
        ("clock.first", "time_embedding.linear_1"),
        ("clock.second", "time_embedding.linear_2"),
        ("vector.first", "add_embedding.linear_1"),
        ("vector.second", "add_embedding.linear_2"),
        ("label.", "class_embedding."),
        ("middle.block.", "mid_block.resnets.0."),
        ("after.block.", "mid_block.resnets.1."),
        ("middle.look.", "mid_block.attentions.0."),
        ("enter.", "conv_in."),
        ("norm.", "conv_norm_out."),
        ("leave.", "conv_out."),
    ]
    for level in range(3):
        for j in range(3):
            for kind, word in (("block", "resnets"), ("look", "attentions")):
                rows.append((f"down.{3 * level + j}.{kind}.", f"down_blocks.{level}.{word}.{j}."))
                rows.append((f"up.{4 * level + j}.{kind}.", f"up_blocks.{level}.{word}.{j}."))
        rows.append((f"down.{3 * level + 2}.", f"down_blocks.{level}.downsamplers.0."))
        rows.append((f"up.{4 * level + 3}.", f"up_blocks.{level}.upsamplers.0."))
    rows += [
        (".clock.", ".time_emb_proj."),
        *BLOCK,
        (".enter.", ".proj_in."),
        (".leave.", ".proj_out."),
        (".blocks.", ".transformer_blocks."),
        (".self_attention.", ".attn1."),
        (".text_attention.", ".attn2."),
        (".out.", ".to_out.0."),
        (".q.", ".to_q."),
        (".k.", ".to_k."),
        (".v.", ".to_v."),
        (".mlp.enter.", ".ff.net.0.proj."),
        (".mlp.leave.", ".ff.net.2."),
    ]
    in_order(theirs, ours, rows)
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(2, 7 if case.endswith("upscaler") else 4, 8, 12, dtype=torch.float64, generator=draws)
    tokens = torch.randn(2, 5, 24, dtype=torch.float64, generator=draws)
    clock = torch.tensor([3.0, 871.5], dtype=torch.float64)
    more: dict = {}
    conditions: dict = {}
    if "vector" in our_numbers:
        pooled = torch.randn(2, 12, dtype=torch.float64, generator=draws)
        times = torch.tensor([[8.0, 8, 0, 0, 8, 8], [1, 2, 3, 4, 5, 6]], dtype=torch.float64)
        conditions = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times}}
        from sfumato.nn.embed import sinusoid

        more["vector"] = torch.cat((pooled, sinusoid(times.flatten(), 8).reshape(2, 48).double()), 1)
    if "classes" in our_numbers:
        more["label"] = torch.tensor([1, 7])
        conditions = {"class_labels": more["label"]}
    with torch.no_grad():
        expected = theirs(x, clock, tokens, **conditions).sample
        found = ours(x, clock, tokens=tokens, **more)
    # Both compute the clock's sinusoid in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
