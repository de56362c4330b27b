"""A model: denoiser, codec and conditioner in one bundle, with four verbs that tasks await."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from sfumato.ask import Ask
from sfumato.codec import Codec
from sfumato.condition import Cond, Look, Prompt
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Estimate
from sfumato.process.grid import Final
from sfumato.process.level import Level
from sfumato.process.schedule import Schedule
from sfumato.text.embedded import States

Conditioner = Callable[[Sequence[str | Prompt]], Cond]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a task uses where a person chose nothing, and the sizes that the model can make.

    ``final`` is the last level of the model's grids (see make_grid); with ``unit_start`` pictures begin at noise of
    unit variance, not of the first level's sigma. A ``distilled`` model is told the guidance, which is then not
    computed from two branches. ``repeat`` is how often each step is walked where a hole is filled: once by models that
    were trained to.
    """

    steps: int
    sampler: str
    grid: str
    guidance: float
    width: int
    height: int
    multiple: int = 16
    least: int = 128
    most: int = 128
    final: Final = "zero"
    unit_start: bool = False
    distilled: bool = False
    guide: str = "cfg"
    repeat: int = 4


Kind = Literal["mask", "picture", "reference", "control", "depth", "small"]
"""What networks read besides x; see Beside."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a network was trained to look at besides x.

    ``mask``: the mask and the rest of a picture whose hole it fills. ``picture``: latents of a picture that it changes
    by an instruction; ``reference``: the same as tokens of its own, which may be left out. ``control``: latents of a
    map that the picture follows; ``depth``: a map of depth as it is. ``small``: a picture with noise, to be made four
    times as large. ``scale`` multiplies latents on their way in.
    """

    kind: Kind
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Seams:
    """Where adapters and learned words take hold of a model.

    ``networks`` gives modules and the tables of their names (weights.keys.KeyTable) by place: denoiser, text, text_2,
    text_3. ``learned`` are the token ids of words that encoders were taught, by word and place; who teaches one puts
    it there. ``use`` is called when the denoiser's weights have changed: "merged" where they hold adapters, "live"
    where adapters act beside them, "own" when all are gone. A ``copied`` denoiser works on a copy of the weights that
    is made for speed: adapters are merged there wherever they can be. ``acting`` are the names of the adapters that a
    prompt may call, since they act in this request.
    """

    networks: Callable[[], Mapping[str, tuple[Any, Any]]]
    learned: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    use: Callable[[Literal["own", "merged", "live"]], None] = field(default=lambda how: None)
    copied: bool = False
    acting: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """What a model reads of texts alone, so that they may be embedded elsewhere: ``tokens`` and a ``vector``, so wide.

    ``encode`` makes that of prompts: a condition without sizes and guidance, which are the request's. ``families`` are
    those whose embedded prompts it takes; ``masked`` whether a mask is read. ``reads`` is by whose rules it reads (see
    families.reads), so many tokens (``length``) by T5 or a language model. ``encoders`` finds the sha256 of each text
    encoder that is loaded. ``identity`` is the model's without its text encoders.
    """

    families: tuple[str, ...]
    tokens: int
    encode: Callable[[Sequence[Prompt]], Cond]
    vector: int = 0
    masked: bool = False
    reads: str = ""
    length: int = 0
    encoders: Callable[[], Mapping[str, str]] = field(default=dict)
    identity: str | Callable[[], str] = ""

    def check(self, states: States, model: str) -> None:
        """Refuse embedded prompts of other families, doors and widths than those of the ``model`` called so."""
        if states.family and states.family not in self.families:
            raise InvalidRequest(
                f"{states.name} is embedded for models of the family {states.family!r}, and this one is of "
                f"{' or '.join(map(repr, self.families))}"
            )
        if states.reads and self.reads and states.reads != self.reads:
            raise InvalidRequest(
                f"{states.name} was read as by {states.reads!r}, in {states.tokens.shape[1]} tokens, and the model "
                f"{model!r} reads as {self.reads!r}, in {self.length} tokens: embed the prompt with this model"
            )
        widths = {
            "tokens": states.tokens.shape[-1],
            "vector": 0 if states.vector is None else states.vector.shape[-1],
        }
        wanted = {"tokens": self.tokens, "vector": self.vector}
        for door, width in widths.items():
            if width != wanted[door]:
                has, reads = (f"{door} of width {n}" if n else f"no {door}" for n in (width, wanted[door]))
                raise InvalidRequest(
                    f"{states.name} has {has}, and the model {model!r} reads {reads}: it was embedded for another model"
                )
        if states.mask is not None and not self.masked and not bool(states.mask.all()):
            raise InvalidRequest(
                f"{states.name} has a mask, and the model {model!r} reads all tokens: it was embedded for another model"
            )


BLIND = (
    "it reads no pictures as part of a prompt, as FLUX.1 does with the parts of FLUX.1 Redux (SigLIP's vision tower "
    "and the embedder, each given with --part): leave look out"
)
"""Why most models cannot be given pictures with a prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Everything that makes pictures, as values; ``identity`` is the sha256 (hex) of the weights, or finds it.

    ``schedule_of`` gives the schedule by the shape of a latent, where it depends on that. ``refused`` says, by the
    name of a task, why this model cannot do it; ``beside`` what its network reads besides x; ``seams``
    where adapters may take hold of it, None where they cannot; ``texts`` what embedded prompts it takes, None if none;
    ``blind`` why it reads no pictures as part of a prompt, empty if it does.
    """

    name: str
    identity: str | Callable[[], str]
    denoiser: Denoiser
    codec: Codec
    conditioner: Conditioner
    defaults: Defaults
    notes: Callable[[Prompt], list[str]] = field(default=lambda prompt: [])
    schedule_of: Callable[[tuple[int, ...]], Schedule] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    beside: Beside | None = None
    seams: Seams | None = None
    blind: str = BLIND
    texts: Texts | None = None

    @cached_property
    def hash(self) -> str:
        """The sha256 of the weights, in hexadecimal; found when first asked for, since it reads all of them."""
        return self.identity if isinstance(self.identity, str) else self.identity()

    @cached_property
    def hash_without_texts(self) -> str:
        """The same of what acts where prompts are embedded: all but text encoders that lie in files of their own."""
        own = self.texts.identity if self.texts else ""
        return (own if isinstance(own, str) else own()) or self.hash

    def schedule(self, shape: tuple[int, ...]) -> Schedule:
        """The schedule for latents of ``shape`` (C, H, W): some models' depends on how many there are."""
        return self.denoiser.schedule if self.schedule_of is None else self.schedule_of(shape)

    def check_looks(self, looks: Sequence[Look]) -> None:
        """InvalidRequest if pictures are part of a prompt and the model does not read them."""
        if looks and self.blind:
            raise InvalidRequest(f"look is not for the model {self.name!r}: {self.blind}")

    async def embed(self, prompts: Sequence[str | Prompt]) -> Cond:
        """The conditions for ``prompts``, one row each; InvalidRequest for embedded ones of other models."""
        for states in [p.ready for p in prompts if isinstance(p, Prompt) and p.ready is not None]:
            if self.texts is None:
                raise InvalidRequest(
                    f"the model {self.name!r} takes no embedded prompts: they are for native checkpoints that read "
                    "texts, and for the built-in model"
                )
            self.texts.check(states, self.name)
        for prompt in prompts:
            self.check_looks(prompt.looks if isinstance(prompt, Prompt) else ())
        cond: Cond = await Ask("embed", self, (tuple(prompts),))
        return cond

    async def encode(self, pixels: Tensor) -> Tensor:
        """The latents of ``pixels`` (B, 3, H, W) in [-1, 1]."""
        latent: Tensor = await Ask("encode", self, (pixels,))
        return latent

    async def denoise(self, x: Tensor, at: Level, *conds: Cond, grad: bool = False) -> tuple[Estimate, ...]:
        """One estimate of rows ``x`` (B, ...) at the level ``at`` (floats) for each condition.

        With ``grad`` they can be differentiated with respect to ``x``.
        """
        estimates: tuple[Estimate, ...] = await Ask("denoise", self, (x, at, conds), grad)
        return estimates

    async def decode(self, latent: Tensor) -> Tensor:
        """The pixels of ``latent``, (B, 3, H, W) in [-1, 1]."""
        pixels: Tensor = await Ask("decode", self, (latent,))
        return pixels
