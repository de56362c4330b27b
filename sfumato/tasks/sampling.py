"""What all tasks share that walk from noise: their fields, and the plan that a request comes to on a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import torch
from annotated_types import Ge, Le
from pydantic import Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from sfumato.ask import gather
from sfumato.condition import Cond, Look, Prompt
from sfumato.errors import InvalidRequest
from sfumato.guidance import check, guide
from sfumato.guidance.classifier_free import Branches
from sfumato.guidance.guide import Guide
from sfumato.model import Kind, Model
from sfumato.noise import MAX_SEED, NOISES, Noise, Only, noise
from sfumato.process.estimate import Denoise
from sfumato.process.grid import Grid, make_grid, steps_in, tail
from sfumato.process.spec import parse
from sfumato.samplers import Sampler, sampler
from sfumato.tasks import embedded
from sfumato.tasks.beside import check_reads
from sfumato.tasks.canvas import Canvas, latent_shape, parse_size, to_bytes, window_shape
from sfumato.tasks.given import Raster
from sfumato.tasks.looked import DESCRIPTION, Looks
from sfumato.tasks.script import Script, read, scripted
from sfumato.tasks.task import Result
from sfumato.tasks.tiled import tiled, windows
from sfumato.tasks.worded import CONFIG as CONFIG
from sfumato.tasks.worded import MAX_PROMPT as MAX_PROMPT
from sfumato.tasks.worded import Text as Text
from sfumato.tasks.worded import Worded
from sfumato.text.embedded import Embedded
from sfumato.text.prompt.dialects import notes

Seed = Annotated[int, Ge(0), Le(MAX_SEED)]
Part = Annotated[float, Ge(0), Le(1)]
T = TypeVar("T", bound="Sampling")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Prompted(Worded):
    """A task that needs a sentence."""

    prompt: Text = Field(description="what the picture shows")

    @field_validator("look", check_fields=False)
    @classmethod
    def _not_empty(cls, looks: tuple[Look, ...], info: ValidationInfo) -> tuple[Look, ...]:
        """Refuse an empty sentence, unless pictures are the prompt."""
        if not looks and not info.data.get("prompt", "?").strip():
            raise ValueError("the prompt is empty; say what the picture should show")
        return looks


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class MaybePrompted(Worded):
    """A task that a sentence may steer."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Sampling:
    """The fields of every task that walks from noise.

    Fields left at None take the model's own default; the recipe that a picture carries has them all filled in.
    """

    negative: Text | None = Field(default=None, description="what the picture should keep away from")
    steps: Annotated[int, Ge(1), Le(1000)] | None = Field(
        default=None, description="how many steps the sampler takes"
    )
    sampler: str | None = Field(default=None, description="how to walk from noise to picture")
    grid: str | None = Field(default=None, description="how the noise levels are spaced")
    guidance: Annotated[float, Ge(0), Le(100)] | None = Field(
        default=None, description="how strongly the prompt steers; 1 is off"
    )
    guide: str | None = Field(default=None, description="how prompt and negative are combined")
    seed: Seed = Field(default=0, description="the first picture's seed; the next pictures count on from it")
    count: Annotated[int, Ge(1), Le(1000)] = Field(default=1, description="how many pictures")
    noise: str = Field(
        default="stream", description="which generator the seeds are for (see: sfumato noises)"
    )
    pick: Annotated[int, Ge(1), Le(1000)] | None = Field(
        default=None, description="make only the picture of this number, of the many that count asks for"
    )
    look: Looks = Field(default=(), validate_default=True, description=DESCRIPTION)
    look_by: Literal["tokens", "attention"] = Field(
        default="tokens",
        description="what strengths of look multiply: tokens, or the attention that they get",
    )

    @property
    def looks(self) -> tuple[Look, ...]:
        """The pictures of ``look`` as parts of a prompt."""
        return tuple(replace(one, attention=self.look_by == "attention") for one in self.look)

    def resolved(self, defaults: Any) -> dict[str, Any]:
        """All fields as a dictionary, with the model's ``defaults`` where a field is None.

        Pictures and files are not among them: their hashes stand under ``parents``, by field; those of ``look`` in a
        list, whose strengths are the field's value.
        """
        own = {name: getattr(defaults, name) for name in ("steps", "sampler", "grid", "guidance", "guide")}
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        files: dict[str, Any] = {
            name: value.hash for name, value in given.items() if isinstance(value, Raster | Embedded)
        }
        plain = {
            name: own[name] if value is None and name in own else value
            for name, value in given.items()
            if name not in files
        }
        plain["look"] = [one.strength for one in self.look]
        if self.look:
            files["look"] = [one.hash for one in self.look]
        return {**plain, "parents": files} if files else plain

    def evaluations(self, model: Model) -> int | None:
        """How often the task asks ``model``'s network at most; None where that is decided on the way."""
        chosen = self.resolved(model.defaults)
        each = sampler(chosen["sampler"]).evaluations
        if each is None:
            return None
        strength = getattr(self, "strength", 1.0)
        steps: int = min(int(chosen["steps"] * strength), chosen["steps"])
        return steps * each * self.windows(model)

    def windows(self, model: Model) -> int:
        """How many windows ``model`` walks of a picture that may be larger than what it makes at once."""
        laid = getattr(self, "laid", None)
        if laid is None or not getattr(self, "tile", False):
            return 1
        return windows_of(model, laid(model)[1])


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Sized(Sampling):
    """A task whose pictures come in a size that the model can make."""

    size: str | None = Field(
        default=None, description="width x height in pixels, such as 128x128; the model's if left out"
    )

    def resolved(self, defaults: Any) -> dict[str, Any]:
        """All fields, with the model's ``defaults`` where a field is None."""
        own = Sampling.resolved(self, defaults)
        return own if self.size is not None else {**own, "size": f"{defaults.width}x{defaults.height}"}

    def sides(self, defaults: Any) -> tuple[int, int]:
        """Width and height; InvalidRequest if the model cannot make that."""
        return parse_size(self.resolved(defaults)["size"], defaults)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a request comes to on a model, with all that could be wrong already told.

    ``known`` are the conditions that were asked for, by their texts: each is embedded once. ``rows`` are the numbers of
    the pictures to make, counted from 0; ``branches`` answers for the model.
    """

    task: Any
    model: Model
    chosen: dict[str, Any]
    walker: Sampler
    by: Guide
    scale: float
    grid: Grid
    draws: Noise
    rows: Sequence[int]
    shape: tuple[int, ...]
    size: tuple[int, int]
    branches: Branches
    known: dict[Hashable, Cond] = dataclasses.field(default_factory=dict)

    @property
    def split(self) -> bool:
        """Whether each picture needs a walk of its own: the sampler chooses its steps by what it sees."""
        return self.walker.by_row and len(self.rows) > 1

    async def conditions(
        self, prompt: str, negative: str | None, *, looks: tuple[Look, ...] | None = None
    ) -> tuple[Cond, Cond]:
        """What is wanted and what avoided; Scripts where a prompt changes over the steps or is a sum.

        The task's pictures are part of what is wanted, or ``looks``, where ``prompt`` is about another picture.
        """
        want = await self._told(prompt, "prompt", self.task.looks if looks is None else looks)
        if self.model.defaults.distilled:  # nothing is avoided, and encoding it may cost more than a step
            if isinstance(want, Script) and any(
                sum(weight for _, weight in stage.parts) != 1 for stage in want.stages
            ):
                raise InvalidRequest(
                    "AND and the weight of a whole prompt are about what is avoided, and this model, which was "
                    "distilled from one with guidance, avoids nothing: write one prompt"
                )
            return want, want
        if self.scale == 1 and embedded.lacks_negative(self.task, negative):  # it is not asked for
            return want, want
        return want, await self._told(negative, "negative")

    async def _told(self, text: str | None, name: str, looks: tuple[Look, ...] = ()) -> Cond:
        """The condition of ``text``, the task's prompt or negative, with pictures; embedded when first asked for."""
        key = (text, name, tuple((look.hash, look.strength, look.attention) for look in looks))
        if key not in self.known:
            self.known[key] = await self._embedded(text, name, looks)
        return self.known[key]

    async def _embedded(self, text: str | None, name: str, looks: tuple[Look, ...]) -> Cond:
        """The same, anew; other encoders' texts belong to the task's own."""
        width, height = self.size
        apart = embedded.apart_of(self.task, text, name)
        prompt = replace(
            embedded.prompt_of(self.task, text, name),
            width=width,
            height=height,
            guidance=self.chosen["guidance"],
            looks=looks,
        )
        if prompt.dialect == "plain" and not apart:
            return await self.model.embed([embedded.ready(self.task, prompt)])
        told = read(prompt, apart, len(self.grid) - 1)
        acting = self.model.seams.acting if self.model.seams else ()
        if idle := [name for name in told.adapters if name not in acting]:
            raise InvalidRequest(
                f"the prompt names the adapter {idle[0]!r}, which does not act here: run the task by the model that "
                "sfumato.load gives, which finds it"
            )
        conds = [await self.model.embed([embedded.ready(self.task, one)]) for one in told.prompts]
        return conds[0] if told.steady else Script(conds=tuple(conds), stages=told.stages)

    def guided(self, want: Cond, avoid: Cond) -> Denoise:
        """The guided denoiser of one walk."""
        changing = isinstance(want, Script) or isinstance(avoid, Script)
        branches = scripted(self.branches, avoid, self.grid) if changing else self.branches
        return self.by(
            branches,
            want,
            avoid,
            scale=self.scale,
            prediction=self.model.denoiser.prediction,
            grid=self.grid,
            layers=self.model.denoiser.attention_layers,
        )

    def start(self, y: Tensor | None = None) -> Tensor:
        """x at the first level: noise alone, or ``alpha y + sigma n`` around latents ``y``."""
        first = self.grid[0]
        if y is None:
            # Stable Diffusion's samplers begin at noise of unit variance, though their first level has a little less.
            unit = self.model.defaults.unit_start
            return (first.deviation if unit else first.sigma) * self.draws.start()
        return first.alpha * y + first.sigma * self.draws.start()

    async def walk(self, x: Tensor, denoise: Denoise) -> Tensor:
        """From x at the first level to the latents at the last."""
        found: Tensor = await self.walker.walk(x, self.grid, denoise, self.draws)
        return found

    def result(self, pixels: Tensor, finish: Callable[[Any], Any] = lambda p: p) -> Result:
        """The decoded ``pixels`` (B, 3, H, W) as bytes, each through ``finish``, with the arguments of each.

        InvalidRequest if they are not finite.
        """
        if not torch.isfinite(pixels).all():
            chosen = self.chosen
            raise InvalidRequest(
                f"the picture is not finite after {chosen['steps']} steps of {chosen['sampler']!r} at guidance "
                f"{chosen['guidance']:g}; lower the guidance or choose another sampler"
            )
        alone = NOISES[parse(self.task.noise)[0]].by_row
        prompt = self.chosen.get("prompt", "")
        asked = Prompt(text=prompt, dialect=self.chosen.get("dialect", "plain"))
        marks = notes(prompt, asked.dialect)
        return Result(
            pixels=tuple(finish(to_bytes(p)) for p in pixels.detach().to(torch.float32).cpu().numpy()),
            arguments=tuple(again(self.task, self.chosen, row, alone) for row in self.rows),
            notes=tuple(
                [*self.model.notes(asked), *marks, *embedded.notes(self.task, self.model)] if prompt else ()
            ),
        )


def again(task: Any, chosen: dict[str, Any], row: int, alone: bool) -> dict[str, Any]:
    """The arguments that make picture ``row`` of ``task`` by itself; ``alone`` where noise allows a seed of its own.

    A task may name another field than the seed that counts on from picture to picture, ``counts``, or none.
    """
    counts = getattr(task, "counts", "seed")
    if not alone or not counts:
        return {**chosen, "pick": row + 1}
    return {**chosen, counts: chosen[counts] + row, "count": 1, "pick": None}


def windows_of(model: Model, canvas: Canvas) -> int:
    """How many windows ``model`` walks of a picture on ``canvas``."""
    size = canvas.width, canvas.height
    return windows(latent_shape(model, *size), window_shape(model, *size))


def plan(
    task: Sampling,
    model: Model,
    size: tuple[int, int],
    *,
    strength: float = 1.0,
    beside: Sequence[Kind] = (),
    draws: Callable[[tuple[int, ...]], Noise] | None = None,
) -> Plan:
    """What ``task`` comes to on ``model`` for pictures of ``size``, width and height, before any work.

    ``strength`` is the part of the grid that is walked; ``beside`` what the task can lay beside x, of what models read
    (sfumato.model.Beside); ``draws`` makes the noise of all its pictures where it is not that of counted seeds. Raises
    InvalidRequest for names, numbers and combinations that cannot be, with the reason.
    """
    defaults = model.defaults
    model.check_looks(task.look)
    for name in (type(task).__name__.lower(), *(["text2image"] if isinstance(task, Sized) else [])):
        if name in model.refused:
            raise InvalidRequest(model.refused[name])
    if task.seed > MAX_SEED - task.count + 1:
        raise InvalidRequest(
            f"seed = {task.seed} is too large for {task.count} pictures that count on from it"
        )
    if defaults.distilled and task.negative:
        raise InvalidRequest(
            "this model was distilled from one with guidance and has no negative prompt: leave negative out"
        )
    if task.pick is not None and task.pick > task.count:
        raise InvalidRequest(
            f"pick = {task.pick} is more than count = {task.count}: there is no such picture"
        )
    shape = latent_shape(model, *size)
    window = window_shape(model, *size)
    check_reads(model, shape, beside)
    schedule = model.schedule(window)
    chosen = task.resolved(defaults)
    if task.steps is None:  # a grid that lists its levels says itself how many steps there are
        chosen["steps"] = steps_in(chosen["grid"], schedule) or chosen["steps"]
    walker, by = sampler(chosen["sampler"]), guide(chosen["guide"])
    scale = 1.0 if defaults.distilled else chosen["guidance"]
    grid = make_grid(
        chosen["grid"],
        steps=chosen["steps"],
        schedule=schedule,
        final=defaults.final,
        prediction=model.denoiser.prediction,
    )
    if strength < 1:
        grid = tail(grid, strength)
    layers = model.denoiser.attention_layers
    check(by, walker, scale=scale, steps=len(grid) - 1, layers=layers)
    seeds = range(task.seed, task.seed + task.count)
    drawn = noise(task.noise, seeds, shape) if draws is None else draws(shape)
    rows: Sequence[int] = range(task.count)
    if task.pick is not None:
        drawn, rows = Only(drawn, task.pick - 1), (task.pick - 1,)
    branches: Branches = model.denoise if shape == window else tiled(model.denoise, window)
    return Plan(
        task=task,
        model=model,
        chosen=chosen,
        walker=walker,
        by=by,
        scale=scale,
        grid=grid,
        draws=drawn,
        rows=rows,
        shape=shape,
        size=size,
        branches=branches,
    )


async def one_by_one(task: T, model: Model) -> Result:
    """Each picture of ``task`` by a walk of its own, side by side: for samplers that choose their steps."""
    single: list[Any] = [replace(task, pick=number + 1) for number in range(task.count)]
    results: list[Result] = await gather([one(model) for one in single])
    return Result(
        pixels=tuple(p for r in results for p in r.pixels),
        arguments=tuple(a for r in results for a in r.arguments),
        notes=results[0].notes,
    )
