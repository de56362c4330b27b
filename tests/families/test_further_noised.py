"""The noised classifiers of guided-diffusion against azula's copy of their network, every parameter redrawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import adm
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.keys.adm import classifier_table
from sfumato.families.noised import Classifier, load_classifier
from sfumato.families.published import load_checkpoint
from sfumato.guidance import classifier
from sfumato.nn.noised import PixelClassifier
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.table import linear
from sfumato.sampling import sample
from sfumato.weights.links import links, prove
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.families.test_further_adm import said, wide_clock
from tests.families.test_published import far
from tests.peers import authors
from tests.peers.pipelines import in_float64, redraw

F64, F32 = torch.float64, torch.float32
SIDE = 16
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "in_channels": 3,
    "out_channels": 10,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": {2, 4},
    "channel_mult": (1, 2, 4),
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "pool": "attention",
}


def judge(tmp_path: Path, dtype: torch.dtype = F64, **more: Any) -> tuple[nn.Module, Classifier]:
    """The reference in float64, and ours in ``dtype``."""
    net = authors.adm.EncoderUNetModel(**{**SMALL, **more})
    redraw(net, seed=5)
    save_tensors(tmp_path / "judge.safetensors", net.state_dict())
    return in_float64(net.eval()), load_classifier(tmp_path / "judge.safetensors", dtype=dtype)


def logits(net: nn.Module, x: Tensor, clock: float) -> Tensor:
    """What the reference says."""
    with torch.no_grad(), wide_clock():
        out: Tensor = net(x, torch.full((len(x),), clock, dtype=F64))
    return out


def gradient(net: nn.Module, x: Tensor, clock: float) -> Tensor:
    """The reference's gradient of log p(7 | x)."""
    free = x.clone().requires_grad_()
    with wide_clock():
        said = net(free, torch.full((len(x),), clock, dtype=F64)).log_softmax(-1)[:, 7]
        return torch.autograd.grad(said.sum(), free)[0]


@pytest.mark.parametrize("more", [{}, {"resblock_updown": False, "num_res_blocks": 2}])
def test_logits_and_the_gradient_of_a_class(more: dict[str, Any], tmp_path: Path) -> None:
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8), dtype=F64)
    at = linear().level(431.0)
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        net, ours = judge(tmp_path, dtype, **more)
        assert far(ours.logits(x, at), logits(net, x, 431.0)) < most
    net, ours = judge(tmp_path, F64, **more)
    free = x.clone().requires_grad_()
    (mine,) = torch.autograd.grad(ours.log_prob(7)(free, at).sum(), free)
    assert far(mine, gradient(net, x, 431.0)) < 1e-6


def test_a_walk_under_its_guidance(tmp_path: Path) -> None:
    """DDIM by the paper's second algorithm: eps less sigma times the gradient, at every level."""
    (tmp_path / "unet").mkdir()
    unet = authors.adm.UNetModel(
        **{k: v for k, v in SMALL.items() if k not in ("pool", "out_channels")}, out_channels=3
    )
    redraw(unet, seed=3)
    save_tensors(tmp_path / "unet" / "model.safetensors", unet.state_dict())
    (tmp_path / "unet" / "config.json").write_text('{"image_size": 16, "num_head_channels": 64}', "utf-8")
    with open_source(tmp_path / "unet") as source:
        model = load_checkpoint(open_checkpoint(source), dtype=F64)
    net, ours = judge(tmp_path)
    in_float64(unet.eval())
    steps, scale = 5, 3.0
    grid = make_grid("linspace", steps=steps, schedule=linear())
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
    x = expected = grid[0].sigma * x
    for at, to in pairwise(grid):
        eps = said(unet, expected, at.t, None)
        x0 = ((expected - at.sigma * eps) / at.alpha).clamp(-1, 1)
        eps = (expected - at.alpha * x0) / at.sigma
        push = gradient(net, expected, at.t)
        eps = eps - at.sigma * scale * push
        x0 = (expected - at.sigma * eps) / at.alpha
        expected = to.alpha * x0 + to.sigma * eps

    async def denoise(rows: Tensor, at: Level) -> Estimate:
        (found,) = await model.denoise(rows, at, await model.embed([""]))
        return found

    guided = classifier(denoise, ours.log_prob(7), scale)
    found = sample(guided, shape=(3, SIDE, SIDE), grid=grid, sampler="ddim", seeds=[3], dtype=F64)
    assert far(found, expected) < 1e-6
    plain = sample(denoise, shape=(3, SIDE, SIDE), grid=grid, sampler="ddim", seeds=[3], dtype=F64)
    assert far(plain, expected) > 1e-2


FULL = {
    64: ((1, 2, 3, 4), 4),
    128: ((1, 1, 2, 3, 4), 2),
    256: ((1, 1, 2, 2, 4, 4), 2),
    512: ((0.5, 1, 1, 2, 2, 4, 4), 2),
}


@pytest.mark.parametrize("side", FULL)
def test_published_sizes(side: int) -> None:
    mult, depth = FULL[side]
    with torch.device("meta"):
        net = authors.adm.EncoderUNetModel(
            **{
                **SMALL,
                "image_size": side,
                "model_channels": 128,
                "out_channels": 1000,
                "channel_mult": mult,
                "num_res_blocks": depth,
                "attention_resolutions": {side // look for look in (32, 16, 8)},
            }
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    config = adm.classifier(shapes)
    assert (config.side, config.blocks, config.outer) == (side, depth, 1000)
    with torch.device("meta"):
        ours = PixelClassifier(config).state_dict()
    table = classifier_table(config)
    found = links(table, "original", ours)
    prove(table, "original", found, shapes)
    for link in found:
        wanted = link.their_shapes([tuple(ours[one].shape) for one in link.ours])
        assert [shapes[one] for one in link.theirs] == list(wanted)


def test_what_is_refused_and_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, ours = judge(tmp_path)
    path = tmp_path / "judge.safetensors"
    assert main(["inspect", str(path)]) == 0
    assert "classifier of noisy pictures, 10 classes" in capsys.readouterr().out
    with pytest.raises(InvalidRequest, match="label = 10 is no class: allowed are 0 to 9"):
        ours.log_prob(10)
    with pytest.raises(InvalidRequest, match="reads pictures of 3 x 16 x 16 values, not 3 x 8 x 8"):
        ours.logits(torch.zeros(1, 3, 8, 8), linear().level(3))
    with open_source(path) as source, pytest.raises(WeightsError, match="holds classifier: noised"):
        load_checkpoint(open_checkpoint(source))
    with open_source(path) as source, pytest.raises(WeightsError, match="no class for classifiers"):
        convert(source, tmp_path / "folder", "diffusers")
    save_tensors(tmp_path / "t5.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no network that is known"):
        load_classifier(tmp_path / "t5.safetensors")
