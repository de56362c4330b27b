"""Models from published checkpoints, assembled from their parts: networks, process, conditions, defaults.

Families differ in a row of FAMILIES (stable.py, flows.py, sincos.py): how the parts tell it, what the network predicts
on which schedule, how prompts become conditions, and its authors' defaults. Where each value comes from stands in
docs/checkpoints.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from sfumato.codec import Latent, Pixels
from sfumato.denoiser import Denoiser
from sfumato.errors import UnknownName, WeightsError
from sfumato.families import chroma, flows, lumina, pixels, sana, sincos, stable, texts, zimage
from sfumato.families.checkpoint import Checkpoint, Part
from sfumato.families.family import Family, Kit, beside_of, extra_of, refusal
from sfumato.families.languages import check_installed
from sfumato.families.looks import LOOKERS, looks_of
from sfumato.families.marks import BY_SETTINGS, says_turbo
from sfumato.families.split import blind, check_parts, stored, words_of
from sfumato.families.surplus import idle, surplus
from sfumato.families.told import Normal, Process, channels, normal_of, number, predicted, process_of
from sfumato.families.wider import wider
from sfumato.model import Defaults, Model, Seams
from sfumato.nn.clip import ClipConfig
from sfumato.nn.mmdit import MMDiTConfig
from sfumato.nn.quantized import quantized
from sfumato.nn.sana import SanaConfig
from sfumato.nn.sincos import SincosConfig
from sfumato.nn.unet import UNetConfig
from sfumato.process.prediction import prediction as prediction_named
from sfumato.text.t5 import T5Tokens
from sfumato.weights.load import hollow, load_into

FAMILIES: tuple[Family, ...] = (
    stable.UPSCALER,
    stable.SD1,
    stable.SD2,
    stable.REFINER,
    stable.SDXL,
    flows.SD35_MEDIUM,
    flows.SD35_LARGE,
    flows.SD3,
    flows.SCHNELL,
    flows.FLUX,
    flows.KONTEXT,
    chroma.CHROMA,
    lumina.LUMINA,
    sana.SPRINT,
    sana.SANA_4K,
    sana.SANA,
    zimage.BASE,
    zimage.TURBO,
    sincos.SIGMA,
    sincos.ALPHA,
    sincos.DIT,
    pixels.BY_CLASS,
    pixels.UNCONDITIONAL,
    pixels.EDM_BY_CLASS,
    pixels.EDM,
)
"""The families, the most special first."""
TOLD = ((flows.says_kontext, flows.KONTEXT), (says_turbo, zimage.TURBO))
"""Families whose networks have another's shapes, and what tells them."""


UNTOUCHED = ("vae", "language", *LOOKERS)
"""The places of networks that no adapter reaches."""


def family_of(checkpoint: Checkpoint, name: str | None = None) -> Family:
    """The family of ``checkpoint``, or its variant of the one called ``name``; WeightsError if it is of none."""
    if name is not None and name not in {f.name for f in FAMILIES}:
        raise UnknownName("family", name, sorted({f.name for f in FAMILIES}))
    if name is None:
        told = (one.name for says, one in TOLD if one.fits(checkpoint.parts) and says(checkpoint.source))
        name = next(told, None)
    for family in FAMILIES:
        if family.name == (name or family.name) and family.fits(checkpoint.parts):
            return family
    if name is not None:
        kind = checkpoint.parts["denoiser"].kind if "denoiser" in checkpoint.parts else "missing"
        raise WeightsError(
            f"the denoiser of {checkpoint.source.path} ({kind}) is not one of the family {name!r}"
        )
    if set(checkpoint.parts) <= {*LOOKERS}:
        raise WeightsError(
            f"{checkpoint.source.path} makes no pictures, but tokens of them for FLUX.1: give FLUX.1 as the model, and "
            "this with --part (in Python: parts=[...])"
        )
    held = ", ".join(f"{place}: {part.kind}" for place, part in checkpoint.parts.items())
    raise WeightsError(f"{checkpoint.source.path} is of no family that is known here; it holds {held}")


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    family: str | None = None,
    predicts: str | None = None,
    tokens: T5Tokens | None = None,
    packed: bool = False,
    encoders: bool = True,
    draws: bool = True,
    columns: Callable[[], int] = lambda: 0,
) -> Model:
    """The model of ``checkpoint``, its networks in ``dtype`` on ``device``.

    ``family`` and ``predicts`` overrule what is found; ``tokens`` is T5's vocabulary where the checkpoint has none.
    Without ``encoders`` texts are not read, only what encoders made of them before; unless it ``draws``, denoiser and
    autoencoder have no weights, and texts are all that is read.
    ``packed`` keeps matrices in memory as the files have them where that takes fewer bytes than ``dtype``. ``columns``
    finds how many of a FLUX.1's first layer an adapter will change, where they are more than there are (see wider).
    WeightsError says which part is missing or does not fit, UnknownName that no family or prediction is called so.
    """
    if predicts is not None:
        prediction_named(predicts)
    kind = pixels.suited(family_of(checkpoint, family), checkpoint)
    check_parts(checkpoint, kind, encoders=encoders)
    sincos.check_repeated(checkpoint)
    parts = {place: _completed(part, place, kind) for place, part in checkpoint.parts.items()}
    asked = process_of(kind, checkpoint, predicts)
    reading = texts.encoders(parts)
    left = surplus(kind.name, (*kind.needs, *looks_of(parts)), parts)
    wanted = {place: part for place, part in parts.items() if place not in left}
    loaded = {place: part for place, part in wanted.items() if (encoders if place in reading else draws)}
    words = None
    if "language" in loaded:
        check_installed(parts["language"].kind)
    if "text_3" in loaded or "language" in loaded:
        words = tokens or words_of(checkpoint, kind)
    keep = quantized if packed else None
    nets: dict[str, Any] = {
        place: load_into(
            part.make,
            part.source,
            part.table,
            part.layout,
            dtype=dtype,
            keep_float32=part.exact,
            device=device,
            packed=keep,
        )
        for place, part in loaded.items()
    }
    if "denoiser" in nets and parts["denoiser"].kind == "flux":
        parts["denoiser"], nets["denoiser"] = wider(parts["denoiser"], nets["denoiser"], columns())
    every = {
        place: nets.get(place) or hollow(part.make) for place, part in parts.items() if place not in reading
    }
    denoiser = Denoiser(
        every["denoiser"],
        asked.schedule,
        prediction_named(asked.predicts),
        clock=asked.clock,
        scale=asked.scale,
        learned_range=_outer(parts["denoiser"]) == 2 * kind.latent,
        clip=asked.clip,
    )
    codec = (
        codec_of(parts["vae"], every["vae"], kind, normal_of(checkpoint))
        if "vae" in parts
        else pixels.codec_of(parts)
    )
    zeros = bool(checkpoint.source.config.get("force_zeros_for_empty_prompt", True))
    labels = sincos.labels_of(checkpoint.source.config)
    kit = Kit(nets=nets, parts=parts, tokens=words, zeros=zeros, labels=labels)
    said = [*_notes(kind, asked), *stored(loaded, dtype, packed)]
    said += [f"{note}; it was not loaded" for note in idle({place: parts[place].kind for place in left})]
    alike = tuple(dict.fromkeys(f.name for f in FAMILIES if f.condition is kind.condition))
    drawing = {place: part for place, part in checkpoint.parts.items() if place not in reading}
    why_not = refusal(kind, parts)
    return Model(
        name=kind.name,
        identity=_identity(checkpoint),
        denoiser=denoiser,
        codec=codec,
        conditioner=texts.conditioner(kind, kit),
        defaults=_defaults(kind, parts, asked),
        blind=blind(parts),
        notes=lambda prompt: [
            *said,
            *getattr(codec, "notes", ()),
            *(
                kind.dropped(kit, prompt)
                if all(place in nets for place in texts.encoders(kind.needs))
                else ()
            ),
        ],
        schedule_of=asked.schedule_of,
        refused={"text2image": why_not} if why_not else {},
        beside=beside_of(kind, parts, 1.0 if isinstance(codec, Pixels) else float(codec.std.flatten()[0])),
        seams=Seams(
            networks=lambda: {
                place: (net, parts[place].table) for place, net in nets.items() if place not in UNTOUCHED
            },
            learned=kit.learned,
        ),
        texts=texts.texts_of(kind, kit, alike, _identity(replace(checkpoint, parts=drawing))),
    )


def codec_of(part: Part, network: Any, family: Family | None = None, normal: Normal | None = None) -> Latent:
    """The codec of a loaded autoencoder, with the scale that its settings tell, or else the ``family``'s.

    A latent z becomes ``(z - shift) scale``, or ``(z - mean) scale / deviation`` where the settings tell both for each
    channel, or ``normal`` does: what a single file's marks say. WeightsError where neither tells the scale (the files
    of an autoencoder do not), and for settings that are no such numbers.
    """
    told = part.source.config
    if part.kind == "tiny":
        shift, scale = 0.0, 1.0  # trained on the big autoencoder's latent after its scale
    elif family is not None:
        shift, scale = family.shift, family.scale
    elif "scaling_factor" not in told:
        raise WeightsError(
            f"the autoencoder {part.source.path} does not tell how its latent is scaled: say of which family it is"
        )
    else:
        shift, scale = 0.0, 1.0
    path = str(part.source.path)
    shift = 0.0 if "scaling_factor" in told else shift
    scale = number(told, "scaling_factor", scale, path, owner="autoencoder")
    shift = number(told, "shift_factor", shift, path, least=-1e9, owner="autoencoder")
    mean, std = (torch.tensor([value], dtype=torch.float64) for value in (shift, 1.0))
    count = part.config.latent
    if normal is not None:
        mean, std, scale = normal
        told = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
    if told.get("latents_mean") is not None and told.get("latents_std") is not None:
        mean, std = (
            channels(told, name, count, path, least=least)
            for name, least in (("latents_mean", -1e9), ("latents_std", 1e-9))
        )
    return Latent(network, mean, std / scale)


def _completed(part: Part, place: str, kind: Family) -> Part:
    """``part`` with what the family knows and shapes do not tell, where there is no ``config.json`` that says it."""
    if part.source.config:
        return part
    if isinstance(part.config, UNetConfig) and kind.heads:
        return replace(part, config=replace(part.config, heads=kind.heads))
    if isinstance(part.config, ClipConfig):
        return replace(part, config=replace(part.config, quick=place in kind.quick))
    return part


def _defaults(kind: Family, parts: Mapping[str, Part], asked: Process) -> Defaults:
    """The defaults with what the checkpoint says of sizes; Stable Diffusion 2 that predicts v is of 768 pixels."""
    chosen, net = asked.defaults, parts["denoiser"]
    extra = extra_of(kind, parts)
    if extra is not None and extra.guidance is not None:
        chosen = replace(chosen, guidance=extra.guidance)
    if extra is not None and extra.kind == "mask":
        chosen = replace(chosen, repeat=1)
    factor = parts["vae"].config.factor if "vae" in parts else 1
    side = net.source.config.get("sample_size")
    if not isinstance(side, int):
        side = 768 // factor if kind.name == "sd2" and asked.predicts == "v" else chosen.width // factor
    least = min(chosen.least, side * factor)
    chosen = replace(chosen, width=side * factor, height=side * factor, least=least)
    if "vae" not in parts:  # pixels of one size
        return replace(chosen, multiple=side, least=side, most=side)
    if isinstance(net.config, SincosConfig | SanaConfig) and not net.source.config:
        size = net.config.side * net.config.patch * factor
        chosen = replace(chosen, width=size, height=size, least=min(chosen.least, size))
    if isinstance(net.config, MMDiTConfig):
        most = net.config.side * net.config.patch * factor
        chosen = replace(chosen, most=most, width=min(chosen.width, most), height=min(chosen.height, most))
    return chosen


def _outer(denoiser: Part) -> int:
    """How many channels a denoiser answers: twice the latent's where it also learned the variance of steps."""
    outer: int = denoiser.config.outer
    return outer


def _notes(kind: Family, asked: Process) -> list[str]:
    """What was guessed and may be overruled."""
    if kind.name != "sd2" or asked.why in (BY_SETTINGS, "as asked"):
        return [*kind.notes]
    return [f"taken to predict {asked.predicts} ({asked.why}); the option predicts overrules it"]


def _identity(checkpoint: Checkpoint) -> str | Callable[[], str]:
    """The checkpoint's hash, later if its files remain: reading them all once more would double the time to load."""
    passing = any(part.source.closing for part in checkpoint.parts.values())
    return _hash(checkpoint) if passing else lambda: _hash(checkpoint)


def _hash(checkpoint: Checkpoint) -> str:
    """One sha256 for the checkpoint: of its file, or of the hashes of a folder's or of several files' parts."""
    own = {checkpoint.source.path}
    if not checkpoint.source.parts and {part.source.path for part in checkpoint.parts.values()} == own:
        return checkpoint.source.hash()
    hashes = {place: part.source.hash() for place, part in sorted(checkpoint.parts.items())}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


__all__ = ["FAMILIES", "Family", "codec_of", "family_of", "load_checkpoint", "predicted"]
