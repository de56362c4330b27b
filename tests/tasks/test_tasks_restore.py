"""Restoring against exact posteriors, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sfumato.codec import Identity
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance.operators import Observation, average
from sfumato.model import Model
from sfumato.tasks.canvas import tensor, to_bytes
from sfumato.tasks.decoded import Decoded
from sfumato.tasks.restore import DAMAGES, Restore
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from tests.tasks.toys import SIDE, alike, corner, done, picture, toy


@pytest.mark.parametrize("damage", ["average(factor=2)", "blur(std=1)", "noise", "grey", "mask"])
def test_a_restored_picture_explains_what_is_left_of_it(damage: str) -> None:
    """A draw of the model, damaged; what is restored agrees with what is left, to its noise, and no other does."""
    model = toy()
    true = torch.from_numpy(done(Text2Image, model, prompt="left", seed=8).pixels[0].copy())
    whole = tensor(true.numpy())
    fields: dict[str, Any] = {"mask": corner()} if damage == "mask" else {}
    task = make(Restore, image=picture(), damage=damage, **fields)
    operator, times = task._operator()
    left = to_bytes(operator(whole)[0].expand(3, -1, -1).numpy())
    assert left.shape[0] * times == SIDE
    made = done(
        Restore,
        model,
        image=left,
        damage=damage,
        prompt="left",
        steps=10,
        method="mmps(iterations=8)",
        **fields,
    ).pixels[0]
    other = done(Text2Image, model, prompt="left", seed=0, steps=10).pixels[0]
    seen = operator if damage != "mask" else lambda x: x[..., torch.from_numpy(~corner())]
    off = [float((seen(tensor(p)) - seen(whole)).square().mean().sqrt()) for p in (made, other)]
    assert off[0] < 0.06
    assert off[1] > 2 * off[0]


METHODS = [
    "dps",
    "pigdm(iterations=4)",
    "mmps(iterations=4)",
    "diffpir(iterations=4)",
    "pigdm(weight=adaptive,iterations=4)",
]


def latents(task: type[Any], model: Model, **fields: Any) -> torch.Tensor:
    """What ``task`` decodes, before it is limited and rounded."""
    seen: list[torch.Tensor] = []

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "decode":
            seen.append(ask.arguments[0])

    run(make(task, **fields)(model), listen)
    return seen[0]


SEEN: dict[str, Any] = {"image": picture(2, 2), "damage": "average(factor=2)", "noise_std": 0.05}
ASKED: dict[str, Any] = {"prompt": "left", "sampler": "ddim", "guidance": 1.0, "steps": 8, "count": 2}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_moves_what_was_seen_and_nothing_else(method: str) -> None:
    """Values of one law are independent, so that what no average sees stays that of the free walk."""
    model = toy()
    free = latents(Text2Image, model, **ASKED)
    made = latents(Restore, model, method=method, **ASKED, **SEEN)

    def hidden(x: torch.Tensor) -> torch.Tensor:
        return x - average(2)(x).repeat_interleave(2, -1).repeat_interleave(2, -2)

    assert torch.allclose(hidden(made), hidden(free), atol=1e-4)
    y = tensor(SEEN["image"])
    off = [(average(2)(x) - y).square().mean((1, 2, 3)).sqrt() for x in (made, free)]
    assert (off[0] < off[1]).all()


def test_dps_comes_the_nearer_the_longer_its_steps_are() -> None:
    """Each step goes a fixed length towards y; a scale of nearly 0 is the free walk."""
    model, y = toy(), tensor(SEEN["image"])
    off = []
    for scale in (1e-6, 0.03, 0.1, 0.3):
        made = latents(Restore, model, method=f"dps(scale={scale})", **ASKED, **SEEN)
        off.append(float((average(2)(made) - y).square().mean()))
    assert off == sorted(off, reverse=True)
    free = latents(Text2Image, model, **ASKED)
    assert off[0] == pytest.approx(float((average(2)(free) - y).square().mean()), rel=1e-4)


def test_mmps_draws_from_the_posterior() -> None:
    """Averages a of four values of variance v: given y, N(m + k (y - m), (1 - k) v / 4), k = v / (v + 4 noise^2)."""
    model, y, v, noise = toy(), tensor(SEEN["image"]), 0.05, SEEN["noise_std"]
    many = {**ASKED, "count": 40, "steps": 40, "sampler": "dpmpp_2m"}
    made = average(2)(latents(Restore, model, method="mmps(iterations=4)", **many, **SEEN))
    m = average(2)(model.denoiser.network.means[0].view(1, 3, SIDE, SIDE))
    k = v / (v + 4 * noise**2)
    scores = (made - (m + k * (y - m))) / ((1 - k) * v / 4) ** 0.5
    count = scores.numel()
    assert abs(float(scores.mean())) < 3 / count**0.5
    assert abs(float(scores.square().mean()) - 1) < 3 * (2 / count) ** 0.5


@pytest.mark.parametrize("method", METHODS)
def test_restored_pictures_are_made_again_alone(method: str) -> None:
    model = toy()
    made = done(Restore, model, method=method, **ASKED, **SEEN)
    alike(Restore, made, model, image=SEEN["image"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"damage": "blurr"}, "damage 'blurr'.*'blur'"),
        ({"damage": "blur(width=2)"}, "width"),
        ({"damage": "blur(std=0)"}, "std = 0"),
        ({"damage": "mask"}, "needs a mask"),
        ({"mask": corner()}, "no other damage takes one"),
        ({"damage": "mask", "mask": np.ones((SIDE, SIDE), bool)}, "nothing was seen"),
        ({"damage": "mask", "mask": corner(3, 3)}, "one size"),
        ({"damage": "average(factor=2)"}, "8x8 and this model makes at most 4x4"),
        ({"method": "dsp"}, "'dps'"),
        ({"method": "mmps(steps=3)"}, "steps"),
        ({"method": "dps", "sampler": "dpm_adaptive"}, "choose.* its own steps"),
        ({"noise_std": -1}, "noise_std = -1"),
        ({"guide": "cfgpp", "guidance": 0.5}, "do not add up to x.*'cfg'"),
        ({"guide": "apg"}, r"apg\(momentum=0\)"),
        ({"guide": "zero_star", "sampler": "ddim"}, r"zero_star\(zero=0\)"),
    ],
)
def test_what_cannot_be_is_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        run(make(Restore, image=picture(), **{"damage": "blur", **fields})(toy()))


def test_every_damage_is_named_in_the_help() -> None:
    field = next(f for f in Restore.__dataclass_fields__.values() if f.name == "damage")
    assert all(name in field.default.description for name in DAMAGES)  # type: ignore[attr-defined]


def test_differences_are_the_products_of_autograd() -> None:
    """Where the operator can be differentiated twice, both ways to find A u agree."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64)
    x0, u = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def bent(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.roll(1, -1) + 0.3 * x)

    exact, near = (kind(bent, y).linearised(x0) for kind in (Observation, Decoded))
    assert torch.allclose(near.forward(u), exact.forward(u), atol=3e-3)
    assert torch.equal(near.adjoint(u), exact.adjoint(u))
    assert near.forward(0 * u).abs().max() == 0
    assert isinstance(toy().codec, Identity)
