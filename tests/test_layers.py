"""The rules of the house: who may import whom, what is light, how long a module is, what the documents name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sfumato"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCS = sorted((ROOT / "docs").glob("*.md"))

# What each part may import of sfumato, besides itself. Nobody may import cli; `sfumato` is the package itself.
VALUES = {"condition", "noise", "codec", "denoiser", "model"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ask": set(),
    "device": {"errors"},
    "files": {"errors"},
    "process": {"errors"},
    "papers": set(),
    "references": {"errors", "papers"},
    "samplers": {"errors", "process"},
    "manner": {"errors"},
    "guidance": {"errors", "manner", "process"},
    "nn": {"manner"},
    "weights": {"errors", "files"},
    "text": {"errors", "nn", "weights"},
    "adapters": {"errors", "files", "process", "nn", "weights"},
    "data": {"errors", "files"},
    "picture": {"errors", "files"},
    "condition": {"manner", "text"},
    "noise": {"errors", "process"},
    "codec": {"errors", "nn"},
    "denoiser": {"errors", "process", "condition"},
    "preview": {"codec"},
    "model": {"errors", "ask", "process", "text", "condition", "codec", "denoiser"},
    "families": {"errors", "files", "process", "nn", "text", "weights", *VALUES},
    "tasks": {"errors", "ask", "process", "samplers", "guidance", "text", "manner", "picture", *VALUES},
    "engine": {"errors", "ask", "process", "condition", "denoiser", "model"},
    "train": {"errors", "files", "device", "process", "nn", "weights", "data", *VALUES},
    "evaluate": {"errors", "files", "process", "nn", "weights", "data", "engine"},
}
MAY_IMPORT["adapted"] = {"errors", "adapters", "device", "model", "picture", "text"}
MAY_IMPORT["merging"] = {"errors", "adapters", "families", "weights"}
MAY_IMPORT["remaking"] = {"errors", "model", "picture"}
MAY_IMPORT["loaded"] = {"errors", "ask", "process", "adapted", "engine", "families", "model", "picture"}
MAY_IMPORT["loaded"] |= {"embedding", "preview", "tasks"}
MAY_IMPORT["embedding"] = {"errors", "adapted", "condition", "model", "tasks", "text", "weights"}
MAY_IMPORT["sampling"] = {"errors", "process", "samplers", "noise", "engine"}
BELOW = set(MAY_IMPORT)
MAY_IMPORT["recipes"] = set(BELOW)
MAY_IMPORT["api"] = {*BELOW, "recipes"}
MAY_IMPORT["augment"] = {"errors", "files", "data", "picture", "tasks", "loaded"}
MAY_IMPORT["__init__"] = {*BELOW, "api"}
MAY_IMPORT["cli"] = {*BELOW, "recipes", "api", "augment", "sfumato"}
MAY_IMPORT["__main__"] = {"cli"}

# What each part may import of others, besides the standard library; parts not named may use what is declared.
OTHERS: dict[str, set[str]] = {
    "errors": set(),
    "ask": set(),
    "device": {"torch"},
    "papers": set(),
    "references": set(),
    "files": set(),
    "process": set(),
    "samplers": set(),
    "guidance": {"torch"},
    "nn": {"torch"},
    "tasks": {"torch", "numpy", "pydantic", "annotated_types"},
    "engine": {"torch"},
    "cli": {"click", "rich", "torch"},
}
# Distributions whose import name differs, and imports that a declared distribution always brings.
IMPORT_NAMES = {"pillow": {"PIL"}, "pydantic": {"pydantic", "annotated_types"}}

LONGEST = 450


def part(path: Path) -> str:
    """The part of sfumato that a file belongs to: its top folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that ``path`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the full name"
            module = node.module or ""
            if module == "sfumato":
                yield from (f"sfumato.{alias.name}" for alias in node.names)
            else:
                yield module


def declared() -> set[str]:
    """Import names of all distributions that pyproject.toml names, at run time or for an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    wanted = [*project["dependencies"], *(line for lines in extras for line in lines)]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in wanted}
    return {found for name in names for found in IMPORT_NAMES.get(name, {name.replace("-", "_")})}


def tracked() -> list[Path]:
    """The text files of the repository: what git tracks, or everything where there is no git."""
    try:
        out = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        files = [ROOT / name for name in out.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    kinds = {".py", ".md", ".toml", ".txt", ".cpp", ".yml", ".yaml", ".json", ""}
    return [f for f in files if f.suffix in kinds and f.exists()]


def run_python(code: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    me = part(path)
    assert me in MAY_IMPORT, f"{me} has no row in the table: decide what it may import"
    own = {name.split(".")[1] if "." in name else "sfumato" for name in imports(path) if is_ours(name)}
    assert own - {me} <= MAY_IMPORT[me], f"{me} may not import {sorted(own - {me} - MAY_IMPORT[me])}"
    other = {name.split(".")[0] for name in imports(path) if not is_ours(name)} - sys.stdlib_module_names
    allowed = OTHERS.get(me, declared())
    assert other <= allowed, f"{me} may not import {sorted(other - allowed)}"


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "sfumato"


def test_the_table_has_no_circle_and_no_row_for_a_part_that_is_gone() -> None:
    assert set(MAY_IMPORT) == {part(path) for path in MODULES}
    left = {me: {below for below in wanted if below != "sfumato"} for me, wanted in MAY_IMPORT.items()}
    while left:
        free = [me for me, wanted in left.items() if not wanted & left.keys()]
        assert free, f"these parts import each other in a circle: {sorted(left)}"
        for me in free:
            del left[me]


def test_import_and_help_load_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "pydantic", "tokenizers", "safetensors", "rich")
    say = f"print([m for m in {heavy!r} if m in sys.modules])"
    assert run_python(f"import sys, sfumato; {say}").strip() == "[]"
    shown = run_python(f"import sys\nfrom sfumato.cli.main import main\nassert main(['--help']) == 0\n{say}")
    assert shown.splitlines()[-1] == "[]"
    assert "generate" in shown


def test_public_names_are_sorted_and_exist() -> None:
    import sfumato

    assert list(sfumato.__all__) == sorted(sfumato.__all__)
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_is_short(path: Path) -> None:
    text = path.read_text("utf-8")
    told = ast.get_docstring(ast.parse(text)) or ""
    assert len(told.split()) >= 3, "the file has no docstring that says what it is"
    assert "TODO" not in text
    assert len(text.splitlines()) <= LONGEST


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    # Written in pieces, so that this file does not find itself.
    places = [re.escape("/" + name + "/") for name in ("work", "opt", "root", "home")]
    pattern = re.compile(rf"(?<![\w.\]}}$])(?:{'|'.join(places)})\w")
    faults = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not faults, "\n".join(faults)


def test_documents_name_every_sampler_grid_command_recipe_and_error() -> None:
    from sfumato import errors
    from sfumato.cli.main import COMMANDS
    from sfumato.process.grid import SPACINGS
    from sfumato.process.prediction import PREDICTIONS
    from sfumato.recipes.recipe import RECIPES
    from sfumato.samplers import SAMPLERS

    text = "\n".join(path.read_text("utf-8") for path in [ROOT / "README.md", *DOCS])
    raised = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    wanted = [f"`{name}`" for name in (*SAMPLERS, *SPACINGS, *PREDICTIONS, *RECIPES, *raised)]
    wanted += [f"sfumato {name}" for name in COMMANDS]
    assert [name for name in wanted if name not in text] == []


def test_documents_name_every_part_and_every_direct_dependency() -> None:
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    files = [str(path.relative_to(PACKAGE)) for path in MODULES if path.name != "__init__.py"]
    assert [name for name in files if Path(name).name not in design] == []
    dependencies = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[^\w.-]", line)[0] for line in lines}
    assert sorted(name for name in names if f"`{name}`" not in dependencies) == []


def test_every_direct_dependency_is_pinned_once_and_torchvision_never() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    names = [name for name, _ in pins]
    assert len(names) == len(set(names))
    assert dict(pins)["torch"] == "2.13.0"
    assert "torchvision" not in names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    wanted = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    assert sorted(wanted - set(names)) == []


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8"))
    local = [t for t in targets if "://" not in t and t != "docs/sheet.png"]
    assert [t for t in local if not (path.parent / t).exists()] == []
