"""Stable Diffusion 1, 2 and XL, the refiner and the upscaler: U-Nets in the latents of a convolutional autoencoder.

Rombach et al. 2022; Podell et al. 2023. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfumato.condition import Cond, Prompt
from sfumato.families import prompts as rules
from sfumato.families.family import Family, Kit, Parts, unet_of
from sfumato.families.prompts import Clip
from sfumato.model import Defaults
from sfumato.nn.embed import sinusoid
from sfumato.process.table import scaled_linear


def is_sd1(parts: Parts) -> bool:
    """A U-Net whose transformers end in convolutions."""
    net = unet_of(parts)
    return net is not None and not parts["denoiser"].linear and not net.vector and not net.classes


def is_sd2(parts: Parts) -> bool:
    """A U-Net whose transformers end in matrices, with text tokens alone."""
    net = unet_of(parts)
    return net is not None and parts["denoiser"].linear and not net.vector and not net.classes


def is_upscaler(parts: Parts) -> bool:
    """A U-Net that reads a class, which is the noise level of the small picture beside the latent."""
    net = unet_of(parts)
    return net is not None and bool(net.classes)


def is_refiner(parts: Parts) -> bool:
    """A U-Net that reads a vector, and tokens of OpenCLIP's largest encoder alone."""
    net = unet_of(parts)
    big = parts["text_2"].config.width if "text_2" in parts else 1280
    return net is not None and bool(net.vector) and net.tokens == big


def is_sdxl(parts: Parts) -> bool:
    """A U-Net that reads a vector beside the text."""
    net = unet_of(parts)
    return net is not None and bool(net.vector)


def sd1_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """OpenAI's encoder, last states, normed; rows padded with the end token."""
    clip = Clip(kit.nets["text"], learned=kit.learned)
    return rules.one_by_one(lambda prompt: rules.sd(clip, prompt), prompts)


CUT = 23
"""Blocks of OpenCLIP-H without the one that is not read: so some converters write even the original layout."""


def sd2_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """OpenCLIP's encoder, penultimate states, normed; rows padded with token 0.

    transformers' files leave the last block out; the original ones have it, and it is not read.
    """
    part = kit.parts["text"]
    skip = 1 if part.layout == "original" and part.config.layers != CUT else 0
    clip = Clip(kit.nets["text"], pad=rules.OPEN_PAD, skip=skip, learned=kit.learned)
    return rules.one_by_one(lambda prompt: rules.sd(clip, prompt), prompts)


def sdxl_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """Both encoders' penultimate states and pooled text; zeros for a negative prompt that was left out."""
    small = Clip(kit.nets["text"], skip=1, normed=False, learned=kit.learned)
    big = second_clip(kit)

    return rules.one_by_one(
        lambda prompt: rules.sdxl(small, big, prompt, kit.zeros and prompt.absent), prompts
    )


def sdxl_request(kit: Kit, prompts: Sequence[Prompt], cond: Cond) -> Cond:
    """The same with the picture's size, no crop, and the size once more."""

    def numbers(prompt: Prompt) -> tuple[float, ...]:
        sides = (float(prompt.height), float(prompt.width))
        return (*sides, 0.0, 0.0, *sides)

    return _measured(kit, cond, [numbers(prompt) for prompt in prompts])


def refiner_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """The larger encoder's penultimate states and pooled text.

    Its authors had the empty text for a negative prompt that was left out, not zeros.
    """
    big = second_clip(kit)
    return rules.one_by_one(lambda prompt: rules.sdxl(None, big, prompt), prompts)


def refiner_request(kit: Kit, prompts: Sequence[Prompt], cond: Cond) -> Cond:
    """The same with the picture's size, no crop, and 6 for beauty, 2.5 in the negative prompt."""

    def numbers(prompt: Prompt) -> tuple[float, ...]:
        return (float(prompt.height), float(prompt.width), 0.0, 0.0, 2.5 if prompt.negative else 6.0)

    return _measured(kit, cond, [numbers(prompt) for prompt in prompts])


def clip_dropped(kit: Kit, prompt: Prompt) -> list[str]:
    """What CLIP does not read of a long ``prompt``."""
    return rules.dropped(prompt, True, None)


def second_clip(kit: Kit) -> Clip:
    """OpenCLIP's encoder as Stable Diffusion XL and 3 use it: penultimate states, not normed."""
    return Clip(
        kit.nets["text_2"], pad=rules.OPEN_PAD, skip=1, normed=False, place="text_2", learned=kit.learned
    )


def _measured(kit: Kit, cond: Cond, rows: Sequence[tuple[float, ...]]) -> Cond:
    """``cond`` with the numbers of each row as sinusoids, which take what is left of the vector beside pooled text."""
    net, pooled = unet_of(kit.parts), cond.vector
    assert net is not None
    assert pooled is not None
    features = (net.vector - pooled.shape[-1]) // len(rows[0])
    numbers = torch.tensor(rows, dtype=torch.float64).to(pooled.device)
    told = sinusoid(numbers.flatten(), features, like=pooled).view(len(rows), -1)
    return replace(cond, vector=torch.cat((pooled, told), dim=-1))


_LEADING = Defaults(
    steps=50,
    sampler="euler",
    grid="leading",
    guidance=7.5,
    width=512,
    height=512,
    multiple=8,
    least=64,
    most=4096,
    unit_start=True,
)

SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1",
    fits=is_sd1,
    needs=("denoiser", "vae", "text"),
    predicts="eps",
    schedule=scaled_linear(),
    clock="t",
    scale=0.18215,
    defaults=replace(_LEADING, sampler="pndm", final="first"),
    condition=sd1_condition,
    dropped=clip_dropped,
    heads=8,
    quick=("text",),
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2",
    fits=is_sd2,
    needs=("denoiser", "vae", "text"),
    predicts="eps",
    schedule=scaled_linear(),
    clock="t",
    scale=0.18215,
    defaults=replace(_LEADING, sampler="ddim", final="first"),
    condition=sd2_condition,
    dropped=clip_dropped,
)
UPSCALER = Family(
    name="x4",
    title="the upscaler of Stable Diffusion",
    fits=is_upscaler,
    needs=("denoiser", "vae", "text"),
    predicts="v",
    schedule=scaled_linear(first=0.0001, last=0.02),
    clock="t",
    scale=0.08333,
    defaults=replace(_LEADING, sampler="ddim", final="first", guidance=9.0, steps=75),
    condition=sd2_condition,
    dropped=clip_dropped,
    heads=8,
    refused="this model makes a small picture four times as large; it is for the task 'upscale', not for text2image",
)
REFINER = Family(
    name="sdxl",
    variant="refiner",
    title="the refiner of Stable Diffusion XL",
    fits=is_refiner,
    needs=("denoiser", "vae", "text_2"),
    predicts="eps",
    schedule=scaled_linear(),
    clock="t",
    scale=0.13025,
    defaults=replace(_LEADING, guidance=5.0, width=1024, height=1024),
    condition=refiner_condition,
    request=refiner_request,
    numbers=5,
    dropped=clip_dropped,
    refused="this model is the refiner of Stable Diffusion XL: it goes on with the last, least noisy steps of a "
    "picture that the base model began (the task 'image2image'); it was not trained to begin one, as text2image does",
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    fits=is_sdxl,
    needs=("denoiser", "vae", "text", "text_2"),
    predicts="eps",
    schedule=scaled_linear(),
    clock="t",
    scale=0.13025,
    defaults=replace(_LEADING, guidance=5.0, width=1024, height=1024),
    condition=sdxl_condition,
    request=sdxl_request,
    numbers=6,
    dropped=clip_dropped,
    quick=("text",),
)
