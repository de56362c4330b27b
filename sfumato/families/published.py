"""Models from published checkpoints, assembled from their parts: Stable Diffusion 1, 2, XL, 3 and FLUX.1.

Families differ in a row of FAMILIES: how the parts tell it, what the network predicts on which schedule, how prompts
become conditions, and its authors' defaults. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sfumato.codec import Latent
from sfumato.condition import Cond, Prompt, join
from sfumato.denoiser import Denoiser
from sfumato.errors import UnknownName, WeightsError
from sfumato.families import prompts as rules
from sfumato.families.checkpoint import Checkpoint, Part
from sfumato.families.prompts import Clip
from sfumato.model import Conditioner, Defaults, Model
from sfumato.nn.unet import UNetConfig
from sfumato.process.prediction import prediction as prediction_named
from sfumato.process.schedule import Flow, Schedule, shift_for
from sfumato.process.table import scaled_linear
from sfumato.text.t5 import T5Tokens
from sfumato.weights.load import load_into

Networks = Mapping[str, Any]
Parts = Mapping[str, Part]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published models: what is special to it.

    ``fits`` tells a checkpoint's parts; ``needs`` are the parts without which no picture can be made. ``scale`` and
    ``shift`` turn the autoencoder's latent z into the model's, ``(z - shift) scale``. ``heads`` is how many heads its
    U-Net's attention has at every level, 0 for 64 channels a head. ``condition`` makes the conditions of prompts.
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
    condition: Callable[[Networks, Parts, Sequence[Prompt]], Cond]
    shift: float = 0.0
    heads: int = 0
    by_size: bool = False


def unet_of(parts: Parts) -> UNetConfig | None:
    """The U-Net among ``parts``, if the denoiser is one."""
    config = parts["denoiser"].config if "denoiser" in parts else None
    return config if isinstance(config, UNetConfig) else None


def is_sd1(parts: Parts) -> bool:
    """A U-Net whose transformers end in convolutions."""
    net = unet_of(parts)
    return net is not None and not parts["denoiser"].linear and not net.vector


def is_sd2(parts: Parts) -> bool:
    """A U-Net whose transformers end in matrices, with text tokens alone."""
    net = unet_of(parts)
    return net is not None and parts["denoiser"].linear and not net.vector and not net.classes


def is_sdxl(parts: Parts) -> bool:
    """A U-Net that reads a vector beside the text."""
    net = unet_of(parts)
    return net is not None and bool(net.vector)


def is_kind(kind: str) -> Callable[[Parts], bool]:
    """A denoiser of ``kind``."""
    return lambda parts: "denoiser" in parts and parts["denoiser"].kind == kind


def sd1_condition(nets: Networks, parts: Parts, prompts: Sequence[Prompt]) -> Cond:
    """OpenAI's encoder, last states, normed; rows padded with the end token."""
    return rules.sd(Clip(nets["text"]), [p.text for p in prompts])


def sd2_condition(nets: Networks, parts: Parts, prompts: Sequence[Prompt]) -> Cond:
    """OpenCLIP's encoder, penultimate states, normed; rows padded with token 0.

    transformers' files leave the last block out; the original ones have it, and it is not read.
    """
    skip = 1 if parts["text"].layout == "original" else 0
    return rules.sd(Clip(nets["text"], pad=rules.OPEN_PAD, skip=skip), [p.text for p in prompts])


def sdxl_condition(nets: Networks, parts: Parts, prompts: Sequence[Prompt]) -> Cond:
    """Both encoders' penultimate states, pooled text and sizes; zeros for a negative prompt that was left out."""
    small = Clip(nets["text"], skip=1, normed=False) if "text" in nets else None
    big = Clip(nets["text_2"], pad=rules.OPEN_PAD, skip=1, normed=False)
    net = unet_of(parts)
    assert net is not None
    features = (net.vector - nets["text_2"].config.projection) // (6 if small else 5)

    def one(prompt: Prompt) -> Cond:
        sides = (float(prompt.height), float(prompt.width))
        score = 2.5 if prompt.absent else 6.0
        sizes = (*sides, 0.0, 0.0, *(sides if small else (score,)))
        zeros = prompt.absent and small is not None
        return rules.sdxl(small, big, [prompt.text], sizes, features, zeros)

    return join([one(prompt) for prompt in prompts])


def sd3_condition(nets: Networks, parts: Parts, prompts: Sequence[Prompt]) -> Cond:
    """Both CLIPs and T5 one after the other; without T5 its places are zeros."""
    texts = [p.text for p in prompts]
    small, big = (Clip(nets[name], skip=1, normed=False) for name in ("text", "text_2"))
    big = replace(big, pad=rules.OPEN_PAD)
    t5 = (nets["text_3"], nets["tokens"]) if "text_3" in nets else None
    return rules.sd3(small, big, t5, texts, parts["denoiser"].config.tokens, T5_LENGTH["sd3"])


def flux_condition(nets: Networks, parts: Parts, prompts: Sequence[Prompt]) -> Cond:
    """T5's states, CLIP's pooled vector, and the guidance that the network is told if it reads one."""
    config = parts["denoiser"].config
    length = T5_LENGTH["flux" if config.guidance else "flux-schnell"]

    def one(prompt: Prompt) -> Cond:
        told = prompt.guidance if config.guidance else None
        return rules.flux(Clip(nets["text"]), (nets["text_3"], nets["tokens"]), [prompt.text], length, told)

    return join([one(prompt) for prompt in prompts])


T5_LENGTH = {"sd3": 256, "flux": 512, "flux-schnell": 256}
"""How many tokens of T5 a family reads."""

SD3_FLOW = Flow(3.0, t_min=3 * 0.001 / (1 + 2 * 0.001))
"""Stable Diffusion 3's: its authors shift the least time once before the grid is made, and the grid once more."""

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

FAMILIES: tuple[Family, ...] = (
    Family(
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
        heads=8,
    ),
    Family(
        name="sd2",
        title="Stable Diffusion 2",
        fits=is_sd2,
        needs=("denoiser", "vae", "text"),
        predicts="eps",
        schedule=scaled_linear(),
        clock="t",
        scale=0.18215,
        defaults=replace(_LEADING, sampler="ddim", final="first", width=768, height=768),
        condition=sd2_condition,
    ),
    Family(
        name="sdxl",
        title="Stable Diffusion XL",
        fits=is_sdxl,
        needs=("denoiser", "vae", "text_2"),
        predicts="eps",
        schedule=scaled_linear(),
        clock="t",
        scale=0.13025,
        defaults=replace(_LEADING, guidance=5.0, width=1024, height=1024),
        condition=sdxl_condition,
    ),
    Family(
        name="sd3",
        title="Stable Diffusion 3",
        fits=is_kind("mmdit"),
        needs=("denoiser", "vae", "text", "text_2"),
        predicts="flow",
        schedule=SD3_FLOW,
        clock="thousand",
        scale=1.5305,
        shift=0.0609,
        defaults=Defaults(
            steps=28,
            sampler="euler",
            grid="normal",
            guidance=7.0,
            width=1024,
            height=1024,
            multiple=16,
            least=64,
            most=2048,
        ),
        condition=sd3_condition,
    ),
    Family(
        name="flux",
        title="FLUX.1",
        fits=is_kind("flux"),
        needs=("denoiser", "vae", "text", "text_3"),
        predicts="flow",
        schedule=Flow(),
        clock="thousand",
        scale=0.3611,
        shift=0.1159,
        defaults=Defaults(
            steps=28,
            sampler="euler",
            grid="linspace",
            guidance=3.5,
            width=1024,
            height=1024,
            multiple=16,
            least=64,
            most=4096,
            distilled=True,
        ),
        condition=flux_condition,
        by_size=True,
    ),
)
"""The families, the most special first."""


def family_of(checkpoint: Checkpoint, name: str | None = None) -> Family:
    """The family of ``checkpoint``, or the one called ``name``; WeightsError if it is of none."""
    if name is not None:
        found = [f for f in FAMILIES if f.name == name]
        if not found:
            raise UnknownName("family", name, [f.name for f in FAMILIES])
        return found[0]
    for family in FAMILIES:
        if family.fits(checkpoint.parts):
            return family
    held = ", ".join(f"{place}: {part.kind}" for place, part in checkpoint.parts.items())
    raise WeightsError(f"{checkpoint.source.path} is of no family that is known here; it holds {held}")


def predicted(family: Family, checkpoint: Checkpoint) -> tuple[str, str]:
    """What the network predicts, and how that is known.

    A diffusers folder says it in its scheduler's settings; a single file may have a marker; Stable Diffusion 2 is
    told by one bias, whose values are larger in models that predict v (as ComfyUI found).
    """
    told = checkpoint.configs.get("scheduler", {}).get("prediction_type")
    if told:
        return {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}.get(
            str(told), family.predicts
        ), "scheduler"
    if "v_pred" in checkpoint.source.entries:
        return "v", "marker v_pred"
    bias = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    net = checkpoint.parts["denoiser"]
    if family.name == "sd2" and bias in net.source.entries:
        spread = float(net.source.read(bias).float().std())
        return (
            "v" if spread > 0.09 else "eps"
        ), f"deviation {spread:.3f} of {bias}, which is above 0.09 for v"
    return family.predicts, "the family's"


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    family: str | None = None,
    predicts: str | None = None,
    tokens: T5Tokens | None = None,
) -> Model:
    """The model of ``checkpoint``, its networks in ``dtype`` on ``device``.

    ``family`` and ``predicts`` overrule what is found; ``tokens`` is T5's vocabulary where the checkpoint has none.
    WeightsError says which part is missing or does not fit.
    """
    kind = family_of(checkpoint, family)
    parts = dict(checkpoint.parts)
    missing = [name for name in kind.needs if name not in parts]
    if missing:
        raise WeightsError(
            f"{checkpoint.source.path} is of the family {kind.title!r} and lacks {', '.join(missing)}: "
            f"give a folder or a file that has all parts"
        )
    net = parts["denoiser"]
    if isinstance(net.config, UNetConfig) and kind.heads and not net.source.config:
        parts["denoiser"] = net = replace(net, config=replace(net.config, heads=kind.heads))
    found = predicts or predicted(kind, checkpoint)[0]
    loaded: dict[str, Any] = {
        place: load_into(part.make, part.source, part.table, part.layout, dtype=dtype, device=device)
        for place, part in parts.items()
    }
    if "text_3" in loaded:
        loaded["tokens"] = tokens or _tokens(checkpoint)
    schedule = _schedule(kind, net)
    denoiser = Denoiser(loaded["denoiser"], schedule, prediction_named(found), clock=kind.clock)
    vae: nn.Module = loaded["vae"]
    codec = Latent(vae, torch.tensor([kind.shift]), torch.tensor([1 / kind.scale]))  # type: ignore[arg-type]
    return Model(
        name=kind.name,
        hash=_hash(checkpoint),
        denoiser=denoiser,
        codec=codec,
        conditioner=_conditioner(kind, loaded, parts),
        defaults=_defaults(kind, net, checkpoint),
        schedule_of=_by_size(schedule) if kind.by_size and net.config.guidance else None,
    )


def _tokens(checkpoint: Checkpoint) -> T5Tokens:
    """T5's vocabulary in a diffusers folder."""
    for name in ("tokenizer_3", "tokenizer_2", "tokenizer"):
        folder = checkpoint.source.path / name
        if any((folder / file).is_file() for file in ("spiece.model", "tokenizer.json")):
            return T5Tokens.load(folder)
    return T5Tokens.load(checkpoint.source.path / "tokenizer_3")


def _schedule(kind: Family, net: Part) -> Schedule:
    if kind.name == "flux" and not net.config.guidance:
        return Flow(1.0)
    return kind.schedule


def _by_size(schedule: Schedule) -> Callable[[tuple[int, ...]], Schedule]:
    """FLUX.1 dev's schedule: shifted by how many patches the picture has."""

    def of(shape: tuple[int, ...]) -> Schedule:
        return Flow(shift_for(shape[-2] * shape[-1] // 4))

    return of


def _defaults(kind: Family, net: Part, checkpoint: Checkpoint) -> Defaults:
    """The family's defaults with what the checkpoint says: sizes, and schnell's four steps without guidance."""
    chosen = kind.defaults
    if kind.name == "flux" and not net.config.guidance:
        chosen = replace(chosen, steps=4, guidance=1.0, distilled=False)
    side = net.source.config.get("sample_size")
    if isinstance(side, int):
        factor = checkpoint.parts["vae"].config.factor
        chosen = replace(chosen, width=side * factor, height=side * factor)
        chosen = replace(chosen, least=min(chosen.least, side * factor))
    return chosen


def _conditioner(kind: Family, nets: Networks, parts: Parts) -> Conditioner:
    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        asked = [p if isinstance(p, Prompt) else Prompt(text=p) for p in prompts]
        return kind.condition(nets, parts, asked)

    return condition


def _hash(checkpoint: Checkpoint) -> str:
    """One sha256 for the checkpoint: of its file, or of the hashes of a folder's parts."""
    if not checkpoint.source.parts:
        return checkpoint.source.hash()
    hashes = {place: part.source.hash() for place, part in sorted(checkpoint.parts.items())}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
