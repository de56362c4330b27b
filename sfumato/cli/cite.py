"""``sfumato cite``: the papers behind a command line or a picture, as BibTeX."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import click

import sfumato
from sfumato.errors import InvalidRequest, UnknownName

Choice = tuple[str, str, tuple[str, ...]]
"""What was chosen (sampler, grid, ...), its name, and the keys of its papers."""

MODELS: dict[str, tuple[str, ...]] = {
    "emoji": ("rombach2022ldm", "ho2020ddpm", "liu2022flow", "wang2020minilm"),
}
"""The papers that a model by name rests on."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Print BibTeX of what a command line or a picture uses.

    sfumato cite generate "a rocket" --sampler dpmpp_2m --guide apg

    sfumato cite rocket.png

    sfumato cite unipc karras apg

    The first form takes what is not given from the model's defaults, the second from the picture's recipe; the third
    takes names of samplers, grids, schedules, guides and noises.
    """
    from sfumato.references import PAPERS, bibtex

    chosen = choices(words)
    if as_json:
        rows = [{"kind": kind, "name": name, "papers": keys} for kind, name, keys in chosen]
        papers = {key: vars(PAPERS[key]) for _, _, found in chosen for key in found}
        click.echo(json.dumps({"uses": rows, "papers": papers}))
        return
    reasons: dict[str, list[str]] = {}
    for kind, name, keys in chosen:
        for key in keys:
            reasons.setdefault(key, []).append(f"{kind} {name}")
    click.echo(software())
    for key, uses in reasons.items():
        click.echo(f"\n% {', '.join(dict.fromkeys(uses))}\n{bibtex(key)}")


def software() -> str:
    """The entry of sfumato itself."""
    return (
        "@software{sfumato,\n  author = {{the sfumato authors}},\n  title = {sfumato},\n"
        f"  version = {{{sfumato.__version__}}},\n  license = {{Apache-2.0}},\n}}"
    )


def choices(words: Sequence[str]) -> list[Choice]:
    """What ``words`` name: a command line, a picture of ours, or names."""
    from sfumato.cli.main import COMMANDS

    rest = list(words)[1 if tuple(words[:1]) == ("sfumato",) else 0 :]
    if not rest:
        raise InvalidRequest(
            "nothing to cite: give a command line (sfumato cite generate ... --sampler unipc), a picture that sfumato "
            "made, or names (sfumato cite unipc karras)"
        )
    if rest[0].lower().endswith(".png"):
        from sfumato.picture.png import read_recipe

        recipe = read_recipe(Path(rest[0]))
        return of_request(recipe.model, {k: str(v) for k, v in recipe.arguments.items() if v is not None})
    if rest[0] in COMMANDS:
        module, name = COMMANDS[rest[0]][0].split(":")
        if module not in ("sfumato.cli.generate", "sfumato.cli.tasks"):
            raise InvalidRequest(
                f"`sfumato {rest[0]}` makes no pictures; the command line to cite is a generate, or an edit"
            )
        making: click.Command = getattr(importlib.import_module(module), name)
        given = making.make_context(rest[0], rest[1:], resilient_parsing=True).params
        return of_request(
            str(given["model"] or "emoji"), {k: str(v) for k, v in given.items() if v is not None}
        )
    return [named(word) for word in rest]


def of_request(model: str, given: dict[str, str]) -> list[Choice]:
    """What a request for a picture uses: the model, and what it was given or else has by default."""
    from sfumato.families.emoji import DEFAULTS

    found: list[Choice] = [("model", model, MODELS.get(model, ()))]
    for kind in ("sampler", "grid", "guide", "noise"):
        name = given.get(kind) or str(getattr(DEFAULTS, kind, "stream"))
        _, bare, keys = named(name, kind)
        found.append((kind, bare, keys))
    return found


def named(text: str, kind: str = "") -> Choice:
    """The sampler, grid, schedule, guide or noise ``text``, options or not; UnknownName with the nearest names."""
    from sfumato.guidance import GUIDES
    from sfumato.noise import NOISES
    from sfumato.process.about import CITES
    from sfumato.process.grid import SPACINGS
    from sfumato.process.schedules import SCHEDULES
    from sfumato.process.spec import parse
    from sfumato.samplers import SAMPLERS

    tables: dict[str, dict[str, tuple[str, ...]]] = {
        "sampler": {name: s.cite for s in SAMPLERS.values() for name in (s.name, *s.aliases)},
        "grid": {name: CITES.get(name, ()) for name in SPACINGS},
        "schedule": {name: CITES.get(name, ()) for name in SCHEDULES},
        "guide": {name: g.cite for name, g in GUIDES.items()},
        "noise": {name: n.cite for name, n in NOISES.items()},
    }
    name, _ = parse(text, kind or "name")
    for table, names in tables.items():
        if kind in ("", table) and name in names:
            return table, name, names[name]
    wanted = [tables[kind]] if kind else list(tables.values())
    raise UnknownName(kind or "name", name, [n for names in wanted for n in names])
