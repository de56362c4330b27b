"""The diffusion transformer: its start, its positions, its conditions, and its block against diffusers'."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from benchmarks.diffusers_names import redraw
from sfumato.nn.attention import Attention, grid_angles
from sfumato.nn.dit import DiT, DiTBlock, DiTConfig, unpatch
from sfumato.nn.pack import pack

SMALL = DiTConfig(
    inner=3, outer=4, width=32, depth=2, heads=2, mlp=2, tokens=12, vector=6, classes=5, features=16
)


def network(config=SMALL):
    net = DiT(config)
    redraw(net)
    return net.double().eval()


def conditions(rows=2, length=5, size=(8, 8)):
    generator = torch.Generator().manual_seed(rows)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return (draw(rows, 3, *size), torch.linspace(1, 999, rows)), {
        "tokens": draw(rows, length, 12),
        "vector": draw(rows, 6),
        "label": torch.arange(rows) % 5,
        "mask": torch.arange(length)[None] < torch.arange(1, rows + 1)[:, None],
    }


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1.0, float(b.abs().max())))


def test_begins_at_zero_and_its_blocks_as_the_identity():
    net = DiT(SMALL).double()
    x, cond = conditions()
    assert torch.equal(net(*x, **cond), torch.zeros(2, 4, 8, 8, dtype=torch.float64))
    rows, steer = torch.randn(2, 16, 32, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    for block in net.blocks:
        assert torch.equal(block(rows, steer, tokens=cond["tokens"], mask=cond["mask"]), rows)
    redraw(net.blocks)
    assert not torch.allclose(net.blocks[0](rows, steer, tokens=cond["tokens"]), rows)


@torch.inference_mode()
def test_block_is_that_of_diffusers():
    attention = pytest.importorskip("diffusers.models.attention")
    theirs = attention.BasicTransformerBlock(
        32,
        2,
        16,
        num_embeds_ada_norm=5,
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    redraw(theirs)
    theirs = theirs.double().eval()
    ours = DiTBlock(replace(SMALL, tokens=0, mlp=4, qk_norm=False)).double()
    names = {
        "modulate": "norm1.linear",
        "attention.q": "attn1.to_q",
        "attention.k": "attn1.to_k",
        "attention.v": "attn1.to_v",
        "attention.out": "attn1.to_out.0",
        "first": "ff.net.0.proj",
        "second": "ff.net.2",
    }
    state = theirs.state_dict()
    ours.load_state_dict(
        {f"{a}.{leaf}": state[f"{b}.{leaf}"] for a, b in names.items() for leaf in ("weight", "bias")}
    )
    x, t, label = torch.randn(2, 9, 32, dtype=torch.float64), torch.tensor([3, 977]), torch.tensor([1, 4])
    steer = F.silu(theirs.norm1.emb(t, label, hidden_dtype=torch.float64))
    close(ours(x, steer), theirs(x, timestep=t, class_labels=label))


@torch.inference_mode()
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_and_their_inverse(patch):
    """A kernel that copies pixels into channels, then unpatch: the picture again."""
    config = replace(SMALL, patch=patch)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    net = DiT(config).double()
    eye = torch.eye(patch * patch * 3, dtype=torch.float64).view(-1, patch, patch, 3).permute(0, 3, 1, 2)
    patches = F.conv2d(x, eye, stride=net.enter.stride)
    rows = patches.permute(0, 2, 3, 1).flatten(1, 2)
    assert torch.equal(unpatch(rows, 8 // patch, 12 // patch, patch), x)


@torch.inference_mode()
def test_attention_sees_differences_of_places_only():
    """Rotary angles of a grid moved by (dy, dx) give the same attention; a stretched grid does not."""
    layer = Attention(32, 2, qk_norm=True).double()
    redraw(layer)
    x = torch.randn(1, 12, 32, dtype=torch.float64)
    big = grid_angles(9, 9, 16).double().view(9, 9, -1)
    want = layer(x, rotate=big[:3, :4].flatten(0, 1))
    for dy, dx in ((0, 5), (6, 0), (4, 3)):
        got = layer(x, rotate=big[dy : dy + 3, dx : dx + 4].flatten(0, 1))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # the angles are float32
    assert not torch.allclose(layer(x, rotate=big[:6:2, :4].flatten(0, 1)), want, atol=1e-3)
    assert not torch.allclose(layer(x, rotate=big[:3, :8:2].flatten(0, 1)), want, atol=1e-3)
    assert not torch.allclose(layer(x), want, atol=1e-3)


@torch.inference_mode()
def test_places_matter():
    net = network()
    x, cond = conditions(1)
    turned = net(x[0].transpose(-1, -2), x[1], **cond).transpose(-1, -2)
    assert not torch.allclose(turned, net(*x, **cond), atol=1e-2)


@torch.inference_mode()
def test_masked_tokens_have_no_influence():
    net = network()
    x, cond = conditions(3)
    want = net(*x, **cond)
    for filler in (0.0, 1e4):
        other = torch.where(cond["mask"][..., None], cond["tokens"], filler)
        close(net(*x, **{**cond, "tokens": other}), want)
    assert not torch.allclose(net(*x, **{**cond, "mask": None}), want)


@torch.inference_mode()
def test_order_of_tokens_does_not_matter_order_of_rows_follows():
    net = network()
    x, cond = conditions(4)
    want = net(*x, **cond)
    words = torch.tensor([3, 1, 4, 0, 2])
    close(net(*x, **{**cond, "tokens": cond["tokens"][:, words], "mask": cond["mask"][:, words]}), want)
    order = torch.tensor([2, 0, 3, 1])
    close(net(x[0][order], x[1][order], **{k: v[order] for k, v in cond.items()}), want[order])
    close(net(x[0][1:2], x[1][1:2], **{k: v[1:2] for k, v in cond.items()}), want[1:2])


@torch.inference_mode()
def test_each_condition_steers():
    net = network()
    (x, t), cond = conditions()
    want = net(x, t, **cond)
    changed = {"tokens": cond["tokens"] + 1, "vector": cond["vector"] + 1, "label": (cond["label"] + 1) % 5}
    for name, value in changed.items():
        assert not torch.allclose(net(x, t, **{**cond, name: value}), want), name
    assert not torch.allclose(net(x, t + 1, **cond), want)
    with pytest.raises(ValueError, match="give it tokens"):
        net(x, t)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 16), (6, 2), (7, 5), (1, 1)])
def test_any_size(size):
    net = network()
    (x, t), cond = conditions(2, size=size)
    out = net(x, t, **cond)
    assert out.shape == (2, 4, *size)
    assert out.std() > 0
    close(net(x.contiguous(memory_format=torch.channels_last), t, **cond), out)


def test_gradient_reaches_every_parameter():
    net = network()
    x, cond = conditions()
    net(*x, **cond).square().mean().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_learns_four_vectors():
    torch.manual_seed(0)
    config = DiTConfig(inner=2, outer=2, width=32, depth=2, heads=2, mlp=2, vector=4, features=16)
    net, target = DiT(config), torch.randn(4, 2, 4, 4)
    x, t, vector = torch.randn(4, 2, 4, 4), torch.full((4,), 500.0), torch.eye(4)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    first = last = 0.0
    for _ in range(150):
        loss = F.mse_loss(net(x, t, vector=vector), target)
        last = float(loss.detach())
        first = first or last
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert last < 0.1 * first


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_packed_computes_the_same(dtype, tolerance):
    net = network().to(dtype).requires_grad_(False)
    (x, t), cond = conditions()
    x, cond = x.to(dtype), {k: v.to(dtype) if v.is_floating_point() else v for k, v in cond.items()}
    want = net(x, t, **cond).float()
    assert (pack(net)(x, t, **cond).float() - want).norm() < tolerance * want.norm()


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiple"):
        DiT(replace(SMALL, width=36, heads=6))
