"""EDM in its authors' files against NVIDIA's own networks and preconditioning, every parameter redrawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.cli.main import main
from sfumato.condition import Cond, Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import edm
from sfumato.families.checkpoint import NETWORKS, READERS, TABLES, open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.model import Model
from sfumato.process.level import Level
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.weights.links import links, prove
from sfumato.weights.load import load_into
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers import authors, kdiffusion, persistent
from tests.peers.pipelines import redraw

F64, F32 = torch.float64, torch.float32
SIDE = 16
SMALL: dict[str, Any] = {
    "img_resolution": SIDE,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 10,
    "augment_dim": 9,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
NETS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "adm": (authors.dhariwal.DhariwalUNet, {}, "ADM, 16 pixels, by class"),
    "adm unconditional": (
        authors.dhariwal.DhariwalUNet,
        {"label_dim": 0, "num_blocks": 2},
        "ADM, 16 pixels, unconditional",
    ),
    "ddpm++": (authors.song.SongUNet, {}, "DDPM++, 16 pixels, by class"),
    "ddpm++ unconditional": (
        authors.song.SongUNet,
        {"label_dim": 0, "channel_mult": [2, 2, 2], "num_blocks": 2, "augment_dim": 0},
        "DDPM++, 16 pixels, unconditional",
    ),
    "ncsn++": (authors.song.SongUNet, {**NCSNPP, "label_dim": 0}, "NCSN++, 16 pixels, unconditional"),
    "ncsn++ by class": (
        authors.song.SongUNet,
        {**NCSNPP, "channel_mult": [1, 1, 2]},
        "NCSN++, 16 pixels, by class",
    ),
}
"""What differs from SMALL, and what ``inspect`` calls it."""


def edm_net(name: str) -> nn.Module:
    """A network of NETS, its parameters redrawn (its filters and tables of frequencies are none), in float64.

    It stays in training, without dropout: for inference NVIDIA's later norms divide variances by n - 1, which EDM's
    released code, that the files are for, does nowhere.
    """
    kind, more, _ = NETS[name]
    net = kind(**{**SMALL, **more})
    kept = {key: value.clone() for key, value in net.named_buffers()}
    redraw(net, seed=4)
    for key, value in net.named_buffers():
        value.data = kept[key]
    net = net.double().train()
    if hasattr(net.map_noise, "freqs") and "embedding_type" not in more:
        half, last = len(net.map_noise.freqs), 1 if kind is authors.song.SongUNet else 0
        steps = torch.arange(half, dtype=F64) / (half - last)
        net.map_noise.freqs = (1 / net.map_noise.max_positions) ** steps  # float64's digits
    return net


def original(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as EDM's released code names them, below ``model.``.

    There attention has no module of its own, and only NCSN++'s frequencies are stored.
    """
    older = {".attn.norm.": ".norm2.", ".attn.qkv.": ".qkv.", ".attn.proj.": ".proj."}
    found = {}
    for name, tensor in net.state_dict().items():
        if name == "map_noise.freqs" and "Fourier" not in type(net.map_noise).__name__:
            continue
        for new, old in older.items():
            name = name.replace(new, old)
        found[f"model.{name}"] = tensor.float()
    return found


def one_hot(label: Tensor | None) -> Tensor | None:
    """The classes as the reference is told them."""
    return None if label is None else torch.eye(10, dtype=F64)[label]


class Interface(authors.Module):
    """A network as NVIDIA's preconditioning calls it."""

    def __init__(self, net: nn.Module, label: Tensor | None) -> None:
        super().__init__()
        self.net, self.label = net, label

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        told = None if self.label is None else one_hot(self.label.expand(len(x)))
        out: Tensor = self.net(x, t, told)
        return out


def denoised(net: nn.Module, label: Tensor | None) -> Any:
    """The reference as a function of x and sigma, in the manner of k-diffusion's models."""
    wrapped = authors.preconditioners.EDMPreconditioner(Interface(net, label), sigma_data=0.5).double()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = wrapped(x, sigma, None)
        return out

    return model


def opened(path: Path, dtype: torch.dtype = F32, allow_pickle: bool = False) -> Model:
    """Our model of a file."""
    with open_source(path, allow_pickle=allow_pickle) as source:
        return load_checkpoint(open_checkpoint(source), dtype=dtype)


def label_of(name: str) -> Tensor | None:
    """A class, for networks that read one."""
    return torch.tensor([7]) if {**SMALL, **NETS[name][1]}["label_dim"] else None


@pytest.mark.parametrize("name", NETS)
def test_networks_and_their_preconditioning(name: str, tmp_path: Path) -> None:
    net, path = edm_net(name), tmp_path / "edm.safetensors"
    save_tensors(path, original(net))
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8), dtype=F64)
    label = label_of(name)
    cond = Cond(label=None if label is None else label.expand(2))
    models = {dtype: opened(path, dtype) for dtype in (F64, F32)}
    for sigma in (0.02, 0.7, 40.0):
        at = row_levels([Level(sigma, 1.0, sigma)] * 2)
        noisy = x * math.hypot(sigma, 0.5)
        expected = denoised(net, label)(noisy, torch.full((2,), sigma, dtype=F64))
        for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
            assert far(torch.as_tensor(models[dtype].denoiser(noisy, at, cond).x0), expected) < most
    with open_source(path) as source:
        report = inspect(source)
    assert (report.family, report.variant, report.prediction) == ("edm", NETS[name][2], "edm")


@pytest.mark.parametrize("name", ["adm", "ncsn++ by class"])
def test_no_two_rows_of_the_tables_can_be_exchanged(name: str, tmp_path: Path) -> None:
    path = tmp_path / "edm.safetensors"
    save_tensors(path, original(edm_net(name)))
    with open_source(path) as source:
        part = open_checkpoint(source).parts["denoiser"]
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))

    def say(table: Any) -> list[Tensor]:
        made = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [made(x, torch.tensor([0.2]), label=torch.tensor([7]))]

    check(part, say)


@pytest.mark.parametrize("name", ["ddpm++", "ncsn++"])
def test_walks_of_heun_on_the_authors_levels(name: str, tmp_path: Path) -> None:
    net, path, label = edm_net(name), tmp_path / "edm.safetensors", label_of(name)
    save_tensors(path, original(net))
    steps = 6
    sigmas = kdiffusion.sampling.get_sigmas_karras(steps, 0.002, 80.0).double()
    ramp = torch.linspace(0, 1, steps, dtype=F64)  # in float64, which k-diffusion's are not
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    exact = torch.cat(((high + ramp * (low - high)) ** 7, torch.zeros(1, dtype=F64)))
    assert torch.allclose(sigmas, exact, rtol=1e-5)
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
    pixels = kdiffusion.sampling.sample_heun(denoised(net, label), noise * exact[0], exact, disable=True)
    task: Any = (
        Unconditional(steps=steps, seed=3) if label is None else Class2Image(label="7", steps=steps, seed=3)
    )
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        model = opened(path, dtype)
        assert far(walked(model, task)[0], pixels) < most
    assert (model.defaults.steps, model.defaults.sampler, model.defaults.grid) == (18, "heun", "karras")


def test_walks_with_churn_as_imagenet_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path, label = edm_net("adm"), tmp_path / "edm.safetensors", torch.tensor([7])
    save_tensors(path, original(net))
    model = opened(path, F64)
    assert (model.defaults.steps, model.defaults.sampler) == (256, "edm")
    steps, draws = 6, torch.Generator().manual_seed(3)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draws).double()

    noise = drawn(torch.empty(1, 3, SIDE, SIDE))
    ramp = torch.linspace(0, 1, steps, dtype=F64)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    sigmas = torch.cat(((high + ramp * (low - high)) ** 7, torch.zeros(1, dtype=F64)))
    # k-diffusion draws noise in every step, ours only where it is added.
    added = [0.05 <= float(sigma) <= 50 for sigma in sigmas[:-1]]
    turn = iter(added)
    monkeypatch.setattr(
        torch, "randn_like", lambda like, **_: drawn(like) if next(turn) else torch.zeros_like(like)
    )
    pixels = kdiffusion.sampling.sample_heun(
        denoised(net, label),
        noise * sigmas[0],
        sigmas,
        disable=True,
        s_churn=40.0,
        s_tmin=0.05,
        s_tmax=50.0,
        s_noise=1.003,
    )
    monkeypatch.undo()
    task: Any = Class2Image(label="7", steps=steps, seed=3)
    assert far(walked(model, task)[0], pixels) < 1e-5


def test_classes_guidance_and_what_is_refused(tmp_path: Path) -> None:
    net, path = edm_net("ddpm++"), tmp_path / "edm.safetensors"
    save_tensors(path, original(net))
    model = opened(path)
    with pytest.raises(InvalidRequest, match="no class: allowed are 0 to 9"):
        model.conditioner([Prompt(text="cat")])
    with pytest.raises(
        InvalidRequest, match=r"task class2image \(sfumato class\) with one: allowed are 0 to 9"
    ):
        walked(model, Unconditional(steps=2))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="guidance other than 1"):
        walked(model, Class2Image(label="7", steps=2, guidance=4.0))  # type: ignore[arg-type]
    (note,) = model.notes(Prompt(text="7"))
    assert "EDMPrecond" in note
    with open_source(path) as source, pytest.raises(WeightsError, match="no pipeline that preconditions"):
        convert(source, tmp_path / "folder", "diffusers")
    save_tensors(tmp_path / "u.safetensors", {**original(net), "u": torch.zeros(1001)})
    save_tensors(path, original(net), metadata={"edm.class": "VPPrecond"})
    for name, told in (("u.safetensors", "iDDPMPrecond"), ("edm.safetensors", "VPPrecond")):
        with pytest.raises(WeightsError, match=f"preconditioned as {told}"):
            opened(tmp_path / name)


def test_the_authors_pickles(tmp_path: Path) -> None:
    net, path = edm_net("ddpm++"), tmp_path / "edm-cifar10-32x32-cond-vp.pkl"
    persistent.write(path, original(net))
    model = opened(path, F64, allow_pickle=True)
    assert model.notes(Prompt(text="7")) == []
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8), dtype=F64)
    at, label = row_levels([Level(0.7, 1.0, 0.7)]), torch.tensor([7])
    expected = denoised(net, label)(x, torch.tensor([0.7], dtype=F64))
    assert far(torch.as_tensor(model.denoiser(x, at, Cond(label=label)).x0), expected) < 1e-6


def test_frequencies_keep_their_digits_in_bfloat16(tmp_path: Path) -> None:
    path, net = tmp_path / "edm.safetensors", edm_net("ncsn++")
    tensors = original(net)
    save_tensors(path, tensors)
    model = opened(path, torch.bfloat16)
    network: Any = model.denoiser.network
    assert torch.equal(network.rates, tensors["model.map_noise.freqs"])
    assert network.enter.weight.dtype == torch.bfloat16
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8))
    expected = denoised(net, None)(x.double(), torch.tensor([0.7], dtype=F64))
    at = row_levels([Level(0.7, 1.0, 0.7)])
    assert far(torch.as_tensor(model.denoiser(x, at, Cond()).x0), expected) < 2e-2


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "edm.safetensors", tmp_path / "out.png"
    save_tensors(path, original(edm_net("adm")))
    assert main(["class", "7", "--model", str(path), "--steps", "2", "-o", str(out)]) == 0
    assert out.is_file()
    assert main(["inspect", str(path)]) == 0
    assert "ADM, 16 pixels, by class" in capsys.readouterr().out
    again = tmp_path / "again.safetensors"
    assert main(["convert", str(path), str(again), "--to", "original"]) == 0
    first, second = (opened(one).denoiser.network.state_dict() for one in (path, again))
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor), key


DDPMPP = {
    "img_resolution": 32,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
}
ADM64 = {
    "img_resolution": 64,
    "label_dim": 1000,
    "augment_dim": 0,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
}
FULL: dict[str, tuple[Any, dict[str, Any], tuple[int, str]]] = {
    "cifar10 vp": (authors.song.SongUNet, DDPMPP, (18, "heun")),
    "cifar10 ve": (authors.song.SongUNet, {**DDPMPP, **NCSNPP, "label_dim": 0}, (18, "heun")),
    "ffhq vp": (
        authors.song.SongUNet,
        {**DDPMPP, "img_resolution": 64, "channel_mult": [1, 2, 2, 2], "label_dim": 0},
        (40, "heun"),
    ),
    "imagenet adm": (authors.dhariwal.DhariwalUNet, ADM64, (256, "edm")),
}
"""The published sizes by the settings of EDM's ``train.py``, and their authors' steps and sampler."""


@pytest.mark.parametrize("name", FULL)
def test_published_sizes(name: str) -> None:
    kind, more, walk = FULL[name]
    with torch.device("meta"):
        net = kind(**{**SMALL, **more})
    shapes = {key.removeprefix("model."): tuple(t.shape) for key, t in original(net).items()}
    part = "dhariwal" if kind is authors.dhariwal.DhariwalUNet else "song"
    config: Any = READERS[part](shapes, "original")
    with torch.device("meta"):
        ours = NETWORKS[part](config).state_dict()
    table = TABLES[part](config)
    found = links(table, "original", ours)
    prove(table, "original", found, shapes)
    for link in found:
        wanted = link.their_shapes([tuple(ours[one].shape) for one in link.ours])
        assert [shapes[one] for one in link.theirs] == list(wanted)
    chosen = edm.defaults(config, edm.DEFAULTS)
    assert (chosen.steps, chosen.sampler, chosen.width) == (*walk, more["img_resolution"])
