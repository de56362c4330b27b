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

    The states before the language model's last ``skip`` layers are read; see sfumato.nn.language.
    """

    length: int
    written: Callable[[Prompt], str]
    skip: int = 1

    def ids(self, kit: Kit, prompt: Prompt) -> list[int]:
        """All tokens of ``prompt``, however many, with that which says that a text begins where there is one."""
        assert kit.tokens is not None
        begin = KNOWN[kit.nets["language"].config.kind].begin
        found = kit.tokens.split(self.written(prompt))
        return found if begin is None else [begin, *found]

    def dropped(self, kit: Kit, prompt: Prompt) -> list[str]:
        """What is not read of a long ``prompt``."""
        over = len(self.ids(kit, prompt)) - self.length
        if over <= 0:
            return []
        who = LANGUAGES[kit.nets["language"].config.kind]
        return [f"the prompt is long: {who} does not read its last {over} tokens"]

    def condition(self, kit: Kit, prompts: Sequence[Prompt]) -> Cond:
        """The states of ``prompts``, padding masked. A negative prompt nobody gave is the empty text."""
        check_plain(prompts)
        network = kit.nets["language"]
        ids = torch.full((len(prompts), self.length), network.config.padding)
        mask = torch.zeros(len(prompts), self.length, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            kept = self.ids(kit, prompt)[: self.length]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = True
        ids, mask = ids.to(network.device), mask.to(network.device)
        return Cond(tokens=network(ids, mask, skip=self.skip), mask=mask)
