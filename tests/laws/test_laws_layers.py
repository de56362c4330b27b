"""L10, for the mathematics: what process, samplers and guidance may import, and the table of samplers as data."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path

import pytest

import sfumato
from sfumato.errors import UnknownName
from sfumato.references import PAPERS
from sfumato.samplers import SAMPLERS, sampler

ROOT = Path(sfumato.__file__).parent
ALLOWED = {
    "process": {"sfumato.errors", "sfumato.process"},
    "samplers": {"sfumato.errors", "sfumato.process", "sfumato.samplers"},
}


def imported(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(str(node.module))
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_the_mathematics_needs_the_standard_library_alone(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            inside = any(name == own or name.startswith(own + ".") for own in ALLOWED[package])
            assert inside or name.split(".")[0] in sys.stdlib_module_names, f"{file.name} imports {name}"


def test_the_table_of_samplers_is_data() -> None:
    facts = {
        "name",
        "aliases",
        "order",
        "evaluations",
        "stochastic",
        "reference",
        "cite",
        "off_line",
        "by_row",
    }
    for key, entry in SAMPLERS.items():
        row = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name != "walk"}
        assert row.keys() == facts
        assert json.loads(json.dumps(row))["name"] == key == entry.name
        assert entry.cite, "a sampler comes from somewhere"
        assert set(entry.cite) <= set(PAPERS)


def test_names_and_aliases_lead_to_one_sampler_each() -> None:
    names = [name for entry in SAMPLERS.values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in SAMPLERS.values():
        for name in (entry.name, *entry.aliases):
            assert sampler(name) is entry
    with pytest.raises(UnknownName, match="heun"):
        sampler("huen")
