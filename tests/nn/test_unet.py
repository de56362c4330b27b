"""The U-Net against diffusers' (other people's code, same weights), and what its conditions may do."""

from __future__ import annotations

import pytest
import torch

from benchmarks.diffusers_names import redraw, rename, unet_from
from sfumato.nn.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")

CIFAR = {  # google/ddpm-cifar10-32, with widths of our choice
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
}
PIXEL = {
    "in_channels": 3,
    "out_channels": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
}
TEXT = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 24, 32),
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}


def pair(kind, **config):
    theirs = getattr(diffusers, kind)(**config).double().eval()
    redraw(theirs)
    return theirs, unet_from(theirs).eval()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(1.0, float(b.abs().max())))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({**CIFAR, "block_out_channels": (32, 64, 64, 64)}, (32, 32)),
        ({**CIFAR, "block_out_channels": (32, 32, 64, 96)}, (16, 24)),
        ({**CIFAR, "block_out_channels": (32, 64, 64, 64), "downsample_padding": 1}, (16, 16)),
        (PIXEL, (8, 16)),
        ({**PIXEL, "attention_head_dim": 4, "flip_sin_to_cos": False}, (8, 8)),
        ({**PIXEL, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}, (4, 2)),
    ],
)
def test_pixel_unet_is_that_of_diffusers(changes, size):
    theirs, ours = pair("UNet2DModel", **changes)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    t = torch.tensor([3, 977])
    close(ours(x, t), theirs(x, t).sample)


@torch.inference_mode()
def test_class_labels_are_those_of_diffusers():
    theirs, ours = pair("UNet2DModel", **PIXEL, num_class_embeds=7)
    x, t, label = (
        torch.randn(3, 3, 8, 8, dtype=torch.float64),
        torch.tensor([0, 5, 999]),
        torch.tensor([6, 0, 6]),
    )
    close(ours(x, t, label=label), theirs(x, t, class_labels=label).sample)
    assert not torch.allclose(ours(x, t, label=label), ours(x, t))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("linear", "size", "heads"), [(True, (8, 8), 2), (False, (7, 9), 2), (True, (5, 6), (2, 3, 4))]
)
def test_text_unet_is_that_of_diffusers(linear, size, heads):
    theirs, ours = pair(
        "UNet2DConditionModel", **{**TEXT, "use_linear_projection": linear, "attention_head_dim": heads}
    )
    x, t = torch.randn(2, 4, *size, dtype=torch.float64), torch.tensor([3, 977])
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    close(ours(x, t, tokens=tokens), theirs(x, t, tokens).sample)
    want = theirs(x, t, tokens, encoder_attention_mask=mask).sample
    close(ours(x, t, tokens=tokens, mask=mask), want)
    assert not torch.allclose(want[0], theirs(x, t, tokens).sample[0])


@torch.inference_mode()
def test_vector_is_diffusers_projected_class_embedding():
    theirs, ours = pair(
        "UNet2DConditionModel",
        **{**TEXT, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
    )
    x, t = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor([3, 977])
    tokens, vector = torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    got = ours(x, t, tokens=tokens, vector=vector)
    close(got, theirs(x, t, tokens, class_labels=vector).sample)
    assert not torch.allclose(got, ours(x, t, tokens=tokens))


def test_gradients_are_those_of_diffusers():
    theirs, ours = pair("UNet2DModel", **PIXEL)
    x, t = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3, 977])
    for net, out in ((theirs, theirs(x, t).sample), (ours, ours(x, t))):
        out.square().mean().backward()
        assert all(p.grad is not None for p in net.parameters())
    want = rename({n: p.grad for n, p in theirs.named_parameters()}, ours.config)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name].view_as(parameter), rtol=1e-8, atol=1e-12)


@pytest.fixture(scope="module")
def net():
    made = UNet(
        UNetConfig(
            inner=3,
            outer=3,
            widths=(16, 32),
            blocks=1,
            attention=("none", "text"),
            middle="text",
            head=8,
            tokens=12,
            vector=6,
            classes=4,
            groups=8,
            scale_shift=True,
        )
    )
    redraw(made)
    return made.double().eval()


def conditions(rows, length=5):
    generator = torch.Generator().manual_seed(rows)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(rows, 3, 8, 8), {
        "tokens": draw(rows, length, 12),
        "vector": draw(rows, 6),
        "label": torch.arange(rows) % 4,
        "mask": torch.arange(length)[None] < torch.arange(1, rows + 1)[:, None],
    }


@torch.inference_mode()
def test_masked_tokens_have_no_influence(net):
    x, cond = conditions(3)
    t = torch.tensor([1.0, 500.0, 999.0])
    want = net(x, t, **cond)
    for filler in (0.0, 1e4, -7.5):
        other = torch.where(cond["mask"][..., None], cond["tokens"], filler)
        close(net(x, t, **{**cond, "tokens": other}), want)
    longer = torch.cat((cond["tokens"], torch.randn(3, 4, 12, dtype=torch.float64)), dim=1)
    mask = torch.cat((cond["mask"], torch.zeros(3, 4, dtype=torch.bool)), dim=1)
    close(net(x, t, **{**cond, "tokens": longer, "mask": mask}), want)
    assert not torch.allclose(net(x, t, **{**cond, "mask": None}), want)


@torch.inference_mode()
def test_rows_do_not_depend_on_their_company(net):
    x, cond = conditions(4)
    t = torch.tensor([1.0, 250.0, 500.0, 999.0])
    want = net(x, t, **cond)
    for i in (0, 3):
        close(net(x[i : i + 1], t[i : i + 1], **{k: v[i : i + 1] for k, v in cond.items()}), want[i : i + 1])
    order = torch.tensor([2, 0, 3, 1])
    close(net(x[order], t[order], **{k: v[order] for k, v in cond.items()}), want[order])


@torch.inference_mode()
def test_each_condition_steers(net):
    x, cond = conditions(2)
    t = torch.tensor([1.0, 999.0])
    want = net(x, t, **cond)
    changed = {
        "tokens": cond["tokens"] + 1,
        "vector": cond["vector"] + 1,
        "label": (cond["label"] + 1) % 4,
    }
    for name, value in changed.items():
        assert not torch.allclose(net(x, t, **{**cond, name: value}), want), name
    assert not torch.allclose(net(x, t + 1, **cond), want)
    with pytest.raises(ValueError, match="give it tokens"):
        net(x, t)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 3)])
def test_channels_last_computes_the_same(net, size):
    x, cond = conditions(2)
    x, t = x[..., : size[0], : size[1]].contiguous(), torch.tensor([1.0, 999.0])
    close(net(x.contiguous(memory_format=torch.channels_last), t, **cond), net(x, t, **cond))


@torch.inference_mode()
def test_float32_kernel_path_is_near_float64():
    """Float32 channels-last goes through the fused kernel, float64 through plain torch."""
    net = UNet(UNetConfig(inner=3, outer=3, widths=(16, 32), groups=8, attention=("none", "self"), head=8))
    redraw(net)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 999.0])
    got = net.eval()(x.contiguous(memory_format=torch.channels_last), t)
    want = net.double()(x.double(), t)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-4 * float(want.abs().max()))


def test_every_skip_is_read():
    """Each map on the way down has two readers: the next layer, and its mirror image on the way up."""
    net = UNet(UNetConfig(inner=3, outer=3, widths=(16, 32), groups=8)).double()
    redraw(net)
    x, t = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.tensor([5.0])
    net(x, t).square().mean().backward()
    width = net.config.widths[0]
    for stage in (s for s in net.up if hasattr(s, "block")):
        assert stage.block.conv1.weight.grad[:, -width:].abs().sum() > 0


def test_dropout_only_in_training():
    net = UNet(UNetConfig(inner=3, outer=3, widths=(16,), groups=8, dropout=0.5))
    redraw(net)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5.0])
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_starts_at_zero():
    net = UNet(UNetConfig(inner=3, outer=5, widths=(16,), groups=8))
    assert torch.equal(net(torch.randn(2, 3, 8, 8), torch.ones(2)), torch.zeros(2, 5, 8, 8))
