"""What a family of published models is: a row of what is special to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfumato.condition import Cond, Prompt
from sfumato.families.checkpoint import Part
from sfumato.model import Beside, Defaults, Kind
from sfumato.nn.unet import UNetConfig
from sfumato.process.schedule import Schedule
from sfumato.text.t5 import T5Tokens

Parts = Mapping[str, Part]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kit:
    """What makes conditions: loaded networks and their descriptions by place, and T5's vocabulary.

    ``zeros`` is whether a negative prompt that nobody gave becomes zeros (Stable Diffusion XL); ``labels`` are the
    classes by name, ``learned`` the token ids of words that encoders were taught, by word and place.
    """

    nets: Mapping[str, Any]
    parts: Parts
    tokens: T5Tokens | None = None
    zeros: bool = True
    labels: Mapping[str, int] = field(default_factory=dict)
    learned: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published models, or a ``variant`` of one that differs in some of this: what is special to it.

    ``fits`` tells a checkpoint's parts; ``needs`` are the parts without which no picture can be made. ``scale`` and
    ``shift`` turn the autoencoder's latent z into the model's, ``(z - shift) scale``. ``condition`` makes the
    conditions of prompts' texts, to which ``request`` adds what is told of the picture: sizes, guidance; ``numbers`` is
    how many of these stand behind the pooled text. ``dropped`` says what of a long prompt is not read.

    What the shapes of a single file do not tell: ``heads`` is how many heads its U-Net's attention has at every
    level, 0 for 64 channels a head; ``quick`` names the places of the text encoders with OpenAI's quick GELU.
    ``words`` is the folder of T5's vocabulary.

    ``by_size`` chooses the shift of a rectified flow by the number of patches. ``latent`` is how many channels of
    the denoiser's input are the picture itself; where there are more, something is laid beside it. ``refused`` says
    why text to image cannot be asked at all, empty if it can. ``reference`` is whether it was trained to look at a
    picture, as more tokens. ``clip`` limits x0 (see Denoiser) where no scheduler's settings are told; ``notes`` say
    what was taken for granted.
    """

    name: str
    title: str
    fits: Callable[[Parts], bool]
    needs: tuple[str, ...]
    predicts: str
    schedule: Schedule
    clock: str
    scale: float
    defaults: Defaults
    condition: Callable[[Kit, Sequence[Prompt]], Cond]
    request: Callable[[Kit, Sequence[Prompt], Cond], Cond] = lambda kit, prompts, cond: cond
    numbers: int = 0
    dropped: Callable[[Kit, Prompt], list[str]] = lambda kit, prompt: []
    shift: float = 0.0
    heads: int = 0
    quick: tuple[str, ...] = ()
    by_size: bool = False
    latent: int = 4
    refused: str = ""
    variant: str = ""
    words: str = ""
    reference: bool = False
    clip: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What a denoiser does whose input has channels besides the picture's.

    ``kind`` as in sfumato.model.Beside; ``guidance`` its authors' default, where it has one of its own.
    """

    kind: Kind
    does: str
    task: str
    guidance: float | None = None


BESIDE: dict[tuple[str, int], Extra] = {
    ("unet", 9): Extra(
        kind="mask",
        does="fills the masked part of a picture (9 channels in: latent, mask and masked picture)",
        task="inpaint",
    ),
    ("unet", 8): Extra(
        kind="picture",
        does="changes a picture by an instruction (8 channels in: latent and picture)",
        task="instruct",
    ),
    ("unet", 5): Extra(
        kind="depth", does="follows a map of depth (5 channels in: latent and map)", task="control"
    ),
    ("unet", 7): Extra(
        kind="small",
        does="makes a small picture four times as large (7 channels in: latent and picture)",
        task="upscale",
    ),
    ("flux", 96): Extra(
        kind="mask",
        does="fills the masked part of a picture (384 columns in: latent, masked picture and mask)",
        task="inpaint",
        guidance=30.0,
    ),
    ("flux", 32): Extra(
        kind="control",
        does="follows a map of edges or of depth (128 columns in: latent and map)",
        task="control",
    ),
}
"""What denoisers of a kind do whose input has so many channels."""


def extra_of(family: Family, parts: Parts) -> Extra | None:
    """What the denoiser among ``parts`` reads besides the picture of ``family``; None if nothing, or nothing known."""
    net = parts["denoiser"]
    return None if _inner(net) == family.latent else BESIDE.get((net.kind, _inner(net)))


def beside_of(family: Family, parts: Parts, raw: float) -> Beside | None:
    """The same as a model says it; ``raw`` undoes the scale of latents, which InstructPix2Pix reads without it."""
    if family.reference:
        return Beside(kind="reference")
    extra = extra_of(family, parts)
    if extra is None:
        return None
    return Beside(kind=extra.kind, scale=raw if extra.kind == "picture" else 1.0)


def _inner(net: Part) -> int:
    return int(net.config.inner if isinstance(net.config, UNetConfig) else net.config.channels)


def refusal(family: Family, parts: Parts) -> str:
    """Why text to image cannot be asked of a model of ``family`` made of ``parts``; empty if it can be."""
    if family.refused:
        return family.refused
    inner = _inner(parts["denoiser"])
    if inner == family.latent:
        return ""
    extra = extra_of(family, parts)
    what = (
        f"{extra.does}; it is for the task {extra.task!r}"
        if extra
        else f"reads {inner} channels, of which {family.latent} are the picture's; what the others are "
        "is not known here"
    )
    return f"this model of {family.title} {what}, not for text2image"


def unet_of(parts: Parts) -> UNetConfig | None:
    """The U-Net among ``parts``, if the denoiser is one."""
    config = parts["denoiser"].config if "denoiser" in parts else None
    return config if isinstance(config, UNetConfig) else None


def is_kind(kind: str) -> Callable[[Parts], bool]:
    """A denoiser of ``kind``."""
    return lambda parts: "denoiser" in parts and parts["denoiser"].kind == kind
