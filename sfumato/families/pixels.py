"""U-Nets on pixels, of a class or of nothing in particular: diffusers' UNet2DModel, OpenAI's files and EDM's.

Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021, Dhariwal & Nichol 2021 (ADM). Where each value comes from stands in
docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfumato.codec import Pixels
from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import adm, edm
from sfumato.families.checkpoint import Checkpoint, Part
from sfumato.families.family import Family, Kit, Parts, is_kind
from sfumato.families.sincos import check_plain, class_of
from sfumato.model import Defaults
from sfumato.process.table import linear


def condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """The classes that the prompts name, or nothing where the network knows none.

    InvalidRequest for a prompt to a network without classes, and where there are some for a prompt left out and for
    guidance: no label stands for none.
    """
    check_plain(prompts)
    classes = kit.parts["denoiser"].config.classes
    if classes:
        if any(p.guidance != 1 for p in prompts):
            raise InvalidRequest(
                "guidance other than 1 needs a label that stands for none, which this model was not trained with"
            )
        return Cond(label=torch.tensor([class_of(p.text, kit.labels, classes, None) for p in prompts]))
    if any(p.text.strip() for p in prompts):
        raise InvalidRequest(
            "this model makes pictures of nothing in particular and reads no prompt: use the task 'unconditional'"
        )
    return Cond()


def suited(family: Family, checkpoint: Checkpoint) -> Family:
    """``family`` with the channels of the pixels that a U-Net of UNCONDITIONAL or BY_CLASS makes; others as they are.

    OpenAI's files also tell schedule, steps and size by what they are known to be (see families.adm). WeightsError for
    one that works on latents of an autoencoder that is not read here, that reads or answers other things than pixels,
    or whose pictures' size is told nowhere.
    """
    part = checkpoint.parts["denoiser"]
    path, config = part.source.path, part.config
    if part.kind in edm.KINDS:
        edm.check(part.source)
        chosen = edm.defaults(config, family.defaults)
        return replace(family, latent=config.inner, defaults=chosen, notes=edm.notes(part.source))
    if part.kind != "pixels":
        return family
    if names := [name for name in checkpoint.configs if name in ("vqvae", "movq", "vae")]:
        raise WeightsError(
            f"{checkpoint.source.path} is a U-Net over latents of the component {names[0]!r}, whose pictures are not "
            "made here: U-Nets over pixels are"
        )
    if part.layout == "original" and config.inner == 6:
        raise WeightsError(
            f"{path} makes a small picture larger: it reads 6 channels, three of which are that picture's, which is "
            "not followed here; U-Nets that read 3 are"
        )
    if config.inner not in (1, 3) or config.outer not in (config.inner, 2 * config.inner):
        raise WeightsError(
            f"{path} reads {config.inner} channels and answers {config.outer}: pixels have 1 or 3, and as many or "
            "twice as many (with learned variances) are answered"
        )
    if not config.side:
        raise WeightsError(f"the settings of {path} do not tell of which size its pictures are (sample_size)")
    made = replace(family, latent=config.inner)
    if part.layout != "original":
        return made
    adm.check(config, path)
    return _openai(made, part)


def _openai(family: Family, part: Part) -> Family:
    """``family`` as a network of improved- or guided-diffusion was trained, sampled as its authors do."""
    config, flags = part.config, part.source.config
    by = adm.trained(config, flags if adm.FLAGS in flags else None)
    heads = f"{by.heads} heads" if by.heads else f"heads of {by.head} channels"
    order = "all queries first" if by.fused == "parts" else "each head's queries, keys and values together"
    note = (
        f"of no published size: taken to have {heads}, {order}, pictures of {by.side} pixels and "
        f"{by.steps} steps on a {'cosine' if by.cosine else 'linear'} schedule; a config.json beside the weights with "
        "the authors' flags (image_size, num_heads, noise_schedule, ...) overrules it, where their folder is given"
    )
    learned = config.outer == 2 * config.inner
    return replace(
        family,
        predicts=by.says,
        schedule=by.schedule,
        clip=1.0,
        notes=() if flags or adm.known(config) else (note,),
        defaults=replace(
            family.defaults,
            steps=250,
            sampler=f"ddpm(variance={'learned' if learned else 'large'})",
            grid="linspace",
            width=by.side,
            height=by.side,
        ),
    )


def codec_of(parts: Parts) -> Pixels:
    """The pixels of a U-Net without an autoencoder."""
    config = parts["denoiser"].config
    return Pixels(config.inner, config.side, config.side)


def has_classes(parts: Parts) -> bool:
    """A U-Net on pixels that reads a class."""
    return is_kind("pixels")(parts) and bool(parts["denoiser"].config.classes)


def is_edm(parts: Parts) -> bool:
    """A network of EDM."""
    return any(is_kind(kind)(parts) for kind in edm.KINDS)


def is_edm_by_class(parts: Parts) -> bool:
    """A network of EDM that reads a class."""
    return is_edm(parts) and bool(parts["denoiser"].config.classes)


_DEFAULTS = Defaults(
    steps=1000,
    sampler="ddpm",
    grid="leading(offset=0)",
    guidance=1.0,
    width=32,
    height=32,
    multiple=1,
    least=1,
    most=4096,
    unit_start=True,
)

UNCONDITIONAL = Family(
    name="pixels",
    title="a U-Net on pixels",
    fits=is_kind("pixels"),
    needs=("denoiser",),
    predicts="eps",
    schedule=linear(),
    clock="t",
    scale=1.0,
    latent=3,
    defaults=_DEFAULTS,
    condition=condition,
)
BY_CLASS = replace(
    UNCONDITIONAL,
    variant="classes",
    title="a U-Net on pixels, by class",
    fits=has_classes,
    # No label stands for none, so that there is nothing to guide away from.
    defaults=replace(_DEFAULTS, distilled=True),
)
EDM = replace(
    UNCONDITIONAL,
    name="edm",
    title="EDM",
    fits=is_edm,
    predicts="edm",
    schedule=edm.SCHEDULE,
    clock="log_sigma",
    defaults=edm.DEFAULTS,
)
EDM_BY_CLASS = replace(
    EDM,
    variant="classes",
    title="EDM, by class",
    fits=is_edm_by_class,
    defaults=replace(edm.DEFAULTS, distilled=True),
)
