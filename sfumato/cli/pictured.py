"""What ``sfumato inspect`` says of a picture: its recipe, or the text that another program left in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sfumato.errors import DataError
from sfumato.picture.infotext import parse_infotext
from sfumato.picture.png import read_infotext, read_recipe


def about(path: Path) -> dict[str, Any]:
    """The recipe in the picture at ``path``, under ``recipe``; else A1111's text, taken apart, under ``infotext``.

    DataError if there is neither, or the file is damaged; InvalidRequest if there is no such file.
    """
    try:
        return {"path": str(path), "recipe": json.loads(read_recipe(path).to_json())}
    except DataError:
        text = read_infotext(path)
        if text is None:
            raise
    found = parse_infotext(text)
    told = {"prompt": found.prompt, "negative": found.negative, "fields": dict(found.fields)}
    return {"path": str(path), "infotext": told}


def lines(told: dict[str, Any]) -> list[str]:
    """``told`` for a person."""
    name = Path(told["path"]).name
    if "infotext" in told:
        text = told["infotext"]
        rows = {"prompt": text["prompt"], "negative": text["negative"], **text["fields"]}
        return [f"{name}: made by another program, which says", *_rows(rows)]
    recipe = told["recipe"]
    made = [f"{name}: {recipe['task']} by {recipe['model']} ({recipe['model_hash'][:12]}...)"]
    return [*made, *_rows(recipe["arguments"]), "", *_rows(recipe["versions"])]


def _rows(values: dict[str, Any]) -> list[str]:
    kept = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    wide = max(map(len, kept), default=0)
    return [
        f"  {key:{wide}}  {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in kept.items()
    ]
