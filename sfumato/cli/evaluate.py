"""``sfumato evaluate``: how far pictures are from real ones, and whether they show what was asked for."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

_path = click.Path(path_type=Path)
_corpus = click.option(
    "--corpus", type=_path, required=True, help="the pictures learned from: tar, folder or IDX"
)
_json = click.option("--json", "as_json", is_flag=True, help="print one JSON object instead of text")


@click.group()
def app() -> None:
    """Score pictures, and test blind what they show."""


@app.command()
@_corpus
@click.option("--pictures", type=_path, help="folder of pictures to score (default: real pictures)")
@click.option("--split", default="test_style", show_default=True, help="split of the corpus to score against")
@click.option("--seed", type=int, default=0, show_default=True, help="draws which pictures count")
@_json
def score(corpus: Path, pictures: Path | None, split: str, seed: int, as_json: bool) -> None:
    """Print KID and FD-EffNetLite0 of a folder of pictures, and those of real pictures at the same n."""
    from sfumato.data.pictures import open_pictures
    from sfumato.evaluate.features import load_lite0
    from sfumato.evaluate.score import picture_files
    from sfumato.evaluate.score import score as score_pictures

    files = None if pictures is None else picture_files(pictures)
    found = score_pictures(files, open_pictures(corpus), split, model=load_lite0(), seed=seed)
    click.echo(json.dumps(asdict(found)) if as_json else str(found))


@app.command()
@_corpus
@click.option("--pictures", type=_path, required=True, help="folder of 00.png, 01.png, ..., one a prompt")
@click.option("--prompts", type=_path, required=True, help="text file, one prompt a line")
@click.option("--out", type=_path, required=True, help="folder to write blind/ and key.json into")
@click.option("--seed", type=int, default=0, show_default=True, help="draws the order and the wrong labels")
def judge_make(corpus: Path, pictures: Path, prompts: Path, out: Path, seed: int) -> None:
    """Write the blind sheet and, beside it, its key; print which label each prompt means."""
    from sfumato.data.pictures import open_pictures
    from sfumato.evaluate.judge import make_sheet

    for question in make_sheet(pictures, prompts, open_pictures(corpus).records, out, seed):
        click.echo(f"{question.prompt}: {question.label}")


@app.command()
@click.option("--key", type=_path, required=True, help="key.json of the sheet")
@click.option("--answers", type=_path, required=True, help='JSON object: {"A": "label", ...}')
@_json
def judge_score(key: Path, answers: Path, as_json: bool) -> None:
    """Print which answers are right, and how many."""
    from sfumato.evaluate.judge import read_answers, read_key, score_answers

    result = score_answers(read_key(key), read_answers(answers))
    click.echo(json.dumps(asdict(result), ensure_ascii=False) if as_json else str(result))


@app.command()
@click.option("--prompts", type=_path, help="text file, one prompt a line")
@click.option("--corpus", type=_path, help="instead of prompts: the captions of --split of these pictures")
@click.option("--split", default="test_style", show_default=True, help="which split of the corpus")
@click.option("--most", type=int, default=100_000, help="at most so many pictures")
@click.option(
    "--out",
    type=_path,
    required=True,
    help="folder to write 00.png, 01.png, ... into; OUT-sheet.png beside it",
)
@click.option("--model", default="emoji", show_default=True, help="which model")
@click.option("--seed", type=int, default=0, show_default=True, help="the seed of every picture")
@_json
def draw(
    prompts: Path | None,
    corpus: Path | None,
    split: str,
    most: int,
    out: Path,
    model: str,
    seed: int,
    as_json: bool,
) -> None:
    """Make one picture of every prompt with the default settings, without picking; also as one sheet."""
    from rich.console import Console
    from rich.progress import Progress

    from sfumato import api
    from sfumato.errors import DataError, InvalidRequest
    from sfumato.evaluate.judge import read_prompts
    from sfumato.picture.png import save_png
    from sfumato.picture.sheet import contact_sheet

    if (prompts is None) == (corpus is None):
        raise InvalidRequest("give --prompts or --corpus, and not both")
    wanted = read_prompts(prompts) if prompts is not None else captions_of(corpus, split)
    wanted = wanted[:most]
    if not wanted:
        raise DataError(f"there are no prompts: {prompts or corpus} holds none")
    loaded = api.load(model)
    out.mkdir(parents=True, exist_ok=True)
    digits, pixels, seconds = max(2, len(str(len(wanted) - 1))), [], 0.0
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for k, prompt in enumerate(bar.track(wanted, description="drawing")):
            began = time.perf_counter()
            picture = loaded(prompt, seed=seed).images[0]
            seconds += time.perf_counter() - began
            picture.save(out / f"{k:0{digits}d}.png")
            pixels.append(picture.pixels)
    shown = pixels[:64]
    save_png(out.with_name(f"{out.name}-sheet.png"), contact_sheet(shown, wanted[: len(shown)], columns=5))
    facts = {"pictures": len(pixels), "seconds_each": round(seconds / len(pixels), 3), "folder": str(out)}
    click.echo(
        json.dumps(facts) if as_json else f"{len(pixels)} pictures in {out}, {facts['seconds_each']} s each"
    )


def captions_of(corpus: Path | None, split: str) -> list[str]:
    """``label, style style`` of every picture of ``split``."""
    from sfumato.data.pictures import open_pictures

    assert corpus is not None
    records = [r for r in open_pictures(corpus).records if r.split == split]
    return [f"{r.label}, {r.style} style" if r.style else r.label for r in records]
