"""``sfumato prompt``: what a model will see of a prompt: its tokens, weights, rows and schedule."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from sfumato.families.reads import READS

OTHERS = {"text_3": "T5", "language": "the language model"}
"""What encoders are called that are not CLIP's."""


@click.command()
@click.argument("text")
@click.option("--dialect", default="a1111", show_default=True, help="plain, a1111, comfyui or compel")
@click.option("--steps", default=20, show_default=True, help="how many steps the schedule is for")
@click.option(
    "--model",
    "-m",
    default="sd1",
    show_default=True,
    help=f"{', '.join(READS)}, emoji, or a checkpoint's path",
)
@click.option(
    "--tokens",
    type=click.Path(),
    help="the vocabulary of T5 or of a language model: its file or folder",
)
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
    tokens: str | None,
    seed: int | None,
    wildcards: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show what a model will see of a prompt: tokens, weights, rows and schedule.

    sfumato prompt "a (red:1.3) house [by day:at night:0.5]"

    sfumato prompt "a {cat|dog} in __place__" --seed 7 --wildcards lists

    sfumato prompt "a (red:1.3) house" --model flux --tokens tokenizer.json
    """
    from sfumato.cli.seen import facts
    from sfumato.text.prompt.lists import Folder
    from sfumato.text.prompt.wildcards import combinations, draw, no_lists

    lists = Folder(wildcards) if wildcards else no_lists
    if limit is not None:
        found = list(combinations(text, lists, limit))
        click.echo(json.dumps(found) if as_json else "\n".join(found))
        return
    if seed is not None:
        text = draw(text, seed, lists)
    told = facts(text, dialect, steps, model, tokens)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    show(told, steps, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def show(told: dict[str, Any], steps: int, colour: bool) -> None:
    """Print ``told``, weights as colours if ``colour``: from blue below 1 to red above."""
    for adapter in told["adapters"]:
        click.echo(
            f"adapter {adapter['kind']} {adapter['name']}: {adapter['denoiser']:g}, on text {adapter['text']:g}"
        )
    for note in told["notes"]:
        click.echo(note)
    if len(told["stages"]) > 1 or len(told["stages"][0]["parts"]) > 1:
        for stage in told["stages"]:
            parts = " + ".join(f"{part['weight']:g} x ({part['condition']})" for part in stage["parts"])
            click.echo(f"steps {stage['begin']} to {stage['end'] - 1} of {steps}: {parts}")
    clips = [place for place in told["encoders"] if place not in OTHERS]
    for place in (*clips[:1], *told["encoders"].keys() - clips):
        for line in _rows(told, place, colour):
            click.echo(line)
    if len(clips) > 1:
        click.echo(f"the {len(clips)} CLIP encoders of {told['model']} read the same tokens")
    for place in told["unseen"]:
        who = OTHERS[place]
        click.echo(
            f"the vocabulary of {who} comes with a checkpoint: give it with --tokens to see what it reads"
        )
    if "language" in told["encoders"]:
        click.echo("a language model reads the prompt as it is written, marks included")


def _rows(told: dict[str, Any], place: str, colour: bool) -> Iterator[str]:
    """A line for each row of tokens that the encoder at ``place`` reads."""
    whose, room = f"{OTHERS[place]} " if place in OTHERS else "", told["room"][place]
    for number, blend in enumerate(told["encoders"][place]):
        for words in blend:
            share = "" if len(blend) == 1 else f" share {words['share']:g}"
            rows = [(section["weight"], row) for section in words["sections"] for row in section["rows"]]
            for count, (weight, row) in enumerate(rows, 1):
                weighs = "" if weight == 1 else f" weight {weight:g}"
                tokens = " ".join(_token(t["token"], t["weight"], colour) for t in row)
                yield f"{whose}({number}){share} row {count}, {len(row)} of {room} tokens{weighs}: {tokens}"
            if words["dropped"]:
                yield f"{whose}({number}) {words['dropped']} more tokens are not read"


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
