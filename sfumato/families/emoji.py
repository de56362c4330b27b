"""The built-in model: text to a 128 x 128 emoji, by rectified flow in the latent space of a small autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from sfumato.codec import Latent
from sfumato.condition import Cond, Prompt, ready_or, texts
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.keys.unet import table as unet_table
from sfumato.families.table import ASSETS, model_hash, read_manifest
from sfumato.model import Conditioner, Defaults, Model, Seams, Texts
from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.nn.pack import pack
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.text.encoder import WEIGHTS_FILE, Encoded, TextEncoder
from sfumato.text.prompt.dialects import parse, parts_at
from sfumato.text.prompt.parts import bare
from sfumato.weights.keys import KeyTable
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
    """Prompts to token states and a pooled vector, scaled from length 1 to values of about unit variance.

    Weights multiply states, and the vector is the mean of the weighted ones; texts of a blend are added by their
    shares. See text/prompt/single.py.
    """

    def row(prompt: Prompt) -> Encoded:
        apart = [f"a prompt for the encoder {place!r}" for place, _ in prompt.apart[:1]]
        told = [*(["clip_skip"] * bool(prompt.skip)), *(["padding"] * bool(prompt.padding)), *apart]
        if told:
            raise InvalidRequest(
                f"{told[0]} is for models with CLIP or T5, and the built-in model has one encoder of another kind: "
                "leave it out"
            )
        part = prompt.read_by("text")
        rows = [text.weighted(words, prompt.dialect) for words in part.words]
        if len(rows) == 1:
            return rows[0]
        shares = [words.share for words in part.words]
        tokens = sum(share * row.tokens for share, row in zip(shares[1:], rows[1:], strict=True))
        vector = sum(share * row.pooled for share, row in zip(shares[1:], rows[1:], strict=True))
        return Encoded(
            shares[0] * rows[0].tokens + tokens,
            torch.stack([row.mask for row in rows]).any(0),
            F.normalize(shares[0] * rows[0].pooled + vector, dim=-1),
        )

    def condition(prompts: Sequence[Prompt]) -> Cond:
        plain = all(p.plain for p in prompts)
        rows = [row(p) for p in prompts] if not plain else []
        states = text.encode(texts(prompts)) if plain else Encoded(*map(torch.cat, zip(*rows, strict=True)))
        vector = states.pooled * math.sqrt(states.pooled.shape[-1])
        return Cond(tokens=states.tokens, mask=states.mask, vector=vector)

    told = ready_or(condition, masks="always")
    return lambda prompts: told([Prompt(text=p) if isinstance(p, str) else p for p in prompts])


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

    def filled(made: Denoiser) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for name in DENOISER_FILES:
            part, _ = load_packed(folder / name, hashes[name])
            tensors |= part
        assign(made, tensors, DENOISER_FILES[0])
        _settle(made, dtype)

    filled(net)
    _settle(autoencoder, dtype)
    net.network, autoencoder = pack(net.network), pack(autoencoder)
    packed = net.network
    plain: list[torch.nn.Module] = []

    def networks() -> dict[str, tuple[torch.nn.Module, KeyTable]]:
        """The plain U-Net, which is read again when adapters are first asked for, and the text encoder."""
        if not plain:
            made = denoiser()
            filled(made)
            plain.append(made.network)
        return {
            "denoiser": (plain[0], unet_table(NETWORK, linear=True)),
            "text": (text.bert, own_table(text.bert)),
        }

    def use(how: Literal["own", "merged", "live"]) -> None:
        net.network = packed if how == "own" else pack(plain[0]) if how == "merged" else plain[0]

    mean, std = (torch.tensor(codec_facts[key]) for key in ("mean", "std"))

    def notes(prompt: Prompt) -> list[str]:
        dropped = text.dropped(bare(parts_at(parse(prompt.text, prompt.dialect), 0, 1)[0]))
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
        seams=Seams(networks=networks, use=use, copied=True),
        texts=Texts(
            families=("emoji",),
            tokens=NETWORK.tokens,
            vector=NETWORK.vector,
            masked=True,
            encode=conditioner(text),
            encoders=lambda: {"text": hashes[WEIGHTS_FILE]},
        ),
    )


def _settle(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make ``module`` ready for inference in ``dtype``."""
    module.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def own_table(module: torch.nn.Module) -> KeyTable:
    """A table for a network that no published file has: its own names alone."""
    return KeyTable.of((name, "-", "-") for name, _ in module.named_parameters())


def assign(module: torch.nn.Module, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Load ``tensors`` into ``module``; every name must be used once, every parameter filled once."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"the weights in {name} are not those of this model: {error}") from error
