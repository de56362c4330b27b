"""A checkpoint from one layout to the other, tensor by tensor: no network is built, one tensor is held at a time.

What the folder layout has no name for (schedules' tables, EMA copies, a last block that nothing reads) is kept in a
file beside the networks, ``original_only.safetensors``, and put back on the way to the original layout: there and
back is the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import languages, pixel_settings, settings
from sfumato.families.checkpoint import Checkpoint, Part, open_checkpoint
from sfumato.families.clip_tokenizer import clip_tokenizer
from sfumato.families.folders import KEPT, copy_settings, into_folder, write_json
from sfumato.families.inspect import Report, inspect
from sfumato.families.looks import POOLING
from sfumato.families.marks import NORMAL_MARKS, V_BIAS, V_SPREAD, deviation, levels_of, marks_of
from sfumato.families.signatures import FOLDERS, LANGUAGES, PREFIXES, networks, usual_names
from sfumato.families.stream import Changes, as_it_is, last_block, stream, without_last
from sfumato.files import write_bytes
from sfumato.nn.clip import ClipConfig
from sfumato.nn.unet import UNetConfig
from sfumato.weights.folder import SAFE
from sfumato.weights.save import Stored, Writable, write_all
from sfumato.weights.source import Source, open_source

SINGLE = {
    "sd1": {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("first_stage_model.", "original"),
        "text": ("cond_stage_model.transformer.", "diffusers"),
    },
    "sd2": {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("first_stage_model.", "original"),
        "text": ("cond_stage_model.model.", "original"),
    },
    "sdxl": {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("first_stage_model.", "original"),
        "text": ("conditioner.embedders.0.transformer.", "diffusers"),
        "text_2": ("conditioner.embedders.1.model.", "original"),
    },
    "sd3": {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("first_stage_model.", "original"),
        "text": ("text_encoders.clip_l.transformer.", "diffusers"),
        "text_2": ("text_encoders.clip_g.transformer.", "diffusers"),
        "text_3": ("text_encoders.t5xxl.transformer.", "diffusers"),
    },
    "flux": {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("vae.", "original"),
        "text": ("text_encoders.clip_l.transformer.", "diffusers"),
        "text_3": ("text_encoders.t5xxl.transformer.", "diffusers"),
    },
}
"""Of each family, under which prefix and in which layout its single file keeps each place."""
SINGLE["sdxl-refiner"] = {**SINGLE["sdxl"], "text_2": ("conditioner.embedders.0.model.", "original")}
SINGLE["x4"] = SINGLE["sd2"]
for _family, _whole in languages.WHOLE.items():
    SINGLE[_family] = {
        "denoiser": ("model.diffusion_model.", "original"),
        "vae": ("vae.", "original"),
        "language": (f"text_encoders.{_whole.reads}.transformer.", "original"),
    }


@dataclass(frozen=True)
class Converted:
    """What was written where, and what a person should know of it."""

    path: Path
    notes: tuple[str, ...]


def convert(
    source: Source,
    target: str | Path,
    layout: str,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    family: str | None = None,
    changes: Mapping[str, Changes] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Converted:
    """Write the checkpoint ``source`` to ``target`` in ``layout`` ("diffusers": a folder; "original": one file).

    A network that comes alone becomes a folder of one component, or a file without prefixes. ``dtype`` converts
    floating-point weights of the networks; ``shard_bytes`` is the most that a file should hold. ``family`` overrules
    what is found. ``changes`` are values of parameters of ours in place of those that are read, by place and name;
    ``metadata`` is written to the headers besides. ``target`` must not exist; it is whole or absent.

    Raises WeightsError if ``source`` is of no known network, holds values that float16 cannot, or has a network
    that the other layout has no names for; InvalidRequest if ``target`` exists, OutputError if it cannot be written.
    """
    place = Path(target)
    if place.exists():
        raise InvalidRequest(f"{place} exists already; choose another output")
    report = inspect(source)
    chosen = family or report.family
    said: list[str] = []
    if dtype is None and (kinds := sorted({e.dtype for e in source.entries.values() if e.quantized})):
        dtype = torch.bfloat16
        said = [
            f"values stored as {', '.join(kinds)} are unpacked and written as bfloat16; --dtype chooses another"
        ]
    if report.variant == "refiner":
        chosen = "sdxl-refiner"  # its encoder stands elsewhere
    job = _Job(
        source, open_checkpoint(source), report, chosen, dtype, shard_bytes, changes or {}, metadata or {}
    )
    if (
        chosen is not None
        and chosen not in SINGLE
        and not job.alone
        and (layout == "original" or not source.parts)
    ):
        raise WeightsError(
            f"{source.path} is of {report.title}, which has no file of all its networks: convert its denoiser alone"
        )
    if layout == "diffusers":
        notes = into_folder(place, lambda folder: job.folder(folder))
    elif layout == "original":
        if not place.name.endswith(SAFE):
            raise InvalidRequest(f"the original layout is a file: {place} must end in {' or '.join(SAFE)}")
        place, notes = job.single(place)
    else:
        raise InvalidRequest(f"to = {layout!r}: it is diffusers or original")
    return Converted(place, (*said, *source.notes, *notes))


@dataclass(frozen=True)
class _Job:
    source: Source
    checkpoint: Checkpoint
    report: Report
    family: str | None
    dtype: torch.dtype | None
    shard_bytes: int | None
    changes: Mapping[str, Changes]
    metadata: Mapping[str, str]

    @property
    def split(self) -> bool:
        """Whether its networks lie in files of their own, without the settings of a folder (see families.split)."""
        return bool(self.source.parts) and not self.source.config

    @property
    def alone(self) -> bool:
        """Whether it is one network without prefix."""
        return "" in networks(self.source)

    def part(self, place: str) -> Part:
        """The network at ``place``, with what the family knows of it."""
        part = self.checkpoint.parts[place]
        config = part.config
        if isinstance(config, UNetConfig) and self.family in ("sd1", "x4") and not part.source.config:
            return replace(part, config=replace(config, heads=8))
        if isinstance(config, ClipConfig) and self.family and not part.source.config:
            quick = place == "text" and self.family not in ("sd2", "x4")  # OpenAI's encoder has their GELU
            return replace(part, config=replace(config, quick=quick))
        return part

    def folder(self, folder: Path) -> list[str]:
        """Write a diffusers folder."""
        parts = {place: self.part(place) for place in self.checkpoint.parts}
        if self.alone:
            ((place, part),) = parts.items()
            if part.kind in pixel_settings.KINDS and part.layout == "original":
                return self._pixels(folder, part)
            told = part.source.config or settings.network(
                part, self.family, bool(getattr(part.config, "projection", 0))
            )
            self._component(folder, place, part, told)
            return [] if part.source.config else _unsure(self.family, parts)
        if self.source.parts and not self.split:
            return self._again(folder, parts)
        if self.family is None:
            raise WeightsError(f"{self.source.path} has no denoiser, so its family and folder are not known")
        names = settings.FOLDER_OF[self.family]
        shown: dict[str, Part] = {}
        for place, part in parts.items():
            shown[place] = part
            if place == "text" and self.family in ("sd2", "x4") and part.layout == "original":
                shown[place] = without_last(part)
        vector = shown["text_2"].config.projection if "text_2" in shown else 0
        used: set[str] = set()
        for place, part in shown.items():
            projected = settings.is_projected(self.family, place)
            told = settings.network(part, self.family, projected, vector)
            if place == "vae" and NORMAL_MARKS[0] in self.source.entries:
                mean, std = (self.source.read(name).flatten().tolist() for name in NORMAL_MARKS)
                told |= {"scaling_factor": 0.5, "latents_mean": mean, "latents_std": std}
            taken = self._component(folder / names[place], place, part, told)
            used |= taken if self.split else self._own(place, taken)
        left = [] if self.split else [name for name in self.source.entries if name not in used]
        notes = self._kept(folder, left)
        self._settings(folder, shown)
        return notes + _unsure(self.family, shown)

    def _pixels(self, folder: Path, part: Part) -> list[str]:
        """Write the folder of a U-Net on pixels, with how it is sampled, which its own settings do not tell."""
        unet, scheduler, index = pixel_settings.folder(part)
        self._component(folder / "unet", "denoiser", part, unet)
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        write_json(folder / "model_index.json", index)
        return []

    def _own(self, place: str, names: set[str]) -> set[str]:
        """The names in a single file of what is called ``names`` at ``place`` by its usual names."""
        prefix = next(p for p, at in PREFIXES if at == place and self._has(p))
        under = self.source.under(prefix)
        both = zip(usual_names(under).entries, under.entries, strict=True)
        return {prefix + own for usual, own in both if usual in names}

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.source.entries)

    def _component(self, folder: Path, place: str, part: Part, told: Mapping[str, object]) -> set[str]:
        """Write one component; returns the names in the source that it was made of."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = "model" if part.kind in ("clip", "t5", *LANGUAGES, "siglip") else "diffusion_pytorch_model"
        tensors, used = stream(part, "diffusers", self.dtype, self.changes.get(place))
        if part.kind == "siglip":  # its pooling, which nothing here reads, belongs to the class
            tensors |= {n: as_it_is(part.source, n) for n in part.source.entries if n.startswith(POOLING)}
        write_all(
            folder / f"{stem}.safetensors", tensors, self.shard_bytes, {"format": "pt", **self.metadata}
        )
        write_json(folder / "config.json", told)
        return used

    def _again(self, folder: Path, parts: Mapping[str, Part]) -> list[str]:
        """A folder from a folder: its settings and vocabularies as they are, its weights anew."""
        copied = copy_settings(self.source.path, folder)
        for place, part in parts.items():
            self._component(folder / part.source.path.name, place, part, part.source.config)
        left = [name for name, part in self.source.parts.items() if part.entries and name not in FOLDERS]
        told = [f"not converted, since no network is known there: {', '.join(left)}"] if left else []
        if copied:
            told.append(f"{copied} files of settings and vocabularies are copied as they are")
        return told

    def _kept(self, folder: Path, names: Sequence[str]) -> list[str]:
        """Keep the tensors ``names`` beside the networks."""
        if not names and not self.source.metadata.keys() - {"format"}:
            return []
        tensors = {name: as_it_is(self.source, name) for name in names}
        write_all(folder / KEPT, tensors, None, dict(self.source.metadata))
        if not names:
            return [f"the file's metadata is kept in {KEPT}"]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return [f"{len(names):,} tensors that the layout has no name for are kept in {KEPT}: {shown}"]

    def _settings(self, folder: Path, parts: Mapping[str, Part]) -> None:
        """The settings of schedulers and tokenizers, and the index of the folder."""
        assert self.family is not None
        guided = bool(getattr(parts["denoiser"].config, "guidance", True))
        zero = "ztsnr" in self.source.entries
        levels = levels_of(self.source)
        walk = settings.schedulers(self.family, self.report.prediction or "eps", zero, guided, levels)
        for name, told in walk.items():
            (folder / name).mkdir(exist_ok=True)
            write_json(folder / name / "scheduler_config.json", told)
        index = settings.index(self.family, self.report.variant, parts, walk)
        for place, part in parts.items():
            if part.kind == "clip":
                name = settings.FOLDER_OF[self.family][place].replace("text_encoder", "tokenizer")
                opened = place == "text_2" or self.family in ("sd2", "x4")
                (folder / name).mkdir(exist_ok=True)
                files = clip_tokenizer("!" if opened else "<|endoftext|>", part.config.length)
                for file, data in files.items():
                    write_bytes(folder / name / file, data)
        write_json(folder / "model_index.json", index)

    def single(self, target: Path) -> tuple[Path, list[str]]:
        """Write a file in the original layout."""
        tensors: dict[str, Writable] = {}
        notes: list[str] = []
        if self.alone:
            place, part = next(iter(self.checkpoint.parts.items()))
            if part.kind in ("t5", *LANGUAGES, "siglip"):
                raise WeightsError(
                    "such an encoder has one layout; nothing is to be converted but its dtype (--to diffusers)"
                )
            if part.kind in pixel_settings.KINDS and part.layout == "diffusers":
                raise WeightsError(
                    "U-Nets on pixels are written in diffusers' layout alone: in their authors' files nothing tells "
                    "the schedule and the heads of one that they did not publish"
                )
            tensors, used = stream(part, "original", self.dtype, self.changes.get(place))
            left = [name for name in self.source.entries if name not in used]
            notes = [f"left out, which the layout has no name for: {', '.join(left[:5])}"] if left else []
            told = {**self.source.metadata, **self.metadata}
            return write_all(target, tensors, self.shard_bytes, told), notes
        if self.family is None:
            raise WeightsError(
                f"{self.source.path} has no denoiser, so its family and prefixes are not known"
            )
        places = dict(SINGLE[self.family])
        kept = self._kept_before()
        named: set[str] = set()
        for place in self.checkpoint.parts:
            part = self.part(place)
            if place not in places:
                raise WeightsError(f"a single file of {self.report.title} has no place for {place}")
            prefix, layout = places[place]
            if not self.source.parts and not self._has(prefix):
                prefix = next(p for p, at in PREFIXES if at == place and self._has(p))
            made, taken = stream(part, layout, self.dtype, self.changes.get(place))
            tensors |= {prefix + name: tensor for name, tensor in made.items()}
            named |= set() if self.source.parts else self._own(place, taken)
            folded = self.source.parts and part.layout == "diffusers"  # without the last block
            if place == "text" and self.family in ("sd2", "x4") and folded:
                notes += last_block(tensors, part.config, prefix, kept, self.dtype)
        if not self.source.parts:
            names = self.source.entries.keys() - named - tensors.keys()
            kept = {name: as_it_is(self.source, name) for name in self.source.entries if name in names}
        tensors |= kept
        notes += self._markers(tensors)
        return write_all(target, tensors, self.shard_bytes, {**self._metadata(), **self.metadata}), notes

    def _kept_before(self) -> dict[str, Writable]:
        """The tensors that a folder keeps for the original layout."""
        path = self.source.path / KEPT
        if not self.source.parts or not path.is_file():
            return {}
        kept = open_source(path)
        return {name: as_it_is(kept, name) for name in kept.entries}

    def _metadata(self) -> dict[str, str]:
        path = self.source.path / KEPT
        if self.source.parts:
            return dict(open_source(path).metadata) if path.is_file() else {}
        return dict(self.source.metadata)

    def _markers(self, tensors: dict[str, Writable]) -> list[str]:
        """Mark what the keys of a single file do not say: v-prediction, and noise of which nothing is left."""
        if not self.source.parts or "v_pred" in tensors or self.family in ("sd3", "flux", "x4"):
            return []
        scheduler = self.source.parts.get("scheduler")
        told = scheduler.config if scheduler else {}
        wanted = [
            ("v_pred", self.report.prediction == "v"),
            ("ztsnr", bool(told.get("rescale_betas_zero_snr"))),
        ]
        if self.family == "sd2":
            unet, bias = self.source.parts["unet"], V_BIAS["diffusers"]
            found = bias in unet.entries
            tells = found and (deviation(unet, bias) > V_SPREAD) == (self.report.prediction == "v")
            wanted[0] = ("v_pred", self.report.prediction == "v" and not tells)
        vae = self.source.parts["vae"].config if "vae" in self.source.parts else {}
        edm = {name: values for name, values in marks_of(told, vae).items() if name not in tensors}
        for name, values in edm.items():
            tensors[name] = Stored(torch.float32, (len(values),), ((torch.tensor(values), 0, len(values)),))
        marks = [name for name, is_so in wanted if is_so and not edm and name not in tensors]
        tensors |= {name: Stored(torch.float32, (0,), ()) for name in marks}
        said = [f"marked with the tensor {name}, as the authors do" for name in edm]
        return said + [f"marked with the empty tensor {name}, as others do" for name in marks]


def _unsure(family: str | None, parts: Mapping[str, Part]) -> list[str]:
    """What the settings that were written cannot know."""
    notes = []
    if "text_3" in parts:
        notes.append(
            "T5's tokenizer is not in the source: put it into the folder (spiece.model or tokenizer.json)"
        )
    if "language" in parts:
        whose = LANGUAGES[parts["language"].kind]
        notes.append(
            f"{whose}'s tokenizer is not in the source: put it into the folder (tokenizer/tokenizer.json)"
        )
    if family is None and any(part.kind in ("vae", "dcae") for part in parts.values()):
        notes.append(
            "the latent's scaling_factor is not told by an autoencoder alone; its config.json has none"
        )
    if family in ("sd1", "sd2", "sdxl", "sdxl-refiner", "x4"):
        notes.append("the scheduler, sample_size and number of heads are the family's usual ones")
    return notes
