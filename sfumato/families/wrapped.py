"""The seam: diffusers' folders of families that are not native, their networks wrapped as ours (extra ``diffusers``).

The denoiser, the autoencoder and the text encoders are the library's; process, grids, samplers, guidance, noise and
tasks are ours. A pipeline's own ``encode_prompt`` makes the conditions, its scheduler's settings tell the process as
they do for native families, and the defaults of its call are the model's.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.codec import Codec, Pixels
from sfumato.condition import Cond, Prompt, join
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families.checkpoint import odd_pixels
from sfumato.families.encoded import READ
from sfumato.families.listing import NATIVE_CLASSES
from sfumato.families.sincos import check_plain, class_of, labels_of
from sfumato.families.told import Process
from sfumato.families.ways import SHARED, Way, refusal, way_of
from sfumato.families.wrapped_codec import codec_of
from sfumato.families.wrapped_process import SOLVER, process_of, unshifted, whole
from sfumato.model import Beside, Conditioner, Defaults, Model, Seams
from sfumato.nn.wrapped import Wrapped, WrappedConfig
from sfumato.process.prediction import prediction
from sfumato.weights.folder import MODEL_INDEX, read_json
from sfumato.weights.keys import KeyTable
from sfumato.weights.source import open_source

DENOISERS = ("transformer", "unet")
UNREAD = ("safety_checker", "feature_extractor", "image_encoder", "pe", "pe_tokenizer")
"""Parts of folders that nothing here asks: checkers and encoders of pictures, models that write prompts anew."""


def is_for(path: Path) -> bool:
    """Whether ``path`` is a diffusers folder whose denoiser, or way of calling one, is not native."""
    try:
        index = read_json(path / MODEL_INDEX) if (path / MODEL_INDEX).is_file() else {}
        named, pipeline = denoiser_of(index)[1], pipeline_of(index)
        if refusal(pipeline, "") or (named in SHARED and way_of(pipeline, named)):
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

    And a pipeline in a file of the folder's own, and any file of Python beside the parts: some releases of diffusers
    run ``<part>/<library>.py``, whatever library that is. ``library`` is diffusers.
    """
    if found := code_in(path):
        raise WeightsError(
            f"{path} holds {', '.join(found)}, whose code is not run here and may not lie where diffusers looks: "
            "remove it from the folder, which the networks do not need it for"
        )
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


def code_in(path: Path) -> list[str]:
    """The files of Python at the top of ``path`` and in its folders, links too; WeightsError if one cannot be read."""
    try:
        places = [path, *sorted(part for part in path.iterdir() if part.is_dir())]
        found = sorted(file for place in places for file in place.iterdir())
    except OSError as error:
        raise WeightsError(f"{path} cannot be searched for code: {error}") from error
    return [file.relative_to(path).as_posix() for file in found if file.name.lower().endswith(".py")]


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
    opening = library.DiffusionPipeline.from_pretrained
    # Releases of diffusers that take dtype warn of torch_dtype, which is all that older ones take.
    asked = "dtype" if 'kwargs.pop("dtype"' in inspect.getsource(opening) else "torch_dtype"
    told = {asked: dtype, **{part: None for part in UNREAD if part in index}}
    try:
        with quiet(library, _library("its text encoders", "transformers")):
            pipe = opening(path, local_files_only=True, variant=variant, use_safetensors=True, **told)
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
    row, process = way or Way(title=named), process_of(pipe, path, way)
    side = row.packed or 1
    channels, codec, factor = codec_of(pipe, path, int(told.get("in_channels") or told["in_visual_dim"]), row)
    outer = int(told.get("out_channels") or told.get("out_visual_dim") or told["in_channels"])
    outer = 2 * channels if told.get("learn_sigma") else channels if side > 1 else outer
    config = WrappedConfig(
        channels=channels,
        outer=outer,
        share=row.share,
        sign=row.sign,
        packed=row.packed,
        last=row.last,
        narrow=row.narrow,
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
    before = whole if type(pipe.scheduler).__name__ == SOLVER else before
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
        defaults=_defaults(process, pipe, row, network, codec),
        notes=lambda prompt: said,
        schedule_of=process.schedule_of,
        beside=Beside(kind="reference") if row.reference else None,
        seams=Seams(networks=lambda: {"denoiser": (net, own_names(net))}),
    )


def own_names(net: nn.Module) -> KeyTable:
    """The names of a network of diffusers: ours are the same, and the authors' are not known."""
    return KeyTable.of((name, "-", name) for name, _ in net.named_parameters())


def _defaults(process: Process, pipe: Any, row: Way, network: Wrapped, codec: Codec) -> Defaults:
    """The process's, with the sizes that the network makes."""
    told: Any = network.network.config
    side, patch = told.get("sample_size"), told.get("patch_size") or 1
    factor = network.config.factor * (row.packed or 1)
    size = int(side) * network.config.factor if isinstance(side, int) else 1024
    size = int(pipe.default_sample_size) if row.sized else size
    step = factor * patch if isinstance(patch, int) and not network.config.packed else factor
    if isinstance(codec, Pixels):
        return replace(process.defaults, width=size, height=size, multiple=size, least=size, most=size)
    counted = _first(told.get(row.limit[0], 4096))
    most = min(4096, (math.isqrt(counted) if row.square else counted) * row.limit[1] * network.config.factor)
    size = min(size, most)
    return replace(
        process.defaults,
        width=size,
        height=size,
        multiple=step,
        least=min(64, size),
        most=most,
        distilled=bool(told.get("guidance_embeds")) and "guidance" in network.names,
    )


@contextmanager
def quiet(*libraries: Any) -> Iterator[None]:
    """Without the progress bars of ``libraries``, diffusers and transformers, which are as they were afterwards."""
    with ExitStack() as after:
        for library in libraries:
            bars = library.utils.logging
            if bars.is_progress_bar_enabled():
                bars.disable_progress_bar()
                after.callback(bars.enable_progress_bar)
        yield


def _library(purpose: str, name: str = "diffusers") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusers", purpose) from error


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
