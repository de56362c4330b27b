"""Previews: the linear map against a codec that is linear, and against a decoder; a tiny decoder against its own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image

import sfumato
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.tiny import tiny_codec
from sfumato.preview import Previewer, coloured, fitted

MIX = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.4, 2.0], [1.5, 0.3, -0.2], [0.7, -0.6, 0.9], [0.0, 0.0, 0.0]])
SHIFT = torch.tensor([0.3, -0.2, 0.1, 0.05, 1.0])


class Averaged:
    """A codec of 5 channels that are sums of the colours of 8 x 8 pixels."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(pixels, 8)
        return torch.einsum("kc,bchw->bkhw", MIX, small) + SHIFT.view(1, 5, 1, 1)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the map is to be fitted without the decoder")

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return 5, height // 8, width // 8


def test_the_map_of_a_linear_codec_is_its_inverse() -> None:
    codec, draw = Averaged(), torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 24, 40, generator=draw) * 2 - 1
    seen = coloured(codec.encode(pixels), fitted(codec))
    assert torch.allclose(seen, F.avg_pool2d(pixels, 8).double(), atol=1e-5)


@pytest.fixture(scope="module")
def emoji() -> sfumato.Loaded:
    return sfumato.load("emoji", dtype="float32")


def test_the_map_shows_what_a_decoder_shows_in_small(emoji: sfumato.Loaded) -> None:
    """Of pictures it was not fitted on it tells most of the colour (measured: 90 % of the variance about the mean)."""
    with tarfile.open(Path(__file__).parent / "assets" / "emoji-tiny.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith((".png", ".webp"))][::17][:12]
        pictures = [Image.open(tar.extractfile(name)).convert("RGBA") for name in names]
    white = Image.new("RGBA", (128, 128), "white")
    flat = [np.asarray(Image.alpha_composite(white, p.resize((128, 128))).convert("RGB")) for p in pictures]
    pixels = torch.from_numpy(np.stack(flat)).movedim(-1, 1) / 127.5 - 1
    codec = emoji.model.codec
    with torch.inference_mode():
        latent = codec.encode(pixels)
        decoded = F.avg_pool2d(codec.decode(latent), 8).double()
        seen = coloured(latent, fitted(codec))
    apart, spread = (
        (seen - decoded).square().mean(),
        (decoded - decoded.mean((0, 2, 3), True)).square().mean(),
    )
    assert apart < 0.15 * spread


def test_a_small_decoder_is_asked_and_a_large_one_not(emoji: sfumato.Loaded, monkeypatch) -> None:
    codec, latent = emoji.model.codec, torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    assert Previewer(codec)(latent).shape == (128, 128, 3)
    monkeypatch.setattr("sfumato.preview.SMALL", 1000)
    assert Previewer(codec)(latent).shape == (16, 16, 3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderTiny, Path]:
    torch.manual_seed(3)
    net = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        latent_channels=8,
    )
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(0.3 * torch.randn_like(value))
    folder = tmp_path_factory.mktemp("tiny")
    net.save_pretrained(folder)
    return net, folder


def test_a_tiny_decoder_shows_what_its_reference_shows(emoji: sfumato.Loaded, tiny) -> None:
    net, folder = tiny
    latent = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = net.decode(latent).sample[0].clamp(-1, 1).permute(1, 2, 0).numpy() * 127.5 + 127.5
    seen = Previewer(emoji.model.codec, tiny_codec(folder))(latent)
    assert np.abs(seen - wanted).max() < 0.51


def test_the_file_of_a_preview_is_the_newest_estimate(tmp_path: Path, tiny) -> None:
    out, beside = tmp_path / "out.png", tmp_path / "beside.png"
    asked = ["generate", "a cat", "-o", str(out), "--preview-file", str(beside)]
    asked += ["--steps", "2", "--sampler", "ddim", "--guidance", "1"]
    assert main(asked) == 0
    # Without guidance the last estimate of DDIM is the picture.
    assert np.abs(np.asarray(Image.open(beside)).astype(int) - np.asarray(Image.open(out))).max() <= 1
    assert main([*asked, "--force", "--preview-by", str(tiny[1])]) == 0
    assert np.abs(np.asarray(Image.open(beside)).astype(int) - np.asarray(Image.open(out))).max() > 20


def test_what_cannot_decode_previews_is_refused(emoji: sfumato.Loaded, tmp_path: Path) -> None:
    net = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), latent_channels=4
    )
    net.save_pretrained(tmp_path)
    with pytest.raises(InvalidRequest, match="give the tiny autoencoder of its family"):
        emoji.preview_by(tmp_path)
    with pytest.raises(WeightsError):
        emoji.preview_by(tmp_path / "nothing.safetensors")
    assert (
        main(["generate", "a cat", "--preview-file", str(tmp_path / "x.jpg"), "-o", str(tmp_path / "o.png")])
        == 2
    )
    assert not (tmp_path / "o.png").exists()
