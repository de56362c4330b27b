from pathlib import Path

from tests.train import killing


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = killing.write_idx(tmp_path / "data")
    killing.undisturbed(data, tmp_path / "calm")
    halves = killing.kill_often(data, tmp_path / "killed", times=3, seed=1)
    assert any(halves), "no kill fell into the writing of a checkpoint"
    assert killing.same(tmp_path / "calm", tmp_path / "killed")
    assert killing.leftovers(tmp_path / "killed") == []
