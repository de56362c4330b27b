"""Style, regions and seamless tiling: against closed forms, on networks of every kind, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.codec import Identity
from sfumato.condition import Cond, Prompt, texts
from sfumato.denoiser import Denoiser
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.manner import Manner
from sfumato.model import Defaults, Model
from sfumato.nn.dit import DiT, DiTConfig
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.noise.stream import Stream
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.tasks.compose import Compose, at_latents, merged, parted
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.seamless import SHIFTS, Tile, rolled
from sfumato.tasks.style import Style, beside
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from tests.tasks.toys import alike, picture, toy

F64 = torch.float64
SIDE = 16
NETS: dict[str, Any] = {
    "unet": lambda: UNet(
        UNetConfig(inner=3, outer=3, widths=(8, 16), blocks=1, attention=("none", "text"), middle="text",
                   head=8, tokens=12, groups=4)
    ),
    "dit": lambda: DiT(DiTConfig(inner=3, outer=3, width=32, depth=2, heads=2, tokens=12, features=16)),
    "mmdit": lambda: MMDiT(
        MMDiTConfig(depth=2, width=24, heads=3, channels=3, outer=3, tokens=12, vector=6, side=8, norm=True)
    ),
    "flux": lambda: Flux(
        FluxConfig(double=1, single=1, width=32, heads=2, channels=3, outer=3, tokens=12, vector=6,
                   axes=(4, 6, 6), guidance=False)
    ),
}  # fmt: skip


def small(name: str) -> Model:
    """A model on pictures of 16 x 16 with a network of this kind, every weight redrawn, in float64."""
    net: nn.Module = NETS[name]()
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(net.named_parameters()):
        draw = torch.randn(parameter.shape, generator=generator)
        wide = parameter.ndim > 1 and parameter.shape[0] > 1
        parameter.data = draw * parameter[0].numel() ** -0.5 if wide else 0.3 * draw
    masked = name in ("unet", "dit")

    def condition(prompts: Any) -> Cond:
        rows = []
        for text in texts(prompts):
            seed = torch.Generator().manual_seed(sum(map(ord, text)))
            rows.append(torch.randn(5, 12, generator=seed, dtype=F64))
        tokens = torch.stack(rows)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if masked else None
        return Cond(tokens=tokens, mask=mask, vector=None if masked else tokens[:, 0, :6])

    return Model(
        name=name,
        identity="0" * 64,
        denoiser=Denoiser(net.double().eval(), Flow(), prediction("flow"), clock="thousand"),
        codec=Identity((3, SIDE, SIDE)),
        conditioner=condition,
        defaults=Defaults(steps=4, sampler="euler", grid="linspace", guidance=2.0, width=SIDE, height=SIDE,
                          multiple=4, least=SIDE, most=SIDE),
    )  # fmt: skip


@pytest.fixture(params=NETS, scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return small(request.param)


def latent(task: Any, model: Model) -> Tensor:
    """What the task decodes."""
    seen: list[Tensor] = []
    run(task(model), lambda ask, reply: seen.append(ask.arguments[0]) if ask.verb == "decode" else None)
    return seen[0]


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


PLAIN = Text2Image(prompt="left", seed=4)
REFERENCE = picture(24, 20, seed=2)


def test_a_style_of_no_weight_is_text_to_picture_and_of_some_is_not(model: Model) -> None:
    plain = latent(PLAIN, model)
    off = make(Style, image=REFERENCE, prompt="left", seed=4, method="share", weight=0)
    assert far(latent(off, model), plain) < 1e-9
    found = {
        (method, path): latent(
            make(Style, image=REFERENCE, prompt="left", seed=4, method=method, path=path), model
        )
        for method in ("align", "share", "inject")
        for path in ("noised", "inverted")
    }
    found["one layer", ""] = latent(make(Style, image=REFERENCE, prompt="left", seed=4, layers="[1]"), model)
    values = [plain, *found.values()]
    assert min(far(a, b) for i, a in enumerate(values) for b in values[:i]) > 1e-5


def test_a_style_is_a_seeds_own_alone_and_in_company_and_with_other_requests(model: Model) -> None:
    for more in ({}, {"path": "inverted", "source": "right"}, {"guide": "pag(layers=[0])"}):
        task = make(Style, image=REFERENCE, prompt="left", count=2, **more)
        made = run(task(model))
        alike(Style, made, model, image=REFERENCE)
        assert not np.array_equal(*made.pixels)
    engine = Engine(model, bucket=4)
    pending = [engine.submit(task) for task in (make(Style, image=REFERENCE, prompt="left", count=2), PLAIN)]
    shared, plain = (one.result() for one in pending)
    for found, task in ((shared, make(Style, image=REFERENCE, prompt="left", count=2)), (plain, PLAIN)):
        for a, b in zip(found.pixels, run(task(model)).pixels, strict=True):
            assert np.abs(a.astype(int) - b).max() <= 1


def test_content_comes_back_at_strength_0_and_is_kept_in_part_below_1() -> None:
    model = small("unet")
    content = picture(SIDE, SIDE, seed=9)
    same = run(make(Style, image=REFERENCE, prompt="left", content=content, strength=0)(model)).pixels[0]
    assert np.array_equal(same, content)
    some = latent(make(Style, image=REFERENCE, prompt="left", content=content, strength=0.5), model)
    assert far(some, latent(make(Style, image=REFERENCE, prompt="left"), model)) > 1e-3


def test_style_is_refused_where_there_is_no_attention() -> None:
    with pytest.raises(InvalidRequest, match="use image2image or resample"):
        run(make(Style, image=picture(), prompt="left")(toy()))
    for layers in ("left", "7", "[0, 9]"):
        with pytest.raises(InvalidRequest, match="2 attention layers"):
            run(make(Style, image=picture(), prompt="left", layers=layers)(small("dit")))
    for layers in ("", "up,2", "[0", "[0.5]", "(0)"):
        with pytest.raises(InvalidRequest, match="such as"):
            run(make(Style, image=picture(), prompt="left", layers=layers)(small("dit")))


@pytest.mark.parametrize("text", ["pag(layers=all)", "seg(layers=[0], blur=1.5)", "slg(layers=1, stop=1)"])
def test_guides_of_attention_walk_pictures_of_any_size_in_windows(model: Model, text: str) -> None:
    image = picture(37, 21, seed=3)
    fields = {"image": image, "prompt": "left", "tile": True, "strength": 0.75, "guide": text, "count": 2}
    made = run(make(Image2Image, **fields)(model))
    assert [pixels.shape for pixels in made.pixels] == [(21, 37, 3)] * 2
    alike(Image2Image, made, model, image=image)
    plain = run(make(Image2Image, **{**fields, "guide": "cfg"})(model))
    assert not np.array_equal(made.pixels[0], plain.pixels[0])


HALVES = ("rect(0, 0, 50%, 100%): left", "rect(50%, 0, 50%, 100%): right")


def test_on_the_closed_form_the_answers_are_laid_together_by_areas() -> None:
    """At every step each half of x0 is that of its own component; one step from noise shows it exactly."""
    model = toy()
    options = {"steps": 1, "sampler": "euler", "guidance": 1.0, "seed": 5}
    made = latent(make(Compose, prompt="left", regions=HALVES, **options), model)
    ends = [latent(make(Text2Image, prompt=name, **options), model) for name in ("left", "right")]
    assert torch.equal(made[..., :2], ends[0][..., :2])
    assert torch.equal(made[..., 2:], ends[1][..., 2:])
    rest = latent(make(Compose, prompt="right", regions=HALVES[:1], **options), model)
    assert torch.equal(rest, made)


@pytest.mark.parametrize("by", ["estimates", "attention"])
def test_one_region_over_all_is_text_to_picture(model: Model, by: str) -> None:
    task = make(Compose, prompt="else", regions=("rect(0, 0, 100%, 100%): left",), by=by, seed=4)
    assert far(latent(task, model), latent(PLAIN, model)) < 1e-10


@pytest.mark.parametrize("by", ["estimates", "attention"])
def test_regions_are_of_their_own_sentence_and_a_seeds_own(model: Model, by: str) -> None:
    task = make(Compose, prompt="left", regions=HALVES, by=by, seed=4, count=2)
    whole = latent(task, model)
    for change in ({"regions": (HALVES[0], "rect(50%, 0, 50%, 100%): other")}, {"regions": HALVES[:1]}):
        assert far(latent(replace(task, **change), model), whole) > 1e-4
    alike(Compose, run(task(model)), model)


def test_all_regions_are_asked_for_at_once_and_what_is_avoided_but_once() -> None:
    asked: list[int] = []
    task = make(Compose, prompt="left", regions=(*HALVES, "rect(0, 0, 25%, 25%): other"), steps=2)
    run(task(small("dit")), lambda ask, reply: asked.append(len(reply)) if ask.verb == "denoise" else None)
    assert asked == [4, 4], "three sentences and the negative; the prompt's own area is empty"
    changing = make(
        Compose, prompt="x", regions=("rect(0, 0, 50%, 100%): [left:right:1]",), dialect="a1111", steps=2
    )
    assert run(changing(small("dit"))).pixels[0].shape == (SIDE, SIDE, 3)
    with pytest.raises(InvalidRequest, match="use by = estimates"):
        run(replace(changing, by="attention")(small("dit")))
    pushed = replace(task, guide="pag(layers=all)")
    assert far(latent(pushed, small("dit")), latent(task, small("dit"))) > 1e-4


def test_a_map_of_colours_is_areas() -> None:
    colours = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours[:, : SIDE // 2] = (255, 0, 0)
    model = small("dit")
    regions = ("color(#ff0000): left", "color(black): right")
    found = latent(make(Compose, prompt="x", regions=regions, map=colours, seed=4), model)
    assert torch.equal(found, latent(make(Compose, prompt="x", regions=HALVES, seed=4), model))
    made = run(make(Compose, prompt="x", regions=regions, map=colours)(model))
    alike(Compose, made, model, map=colours)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"regions": ("a cat",)}, "does not begin with an area"),
        ({"regions": ("rect(0, 0, 50%): a cat",)}, "rect"),
        ({"regions": ("rect(0, 0, 50%, 50%):",)}, "no sentence"),
        ({"regions": ("rect(90, 90, 9, 9): a cat",)}, "is empty"),
        ({"regions": ("color(#ff0000): a cat",)}, "no picture"),
        ({"regions": ()}, "at least 1"),
        ({"regions": HALVES, "by": "attention", "feather": 2.0}, "by = estimates"),
        ({"regions": HALVES, "by": "attention"}, "use by = estimates"),
    ],
)
def test_regions_that_are_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        run(make(Compose, prompt="left", **fields)(toy()))


AREAS = ["rect(", "0", ",", "50%", ")", ":", " a cat", "ellipse(", "color(red)", "alpha", "+", "outside("]


@given(st.lists(st.sampled_from(AREAS), max_size=12).map("".join) | st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_region_and_any_layers_are_read_or_refused_with_a_sentence(text: str) -> None:
    for kind, fields in (
        (Compose, {"regions": (text,)}),
        (Style, {"layers": text, "image": np.zeros((2, 2, 3), np.uint8)}),
    ):
        try:
            found = repr(make(kind, prompt="left", **fields))
        except InvalidRequest as error:
            found = str(error)
        assert 10 < len(found) < 3000


def test_areas_and_tokens() -> None:
    areas = np.zeros((2, 8, 8), np.float32)
    areas[1, :, :3] = 1
    areas[0] = 1 - areas[1]
    hard = at_latents(areas, (4, 4, 4), hard=True)
    assert torch.equal(hard.sum(1), torch.ones(1, 4, 4))
    soft = at_latents(areas, (4, 4, 4), hard=False)
    assert soft[0, 1, 0].tolist() == [1, 0.5, 0, 0]
    wants = [small("mmdit").conditioner([Prompt(text=name)]) for name in ("left", "right")]
    one = merged(wants, soft)
    assert one.owner is not None
    assert one.owner.tolist() == [[0] * 5 + [1] * 5]
    expected = (soft[0, 0].mean() * wants[0].vector + soft[0, 1].mean() * wants[1].vector).to(F64)
    torch.testing.assert_close(one.vector, expected, rtol=1e-6, atol=0)
    assert parted("rect(0, 0, 1, 1): a: b") == ("rect(0, 0, 1, 1)", "a: b")


def around(task: Any, model: Model) -> Tensor:
    """The middle of what the task decodes with its continuation around it: its latents."""
    wide = latent(task, model)
    high, wide_ = (side // 4 if side > SIDE else 0 for side in wide.shape[-2:])
    return wide[..., high : high + SIDE, wide_ : wide_ + SIDE]


@pytest.mark.parametrize("axes", ["both", "across", "down"])
def test_a_wrapped_picture_has_no_edge(axes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that is rolled along a wrapped axis gives the rolled picture, so no place of it is an edge."""
    model, task = small("unet"), make(Tile, prompt="left", axes=axes, seed=3)
    found, draw = around(task, model), Stream.start
    assert far(found, latent(replace(PLAIN, seed=3), model)) > 1e-4
    for axis, name in ((-1, "across"), (-2, "down")):
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "start", lambda self, axis=axis: draw(self).roll(6, axis))
            moved = around(task, model).roll(-6, axis)
        assert (far(moved, found) < 1e-9) == (axes in ("both", name))


def test_rolled_answers_are_those_of_the_rolled_picture(model: Model) -> None:
    cond, at = model.conditioner(["left"]), Flow().level(0.5)
    x = torch.randn(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(0))
    moved = rolled(model.denoise, True, True)
    levels = [Flow().level(t) for t in (0.9, 0.5)]
    first = [run(moved(x, level, cond))[0] for level in levels]
    shift = (SIDE * SHIFTS[1] // 8, SIDE * SHIFTS[2] // 8)
    assert 0 not in SHIFTS
    there = run(model.denoise(x.roll(shift, (-2, -1)), at, cond))[0]
    assert far(first[1].x0, there.x0.roll([-s for s in shift], (-2, -1))) < 1e-12
    torch.testing.assert_close(at.alpha * first[1].x0 + at.sigma * first[1].eps, x)


def test_tiles_are_a_seeds_own_and_wrap_is_refused_where_places_are_known(model: Model) -> None:
    alike(Tile, run(make(Tile, prompt="left", count=2)(model)), model)
    task = make(Tile, prompt="left", method="wrap")
    if model.name == "unet":
        assert torch.equal(latent(task, model), latent(make(Tile, prompt="left"), model))
    else:
        with pytest.raises(InvalidRequest, match="use roll"):
            run(task(model))


def test_the_built_in_model_makes_tiles_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where opposite edges meet is no step larger than inside; and rolled noise gives the rolled picture.

    The decoder looks half a picture around, and its attention a little differently from another place.
    """
    import sfumato

    emoji = sfumato.load("emoji", dtype="float32")
    fields = {"prompt": "a brick wall", "seed": 3, "steps": 4}
    made = {
        way: emoji.task("tile", method=way, **fields).images[0].pixels.astype(float)
        for way in ("wrap", "roll")
    }
    for pixels in made.values():
        for axis in (0, 1):
            inside = np.abs(np.diff(pixels, axis=axis)).mean((1 - axis, 2)).max()
            assert np.abs(np.take(pixels, 0, axis) - np.take(pixels, -1, axis)).mean() <= inside
    draw = Stream.start
    monkeypatch.setattr(Stream, "start", lambda self: draw(self).roll((4, 6), (-2, -1)))
    moved = {
        way: np.roll(emoji.task("tile", method=way, **fields).images[0].pixels, (-32, -48), (0, 1))
        for way in made
    }
    off = {way: np.abs(moved[way] - pixels).mean() for way, pixels in made.items()}
    assert off["wrap"] < 1.0 < off["roll"]


def test_levels_of_the_reference_lie_on_its_path() -> None:
    """The inverted path passes through y at no noise and through the inversion's own x at every level."""
    from sfumato.tasks.sampling import plan
    from sfumato.tasks.style import inverted_path, noised_path

    model = small("unet")
    to = plan(make(Style, image=REFERENCE, prompt="left", steps=4), model, (SIDE, SIDE))
    y = torch.randn(1, 3, SIDE, SIDE, dtype=F64, generator=torch.Generator().manual_seed(0))
    cond = model.conditioner(["right"])
    along = run(inverted_path(to, y, cond))
    clean = Level(0.0, 1.0, 0.0)
    torch.testing.assert_close(along(clean), y)
    low, high = to.grid[-2], to.grid[-3]
    seen = run(model.denoise(y, low, cond))[0]
    expected = low.alpha * (y - 0 * seen.eps) + low.sigma * seen.eps
    torch.testing.assert_close(along(low), expected)
    step = run(model.denoise(along(low), high, cond))[0]
    scale = high.alpha / low.alpha
    torch.testing.assert_close(along(high), scale * along(low) + (high.sigma - scale * low.sigma) * step.eps)
    noise = torch.randn(2, 3, SIDE, SIDE, dtype=F64)
    straight = noised_path(y, noise)(low)
    torch.testing.assert_close(straight, low.alpha * y + low.sigma * torch.rot90(noise, 2, (-2, -1)))


def test_a_reference_walks_under_its_own_words_however_many() -> None:
    """The shorter of two texts is filled up and masked there; what counts more than once is said of x's alone."""
    asked: list[Cond] = []

    async def denoise(x: Tensor, at: Level, *conds: Cond) -> tuple[Any, ...]:
        asked.extend(conds)
        return conds

    own = Cond(tokens=torch.full((1, 3, 2), 7.0), vector=torch.full((1, 4), 7.0))
    mine = Cond(
        tokens=torch.ones(1, 5, 2),
        vector=torch.ones(1, 4),
        counts=torch.tensor([[1.0, 1, 1, 0.5, 0.5]]),
        manner=Manner(share=frozenset({0})),
    )
    run(
        beside(denoise, lambda at: torch.zeros(1, 1, 2, 2), own)(
            torch.zeros(1, 1, 2, 2), Flow().level(0.5), mine
        )
    )
    (told,) = asked
    named = told.named()
    assert torch.equal(named["exemplar_tokens"][:, :3], own.named()["tokens"])
    assert not named["exemplar_tokens"][:, 3:].any()
    assert named["exemplar_mask"].tolist() == [[True] * 3 + [False] * 2]
    assert named["mask"].tolist() == [[True] * 5]
    assert torch.equal(named["counts"], mine.named()["counts"])
    assert named["exemplar_counts"].tolist() == [[1.0] * 3 + [0.0] * 2]
    assert torch.equal(named["exemplar_vector"], own.named()["vector"])
    assert torch.equal(named["tokens"], mine.named()["tokens"])
