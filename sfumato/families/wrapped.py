"""The seam: diffusers' folders of families that are not native, their networks wrapped as ours (extra ``diffusers``).

The denoiser, the autoencoder and the text encoders are the library's; process, grids, samplers, guidance, noise and
tasks are ours. A pipeline's own ``encode_prompt`` makes the conditions, its scheduler's settings tell the process as
they do for native families, and the defaults of its call are the model's.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.codec import Codec, Latent, Pixels
from sfumato.condition import Cond, Prompt, join
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families.checkpoint import odd_pixels
from sfumato.families.flows import shifted_twice
from sfumato.families.listing import NATIVE_CLASSES, TIMES
from sfumato.families.sincos import check_plain, class_of, labels_of
from sfumato.families.told import SAMPLERS, Process, followed
from sfumato.model import Conditioner, Defaults, Model
from sfumato.nn.wrapped import Wrapped, WrappedConfig, WrappedVae, WrappedVaeConfig
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.process.table import linear
from sfumato.weights.folder import MODEL_INDEX, read_json
from sfumato.weights.source import open_source

FLOW = "FlowMatchEulerDiscreteScheduler"
PREDICTED_BY_TABLES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")
DENOISERS = ("transformer", "unet")


def is_for(path: Path) -> bool:
    """Whether ``path`` is a diffusers folder whose denoiser is of a class that is not native."""
    try:
        named = denoiser_of(read_json(path / MODEL_INDEX))[1] if (path / MODEL_INDEX).is_file() else ""
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


def wrapped(pipe: Any, path: Path) -> Model:
    """A model of ours of the networks of ``pipe``, a pipeline of diffusers that was opened from ``path``."""
    net = getattr(pipe, "transformer", None) or pipe.unet
    named, told = type(net).__name__, net.config
    channels = int(told["in_channels"])
    config = WrappedConfig(channels=channels, outer=int(told.get("out_channels") or channels))
    if config.outer not in (channels, 2 * channels):
        raise WeightsError(
            f"{named} of {path} reads {channels} channels and answers {config.outer}: it reads more than the picture, "
            "which no task here gives it"
        )
    try:
        network = Wrapped(net.eval().requires_grad_(False), config, TIMES.get(named, 1.0))
    except ValueError as error:
        raise WeightsError(f"{named} of {path} cannot be wrapped: {error}") from error
    process = _process(pipe, path)
    codec, factor = _codec(pipe, path, channels)
    side = told.get("sample_size")
    size = int(side) * factor if isinstance(side, int) else 1024
    patch = told.get("patch_size") or 1
    step = factor * patch if isinstance(patch, int) and factor > 1 else size
    defaults = replace(
        process.defaults, width=size, height=size, multiple=step, least=min(64, size), most=4096
    )
    if isinstance(codec, Pixels):
        defaults = replace(defaults, least=size, most=size)
    said = f"{named} is not native: its network is diffusers', and its conventions are taken to be the usual ones"
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
        conditioner=_conditioner(pipe, network),
        defaults=defaults,
        notes=lambda prompt: [said],
        schedule_of=process.schedule_of,
    )


def _library(purpose: str) -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusers", purpose) from error


def _process(pipe: Any, path: Path) -> Process:
    """How the network is asked, from the scheduler's settings and the defaults of the pipeline's call."""
    named, told = type(pipe.scheduler).__name__, dict(pipe.scheduler.config)
    call = inspect.signature(type(pipe).__call__).parameters

    def default(name: str, usual: float) -> float:
        given = call[name].default if name in call else None
        return usual if given in (None, inspect.Parameter.empty) else float(given)

    flow = named == FLOW
    if named not in SAMPLERS or (not flow and told.get("prediction_type") not in PREDICTED_BY_TABLES):
        raise WeightsError(
            f"the scheduler of {path} is {named} with prediction_type = {told.get('prediction_type')!r}, whose process "
            f"is not followed here; followed are {', '.join(sorted(SAMPLERS))} over epsilon, v_prediction or sample"
        )
    denoiser = type(getattr(pipe, "transformer", None) or pipe.unet).__name__
    if flow and denoiser not in TIMES:
        raise WeightsError(
            f"{denoiser} of {path} is a rectified flow, and what it is told of time is not known here (networks "
            f"differ); known: {', '.join(TIMES)}"
        )
    spread = bool(told.get("use_dynamic_shifting"))
    plain = Process(
        predicts="flow" if flow else PREDICTED_BY_TABLES[str(told["prediction_type"])],
        why="the scheduler's settings",
        schedule=linear() if not flow else Flow() if spread else shifted_twice(3.0),
        clock="thousand" if flow else "t",
        defaults=Defaults(
            steps=int(default("num_inference_steps", 50)),
            sampler="euler",
            grid="linspace" if spread else "normal",
            guidance=max(1.0, default("guidance_scale", 1.0)),
            width=0,
            height=0,
            unit_start=not flow,
        ),
    )
    return followed(plain, {**told, "_class_name": named}, str(path), flow=flow)


def _codec(pipe: Any, path: Path, channels: int) -> tuple[Codec, int]:
    """Pixels and latents, and how many pixels a side of a latent is."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        size = pipe.unet.config.get("sample_size") if hasattr(pipe, "unet") else None
        if channels not in (1, 3) or not isinstance(size, int) or hasattr(pipe, "vqvae"):
            raise WeightsError(f"{path} has no autoencoder that is known here, and its values are no pixels")
        return Pixels(channels, size, size), 1
    named, told = type(vae).__name__, vae.config
    if channels != told.get("latent_channels"):
        raise WeightsError(
            f"the denoiser of {path} reads {channels} channels, and its autoencoder makes "
            f"{told.get('latent_channels')}: packed latents, and pictures beside them, are for native families"
        )
    if named not in AUTOENCODERS:
        raise WeightsError(
            f"the autoencoder of {path} is {named}, which is not known how to call; known: {', '.join(AUTOENCODERS)}"
        )
    if told.get("latents_mean") is not None:
        raise WeightsError(f"the autoencoder of {path} has a mean for each channel, which is not followed")
    blocks = len(told.get("block_out_channels") or told.get("encoder_block_out_channels"))
    factor = 2 ** (blocks - 1)
    scale, shift = float(told.get("scaling_factor") or 1.0), float(told.get("shift_factor") or 0.0)
    config = WrappedVaeConfig(latent=int(told["latent_channels"]), factor=factor)
    net = WrappedVae(vae.eval().requires_grad_(False), config)
    mean, std = (torch.tensor([value], dtype=torch.float64) for value in (shift, 1 / scale))
    return Latent(net, mean, std), factor


def _conditioner(pipe: Any, network: Wrapped) -> Conditioner:
    """From prompts to what the pipeline's own encoders make of them; InvalidRequest for what it does not read."""
    labels, classes = labels_of({"id2label": dict(pipe.config).get("id2label") or {}}), _classes(network)

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        check_plain([prompt for prompt in prompts if isinstance(prompt, Prompt)])
        texts = [prompt.text if isinstance(prompt, Prompt) else prompt for prompt in prompts]
        if "label" in network.names and classes:
            return Cond(label=torch.tensor([class_of(text, labels, classes, None) for text in texts]))
        if not hasattr(pipe, "encode_prompt"):
            if any(text.strip() for text in texts):
                raise InvalidRequest("this model reads no prompt: use the task 'unconditional'")
            return Cond()
        with torch.no_grad():
            return join([encoded(pipe, text) for text in texts])

    return condition


def _classes(network: Wrapped) -> int:
    told: Any = network.network.config
    found = told.get("num_class_embeds") or told.get("num_embeds_ada_norm") or 0
    return int(found)


def encoded(pipe: Any, text: str) -> Cond:
    """What the pipeline's ``encode_prompt`` makes of one text, told apart by shapes.

    The first tensor of three axes are the states, the next of two axes and as many columns as there are states of
    whole numbers or 0 and 1 the mask, another of two axes the pooled vector.
    """
    call = inspect.signature(pipe.encode_prompt).parameters
    usual: dict[str, Any] = {"prompt": text, "do_classifier_free_guidance": False, "num_images_per_prompt": 1}
    usual |= {"device": pipe._execution_device, "prompt_2": None, "prompt_3": None}
    found = pipe.encode_prompt(**{name: value for name, value in usual.items() if name in call})
    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    for one in found if isinstance(found, tuple) else (found,):
        if not isinstance(one, Tensor):
            continue
        if one.ndim == 3 and tokens is None:
            tokens = one
        elif (
            one.ndim == 2
            and tokens is not None
            and one.shape[1] == tokens.shape[1]
            and bool(((one == 0) | (one == 1)).all())
        ):
            mask = one.bool() if mask is None else mask
        elif one.ndim == 2 and vector is None:
            vector = one
    if tokens is None:
        raise InvalidRequest(f"what {type(pipe).__name__} makes of a prompt is not understood here")
    return Cond(tokens=tokens, mask=mask, vector=vector)
