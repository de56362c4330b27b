from pathlib import Path

import numpy as np
import pytest

from sfumato.data.pack import pack
from sfumato.data.pictures import open_pictures
from sfumato.errors import InvalidRequest

TINY = Path(__file__).parent.parent / "assets" / "emoji-tiny.tar"


def test_a_packed_set_is_within_its_size_and_keeps_records_and_alpha(tmp_path: Path) -> None:
    before = open_pictures(TINY)
    most = 600_000
    report = pack(before, tmp_path, most)
    after = open_pictures(tmp_path / "packed.tar")
    assert report["bytes"] <= most
    assert report["bytes"] == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert after.records == before.records
    for i in range(0, len(before), 20):
        a, b = before.read(i), after.read(i)
        assert np.array_equal(a[..., 3], b[..., 3])
        solid = a[..., 3] > 250
        assert np.abs(a[solid][:, :3].astype(int) - b[solid][:, :3]).mean() < 12


def test_what_cannot_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="do not fit"):
        pack(open_pictures(TINY), tmp_path / "out", 50_000)
    assert not (tmp_path / "out").exists()
