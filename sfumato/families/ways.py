"""How the denoisers of diffusers that are wrapped are called: a row a class, of what is special to it.

Data alone, which loads nothing. A row stands here once the whole walk of our sampler was that of diffusers' pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is special to a class of denoisers.

    ``title`` names the models that have it, ``pipelines`` are those of diffusers that call it so.

    Of the network: ``share`` is what it is told of 1000 sigma, with ``unshifted`` of the time before the schedule's
    shift, with ``narrow`` in its own dtype; ``sign`` multiplies its output; ``packed`` is the side of the patches of
    latent that are its rows, 0 where it reads maps; ``last`` is of films of one frame, channels last; ``more`` names a
    function of nn.wrapped_more, ``doors`` are parameters with names of their own. ``limit`` is the setting that is the
    most patches a side, and how many places a side one is; with ``square`` that setting counts a square of patches.
    Without ``centred`` the shift of the autoencoder's latents is left alone. With ``sized`` the pipeline, not the
    network, says how many pixels a side its pictures have.

    Of the walk: ``grid`` is the one on which its pipeline asks a rectified flow ("normal" is the scheduler's own);
    ``patch`` the side of the patches that a shift by size counts, ``mu`` how it counts (see wrapped_process.SHIFTS),
    and ``by_size`` is whether its pipeline is followed with such a shift alone. ``flow`` is whether it is
    a rectified flow; others predict on a discrete schedule.

    Of the request: ``guidance`` is the argument of the pipeline that guides, ``added`` what that lacks of our scale,
    ``guide`` how branches are combined; ``read`` names the function of families.encoded that reads prompts; ``note`` is
    what a person should know; ``reference`` is of networks that look at a picture (the task instruct).
    """

    title: str
    pipelines: tuple[str, ...] = ()
    share: float = 1.0
    unshifted: bool = False
    sign: float = 1.0
    packed: int = 0
    last: bool = False
    narrow: bool = False
    more: str = ""
    doors: Mapping[str, str] = field(default_factory=dict)
    grid: str = "linspace"
    patch: int = 2
    mu: str = "line"
    by_size: bool = False
    flow: bool = True
    reference: bool = False
    guidance: str = "guidance_scale"
    added: float = 0.0
    guide: str = "cfg"
    read: str = "usual"
    centred: bool = True
    sized: bool = False
    limit: tuple[str, int] = ("", 1)
    square: bool = False
    note: str = ""


SIGMA = 0.001
"""The share of networks that are told sigma."""
REWRITTEN = "the pipeline lets a language model write the prompt anew; here it is read as it is written"

WAYS: dict[str, Way] = {
    "AuraFlowTransformer2DModel": Way(
        pipelines=("AuraFlowPipeline",),
        title="AuraFlow",
        share=SIGMA,
        grid="normal",
        limit=("pos_embed_max_size", 2),
        square=True,
    ),
    "QwenImageTransformer2DModel": Way(
        pipelines=("QwenImagePipeline",),
        title="Qwen-Image",
        share=SIGMA,
        packed=2,
        more="shapes",
        grid="even",
        guidance="true_cfg_scale",
        guide="cfg(keep=2)",
    ),
    "NucleusMoEImageTransformer2DModel": Way(
        pipelines=("NucleusMoEImagePipeline",),
        title="Nucleus-Image",
        share=SIGMA,
        sign=-1.0,
        packed=2,
        more="shapes each",
        guide="cfg(keep=2)",
    ),
    "Flux2Transformer2DModel": Way(
        pipelines=("Flux2Pipeline", "Flux2KleinPipeline"),
        title="FLUX.2 dev and klein",
        share=SIGMA,
        packed=1,
        more="flux2",
        grid="even(scarce=true)",
        patch=1,
        mu="scarce",
        reference=True,
    ),
    "CogView4Transformer2DModel": Way(
        pipelines=("CogView4Pipeline",),
        title="CogView4",
        unshifted=True,
        more="sizes",
        grid="even(whole=1000)",
        mu="root",
    ),
    "CogView3PlusTransformer2DModel": Way(
        pipelines=("CogView3PlusPipeline",),
        title="CogView3-Plus",
        flow=False,
        more="sizes",
        limit=("pos_embed_max_size", 2),
    ),
    "HunyuanDiT2DModel": Way(
        pipelines=("HunyuanDiTPipeline",),
        title="HunyuanDiT",
        flow=False,
        narrow=True,
        more="hunyuan",
        read="hunyuan",
    ),
    "UNet2DConditionModel": Way(pipelines=("KolorsPipeline",), title="Kolors", flow=False, more="kolors"),
    "HiDreamImageTransformer2DModel": Way(
        pipelines=("HiDreamImagePipeline",),
        title="HiDream-I1",
        sign=-1.0,
        more="hidream",
        grid="normal",
        read="hidream",
        limit=("max_resolution", 1),
    ),
    "BriaTransformer2DModel": Way(
        pipelines=("BriaPipeline",), title="Bria 3.2", packed=2, more="flux", by_size=True
    ),
    "OvisImageTransformer2DModel": Way(
        pipelines=("OvisImagePipeline",), title="Ovis-Image", share=SIGMA, packed=2, more="ovis"
    ),
    "LongCatImageTransformer2DModel": Way(
        pipelines=("LongCatImagePipeline",),
        title="LongCat-Image",
        share=SIGMA,
        packed=2,
        more="longcat",
        guide="cfg(keep=2, grow=0)",
        note=REWRITTEN,
    ),
    "ErnieImageTransformer2DModel": Way(
        pipelines=("ErnieImagePipeline",),
        title="ERNIE-Image",
        more="ernie",
        patch=1,
        read="listed",
        note=REWRITTEN,
    ),
    "PRXTransformer2DModel": Way(
        pipelines=("PRXPipeline",),
        title="PRX",
        share=SIGMA,
        grid="normal",
        doors={"mask": "attention_mask"},
        sized=True,
    ),
    "Kandinsky5Transformer3DModel": Way(
        pipelines=("Kandinsky5T2IPipeline",),
        title="Kandinsky 5 Image",
        last=True,
        more="kandinsky",
        grid="normal",
        read="kandinsky",
        centred=False,
    ),
    "Krea2Transformer2DModel": Way(
        pipelines=("Krea2Pipeline",), title="Krea 2", share=SIGMA, packed=2, more="krea", added=1.0
    ),
}
"""By the class of denoiser."""

REFUSED: dict[str, str] = {
    "LuminaNextDiT2DModel": "its pipeline guides three of the four channels of the latent, which no guidance here does",
    "OmniGenTransformer2DModel": "its transformer is the encoder of its text too, and reads token ids with every step",
    "GlmImageTransformer2DModel": "a language model draws the tokens of its picture first, one after the other",
    "BriaFiboTransformer2DModel": "its transformer reads the states of every layer of its language model",
    "QwenImage21Transformer2DModel": "its autoencoder makes pictures of four channels, the last their transparency",
    "Ideogram4Transformer2DModel": "a second transformer makes its unguided branch",
    "HunyuanImageTransformer2DModel": "its pipeline guides by a component of its own (adaptive projection in some)",
    "Kandinsky3UNet": "its pipeline cuts the negative prompt to the prompt's length, and they are read apart here",
    "IFPipeline": "its first stage makes 64 pixels, and others, in folders of their own, enlarge them",
    **dict.fromkeys(
        (
            "KandinskyPipeline",
            "KandinskyV22Pipeline",
            "KandinskyCombinedPipeline",
            "KandinskyV22CombinedPipeline",
        ),
        "it reads embeddings of pictures, which another network, a prior, makes of the prompt",
    ),
    **dict.fromkeys(
        ("KandinskyPriorPipeline", "KandinskyV22PriorPipeline"),
        "it makes embeddings of pictures, not pictures",
    ),
    **dict.fromkeys(
        ("StableCascadeDecoderPipeline", "StableCascadePriorPipeline", "StableCascadeCombinedPipeline"),
        "two denoisers follow one another, the first in latents that no codec here makes",
    ),
}
"""Denoisers, and pipelines whose denoiser's class is native, that are refused, and why."""


SHARED = ("UNet2DConditionModel",)
"""Classes that are native too, as most pipelines call them."""
FILMS = ("3D", "Video", "Audio", "AnimateDiff", "Motion")
"""Parts of the names of what makes films or sounds."""


def way_of(pipeline: str, denoiser: str) -> Way | None:
    """How ``pipeline`` of diffusers calls its ``denoiser``; None for what is not in the table."""
    way = WAYS.get(denoiser)
    return way if way is not None and pipeline in way.pipelines else None


def refusal(pipeline: str, denoiser: str) -> str:
    """Why what ``pipeline`` makes with its ``denoiser`` is known not to be followed; empty if that is not known."""
    if pipeline in REFUSED or denoiser in REFUSED:
        return REFUSED.get(pipeline) or REFUSED[denoiser]
    way = WAYS.get(denoiser)
    known = way is not None and pipeline in way.pipelines
    if not known and any(word in name for name in (pipeline, denoiser) for word in FILMS):
        return "it makes films or sounds, and only what makes single pictures is wrapped"
    if way is not None and pipeline and not known and denoiser not in SHARED:
        return f"it calls {denoiser} otherwise than {' and '.join(way.pipelines)}, as which it is known here"
    return ""
