"""Hostile safetensors files by the thousand: each opens rightly or is refused in a sentence, cheaply.

``python -m tests.weights.fuzz --times 10000`` mutates headers and bodies and opens each file, in a process that may
take 200 MB more than it has at the start. What is accepted must be what safetensors itself reads from the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sfumato.errors import WeightsError
from sfumato.weights.source import open_source

MEMORY = 200_000_000
SLOWEST = 2.0  # seconds of the processor for one file, of any size
ODD: list[object] = [
    *(
        -1,
        0,
        1,
        2**31,
        2**53,
        2**63 - 1,
        2**63,
        2**64,
        10**400,
        1.5,
        float("nan"),
        True,
        None,
        "",
        "F32",
        "f32",
        {},
    ),
    *([], [[]], [1] * 17, [2**62, 2**62, 0], [2**40, 2**40], [0], [-1, -1], ["1"], [True], [1.0], {"a": 1}),
]
WORDS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\0",
    b" ",
    b"1e9",
]


def sample(rng: random.Random) -> bytes:
    """A sound file of a few small tensors."""
    kinds = [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.int64,
        torch.bool,
        torch.float8_e5m2,
    ]
    tensors = {}
    for number in range(rng.randint(1, 6)):
        shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 3))]
        tensors[f"layer.{number}.weight"] = torch.ones(shape).to(rng.choice(kinds))
    return save(tensors, {"format": "pt", "note": 'é "\n'} if rng.random() < 0.5 else None)


def split(data: bytes) -> tuple[dict[str, object], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, anywhere or in the header's length and first bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(rng.choice([8, min(200, len(data)), len(data)]))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def wrong_length(data: bytes, rng: random.Random) -> bytes:
    near = int.from_bytes(data[:8], "little") + rng.randint(-9, 9)
    sizes = [0, 1, 2, near, len(data), len(data) - 8, 100_000_000, 100_000_001, 2**31, 2**63, 2**64 - 1]
    return (rng.choice(sizes) % 2**64).to_bytes(8, "little") + data[8:]


def grown(data: bytes, rng: random.Random) -> bytes:
    extra = rng.randbytes(rng.randint(1, 64))
    at = rng.choice([0, 8, len(data), rng.randrange(len(data))])
    return data[:at] + extra + data[at:]


def odd_field(data: bytes, rng: random.Random) -> bytes:
    """A field of a tensor, or of the metadata, replaced, dropped or added."""
    header, body = split(data)
    fields = header[rng.choice(list(header))]
    assert isinstance(fields, dict)
    key = rng.choice([*fields, "more"])
    if rng.random() < 0.15:
        fields.pop(key, None)
    elif isinstance(fields.get(key), list) and fields[key] and rng.random() < 0.7:
        fields[key][rng.randrange(len(fields[key]))] = rng.choice(ODD)
    else:
        fields[key] = rng.choice(ODD)
    return joined(json.dumps(header).encode(), body)


def moved(data: bytes, rng: random.Random) -> bytes:
    """Offsets shifted, so that tensors overlap, leave holes, or lie outside."""
    header, body = split(data)
    fields = header[rng.choice([name for name in header if name != "__metadata__"])]
    assert isinstance(fields, dict)
    by = rng.choice([-8, -1, 1, 2, 4, 64, 2**40])
    fields["data_offsets"] = [n + by for n in fields["data_offsets"]]
    return joined(json.dumps(header).encode(), body)


def twice(data: bytes, rng: random.Random) -> bytes:
    """A name, or a field, that stands twice."""
    header, body = split(data)
    name = rng.choice(list(header))
    text = json.dumps(header)
    if rng.random() < 0.5:
        again = f", {json.dumps(name)}: {json.dumps(header[name])}}}"
        return joined((text[:-1] + again).encode(), body)
    return joined(text.replace('"dtype"', '"dtype": "F32", "dtype"', 1).encode(), body)


def words(data: bytes, rng: random.Random) -> bytes:
    """Marks of JSON put into the header's text."""
    size = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + size], data[8 + size :]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(WORDS) * rng.choice([1, 1, 1, 3000]) + text[at + rng.randint(0, 3) :]
    return joined(text, body)


def noise(data: bytes, rng: random.Random) -> bytes:
    return joined(rng.choice([b"{", b"", b'{"']) + rng.randbytes(rng.randint(0, 100)), data[-20:])


def named(data: bytes, rng: random.Random) -> bytes:
    """Another name for a tensor."""
    header, body = split(data)
    name = rng.choice(list(header))
    strange = ["", "__metadata__", "\0", "a" * 5000, "../x", "é", "\n", "x" * 4000, "\ud800"]
    renamed = {rng.choice(strange) if key == name else key: value for key, value in header.items()}
    return joined(json.dumps(renamed).encode(), body)


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(
        truncated,
        flipped,
        flipped,
        wrong_length,
        grown,
        odd_field,
        odd_field,
        moved,
        twice,
        words,
        noise,
        named,
    )
]


def large(folder: Path) -> None:
    """Write files whose headers are as large as they may be."""
    empty = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    tensors = [b'"tensor.%d.weight":%s' % (n, empty) for n in range(300_000)]
    hidden = [each.replace(b"data_", b"\\u0064ata_") for each in tensors]
    texts = [b'"%d":"x"' % n for n in range(1_000_000)]
    headers = {
        "tensors": b"{" + b",".join(tensors) + b"}",
        "hidden": b"{" + b",".join(hidden) + b"}",
        "metadata": b'{"__metadata__":{' + b",".join(texts) + b"}}",
        "text": b'{"__metadata__":{"a":"' + b"\\n" * 45_000_000 + b'"}}',
        "wide": b'{"__metadata__":{"a":"' + "x\U0001f600".encode() * 3_000_000 + b'"}}',
        "name": b'{"' + b"a" * 90_000_000 + b'":' + empty + b"}",
        "braces": b"{" * 95_000_000,
        "lists": b'{"a":' + b"[" * 95_000_000,
        "empties": b'{"a":{"shape":[' + b"[]," * 30_000_000 + b"[]]}}",
        "spaces": b"{" + b" " * 99_000_000 + b"}",
        "number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 90_000_000 + b'],"data_offsets":[0,0]}}',
    }
    for name, header in headers.items():
        (folder / f"{name}.large.safetensors").write_bytes(joined(header, b""))


def judge(path: Path) -> str:
    """Open ``path`` and read all of it: "opened", or the sentence of its refusal; all else is an exception."""
    began = time.process_time()
    try:
        source = open_source(path)
        tensors = {name: source.read(name) for name in source.entries}
    except WeightsError as error:
        told = str(error)
        assert "\n" not in told, told
        assert len(told) < 1000, told
        told.encode("utf-8")
    else:
        told = "opened"
        peer = load(path.read_bytes())
        assert peer.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert peer[name].dtype == tensor.dtype
            assert peer[name].shape == tensor.shape
            assert values(peer[name]) == values(tensor)
    taken = time.process_time() - began
    assert taken < SLOWEST, f"{told[:80]} took {taken:.1f} s"
    return told


def values(tensor: torch.Tensor) -> bytes:
    """The tensor's bytes, of any dtype."""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def peer_opens(data: bytes) -> bool:
    try:
        load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError):
        return False
    return True


def run(folder: Path, times: int, seed: int) -> Counter[str]:
    """Mutate and judge ``times`` files; returns what came of them. An AssertionError shows a file's bytes."""
    rng = random.Random(seed)
    came: Counter[str] = Counter()
    path = folder / "hostile.safetensors"
    for number in range(times):
        data = rng.choice(MUTATIONS)(sample(rng), rng)
        path.write_bytes(data)
        try:
            told = judge(path)
        except Exception as error:
            raise AssertionError(f"file {number} of seed {seed}: {error!r}: {data[:2000]!r}") from error
        came["opened" if told == "opened" else "refused"] += 1
        if told != "opened" and peer_opens(data):
            why = re.sub(r"'[^']*'|layer\.\d|\[.*\]", "...", told.rpartition("damaged: ")[2])
            came[f"refused by us alone: {why[:90]}"] += 1
    return came


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", action="store_true", help="also headers of up to 100 MB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, 20, options.seed)
        if options.large:  # made by another process, so that this one holds nothing of it
            child = multiprocessing.get_context("fork").Process(target=large, args=(folder,))
            child.start()
            child.join()
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        with contextlib.suppress(MemoryError):
            raise AssertionError(
                f"the memory is not bounded: {len(bytearray(MEMORY + 10**7))} bytes were given"
            )
        began = time.perf_counter()
        came = run(folder, options.times, options.seed)
        print(f"{options.times:,} files in {time.perf_counter() - began:.1f} s")
        for what, count in came.most_common():
            print(f"{count:8,}  {what}")
        for path in sorted(folder.glob("*.large.*")):
            began = time.perf_counter()
            told = judge(path)
            kind, taken = path.name.split(".")[0], time.perf_counter() - began
            print(f"{kind}: {taken:.2f} s: {told.rpartition('damaged: ')[2][:90]}")
            assert (told == "opened") == path.name.startswith(("spaces", "wide"))


if __name__ == "__main__":
    main()
