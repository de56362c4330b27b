"""PAG, SEG and SLG: whole walks beside diffusers' pipelines, its guiders' arithmetic, and rows of many requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.engine.answer import answer, call, split
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance import GUIDES, guide
from sfumato.guidance.guide import Pair
from sfumato.guidance.interval import share
from sfumato.guidance.perturbed import perturbed, steps_from
from sfumato.manner import Manner
from sfumato.model import Model
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.tasks.text2image import Text2Image
from tests.peers.pipelines import PIPELINES, Case, peer, wide_tables

diffusers = pytest.importorskip("diffusers")
guiders = pytest.importorskip("diffusers.guiders")
F64, F32 = torch.float64, torch.float32
PROMPT, AVOID, STEPS, SIZE = "a red cat at night", "dog", 4, 32


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, peer(PIPELINES[request.param], tmp_path_factory.mktemp("peer")))


def far(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


def ours(model: Model, text: str, scale: float) -> Tensor:
    """The latent at the end of our walk."""
    seen: list[Tensor] = []
    task = Text2Image(
        prompt=PROMPT, negative=AVOID, steps=STEPS, seed=3, size=f"{SIZE}x{SIZE}", guidance=scale, guide=text
    )
    run(task(model), lambda ask, reply: seen.append(ask.arguments[0]) if ask.verb == "decode" else None)
    return seen[0]


def theirs(case: Case, pipe: Any, scale: float, **options: Any) -> Tensor:
    """The latent at the end of theirs, from the same noise."""
    shape = case.model(F64).codec.shape(SIZE, SIZE)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3)).double()
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad(), wide_tables(pipe):
        out: Tensor = pipe(
            PROMPT,
            negative_prompt=AVOID,
            height=SIZE,
            width=SIZE,
            num_inference_steps=STEPS,
            output_type="latent",
            latents=noise,
            guidance_scale=scale,
            **options,
        ).images
    return out


WALKS: list[tuple[str, str, float, Callable[[Any], Any], dict[str, Any]]] = [
    (
        "sd1",
        "pag(scale=2.5)",
        4.0,
        lambda parts: diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False),
        {"pag_scale": 2.5},
    ),
    (
        "sd1",
        "pag(scale=2.5, layers=[2, 3, 4])",
        1.0,
        lambda parts: diffusers.StableDiffusionPAGPipeline(
            **parts, requires_safety_checker=False, pag_applied_layers=["mid", "up_blocks.0.attentions.[01]"]
        ),
        {"pag_scale": 2.5},
    ),
    (
        "sdxl",
        "pag(scale=3, layers=down, rescale=0.7)",
        4.0,
        lambda parts: diffusers.StableDiffusionXLPAGPipeline(
            **parts, add_watermarker=False, pag_applied_layers="down"
        ),
        {"pag_scale": 3.0, "guidance_rescale": 0.7},
    ),
    (
        "sd3",
        "pag(scale=2, layers=[0, 2])",
        4.0,
        lambda parts: diffusers.StableDiffusion3PAGPipeline(
            **parts, pag_applied_layers=["blocks.0", "blocks.2"]
        ),
        {"pag_scale": 2.0},
    ),
    (
        "sd3.5 medium",
        "slg(scale=2.8, layers=[0, 1], start=0.01, stop=0.7)",
        4.0,
        lambda parts: diffusers.StableDiffusion3Pipeline(**parts),
        {"skip_guidance_layers": [0, 1], "skip_layer_guidance_stop": 0.7},
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "text", "scale", "make", "options"), WALKS, indirect=["case"], ids=[w[1] for w in WALKS]
)
def test_whole_walks_are_those_of_the_pipelines(
    case: Case, text: str, scale: float, make: Callable[[Any], Any], options: dict[str, Any]
) -> None:
    kept = {"image_encoder", "feature_extractor"}
    parts = {k: v for k, v in case.pipe.components.items() if k not in kept or v is not None}
    whole = {**parts, **({"feature_extractor": None} if case.name == "sd1" else {})}
    expected = theirs(case, make(whole), scale, **options)
    found = ours(case.model(F64), text, scale)
    assert far(found, expected) < 1e-5
    if case.name != "sdxl":  # the largest
        assert far(ours(case.model(F32), text, scale), expected) < 1e-4
        assert far(ours(case.model(F32), "cfg", scale), expected) > 1e-2


KINDS = {
    "PerturbedAttentionGuidance": "perturbed_guidance",
    "SkipLayerGuidance": "skip_layer_guidance",
    "SmoothedEnergyGuidance": "seg_guidance",
}


@pytest.mark.parametrize("scale", [1.0, 4.5])
@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("name", KINDS)
def test_the_sum_is_that_of_the_guiders(name: str, phi: float, scale: float) -> None:
    """Without classifier-free guidance only their original formulation, the papers', is ours: p + s (p - p')."""
    draws = torch.Generator().manual_seed(0)
    x, p, n, worse = (torch.randn(2, 4, 5, 6, dtype=F64, generator=draws) for _ in range(4))
    options = {
        f"{KINDS[name]}_{key}": value for key, value in {"scale": 2.8, "stop": 1.0, "layers": 0}.items()
    }
    first = scale == 1.0
    guider = getattr(guiders, name)(
        guidance_scale=0.0 if first else scale,
        guidance_rescale=phi,
        use_original_formulation=first,
        **options,
    )
    guider.set_state(step=3, num_inference_steps=10, timestep=torch.tensor(0))
    expected = guider.forward(p, *(() if first else (n,)), **{_third(name): worse}).pred
    at, kind = Flow().level(0.6), prediction("v")

    async def branches(x: Tensor, at: Level, *outputs: Tensor) -> tuple[Estimate, ...]:
        return tuple(kind.estimate(x, out, at) for out in outputs)

    found = run(perturbed(branches, p, n, worse, scale=scale, push=2.8, prediction=kind, rescale=phi)(x, at))
    assert far(kind.target(found.x0, found.eps, at), expected) < 1e-12


def _third(name: str) -> str:
    return "pred_cond_seg" if name.startswith("Smooth") else "pred_cond_skip"


def test_the_part_of_the_steps() -> None:
    """As in Stable Diffusion 3's pipeline, i > n start and i < n stop; a whole n start belongs to the part here."""
    for count in (5, 20, 28):
        grid = make_grid("linspace", steps=count, schedule=Flow())
        for start, stop in ((0.01, 0.2), (0.15, 0.8), (0.0, 0.5)):
            acts = steps_from(grid, start, stop)
            expected = [start * count <= i < stop * count for i in range(count)]
            assert [acts(level) for level in grid[:-1]] == expected
    with pytest.raises(InvalidRequest, match="start"):
        steps_from(grid, 0.5, 0.2)


@pytest.mark.parametrize("name", [name for name, entry in GUIDES.items() if entry.attends])
def test_what_is_asked_in_the_interval_and_outside(name: str) -> None:
    """The avoided branch within ``lo`` and ``hi`` alone, the perturbed one where it acts, whatever the interval."""
    grid = make_grid("linspace", steps=16, schedule=Flow())
    seen: list[tuple[Cond, ...]] = []

    async def branches(x: Tensor, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
        seen.append(conds)
        return tuple(Estimate(at, x * (1 + k), x) for k, _ in enumerate(conds))

    want, avoid = (Cond(tokens=torch.full((1, 2, 3), value)) for value in (1.0, 2.0))
    pair = Pair(branches, want, avoid, 3.0, prediction("flow"), grid, layers=("middle.0",))
    options = {"lo": share(grid[11]), "hi": share(grid[4])}
    acting = {"start": 0.0, "stop": 0.5} if name == "slg" else {}
    denoise = GUIDES[name].make(pair, scale=2.0, layers="all", **options, **acting)
    for number, at in enumerate(grid[:-1]):
        run(denoise(torch.ones(1, 4), at))
        pushed = not acting or number < 8
        conds = seen.pop()
        assert conds[0] is want
        assert (avoid in conds) == (4 <= number <= 11)
        assert [cond.manner is not None for cond in conds] == [False] * (len(conds) - pushed) + [
            True
        ] * pushed


def network() -> Model:
    """The U-Net of a small model with text, as a bundle of which only the denoiser is asked."""
    torch.manual_seed(0)
    config = UNetConfig(
        inner=4,
        outer=4,
        widths=(8, 16),
        blocks=1,
        attention=("none", "text"),
        middle="text",
        tokens=6,
        head=8,
        groups=4,
    )
    net = UNet(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made: Any = Model.__new__(Model)
    denoiser = Denoiser(net.double().eval(), Flow(), prediction("flow"), clock="thousand")
    object.__setattr__(made, "denoiser", denoiser)
    return made


def test_rows_of_different_manners_never_share_a_call_and_equal_ones_do() -> None:
    model, draws = network(), torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, dtype=F64, generator=draws)
    plain = Cond(tokens=torch.randn(1, 3, 6, dtype=F64, generator=draws))
    manners = [
        None,
        Manner(identity=frozenset({1})),
        Manner(skip=frozenset({1})),
        Manner(identity=frozenset({1})),
    ]
    conds = [replace(plain, manner=manner) for manner in manners]
    assert len({one.key for one in conds}) == 3
    assert conds[1].key == conds[3].key
    assert conds[1].expand(2).row(0).to(F32, torch.device("cpu")).manner == manners[1]
    made: Any = model.denoise(x, Flow().level(0.5), *conds)
    ask = made.send(None)
    units = split(ask)
    assert {len({row.key for row in unit}) for unit in units} == {1}
    assert {len(unit) for unit in units} == {1, 2}
    found: Any = answer(ask)
    assert torch.equal(found[1].x0, found[3].x0)
    for cond, estimate in zip(conds, found, strict=True):
        alone: Any = model.denoise(x, Flow().level(0.5), cond)
        assert far(answer(alone.send(None))[0].x0, estimate.x0) < 1e-12  # type: ignore[index]
    assert min(far(found[i].x0, found[j].x0) for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3
    mixed = [row for unit in units for row in unit if row.key == units[0][0].key]
    assert len(call(mixed)) == len(mixed)


def test_a_network_without_attention_is_told_of_no_manner() -> None:
    from tests.tasks.toys import toy

    model = toy()
    cond = replace(model.conditioner(["left"]), manner=Manner(identity=frozenset({0})))
    made: Any = model.denoise(torch.zeros(1, 3, 4, 4, dtype=F64), Flow().level(0.5), cond)
    with pytest.raises(InvalidRequest, match="no attention layers"):
        answer(made.send(None))
    with pytest.raises(InvalidRequest, match="use 'cfg'"):
        run(Text2Image(prompt="left", guide="pag")(model))
    assert guide("pag").attends
