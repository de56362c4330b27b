"""How families have prompts read by a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sfumato.condition import Cond, Prompt
from sfumato.families.family import Kit
from sfumato.families.languages import KNOWN
from sfumato.families.signatures import LANGUAGES
from sfumato.families.sincos import check_plain


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A family's way of having prompts read: ``written`` as which text, its first ``length`` tokens of them.

    The states before the language model's last ``skip`` layers are read; see sfumato.nn.language. ``behind`` is a text
    that stands before prompts, but not before negative ones, and is passed over: of its tokens the states of the first
    and of the last are read.
    """

    length: int
    written: Callable[[Prompt], str]
    skip: int = 1
    behind: str = ""

    def ids(self, kit: Kit, prompt: Prompt) -> list[int]:
        """All tokens of ``prompt``, however many, with that which says that a text begins where there is one."""
        return self._split(kit, ("" if prompt.negative else self.behind) + self.written(prompt))

    def read(self, kit: Kit, prompt: Prompt) -> list[int]:
        """The tokens of ``prompt`` whose states are read."""
        room = self._room(kit, prompt)
        kept = self.ids(kit, prompt)[:room]
        return [*kept[:1], *kept[room - self.length + 1 :]]

    def dropped(self, kit: Kit, prompt: Prompt) -> list[str]:
        """What is not read of a long ``prompt``."""
        over = len(self.ids(kit, prompt)) - self._room(kit, prompt)
        if over <= 0:
            return []
        who = LANGUAGES[kit.nets["language"].config.kind]
        return [f"the prompt is long: {who} does not read its last {over} tokens"]

    def condition(self, kit: Kit, prompts: Sequence[Prompt]) -> Cond:
        """The states of ``prompts``, padding masked. A negative prompt nobody gave is the empty text."""
        check_plain(prompts)
        network = kit.nets["language"]
        rooms = [self._room(kit, prompt) for prompt in prompts]
        ids = torch.full((len(prompts), max(rooms)), network.config.padding)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (prompt, room) in enumerate(zip(prompts, rooms, strict=True)):
            kept = self.ids(kit, prompt)[:room]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = True
        ids, mask = ids.to(network.device), mask.to(network.device)
        states = network(ids, mask, skip=self.skip)
        read = torch.tensor([[0, *range(room - self.length + 1, room)] for room in rooms])
        rows = torch.arange(len(prompts))[:, None]
        return Cond(tokens=states[rows, read], mask=mask[rows, read])

    def _room(self, kit: Kit, prompt: Prompt) -> int:
        """How many tokens go through the language model."""
        if prompt.negative or not self.behind:
            return self.length
        return len(self._split(kit, self.behind)) + self.length - 2

    def _split(self, kit: Kit, text: str) -> list[int]:
        assert kit.tokens is not None
        begin = KNOWN[kit.nets["language"].config.kind].begin
        found = kit.tokens.split(text)
        return found if begin is None else [begin, *found]
