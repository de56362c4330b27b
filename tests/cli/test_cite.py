"""``sfumato cite``: every choice leads to its papers, and the BibTeX can be read."""

from __future__ import annotations

import json
import re

import pytest

from sfumato.cli.cite import choices, named
from sfumato.cli.main import main
from sfumato.guidance import GUIDES
from sfumato.process.about import CITES
from sfumato.process.grid import SPACINGS
from sfumato.process.schedules import SCHEDULES
from sfumato.references import PAPERS, bibtex
from sfumato.samplers import SAMPLERS


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\S+),$", text, re.MULTILINE)


def test_every_cited_paper_is_there_and_every_paper_is_cited() -> None:
    tables = [*(s.cite for s in SAMPLERS.values()), *(g.cite for g in GUIDES.values()), *CITES.values()]
    cited = {key for found in tables for key in found}
    assert cited <= PAPERS.keys()
    assert set(CITES) <= {*SPACINGS, *SCHEDULES}


@pytest.mark.parametrize("key", PAPERS)
def test_an_entry_has_balanced_braces_and_all_its_fields(key: str) -> None:
    text = bibtex(key)
    assert keys(text) == [key]
    assert text.count("{") == text.count("}")
    for field in ("author", "title", "year"):
        assert re.search(rf"^  {field} = \{{.+\}},$", text, re.MULTILINE)
    assert re.search(r"eprint = \{\d{4}\.\d{4,5}\}|(journal|booktitle) = \{.+\}", text)


def test_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "generate", "a rocket", "--sampler", "unipc(order=3)", "--guide", "apg"]) == 0
    told = capsys.readouterr().out
    assert main(["cite", "sfumato", "generate", "x", "--sampler", "unipc(order=3)", "--guide", "apg"]) == 0
    assert capsys.readouterr().out == told
    wanted = {"sfumato", *SAMPLERS["unipc"].cite, *GUIDES["apg"].cite}
    assert wanted <= set(keys(told))
    assert "% sampler unipc" in told


def test_a_picture_and_names_and_json(tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from sfumato.picture.png import save_png
    from sfumato.picture.recipe import Recipe

    monkeypatch.chdir(tmp_path)
    recipe = Recipe("text2image", "emoji", "0" * 64, {"prompt": "x", "sampler": "heun", "grid": "karras"})
    save_png("x.png", np.zeros((4, 4, 3), np.uint8), recipe)
    assert main(["cite", "x.png", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"kind": "sampler", "name": "heun", "papers": ["karras2022edm"]} in told["uses"]
    assert told["papers"]["karras2022edm"]["year"] == 2022
    assert choices(["deis", "karras"]) == [named("deis"), named("karras")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to cite"),
        (["unipcc"], "unipc"),
        (["train"], "makes no pictures"),
        (["generate", "x", "--sampler", "q"], "unknown sampler"),
    ],
)
def test_what_cannot_be_cited_is_told(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cite", *words]) == 2
    assert told in capsys.readouterr().err
