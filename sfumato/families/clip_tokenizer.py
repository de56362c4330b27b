"""The files of the folder of a CLIP tokenizer, from the vocabulary that comes with this package."""

from __future__ import annotations

import gzip
import json
from functools import cache

from sfumato.text.clip import MERGES, pipeline

START_WORD, END_WORD = "<|startoftext|>", "<|endoftext|>"


@cache
def _clip_words() -> tuple[bytes, bytes]:
    """The vocabulary and the merges of CLIP, as a tokenizer's folder has them."""
    found = pipeline().get_vocab(with_added_tokens=False)
    names = [*sorted(found, key=lambda name: found[name]), START_WORD, END_WORD]
    numbers = {name: number for number, name in enumerate(names)}
    told = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
    return told.encode(), b"#version: 0.2\n" + gzip.decompress(MERGES.read_bytes())


def clip_tokenizer(pad: str, length: int) -> dict[str, bytes]:
    """The files of the folder of a CLIP tokenizer that fills rows of ``length`` with ``pad``."""
    words, merges = _clip_words()
    told = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START_WORD,
        "eos_token": END_WORD,
        "unk_token": END_WORD,
        "pad_token": pad,
        "model_max_length": length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    return {
        "vocab.json": words,
        "merges.txt": merges,
        "tokenizer_config.json": (json.dumps(told, indent=2) + "\n").encode(),
    }
