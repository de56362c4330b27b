"""Tiny autoencoders on their own: quick decoders of a large one's latents."""

from __future__ import annotations

import os
from pathlib import Path

from sfumato.codec import Codec
from sfumato.errors import WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.published import codec_of
from sfumato.weights.load import load_into
from sfumato.weights.source import open_source


def tiny_codec(path: str | os.PathLike[str], device: str = "cpu") -> Codec:
    """The tiny autoencoder (TAESD and its kin, in either layout) in ``path``; WeightsError if that is no such thing."""
    with open_source(Path(path)) as source:
        part = open_checkpoint(source).parts.get("vae")
        if part is None or part.kind != "tiny":
            raise WeightsError(
                f"{path} is no tiny autoencoder, by which previews are decoded: "
                f"give one of the model's family, such as taesd, taesdxl, taesd3, taef1"
            )
        network = load_into(part.make, part.source, part.table, part.layout, device=device)
        return codec_of(part, network)
