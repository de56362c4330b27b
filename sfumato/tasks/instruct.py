"""A picture changed by an instruction, by models that were trained to follow one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.condition import Cond
from sfumato.errors import InvalidRequest
from sfumato.guidance.pictured import pictured
from sfumato.tasks.beside import required
from sfumato.tasks.canvas import latent_shape
from sfumato.tasks.picture import OnPicture, latents
from sfumato.tasks.sampling import CONFIG, Plan, Prompted, Sampling, one_by_one, plan
from sfumato.tasks.script import Script

HELD = 1.5
"""How strongly the picture holds by default: what Brooks et al. 2023 use."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Instruct(Sampling, Prompted, OnPicture):
    """Change a picture as an instruction says: "make it snow", "replace the dog by a cat".

    The walk begins at noise alone. InstructPix2Pix reads the picture beside x and has two guidances, by the text and
    by the picture (Brooks et al. 2023); FLUX.1 Kontext reads it as further tokens, and is told one (Black Forest Labs
    2025).
    """

    image_guidance: Annotated[float, Ge(0), Le(100)] | None = Field(
        default=None,
        description="how strongly the picture holds, for models that read it beside x: 1.5; 1 is off",
    )

    async def __call__(self, model: Any) -> Any:
        """Encode the picture, lay it beside every question, walk from noise, decode, crop."""
        pixels, canvas = self.laid(model)
        size = (canvas.width, canvas.height)
        reads = required(
            model, latent_shape(model, *size), ("picture", "reference"), "the task image2image (edit)"
        )
        aside = reads.kind == "picture"
        if self.image_guidance is not None and not aside:
            raise InvalidRequest(
                f"the model {model.name!r} is told one guidance and has none by the picture: leave image_guidance out"
            )
        task = replace(self, image_guidance=HELD) if aside and self.image_guidance is None else self
        to = plan(task, model, size, beside=("picture", "reference"))
        if to.split:
            return await one_by_one(task, model)
        y = reads.scale * await latents(model, pixels, canvas)
        want, avoid = await to.conditions(task.prompt, task.negative)
        if aside:
            scale = HELD if task.image_guidance is None else task.image_guidance
            to, want, avoid = held(to, want, avoid, y, scale)
        else:
            want, avoid = replace(want, reference=y), replace(avoid, reference=y)
        return to.result(await model.decode(await to.walk(to.start(), to.guided(want, avoid))), canvas.crop)


def held(to: Plan, want: Cond, avoid: Cond, y: Tensor, scale: float) -> tuple[Plan, Cond, Cond]:
    """The plan and both conditions with the latents ``y`` beside x, and a walk that the picture holds by ``scale``.

    The picture that is not there is zeros, as in training.
    """
    want, avoid = replace(want, channels=y), replace(avoid, channels=y)
    plain = avoid.conds[0] if isinstance(avoid, Script) else avoid
    seen = avoid if plain is avoid else replace(plain, channels=y)
    blind = replace(plain, channels=0 * y)
    return replace(to, branches=pictured(to.branches, seen, blind, scale)), want, avoid
