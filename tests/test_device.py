"""Devices and dtypes by name: what is not there is told before anything is loaded."""

from __future__ import annotations

import pytest
import torch

import sfumato
from sfumato.device import device_named, dtype_named
from sfumato.errors import InvalidRequest


def test_the_cpu_is_always_there() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert dtype_named("float16") is torch.float16


@pytest.mark.parametrize(
    ("name", "words"), [("cuda:99", "cuda:99"), ("gpu", "unknown device"), ("meta", "allowed: cpu")]
)
def test_what_is_not_there_is_told(name: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        device_named(name)
    with pytest.raises(InvalidRequest):
        sfumato.load("emoji", device=name)


def test_float16_on_a_cpu_becomes_what_is_fast_there() -> None:
    made = sfumato.load("emoji", dtype="float16")
    assert made.dtype in (torch.float32, torch.bfloat16)
