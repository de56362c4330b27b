"""From prompts to conditions, by each published family's rules: layers, padding, pooled vectors, what is empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.condition import Cond, Prompt, join
from sfumato.errors import InvalidRequest
from sfumato.nn.clip import ClipText
from sfumato.nn.t5 import T5Encoder
from sfumato.text.prompt.chunks import Vocabulary, clip_vocabulary, empty_row
from sfumato.text.prompt.dialects import parse, parts_at
from sfumato.text.prompt.parts import Words, bare
from sfumato.text.prompt.single import Single, lowered, single_row
from sfumato.text.prompt.weighting import Encode, encode_part
from sfumato.text.t5 import END, PAD, T5Tokens

CLIP_PAD, OPEN_PAD = None, 0
"""What fills a row of tokens: OpenAI's encoder is padded with its end token, OpenCLIP's with token 0."""


Ids = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Token ids of learned words (textual inversion), by word and encoder."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP encoder as a family uses it: ``pad`` (None: the end token) fills rows, ``skip`` blocks are left out.

    ``place`` is its name among the model's encoders, ``learned`` the words that it was taught.
    """

    network: ClipText
    pad: int | None = CLIP_PAD
    skip: int = 0
    normed: bool = True
    place: str = "text"
    learned: Ids = field(default_factory=dict)

    def read(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """States (1, n L, D) of ``prompt``, as many rows of L tokens as it needs, and the pooled vector (1, P)."""
        part = prompt.read_by(self.place)
        states, pooled = encode_part(self._encoded(prompt.skip), part, self.vocabulary, prompt.dialect)
        assert pooled is not None
        return states, pooled

    def filled(self, states: Tensor, length: int, skip: int) -> Tensor:
        """``states`` with rows of the empty prompt behind them, up to ``length`` tokens."""
        missing = (length - states.shape[1]) // self.vocabulary.length
        if not missing:
            return states
        ids = torch.tensor([empty_row(self.vocabulary).ids], dtype=torch.int64)
        return torch.cat((states, *[self._encoded(skip)(ids, None)[0]] * missing), dim=1)

    @property
    def vocabulary(self) -> Vocabulary:
        """The encoder's tokens and the words it was taught."""
        config = self.network.config
        pad = config.end if self.pad is None else self.pad
        own = {name: ids[self.place] for name, ids in self.learned.items() if self.place in ids}
        return clip_vocabulary(pad, config.length, own)

    def _encoded(self, skip: int) -> Encode:
        total, blocks = self.skip + skip, len(self.network.blocks)
        if total >= blocks:
            raise InvalidRequest(
                f"clip_skip = {skip} is too much for the encoder {self.place!r}: at most {blocks - 1 - self.skip} of "
                f"its {blocks} blocks can be left out"
            )

        def encode(ids: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
            told = ids.to(self.network.token.weight.device)
            states, pooled = self.network(told, skip=total, normed=self.normed, keep=keep)
            return states, pooled

        return encode


@dataclass(frozen=True, eq=False)
class T5:
    """A T5 encoder as a family uses it: rows of ``length`` tokens, padding included and attended to.

    Unless ``masked``: then tokens see tokens alone; where the family leaves ``choice``, prompts may say which.
    ``small`` reads texts in small letters, without blanks around them.
    """

    network: T5Encoder
    tokens: T5Tokens
    length: int
    place: str = "text_3"
    learned: Ids = field(default_factory=dict)
    masked: bool = False
    choice: bool = False
    small: bool = False

    def read(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """States (1, length, D) of ``prompt``, weighted as ``e + w (z - e)`` whatever its dialect, and their mask.

        e are the states of the empty prompt. The mask (1, length) is True at tokens, in a blend at those of any text.
        InvalidRequest for a padding that is not the family's, where it leaves no choice.
        """
        if prompt.padding and not self.choice and (prompt.padding == "masked") != self.masked:
            other = "masked" if self.masked else "seen"
            raise InvalidRequest(
                f"padding = {prompt.padding!r}: this model was trained with T5's padding {other}"
            )
        masked = prompt.padding == "masked" if prompt.padding else self.masked
        blended = [
            (words.share, *self._weighted(words, prompt.dialect, masked)) for words in self._words(prompt)
        ]
        if len(blended) == 1:
            return blended[0][1:]
        states = torch.stack([share * states for share, states, _ in blended]).sum(dim=0)
        return states, torch.stack([mask for _, _, mask in blended]).any(dim=0)

    def dropped(self, prompt: Prompt) -> int:
        """How many tokens of ``prompt`` are not read."""
        return max(self._row(words, prompt.dialect).dropped for words in self._words(prompt))

    def _words(self, prompt: Prompt) -> Sequence[Words]:
        return prompt.read_by(self.place).words

    def _row(self, words: Words, dialect: str) -> Single:
        own = {name: ids[self.place] for name, ids in self.learned.items() if self.place in ids}
        return single_row(
            lowered(words) if self.small else words, self.tokens.split, self.length - 1, dialect, own
        )

    def _weighted(self, words: Words, dialect: str, masked: bool) -> tuple[Tensor, Tensor]:
        row = self._row(words, dialect)
        states, mask = self._states(row.ids, masked)
        weights = torch.ones(1, self.length, 1, dtype=states.dtype, device=states.device)
        weights[0, : len(row.weights), 0] = torch.tensor(row.weights)
        if bool((weights != 1).any()):
            empty, _ = self._states((), masked)
            states = torch.where(weights == 1, states, empty + weights * (states - empty))
        return states, mask

    def _states(self, ids: Sequence[int], masked: bool) -> tuple[Tensor, Tensor]:
        row = torch.full((1, self.length), PAD, dtype=torch.int64)
        row[0, : len(ids) + 1] = torch.tensor([*ids, END])
        place = self.network.token.weight.device
        mask = (torch.arange(self.length, device=place) <= len(ids))[None]
        states: Tensor = self.network(row.to(place), mask if masked else None)
        return states, mask


def one_by_one(make: Callable[[Prompt], Cond], prompts: Sequence[Prompt]) -> Cond:
    """The conditions of ``prompts``, a row each."""
    return join([make(prompt) for prompt in prompts])


def refuse_apart(prompt: Prompt, *encoders: str) -> None:
    """Refuse texts for encoders that are not among ``encoders``."""
    if other := [place for place, _ in prompt.apart if place not in encoders]:
        raise InvalidRequest(
            f"a prompt for the encoder {other[0]!r} (prompt_{other[0][-1]}, negative_{other[0][-1]}) is not for this "
            f"model, which reads prompts by {' and '.join(encoders)}: leave it out"
        )


def refuse_skip(prompt: Prompt, reads: str) -> None:
    """Refuse CLIP skip; ``reads`` says what the model reads in place of CLIP's states."""
    if prompt.skip:
        raise InvalidRequest(f"clip_skip is about CLIP's states, and {reads}: leave it out")


def refuse_padding(prompt: Prompt) -> None:
    """Refuse what is said of T5's padding where there is no T5."""
    if prompt.padding:
        raise InvalidRequest(
            f"padding = {prompt.padding!r} is about T5, which this model does not read: leave it out"
        )


def sd(clip: Clip, prompt: Prompt) -> Cond:
    """Stable Diffusion 1 and 2: the states are all."""
    refuse_apart(prompt, "text")
    refuse_padding(prompt)
    return Cond(tokens=clip.read(prompt)[0])


def sdxl(
    small: Clip | None,
    big: Clip,
    prompt: Prompt,
    zeros: bool = False,
) -> Cond:
    """Stable Diffusion XL: both encoders' penultimate states side by side, and pooled text as a vector.

    (Podell et al. 2023, section 2.1.) ``small`` is None for the refiner. ``zeros`` stands for "no negative prompt", as
    the base model was trained.
    """
    refuse_apart(prompt, *(clip.place for clip in (small, big) if clip is not None))
    refuse_padding(prompt)
    states, pooled = big.read(prompt)
    if small is not None:
        states = abreast(small, small.read(prompt)[0], big, states, prompt.skip)
    if zeros:
        states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
    return Cond(tokens=states, vector=pooled)


def abreast(small: Clip, first: Tensor, big: Clip, second: Tensor, skip: int) -> Tensor:
    """Two encoders' states side by side; the one with fewer rows of tokens is filled with the empty prompt's."""
    length = max(first.shape[1], second.shape[1])
    return torch.cat((small.filled(first, length, skip), big.filled(second, length, skip)), dim=-1)


def sd3(small: Clip, big: Clip, t5: T5 | None, prompt: Prompt, width: int, length: int) -> Cond:
    """Stable Diffusion 3: both CLIPs' penultimate states side by side, filled with zeros to ``width``, then T5's.

    (Esser et al. 2024, section 4.) Without T5 its ``length`` places are zeros; its padding is attended to like the
    rest, unless the prompt says otherwise. The vector is both pooled vectors side by side.
    """
    refuse_apart(prompt, small.place, big.place, *([] if t5 is None else [t5.place]))
    first, pooled = small.read(prompt)
    second, more = big.read(prompt)
    clips = abreast(small, first, big, second, prompt.skip)
    clips = F.pad(clips, (0, width - clips.shape[-1]))
    vector = torch.cat((pooled, more), dim=-1)
    if t5 is None:
        refuse_padding(prompt)
        return Cond(tokens=torch.cat((clips, clips.new_zeros(1, length, width)), dim=1), vector=vector)
    words, counts = t5.read(prompt)
    whole = F.pad(counts, (clips.shape[1], 0), value=True) if prompt.padding == "masked" else None
    return Cond(tokens=torch.cat((clips, words.to(clips.dtype)), dim=1), mask=whole, vector=vector)


def flux(clip: Clip, t5: T5, prompt: Prompt) -> Cond:
    """FLUX.1: T5's states as tokens, CLIP's pooled vector."""
    refuse_apart(prompt, clip.place, t5.place)
    refuse_skip(prompt, "FLUX.1 reads its pooled vector alone")
    _, pooled = clip.read(prompt)
    words, counts = t5.read(prompt)
    return Cond(tokens=words, mask=counts if prompt.padding == "masked" else None, vector=pooled)


def t5_alone(t5: T5, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """States and mask of a family that reads prompts by T5 and nothing else."""
    refuse_apart(prompt, t5.place)
    refuse_skip(prompt, "this model reads prompts by T5 alone")
    return t5.read(prompt)


def dropped(prompt: Prompt, clip: bool, t5: T5 | None) -> list[str]:
    """What is not read of a long ``prompt``: a plain one has one row, and T5 has one in every dialect."""
    (part, *_) = parts_at(parse(prompt.text, prompt.dialect), 0, 1)
    told: list[str] = []
    if clip and prompt.dialect == "plain" and (over := len(clip_vocabulary().pieces(bare(part))) - 75) > 0:
        told.append(
            f"the prompt is long: CLIP does not read its last {over} tokens; other dialects than plain read all"
        )
    if t5 is not None:
        over = t5.dropped(replace(prompt, part=part))
        told += [f"the prompt is long: T5 does not read its last {over} tokens"] if over else []
    return told
