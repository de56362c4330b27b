"""DC-AE against diffusers' AutoencoderDC: both ways, both layouts, in strips, the published sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_autoencoder_dc_checkpoint_to_diffusers
from diffusers.models import attention_processor
from torch import Tensor, nn

from sfumato.codec import Latent
from sfumato.errors import WeightsError
from sfumato.families.checkpoint import Part, open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.dcae import dcae, dcae_settings
from sfumato.families.inspect import inspect
from sfumato.families.keys.sana import dcae_table
from sfumato.families.published import codec_of
from sfumato.nn.dcae import Dcae
from sfumato.weights.links import links, prove
from sfumato.weights.load import Unfilled, load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source
from tests.peers.pipelines import Wide
from tests.peers.tiny import in_float64, redraw

F64, F32 = torch.float64, torch.float32
SANA: dict[str, Any] = {
    "latent_channels": 8,
    "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": (8, 16, 32),
    "decoder_block_out_channels": (8, 16, 32),
    "encoder_layers_per_block": (1, 2, 1),
    "decoder_layers_per_block": (2, 1, 2),
    "encoder_qkv_multiscales": ((), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (5,), (5,)),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
MIX: dict[str, Any] = {
    **SANA,
    "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_layers_per_block": (0, 2, 1),
    "decoder_layers_per_block": (0, 1, 2),
    "encoder_qkv_multiscales": ((), (), ()),
    "decoder_qkv_multiscales": ((), (), ()),
    "downsample_block_type": "pixel_unshuffle",
    "upsample_block_type": "pixel_shuffle",
    "decoder_norm_types": ["batch_norm", "batch_norm", "rms_norm"],
    "decoder_act_fns": ["relu", "relu", "silu"],
    "scaling_factor": 0.4552,
}
OTHER = {
    **SANA,
    "encoder_qkv_multiscales": ((), (3, 5), (5, 3)),
    "decoder_qkv_multiscales": ((), (), (3,)),
    "encoder_out_shortcut": False,
    "decoder_in_shortcut": False,
    "decoder_conv_act_fn": "silu",
    "decoder_act_fns": "relu",
}
CASES = {"sana": SANA, "mix": MIX, "other": OTHER}
"""Small versions: SANA's own, those with batch norms and shuffled places, and what no published one has."""


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' linear attention have float64's digits, which it rounds to float32."""
    monkeypatch.setattr(attention_processor, "torch", Wide())


def made(name: str, folder: Path) -> diffusers.AutoencoderDC:
    """The autoencoder of a case, redrawn, saved to ``folder``, then in float64."""
    net = diffusers.AutoencoderDC(**CASES[name]).eval()
    redraw(net)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_var is not None
            part.running_var.abs_().add_(0.5)
    net.save_pretrained(folder)
    return in_float64(net)  # type: ignore[return-value]


def opened(folder: Path) -> Part:
    with open_source(folder) as source:
        return open_checkpoint(source).parts["vae"]


def far(found: Tensor, wanted: Tensor) -> float:
    """How far off the farthest value is, in parts of the largest."""
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_encode_and_decode_are_diffusers(name: str, tmp_path: Path, wide: None) -> None:
    theirs = made(name, tmp_path)
    draws = torch.Generator().manual_seed(5)
    pixels = torch.randn(2, 3, 24, 40, generator=draws, dtype=F64)
    latent = torch.randn(2, 8, 6, 10, generator=draws, dtype=F64)
    small = torch.randn(1, 8, 1, 2, generator=draws, dtype=F64)  # where diffusers' attention is quadratic
    for dtype, most in ((F64, 1e-9), (F32, 1e-5)):
        with open_source(tmp_path) as source:
            part = open_checkpoint(source).parts["vae"]
            ours = load_into(part.make, source, part.table, part.layout, dtype=dtype)
        assert isinstance(ours, Dcae)
        with torch.no_grad():
            assert far(ours.moments(pixels.to(dtype))[0], theirs.encode(pixels).latent) < most
            assert far(ours.decode(latent.to(dtype)), theirs.decode(latent).sample) < most
            assert far(ours.decode(small.to(dtype)), theirs.decode(small).sample) < most
        codec = codec_of(part, ours)
        scale = CASES[name]["scaling_factor"]
        assert codec.shape(24, 40) == (8, 6, 10)
        with torch.no_grad():
            assert far(codec.encode(pixels), scale * theirs.encode(pixels).latent) < most
            expected = theirs.decode(latent / scale).sample.clamp(-1, 1)
            assert far(codec.decode(latent), expected) < most


@pytest.mark.parametrize("name", CASES)
def test_diffusers_reads_the_authors_names_and_the_settings(name: str, tmp_path: Path) -> None:
    theirs = made(name, tmp_path / "it")
    part = opened(tmp_path / "it")
    with open_source(tmp_path / "it") as source:
        module = load_into(part.make, source, part.table, part.layout)
    state = {key: tensor.float() for key, tensor in theirs.state_dict().items()}
    for layout in ("original", "diffusers"):
        save_module(tmp_path / f"{layout}.safetensors", module, part.table, layout)
        with open_source(tmp_path / f"{layout}.safetensors") as source:
            read = {key: source.read(key) for key in source.entries}
            plain = dcae(source.shapes, layout)
            assert inspect(source).title == "deep compression autoencoder, 8 channels at 1/4"
            found = open_checkpoint(source).parts["vae"]
        if name != "other":  # its activations and paths are in no shape
            assert found.config == plain == part.config
        again = load_into(replace(part, layout=layout).make, found.source, part.table, layout)
        for key, tensor in module.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor), key
        if layout == "original":
            if name == "other":  # diffusers' reader knows one scale
                continue
            read = convert_autoencoder_dc_checkpoint_to_diffusers(dict(read))
        assert read.keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(read[key].float(), tensor.view(read[key].shape)), key
    told = diffusers.AutoencoderDC.from_config(dcae_settings(part.config, "sana"))
    assert {k: v.shape for k, v in told.state_dict().items()} == {k: v.shape for k, v in state.items()}
    written = {key: str(value) for key, value in CASES[name].items() if key != "scaling_factor"}
    assert told.config["scaling_factor"] == 0.41407
    for key in ("downsample_block_type", "upsample_block_type", "attention_head_dim", "latent_channels"):
        assert str(told.config[key]) == written[key], key


def test_it_is_converted_both_ways(tmp_path: Path) -> None:
    made("sana", tmp_path / "it")
    with open_source(tmp_path / "it") as source:
        convert(source, tmp_path / "theirs.safetensors", "original")
    with open_source(tmp_path / "theirs.safetensors") as source:
        assert "decoder.project_in.main.conv.weight" in source.entries
        notes = convert(source, tmp_path / "back", "diffusers").notes
    assert any("scaling_factor is not told" in note for note in notes)
    back, first = (diffusers.AutoencoderDC.from_pretrained(tmp_path / name) for name in ("back", "it"))
    for key, tensor in first.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_strips_give_the_whole(name: str, rows: int, tmp_path: Path) -> None:
    made(name, tmp_path)
    part = opened(tmp_path)
    net = load_into(part.make, part.source, part.table, part.layout, dtype=F64)
    latent = torch.randn(2, 8, 5, 3, generator=torch.Generator().manual_seed(rows), dtype=F64)
    with torch.inference_mode():
        whole, strips = net.decode(latent), net.decode_in_strips(latent, rows, torch.device("cpu"))  # type: ignore[operator]
    assert strips.shape == whole.shape
    assert far(strips, whole) < 1e-12


def test_a_device_without_memory_decodes_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("sana", tmp_path)
    part = opened(tmp_path)
    net = load_into(part.make, part.source, part.table, part.layout, dtype=F64)
    codec = codec_of(part, net)
    latent = torch.randn(1, 8, 4, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    with torch.inference_mode():
        wanted = codec.decode(latent)

        def full(x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr(net, "decode", full)
        assert isinstance(codec, Latent)
        assert far(codec.decode(latent), wanted) < 1e-9
    assert any("in strips" in note for note in codec.notes)


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "f32c32 sana": (
        {
            "latent_channels": 32,
            "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
            "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
        },
        32,
    ),
    "f128c512 mix": (
        {
            **MIX,
            "latent_channels": 512,
            "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 5,
            "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 5,
            "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024, 2048, 2048),
            "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024, 2048, 2048),
            "encoder_layers_per_block": (0, 4, 8, 2, 2, 2, 2, 2),
            "decoder_layers_per_block": (0, 5, 10, 2, 2, 2, 2, 2),
            "encoder_qkv_multiscales": ((),) * 8,
            "decoder_qkv_multiscales": ((),) * 8,
            "decoder_norm_types": ["batch_norm"] * 3 + ["rms_norm"] * 5,
            "decoder_act_fns": ["relu"] * 3 + ["silu"] * 5,
        },
        128,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_told_by_shapes(name: str) -> None:
    settings, factor = PUBLISHED[name]
    with torch.device("meta"), Unfilled():
        net = diffusers.AutoencoderDC(**settings)
        theirs = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
        config = dcae(theirs, "diffusers")
        ours = {key: tuple(tensor.shape) for key, tensor in Dcae(config).state_dict().items()}
    assert (config.factor, config.latent, config.head) == (factor, settings["latent_channels"], 32)
    assert config.encoder.blocks == settings["encoder_layers_per_block"]
    table = dcae_table(config)
    found = links(table, "diffusers", ours)
    prove(table, "diffusers", found, theirs.keys())
    for link in found:
        shapes = link.their_shapes([ours[one] for one in link.ours])
        assert {key: theirs[key] for key in link.theirs} == dict(zip(link.theirs, shapes, strict=True))
    told = dcae_settings(config)
    for key, value in net.config.items():
        if key in told and not key.startswith("decoder_act"):
            wanted = (
                [value] * factor.bit_length()
                if isinstance(value, str) and isinstance(told[key], list)
                else lists(value)
            )
            if key == "decoder_norm_types" and not config.decoder.blocks[0]:
                wanted[0] = "rms_norm"  # of a level without blocks any will do
            assert told[key] == wanted, key


def lists(value: Any) -> Any:
    """``value`` with lists for tuples."""
    return [lists(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"decoder_act_fns": "gelu"}, "gelu"),
        ({"decoder_norm_types": "layer_norm"}, "layer_norm"),
        ({"decoder_conv_act_fn": "tanh"}, "tanh"),
        ({"attention_head_dim": 7}, "attention_head_dim = 7"),
        ({"decoder_act_fns": ["silu"]}, "of other than 3 levels"),
    ],
)
def test_settings_that_are_not_followed_are_refused(told: dict[str, Any], why: str, tmp_path: Path) -> None:
    made("sana", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **told}), "utf-8")
    with open_source(tmp_path) as source, pytest.raises(WeightsError, match=why):
        open_checkpoint(source)
