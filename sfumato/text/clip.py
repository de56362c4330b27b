"""Prompts to the token ids of CLIP: byte-level byte-pair encoding of lowercased words.

(Radford et al. 2021, section 2.4, over the merges of Sennrich et al. 2016.) The merges ship with sfumato, since
single-file checkpoints lack them; they are OpenAI's, MIT.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Splitters

from sfumato.errors import InvalidRequest, WeightsError

MERGES = Path(__file__).parent.parent / "assets" / "clip" / "merges.txt.gz"
MERGES_HASH = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
START, END = 49406, 49407
LENGTH = 77
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@cache
def pipeline() -> Tokenizer:
    """The tokenizer without its markers; WeightsError if the merges are missing or altered."""
    try:
        data = gzip.decompress(MERGES.read_bytes())
    except (OSError, EOFError) as error:
        raise WeightsError(
            f"CLIP's vocabulary {MERGES} cannot be read: {error}; install sfumato again"
        ) from error
    if hashlib.sha256(data).hexdigest() != MERGES_HASH:
        raise WeightsError(f"CLIP's vocabulary {MERGES} is altered; install sfumato again")
    merges = [(a, b) for a, b in (line.split(" ") for line in data.decode().split("\n")[:-1])]
    letters = _letters()
    names = [*letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in merges)]
    made = Tokenizer(
        BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges,
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
        )
    )
    made.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    made.pre_tokenizer = Splitters(
        [
            Split(Regex(_WORDS), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def pieces(prompt: str) -> list[int]:
    """The ids of all of ``prompt``, without markers. InvalidRequest if it is not valid Unicode text.

    Markers such as ``<|endoftext|>`` written inside a prompt are plain text.
    """
    if not isinstance(prompt, str):
        raise InvalidRequest(f"a prompt must be a string, not {type(prompt).__name__}")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the prompt is not valid Unicode text: character {error.start + 1} is a lone surrogate; "
            f"give the prompt as UTF-8"
        ) from error
    ids: list[int] = pipeline().encode(prompt, add_special_tokens=False).ids
    return ids


def _letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of the vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return [*map(chr, plain), *(chr(256 + i) for i in range(len(others)))]
