"""A checkpoint whose networks lie in files of their own: a transformer, text encoders, an autoencoder.

So FLUX.1 and Stable Diffusion 3 are passed around: ``flux1-dev.safetensors``, ``clip_l.safetensors``, a T5 and
``ae.safetensors``, each without prefix or settings. Which network a file holds is told by its keys, as for any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import Checkpoint, Part, open_checkpoint
from sfumato.families.family import Family
from sfumato.families.looks import LOOKERS, looks_of, pictured
from sfumato.families.signatures import FOLDERS, LANGUAGES, PREFIXES, is_adapter, networks
from sfumato.model import BLIND
from sfumato.text.t5 import NAMES, T5Tokens
from sfumato.weights.folder import MODEL_INDEX, SAFE, choose, listing
from sfumato.weights.gguf import GGUF
from sfumato.weights.source import Source, join, open_source

READS = {
    "denoiser": "the denoiser",
    "vae": "the autoencoder",
    "text": "the smaller CLIP encoder",
    "text_2": "the larger CLIP encoder",
    "text_3": "the T5 encoder",
    "language": "the language model that reads prompts",
    "looker": "SigLIP's vision tower",
    "redux": "the embedder of FLUX.1 Redux",
}
"""What parts are, for people who lack one."""

ENCODERS = ("text", "language")
"""How the places of text encoders begin."""

WITHOUT = (
    "or do without text encoders: --embedded FILE (in Python: encoders=False) takes prompts that `sfumato embed` wrote "
    "where they are"
)
"""What else a person can do."""

WIDE = 1280
"""The width of the larger CLIP encoder, OpenCLIP bigG."""


@contextmanager
def opened(
    path: Path, parts: Sequence[Path] = (), *, variant: str | None = None, allow_pickle: bool = False
) -> Iterator[Checkpoint]:
    """The checkpoint at ``path`` with the networks of ``parts``; it can be read until the context ends.

    ``path`` is what ``open_source`` takes, or a folder of loose files, each with a network. WeightsError names
    files that hold one network twice, and what is there if no file has a denoiser.
    """
    with ExitStack() as stack:
        files = loose(path, variant)
        sources = [
            stack.enter_context(open_source(file, variant=variant, allow_pickle=allow_pickle))
            for file in (*(files or (path,)), *parts)
        ]
        if files and all(is_adapter(source) for source in sources):
            names = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
            raise WeightsError(f"{path} holds several adapters and no model ({names}): name one of them")
        made = whole([open_checkpoint(source) for source in sources])
        yield replace(made, source=replace(made.source, path=path)) if files else made


def assembled(checkpoint: Checkpoint) -> Source:
    """One source of ``checkpoint``: its own, or of networks in several files as if they lay in a folder.

    For what looks at whole checkpoints (inspect, convert): the latter has parts, no settings of a whole, and what marks
    the main file has.
    """
    main = checkpoint.source
    held = [one for part in checkpoint.parts.values() for one in part.source.files]
    if not {*held} - {*main.files}:
        return main
    names = {place: name for name, place in reversed(FOLDERS.items())}
    names |= {
        "language": "text_encoder",
        "denoiser": "unet" if checkpoint.parts["denoiser"].kind == "unet" else "transformer",
    }
    source = join({names[place]: part.source for place, part in checkpoint.parts.items()}, main.path)
    inner = tuple(prefix for prefix, _ in PREFIXES)
    own = {} if main.parts or "" in networks(main) else main.entries
    marks = {name: entry for name, entry in own.items() if not name.startswith(inner)}
    return replace(source, entries={**marks, **source.entries})


def loose(path: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The files of weights in the folder ``path`` if they are several that belong to no set; else none."""
    if not path.is_dir() or (path / MODEL_INDEX).is_file():
        return ()
    files = [file for file in listing(path) if file.name.endswith((*SAFE, *GGUF)) and file.is_file()]
    if any(file.name.endswith(GGUF) for file in files):
        return tuple(files)
    try:
        choose(path, variant)
    except WeightsError:  # several sets of weights: each is its own
        return tuple(files) if len(files) > 1 else ()
    return ()


def whole(found: Sequence[Checkpoint]) -> Checkpoint:
    """One checkpoint of several, that with the denoiser first."""
    if len(found) == 1:
        return found[0]
    main = next((one for one in found if "denoiser" in one.parts), None)
    if main is None:
        held = "; ".join(f"{one.source.path}: {', '.join(one.parts)}" for one in found)
        raise WeightsError(f"none of the files holds a denoiser, without which nothing is made ({held})")
    return combined(main, [one for one in found if one is not main])


def combined(checkpoint: Checkpoint, others: Sequence[Checkpoint]) -> Checkpoint:
    """``checkpoint`` with the networks of ``others``, which it must lack; of a folder of Redux, those that it lacks.

    Of two CLIP encoders that come alone the narrower is the first; a single one is the second if it is as wide as
    OpenCLIP's largest. WeightsError if two files hold one network, or encoders of one width.
    """
    parts = dict(checkpoint.parts)
    alone = [one.parts["text"] for one in others if list(one.parts) == ["text"] and not one.source.parts]
    alone = sorted(alone, key=lambda part: int(part.config.width))
    for first, second in pairwise(alone):
        if first.config.width == second.config.width:
            raise WeightsError(
                f"{second.source.path} holds a CLIP encoder of width {second.config.width}, as {first.source.path} "
                "does: leave one of them out"
            )
    free = [place for place in ("text", "text_2") if place not in parts]
    if len(alone) == 1 and alone[0].config.width >= WIDE:
        free = free[-1:]
    placed = dict(zip(free, alone, strict=False))
    for one in others:
        with_pictures = one.source.parts and set(LOOKERS) & one.parts.keys()
        for place, part in one.parts.items():
            if (
                place in parts and with_pictures
            ):  # a folder of FLUX.1 Redux may bring FLUX.1's text encoders too
                continue
            at = next((name for name, found in placed.items() if found is part), place)
            if at in parts:
                raise WeightsError(
                    f"{part.source.path} holds {READS.get(at, at)}, which {parts[at].source.path} holds too: "
                    "leave one of them out"
                )
            parts[at] = part
    return replace(checkpoint, parts=parts)


def check_parts(checkpoint: Checkpoint, kind: Family, *, encoders: bool = True) -> None:
    """Refuse a checkpoint without the parts that ``kind`` needs, or whose parts are not made for each other.

    Text encoders are not needed without ``encoders``, nor where none is there and pictures are read as prompts.
    """
    path, parts = checkpoint.source.path, checkpoint.parts
    encoders = encoders and not (pictured(parts) and not any(place.startswith(ENCODERS) for place in parts))
    needed = [name for name in kind.needs if encoders or not name.startswith(ENCODERS)]
    missing = [name for name in needed if name not in parts]
    if missing:
        told = ", ".join(f"{name} ({READS[name]})" if name in READS else name for name in missing)
        raise WeightsError(
            f"{path} is of the family {kind.title!r} and lacks {told}: give a folder or a file that has all parts, or "
            "their files beside it, each with --part (in Python: parts=[...])"
            + (f"; {WITHOUT}" if all(name.startswith(ENCODERS) for name in missing) else "")
        )
    check_looks(parts, path, kind)
    lacking = [name for name in kind.needs if name.startswith(ENCODERS) and name not in parts]
    if fault := misfit(
        {place: part for place, part in parts.items() if not lacking or not place.startswith(ENCODERS)}
    ):
        raise WeightsError(f"{path} is of the family {kind.title!r}, and {fault}")


def check_looks(parts: Mapping[str, Part], path: Path, kind: Family) -> None:
    """Refuse parts that make tokens of pictures where the denoiser does not read them, and one without the other."""
    held, wanted = [place for place in LOOKERS if place in parts], looks_of(parts)
    if held and not wanted:
        raise WeightsError(
            f"{path} is of the family {kind.title!r}, which does not read pictures by {READS[held[0]]} "
            f"({parts[held[0]].source.path}), as FLUX.1 does: leave that out"
        )
    lacks = [place for place in wanted if place not in parts]
    if held and lacks:
        raise WeightsError(
            f"{parts[held[0]].source.path} holds {READS[held[0]]}, and {lacks[0]} ({READS[lacks[0]]}) is missing, "
            "without which no picture is read: give its file, or a folder of FLUX.1 Redux, with --part"
        )


def blind(parts: Mapping[str, Part]) -> str:
    """Why a model of ``parts`` reads no pictures as part of a prompt, empty if it does."""
    lacks = [f"{place} ({READS[place]})" for place in looks_of(parts) if place not in parts]
    if not looks_of(parts) or not lacks:
        return "" if looks_of(parts) else BLIND
    return (
        f"it lacks {' and '.join(lacks)}: give the folder of FLUX.1 Redux, or both files, with --part (in Python: "
        "parts=[...]), or leave look out"
    )


def words_of(checkpoint: Checkpoint, kind: Family) -> T5Tokens:
    """T5's vocabulary from the folder of ``checkpoint``; WeightsError says how to give it where there is none."""
    path = checkpoint.source.path
    if path.is_dir():
        here = any((path / name).is_file() for name in NAMES)
        return T5Tokens.load(path if here else path / kind.words)
    reads = checkpoint.parts.get("language")
    whose = "T5's" if reads is None else f"{LANGUAGES[reads.kind]}'s"
    raise WeightsError(
        f"{whose} vocabulary is not in {path}: files of weights have none. Give {' or '.join(NAMES)} with --tokens (in "
        f"Python: tokens=...); folders of {kind.title} have it in {kind.words}; {WITHOUT}"
    )


def misfit(parts: Mapping[str, Part]) -> str:
    """Which part is not made for the denoiser among ``parts``, by its widths; empty if all are."""
    net = parts["denoiser"]
    widths = {place: int(part.config.width) for place, part in parts.items() if place.startswith(ENCODERS)}
    told = ", ".join(f"{widths[place]} ({READS[place]})" for place in sorted(widths))
    wanted = getattr(net.config, "tokens", 0)
    match net.kind if widths else "":
        case "unet":
            fits = sum(widths.values()) == wanted
        case "flux":
            fits = (
                widths.get("text_3", wanted) == wanted
                and widths.get("text", net.config.vector) == net.config.vector
            )
        case "mmdit":
            fits = widths.get("text_3", wanted) == wanted
        case "lumina" | "zimage" | "sana":
            fits = widths["language"] == wanted
        case _:
            fits = True
    seen = {place: parts[place].config for place in LOOKERS if place in parts}
    if seen and (seen["redux"].width != seen["looker"].width or seen["redux"].tokens != wanted):
        made, read = seen["redux"].tokens, seen["redux"].width
        return (
            f"its denoiser reads tokens of width {wanted}, and the embedder of pictures makes {made} of {read} values, "
            f"of which SigLIP has {seen['looker'].width}: they belong to another model"
        )
    if not fits:
        return f"its denoiser reads text of width {wanted}, and the encoders have {told}: they belong to another model"
    return ""


def stored(parts: Mapping[str, Part], dtype: torch.dtype, packed: bool) -> list[str]:
    """What is told of how the files of ``parts`` hold their values, which are computed in ``dtype``."""
    said = list(dict.fromkeys(note for part in parts.values() for note in part.source.notes))
    for place, part in parts.items():
        entries = part.source.entries.values()
        if packed or not part.source.quantized:
            continue
        kinds = ", ".join(
            sorted({entry.dtype for entry in entries if entry.quantized or entry.dtype.startswith("F8_")})
        )
        held, made = (
            sum(sizes) / 1e9
            for sizes in (
                [entry.bytes for entry in entries],
                [entry.values * dtype.itemsize for entry in entries],
            )
        )
        said.append(
            f"{READS.get(place, place)} is stored as {kinds} and was unpacked: {held:.2f} GB in the file, "
            f"{made:.2f} GB in memory; packed=True (--packed) keeps it as it is"
        )
    return said
