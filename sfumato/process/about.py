"""What there is to know of each schedule and grid: its definition, options, source, and the peer it agrees with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sfumato.process.grid import SPACINGS
from sfumato.process.schedules import SCHEDULES
from sfumato.process.spec import options_of, write

NO_PEER = "none on PyPI; held to its definition"

SCHEDULE_SOURCES: dict[str, tuple[str, str]] = {
    "linear": ("Ho et al. 2020, section 4", "diffusers `linear`"),
    "scaled_linear": ("Rombach et al. 2022, released code", "diffusers `scaled_linear`"),
    "squared_cosine": ("Nichol & Dhariwal 2021, eq. 17", "diffusers `squaredcos_cap_v2`"),
    "sigmoid": ("Xu et al. 2022 (GeoDiff), released code", "diffusers `sigmoid`"),
    "cosine": ("Salimans & Ho 2022, section 3", "closed form"),
    "vp": ("Song et al. 2021b, eq. 33", "k-diffusion `get_sigmas_vp`"),
    "laplace": ("Hang et al. 2024, table 1", "diffusers' `laplace` squared (it takes alpha for alpha^2)"),
    "flow": ("Liu et al. 2022; Esser et al. 2024, eq. 23", "diffusers `FlowMatchEulerDiscreteScheduler`"),
    "exploding": ("Karras et al. 2022, table 1", "diffusers `EDMEulerScheduler`"),
    "edm": ("Karras et al. 2022, table 1", "diffusers `EDMEulerScheduler`"),
}
"""Of each schedule, its source and the peer that the tests hold it against."""

GRID_SOURCES: dict[str, tuple[str, str]] = {
    "linspace": ("Lin et al. 2024, table 2", "diffusers `DDIMScheduler`, `FlowMatchEulerDiscreteScheduler`"),
    "normal": ("ComfyUI", "k-diffusion's `DiscreteSchedule.get_sigmas`"),
    "leading": ("Lin et al. 2024, table 2", "diffusers `DDIMScheduler`"),
    "trailing": ("Lin et al. 2024, table 2", "diffusers `DDIMScheduler`"),
    "karras": ("Karras et al. 2022, eq. 5", "k-diffusion `get_sigmas_karras`; diffusers `use_karras_sigmas`"),
    "exponential": (
        "Lu et al. 2022a, section 3.4; k-diffusion",
        "k-diffusion `get_sigmas_exponential`; diffusers `use_exponential_sigmas`",
    ),
    "polyexponential": ("k-diffusion", "k-diffusion `get_sigmas_polyexponential`"),
    "beta": ("Lee et al. 2024, section 4", "scipy's quantiles; diffusers `use_beta_sigmas` is `over=ratio`"),
    "sgm_uniform": ("ComfyUI; Stability's generative-models", "diffusers `use_flow_sigmas` on a flow"),
    "simple": ("ComfyUI", NO_PEER),
    "ddim_uniform": ("ComfyUI", "`leading`, where both are defined"),
    "kl_optimal": ("Sabour et al. 2024, theorem 3.1", NO_PEER),
    "align_your_steps": ("Sabour et al. 2024, table 3", "diffusers `AysSchedules`"),
    "linear_quadratic": ("Polyak et al. 2024, section 3.4; Mochi", "diffusers' Mochi pipeline"),
    "shifted": (
        "Esser et al. 2024, eq. 23; LTX-Video",
        "diffusers `shift`, `use_dynamic_shifting`, `shift_terminal`",
    ),
    "even": (
        "released code of Qwen-Image, CogView4 and FLUX.2",
        "diffusers' pipelines of them, as they ask their scheduler",
    ),
    "trig": ("Lu & Song 2024; SANA-Sprint", "diffusers `SCMScheduler`"),
    "custom": ("", "diffusers `set_timesteps(sigmas=...)`, `(timesteps=...)`"),
}
"""Of each grid, its source and the peer that the tests hold it against."""


CITES: dict[str, tuple[str, ...]] = {
    "linear": ("ho2020ddpm",),
    "scaled_linear": ("rombach2022ldm",),
    "squared_cosine": ("nichol2021improved",),
    "sigmoid": ("xu2022geodiff",),
    "cosine": ("salimans2022progressive",),
    "vp": ("song2021sde",),
    "laplace": ("hang2024improved",),
    "flow": ("liu2022flow", "esser2024sd3"),
    "exploding": ("karras2022edm",),
    "edm": ("karras2022edm",),
    "linspace": ("lin2024flawed",),
    "trig": ("lu2024scm", "chen2025sprint"),
    "leading": ("lin2024flawed",),
    "trailing": ("lin2024flawed",),
    "karras": ("karras2022edm",),
    "exponential": ("lu2022dpm",),
    "beta": ("lee2024beta",),
    "kl_optimal": ("sabour2024ays",),
    "align_your_steps": ("sabour2024ays",),
    "linear_quadratic": ("polyak2024moviegen",),
    "shifted": ("esser2024sd3",),
}
"""Of each schedule and grid that comes from a paper, its keys in sfumato.references."""


def schedules() -> list[dict[str, str]]:
    """A row for each schedule: name, definition, options with their defaults, source, peer."""
    return _rows(SCHEDULES, SCHEDULE_SOURCES)


def grids() -> list[dict[str, str]]:
    """A row for each grid: name, definition, options with their defaults, source, peer."""
    return _rows(SPACINGS, GRID_SOURCES)


def table(rows: list[dict[str, str]]) -> str:
    """``rows`` as a table in Markdown, for docs/grids.md."""
    lines = ["| name | definition | source | held against |", "|---|---|---|---|"]
    for row in rows:
        options = f"; options `{row['options']}`" if row["options"] else ""
        cells = (
            f"`{row['name']}`",
            row["definition"].replace("|", "\\|") + options,
            row["source"],
            row["peer"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(
    functions: Mapping[str, Callable[..., Any]], sources: Mapping[str, tuple[str, str]]
) -> list[dict[str, str]]:
    rows = []
    for name, function in functions.items():
        first = (inspect.getdoc(function) or "").split("\n\n")[0]
        options = write("", options_of(function)).removeprefix("(").removesuffix(")")
        source, peer = sources[name]
        rows.append(
            {
                "name": name,
                "definition": " ".join(first.split()).replace("``", "`").rstrip("."),
                "options": options,
                "source": source,
                "peer": peer,
            }
        )
    return rows
