"""A degraded picture restored: the model's law of pictures, given what was seen of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.codec import Identity, Pixels
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.guidance.guide import Guide, option
from sfumato.guidance.operators import Observation, average, blur, grey
from sfumato.guidance.operators import mask as seen_where
from sfumato.guidance.posterior import POSTERIOR, posterior
from sfumato.guidance.posterior import check as check_method
from sfumato.model import Model
from sfumato.process.spec import check_options, parse
from sfumato.tasks.canvas import Canvas, canvas_for, tensor
from sfumato.tasks.decoded import Decoded
from sfumato.tasks.given import MaybeMask, Picture
from sfumato.tasks.sampling import CONFIG, MaybePrompted, Sampling, one_by_one, plan

Operator = Callable[[Tensor], Tensor]


def _average(*, factor: int = 2) -> Operator:
    return average(factor)


def _blur(*, std: float = 2.0) -> Operator:
    return blur(std)


def _grey() -> Operator:
    return grey


def _same() -> Operator:
    return lambda x: x


DAMAGES: dict[str, tuple[Callable[..., Operator], str]] = {
    "average": (_average, "squares of factor x factor pixels became one: super-resolution"),
    "blur": (_blur, "a Gaussian blur of std pixels"),
    "grey": (_grey, "colours became grey"),
    "mask": (_same, "the white part of a mask was lost; give the mask"),
    "noise": (_same, "nothing but noise, of deviation noise_std"),
}
"""What may have happened to a picture, by name: the maker of its operator, and a line on it."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Restore(Sampling, MaybePrompted):
    """Restore a picture that was blurred, made smaller, greyed, masked or noisy.

    ``image`` is what is left, ``y = A(picture) + noise``; the walk is held to it by posterior guidance
    (guidance.posterior), with A on the decoded pixels. The result is a draw of what the model holds for likely,
    given y, not the one picture that was.
    """

    image: Picture = Field(description="the degraded picture")
    damage: str = Field(description="what happened: blur(std=2), average(factor=2), grey, mask or noise")
    mask: MaybeMask = Field(default=None, description="for damage mask: white is what was lost")
    noise_std: Annotated[float, Ge(0), Le(2)] = Field(
        default=0.02, description="deviation of the noise on it, where pixels are -1 to 1"
    )
    method: str = Field(default="mmps", description="posterior method: dps, pigdm, mmps or diffpir")

    async def __call__(self, model: Any) -> Any:
        """Walk from noise, every estimate pulled towards what explains the picture; decode and crop."""
        operator, times = self._operator()
        width, height = (times * side for side in self.image.size)
        canvas = canvas_for(width, height, model.defaults)
        name, options = parse(self.method, "posterior method")
        if name not in POSTERIOR:
            raise UnknownName("posterior method", name, POSTERIOR)
        check_options(name, POSTERIOR[name], options)
        to = plan(self, model, (canvas.width, canvas.height))
        check_method(self.method, to.walker)
        check_guide(to.by)
        if to.split:
            return await one_by_one(self, model)
        y = tensor(self.image.pixels)
        if parse(self.damage, "damage")[0] == "grey":
            y = grey(y)
        if self.mask is not None:
            keep = torch.from_numpy(np.array(self.mask.pixels)) == 0
            operator = seen_where(keep)
            y = operator(y)
        observed = observation(model, canvas, operator, y, self.noise_std)
        if name != "diffpir":
            to = replace(to, branches=partial(to.branches, grad=True))
        denoise = to.guided(*await to.conditions(self.prompt, self.negative))
        x = await to.walk(to.start(), posterior(self.method, denoise, observed, to.grid))
        return to.result(await model.decode(x), canvas.crop)

    def _operator(self) -> tuple[Operator, int]:
        """The operator that is named, and how many times as large as ``image`` the picture was."""
        name, options = parse(self.damage, "damage")
        if name not in DAMAGES:
            raise UnknownName("damage", name, DAMAGES)
        make = DAMAGES[name][0]
        check_options(name, make, options)
        if (name == "mask") != (self.mask is not None):
            raise InvalidRequest("the damage 'mask' needs a mask, and no other damage takes one")
        if self.mask is not None and self.mask.size != self.image.size:
            (a, b), (c, d) = self.mask.size, self.image.size
            raise InvalidRequest(f"the mask is {a}x{b} and the picture {c}x{d}: they must be of one size")
        if self.mask is not None and bool((self.mask.pixels > 0).all()):
            raise InvalidRequest("the mask is white everywhere: nothing was seen of the picture")
        times = int(str(options.get("factor", 2))) if name == "average" else 1
        return make(**options), times


def check_guide(by: Guide) -> None:
    """Refuse ways of guidance that the posterior methods cannot differentiate, with what would do."""
    if by.off_line:
        raise InvalidRequest(
            f"the guide {by.name!r} gives a picture and a noise that do not add up to x, and restoring corrects "
            "pictures that do: use 'cfg'"
        )
    for part, does in ((by.memory, "remembers the step before"), (by.stands, "does not ask the network")):
        if option(by, part):
            raise InvalidRequest(
                f"the guide {by.name!r} {does}, which cannot be differentiated: use {by.name}({part}=0), or 'cfg'"
            )


def observation(model: Model, canvas: Canvas, operator: Operator, y: Tensor, noise_std: float) -> Observation:
    """``y = operator(the box of the decoded x0) + noise_std n`` as a statement on x0."""
    left, top, width, height = canvas.box

    def seen(x0: Tensor) -> Tensor:
        pixels = model.codec.decode(x0)
        return operator(pixels[..., top : top + height, left : left + width])

    plain = isinstance(model.codec, Identity | Pixels)
    return (Observation if plain else Decoded)(seen, y, noise_std)
