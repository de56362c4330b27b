"""Text to picture."""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass

from sfumato.tasks.canvas import parse_size, to_bytes
from sfumato.tasks.sampling import CONFIG, MAX_PROMPT, Prompted, Sized, one_by_one, plan

__all__ = ["MAX_PROMPT", "Text2Image", "parse_size", "to_bytes"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Text2Image(Sized, Prompted):
    """Make pictures from a sentence.

    Fields left at None take the model's own default; the recipe that a picture carries has them all filled in.
    """

    async def __call__(self, model: Any) -> Any:
        """Embed, start from noise, walk the grid under guidance, decode.

        ``model`` is a sfumato Model; the result is a tasks.task.Result. InvalidRequest for a name or a size
        that the model does not have, for a guide that does not go with the rest, and for a model of another task.
        """
        to = plan(self, model, self.sides(model.defaults))
        if to.split:
            return await one_by_one(self, model)
        denoise = to.guided(*await to.conditions(self.prompt, self.negative))
        x = await to.walk(to.start(), denoise)
        return to.result(await model.decode(x))
