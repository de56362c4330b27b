"""What the progress bar of `sfumato generate` expects."""

from __future__ import annotations

from sfumato.cli.generate import evaluations_of


def test_the_number_of_evaluations_is_unknown_where_the_sampler_decides_on_the_way() -> None:
    assert evaluations_of({"steps": 6, "sampler": "dpm2"}) == 12
    assert evaluations_of({"steps": 6, "sampler": "dpm_adaptive(order=2)"}) is None
