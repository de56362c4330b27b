r"""Prompts drawn from patterns, by a seed: ``{a|b}``, ``{2$$a|b|c}``, ``{0.5::a|b}``, ``__colours__``.

::

    {a|b|c}                 one of three, without spaces around; an option may be empty, or a pattern
    {2::a|b}                a twice as often as b
    {2$$a|b|c}              two different ones, ", " between; {1-2$$...} one or two, {-2$$...}, {1-$$...}
    {2$$ and $$a|b|c}       two with " and " between
    __name__                a line of the list ``name``, which may be a pattern; __dir/*__ of all lists that fit
    {2$$__name__}           two different lines
    \{ \} \|                the marks themselves

The grammar is that of dynamicprompts (adieyal), without variables, which are refused. The same seed gives the same
prompt on every machine: choices are read from SHA-256 of the seed and the number of the draw.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.parts import shown

Lists = Callable[[str], Sequence[str]]
"""The lines of the list of a name; it raises UnknownName if there is none."""

DEEPEST = 32
"""How deep patterns and lists may be inside one another."""

MOST_DRAWS = 1000
MOST_TEXT = 100_000
"""How many choices, and characters, a pattern may become."""

_MARKS = re.compile(r"\\[{}|]|\$\{|[{}|]|__(?!_)[\w*][\w*./-]*?__")
_COUNT = re.compile(r"(?:(\d+)|(\d*)-(\d*))\$\$(?:(.*?)\$\$)?", re.DOTALL)
_SHARE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")


@dataclass(frozen=True, slots=True)
class Name:
    """A list by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """``low`` to ``high`` of ``options``, which weigh ``shares``, with ``between`` between them."""

    options: tuple[Pattern, ...]
    shares: tuple[float, ...]
    low: int = 1
    high: int | None = 1
    between: str = ", "


Pattern = tuple[str | Name | Choice, ...]


def no_lists(name: str) -> Sequence[str]:
    """Lists where there are none: every name is refused."""
    raise InvalidRequest(f"the prompt asks for the list {name!r}, and no folder of lists was given")


def parse_pattern(text: str) -> Pattern:
    """``text`` as a pattern; InvalidRequest if braces do not match, are too deep, or a variable is asked for."""
    _check_size(len(text))
    opened: list[int] = []
    slots: list[list[list[str | Name | Choice]]] = [[[]]]
    start = 0
    for match in _MARKS.finditer(text):
        mark, at = match.group(), match.start()
        if mark == "|" and not opened:
            continue
        if at > start:
            slots[-1][-1].append(text[start:at])
        start = match.end()
        if mark[0] == "\\":
            slots[-1][-1].append(mark[1:])
        elif mark == "${":
            raise InvalidRequest(
                f"variables as in {shown(text[at:])} are not read; write the choice where it is used"
            )
        elif mark == "{":
            if len(opened) == DEEPEST:
                raise InvalidRequest(f"choices are nested more than {DEEPEST} deep at {shown(text[at:])}")
            opened.append(at)
            slots.append([[]])
        elif mark == "|":
            slots[-1].append([])
        elif mark == "}":
            if not opened:
                raise InvalidRequest(
                    f"the brace at character {at + 1} was not opened; a brace to see is written \\}}"
                )
            made = _choice(slots.pop(), text[opened.pop() : match.end()])
            slots[-1][-1].append(made)
        else:
            slots[-1][-1].append(Name(mark[2:-2]))
    if opened:
        raise InvalidRequest(
            f"the brace at character {opened[-1] + 1} is not closed; a brace to see is written \\{{"
        )
    if start < len(text):
        slots[0][0].append(text[start:])
    return tuple(slots[0][0])


def _choice(options: list[list[str | Name | Choice]], whole: str) -> Choice:
    """The choice among ``options``, the first of which may begin with how many to take."""
    low, between = 1, ", "
    limit: int | None = 1
    first = options[0]
    if first and isinstance(first[0], str) and (told := _COUNT.match(first[0])):
        if told[1]:
            low, limit = _whole(told[1], whole), _whole(told[1], whole)
        else:
            low = _whole(told[2], whole) if told[2] else 1
            limit = _whole(told[3], whole) if told[3] else None
        if limit is not None and limit < low:
            raise InvalidRequest(f"{shown(whole)} takes {low} at least and {limit} at most")
        between = told[4] if told[4] is not None else between
        first[0] = first[0][told.end() :]
        if not first[0] and len(first) > 1:
            del first[0]
    shares = []
    for option in options:
        if option and isinstance(option[0], str):
            option[0] = option[0].lstrip()
        if option and isinstance(option[-1], str):
            option[-1] = option[-1].rstrip()
        share = _SHARE.match(option[0]) if option and isinstance(option[0], str) else None
        shares.append(float(share[1]) if share else 1.0)
        if share:
            option[0] = str(option[0])[share.end() :].lstrip()
    if not 0 < sum(shares) < float("inf"):
        raise InvalidRequest(f"the weights in {shown(whole)} must be finite and not all 0")
    return Choice(tuple(map(tuple, options)), tuple(shares), low, limit, between)


def _whole(digits: str, whole: str) -> int:
    if len(digits) > 4:
        raise InvalidRequest(f"{shown(whole)} takes more than there can be")
    return int(digits)


class Draws:
    """Uniform numbers of a seed, by counting: the same on every machine and in every version."""

    def __init__(self, seed: int) -> None:
        self.seed, self.count = seed, 0

    def uniform(self) -> float:
        """The next number in [0, 1), of 53 bits."""
        data = hashlib.sha256(f"sfumato prompt {self.seed} {self.count}".encode()).digest()
        self.count += 1
        if self.count > MOST_DRAWS:
            raise InvalidRequest(
                f"the prompt makes more than {MOST_DRAWS} choices: a list may ask for itself"
            )
        return (int.from_bytes(data[:8], "big") >> 11) / 2**53

    def among(self, shares: Sequence[float]) -> int:
        """An index with a chance in proportion to its share."""
        reached, wanted = 0.0, self.uniform() * sum(shares)
        for index, share in enumerate(shares):
            reached += share
            if wanted < reached:
                return index
        return max(index for index, share in enumerate(shares) if share > 0)


def draw(text: str, seed: int, lists: Lists = no_lists) -> str:
    """The prompt that ``seed`` draws from the pattern ``text``.

    InvalidRequest for a pattern that is not well formed, or that grows without end.
    """
    return _draw(text, Draws(seed), lists, 0)


def _draw(pattern: Pattern | str, draws: Draws, lists: Lists, depth: int) -> str:
    texts: list[str] = []
    size = 0
    for piece in _pattern(pattern, depth):
        if isinstance(piece, str):
            texts.append(piece)
        elif isinstance(piece, Name):
            lines = _lines(piece, lists)
            texts.append(_draw(lines[draws.among([1.0] * len(lines))], draws, lists, depth + 1))
        else:
            options, shares = _options(piece, lists)
            least, most = _bounds(piece, len(options))
            taken = []
            for _ in range(least + int(draws.uniform() * (most - least + 1)) if most > least else least):
                if not any(shares):
                    break
                index = draws.among(shares)
                taken.append(_draw(options.pop(index), draws, lists, depth + 1))
                del shares[index]
            texts.append(piece.between.join(taken))
        size += len(texts[-1])
        _check_size(size)
    return "".join(texts)


def combinations(text: str, lists: Lists = no_lists, limit: int = 1000) -> Iterator[str]:
    """All prompts that the pattern ``text`` can become, in the order of writing, the first ``limit`` of them.

    Several of one choice are taken in the order in which they are written. Weights do not matter, but an option of
    weight 0 never comes. The last choice varies fastest, and nothing is made before it is asked for.
    """
    return itertools.islice(_all(text, lists, 0), limit)


def _all(pattern: Pattern | str, lists: Lists, depth: int) -> Iterator[str]:
    pieces = _pattern(pattern, depth)
    for texts in _product([partial(_all_of, piece, lists, depth) for piece in pieces]):
        _check_size(sum(map(len, texts)))
        yield "".join(texts)


def _all_of(piece: str | Name | Choice, lists: Lists, depth: int) -> Iterator[str]:
    if isinstance(piece, str):
        yield piece
    elif isinstance(piece, Name):
        for line in _lines(piece, lists):
            yield from _all(line, lists, depth + 1)
    else:
        options, shares = _options(piece, lists)
        wanted = [option for option, share in zip(options, shares, strict=True) if share]
        least, most = _bounds(piece, len(wanted))
        for count in range(least, most + 1):
            for taken in itertools.combinations(wanted, count):
                for texts in _product([partial(_all, option, lists, depth + 1) for option in taken]):
                    yield piece.between.join(texts)


def _product(makers: Sequence[Callable[[], Iterator[str]]]) -> Iterator[list[str]]:
    """The product of what ``makers`` make, the last varying fastest, without holding any of it."""
    texts = [""] * len(makers)
    running = [makers[0]()] if makers else []
    if not makers:
        yield texts
    while running:
        place = len(running) - 1
        text = next(running[place], None)
        if text is None:
            running.pop()
            continue
        texts[place] = text
        if place == len(makers) - 1:
            yield texts
        else:
            running.append(makers[place + 1]())


def _bounds(choice: Choice, count: int) -> tuple[int, int]:
    """How many of ``count`` options are taken, at least and at most."""
    most = count if choice.high is None else min(choice.high, count)
    return min(choice.low, most), most


def _options(choice: Choice, lists: Lists) -> tuple[list[Pattern | str], list[float]]:
    """The options of ``choice`` and their shares; a list that stands alone gives its lines."""
    if len(choice.options) == 1 and len(choice.options[0]) == 1 and isinstance(choice.options[0][0], Name):
        lines = _lines(choice.options[0][0], lists)
        return [*lines], [1.0] * len(lines)
    return [*choice.options], [*choice.shares]


def _lines(name: Name, lists: Lists) -> Sequence[str]:
    lines = lists(name.name)
    if not lines:
        raise InvalidRequest(f"the list {name.name!r} is empty")
    return lines


def _pattern(pattern: Pattern | str, depth: int) -> Pattern:
    """``pattern`` read, if it is text still; InvalidRequest if it is ``depth`` deep, which is too much."""
    if depth > DEEPEST:
        raise InvalidRequest(
            f"lists and choices are nested more than {DEEPEST} deep: a list may ask for itself"
        )
    return parse_pattern(pattern) if isinstance(pattern, str) else pattern


def _check_size(size: int) -> None:
    if size > MOST_TEXT:
        raise InvalidRequest(
            f"the prompt becomes longer than {MOST_TEXT} characters: a list may ask for itself"
        )
