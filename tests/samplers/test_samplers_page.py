"""docs/samplers.md says of every sampler what the code says, and names every peer."""

from __future__ import annotations

from sfumato.samplers import SAMPLERS
from tests.samplers import peers_ode, peers_sde
from tests.samplers.page import PAGE, table_of_samplers


def test_the_page_holds_the_table_of_the_code_and_every_peer() -> None:
    text = PAGE.read_text("utf-8")
    assert table_of_samplers() in text, "make it again: python -m tests.samplers.page"
    for name, found in (*peers_ode.PEERS.items(), *peers_sde.PEERS.items()):
        for peer, _, _ in found:
            assert f"| `{name}` | {peer} |" in text
    for name, entry in SAMPLERS.items():
        assert text.count(f"| `{name}` |") >= (3 if entry.order else 2), name
