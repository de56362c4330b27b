"""The table of noises: by name, with options as text."""

from __future__ import annotations

import pytest
import torch

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.noise import NOISES, Brownian, CudaBatch, CudaRows, Stream, TorchBatch, noise
from sfumato.process.level import Level
from sfumato.references import PAPERS

AT, TO = Level(0.5, 0.5, 0.5), Level(0.4, 0.6, 0.4)
SEEDS, SHAPE = (5, 6, 7), (2, 3)
DIRECT = {
    "stream": lambda: Stream(SEEDS, SHAPE),
    "brownian": lambda: Brownian(SEEDS, SHAPE),
    "torch": lambda: TorchBatch(5, 3, SHAPE),
    "cuda": lambda: CudaBatch(5, 3, SHAPE),
    "cuda_rows": lambda: CudaRows(SEEDS, SHAPE),
}


@pytest.mark.parametrize("name", NOISES)
def test_a_name_makes_its_noise(name: str) -> None:
    made, direct = noise(name, SEEDS, SHAPE), DIRECT[name]()
    assert type(made) is type(direct)
    assert torch.equal(made.start(), direct.start())
    assert torch.equal(made(AT, TO), direct(AT, TO))
    assert noise(name, range(5, 8), SHAPE, torch.float64).start().dtype == torch.float64


@pytest.mark.parametrize("name", NOISES)
def test_by_row_is_told_truly(name: str) -> None:
    """Whether every row of a batch, at every draw, is what its seed gives alone."""
    together, alone = noise(name, SEEDS, (4, 5)), [noise(name, [seed], (4, 5)) for seed in SEEDS]
    same = [
        torch.equal(batch[k : k + 1], row)
        for batch, rows in (
            (together.start(), [one.start() for one in alone]),
            (together(AT, TO), [one(AT, TO) for one in alone]),
        )
        for k, row in enumerate(rows)
    ]
    assert all(same) == NOISES[name].by_row


def test_the_table_is_data() -> None:
    assert next(iter(NOISES)) == "stream"
    for name, entry in NOISES.items():
        assert entry.name == name
        assert entry.equals
        assert set(entry.cite) <= PAPERS.keys()


def test_a_card_is_named_by_options() -> None:
    direct = CudaBatch(5, 2, (4, 64, 64), card=(82, 1536)).start()
    made = noise("cuda(multiprocessors=82, threads=1536)", [5, 6], (4, 64, 64))
    assert torch.equal(made.start(), direct)
    rows = noise("cuda_rows(multiprocessors=82, threads=1536)", [5, 9], (4, 128, 128))
    assert torch.equal(rows.start(), CudaRows([5, 9], (4, 128, 128), card=(82, 1536)).start())


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("brownain", UnknownName, "unknown noise 'brownain'; did you mean 'brownian'"),
        ("", InvalidRequest, "noise = ''"),
        ("stream(depth=3)", InvalidRequest, "takes no options, and depth"),
        ("cuda(multiprocesors=82)", UnknownName, "did you mean 'multiprocessors'"),
        ("cuda(multiprocessors=8.5)", InvalidRequest, "a whole number"),
        ("cuda(multiprocessors=82)", InvalidRequest, r"card = \(82, 0\)"),
        ("cuda(threads=1536)", InvalidRequest, r"card = \(0, 1536\)"),
        ("cuda(multiprocessors=-1, threads=1536)", InvalidRequest, r"card = \(-1, 1536\)"),
    ],
)
def test_other_texts_are_refused(text: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        noise(text, SEEDS, SHAPE)


@pytest.mark.parametrize("name", ["torch", "cuda"])
def test_one_generator_has_one_seed(name: str) -> None:
    for seeds in ([5, 7], [5, 5], [6, 5], [1, 2, 3, 4, 9]):
        with pytest.raises(InvalidRequest, match=f"{name!r} has one seed for the whole batch"):
            noise(name, seeds, SHAPE)
    with pytest.raises(InvalidRequest, match="seed = -1"):
        noise(name, [-1, 0], SHAPE)
    with pytest.raises(InvalidRequest, match="no seeds"):
        noise(name, [], SHAPE)
