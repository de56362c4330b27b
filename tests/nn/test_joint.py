"""The transformers of Stable Diffusion 3 and FLUX.1 against diffusers', every parameter redrawn."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.flux import Flux, FluxConfig, folded, positions
from sfumato.nn.mmdit import MMDiT, MMDiTConfig


def redraw(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(module.named_parameters()):
        draw = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        norm = "norm_" in name and parameter.ndim == 1 and "linear" not in name
        parameter.data = (
            1 + 0.3 * draw
            if norm
            else 0.3 * draw
            if parameter.ndim == 1
            else draw * parameter[0].numel() ** -0.5
        )


def streams(
    state: dict[str, Tensor], mine: str, its: str, qk_norm: bool, dual: bool, last: bool
) -> dict[str, Tensor]:
    """A joint block's tensors by our names."""
    out: dict[str, Tensor] = {}
    norms = {"q": ("norm_q", "norm_added_q"), "k": ("norm_k", "norm_added_k")}
    for kind in ("weight", "bias"):
        for side, words, ff, norm1, out_ in (
            ("picture", ("to_q", "to_k", "to_v"), "ff", "norm1", "to_out.0"),
            ("text", ("add_q_proj", "add_k_proj", "add_v_proj"), "ff_context", "norm1_context", "to_add_out"),
        ):
            here = f"{mine}.{side}"
            out[f"{here}.look.qkv.{kind}"] = torch.cat([state[f"{its}.attn.{w}.{kind}"] for w in words])
            modulation = state[f"{its}.{norm1}.linear.{kind}"]
            if last and side == "text":
                out[f"{here}.modulation.{kind}"] = torch.cat(modulation.chunk(2)[::-1])
                continue
            out[f"{here}.modulation.{kind}"] = modulation
            out[f"{here}.out.{kind}"] = state[f"{its}.attn.{out_}.{kind}"]
            out[f"{here}.up.{kind}"] = state[f"{its}.{ff}.net.0.proj.{kind}"]
            out[f"{here}.down.{kind}"] = state[f"{its}.{ff}.net.2.{kind}"]
        if dual:
            out[f"{mine}.picture.look2.qkv.{kind}"] = torch.cat(
                [state[f"{its}.attn2.{w}.{kind}"] for w in ("to_q", "to_k", "to_v")]
            )
            out[f"{mine}.picture.out2.{kind}"] = state[f"{its}.attn2.to_out.0.{kind}"]
    if qk_norm:
        for letter, (own, added) in norms.items():
            out[f"{mine}.picture.look.{letter}_norm.weight"] = state[f"{its}.attn.{own}.weight"]
            out[f"{mine}.text.look.{letter}_norm.weight"] = state[f"{its}.attn.{added}.weight"]
            if dual:
                out[f"{mine}.picture.look2.{letter}_norm.weight"] = state[f"{its}.attn2.{own}.weight"]
    return out


def rest(state: dict[str, Tensor], rows: dict[str, str]) -> dict[str, Tensor]:
    found = {}
    for mine, its in rows.items():
        for kind in ("weight", "bias"):
            tensor = state[f"{its}.{kind}"]
            # The last modulation holds (shift, scale) in the published files and (scale, shift) in diffusers.
            found[f"{mine}.{kind}"] = torch.cat(tensor.chunk(2)[::-1]) if mine == "modulation" else tensor
    return found


STEER = {
    "steer.clock.first": "time_text_embed.timestep_embedder.linear_1",
    "steer.clock.second": "time_text_embed.timestep_embedder.linear_2",
    "steer.vector.first": "time_text_embed.text_embedder.linear_1",
    "steer.vector.second": "time_text_embed.text_embedder.linear_2",
    "words": "context_embedder",
    "modulation": "norm_out.linear",
    "leave": "proj_out",
}


@pytest.mark.parametrize("dual", [0, 2])
@pytest.mark.parametrize("norm", [False, True])
def test_the_transformer_of_stable_diffusion_3(norm: bool, dual: int) -> None:
    theirs = diffusers.SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=20,
        caption_projection_dim=24,
        pooled_projection_dim=12,
        pos_embed_max_size=12,
        dual_attention_layers=tuple(range(dual)),
        qk_norm="rms_norm" if norm else None,
    )
    theirs = theirs.double().eval()
    redraw(theirs)
    theirs.pos_embed.pos_embed = torch.randn(
        1, 144, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    ours = MMDiT(MMDiTConfig(depth=3, width=24, heads=3, tokens=20, vector=12, side=12, norm=norm, dual=dual))
    ours = ours.double().eval()
    state = theirs.state_dict()
    names = rest(state, {**STEER, "enter": "pos_embed.proj"})
    names["places"] = state["pos_embed.pos_embed"]
    for i in range(3):
        names |= streams(state, f"blocks.{i}", f"transformer_blocks.{i}", norm, i < dual, i == 2)
    ours.load_state_dict(names)
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(2, 16, 8, 12, dtype=torch.float64, generator=draws)
    tokens = torch.randn(2, 5, 20, dtype=torch.float64, generator=draws)
    vector = torch.randn(2, 12, dtype=torch.float64, generator=draws)
    clock = torch.tensor([30.0, 871.5], dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x, tokens, vector, clock).sample
        found = ours(x, clock, tokens=tokens, vector=vector)
    # Their norm of queries and keys takes the mean square in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if norm else 1e-10)
    with pytest.raises(ValueError, match="multiples of 2"):
        ours(x[:, :, :7], clock, tokens=tokens, vector=vector)


@pytest.mark.parametrize("kind", ["dev", "schnell", "fill", "kontext"])
def test_the_transformer_of_flux(kind: str) -> None:
    guided, channels = kind != "schnell", 96 if kind == "fill" else 16
    theirs = diffusers.FluxTransformer2DModel(
        in_channels=4 * channels,
        out_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=12,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guided,
    )
    theirs = theirs.double().eval()
    redraw(theirs)
    ours = Flux(
        FluxConfig(
            double=2,
            single=2,
            width=32,
            heads=2,
            channels=channels,
            tokens=20,
            vector=12,
            guidance=guided,
            axes=(4, 6, 6),
        )
    )
    ours = ours.double().eval()
    state = theirs.state_dict()
    more = {
        "steer.guidance.first": "time_text_embed.guidance_embedder.linear_1",
        "steer.guidance.second": "time_text_embed.guidance_embedder.linear_2",
    }
    names = rest(state, {**STEER, "enter": "x_embedder", **(more if guided else {})})
    for i in range(2):
        names |= streams(state, f"double_blocks.{i}", f"transformer_blocks.{i}", True, False, False)
        mine, its = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        for part in ("weight", "bias"):
            names[f"{mine}.modulation.{part}"] = state[f"{its}.norm.linear.{part}"]
            names[f"{mine}.enter.{part}"] = torch.cat(
                [state[f"{its}.{w}.{part}"] for w in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
            )
            names[f"{mine}.leave.{part}"] = state[f"{its}.proj_out.{part}"]
        for letter in "qk":
            names[f"{mine}.{letter}_norm.weight"] = state[f"{its}.attn.norm_{letter}.weight"]
    ours.load_state_dict(names)
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(2, channels, 4, 6, dtype=torch.float64, generator=draws)
    tokens = torch.randn(2, 5, 20, dtype=torch.float64, generator=draws)
    vector = torch.randn(2, 12, dtype=torch.float64, generator=draws)
    sigma = torch.tensor([0.03, 0.87], dtype=torch.float64)
    guidance = torch.tensor([3.5, 1.0], dtype=torch.float64) if guided else None
    reference = torch.randn(2, 16, 4, 4, dtype=torch.float64, generator=draws) if kind == "kontext" else None
    rows, places = folded(x), positions(2, 3, 0)
    if reference is not None:
        rows, places = torch.cat((rows, folded(reference)), 1), torch.cat((places, positions(2, 2, 1)))
    with torch.no_grad():
        expected = theirs(
            rows, tokens, vector, sigma, places.double(), torch.zeros(5, 3, dtype=torch.float64), guidance
        ).sample[:, :6]
        found = ours(x, 1000 * sigma, tokens=tokens, vector=vector, guidance=guidance, reference=reference)
    torch.testing.assert_close(folded(found), expected, rtol=0, atol=1e-5)
