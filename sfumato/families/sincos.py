"""PixArt-alpha, PixArt-Sigma and DiT: transformers with a fixed table of positions in Stable Diffusion's latents.

Chen et al. 2023; Chen et al. 2024; Peebles & Xie 2023. Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families import prompts as rules
from sfumato.families.checkpoint import Checkpoint
from sfumato.families.family import Family, Kit, Parts, is_kind
from sfumato.families.keys.sincos import REPEATED
from sfumato.families.prompts import T5
from sfumato.families.reads import READS, Reads
from sfumato.model import Defaults
from sfumato.nn.embed import sinusoid
from sfumato.nn.joint import CLOCK
from sfumato.process.table import linear
from sfumato.text.prompt import comfyui
from sfumato.text.prompt.parts import shown
from sfumato.weights.source import Source


def check_plain(prompts: Sequence[Prompt]) -> None:
    """Refuse what is more than words where a prompt is a class, or read by a language model; see ``beyond_words``.

    (On the states of a language model, of which each says something of all words before it, no school puts weights.)
    A text in a dialect without any of it is as good as a plain one.
    """
    for prompt in prompts:
        if found := beyond_words(prompt):
            raise InvalidRequest(f"this family reads a prompt as it is written and does not follow {found}")


def beyond_words(prompt: Prompt) -> str:
    """What ``prompt`` says that its text alone does not: weights, blends, rows of its own, what else is told encoders.

    The first of these as words of a sentence; empty if there is none.
    """
    told = {
        "texts for other encoders (prompt_2, prompt_3 and their negatives)": prompt.apart,
        f"clip_skip = {prompt.skip}": prompt.skip,
        f"padding = {prompt.padding!r}": prompt.padding,
        "what is embedded already": prompt.ready is not None,
        "pictures in a prompt (look)": prompt.looks,
    }
    for name, there in told.items():
        if there:
            return f"{name}: leave it out"
    words = prompt.part.words if prompt.part else ()
    sections = [section for one in words for section in one.sections]
    spans = [span for section in sections for span in section.spans]
    marks = {
        "a blend of texts": len(words) > 1,
        "texts in rows of their own (BREAK, .and)": len(sections) > 1,
        **{f"the weight {span.weight:g} of {shown(span.text)}": span.weight != 1 for span in spans},
        "the weight of a whole text": any(section.weight != 1 for section in sections),
        "marks of embeddings": prompt.dialect == comfyui.NAME
        and any(name for span in spans for name, _ in comfyui.pieces_of(span.text)),
    }
    for name, there in marks.items():
        if there:
            return f"{name}, which the dialect {prompt.dialect!r} marks; leave out --dialect or the mark"
    return ""


def pixart_condition(kit: Kit, prompts: Sequence[Prompt], reads: Reads) -> Cond:
    """T5's states of the prompt in small letters, their padding masked.

    A negative prompt that nobody gave is the empty text.
    """
    t5 = reader(kit, reads)

    def one(prompt: Prompt) -> Cond:
        states, mask = rules.t5_alone(t5, prompt)
        return Cond(tokens=states, mask=mask)

    return rules.one_by_one(one, prompts)


def pixart_request(kit: Kit, prompts: Sequence[Prompt], cond: Cond) -> Cond:
    """The same with the picture's size, where it is read."""
    states = cond.tokens
    if not kit.parts["denoiser"].config.sizes or states is None:
        return cond
    told = [(p.height, p.width, p.height / p.width if p.width else 1.0) for p in prompts]
    measures = torch.tensor(told, dtype=torch.float64, device=states.device)
    vector = sinusoid(measures.flatten(), CLOCK, like=states).view(len(prompts), -1)
    return replace(cond, vector=vector)


def reader(kit: Kit, reads: Reads) -> T5:
    """T5 as a PixArt reads it."""
    assert kit.tokens is not None
    return T5(kit.nets["text_3"], kit.tokens, reads.t5, learned=kit.learned, masked=True, small=reads.small)


def alpha_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """PixArt-alpha's."""
    return pixart_condition(kit, prompts, READS["pixart"])


def sigma_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """PixArt-Sigma's."""
    return pixart_condition(kit, prompts, READS["pixart-sigma"])


def class_condition(kit: Kit, prompts: Sequence[Prompt]) -> Cond:
    """The classes that the prompts name; an empty prompt is the last label, which stands for none."""
    check_plain(prompts)
    nothing = kit.parts["denoiser"].config.classes - 1
    return Cond(label=torch.tensor([class_of(p.text, kit.labels, nothing, nothing) for p in prompts]))


def class_of(text: str, labels: Mapping[str, int], count: int, nothing: int | None) -> int:
    """The class, below ``count``, that ``text`` names: a number, or one of ``labels`` however its letters are written.

    ``nothing`` is what the empty text stands for, None if every picture has a class. InvalidRequest for other texts.
    """
    word = text.strip()
    if not word and nothing is not None:
        return nothing
    if word.isascii() and word.isdigit() and len(word) < 10 and int(word) < count:
        return int(word)
    found = {name.casefold(): number for name, number in labels.items()}
    if word.casefold() in found:
        return found[word.casefold()]
    near = [name for name in labels if word and word.casefold() in name.casefold()][:5]
    named = (
        f" or one of its {len(labels)} names"
        if labels
        else ", and this checkpoint brings no names of classes"
    )
    hint = f"; near: {', '.join(near)}" if near else ""
    if not word:
        raise InvalidRequest(
            "this model makes pictures of a class, and none is named: use the task class2image (sfumato class) with "
            f"one: allowed are 0 to {count - 1}{named}"
        )
    raise InvalidRequest(f"label = {text!r} is no class: allowed are 0 to {count - 1}{named}{hint}")


def labels_of(told: Mapping[str, object]) -> dict[str, int]:
    """The classes by name that ``id2label`` of a folder's ``model_index.json`` tells: each has one or several."""
    listed = told.get("id2label")
    if not isinstance(listed, Mapping):
        return {}
    return {
        name.strip(): int(number)
        for number, names in listed.items()
        for name in str(names).split(",")
        if str(number).isdigit()
    }


def check_repeated(checkpoint: Checkpoint) -> None:
    """Refuse a DiT in diffusers' layout whose blocks embed clock and class differently: one embedder is read.

    WeightsError names the tensor. (The published ones are copies of one, since diffusers' module has one a block.)
    """
    part = checkpoint.parts["denoiser"]
    if part.kind != "dit" or part.layout != "diffusers":
        return
    first = REPEATED.format(0)
    for name in [name for name in part.source.entries if name.startswith(first)]:
        wanted = part.source.read(name)
        for block in range(1, part.config.depth):
            other = REPEATED.format(block) + name.removeprefix(first)
            if other not in part.source.entries or not torch.equal(part.source.read(other), wanted):
                raise WeightsError(
                    f"{other} of {part.source.path} is not {name}: this DiT embeds clock and class in each block "
                    "differently, which is not followed here"
                )


def is_sigma(parts: Parts) -> bool:
    """A PixArt of a pipeline of that name, or with the embedding of no text, of 300 tokens, in the authors' file."""
    if not is_kind("pixart")(parts):
        return False
    part: Source = parts["denoiser"].source
    nothing = part.shapes.get("y_embedder.y_embedding", (0,))[0]
    return "Sigma" in parts["denoiser"].pipeline or nothing == READS["pixart-sigma"].t5


_DEFAULTS = Defaults(
    steps=20,
    sampler="dpmpp_2m",
    grid="linspace(drop=true)",
    guidance=4.5,
    width=1024,
    height=1024,
    multiple=16,
    least=64,
    most=4096,
    unit_start=True,
)

ALPHA = Family(
    name="pixart",
    title="PixArt-alpha",
    fits=is_kind("pixart"),
    needs=("denoiser", "vae", "text_3"),
    predicts="eps",
    schedule=linear(),
    clock="t",
    scale=0.18215,
    defaults=_DEFAULTS,
    condition=alpha_condition,
    request=pixart_request,
    dropped=lambda kit, prompt: rules.dropped(prompt, False, reader(kit, READS["pixart"])),
    words="tokenizer",
)
SIGMA = replace(
    ALPHA,
    variant="sigma",
    title="PixArt-Sigma",
    fits=is_sigma,
    scale=0.13025,
    condition=sigma_condition,
    dropped=lambda kit, prompt: rules.dropped(prompt, False, reader(kit, READS["pixart-sigma"])),
)
DIT = Family(
    name="dit",
    title="DiT",
    fits=is_kind("dit"),
    needs=("denoiser", "vae"),
    predicts="eps",
    schedule=linear(),
    clock="t",
    scale=0.18215,
    defaults=replace(
        _DEFAULTS, steps=50, sampler="ddim", grid="leading(offset=0)", guidance=4.0, width=256, height=256
    ),
    condition=class_condition,
)
