r"""What compel reads at each place of a text: words, groups and quotes with their weights, names of adapters.

compel's is a parsing expression grammar: at a place the first alternative that fits is taken and never doubted, so
what stands at a place depends on the places after it alone. One pass from the end to the beginning finds it for all,
in linear time and without recursion (Ford 2002, packrat parsing, with the table filled from the right).

::

    prompt  := (adapter | weighted | quote | group | anything up to a space)*
    inner   := (adapter | weighted | group | quote | word | "," | ".")*
    group   := "(" inner ")"            quote := '"' inner '"', with \" for a quote inside
    weighted := (quote | group | word) ".attend(" op ")" | (quote | group) op | word ("+"+ | "-"+)
    op      := "+"+ | "-"+ | number     nothing stands between a weight and what it weighs
    adapter := ("useLora" | "withLora") "(" name ["," number] ")"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SPACE = " \t\n\r"
_SYNTAX = '()",.+-='
_QUOTE = re.compile(r'"(?:\\"|[^"\n\r])*"')
_SPACES = re.compile(r"\\[tnfr]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]++\.[0-9]*+|\.[0-9]++)|-?[0-9]++")
_ATTEND = re.compile(r"[ \t\n\r]*+\.attend[ \t\n\r]*+\([ \t\n\r]*+")
_ADAPTER = re.compile(
    r"(?:useLora|withLora)[ \t\n\r]*+\([ \t\n\r]*+([A-Za-z0-9_-]++)"
    r"(?:[ \t\n\r]*+,[ \t\n\r]*+([+-]?(?:[0-9]++\.[0-9]*+|\.[0-9]++)|-?[0-9]++))?[ \t\n\r]*+\)"
)


@dataclass(frozen=True, slots=True)
class Node:
    """What stands at a place, up to ``end``: one of the kinds word, mark, group, quote and adapter.

    ``begin`` and ``stop`` bound its text (without brackets); ``inside`` is what a quote holds, as a text of its own.
    ``weight`` multiplies it, ``name`` is an adapter's.
    """

    kind: str
    end: int
    begin: int
    stop: int
    weight: float = 1.0
    inside: Grammar | None = None
    name: str = ""


class Grammar:
    """A text with what compel reads at each of its places."""

    def __init__(self, text: str) -> None:
        """``text`` has a space after every comma, as compel puts one there first."""
        self.text = text
        size = len(text)
        self.skip = list(range(size + 1))  # the next place that is no space
        self.word = list(range(size + 1))  # where a word that begins here ends
        self.run = list(range(size + 1))  # where a run of one sign ends
        self.nodes: list[Node | None] = [None] * (size + 1)
        self.stop = list(range(size + 1))  # where a sequence of nodes that begins here ends
        for at in range(size - 1, -1, -1):
            self._fill(at, text[at])

    def _fill(self, at: int, mark: str) -> None:
        text = self.text
        if mark in SPACE:
            self.skip[at] = self.skip[at + 1]
            self.stop[at] = self.stop[at + 1]
            return
        following = text[at + 1 : at + 2]
        if mark == "\\" and following and following in _SYNTAX:
            self.word[at] = self.word[at + 2]
        elif mark in "+-":
            self.run[at] = self.run[at + 1] if following == mark else at + 1
            if following and following not in SPACE and following not in _SYNTAX:
                self.word[at] = self.word[at + 1]
        elif mark not in _SYNTAX:
            self.word[at] = self.word[at + 1]
        if (node := self._node(at, mark)) is not None:
            self.nodes[at] = node
            self.stop[at] = self.stop[node.end]

    def _node(self, at: int, mark: str) -> Node | None:
        if mark in "uw" and (found := _ADAPTER.match(self.text, at)):
            return Node("adapter", found.end(), at, at, float(found[2] or 1), name=found[1])
        target = self._target(at, mark)
        if target is None:
            return Node("mark", at + 1, at, at + 1) if mark in ",." else None
        return self._weighted(target) or target

    def target(self, at: int) -> Node | None:
        """The quote, the group or the word at ``at``, whatever follows it; None if there is none."""
        return self._target(at, self.text[at]) if at < len(self.text) else None

    def _target(self, at: int, mark: str) -> Node | None:
        text = self.text
        if mark == "(":
            stop = self.stop[at + 1]
            close = self.skip[stop]
            return Node("group", close + 1, at + 1, close) if text[close : close + 1] == ")" else None
        if mark == '"':
            found = None if text[at - 1 : at] == "\\" else _QUOTE.match(text, at)
            inside = quoted(found.group()) if found else None
            if found is None or inside is None or not inside.is_inner():
                return None
            return Node("quote", found.end(), at + 1, found.end() - 1, inside=inside)
        end = self.word[at]
        return Node("word", end, at, end) if end > at else None

    def _weighted(self, target: Node) -> Node | None:
        """``target`` with the weight that is written after it."""
        text, end = self.text, target.end
        if found := _ATTEND.match(text, end):
            weight, stop = self._operator(found.end())
            close = self.skip[stop] if stop else 0
            if stop and text[close : close + 1] == ")":
                return Node(target.kind, close + 1, target.begin, target.stop, weight, target.inside)
        weight, stop = self._operator(end, signs=target.kind == "word")
        if not stop:
            return None
        return Node(target.kind, stop, target.begin, target.stop, weight, target.inside)

    def _operator(self, at: int, signs: bool = False) -> tuple[float, int]:
        """The weight at ``at`` and where it ends, 0 if there is none; with ``signs`` numbers are none."""
        mark = self.text[at : at + 1]
        if mark and mark in "+-":
            end = self.run[at]
            try:
                return (1.1 if mark == "+" else 0.9) ** (end - at), end
            except OverflowError:
                return float("inf"), end
        if not signs and (found := _NUMBER.match(self.text, at)):
            return float(found.group()), found.end()
        return 1.0, 0

    def is_inner(self) -> bool:
        """Whether all of the text is read as the inside of brackets."""
        return self.skip[self.stop[0]] == len(self.text)

    def prompt_node(self, at: int) -> Node:
        """What stands at ``at``, which is no space, where any text is allowed."""
        node = self.nodes[at]
        if node is not None and (node.kind not in ("word", "mark") or node.end > self.word[at] > at):
            return node
        end = at
        while end < len(self.text) and self.text[end] not in SPACE:
            end += 1
        return Node("word", end, at, end)


def quoted(text: str) -> Grammar:
    """What stands between the quotes of ``text``: quotes in it stay escaped."""
    inside = _SPACES.sub(" ", text[1:-1])
    return Grammar(inside.replace('\\"', '"').replace('"', '\\"'))
