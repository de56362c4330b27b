"""``sfumato prompt``: what a model will see of a prompt: its tokens, weights, rows and schedule."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from sfumato.errors import InvalidRequest, UnknownName

if TYPE_CHECKING:
    from sfumato.text.prompt.parts import Words

MODELS = {
    "sd1": ("",),
    "sd2": ("open",),
    "sdxl": ("", "open"),
    "sd3": ("", "open"),
    "flux": ("",),
    "emoji": ("own",),
}
"""The encoders of each family: CLIP's by how they pad, and the built-in model's own.

T5's vocabulary comes with a checkpoint and is not shown.
"""


@click.command()
@click.argument("text")
@click.option("--dialect", default="a1111", show_default=True, help="plain, a1111, comfyui or compel")
@click.option("--steps", default=20, show_default=True, help="how many steps the schedule is for")
@click.option("--model", default="sd1", show_default=True, help=", ".join(MODELS))
@click.option("--seed", type=int, help="draw {a|b} and __list__ first, by this seed")
@click.option("--wildcards", type=click.Path(), help="the folder of the lists that __list__ names")
@click.option(
    "--all", "limit", type=int, help="print the first so many prompts that {a|b} and __list__ can become"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(
    text: str,
    dialect: str,
    steps: int,
    model: str,
    seed: int | None,
    wildcards: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show what a model will see of a prompt: tokens, weights, rows and schedule.

    sfumato prompt "a (red:1.3) house [by day:at night:0.5]"

    sfumato prompt "a {cat|dog} in __place__" --seed 7 --wildcards lists
    """
    from sfumato.text.prompt.lists import Folder
    from sfumato.text.prompt.wildcards import combinations, draw, no_lists

    lists = Folder(wildcards) if wildcards else no_lists
    if limit is not None:
        found = list(combinations(text, lists, limit))
        click.echo(json.dumps(found) if as_json else "\n".join(found))
        return
    if seed is not None:
        text = draw(text, seed, lists)
    told = facts(text, dialect, steps, model)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    show(told, steps, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def facts(text: str, dialect: str, steps: int, model: str) -> dict[str, Any]:
    """All that is to be told of the prompt ``text``, as JSON has it."""
    from sfumato.text.prompt.chunks import clip_vocabulary, weighted_ids
    from sfumato.text.prompt.dialects import embeddings, parse
    from sfumato.text.prompt.schedule import timeline

    if model not in MODELS:
        raise UnknownName("model", model, MODELS)
    if not 1 <= steps <= 1000:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 to 1000")
    parsed = parse(text, dialect)
    named = embeddings(parsed)
    # How many vectors an embedding has stands in its file; here each is one token.
    stand = {name: (50_000 + number,) for number, name in enumerate(named)}
    names = {ids[0]: f"embedding:{name}</w>" for name, ids in stand.items()}
    line = timeline(parsed, steps)
    encoders = {}
    for number, kind in enumerate(MODELS[model]):
        if kind == "own":
            encoders["text"] = [
                [built_in(words, dialect) for words in part.words] for part in line.conditions
            ]
            continue
        vocabulary = clip_vocabulary(pad=0 if kind else None, embeddings=stand)
        shown = []
        for part in line.conditions:
            blend = []
            for words in part.words:
                rows = weighted_ids(words, vocabulary, dialect)
                sections = [
                    {
                        "weight": weight,
                        "rows": [
                            [
                                {"id": i, "token": names.get(i) or vocabulary.name(i), "weight": w}
                                for i, w, span in zip(chunk.ids, chunk.weights, chunk.spans, strict=True)
                                if span >= 0
                            ]
                            for chunk in chunks
                        ],
                    }
                    for chunks, weight in rows.sections
                ]
                blend.append({"share": words.share, "sections": sections, "dropped": rows.dropped})
            shown.append(blend)
        encoders["text" if number == 0 else f"text_{number + 1}"] = shown
    return {
        "prompt": text,
        "room": 30 if model == "emoji" else 75,
        "dialect": dialect,
        "model": model,
        "adapters": [
            {"kind": a.kind, "name": a.name, "text": a.text, "denoiser": a.denoiser} | dict(a.options)
            for a in parsed.adapters
        ],
        "embeddings": list(named),
        "stages": [
            {"begin": s.begin, "end": s.end, "parts": [{"condition": i, "weight": w} for i, w in s.parts]}
            for s in line.stages
        ],
        "encoders": encoders,
    }


def built_in(words: Words, dialect: str) -> dict[str, Any]:
    """What the built-in model's encoder, which has one row of 30 tokens, reads of ``words``."""
    from sfumato.families.table import ASSETS
    from sfumato.text.encoder import VOCABULARY_FILE
    from sfumato.text.prompt.single import single_row
    from sfumato.text.tokens import MAX_TOKENS, Tokenizer

    tokenizer = Tokenizer.load(ASSETS / VOCABULARY_FILE)
    row = single_row(words, tokenizer.pieces, MAX_TOKENS - 2, dialect)
    pieces = [tokenizer.vocabulary[i] for i in row.ids]
    # Pieces that go on a word begin with ##; here, as in CLIP, a piece that ends one is marked.
    ends = [not after.startswith("##") for after in [*pieces[1:], ""]]
    tokens = [
        {"id": i, "token": piece.removeprefix("##") + ("</w>" if end else ""), "weight": weight}
        for i, piece, end, weight in zip(row.ids, pieces, ends, row.weights, strict=True)
    ]
    return {"share": words.share, "sections": [{"weight": 1.0, "rows": [tokens]}], "dropped": row.dropped}


def show(told: dict[str, Any], steps: int, colour: bool) -> None:
    """Print ``told``, weights as colours if ``colour``: from blue below 1 to red above."""
    for adapter in told["adapters"]:
        click.echo(
            f"adapter {adapter['kind']} {adapter['name']}: {adapter['denoiser']:g}, on text {adapter['text']:g}"
        )
    first = next(iter(told["encoders"].values()))
    if len(told["stages"]) > 1 or len(told["stages"][0]["parts"]) > 1:
        for stage in told["stages"]:
            parts = " + ".join(f"{part['weight']:g} x ({part['condition']})" for part in stage["parts"])
            click.echo(f"steps {stage['begin']} to {stage['end'] - 1} of {steps}: {parts}")
    for number, blend in enumerate(first):
        for words in blend:
            share = "" if len(blend) == 1 else f" share {words['share']:g}"
            row_number = 0
            for section in words["sections"]:
                weight = "" if section["weight"] == 1 else f" weight {section['weight']:g}"
                for row in section["rows"]:
                    row_number += 1
                    click.echo(
                        f"({number}){share} row {row_number}, {len(row)} of {told['room']} tokens{weight}: ",
                        nl=False,
                    )
                    click.echo(" ".join(_token(t["token"], t["weight"], colour) for t in row))
            if words["dropped"]:
                click.echo(f"({number}) {words['dropped']} more tokens are not read")
    if len(told["encoders"]) > 1:
        click.echo(f"the {len(told['encoders'])} CLIP encoders of {told['model']} read the same tokens")


def _token(token: str, weight: float, colour: bool) -> str:
    """A token and its weight; a piece that goes on in the next one ends in a hyphen."""
    text = token.removesuffix("</w>") if token.endswith("</w>") else token + "-"
    if weight == 1:
        return text
    text = f"{text}:{weight:.4g}"
    if not colour:
        return text
    depth = round(200 * min(abs(weight - 1), 1))
    return click.style(
        text, fg=(255, 200 - depth, 200 - depth) if weight > 1 else (200 - depth, 200 - depth, 255)
    )
