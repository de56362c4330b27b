"""``sfumato families``: the families of published models that load, native or wrapped."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def families(as_json: bool) -> None:
    """List the families of checkpoints that load: the native ones, and those whose network diffusers brings."""
    from sfumato.families import listing

    rows = listing.families()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        click.echo(
            f"{row.name:32} {'native ' if row.native else 'wrapped'}  {row.title}; {row.layouts}; {row.source}"
        )
    if listing.installed() is None:
        click.echo(
            "other diffusers folders: pip install 'sfumato[diffusers]' to load them through diffusers' networks"
        )
    else:
        click.echo(
            "wrapped: process, samplers, guidance and tasks are sfumato's; what cannot be called is told at loading"
        )
