"""The seam: diffusers' folders of families that are not native, their networks wrapped as ours (extra ``diffusers``).

The denoiser, the autoencoder and the text encoders are the library's; process, grids, samplers, guidance, noise and
tasks are ours. A pipeline's own ``encode_prompt`` makes the conditions, its scheduler's settings tell the process as
they do for native families, and the defaults of its call are the model's.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.codec import Codec, Latent, Pixels
from sfumato.condition import Cond, Prompt, join
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families.checkpoint import odd_pixels
from sfumato.families.encoded import READ
from sfumato.families.flows import shifted_twice
from sfumato.families.listing import NATIVE_CLASSES
from sfumato.families.sincos import check_plain, class_of, labels_of
from sfumato.families.told import SAMPLERS, Process, followed
from sfumato.families.ways import WAYS, Way, refusal, way_of
from sfumato.families.wrapped_flow import SHIFTS, by_tokens, unshifted
from sfumato.model import Conditioner, Defaults, Model
from sfumato.nn.wrapped import Wrapped, WrappedConfig, WrappedVae, WrappedVaeConfig
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.process.table import Table, zero_snr
from sfumato.process.table import linear as linear_betas
from sfumato.weights.folder import MODEL_INDEX, read_json
from sfumato.weights.source import open_source

FLOW = "FlowMatchEulerDiscreteScheduler"
PREDICTED_BY_TABLES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
DENOISERS = ("transformer", "unet")
SHIFTED_DDIM = "CogVideoXDDIMScheduler"
"""DDIM on a table whose signal-to-noise ratio is divided by ``snr_shift_scale``."""


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """What is special to a class of autoencoders: frames, the side of patches that are places, how latents are normal.

    ``normal`` is "scale" (scaling_factor and shift_factor), "channels" (latents_mean and latents_std) or "batch" (the
    running mean and variance of a batch norm).
    """

    frames: bool = False
    patch: int = 1
    normal: str = "scale"


AUTOENCODERS = {
    "AutoencoderKL": Autoencoder(),
    "AutoencoderDC": Autoencoder(),
    "AutoencoderTiny": Autoencoder(),
    "AutoencoderKLQwenImage": Autoencoder(frames=True, normal="channels"),
    "AutoencoderKLFlux2": Autoencoder(patch=2, normal="batch"),
}


def is_for(path: Path) -> bool:
    """Whether ``path`` is a diffusers folder whose denoiser, or way of calling one, is not native."""
    try:
        index = read_json(path / MODEL_INDEX) if (path / MODEL_INDEX).is_file() else {}
        named, pipeline = denoiser_of(index)[1], pipeline_of(index)
        if refusal(pipeline, "") or (named == "UNet2DConditionModel" and way_of(pipeline, named)):
            return True
        for config in (path / "unet" / "config.json", path / "config.json"):
            if named == "UNet2DModel" and config.is_file():
                return bool(odd_pixels(read_json(config)))
    except WeightsError:
        return False
    return bool(named) and named not in NATIVE_CLASSES


def denoiser_of(index: Mapping[str, Any]) -> tuple[str, str]:
    """The folder and the class of the denoiser that a ``model_index.json`` names; empty if it names none."""
    for place in DENOISERS:
        told = index.get(place)
        if isinstance(told, list) and len(told) == 2 and told[0] == "diffusers":
            return place, str(told[1])
    return "", ""


def pipeline_of(index: Mapping[str, Any]) -> str:
    """The class of the pipeline that a ``model_index.json`` names; empty for code of the folder's own."""
    named = index.get("_class_name")
    return named if isinstance(named, str) else ""


def check_libraries(index: Mapping[str, Any], path: Path, library: Any) -> None:
    """Refuse a ``model_index.json`` that names classes of others than diffusers, its parts and transformers.

    And a pipeline in a file of the folder's own. ``library`` is diffusers.
    """
    if not isinstance(index.get("_class_name", ""), str):
        raise WeightsError(f"{path} names a pipeline in a file of its own, whose code is not run here")
    for part, told in index.items():
        if (
            part.startswith("_")
            or not isinstance(told, list)
            or len(told) != 2
            or not isinstance(told[0], str)
        ):
            continue
        if told[0] not in ("diffusers", "transformers") and not hasattr(library.pipelines, told[0]):
            raise WeightsError(
                f"{path} says that its {part} is of {told[0]!r}, whose code is not run here; allowed are diffusers and "
                "transformers"
            )


def load_wrapped(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> Model:
    """The model of the diffusers folder ``path``, whatever its family.

    MissingExtra without diffusers; WeightsError for a class that it does not have, that cannot be called as a denoiser
    of one picture is (packed latents, pictures beside, videos), for code of the folder's own, and for pickles, which
    diffusers would read in this process: only safetensors are read.
    """
    index = read_json(path / MODEL_INDEX)
    place, named = denoiser_of(index)
    pipeline = pipeline_of(index)
    if why := refusal(pipeline, named):
        raise WeightsError(f"{path} is a folder of {pipeline or named}, which is not wrapped: {why}")
    if not place:
        raise WeightsError(f"{path} names no denoiser of diffusers in its {MODEL_INDEX}")
    library = _library(f"reading {named}, which is not native,")
    check_libraries(index, path, library)
    if not hasattr(library, named):
        raise WeightsError(
            f"the denoiser of {path} is {named}, which the installed diffusers {library.__version__} does not have"
        )
    usual = torch.get_default_dtype()
    try:
        pipe = library.DiffusionPipeline.from_pretrained(
            path, torch_dtype=dtype, local_files_only=True, variant=variant, use_safetensors=True
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        raise WeightsError(f"diffusers cannot open {path}: {str(error).splitlines()[0]}") from error
    finally:
        torch.set_default_dtype(usual)  # where diffusers fails, it leaves its own behind
    return wrapped(pipe.to(device), path)


def _first(value: Any) -> int:
    """A number, or the first of several."""
    return int(value[0] if isinstance(value, list | tuple) else value)


def wrapped(pipe: Any, path: Path) -> Model:
    """A model of ours of the networks of ``pipe``, a pipeline of diffusers that was opened from ``path``."""
    net = getattr(pipe, "transformer", None) or pipe.unet
    named, told = type(net).__name__, net.config
    way = way_of(type(pipe).__name__, named)
    row, process = way or Way(title=named), _process(pipe, path, way)
    side = row.packed or 1
    channels, codec, factor = _codec(pipe, path, int(told["in_channels"]), side)
    outer = int(told.get("out_channels") or told["in_channels"])
    outer = 2 * channels if told.get("learn_sigma") else channels if side > 1 else outer
    config = WrappedConfig(
        channels=channels,
        outer=outer,
        share=row.share,
        sign=row.sign,
        packed=row.packed,
        more=row.more,
        doors=row.doors,
        factor=factor,
    )
    if config.outer not in (channels, 2 * channels):
        raise WeightsError(
            f"{named} of {path} reads {channels} channels and answers {config.outer}: it reads more than the picture, "
            "which no task here gives it"
        )
    before = unshifted(process.schedule, process.schedule_of) if row.unshifted else None
    try:
        network = Wrapped(net.eval().requires_grad_(False), config, before)
    except ValueError as error:
        raise WeightsError(f"{named} of {path} cannot be wrapped: {error}") from error
    said = [f"{row.title} is not native: its network and its reading of prompts are diffusers'"]
    if way is None:
        said = [
            f"{named} is not native: its network is diffusers', and its conventions are taken to be the usual ones"
        ]
    said += [row.note] if row.note else []
    return Model(
        name=type(pipe).__name__.removesuffix("Pipeline"),
        identity=lambda: open_source(path).hash(),
        denoiser=Denoiser(
            network,
            process.schedule,
            prediction(process.predicts),
            clock=process.clock,
            scale=process.scale,
            learned_range=config.outer == 2 * channels,
            clip=process.clip,
        ),
        codec=codec,
        conditioner=_conditioner(pipe, network, row),
        defaults=_defaults(process, row, network, codec, factor * side),
        notes=lambda prompt: said,
        schedule_of=process.schedule_of,
    )


def _defaults(process: Process, row: Way, network: Wrapped, codec: Codec, factor: int) -> Defaults:
    """The process's, with the sizes that the network makes; a place of its is ``factor`` pixels high and wide."""
    told: Any = network.network.config
    side, patch = told.get("sample_size"), told.get("patch_size") or 1
    size = int(side) * network.config.factor if isinstance(side, int) else 1024
    step = factor * patch if isinstance(patch, int) and not network.config.packed else factor
    if isinstance(codec, Pixels):
        return replace(process.defaults, width=size, height=size, multiple=size, least=size, most=size)
    return replace(
        process.defaults,
        width=size,
        height=size,
        multiple=step,
        least=min(64, size),
        most=min(4096, _first(told.get(row.limit[0], 4096)) * row.limit[1] * network.config.factor),
        distilled=bool(told.get("guidance_embeds")) and "guidance" in network.names,
    )


def _library(purpose: str) -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusers", purpose) from error


def _process(pipe: Any, path: Path, way: Way | None) -> Process:
    """How the network is asked, from the scheduler's settings and the defaults of the pipeline's call."""
    named, told = type(pipe.scheduler).__name__, dict(pipe.scheduler.config)
    call = inspect.signature(type(pipe).__call__).parameters
    row = way or Way(title="")

    def default(name: str, usual: float) -> float:
        given = call[name].default if name in call else None
        return usual if given in (None, inspect.Parameter.empty) else float(given)

    flow, shifted = named == FLOW, 1.0
    if named == SHIFTED_DDIM:
        shifted, zero = float(told.get("snr_shift_scale", 3.0)), bool(told.get("rescale_betas_zero_snr"))
        named, told = "DDIMScheduler", {**told, "clip_sample": False, "rescale_betas_zero_snr": False}
    if named not in SAMPLERS or (not flow and told.get("prediction_type") not in PREDICTED_BY_TABLES):
        raise WeightsError(
            f"the scheduler of {path} is {named} with prediction_type = {told.get('prediction_type')!r}, whose process "
            f"is not followed here; followed are {', '.join(sorted(SAMPLERS))} over epsilon, v_prediction or sample"
        )
    denoiser = type(getattr(pipe, "transformer", None) or pipe.unet).__name__
    if flow and way is None:
        raise WeightsError(
            f"{denoiser} of {path} is a rectified flow, and what it is told of time is not known here (networks "
            f"differ); known: {', '.join(WAYS)}"
        )
    spread, terminal = bool(told.get("use_dynamic_shifting")), told.pop("shift_terminal", None)
    linear = told.pop("time_shift_type", "exponential") == "linear"
    grid = row.grid if spread or row.grid != "linspace" else "linspace"
    if flow and terminal:
        grid = f"even(terminal={float(terminal)})"
    distilled = bool(dict(pipe.config).get("is_distilled"))
    guidance = 1.0 if distilled else max(1.0, default(row.guidance, 1.0) + row.added)
    plain = Process(
        predicts="flow" if flow else PREDICTED_BY_TABLES[str(told["prediction_type"])],
        why="the scheduler's settings",
        schedule=linear_betas()
        if not flow
        else shifted_twice(3.0)
        if row.grid == "normal" and not spread
        else Flow(),
        clock="thousand" if flow else "t",
        defaults=Defaults(
            steps=int(default("num_inference_steps", 50)),
            sampler="euler",
            grid=grid,
            guidance=guidance,
            width=0,
            height=0,
            unit_start=not flow,
            guide=row.guide,
        ),
    )
    told["use_dynamic_shifting"] = False
    found = followed(plain, {**told, "_class_name": named}, str(path), flow=flow)
    if shifted != 1 and isinstance(found.schedule, Table):
        table = Table(tuple(a / (shifted + (1 - shifted) * a) for a in found.schedule.signal))
        return replace(found, schedule=zero_snr(table) if zero else table)
    if not (flow and spread):
        return found
    mu = SHIFTS["distilled" if distilled and row.mu == "line" else row.mu](told, str(path))
    of = by_tokens(mu, row.patch, linear)
    return replace(found, schedule=Flow(), schedule_of=of)


def _codec(pipe: Any, path: Path, channels: int, side: int) -> tuple[int, Codec, int]:
    """The channels of x, pixels and latents, and how many pixels a side of a place is.

    ``channels`` go into the network, in patches of ``side`` places a side.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        size = pipe.unet.config.get("sample_size") if hasattr(pipe, "unet") else None
        if channels not in (1, 3) or not isinstance(size, int) or hasattr(pipe, "vqvae"):
            raise WeightsError(f"{path} has no autoencoder that is known here, and its values are no pixels")
        return channels, Pixels(channels, size, size), 1
    named, told = type(vae).__name__, vae.config
    if named not in AUTOENCODERS:
        raise WeightsError(
            f"the autoencoder of {path} is {named}, which is not known how to call; known: {', '.join(AUTOENCODERS)}"
        )
    kind = AUTOENCODERS[named]
    latent = int(told.get("latent_channels") or told["z_dim"]) * kind.patch**2
    if channels != latent * side**2:
        raise WeightsError(
            f"the denoiser of {path} reads {channels} channels, and its autoencoder makes "
            f"{latent}: packed latents, and pictures beside them, are followed for the classes of `sfumato families`"
        )
    if kind.normal == "scale" and told.get("latents_mean") is not None:
        raise WeightsError(f"the autoencoder of {path} has a mean for each channel, which is not followed")
    blocks = told.get("block_out_channels") or told.get("encoder_block_out_channels")
    factor = kind.patch * 2 ** (len(blocks) - 1 if blocks else len(told["temperal_downsample"]))
    config = WrappedVaeConfig(latent=latent, factor=factor, frames=kind.frames, patch=kind.patch)
    mean, std = _normal(vae, kind)
    return latent, Latent(WrappedVae(vae.eval().requires_grad_(False), config), mean, std), factor


def _normal(vae: Any, kind: Autoencoder) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of the latent, or of all."""
    told = vae.config
    if kind.normal == "channels":
        mean, std = told["latents_mean"], told["latents_std"]
    elif kind.normal == "batch":
        spread = (vae.bn.running_var.double() + told["batch_norm_eps"]).sqrt()
        return vae.bn.running_mean.detach().double().clone(), spread.detach()
    else:
        mean, std = [told.get("shift_factor") or 0.0], [1 / float(told.get("scaling_factor") or 1.0)]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)


def _conditioner(pipe: Any, network: Wrapped, way: Way) -> Conditioner:
    """From prompts to what the pipeline's own encoders make of them; InvalidRequest for what it does not read."""
    labels, classes = labels_of({"id2label": dict(pipe.config).get("id2label") or {}}), _classes(network)
    told: Any = network.network.config
    guided = "guidance" in network.names and bool(told.get("guidance_embeds"))

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        asked = [prompt if isinstance(prompt, Prompt) else Prompt(text=prompt) for prompt in prompts]
        check_plain(asked)
        texts = [prompt.text for prompt in asked]
        if "label" in network.names and classes:
            return Cond(label=torch.tensor([class_of(text, labels, classes, None) for text in texts]))
        if not hasattr(pipe, "encode_prompt"):
            if any(text.strip() for text in texts):
                raise InvalidRequest("this model reads no prompt: use the task 'unconditional'")
            return Cond()
        with torch.no_grad():
            rows = [READ[way.read](pipe, prompt) for prompt in asked]
        if len({row.key for row in rows}) > 1:
            raise InvalidRequest(
                "these prompts are of different lengths to this model, which is wrapped: ask for them one at a time"
            )
        found = join(rows)
        return replace(found, guidance=torch.tensor([p.guidance for p in asked])) if guided else found

    return condition


def _classes(network: Wrapped) -> int:
    told: Any = network.network.config
    found = told.get("num_class_embeds") or told.get("num_embeds_ada_norm") or 0
    return int(found)
