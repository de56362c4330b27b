"""The text encoders against transformers', every parameter redrawn."""

from __future__ import annotations

import types

import pytest
import torch
import transformers
from torch import nn

from sfumato.nn.clip import ClipConfig, ClipText
from sfumato.nn.t5 import T5Config, T5Encoder, relative_buckets


def redraw(module: nn.Module) -> None:
    """Norms around 1, all else of deviation 0.3, scaled down for wide matrices."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
        norm = parameter.ndim == 1 and name.endswith("weight")
        wide = parameter.ndim == 2 and "embed" not in name and "shared" not in name and "bias" not in name
        parameter.data = 1 + 0.3 * draw if norm else draw * (parameter.shape[1] ** -0.5 if wide else 0.3)


def clip_pair(act: str, projection: bool) -> tuple[nn.Module, ClipText]:
    config = transformers.CLIPTextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=12,
        hidden_act=act,
        projection_dim=20,
        bos_token_id=97,
        eos_token_id=98,
        pad_token_id=98,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = kind(config).double().eval()
    redraw(theirs)
    ours = ClipText(
        ClipConfig(
            width=32,
            layers=3,
            heads=4,
            mlp=48,
            vocabulary=99,
            length=12,
            projection=20 if projection else 0,
            quick=act == "quick_gelu",
            end=98,
        )
    ).double()
    state = {k.removeprefix("text_model."): v for k, v in theirs.state_dict().items()}
    names = {
        "token.weight": state["embeddings.token_embedding.weight"],
        "place.weight": state["embeddings.position_embedding.weight"],
        "norm.weight": state["final_layer_norm.weight"],
        "norm.bias": state["final_layer_norm.bias"],
    }
    if projection:
        names["projection.weight"] = state["text_projection.weight"]
    for i in range(3):
        here = f"encoder.layers.{i}."
        for kind_ in ("weight", "bias"):
            names[f"blocks.{i}.qkv.{kind_}"] = torch.cat(
                [state[f"{here}self_attn.{p}_proj.{kind_}"] for p in "qkv"]
            )
            for mine, other in (
                ("out", "self_attn.out_proj"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("up", "mlp.fc1"),
                ("down", "mlp.fc2"),
            ):
                names[f"blocks.{i}.{mine}.{kind_}"] = state[f"{here}{other}.{kind_}"]
    ours.load_state_dict(names)
    return theirs, ours


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("projection", [False, True])
def test_clip_equals_transformers(act: str, projection: bool) -> None:
    theirs, ours = clip_pair(act, projection)
    ids = torch.tensor([[97, 5, 6, 98, 98, 98, 98, 98], [97, 1, 2, 3, 4, 5, 6, 98]])
    with torch.no_grad():
        out = theirs(ids, output_hidden_states=True)
        last, pooled = ours(ids)
        before, same = ours(ids, skip=1, normed=False)
        lean, none = ours(ids, skip=1, normed=False, pooled=False)
    torch.testing.assert_close(last, out.last_hidden_state, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        pooled, out.text_embeds if projection else out.pooler_output, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(before, out.hidden_states[-2], rtol=0, atol=1e-12)
    assert torch.equal(before, lean)
    assert torch.equal(pooled, same)
    assert none is None
    torch.testing.assert_close(ours(ids, skip=3, normed=False)[0], out.hidden_states[0], rtol=0, atol=1e-12)


def test_clip_refuses_what_it_has_no_place_for() -> None:
    _, ours = clip_pair("gelu", False)
    with pytest.raises(ValueError, match="13 tokens"):
        ours(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="skip = 4"):
        ours(torch.zeros(1, 3, dtype=torch.long), skip=4)


def in_float64(theirs: nn.Module) -> None:
    """Let its norms compute in float64: they take the mean square in float32 whatever they are given."""

    def normed(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for module in theirs.modules():
        if type(module).__name__.endswith("LayerNorm") and hasattr(module, "variance_epsilon"):
            module.forward = types.MethodType(normed, module)


@pytest.mark.parametrize("each", [False, True], ids=["t5", "umt5"])
@pytest.mark.parametrize("masked", [False, True])
def test_t5_equals_transformers(each: bool, masked: bool) -> None:
    numbers = {"vocab_size": 99, "d_model": 32, "d_kv": 6, "d_ff": 40, "num_layers": 3, "num_heads": 4}
    if each:
        theirs = transformers.UMT5EncoderModel(
            transformers.UMT5Config(**numbers, feed_forward_proj="gated-gelu")
        )
    else:
        theirs = transformers.T5EncoderModel(transformers.T5Config(**numbers, feed_forward_proj="gated-gelu"))
    theirs = theirs.double().eval()
    redraw(theirs)
    in_float64(theirs)
    ours = T5Encoder(T5Config(vocabulary=99, width=32, layers=3, heads=4, head=6, mlp=40, each=each)).double()
    state = theirs.state_dict()
    names = {"token.weight": state["shared.weight"], "norm.weight": state["encoder.final_layer_norm.weight"]}
    rows = {
        "norm1": "layer.0.layer_norm",
        "q": "layer.0.SelfAttention.q",
        "k": "layer.0.SelfAttention.k",
        "v": "layer.0.SelfAttention.v",
        "out": "layer.0.SelfAttention.o",
        "places": "layer.0.SelfAttention.relative_attention_bias",
        "norm2": "layer.1.layer_norm",
        "gate": "layer.1.DenseReluDense.wi_0",
        "up": "layer.1.DenseReluDense.wi_1",
        "down": "layer.1.DenseReluDense.wo",
    }
    for i in range(3):
        for mine, other in rows.items():
            if mine != "places" or each or i == 0:
                names[f"blocks.{i}.{mine}.weight"] = state[f"encoder.block.{i}.{other}.weight"]
    ours.load_state_dict(names)
    ids = torch.randint(1, 99, (2, 150), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 150, dtype=torch.bool)
    if masked:
        mask[0, 40:] = False
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long() if masked else None).last_hidden_state
        found = ours(ids, mask if masked else None)
    torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-11)


def test_buckets_are_symmetric_but_for_their_half() -> None:
    table = relative_buckets(300, 32, 128)
    assert int(table.max()) == 31
    upper, lower = table.triu(1), table.T.triu(1)
    assert torch.equal(upper[upper > 0], lower.T.T[upper > 0] + 16)
