"""docs/samplers.md, measured: ``python -m tests.samplers.page`` writes it (about two minutes of one core).

Everything in it is what the tests hold, by the same functions: orders on the closed-form Gaussian, laws of stochastic
samplers, and the largest difference that the tests against each peer print.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule
from sfumato.process.spec import options_of
from sfumato.samplers import SAMPLERS, Sampler, sampler
from tests.laws import test_laws_order as ode
from tests.laws import test_laws_samples as samples
from tests.samplers import peers_ode, peers_sde
from tests.samplers import test_samplers_sde_law as sde

PAGE = Path(__file__).parent.parent.parent / "docs" / "samplers.md"
PROCESSES: dict[str, Schedule] = {"VP": Cosine(), "VE": Exploding(), "flow": Flow()}
FIT = {"euler_maruyama": (160, 320, 640)}

HEAD = """# Samplers

This page is made by `python -m tests.samplers.page`; a test holds its first table against the code.
`sfumato samplers --json` lists them as JSON, `sfumato cite NAME` prints the papers.

A sampler is a coroutine `walk(x, grid, denoise, fresh)` in `sfumato/samplers/`; options are written
`name(option=value)`. Alpha and sigma are the model's own: every sampler begins at pure noise (alpha = 0) where a flow
or a zero-terminal schedule does, takes one step as well as many, and ends at any level.

## What they are

*Order*: of the error in the step of log(alpha / sigma); of the error of the law where the sampler draws noise. Few-step
samplers (`lcm`, `tcd`, `consistency`) are for distilled networks and have none; `pc` has none because its corrections
leave a bias that more steps do not take away. *Off line*: takes estimates whose ends do not add up to x, as CFG++
gives them.

"""
ORDERS = """
## Measured orders

Slope of log2(error) over doublings of the steps, on the closed-form Gaussian N(0.8, 0.09), between two
levels with alpha / sigma from 0.2 to 9 by steps even in log(alpha / sigma), in float64. Deterministic samplers: the end
of one trajectory; those of order above 2 begin with an exact history, because a first step of first order would limit
them to 2. Stochastic samplers: the variance of the law, which is known without sampling because a walk is linear in its
draws (its mean is exact to 1e-12). The tests hold every figure within 0.15 of the order; *whole walk* is not held, only
shown: from pure noise at alpha = 0 to no noise on the grid `linspace`, where lambda is infinite at both ends.

"""
LAWS = """
## Laws by sampling

100,000 samples of a mixture of two Gaussians (means -1 and 1), from its exact law at alpha / sigma = 0.1 to 25 on a
flow: the distance of mean and variance from the truth in standard errors, with steps so many that the error of the law
itself is less than one. The tests use fewer steps, take the error of the sampler's order off by doubling them, and
allow 3. `euler_ancestral` is `ddpm` draw for draw.

"""
PEERS = """
## Peers

Whole trajectories against the same-named scheduler of diffusers and function of k-diffusion, given the same network,
levels and noise: the largest relative difference of the ends, as measured while this page was made. Where a peer means
something else the note says what; the reason and the proof stand in the tests of the folder `tests/samplers`.

"""
FEW = """
## Few-step samplers

`lcm`, `tcd` and `consistency` with the exact flow map of the closed form for a network keep its law to 1e-12 in 1, 2, 4
and 9 steps on all processes (`test_samplers_sde_law.py`). `pc`'s correction is a Langevin step whose size is an option;
its law is that of the level but for the step's error (same file).
"""


def main() -> None:
    """Measure and write the page."""
    text = (
        HEAD
        + table_of_samplers()
        + ORDERS
        + table_of_orders()
        + LAWS
        + table_of_laws()
        + FEW
        + PEERS
        + table_of_peers()
    )
    stamp = f"\nMeasured {datetime.now(UTC):%Y-%m-%d} with torch on a CPU in float64.\n"
    PAGE.write_text(text + stamp, encoding="utf-8")
    print(PAGE)


def table_of_samplers() -> str:
    """What the code says of each sampler, as a table."""
    rows = [
        "| sampler | also called | order | evaluations a step | noise | off line | options | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in SAMPLERS.values():
        options = ", ".join(f"`{k}={shown(v)}`" for k, v in options_of(s.walk).items())
        aliases = ", ".join(f"`{a}`" for a in s.aliases)
        asks = "its own" if s.evaluations is None else str(s.evaluations)
        rows.append(
            f"| `{s.name}` | {aliases} | {s.order or 'none'} | {asks} | {'fresh' if s.stochastic else 'none'} | "
            f"{'yes' if s.off_line else ''} | {options} | {s.reference} |"
        )
    return "\n".join(rows) + "\n"


def shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_of_orders() -> str:
    rows = [
        "| sampler | order | VP (cosine) | VE (EDM) | flow | whole walk, VP | whole walk, flow |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in SAMPLERS.values():
        if not s.order:
            continue
        found = [order_of(s, schedule) for schedule in PROCESSES.values()]
        whole = [whole_walk(s, schedule) for schedule in (Cosine(), Flow())]
        rows.append(f"| `{s.name}` | {s.order} | {' | '.join([*found, *whole])} |")
    return "\n".join(rows) + "\n"


def order_of(s: Sampler, schedule: Schedule) -> str:
    """The measured order between two levels, or why there is none."""
    try:
        slope = (
            sde.slope(law_errors(s, schedule)) if s.stochastic else ode.slope(trajectory_errors(s, schedule))
        )
    except InvalidRequest:
        return "refused"
    return f"{slope:.2f}"


def trajectory_errors(s: Sampler, schedule: Schedule) -> list[float]:
    if s.by_row:
        first, last = ode.even(schedule, 1)
        walks = [
            sampler(f"{s.name}(h_init={(ode.TO - ode.FROM) / n!r}, icoeff=0)").walk(
                ode.truth(first), [first, last], ode.exact, ode.never
            )
            for n in (16, 32, 64)
        ]
        return [abs(run(walk) - ode.truth(last)) for walk in walks]
    errors = []
    for steps in (256, 512, 1024) if s.name in ode.FROM_PAST else ode.STEPS:
        grid = ode.even(schedule, steps)
        begin = ode.truth(grid[0])
        if s.name in ode.FROM_PAST:
            count, walk = ode.FROM_PAST[s.name]
            end = run(walk(ode.history(schedule, steps, count))(begin, grid))
        else:
            end = run(s.walk(begin, grid, ode.exact, ode.never))
        errors.append(abs(end - ode.truth(grid[-1])))
    return errors


def law_errors(s: Sampler, schedule: Schedule) -> list[float]:
    errors = []
    for steps in (256, 512, 1024) if s.name == "dpmpp_2m_sde" else FIT.get(s.name, (64, 128, 256)):
        grid = sde.even(schedule, steps)
        _, variance = sde.law(sde.walk_of(s.name), grid, 3 * steps, sde.posterior)
        errors.append(abs(variance - sde.spread(grid[-1])))
    return errors


def whole_walk(s: Sampler, schedule: Schedule) -> str:
    """The slope from alpha = 0 to sigma = 0 on the grid linspace, 32 to 256 steps."""
    if s.by_row:
        return "its own steps"
    errors = []
    try:
        for steps in (32, 64, 128, 256):
            grid = make_grid("linspace", steps=steps, schedule=schedule)
            errors.append(end_error(s, grid, steps))
    except InvalidRequest:
        return "refused"
    return f"{ode.slope(errors):.2f}" if min(errors) > 1e-13 else "exact"


def end_error(s: Sampler, grid: tuple[Level, ...], steps: int) -> float:
    if s.stochastic:
        _, variance = sde.law(sde.walk_of(s.name), grid, 3 * steps, sde.posterior)
        return abs(math.sqrt(variance) - math.sqrt(sde.VARIANCE))
    return abs(run(s.walk(ode.truth(grid[0]), grid, ode.exact, ode.never)) - ode.truth(grid[-1]))


def table_of_laws() -> str:
    """How far mean and variance of a hundred thousand samples are from the truth, in standard errors."""
    rows = ["| sampler | steps | mean | variance |", "|---|---|---|---|"]
    for name in samples.TRIED:
        text, steps = samples.WRITTEN.get(name, name), 160 if SAMPLERS[name].order == 2 else 1920
        away = [f"{(found - true) / error:+.2f}" for found, true, error in samples.moments(text, steps)[:2]]
        rows.append(f"| `{text}` | {steps} | {' | '.join(away)} |")
    return "\n".join(rows) + "\n"


def table_of_peers() -> str:
    """The measured differences, from what the tests against peers print."""
    measured = differences()
    rows = ["| sampler | peer | difference | allowed | note |", "|---|---|---|---|---|"]
    for name in [*SAMPLERS, "invert"]:
        stochastic = [
            (p, peers_sde.SLACK * figure, note) for p, figure, note in peers_sde.PEERS.get(name, [])
        ]
        found = [*peers_ode.PEERS.get(name, []), *stochastic]
        if not found:
            why = peers_ode.NO_PEER.get(name, "no package on PyPI has it")
            rows.append(f"| `{name}` | none | | | {why} |")
        for peer, bound, note in found:
            figure = measured.get((name, peer))
            rows.append(
                f"| `{name}` | {peer} | {'' if figure is None else f'{figure:.0e}'} | {bound:.0e} | {note} |"
            )
    return "\n".join(rows) + "\n"


def differences() -> dict[tuple[str, str], float]:
    here = Path(__file__).parent
    files = sorted(str(p) for p in here.glob("test_samplers_*.py") if p.name != "test_samplers_page.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:xdist", *files],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[tuple[str, str], float] = {}
    for name, peer, figure in re.findall(r"PEER (\S+) \| (.+?) \| (\S+)", done.stdout):
        found[name, peer] = max(found.get((name, peer), 0.0), float(figure))
    return found


if __name__ == "__main__":
    main()
