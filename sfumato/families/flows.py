"""Stable Diffusion 3 and 3.5 and FLUX.1: joint transformers on a rectified flow.

Esser et al. 2024; Black Forest Labs 2024. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfumato.condition import Cond, Prompt
from sfumato.families import prompts as rules
from sfumato.families.family import Family, Kit, Parts, is_kind
from sfumato.families.prompts import T5, Clip
from sfumato.families.reads import READS
from sfumato.families.stable import second_clip
from sfumato.model import Defaults
from sfumato.process.schedule import Flow
from sfumato.weights.source import Source


def shifted_twice(shift: float) -> Flow:
    """The flow of Stable Diffusion 3: its least time, 1/1000, is shifted before the grid is made, and once more by it.

    (The authors' and diffusers' code: the grid runs on a line from the shifted most to the shifted least time.)
    """
    return Flow(shift, t_min=shift * 0.001 / (1 + (shift - 1) * 0.001))


def sd3_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """Both CLIPs and T5 one after the other; without T5 its places are zeros."""
    small = Clip(kit.nets["text"], skip=1, normed=False, learned=kit.learned)
    big, t5 = second_clip(kit), t5_of(kit, READS["sd3"].t5)
    width = kit.parts["denoiser"].config.tokens
    return rules.one_by_one(lambda prompt: rules.sd3(small, big, t5, prompt, width, READS["sd3"].t5), prompts)


def t5_of(kit: Kit, length: int) -> T5 | None:
    """The T5 encoder, which reads ``length`` tokens; None where there is none."""
    if "text_3" not in kit.nets:
        return None
    assert kit.tokens is not None
    return T5(kit.nets["text_3"], kit.tokens, length, learned=kit.learned, choice=True)


def flux_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """T5's states, CLIP's pooled vector."""
    t5 = _flux_t5(kit)
    clip = Clip(kit.nets["text"], learned=kit.learned)
    return rules.one_by_one(lambda prompt: rules.flux(clip, t5, prompt), prompts)


def flux_request(kit: Kit, prompts: Sequence[Prompt], cond: Cond) -> Cond:
    """The same with the strength of distilled guidance, if the network reads one."""
    if not getattr(kit.parts["denoiser"].config, "guidance", False):
        return cond
    return replace(cond, guidance=torch.tensor([prompt.guidance for prompt in prompts], dtype=torch.float32))


def _flux_t5(kit: Kit) -> T5:
    guided = kit.parts["denoiser"].config.guidance
    t5 = t5_of(kit, READS["flux" if guided else "flux-schnell"].t5)
    assert t5 is not None
    return t5


def sd3_dropped(kit: Kit, prompt: Prompt) -> list[str]:
    """What CLIP and T5 do not read of a long ``prompt``."""
    return rules.dropped(prompt, True, t5_of(kit, READS["sd3"].t5))


def flux_dropped(kit: Kit, prompt: Prompt) -> list[str]:
    """What T5 does not read of a long ``prompt``: of CLIP only the pooled vector is read anyway."""
    return rules.dropped(prompt, False, _flux_t5(kit))


def is_flux_schnell(parts: Parts) -> bool:
    """A FLUX.1 that is told no guidance."""
    return is_kind("flux")(parts) and not parts["denoiser"].config.guidance


def says_kontext(source: Source) -> bool:
    """Whether a folder's settings or the name of a file or folder say FLUX.1 Kontext."""
    return "kontext" in f"{source.config.get('_class_name', '')} {source.path.name}".lower()


def is_sd35(parts: Parts) -> bool:
    """A transformer of Stable Diffusion 3 whose queries and keys are normalised."""
    return is_kind("mmdit")(parts) and bool(parts["denoiser"].config.norm)


def is_sd35_medium(parts: Parts) -> bool:
    """One whose first blocks have a second attention."""
    return is_sd35(parts) and bool(parts["denoiser"].config.dual)


_SD3 = Defaults(
    steps=28,
    sampler="euler",
    grid="normal",
    guidance=7.0,
    width=1024,
    height=1024,
    multiple=16,
    least=64,
    most=2048,
)
_FLUX = replace(_SD3, grid="linspace", guidance=3.5, most=4096, distilled=True)

SD3 = Family(
    name="sd3",
    title="Stable Diffusion 3",
    fits=is_kind("mmdit"),
    needs=("denoiser", "vae", "text", "text_2"),
    predicts="flow",
    schedule=shifted_twice(3.0),
    clock="thousand",
    scale=1.5305,
    shift=0.0609,
    defaults=_SD3,
    condition=sd3_condition,
    dropped=sd3_dropped,
    quick=("text",),
    words="tokenizer_3",
    latent=16,
)
SD35_LARGE = replace(
    SD3,
    variant="3.5 large",
    title="Stable Diffusion 3.5 large",
    fits=is_sd35,
    defaults=replace(_SD3, steps=40, guidance=4.5),
)
SD35_MEDIUM = replace(
    SD3,
    variant="3.5 medium",
    title="Stable Diffusion 3.5 medium",
    fits=is_sd35_medium,
    defaults=replace(_SD3, steps=50, guidance=5.0),
)
SCHNELL = Family(
    name="flux",
    variant="schnell",
    title="FLUX.1 schnell",
    fits=is_flux_schnell,
    needs=("denoiser", "vae", "text", "text_3"),
    predicts="flow",
    schedule=Flow(),
    clock="thousand",
    scale=0.3611,
    shift=0.1159,
    defaults=replace(_FLUX, steps=4, guidance=1.0, distilled=False),
    condition=flux_condition,
    request=flux_request,
    dropped=flux_dropped,
    quick=("text",),
    words="tokenizer_2",
    latent=16,
)
FLUX = replace(SCHNELL, variant="", title="FLUX.1", fits=is_kind("flux"), defaults=_FLUX, by_size=True)
KONTEXT = replace(
    FLUX,
    name="kontext",
    title="FLUX.1 Kontext",
    defaults=replace(_FLUX, guidance=2.5),
    reference=True,
)
"""Its networks have FLUX.1's shapes: it is told by its folder's settings, by its file's name, or by the person."""
