"""``sfumato convert``: a checkpoint in another layout, dtype or size of files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from sfumato.errors import InvalidRequest

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(["diffusers", "original"]),
    required=True,
    help="a folder, or one file",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="of the weights (default: as they are)",
)
@click.option("--shard-size", default=None, help="the most that one file should hold, such as 5GB")
@click.option("--family", default=None, help="the checkpoint's family, where its keys do not tell it")
@click.option("--variant", default=None, help='which of a folder\'s files, such as "fp16"')
@click.option("--allow-pickle", is_flag=True, help="open .ckpt and .bin files, in a process of their own")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="a file with a network that SOURCE lacks: a text encoder, the autoencoder (may be repeated)",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="FILE[:0.8]",
    help="merge an adapter (LoRA and its kin) into the weights, this strongly (may be repeated)",
)
@click.option("--partial", is_flag=True, help="leave out of adapters what finds no place in the checkpoint")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def command(
    source: str,
    target: Path,
    layout: str,
    dtype: str | None,
    shard_size: str | None,
    family: str | None,
    variant: str | None,
    allow_pickle: bool,
    parts: tuple[Path, ...],
    adapters: tuple[str, ...],
    partial: bool,
    as_json: bool,
) -> None:
    """Write the checkpoint SOURCE to TARGET in another layout, bit for bit unless --dtype or --adapter is given.

    SOURCE is a file, a folder, or the name of a hub model in the local cache; TARGET must not exist.

    sfumato convert sd15 sd15-ink.safetensors --to original --adapter ink.safetensors:0.8
    """
    size = parse_size(shard_size) if shard_size is not None else None

    from sfumato.adapted import Given
    from sfumato.device import dtype_named
    from sfumato.families.convert import convert
    from sfumato.families.split import assembled
    from sfumato.families.split import opened as together
    from sfumato.merging import merge
    from sfumato.weights.hub import resolve

    with together(resolve(source), parts, variant=variant, allow_pickle=allow_pickle) as checkpoint:
        opened = assembled(checkpoint)
        chosen = dtype_named(dtype, "cpu") if dtype else None
        uses = Given(adapters=adapters, partial=partial).uses()
        if partial and not uses:
            raise InvalidRequest("--partial is about adapters: give one with --adapter, or leave it out")
        if uses:
            done = merge(
                opened,
                target,
                layout,
                uses,
                dtype=chosen,
                shard_bytes=size,
                family=family,
                allow_pickle=allow_pickle,
            )
        else:
            done = convert(opened, target, layout, dtype=chosen, shard_bytes=size, family=family)
    if as_json:
        click.echo(json.dumps({"path": str(done.path), "notes": list(done.notes)}))
        return
    click.echo(str(done.path))
    for note in done.notes:
        click.echo(f"note: {note}", err=True)


def parse_size(text: str) -> int:
    """Bytes in ``text``, such as 5GB or 500MiB; InvalidRequest if it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or unit is None or float(found[1]) * unit < 1:
        raise InvalidRequest(f"shard-size {text!r} is not understood; write it as 5GB or 500MB")
    return int(float(found[1]) * unit)
