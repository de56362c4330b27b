"""Guides as text, what does not go together, and the page that lists them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sfumato.cli.main import main
from sfumato.cli.tables import shown
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, SfumatoError, UnknownName
from sfumato.families.gaussian import mixture
from sfumato.guidance import GUIDES, OPTIONS, Guide, check, guide
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Flow
from sfumato.process.spec import options_of, write
from sfumato.references import PAPERS
from sfumato.samplers import SAMPLERS, sampler
from sfumato.tasks.text2image import Text2Image

PAGE = Path(__file__).parent.parent.parent / "docs" / "guidance.md"
PLAIN = {"cfgpp": 0.6}
"""A scale that each guide takes, 3 where nothing is said."""


@pytest.mark.parametrize("name", GUIDES)
def test_a_name_is_its_entry(name: str) -> None:
    assert guide(name) == GUIDES[name]
    assert GUIDES[name].name == name
    assert all(key in PAPERS for key in GUIDES[name].cite)


def test_every_option_is_told_of_and_every_default_is_allowed() -> None:
    used = {key for entry in GUIDES.values() for key in options_of(entry.make)}
    assert used == set(OPTIONS)
    for entry in GUIDES.values():
        options = options_of(entry.make)
        assert guide(write(entry.name, options)).given == options


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("cgf", UnknownName, "cfg"),
        ("", InvalidRequest, "name"),
        ("cfg(rescal=0.7)", UnknownName, "rescale"),
        ("cfgpp(rescale=0.7)", UnknownName, "option of 'cfgpp'"),
        ("cfg(rescale=1.5)", InvalidRequest, "0 to 1"),
        ("cfg(rescale=-0.1)", InvalidRequest, "0 to 1"),
        ("cfg(rescale=much)", InvalidRequest, "a number"),
        ("cfg(rescale=true)", InvalidRequest, "a number"),
        ("cfg(rescale=nan)", InvalidRequest, "finite"),
        ("cfg(lo=0.9, hi=0.1)", InvalidRequest, "lo <= hi"),
        ("cfg(threshold=2)", InvalidRequest, "0 to 1"),
        ("cfg(bound=0)", InvalidRequest, "and above"),
        ("apg(norm=-1)", InvalidRequest, "0 and above"),
        ("apg(momentum=1)", InvalidRequest, "-0.999"),
        ("zero_star(zero=1.5)", InvalidRequest, "a whole number"),
        ("zero_star(zero=-1)", InvalidRequest, "0 to 1000"),
        ("cfg(rescale=0.7", InvalidRequest, "name"),
        ("pag(layers=true)", InvalidRequest, "all, middle"),
        ("cfg(layers=all)", UnknownName, "option of 'cfg'"),
        ("slg(start=0.5, stop=0.2)", InvalidRequest, "above"),
        ("seg(blur=0)", InvalidRequest, "0.01 and above"),
    ],
)
def test_texts_that_are_refused(text: str, error: type[SfumatoError], word: str) -> None:
    with pytest.raises(error, match=re.escape(word)):
        guide(text)


@given(st.text(max_size=40))
@example("cfg(lo=1e999)")
@example("cfg(rescale=[1])")
@example("apg(eta=١)")
def test_any_text_is_a_guide_or_is_refused_with_a_sentence(text: str) -> None:
    try:
        found: Guide | str = guide(text)
    except InvalidRequest as error:
        found = str(error)
    assert isinstance(found, Guide) or 10 < len(found) < 400


def goes(text: str, by: str, scale: float = 3.0, steps: int = 20) -> bool:
    try:
        check(guide(text), sampler(by), scale=scale, steps=steps)
    except InvalidRequest:
        return False
    return True


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_goes_together_follows_from_what_is_known_of_the_sampler(name: str) -> None:
    entry = SAMPLERS[name]
    assert goes("cfg(rescale=0.5)", name)
    assert goes("cfgpp", name, 0.6) == entry.off_line
    assert goes("apg", name) == (entry.evaluations == 1)
    assert goes("apg(momentum=0)", name)
    assert goes("zero_star", name) == (not entry.stochastic)
    assert goes("zero_star(zero=0)", name)


@pytest.mark.parametrize("name", [s.name for s in SAMPLERS.values() if s.off_line])
def test_samplers_that_take_estimates_off_the_line_never_look_at_x(name: str) -> None:
    """What cfgpp needs: with the same estimates and draws, walks from different x end in one place.

    The grid ends at noise, as any sampler's last step, to none, forgets x.
    """
    grid = make_grid("linspace", steps=7, schedule=Flow())[:-1]

    async def denoise(x: complex, at: Level) -> Estimate:
        return Estimate(at, complex(math.sin(9 * at.t), at.t), complex(math.cos(7 * at.t), 1 - at.t))

    walk = SAMPLERS[name].walk
    ends = {run(walk(x, grid, denoise, lambda at, to, visit=0: 0.3 + at.t)) for x in (1j, 5.0 + 2j)}
    assert len(ends) == 1


def test_scales_and_steps_that_are_refused() -> None:
    assert not goes("cfgpp", "ddim", 1.5)
    assert not goes("cfg", "ddim", -1)
    assert not goes("cfg", "ddim", math.nan)
    assert not goes("zero_star(zero=4)", "euler", steps=4)
    assert goes("zero_star(zero=3)", "euler", steps=4)


@pytest.mark.parametrize(
    ("text", "by", "scale", "word"),
    [
        ("cfgpp", "heun", 0.5, "do not add up to x"),
        ("apg", "heun", 3.0, "apg(momentum=0)"),
        ("zero_star", "ddpm", 3.0, "zero_star(zero=0)"),
        ("cfgpp", "ddim", 7.5, "0 to 1"),
    ],
)
def test_a_refusal_says_why_and_what_would_do(text: str, by: str, scale: float, word: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(word)) as caught:
        check(guide(text), sampler(by), scale=scale, steps=10)
    assert "\n" not in str(caught.value)


def model() -> Any:
    shape = (3, 2, 2)
    means = torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))
    return mixture(means, 0.1 * torch.eye(12).expand(2, 12, 12), torch.ones(2), names=("a", "b"))


PLAINLY = [name for name, entry in GUIDES.items() if not entry.attends]
"""The ways that go without attention layers, of which a mixture in closed form has none."""


@pytest.mark.parametrize("text", [*PLAINLY, "cfg(rescale=0.7, lo=0.2, hi=0.8)", "apg(eta=0, norm=2)"])
def test_text2image_is_guided_as_asked_and_says_so(text: str) -> None:
    scale = PLAIN.get(guide(text).name, 3.0)
    task = Text2Image(prompt="a", guide=text, guidance=scale, sampler="euler", steps=6, count=2)
    made = run(task(model()))
    assert made.arguments[1]["guide"] == text
    again = run(Text2Image(**made.arguments[1])(model()))
    assert (again.pixels[0] == made.pixels[1]).all()


def test_a_recipe_without_a_guide_is_classifier_free_guidance() -> None:
    made = run(Text2Image(prompt="a", guidance=3.0, steps=6)(model()))
    assert made.arguments[0]["guide"] == "cfg"
    old = {name: value for name, value in made.arguments[0].items() if name != "guide"}
    assert (run(Text2Image(**old)(model())).pixels[0] == made.pixels[0]).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"guide": "cgf"},
        {"guide": "cfgpp", "guidance": 4.0},
        {"guide": "cfgpp", "guidance": 0.6, "sampler": "heun"},
        {"guide": "apg", "sampler": "heun"},
        {"guide": "zero_star", "steps": 1, "sampler": "euler"},
        {"guide": "pag"},
        {"guide": "seg(layers=[0])"},
    ],
)
def test_text2image_refuses_before_any_work(fields: dict[str, Any]) -> None:
    idle = model()
    object.__setattr__(idle, "conditioner", lambda prompts: pytest.fail("worked"))
    with pytest.raises(InvalidRequest):
        run(Text2Image(prompt="a", **fields)(idle))


def test_the_models_own_guide_is_the_default() -> None:
    other = model()
    object.__setattr__(other, "defaults", replace(other.defaults, guide="cfg(rescale=0.5)", guidance=3.0))
    assert run(Text2Image(prompt="a")(other)).arguments[0]["guide"] == "cfg(rescale=0.5)"


def test_the_command_lists_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guides", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(GUIDES)
    for row in rows:
        given = {name: option["default"] for name, option in row["options"].items()}
        assert given == options_of(GUIDES[row["name"]].make)
    assert main(["guides"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in GUIDES)


def test_layers_are_words_numbers_or_lists_and_must_be_there() -> None:
    for text in ("pag(layers=2)", "seg(layers=[0, 1])", "slg(layers=all)", "pag(layers=down)"):
        check(guide(text), sampler("ddim"), scale=1.0, steps=8, layers=("down", "middle", "up"))
    for text in ("pag(layers=3)", "pag(layers=[0, 0.5])", "seg(layers=double)", "slg(layers=[])"):
        with pytest.raises(InvalidRequest, match="1 down, 1 middle, 1 up"):
            check(guide(text), sampler("ddim"), scale=1.0, steps=8, layers=("down", "middle", "up"))
    with pytest.raises(InvalidRequest, match="has none that are told: use 'cfg'"):
        check(guide("pag"), sampler("ddim"), scale=3.0, steps=8, layers=())


def guides_table() -> str:
    """The page's first table, from GUIDES and SAMPLERS."""
    lines = ["| name | what it does | options | scale | samplers | source |", "|---|---|---|---|---|---|"]
    for entry in GUIDES.values():
        options = ", ".join(f"`{key}={shown(value)}`" for key, value in options_of(entry.make).items())
        which = "all"
        if entry.off_line:
            which = "that move along estimates (`off_line`)"
        if entry.memory:
            which = f"of one evaluation a step; all with `{entry.memory}=0`"
        if entry.stands:
            which = f"that draw no noise; all with `{entry.stands}=0`"
        if entry.attends:
            which = "all, where the network has attention"
        lines.append(
            f"| `{entry.name}` | {entry.does} | {options} | 0 to {entry.most:g} | {which} | {entry.reference} |"
        )
    return "\n".join(lines)


def options_table() -> str:
    """The page's second table, from OPTIONS."""
    lines = ["| option | what it does | values |", "|---|---|---|"]
    for name, entry in OPTIONS.items():
        lines.append(f"| `{name}` | {entry.does} | {entry.values} |")
    return "\n".join(lines)


def test_the_page_holds_the_tables_as_they_are() -> None:
    text = PAGE.read_text("utf-8")
    assert guides_table() in text, f"docs/guidance.md is stale; it should hold:\n{guides_table()}"
    assert options_table() in text, f"docs/guidance.md is stale; it should hold:\n{options_table()}"


@pytest.mark.parametrize(
    "name",
    [
        "classifier_free",
        "composed",
        "autoguidance",
        "classifier",
        "known",
        "clip",
        "dynamic_threshold",
        "rescaled",
        "interval",
    ],
)
def test_the_page_names_what_only_the_library_has(name: str) -> None:
    assert f"`{name}(" in PAGE.read_text("utf-8")
