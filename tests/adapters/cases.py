"""Tiny networks of each family, ours and the reference's with the same redrawn weights, and how both are called.

Clocks are small: the phases of sinusoids are computed in float32 on both sides, by other operations, and at 1000 their
last digits alone would be more than what is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from sfumato.adapters import Network
from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.text import clip_table, t5_table
from sfumato.families.keys.unet import table as unet_table
from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.t5 import T5Config, T5Encoder
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.weights.links import links, pieces
from tests.adapters.case import Case
from tests.adapters.further import FURTHER


def unet(attention: tuple[str, ...], linear: bool, their: dict[str, Any], **more: Any) -> Case:
    config = UNetConfig(
        inner=4,
        outer=4,
        widths=(8, 16, 16),
        middle="text",
        tokens=12,
        groups=4,
        head=4,
        attention=attention,  # type: ignore[arg-type]
        **more,
    )
    kinds = tuple("CrossAttn" if a == "text" else "" for a in attention)

    def call_theirs(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
        x, tokens = draw(2, 4, 8, 8), draw(2, 5, 12)
        added = {"text_embeds": draw(2, 12), "time_ids": torch.arange(12.0).view(2, 6)} if more else None
        return net(x, torch.tensor([1, 4]), tokens, added_cond_kwargs=added).sample

    def call_ours(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
        from sfumato.nn.embed import sinusoid

        x, tokens = draw(2, 4, 8, 8), draw(2, 5, 12)
        doors = {}
        if more:
            pooled = draw(2, 12)
            doors["vector"] = torch.cat((pooled, sinusoid(torch.arange(12.0), 8).view(2, -1)), dim=-1)
        return net(x, torch.tensor([1.0, 4.0]), tokens=tokens, **doors)

    return Case(
        lambda: diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16, 16),
            layers_per_block=2,
            cross_attention_dim=12,
            norm_num_groups=4,
            attention_head_dim=(2, 4, 4),
            use_linear_projection=linear,
            down_block_types=tuple(f"{k}DownBlock2D" for k in kinds),
            up_block_types=tuple(f"{k}UpBlock2D" for k in reversed(kinds)),
            **their,
        ),
        lambda: UNet(config),
        unet_table(config, linear=linear),
        "denoiser",
        "unet",
        call_theirs,
        call_ours,
    )


XL = {
    "transformer_layers_per_block": (1, 2, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 60,
}
CLIP = ClipConfig(width=8, layers=2, heads=2, mlp=16, vocabulary=30, length=7, projection=6, end=29)
T5 = T5Config(vocabulary=30, width=8, layers=2, heads=2, head=4, mlp=12)
SD3 = MMDiTConfig(depth=3, width=16, heads=2, tokens=20, vector=12, side=6, norm=True, dual=1)
FLUX = FluxConfig(double=1, single=2, width=16, heads=2, tokens=20, vector=12, axes=(2, 2, 4))


def clip() -> nn.Module:
    return transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=30,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=7,
            projection_dim=6,
            hidden_act="gelu",
            bos_token_id=28,
            eos_token_id=29,
            pad_token_id=29,
        )
    )


IDS = torch.tensor([[28, 3, 4, 29, 29, 29, 29], [28, 9, 8, 7, 6, 29, 29]])


def sd3_theirs(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
    return net(draw(2, 16, 8, 8), draw(2, 5, 20), draw(2, 12), torch.tensor([1.0, 4.0])).sample


def sd3_ours(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
    x, tokens, vector = draw(2, 16, 8, 8), draw(2, 5, 20), draw(2, 12)
    return net(x, torch.tensor([1.0, 4.0]), tokens=tokens, vector=vector)


def flux_theirs(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
    from sfumato.nn.flux import folded, positions

    x, tokens, vector = draw(2, 16, 8, 8), draw(2, 5, 20), draw(2, 12)
    out = net(
        folded(x),
        tokens,
        vector,
        torch.tensor([0.001, 0.004]),
        positions(4, 4, 0),
        torch.zeros(5, 3),
        torch.tensor([0.001, 0.003]),
    ).sample
    return torch.nn.functional.pixel_shuffle(out.transpose(1, 2).unflatten(2, (4, 4)), 2)


def flux_ours(net: nn.Module, draw: Callable[..., Tensor]) -> Tensor:
    x, tokens, vector = draw(2, 16, 8, 8), draw(2, 5, 20), draw(2, 12)
    return net(
        x, torch.tensor([1.0, 4.0]), tokens=tokens, vector=vector, guidance=torch.tensor([0.001, 0.003])
    )


CASES: dict[str, Case] = {
    "sd1": unet(("text", "text", "none"), False, {}),
    "sdxl": unet(("none", "text", "text"), True, XL, vector=60, depth=(1, 2, 2), middle_depth=2),
    "sd3": Case(
        lambda: diffusers.SD3Transformer2DModel(
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            caption_projection_dim=16,
            pooled_projection_dim=12,
            pos_embed_max_size=6,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        lambda: MMDiT(SD3),
        mmdit_table(SD3),
        "denoiser",
        "transformer",
        sd3_theirs,
        sd3_ours,
    ),
    "flux": Case(
        lambda: diffusers.FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            pooled_projection_dim=12,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ),
        lambda: Flux(FLUX),
        flux_table(FLUX),
        "denoiser",
        "transformer",
        flux_theirs,
        flux_ours,
    ),
    "clip": Case(
        clip,
        lambda: ClipText(CLIP),
        clip_table(CLIP),
        "text",
        "text_encoder",
        lambda net, draw: net(IDS).text_embeds,
        lambda net, draw: net(IDS)[1],
        lambda name: ".layers." in name,
    ),
    "t5": Case(
        lambda: transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=30,
                d_model=8,
                d_kv=4,
                d_ff=12,
                num_layers=2,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        ),
        lambda: T5Encoder(T5),
        t5_table(T5),
        "text_3",
        "text_encoder_3",
        lambda net, draw: net(IDS).last_hidden_state,
        lambda net, draw: net(IDS),
    ),
    **FURTHER,
}


@cache
def weights(name: str) -> dict[str, Tensor]:
    """The reference's state, redrawn: every tensor is another, and outputs are of about unit size."""
    draws = torch.Generator().manual_seed(5)
    state = {}
    for key, tensor in CASES[name].theirs().state_dict().items():
        if not tensor.is_floating_point():
            continue
        wide = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3
        state[key] = torch.randn(tensor.shape, generator=draws) * wide
        owner = key.rpartition(".")[0].rpartition(".")[2]
        if key.endswith("norm.weight") or ("norm" in owner and key.endswith("weight")):
            state[key] += 1
    for key in state:
        if name == "dit" and ".norm1.emb." in key:
            state[key] = state["transformer_blocks.0" + key[key.index(".norm1.emb.") :]]
    if "encoder.embed_tokens.weight" in state:
        state["encoder.embed_tokens.weight"] = state["shared.weight"]
    return state


def theirs(name: str) -> nn.Module:
    """The reference with those weights."""
    made = CASES[name].theirs().eval().requires_grad_(False)
    made.load_state_dict(weights(name), strict=False)
    return made


def ours(name: str) -> Network:
    """Our network with those weights, filled by the key table."""
    case = CASES[name]
    made = case.ours().eval().requires_grad_(False)
    own = dict(made.named_parameters())
    state = weights(name)
    for link in links(case.table, "diffusers", own):
        mine = [own[n].data.view(-1) for n in link.ours]
        other = [state[n].reshape(-1) for n in link.theirs]
        for which, first, which_own, at, count in pieces(
            link, [len(m) for m in mine], [len(o) for o in other]
        ):
            mine[which_own][at : at + count] = other[which][first : first + count]
    return Network(made, case.table)


def networks(name: str) -> dict[str, Network]:
    """What ``apply`` takes."""
    return {CASES[name].place: ours(name)}


def drawn(seed: int = 1) -> Callable[..., Tensor]:
    """Normal draws by shape, the same sequence each time."""
    draws = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draws)


@torch.no_grad()
def output(name: str, net: nn.Module | Network) -> Tensor:
    """What the network answers, ours or the reference's, on the same inputs."""
    case = CASES[name]
    return case.call_ours(net.module, drawn()) if isinstance(net, Network) else case.call_theirs(net, drawn())
