"""The built-in model: text to a 128 x 128 emoji, by rectified flow in the latent space of a small autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from sfumato.codec import Latent
from sfumato.condition import Cond, Prompt, texts
from sfumato.denoiser import Denoiser
from sfumato.errors import WeightsError
from sfumato.families.table import ASSETS, model_hash, read_manifest
from sfumato.model import Conditioner, Defaults, Model
from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.nn.pack import pack
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.text.encoder import TextEncoder
from sfumato.weights.packed import load_packed

DENOISER_FILES = ("denoiser-1.safetensors", "denoiser-2.safetensors")
CODEC_FILE = "codec.safetensors"

CODEC = AutoencoderConfig()
NETWORK = UNetConfig(
    inner=8,
    outer=8,
    widths=(128, 256),
    blocks=1,
    attention=("none", "text"),
    middle="text",
    tokens=384,
    vector=384,
    groups=16,
    scale_shift=True,
    clock=384,
    mlp=2,
)
SCHEDULE = Flow()
DEFAULTS = Defaults(
    steps=20, sampler="dpmpp_2m", grid="linspace", guidance=4.0, width=128, height=128, least=128, most=128
)


def denoiser() -> Denoiser:
    """The denoiser with random weights: flow prediction, clock 1000 t."""
    return Denoiser(UNet(NETWORK), SCHEDULE, prediction("flow"), clock="thousand")


def conditioner(text: TextEncoder) -> Conditioner:
    """Prompts to token states and a pooled vector, scaled from length 1 to values of about unit variance."""

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        states = text.encode(texts(prompts))
        vector = states.pooled * math.sqrt(states.pooled.shape[-1])
        return Cond(tokens=states.tokens, mask=states.mask, vector=vector)

    return condition


def load(folder: Path = ASSETS, *, dtype: torch.dtype = torch.float32) -> Model:
    """The built-in model with its weights computing in ``dtype``.

    Every file must have the hash that the manifest names. Raises WeightsError if one is missing, truncated or
    altered.
    """
    manifest = read_manifest(folder)
    hashes = manifest["files"]
    missing = {*DENOISER_FILES, CODEC_FILE} - hashes.keys()
    if missing:
        raise WeightsError(f"the manifest in {folder} does not name {', '.join(sorted(missing))}")
    text = TextEncoder.load(folder)
    autoencoder = Autoencoder(CODEC)
    codec_tensors, codec_facts = load_packed(folder / CODEC_FILE, hashes[CODEC_FILE])
    assign(autoencoder, codec_tensors, CODEC_FILE)
    net = denoiser()
    tensors: dict[str, torch.Tensor] = {}
    for name in DENOISER_FILES:
        part, _ = load_packed(folder / name, hashes[name])
        tensors |= part
    assign(net, tensors, DENOISER_FILES[0])
    for module in (autoencoder, net):
        module.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.network, autoencoder = pack(net.network), pack(autoencoder)
    mean, std = (torch.tensor(codec_facts[key]) for key in ("mean", "std"))

    def notes(prompt: str) -> list[str]:
        (dropped,) = [text.dropped(prompt)]
        if not dropped:
            return []
        return [f"the prompt is long: its last {dropped} tokens are not read (the model reads {text.length})"]

    return Model(
        name="emoji",
        identity=model_hash(hashes),
        denoiser=net,
        codec=Latent(autoencoder, mean, std),
        conditioner=conditioner(text),
        defaults=DEFAULTS,
        notes=notes,
    )


def assign(module: torch.nn.Module, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Load ``tensors`` into ``module``; every name must be used once, every parameter filled once."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"the weights in {name} are not those of this model: {error}") from error
