"""Each grid against a peer: diffusers' schedulers, k-diffusion's functions, published tables; or its own definition."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.grid import SPACINGS, make_grid
from sfumato.process.level import CLEAN
from sfumato.process.schedules import Cosine, Exploding, Flow, Table, schedule, shift_for
from sfumato.process.spacing_sigma import ALIGNED
from tests.peers.diffusers_functions import linear_quadratic_schedule
from tests.peers.kdiffusion import sampling

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLE = schedule("scaled_linear")
EDM = Exploding()


def ratios(text: str, made, steps: int | None) -> list[float]:
    return [level.ratio for level in make_grid(text, steps=steps, schedule=made)]


def euler(**options):
    return diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="linspace", **options)


# k-diffusion


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("karras", lambda n, low, high: sampling.get_sigmas_karras(n, low, high)),
        ("karras(rho=3)", lambda n, low, high: sampling.get_sigmas_karras(n, low, high, 3.0)),
        ("exponential", lambda n, low, high: sampling.get_sigmas_exponential(n, low, high)),
        ("polyexponential", lambda n, low, high: sampling.get_sigmas_polyexponential(n, low, high)),
        (
            "polyexponential(rho=2.5)",
            lambda n, low, high: sampling.get_sigmas_polyexponential(n, low, high, 2.5),
        ),
    ],
)
def test_spacings_in_sigma_are_k_diffusions(text: str, peer, steps: int) -> None:
    for made in (EDM, TABLE, Cosine(t_max=0.99), Flow(t_max=0.98), schedule("vp"), Exploding(0.002, 700)):
        low, high = (made.level(t).ratio for t in (made.t_min, made.t_max))
        np.testing.assert_allclose(ratios(text, made, steps), peer(steps, low, high), rtol=3e-5)


@pytest.mark.parametrize("steps", [1, 2, 9, 50])
def test_normal_is_k_diffusions(steps: int) -> None:
    external = importlib.import_module("k_diffusion.external")
    sigmas = torch.tensor([TABLE.level(i).ratio for i in range(1000)], dtype=torch.float64)
    peer = external.DiscreteSchedule(sigmas, quantize=False).get_sigmas(steps)
    np.testing.assert_allclose(ratios("normal", TABLE, steps), peer, rtol=1e-5)


# diffusers


@pytest.mark.parametrize("steps", [2, 8, 30])
@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("karras", "use_karras_sigmas"),
        ("exponential", "use_exponential_sigmas"),
        ("beta(over=ratio)", "use_beta_sigmas"),
    ],
)
def test_sigmas_of_a_table_are_diffusers(text: str, option: str, steps: int) -> None:
    peer = euler(**{option: True})
    peer.set_timesteps(steps)
    grid = make_grid(text, steps=steps, schedule=TABLE)
    np.testing.assert_allclose([at.ratio for at in grid], peer.sigmas, rtol=2e-5)
    np.testing.assert_allclose([at.t for at in grid[:-1]], peer.timesteps, atol=0.02)


@pytest.mark.parametrize("steps", [2, 8, 30])
@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_sigmas_of_a_flow_are_diffusers(name: str, steps: int) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(**{f"use_{name}_sigmas": True})
    peer.set_timesteps(steps)
    grid = make_grid(f"{name}(over=sigma)", steps=steps, schedule=Flow())
    np.testing.assert_allclose([at.sigma for at in grid], peer.sigmas, rtol=1e-5)
    np.testing.assert_allclose([1000 * at.t for at in grid[:-1]], peer.timesteps, rtol=1e-5)


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_indices_of_a_multistep_solver_are_diffusers(spacing: str, final) -> None:
    peer = diffusers.DPMSolverMultistepScheduler(
        **SD,
        timestep_spacing=spacing,
        steps_offset=1,
        final_sigmas_type="zero" if final == "zero" else "sigma_min",
    )
    for steps in (5, 20, 37):
        peer.set_timesteps(steps)
        if spacing == "leading":  # theirs here: as DDIM's for a step more, without its last
            levels = make_grid("leading", steps=steps + 1, schedule=TABLE, final=final)
            grid = (*levels[:-2], levels[-1])
        else:
            grid = make_grid(spacing, steps=steps, schedule=TABLE, final=final)
        np.testing.assert_allclose([at.ratio for at in grid], peer.sigmas, rtol=3e-5)
        assert [at.t for at in grid[:-1]] == peer.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 333, 998])
@pytest.mark.parametrize(
    "kind", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"]
)
@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("linspace(drop=true)", {"timestep_spacing": "linspace"}),
        ("leading(drop=true)", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("leading(drop=true, offset=0)", {"timestep_spacing": "leading"}),
    ],
)
def test_one_step_more_of_which_the_lowest_is_left_out(text: str, options, kind: str, steps: int) -> None:
    """With 999 and an offset theirs leave the table, which ours does not."""
    peer = getattr(diffusers, kind)(**SD, **options)
    peer.set_timesteps(steps)
    made = make_grid(text, steps=steps, schedule=TABLE)
    assert [at.t for at in made[:-1]] == peer.timesteps.tolist()


@pytest.mark.parametrize("zero", [False, True])
def test_trailing_on_zero_snr_is_diffusers(zero: bool) -> None:
    peer = diffusers.DDIMScheduler(**SD, timestep_spacing="trailing", rescale_betas_zero_snr=zero)
    peer.set_timesteps(10)
    made = schedule(f"scaled_linear(zero_snr={'true' if zero else 'false'})")
    grid = make_grid("trailing", steps=10, schedule=made)
    assert [at.t for at in grid[:-1]] == peer.timesteps.tolist()
    signal = peer.alphas_cumprod[peer.timesteps].double().sqrt()
    np.testing.assert_allclose([at.alpha for at in grid[:-1]], signal, rtol=1e-4, atol=1e-6)
    assert (grid[0].alpha == 0) is zero


def test_edm_is_diffusers() -> None:
    peer = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    peer.set_timesteps(18)
    np.testing.assert_allclose(ratios("karras", EDM, 18), peer.sigmas, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_flow_sigmas_of_a_solver_are_sgm_uniform(steps: int, shift: float) -> None:
    peer = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    peer.set_timesteps(steps)
    grid = make_grid("sgm_uniform", steps=steps, schedule=Flow(shift))
    np.testing.assert_allclose(
        [at.sigma for at in grid], peer.sigmas, rtol=1e-6, atol=2e-6
    )  # theirs: 1 - 1e-6


@pytest.mark.parametrize("steps", [2, 8, 50])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("terminal", [0.0, 0.1])
def test_shifts_are_diffusers(steps: int, tokens: int, terminal: float) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=terminal or None
    )
    peer.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist(), mu=math.log(shift_for(tokens)))
    grid = make_grid(f"shifted(tokens={tokens}, terminal={terminal})", steps=steps, schedule=Flow())
    np.testing.assert_allclose([at.sigma for at in grid], peer.sigmas, rtol=1e-5)
    assert grid[0][1:] == (0.0, 1.0)
    if terminal:
        assert grid[-2].sigma == pytest.approx(0.1)


@pytest.mark.parametrize(("steps", "even"), [(2, 0), (9, 0), (64, 0), (64, 20), (30, 25)])
def test_linear_quadratic_is_diffusers(steps: int, even: int) -> None:
    peer = linear_quadratic_schedule(steps, 0.025, even or None)
    grid = make_grid(f"linear_quadratic(linear_steps={even})", steps=steps, schedule=Flow())
    np.testing.assert_allclose([at.sigma for at in grid[:-1]], peer, rtol=1e-12)


def test_linear_quadratic_is_one_smooth_curve() -> None:
    x = 1 - np.array([at.sigma for at in make_grid("linear_quadratic", steps=40, schedule=Flow())])
    np.testing.assert_allclose(x[:21], np.linspace(0, 0.025, 21), atol=1e-15)
    bends = np.diff(x, 2)
    np.testing.assert_allclose(bends[20:], bends[20], rtol=1e-9)
    assert x[-1] == 1


@pytest.mark.parametrize(
    ("model", "name", "made"),
    [
        ("sd1", "StableDiffusion", TABLE),
        ("sdxl", "StableDiffusionXL", TABLE),
        ("svd", "StableDiffusionVideo", Exploding(0.002, 700)),
    ],
)
def test_align_your_steps_is_the_published_table(model: str, name: str, made) -> None:
    published = diffusers.schedulers.AysSchedules[f"{name}Sigmas"]
    grid = make_grid(f"align_your_steps(model={model})", steps=10, schedule=made)
    np.testing.assert_allclose([at.ratio for at in grid], published, rtol=1e-4)
    if f"{name}Timesteps" in diffusers.schedulers.AysSchedules:
        # They round times and sigmas each by itself.
        times = diffusers.schedulers.AysSchedules[f"{name}Timesteps"]
        np.testing.assert_allclose([at.t for at in grid[:-1]], times, atol=2)


@pytest.mark.parametrize("steps", [1, 5, 20, 37])
def test_align_your_steps_is_log_linear_between(steps: int) -> None:
    levels = np.array(ALIGNED["sd1"])
    even = np.interp(np.linspace(0, 10, steps + 1), np.arange(11), np.log(levels))
    grid = make_grid("align_your_steps", steps=steps, schedule=TABLE, final="first")
    np.testing.assert_allclose([-at.lam for at in grid[1:-1]], even[1:-1], rtol=1e-9)
    assert (grid[0], grid[-1]) == (TABLE.level(999), TABLE.level(0))


def test_own_sigmas_and_times_are_diffusers() -> None:
    sigmas = [14.6, 3.2, 0.5, 0.0]
    peer = euler()
    peer.set_timesteps(sigmas=sigmas)
    for grid in (
        make_grid(sigmas, schedule=TABLE),
        make_grid("custom(sigmas=[14.6, 3.2, 0.5])", schedule=TABLE),
    ):
        np.testing.assert_allclose([at.ratio for at in grid], peer.sigmas, rtol=1e-6)
        np.testing.assert_allclose([at.t for at in grid[:-1]], peer.timesteps, rtol=1e-4)
    peer = diffusers.DDIMScheduler(**SD)
    times = make_grid("custom(times=[999, 500, 20])", schedule=TABLE)
    assert times == (*(TABLE.level(t) for t in (999, 500, 20)), CLEAN)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(sigmas=[1.0, 0.7, 0.2])
    grid = make_grid([1.0, 0.7, 0.2], schedule=Flow())
    np.testing.assert_allclose([at.sigma for at in grid], flow.sigmas, rtol=1e-6)
    assert grid == make_grid("custom(times=[1, 0.7, 0.2])", schedule=Flow(3.0))


# Lee et al. 2024 and ComfyUI, which is not on PyPI: the definitions, written with other means


@pytest.mark.parametrize("steps", [1, 2, 10, 20, 100])
@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.5, 0.8), (1.0, 1.0), (2.0, 1.5)])
def test_beta_is_scipys_quantiles_rounded(steps: int, alpha: float, beta: float) -> None:
    from scipy import stats

    quantiles = stats.beta(alpha, beta).ppf(1 - np.arange(steps) / steps)
    levels = SPACINGS["beta"](TABLE, steps, alpha=alpha, beta=beta)
    away = np.abs(np.array([at.t for at in levels]) - quantiles * 999)
    assert away.max() <= 0.5 + 1e-9
    found = [at.t for at in SPACINGS["beta"](Cosine(), steps, alpha=alpha, beta=beta)]
    np.testing.assert_allclose(found, 1e-3 + 0.999 * quantiles, rtol=1e-9)


def test_beta_of_one_and_one_is_even() -> None:
    times = [at.t for at in SPACINGS["beta"](Flow(), 8, alpha=1.0, beta=1.0)]
    np.testing.assert_allclose(times, np.linspace(1, 1e-3, 9)[:-1], rtol=1e-12)
    assert times == pytest.approx([at.t for at in SPACINGS["sgm_uniform"](Flow(), 8)])


def test_sgm_uniform_is_even_in_index_and_leaves_the_last() -> None:
    levels = SPACINGS["sgm_uniform"](TABLE, 4)
    assert [at.t for at in levels] == [999.0, 749.25, 499.5, 249.75]
    assert levels[1].lam == pytest.approx(0.75 * TABLE.level(749).lam + 0.25 * TABLE.level(750).lam)


def test_simple_counts_down_by_whole_strides() -> None:
    ten = schedule("linear(steps=10)")
    assert [at.t for at in SPACINGS["simple"](ten, 4)] == [9, 7, 4, 2]  # 9 - floor(0, 2.5, 5, 7.5)
    assert [at.t for at in SPACINGS["simple"](TABLE, 3)] == [999, 666, 333]
    fine = schedule("squared_cosine(steps=2000, offset=0)")
    for discrete, limit in zip(SPACINGS["simple"](fine, 7), SPACINGS["simple"](Cosine(), 7), strict=True):
        assert abs((discrete.t + 1) / 2000 - limit.t) <= 1 / 2000


def test_ddim_uniform_is_leading_where_it_has_as_many_steps_as_asked() -> None:
    ten = schedule("linear(steps=10)")
    assert [at.t for at in SPACINGS["ddim_uniform"](ten, 5)] == [9, 7, 5, 3, 1]
    assert [at.t for at in SPACINGS["ddim_uniform"](ten, 3)] == [7, 4, 1]
    for steps in (1, 10, 20, 25, 50, 100, 250):
        assert make_grid("ddim_uniform", steps=steps, schedule=TABLE) == make_grid(
            "leading", steps=steps, schedule=TABLE
        )
    # 1, 34, ... 991 are 31 levels.
    with pytest.raises(
        InvalidRequest, match=r"strides of 33 in 1000 levels make 31 steps; .* fit are 25 and 27"
    ):
        make_grid("ddim_uniform", steps=30, schedule=TABLE)


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_kl_optimal_is_even_in_the_angle(std: float) -> None:
    for made in (EDM, TABLE, Flow(), schedule("linear(zero_snr=true)")):
        grid = make_grid(f"kl_optimal(data_std={std})", steps=9, schedule=made, final="first")
        angles = [math.atan2(at.sigma, std * at.alpha) for at in grid]
        np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-9)
        assert grid[0] == made.level(made.t_max)


def test_kl_optimal_is_best_for_gaussian_data() -> None:
    """DDIM shrinks N(0, c^2) by the product of cos(angle between levels): no grid of 3 steps shrinks it less."""
    std = 0.7

    def kept(levels) -> float:
        angles = [math.atan(ratio / std) for ratio in levels]
        return math.prod(math.cos(a - b) for a, b in pairwise(angles))

    best = [at.ratio for at in make_grid(f"kl_optimal(data_std={std})", steps=3, schedule=EDM, final="first")]
    assert len(best) == 4
    for i in (1, 2):
        for factor in (0.9, 0.99, 1.01, 1.1):
            other = [*best]
            other[i] *= factor
            assert kept(other) < kept(best)


@pytest.mark.parametrize(
    ("text", "made", "words"),
    [
        ("karras(rho=0)", TABLE, "rho = 0"),
        ("polyexponential(rho=-1)", TABLE, "rho = -1"),
        ("karras(over=time)", TABLE, "over"),
        ("karras(over=sigma)", TABLE, "leave 'over' out"),
        ("karras", Flow(), r"'karras\(over=sigma\)' or 'linspace'"),
        ("exponential", Cosine(), "use 'linspace'"),
        ("beta(over=ratio)", Cosine(), "use 'linspace'"),
        ("beta(over=sigma)", EDM, "leave 'over' out"),
        ("beta(over=noise)", TABLE, "'ratio', 'sigma', 'time'|ratio, sigma, time"),
        ("beta(alpha=0)", TABLE, "alpha = 0"),
        ("beta(beta=1e9)", TABLE, "beta = 1e"),
        ("kl_optimal(data_std=0)", TABLE, "data_std = 0"),
        ("align_your_steps(model=sd3)", TABLE, "sd1"),
        ("align_your_steps", EDM, "14.615 to 0.029"),
        ("align_your_steps", schedule("scaled_linear(zero_snr=true)"), "from inf to"),
        ("leading(offset=60)", TABLE, "0 to 49"),
        ("leading(offset=-1)", TABLE, "offset = -1"),
        ("leading", Cosine(), "discrete"),
        ("linspace(drop=true)", Flow(), "leave it out"),
        ("trailing", Flow(), "discrete"),
        ("ddim_uniform", Flow(), "discrete"),
        ("shifted", TABLE, "rectified-flow"),
        ("shifted(shift=0)", Flow(), "shift = 0"),
        ("shifted(shift=2, tokens=64)", Flow(), "both choose"),
        ("shifted(terminal=1)", Flow(), "terminal = 1"),
        ("shifted(terminal=1e-9)", Flow(), "terminal = 1e-09"),
        ("shifted(terminal=0.1)", Flow(t_max=0.9), "begins at time 1"),
        ("linear_quadratic", TABLE, "rectified-flow"),
        ("linear_quadratic(linear_steps=20)", Flow(), "linear_steps = 20"),
        ("linear_quadratic(linear_steps=-1)", Flow(), "linear_steps = -1"),
        ("linear_quadratic(threshold=0)", Flow(), "threshold = 0"),
        ("linear_quadratic(threshold=0.99)", Flow(), "threshold = 0.99"),
        ("normal(rho=2)", TABLE, "no options"),
        ("karras(roh=2)", TABLE, "'rho'"),
    ],
)
def test_what_a_grid_cannot_be_is_told(text: str, made: Table, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make_grid(text, steps=20, schedule=made)


def test_a_terminal_time_needs_two_steps() -> None:
    with pytest.raises(InvalidRequest, match="two steps"):
        make_grid("shifted(terminal=0.1)", steps=1, schedule=Flow())
    with pytest.raises(UnknownName, match="model"):
        make_grid("align_your_steps(model=if)", steps=10, schedule=TABLE)
