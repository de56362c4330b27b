"""docs/checkpoints.md beside the code: every number of its tables of process and latents, row by row."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.families import flows, stable
from sfumato.families.family import BESIDE, Family
from sfumato.families.marks import EDM_DATA, EDM_LEVELS, EDM_RANGE
from sfumato.families.published import FAMILIES
from sfumato.families.told import by_size
from sfumato.process.schedule import Flow
from sfumato.process.table import scaled_linear, zero_snr

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
PROCESS = {
    "Stable Diffusion 1": stable.SD1,
    "Stable Diffusion 2": stable.SD2,
    "Stable Diffusion XL": stable.SDXL,
    "refiner of XL": stable.REFINER,
    "x4 upscaler": stable.UPSCALER,
    "Stable Diffusion 3 medium": flows.SD3,
    "3.5 large": flows.SD35_LARGE,
    "3.5 medium": flows.SD35_MEDIUM,
    "FLUX.1 dev, Fill": flows.FLUX,
    "FLUX.1 Kontext": flows.KONTEXT,
    "FLUX.1 schnell": flows.SCHNELL,
}
LATENTS = {
    "SD 1, SD 2": (stable.SD1, stable.SD2),
    "XL, refiner": (stable.SDXL, stable.REFINER),
    "x4": (stable.UPSCALER,),
    "SD 3, 3.5": (flows.SD3, flows.SD35_LARGE, flows.SD35_MEDIUM),
    "FLUX.1": (flows.FLUX, flows.KONTEXT, flows.SCHNELL),
}
GRIDS = {"leading + 1": "leading", "`normal`": "normal", "`linspace`": "linspace"}
LEVELS = {"least level": "first", "zero": "zero"}
SAME = ("the same", "as XL", "as FLUX.1 dev")


def table(title: str) -> dict[str, dict[str, str]]:
    """The first table below a heading: cells by row and column; cells that refer to another row have its text."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    found: dict[str, dict[str, str]] = {}
    above = dict.fromkeys(head, "")
    for row in rows:
        if len(row) != len(head):
            break
        cells = dict(zip(head, row, strict=True))
        base = found["Stable Diffusion XL"] if "as XL" in row else above
        cells = {name: base[name] if cell in SAME else cell for name, cell in cells.items()}
        found[row[0]] = above = cells
    return found


def numbers(text: str) -> list[float]:
    """The numbers in ``text``."""
    return [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", text)]


@pytest.mark.parametrize("name", PROCESS)
def test_the_process_of_a_family_is_what_the_page_says(name: str) -> None:
    row, family = table("Process")[name], PROCESS[name]
    defaults = family.defaults
    grid, level = (part.strip() for part in re.sub(r"\([^)]*\)", "", row["grid, last level"]).rsplit(",", 1))
    assert (GRIDS[grid.strip()], LEVELS[level]) == (defaults.grid, defaults.final)
    sampler, steps = re.sub(r"\([^)]*\)", "", row["sampler, steps"]).split(",")
    assert (sampler.strip(), int(steps)) == (defaults.sampler, defaults.steps)
    assert numbers(row["guidance"])[-1] == defaults.guidance
    assert defaults.distilled == ("distilled" in row["guidance"])
    assert family.predicts in re.findall(r"\w+", row["predicts"])


@pytest.mark.parametrize("name", PROCESS)
def test_the_schedule_of_a_family_is_what_the_page_says(name: str) -> None:
    told, family = table("Process")[name]["schedule"], PROCESS[name]
    if "betas sqrt-linear" in told:
        first, last = numbers(told)[:2]
        wanted: Any = scaled_linear(first=first, last=last)
        for clock in (0, 1, 500, 999):
            assert family.schedule.level(clock) == wanted.level(clock)
        assert not family.by_size
    elif "by patches" in told:
        low_mu, low, high_mu, high = numbers(told)
        sized, own = by_size(int(low), low_mu, int(high), high_mu), by_size()
        assert family.by_size
        assert sized((16, 100, 90)) == own((16, 100, 90)) != own((16, 64, 64))
    elif "shift 3" in told:
        assert "shifted twice" in told
        assert family.schedule == flows.shifted_twice(3.0) == replace(Flow(3.0), t_min=3e-3 / 1.002)
    else:
        assert "no shift" in told
        assert family.schedule == Flow()
        assert not family.by_size


def test_rows_that_markers_choose_are_what_the_page_says() -> None:
    rows = table("Process")
    zero, edm = (next(row for name, row in rows.items() if mark in name) for mark in ("ztsnr", "edm_vpred"))
    assert "rescaled (Lin et al. 2024" in zero["schedule"]
    flat = zero_snr(scaled_linear())
    assert flat.level(999).alpha == 0 != scaled_linear().level(999).alpha
    assert tuple(numbers(edm["schedule"])[1:]) == EDM_LEVELS
    half = next(row for name, row in rows.items() if "edm_mean" in name)
    assert tuple(numbers(half["schedule"])[1:]) == EDM_RANGE
    assert numbers(half["predicts"])[1] == EDM_DATA["edm"] == 0.5
    assert numbers(table("Latents and sizes")["Playground 2.5"]["scale"]) == [EDM_DATA["edm"]]
    for row in (zero, edm):
        assert numbers(row["guidance"]) == [stable.SDXL.defaults.guidance]
        assert row["sampler, steps"] == stable.SDXL.defaults.sampler == "euler"


@pytest.mark.parametrize("name", LATENTS)
def test_latents_and_sizes_are_what_the_page_says(name: str) -> None:
    row = table("Latents and sizes")[name]
    for family in LATENTS[name]:
        assert numbers(row["scale"]) == [family.scale]
        assert numbers(row["shift"]) == [family.shift]
        assert numbers(row["channels"])[0] == family.latent
        assert numbers(row["size"])[0] == family.defaults.width == family.defaults.height
        assert numbers(row["sides"])[0] == family.defaults.multiple


def test_every_row_and_every_family_of_these_tables_is_looked_at() -> None:
    marked = {name for name in table("Process") if "`" in name}
    assert table("Process").keys() - marked == PROCESS.keys()
    assert table("Latents and sizes").keys() == LATENTS.keys() | {
        "tiny autoencoders (TAESD)",
        "Playground 2.5",
    }
    ours: list[Family] = [family for family in FAMILIES if family.name in NAMES]
    assert {id(family) for family in ours} == {id(family) for family in PROCESS.values()}
    assert BESIDE["flux", 96].guidance == 30.0


NAMES = ("sd1", "sd2", "sdxl", "x4", "sd3", "flux", "kontext")
"""The families of these tables; the page has others of their own."""
