"""What a checkpoint is, told from headers and settings alone: no tensor is read, torch is not imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import WeightsError
from sfumato.families.further import FURTHER
from sfumato.families.marks import prediction_of, says_turbo
from sfumato.families.signatures import LANGUAGES, PREFIXES, Found, networks, place_of, recognise
from sfumato.families.surplus import idle, surplus, unread
from sfumato.weights.header import Entry
from sfumato.weights.source import Source, sha256

TITLES = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "x4": "Stable Diffusion x4 upscaler",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "kontext": "FLUX.1 Kontext",
    "z-image-turbo": "Z-Image Turbo",
    **{one.family: one.title for one in FURTHER.values()},
}
NEEDS = {
    "sd1": ("denoiser", "vae", "text"),
    "sd2": ("denoiser", "vae", "text"),
    "sdxl": ("denoiser", "vae", "text", "text_2"),
    "x4": ("denoiser", "vae", "text"),
    "sd3": ("denoiser", "vae", "text", "text_2"),
    "flux": ("denoiser", "vae", "text", "text_3"),
    "kontext": ("denoiser", "vae", "text", "text_3"),
    "z-image-turbo": ("denoiser", "vae", "language"),
    **{one.family: one.needs for one in FURTHER.values()},
}
INPUTS = {4: "base", 9: "inpainting", 8: "instruct", 7: "upscaler"}
SHORT = {34: "SSD-1B", 15: "Vega"}
"""Networks of Stable Diffusion XL whose middle has no attention, by how many layers their transformers have."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network: its place, kind and layout, how many tensors, parameters and bytes; parameters by dtype.

    ``facts`` are sizes that tell variants apart.
    """

    place: str
    kind: str
    layout: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    facts: dict[str, int | bool]


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file of weights: name below the checkpoint's path, bytes, and its sha256 if that was asked for."""

    name: str
    bytes: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What ``inspect`` found.

    ``family`` is None for a network that comes alone and tells none; ``missing`` are the places that a picture
    still needs; ``others`` counts tensors of no network (EMA copies, schedules' tables). ``prediction`` is None
    where there is no denoiser. ``metadata`` are the texts of the header, ``licence`` what they or the model card say.
    """

    path: str
    family: str | None
    title: str
    variant: str | None
    layout: str
    prediction: str | None
    why: str | None
    components: tuple[Component, ...]
    missing: tuple[str, ...] = ()
    others: int = 0
    other_names: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    files: tuple[WeightsFile, ...] = ()
    packed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)


def inspect(source: Source, *, hashes: bool = False) -> Report:
    """What ``source`` holds; ``hashes`` also reads every byte for the files' sha256.

    Raises WeightsError, with the nearest kinds and the keys that decided, if it is of nothing that is known.
    """
    asked = networks(source)
    found = {}
    for place, one in asked.items():
        network = recognise(one, place or source.path.name)
        found[place_of(network.kind, place)] = network
    if not found:
        raise WeightsError(f"{source.path} holds no network that is known here")
    try:
        facts = {place: facts_of(one) for place, one in found.items()}
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{source.path} looks like a known network, but {error} does not fit") from error
    family, variant = family_of(found, facts, source)
    prediction, why = predicted(family, source, found["denoiser"]) if family else (None, None)
    others = _others(source) if "" not in asked else []
    layouts = {one.layout for one in found.values()}
    whole = "diffusers folder" if source.parts else "single file" if len(found) > 1 else ""
    if source.parts and not source.config:
        whole = "files of their own"
    wanted = needed(family, variant)
    left = {place: found[place].kind for place in surplus(family, wanted, found)} if family else {}
    return Report(
        path=str(source.path),
        family=family,
        title=TITLES[family] if family else _alone(found, facts),
        variant=variant,
        layout=whole or "/".join(sorted(layouts)),
        prediction=prediction,
        why=why,
        components=tuple(_component(place, one, facts[place]) for place, one in found.items()),
        missing=tuple(place for place in wanted if place not in found),
        others=len(others),
        other_names=tuple(others[:10]),
        metadata=dict(source.metadata),
        licence=_licence(source),
        files=tuple(
            WeightsFile(
                name=path.relative_to(source.path).as_posix() if source.path in path.parents else path.name,
                bytes=path.stat().st_size,
                sha256=sha256(path) if hashes else None,
            )
            for path in source.files
        ),
        packed=tuple(sorted({entry.dtype for entry in source.entries.values() if _packed(entry)})),
        notes=(*source.notes, *idle(left), *unread(source)),
    )


def _packed(entry: Entry) -> bool:
    """Whether a tensor takes fewer bits than its values are computed in."""
    return entry.quantized or entry.dtype.startswith("F8_")


def needed(family: str | None, variant: str | None) -> tuple[str, ...]:
    """The places without which no picture can be made; the refiner of XL does without the small text encoder."""
    return tuple(place for place in NEEDS.get(family or "", ()) if (place, variant) != ("text", "refiner"))


def facts_of(network: Found) -> dict[str, int | bool]:
    """The sizes of ``network`` that tell families and variants apart; KeyError if one of its keys is missing."""
    shapes, original = network.source.shapes, network.layout == "original"
    if network.kind in FURTHER:
        return FURTHER[network.kind].facts(shapes, original)

    def count(before: str) -> int:
        return len({key[len(before) :].split(".")[0] for key in shapes if key.startswith(before)})

    match network.kind:
        case "unet":
            last = ".transformer_blocks.0.attn2.to_k.weight"
            look = next((key for key in shapes if key.endswith(last)), last).removesuffix(last)
            first = shapes["input_blocks.0.0.weight" if original else "conv_in.weight"]
            vector = shapes.get("label_emb.0.0.weight" if original else "add_embedding.linear_1.weight")
            classes = shapes.get("label_emb.weight" if original else "class_embedding.weight")
            layers = sum(key.endswith(".attn2.to_k.weight") for key in shapes)
            whole = ("middle_block.1" if original else "mid_block.attentions.0") + last in shapes
            return {
                **({} if whole else {"layers": layers}),
                "inputs": first[1],
                "width": first[0],
                "tokens": shapes[look + last][1],
                "vector": vector[1] if vector else 0,
                "classes": classes[0] if classes else 0,
                "matrices": len(shapes[f"{look}.proj_in.weight"]) == 2,
            }
        case "mmdit":
            blocks = "joint_blocks." if original else "transformer_blocks."
            norm, second = (
                ("x_block.attn.ln_q", "x_block.attn2.qkv") if original else ("attn.norm_q", "attn2.to_q")
            )
            return {
                "depth": count(blocks),
                "width": shapes["x_embedder.proj.weight" if original else "pos_embed.proj.weight"][0],
                "norm": f"{blocks}0.{norm}.weight" in shapes,
                "dual": sum(key.endswith(f".{second}.weight") for key in shapes),
            }
        case "flux":
            enter = shapes["img_in.weight" if original else "x_embedder.weight"]
            told = "guidance_in.in_layer" if original else "time_text_embed.guidance_embedder.linear_1"
            return {
                "double": count("double_blocks." if original else "transformer_blocks."),
                "single": count("single_blocks." if original else "single_transformer_blocks."),
                "width": enter[0],
                "inputs": enter[1],
                "guidance": f"{told}.weight" in shapes,
            }
        case "vae":
            levels = count("encoder.down." if original else "encoder.down_blocks.")
            return {
                "latent": shapes["decoder.conv_in.weight"][1],
                "factor": 2 ** (levels - 1),
                "quant": "quant_conv.weight" in shapes,
            }
        case "tiny":
            return {"latent": shapes["decoder.1.weight" if original else "decoder.layers.0.weight"][1]}
        case "dcae":
            leave = "project_out.main.op_list.0.conv" if original else "conv_out"
            begin = "encoder.stages." if original else "encoder.down_blocks."
            found = [int(key[len(begin) :].split(".")[0]) for key in shapes if key.startswith(begin)]
            return {"latent": shapes[f"encoder.{leave}.weight"][0], "factor": 2 ** max(found, default=0)}
        case "clip":
            name = "token_embedding.weight" if original else "text_model.embeddings.token_embedding.weight"
            return {
                "width": shapes[name][1],
                "layers": count("transformer.resblocks." if original else "text_model.encoder.layers."),
                "projection": ("text_projection" if original else "text_projection.weight") in shapes,
            }
        case "noised":
            return {
                "classes": shapes["out.2.c_proj.weight"][0],
                "width": shapes["input_blocks.0.0.weight"][0],
                "places": shapes["out.2.positional_embedding"][1] - 1,
            }
        case "siglip":
            places = shapes["vision_model.embeddings.position_embedding.weight"]
            layers = count("vision_model.encoder.layers.")
            return {"width": places[1], "layers": layers, "places": places[0]}
        case "redux":
            return {"width": shapes["redux_up.weight"][1], "tokens": shapes["redux_down.weight"][0]}
        case kind if kind in LANGUAGES:
            head = "model." if "model.embed_tokens.weight" in shapes else ""
            return {"width": shapes[f"{head}embed_tokens.weight"][1], "layers": count(f"{head}layers.")}
    return {"width": shapes["shared.weight"][1], "layers": count("encoder.block.")}


def family_of(
    found: Mapping[str, Found], facts: Mapping[str, dict[str, int | bool]], whole: Source
) -> tuple[str | None, str | None]:
    """Family and variant of a denoiser, of the checkpoint ``whole``; None for other networks."""
    if "denoiser" not in found:
        return None, None
    kind, told = found["denoiser"].kind, facts["denoiser"]
    if kind in FURTHER:
        one = FURTHER[kind]
        if kind == "zimage" and says_turbo(whole):
            return "z-image-turbo", None
        return one.family, one.variant(told, found["denoiser"].source, whole)
    if kind == "mmdit":
        if not told["norm"]:
            return "sd3", "3 medium"
        return "sd3", "3.5 medium" if told["dual"] else "3.5 large or turbo"
    if kind == "flux":
        if told["inputs"] == 384:
            return "flux", "Fill"
        if told["inputs"] == 128:
            return "flux", "Control"
        return "flux", _guided(whole) if told["guidance"] else "schnell"
    if told["classes"]:
        return "x4", None
    variant = INPUTS.get(told["inputs"], f"{told['inputs']} input channels")
    if "layers" in told:
        variant = SHORT.get(told["layers"], "fewer layers")
    if told["vector"]:
        big = facts["text_2"]["width"] if "text_2" in found else 1280
        return "sdxl", "refiner" if told["tokens"] == big else variant
    return ("sd2" if told["matrices"] else "sd1"), variant


def _guided(whole: Source) -> str:
    """Which FLUX.1 that is told guidance: their shapes are equal, and the pipeline's class or a name tells."""
    pipeline = str(whole.config.get("_class_name", ""))
    if "kontext" in f"{pipeline} {whole.path.name}".lower():
        return "Kontext"
    return "dev" if pipeline else "dev or Kontext"


def predicted(family: str, source: Source, denoiser: Found) -> tuple[str, str]:
    """What the denoiser of ``family`` predicts, and how that is known."""
    scheduler = source.parts.get("scheduler")
    usual = {"sd3": "flow", "flux": "flow", "x4": "v"}.get(family, "eps")
    if denoiser.kind in FURTHER:
        usual = FURTHER[denoiser.kind].predicts
    settings = scheduler.config if scheduler else {}
    return prediction_of(family, usual, settings, source.entries, denoiser.source, denoiser.layout)


def _component(place: str, network: Found, facts: dict[str, int | bool]) -> Component:
    dtypes: Counter[str] = Counter()
    size = 0
    for entry in network.source.entries.values():
        count = 1
        for side in entry.shape:
            count *= side
        dtypes[entry.dtype] += count
        size += entry.bytes
    return Component(
        place=place,
        kind=network.kind,
        layout=network.layout,
        tensors=len(network.source.entries),
        parameters=dtypes.total(),
        bytes=size,
        dtypes=dict(dtypes.most_common()),
        facts=facts,
    )


def _alone(found: Mapping[str, Found], facts: Mapping[str, Mapping[str, int | bool]]) -> str:
    """What networks without a denoiser are."""
    titles = []
    for place, one in found.items():
        told = facts[place]
        titles.append(
            {
                "vae": f"autoencoder, {told.get('latent')} channels at 1/{told.get('factor')}",
                "dcae": f"deep compression autoencoder, {told.get('latent')} channels at 1/{told.get('factor')}",
                "tiny": f"tiny autoencoder, {told.get('latent')} channels",
                "clip": f"CLIP text encoder, width {told.get('width')}",
                "t5": f"T5 encoder, width {told.get('width')}",
                **{kind: f"{title}, width {told.get('width')}" for kind, title in LANGUAGES.items()},
                "noised": f"classifier of noisy pictures, {told.get('classes')} classes",
                "siglip": f"SigLIP vision tower, {told.get('places')} patches, width {told.get('width')}",
                "redux": f"FLUX.1 Redux, tokens of width {told.get('tokens')}",
            }[one.kind]
        )
    return "; ".join(titles)


def _others(source: Source) -> list[str]:
    """The tensors of a single file that stand under no network's prefix."""
    if source.parts:
        return []
    known = tuple(prefix for prefix, _ in PREFIXES)
    return [name for name in source.entries if not name.startswith(known)]


def _licence(source: Source) -> str | None:
    """What the header's metadata or the front matter of a model card says; None if nothing does."""
    for key in ("modelspec.license", "license"):
        if told := source.metadata.get(key):
            return told
    return _card(source.path / "README.md") if source.path.is_dir() else None


def _card(path: Path) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(20_000).splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key == "license" and value.strip():
            return value.strip()
    return None
