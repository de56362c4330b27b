"""``sfumato models``, ``samplers``, ``guides`` ...: what can be chosen."""

from __future__ import annotations

import json
import math
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def models(as_json: bool) -> None:
    """List the models that can be used."""
    from sfumato.families.table import MODELS, facts

    rows: list[dict[str, Any]] = [
        {"name": name, "makes": text, **facts(name)} for name, text in MODELS.items()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']}  {row['makes']}")
        click.echo(
            f"{'':{len(row['name'])}}  {row['files']} files, "
            f"{row['bytes'] / 2**20:.1f} MiB, hash {row['hash'][:12]}"
        )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def samplers(as_json: bool) -> None:
    """List the samplers: order of accuracy, network evaluations a step, whether they draw noise, source."""
    from sfumato.process.spec import options_of
    from sfumato.samplers import SAMPLERS

    rows: list[dict[str, Any]] = [
        {
            "name": s.name,
            "aliases": s.aliases,
            "order": s.order,
            "evaluations": s.evaluations,
            "stochastic": s.stochastic,
            "off_line": s.off_line,
            "options": options_of(s.walk),
            "reference": s.reference,
        }
        for s in SAMPLERS.values()
    ]
    if as_json:
        for row in rows:  # JSON has no infinity
            row["options"] = {k: None if v == math.inf else v for k, v in row["options"].items()}
        click.echo(json.dumps(rows))
        return
    for row in rows:
        noise = "draws noise" if row["stochastic"] else "deterministic"
        order = f"order {row['order']}" if row["order"] else "no order"
        asks = (
            "as many evaluations as it wants"
            if row["evaluations"] is None
            else f"{row['evaluations']} a step"
        )
        click.echo(f"{row['name']:20} {order}, {asks}, {noise}; {row['reference']}")
        if row["options"]:
            click.echo(f"{'':20} options: {', '.join(f'{k}={v}' for k, v in row['options'].items())}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def noises(as_json: bool) -> None:
    """List the generators of noise: what draws the same numbers, and whether a picture's seed is its own."""
    from sfumato.noise import NOISES
    from sfumato.process.spec import options_of

    rows = [
        {"name": n.name, "equals": n.equals, "by_row": n.by_row, "options": options_of(n.make)}
        for n in NOISES.values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        seeds = "a seed a picture" if row["by_row"] else "one seed a batch"
        click.echo(f"{row['name']:10} {seeds}; draws what {row['equals']} does")


def shown(value: Any) -> str:
    """A default as it is written on a command line."""
    return value if isinstance(value, str) else f"{value:g}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def guides(as_json: bool) -> None:
    """List the ways of guidance: what each does, its options with their defaults, source."""
    from sfumato.guidance import GUIDES, OPTIONS
    from sfumato.process.spec import options_of

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "does": entry.does,
            "scale": [0, entry.most],
            "options": {
                name: {"default": value, "does": OPTIONS[name].does}
                for name, value in options_of(entry.make).items()
            },
            "reference": entry.reference,
            "cite": entry.cite,
        }
        for entry in GUIDES.values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        options = ", ".join(f"{name}={shown(option['default'])}" for name, option in row["options"].items())
        click.echo(f"{row['name']:10} {row['does']}; {row['reference']}")
        click.echo(f"{'':10} options: {options}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def grids(as_json: bool) -> None:
    """List the grids: how each spaces the levels, its options with their defaults, source."""
    from sfumato.process import about

    _print(about.grids(), as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def schedules(as_json: bool) -> None:
    """List the schedules: the levels of each, its options with their defaults, source."""
    from sfumato.process import about

    _print(about.schedules(), as_json)


def _print(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']:16} {row['definition']}" + (f"; {row['source']}" if row["source"] else ""))
        if row["options"]:
            click.echo(f"{'':16} options: {row['options']}")
