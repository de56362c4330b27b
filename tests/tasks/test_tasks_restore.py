"""Restoring against exact posteriors, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sfumato.codec import Identity
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance.operators import Observation
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


@pytest.mark.parametrize(
    "method",
    [
        "dps",
        "pigdm(iterations=4)",
        "mmps(iterations=4)",
        "diffpir(iterations=4)",
        "pigdm(weight=adaptive,iterations=4)",
    ],
)
def test_every_method_explains_what_was_seen_and_each_picture_is_made_again(method: str) -> None:
    model, image = toy(), picture(2, 2)
    fields = {"image": image, "damage": "average(factor=2)", "noise_std": 0.05, "sampler": "ddim"}
    made = done(Restore, model, method=method, prompt="left", count=2, steps=8, **fields)
    alike(Restore, made, model, image=image)
    plain = done(Text2Image, model, prompt="left", sampler="ddim")

    def off(pixels: np.ndarray) -> float:
        small = pixels.reshape(2, 2, 2, 2, 3).astype(float).mean((1, 3))
        return float(np.abs(small - image).mean())

    most = 0.95 if method == "dps" else 0.6  # its steps have one length, and here are few
    assert off(made.pixels[0]) < most * off(plain.pixels[0])


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
        run(make(Restore, image=picture(), **fields)(toy()))


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
