"""Samplers by the names that other programs show: case, blanks and underscores do not count."""

from __future__ import annotations

import pytest

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.samplers import SAMPLERS, sampler

SHOWN = {
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2 a": "dpm2_ancestral",
    "DPM++ 2S a": "dpmpp_2s_ancestral",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "dpmpp_2m_sde_heun",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "DPM adaptive": "dpm_adaptive",
    "DDIM": "ddim",
    "PLMS": "pndm",
    "UniPC": "unipc",
    "LCM": "lcm",
    "Restart": "restart",
}
"""The names of A1111's list, but for "DPM fast", which is not here."""


@pytest.mark.parametrize("shown", SHOWN)
def test_names_as_others_show_them(shown: str) -> None:
    assert sampler(shown).name == SHOWN[shown]


@pytest.mark.parametrize("name", SAMPLERS)
def test_names_and_aliases_are_their_own(name: str) -> None:
    """Also where folding makes them alike, as uni_pc (bh1) and unipc (bh2)."""
    assert sampler(name) is SAMPLERS[name]
    assert all(sampler(alias) is SAMPLERS[name] for alias in SAMPLERS[name].aliases)


def test_a_name_of_a_sampler_and_a_grid_says_which_is_which() -> None:
    with pytest.raises(InvalidRequest, match=r"sampler = 'dpmpp_2m' and grid = 'karras'"):
        sampler("DPM++ 2M Karras")
    with pytest.raises(UnknownName, match="did you mean 'euler_a'"):
        sampler("Eulr a")
