"""A moving picture: from prompt to prompt by small steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from sfumato.ask import gather
from sfumato.errors import InvalidRequest
from sfumato.tasks.embedded import DESCRIPTION, MaybeEmbedded, check_there
from sfumato.tasks.interpolate import Interpolate
from sfumato.tasks.sampling import CONFIG, Seed, Sized, Text, again
from sfumato.tasks.task import Result
from sfumato.text.prompt.dialects import dialect, parse

OWN = ("prompts", "seeds", "seed", "count", "loop", "fps", "once", "pick", "parents", "look", "embedded")
"""The fields that mean another thing to the rows between two keys, or nothing."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Animate(Sized):
    """Frames that go from one key to the next: a key is a prompt and a seed, between two keys lies Interpolate's row.

    The keys stand at even distances over the frames. A ``loop`` goes on from the last key to the first, so that its
    last frame comes just before the first one.
    """

    counts: ClassVar[str] = ""

    prompts: Annotated[tuple[Text, ...], MinLen(2), MaxLen(100)] = Field(
        description="what the keys show, in order"
    )
    seeds: Annotated[tuple[Seed, ...], MaxLen(100)] = Field(
        default=(), description="the seeds of the keys, in place of one for all"
    )
    dialect: str = Field(
        default="plain", description="how prompts are written: plain, a1111, comfyui or compel"
    )
    clip_skip: Annotated[int, Ge(0), Le(30)] = Field(
        default=0, description="how many more blocks CLIP encoders leave out at their end"
    )
    padding: Literal["seen", "masked"] | None = Field(
        default=None,
        description="what T5's padding is to the model: seen or masked, if not as the family does",
    )
    embedded: MaybeEmbedded = Field(default=None, description=DESCRIPTION)
    count: Annotated[int, Ge(2), Le(1000)] = Field(default=24, description="how many frames")
    loop: bool = Field(default=False, description="go on from the last key to the first")
    fps: Annotated[float, Ge(0.1), Le(50)] = Field(default=12.0, description="frames a second, in the file")
    once: bool = Field(default=False, description="stop at the end, in place of beginning again")

    def __post_init__(self) -> None:
        """Read all prompts once, so that what cannot be read is told before anything is loaded."""
        dialect(self.dialect)
        for prompt in self.prompts:
            parse(prompt, self.dialect)
        if self.negative:
            parse(self.negative, self.dialect, compose=False)
        if not any(prompt.strip() for prompt in self.prompts):
            raise ValueError("the prompts are empty; say what the keys should show")
        if self.seeds and len(self.seeds) != len(self.prompts):
            raise ValueError(
                f"seeds has {len(self.seeds)} values for {len(self.prompts)} prompts: give each key one, or none"
            )
        check_there(self)

    async def __call__(self, model: Any) -> Any:
        """Walk the rows between the keys side by side."""
        if self.pick is not None and self.pick > self.count:
            raise InvalidRequest(
                f"pick = {self.pick} is more than count = {self.count}: there is no such frame"
            )
        rows = self._rows(model.defaults)
        results: list[Result] = await gather([row(model) for row, _ in rows])
        kept = [r.pixels[k] for r, (_, frames) in zip(results, rows, strict=True) for k in frames]
        chosen = self.resolved(model.defaults)
        wanted = range(self.count) if self.pick is None else [self.pick - 1]
        return Result(
            pixels=tuple(kept),
            arguments=tuple(again(self, chosen, frame, False) for frame in wanted),
            notes=tuple(dict.fromkeys(note for r in results for note in r.notes)),
        )

    def _rows(self, defaults: Any) -> list[tuple[Interpolate, list[int]]]:
        """The rows between the keys, and which of their pictures are frames; InvalidRequest if there are too few."""
        keys = list(zip(self.prompts, self.seeds or [self.seed] * len(self.prompts), strict=True))
        keys += keys[:1] if self.loop else []
        places = self.places(len(keys))
        if min(b - a for a, b in pairwise(places)) < 1:
            raise InvalidRequest(
                f"count = {self.count} frames are too few for {len(self.prompts)} keys: "
                f"at least {len(keys) - self.loop}"
            )
        for number, (one, other) in enumerate(pairwise(keys), 1):
            if one == other:
                raise InvalidRequest(
                    f"key {number} and the next are the same prompt and seed, so that nothing would move: "
                    f"change one, or leave it out"
                )
        chosen = self.resolved(defaults)
        shared = {name: value for name, value in chosen.items() if name not in OWN}
        wanted = range(self.count) if self.pick is None else [self.pick - 1]
        rows = []
        for part, (begin, end) in enumerate(pairwise(places)):
            mine = [frame for frame in wanted if begin <= frame < end or frame == end == self.count - 1]
            if not mine:
                continue
            (prompt, seed), (prompt_to, seed_to) = keys[part], keys[part + 1]
            row = Interpolate(
                prompt=prompt,
                prompt_to=prompt_to,
                seed=seed,
                seed_to=seed_to,
                count=end - begin + 1,
                embedded=self.embedded,
                look=self.look,
                pick=None if self.pick is None else mine[0] - begin + 1,
                **shared,
            )
            rows.append((row, [frame - begin if self.pick is None else 0 for frame in mine]))
        return rows

    def places(self, keys: int) -> list[int]:
        """The frames at which ``keys`` keys stand; the last of a loop is the frame after the last."""
        last = self.count - (not self.loop)
        return [round(k * last / (keys - 1)) for k in range(keys)]

    def evaluations(self, model: Any) -> int | None:
        """How often the task asks the network at most."""
        told = [row.evaluations(model) for row, _ in self._rows(model.defaults)]
        return None if None in told else sum(one or 0 for one in told)
