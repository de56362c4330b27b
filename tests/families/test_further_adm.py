"""ADM in its authors' files against azula's copy of guided-diffusion's networks, every parameter redrawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from sfumato.cli.main import main
from sfumato.condition import Cond
from sfumato.denoiser import row_levels
from sfumato.errors import WeightsError
from sfumato.families import adm
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.keys.adm import pixel_table
from sfumato.families.published import load_checkpoint
from sfumato.model import Model
from sfumato.nn.adm import PixelUNet
from sfumato.process.table import Table
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.weights.links import links, prove
from sfumato.weights.load import load_into
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers import authors
from tests.peers.pipelines import Wide, in_float64, redraw

F64, F32 = torch.float64, torch.float32
SIDE = 16
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "in_channels": 3,
    "out_channels": 6,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": {2, 4},
    "channel_mult": (1, 2, 3),
    "num_classes": 10,
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
OLDER = {"resblock_updown": False, "num_head_channels": -1, "num_heads": 4, "num_classes": None}
NETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "by heads": ({}, {}),
    "queries first": ({"use_new_attention_order": True}, {"use_new_attention_order": True}),
    "older, cosine": (
        {**OLDER, "num_res_blocks": 2},
        {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True},
    ),
    "older, plain norms": ({**OLDER, "use_scale_shift_norm": False, "out_channels": 3}, {}),
    "half as wide at first": ({"channel_mult": (0.5, 1, 2), "model_channels": 64}, {}),
}
"""What differs from SMALL, and the flags that the authors' scripts are given besides."""


def settings(name: str) -> dict[str, Any]:
    """The settings of a network of NETS."""
    return {**SMALL, **NETS[name][0]}


def adm_net(name: str) -> nn.Module:
    """A network of NETS, redrawn, in float64."""
    net = authors.adm.UNetModel(**settings(name))
    redraw(net, seed=3)
    return in_float64(net.eval())


def flags_of(name: str) -> dict[str, Any]:
    """The flags of a network of NETS by their authors' names."""
    told = settings(name)
    heads = {key: told[key] for key in ("num_heads", "num_head_channels") if told.get(key, -1) > 0}
    return {"image_size": told["image_size"], **heads, **NETS[name][1]}


def saved(name: str, net: nn.Module, folder: Path) -> Path:
    """The network in a folder of its own, with its flags."""
    folder.mkdir(exist_ok=True)
    save_tensors(folder / "model.safetensors", {key: t.float() for key, t in net.state_dict().items()})
    (folder / "config.json").write_text(json.dumps(flags_of(name)), "utf-8")
    return folder


@contextmanager
def wide_clock() -> Iterator[None]:
    """Let the reference compute its sinusoid, and its attention's softmax, with float64's digits."""
    module, before = authors.adm, torch.Tensor.float
    inner = module.timestep_embedding.__globals__
    plain = inner["th"]
    try:
        inner["th"], torch.Tensor.float = Wide(), torch.Tensor.double  # type: ignore[method-assign]
        yield
    finally:
        inner["th"], torch.Tensor.float = plain, before  # type: ignore[method-assign]


def opened(path: Path, dtype: torch.dtype = F32, allow_pickle: bool = False) -> Model:
    """Our model of a folder or file."""
    with open_source(path, allow_pickle=allow_pickle) as source:
        return load_checkpoint(open_checkpoint(source), dtype=dtype)


def said(net: nn.Module, x: Tensor, clock: float, label: Tensor | None) -> Tensor:
    """What the reference says of rows ``x``."""
    with torch.no_grad(), wide_clock():
        out: Tensor = net(x, torch.full((len(x),), clock, dtype=F64), label)
    return out


@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, tmp_path: Path) -> None:
    net = adm_net(name)
    saved(name, net, tmp_path)
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8), dtype=F64)
    label = torch.tensor([7, 2]) if settings(name)["num_classes"] else None
    rate = 0.25 if "rescale_timesteps" in NETS[name][1] else 1.0
    expected = said(net, x, 431.0 * rate, label)
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = opened(tmp_path, dtype)
        at = row_levels([model.schedule(x.shape[1:]).level(431.0)] * 2)
        assert far(model.denoiser.output(x, at, Cond(label=label)), expected) < most
        assert model.notes(None) == []  # type: ignore[arg-type]
    assert isinstance(model.denoiser.schedule, Table)
    assert len(model.denoiser.schedule.signal) == NETS[name][1].get("diffusion_steps", 1000)
    with open_source(tmp_path) as source:
        report = inspect(source)
    kind = "by class" if label is not None else "unconditional"
    assert (report.family, report.variant, report.layout) == ("pixels", kind, "original")
    assert report.components[0].facts["levels"] == 3


def test_no_two_rows_of_the_table_can_be_exchanged(tmp_path: Path) -> None:
    saved("by heads", adm_net("by heads"), tmp_path)
    with open_source(tmp_path) as source:
        part = open_checkpoint(source).parts["denoiser"]
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))

    def say(table: Any) -> list[Tensor]:
        made = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [made(x, torch.tensor([431.0]), label=torch.tensor([7]))]

    check(part, say)


def test_the_order_of_heads_matters_and_is_the_users_to_say(tmp_path: Path) -> None:
    net = adm_net("queries first")
    saved("queries first", net, tmp_path)
    flags = {**flags_of("queries first"), "use_new_attention_order": False}
    (tmp_path / "config.json").write_text(json.dumps(flags), "utf-8")
    x = torch.randn(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([4])
    model = opened(tmp_path, F64)
    at = row_levels([model.schedule(x.shape[1:]).level(431.0)])
    assert far(model.denoiser.output(x, at, Cond(label=label)), said(net, x, 431.0, label)) > 1e-2


SCHEDULERS = {
    "by heads": {"variance_type": "learned_range"},
    "older, cosine": {
        "variance_type": "learned_range",
        "num_train_timesteps": 4000,
        "beta_schedule": "squaredcos_cap_v2",
    },
    "older, plain norms": {"variance_type": "fixed_large"},
}


def their_walk(
    name: str, walk: Any, steps: int, label: Tensor | None, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> Tensor:
    """The reference's network, walked by a scheduler of diffusers, which ``walk`` makes."""
    draws = torch.Generator().manual_seed(3)

    def drawn(shape: Any, **_: Any) -> Tensor:
        return torch.randn(tuple(shape), generator=draws).double()

    module = walk().__module__
    monkeypatch.setattr(f"{module}.randn_tensor", drawn)
    monkeypatch.setattr(f"{module}.torch", Wide())
    scheduler = walk()
    scheduler.set_timesteps(steps)
    net, rate = adm_net(name), 0.25 if "rescale_timesteps" in NETS[name][1] else 1.0
    x = drawn((1, 3, SIDE, SIDE))
    for t in scheduler.timesteps:
        x = scheduler.step(said(net, x, float(t) * rate, label), t, x, **more).prev_sample
    monkeypatch.undo()
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_walks_of_the_default_sampler(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = torch.tensor([7]) if settings(name)["num_classes"] else None
    pixels = their_walk(
        name,
        lambda: diffusers.DDPMScheduler(timestep_spacing="linspace", **SCHEDULERS[name]),
        6,
        label,
        monkeypatch,
    )
    saved(name, adm_net(name), tmp_path)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        model = opened(tmp_path, dtype)
        task: Any = (
            Unconditional(steps=6, seed=3) if label is None else Class2Image(label="7", steps=6, seed=3)
        )
        latent, _ = walked(model, task)
        assert far(latent, pixels) < most
    learned = settings(name)["out_channels"] == 6
    assert model.defaults.sampler == f"ddpm(variance={'learned' if learned else 'large'})"
    assert (model.defaults.steps, model.defaults.grid, model.defaults.width) == (250, "linspace", SIDE)


def test_walks_of_ddim_with_clipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, label = "by heads", torch.tensor([7])
    whole = authors.adm.UNetModel.forward

    def halved(*args: Any) -> Tensor:
        out: Tensor = whole(*args)[:, :3]
        return out

    monkeypatch.setattr(authors.adm.UNetModel, "forward", halved)
    # Not "linspace": there diffusers' DDIM steps by T // n whatever the next index is.
    pixels = their_walk(name, diffusers.DDIMScheduler, 6, label, monkeypatch, use_clipped_model_output=True)
    saved(name, adm_net(name), tmp_path)
    task: Any = Class2Image(label="7", steps=6, seed=3, sampler="ddim", grid="leading(offset=0)")
    latent, _ = walked(opened(tmp_path, F64), task)
    assert far(latent, pixels) < 1e-5


FULL: dict[str, tuple[dict[str, Any], adm.Trained]] = {
    "64": (
        {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_res_blocks": 3, "levels": (1, 2, 3)},
        adm.Trained(side=64, fused="parts", cosine=True),
    ),
    "128": (
        {"channel_mult": (1, 1, 2, 3, 4), "levels": (2, 3, 4), "num_heads": 4},
        adm.Trained(side=128, heads=4),
    ),
    "256": ({"channel_mult": (1, 1, 2, 2, 4, 4), "levels": (3, 4, 5)}, adm.Trained(side=256)),
    "256 unconditional": (
        {"channel_mult": (1, 1, 2, 2, 4, 4), "levels": (3, 4, 5), "num_classes": None},
        adm.Trained(side=256),
    ),
    "512": ({"channel_mult": (0.5, 1, 1, 2, 2, 4, 4), "levels": (4, 5, 6)}, adm.Trained(side=512)),
    "faces": (
        {
            "model_channels": 128,
            "channel_mult": (1, 1, 2, 2, 4, 4),
            "levels": (4,),
            "num_res_blocks": 1,
            "num_classes": None,
        },
        adm.Trained(side=256),
    ),
    "older 64": (
        {
            "model_channels": 128,
            "channel_mult": (1, 2, 3, 4),
            "num_res_blocks": 3,
            "levels": (2, 3),
            "num_heads": 4,
            "resblock_updown": False,
            "num_classes": None,
        },
        adm.Trained(side=64, heads=4, cosine=True, steps=4000, rate=0.25),
    ),
    "older 64 by class": (
        {
            "model_channels": 192,
            "channel_mult": (1, 2, 3, 4),
            "num_res_blocks": 3,
            "levels": (2, 3),
            "num_heads": 4,
            "resblock_updown": False,
        },
        adm.Trained(side=64, heads=4, cosine=True, steps=4000),
    ),
    "older LSUN": (
        {
            "model_channels": 128,
            "channel_mult": (1, 1, 2, 2, 4, 4),
            "levels": (4,),
            "num_heads": 1,
            "use_scale_shift_norm": False,
            "resblock_updown": False,
            "num_classes": None,
        },
        adm.Trained(side=256, heads=1),
    ),
    "older CIFAR-10": (
        {
            "model_channels": 128,
            "channel_mult": (1, 2, 2, 2),
            "num_res_blocks": 3,
            "levels": (1, 2),
            "num_heads": 4,
            "resblock_updown": False,
            "num_classes": None,
        },
        adm.Trained(side=32, heads=4, cosine=True, steps=4000, rate=0.25),
    ),
}
"""The published sizes by their authors' flags, and what is known of each."""


@pytest.mark.parametrize("name", FULL)
def test_published_sizes_are_known_and_every_name_is_used(name: str) -> None:
    told, by = FULL[name]
    told = {"model_channels": 256, "num_classes": 1000, "num_res_blocks": 2, **told}
    levels = told.pop("levels")
    heads = {"num_head_channels": -1} if "num_heads" in told else {"num_head_channels": 64}
    with torch.device("meta"):
        net = authors.adm.UNetModel(
            **{**SMALL, **heads, **told, "attention_resolutions": {2**level for level in levels}}
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    config = adm.config(shapes)
    assert adm.known(config) == by
    assert (config.side, config.classes) == (by.side, told["num_classes"] or 0)
    looks = [part for part in net.modules() if type(part).__name__ == "AttentionBlock"]
    for look in looks:
        assert config.heads_of(look.channels) == look.num_heads
    with torch.device("meta"):
        ours = PixelUNet(config).state_dict()
    table = pixel_table(config)
    found = links(table, "original", ours)
    prove(table, "original", found, shapes)
    for link in found:
        wanted = link.their_shapes([tuple(ours[one].shape) for one in link.ours])
        assert [shapes[one] for one in link.theirs] == list(wanted)


def test_pickles_of_unknown_sizes_say_what_was_taken_for_granted(tmp_path: Path) -> None:
    net = authors.adm.UNetModel(**{**SMALL, "model_channels": 64, "num_head_channels": 64})
    redraw(net, seed=3)
    path = tmp_path / "64x64_diffusion.pt"
    torch.save(net.state_dict(), path)
    with pytest.raises(WeightsError, match="allow-pickle"):
        opened(path)
    model = opened(path, F64, allow_pickle=True)
    (note,) = model.notes(None)  # type: ignore[arg-type]
    assert "heads of 64 channels" in note
    assert "pictures of 32 pixels" in note
    x = torch.randn(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(1))
    at = row_levels([model.schedule(x.shape[1:]).level(431.0)])
    expected = said(in_float64(net.eval()), x, 431.0, torch.tensor([4]))
    assert far(model.denoiser.output(x, at, Cond(label=torch.tensor([4]))), expected) < 1e-6


@pytest.mark.parametrize("name", ["by heads", "older, plain norms"])
def test_conversion_to_a_folder_keeps_weights_and_process(name: str, tmp_path: Path) -> None:
    net = adm_net(name)
    flags = saved(name, net, tmp_path / "authors")
    if name != "by heads":  # one width of heads, as the class has it
        told = {**flags_of(name), "num_heads": 1}
        (flags / "config.json").write_text(json.dumps(told), "utf-8")
    with open_source(flags) as source:
        convert(source, tmp_path / "folder", "diffusers")
    first, second = opened(flags, F64), opened(tmp_path / "folder", F64)
    for key, tensor in first.denoiser.network.state_dict().items():
        assert torch.equal(second.denoiser.network.state_dict()[key], tensor), key
    wanted = first.defaults
    assert (second.defaults.sampler, second.defaults.grid, second.defaults.width) == (
        wanted.sampler,
        wanted.grid,
        wanted.width,
    )
    assert second.denoiser.clip == first.denoiser.clip == 1.0
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "folder" / "unet").double()
    x = torch.randn(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([4]) if settings(name)["num_classes"] else None
    at = row_levels([first.schedule(x.shape[1:]).level(431.0)])
    with torch.no_grad():
        expected = theirs(x, torch.tensor([431.0], dtype=F64), label).sample
    assert far(first.denoiser.output(x, at, Cond(label=label)), expected) < 1e-6
    with open_source(tmp_path / "folder" / "unet") as source, pytest.raises(WeightsError, match="alone"):
        convert(source, tmp_path / "back.safetensors", "original")


def test_what_a_folder_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name, words in {
        "half as wide at first": "a clock of 64 values before 32 channels",
        "older, plain norms": "heads of different widths",
    }.items():
        path = saved(name, adm_net(name), tmp_path / name)
        with open_source(path) as source, pytest.raises(WeightsError, match=words):
            convert(source, tmp_path / "folder", "diffusers")
        assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_head_channels": 24}, "cannot have heads of 24: .*and give their folder"),
        ({"num_heads": 5, "num_head_channels": -1}, "cannot have 5 heads"),
        ({"num_heads": "x"}, "num_heads = 'x'"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule = 'sigmoid'"),
        ({"diffusion_steps": -1}, "diffusion_steps = -1, which is no whole number"),
    ],
)
def test_flags_that_fit_nothing_are_told(flags: dict[str, Any], words: str, tmp_path: Path) -> None:
    saved("by heads", adm_net("by heads"), tmp_path)
    told = {**flags_of("by heads"), **flags}
    (tmp_path / "config.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(WeightsError, match=words):
        opened(tmp_path)


def test_upsamplers_are_refused(tmp_path: Path) -> None:
    net = authors.adm.UNetModel(**{**SMALL, "in_channels": 6})
    save_tensors(tmp_path / "64_256_upsampler.safetensors", net.state_dict())
    with pytest.raises(WeightsError, match="makes a small picture larger"):
        opened(tmp_path / "64_256_upsampler.safetensors")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = authors.adm.UNetModel(**{**SMALL, "model_channels": 64, "num_head_channels": 64})
    redraw(net, seed=3)
    path, out = tmp_path / "adm.pt", tmp_path / "out.png"
    torch.save(net.state_dict(), path)
    told = ["class", "7", "--model", str(path), "--allow-pickle", "--steps", "2", "-o", str(out)]
    assert main(told) == 0
    assert out.is_file()
    path = tmp_path / "adm.safetensors"  # the other commands need no permission for it
    save_tensors(path, net.state_dict())
    assert main(["inspect", str(path)]) == 0
    assert "U-Net on pixels" in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "f"), "--to", "diffusers"]) == 0
    assert (tmp_path / "f" / "unet" / "config.json").is_file()
