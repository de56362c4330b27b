"""``sfumato evaluate``: how far pictures are from real ones, and whether they show what was asked for."""

from __future__ import annotations

import json
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
