"""Pictures of nothing in particular, and pictures of a class."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.tasks.sampling import CONFIG, Sized, Text, one_by_one, plan


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Unconditional(Sized):
    """Make pictures as the model makes them when it is told nothing."""

    async def __call__(self, model: Any) -> Any:
        """Walk with the empty prompt alone."""
        if self.negative is not None or self.guidance not in (None, 1):
            raise InvalidRequest(
                "without a prompt there is nothing to guide: leave out negative and guidance, or use text2image"
            )
        to = plan(self, model, self.sides(model.defaults))
        if to.split:
            return await one_by_one(self, model)
        denoise = to.guided(*await to.conditions("", None))
        return to.result(await model.decode(await to.walk(to.start(), denoise)))

    def resolved(self, defaults: Any) -> dict[str, Any]:
        """All fields, with the model's ``defaults`` where a field is None; guidance is off."""
        return {**Sized.resolved(self, defaults), "guidance": 1.0}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Class2Image(Sized):
    """Make pictures of one of the classes that a model was trained on."""

    label: Text = Field(description="the name of the class")

    async def __call__(self, model: Any) -> Any:
        """Walk under guidance by the class; InvalidRequest for a model that has none, or not this one."""
        to = plan(self, model, self.sides(model.defaults))
        want, avoid = await to.conditions(self.label, self.negative)
        if want.label is None:
            raise InvalidRequest(
                f"the model {model.name!r} knows sentences and no classes: use text2image; models with classes are "
                "DiT, U-Nets on pixels by class, those of the recipe digits and the closed-form mixtures"
            )
        if to.split:
            return await one_by_one(self, model)
        x = await to.walk(to.start(), to.guided(want, avoid))
        return to.result(await model.decode(x))
