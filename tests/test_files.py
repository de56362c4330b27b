"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from sfumato.errors import OutputError
from sfumato.files import check_folder, write_atomic, write_bytes
from tests.rights import without_rights


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[None, b"the old content"], ids=["new", "over an old file"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path to write to; whatever was there before the failure must be there after it, and nothing else."""
    path = tmp_path / "out.bin"
    if request.param is not None:
        path.write_bytes(request.param)
    before = names(tmp_path)
    yield path
    assert names(tmp_path) == before
    assert request.param is None or path.read_bytes() == request.param


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_what_is_written_is_there_whole_and_alone(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    path = tmp_path / "out.bin"
    path.write_bytes(b"x" * 5_000_000)
    assert write_bytes(path, data) == path
    assert path.read_bytes() == data
    assert names(tmp_path) == ["out.bin"]
    assert write_bytes(str(path), b"again").read_bytes() == b"again"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o027])
def test_permissions_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = write_bytes(tmp_path / "out.bin", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_writer_that_stops_half_way_leaves_nothing(error: type[BaseException], target: Path) -> None:
    def half(file: BinaryIO) -> None:
        file.write(b"half" * 100_000)
        raise error

    with pytest.raises(error):
        write_atomic(target, half)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_failing_system_call_leaves_nothing_and_is_one_sentence_with_advice(
    number: int, place: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def new(file: BinaryIO) -> None:
        file.write(b"new")
        if place == "write":
            fail()

    with monkeypatch.context() as patch:
        if place != "write":
            patch.setattr(os, place, fail)
        with pytest.raises(OutputError) as caught:
            write_atomic(target, new)
    text = str(caught.value)
    assert str(target) in text
    assert "choose another" in text
    assert "\n" not in text
    assert ("disk is full" in text) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert caught.value.exit_code == 7


def test_a_file_that_grows_past_the_real_limit_of_its_process_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses the write here, nothing is patched."""
    code = (
        "import resource, signal, sys\n"
        "from sfumato.errors import OutputError\n"
        "from sfumato.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n    write_bytes(sys.argv[1], bytes(1 << 22))\n"
        "except OutputError as error:\n    print(error)\n"
    )
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "choose another" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_a_disk_that_is_really_full_leaves_the_old_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=20).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this machine does not let a test mount a small disk")
    try:
        path = write_bytes(disk / "out.bin", b"old")
        with pytest.raises(OutputError, match=r"disk is full; free some space or choose another"):
            write_bytes(path, bytes(1 << 20))
        assert path.read_bytes() == b"old"
        assert names(disk) == ["out.bin"]
        assert write_bytes(path, b"new").read_bytes() == b"new"
    finally:
        subprocess.run(["umount", str(disk)], check=True, timeout=20)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/out.bin", "is not a folder; create it"),
        ("file/out.bin", "is not a folder; create it"),
        ("folder", "it is a folder; give a file name"),
        ("n" * 300, "too long; choose a shorter"),
        ("a\0b", "choose another"),
        ("..", "choose another"),
    ],
    ids=["missing", "below a file", "a folder", "long", "null byte", "no name"],
)
def test_a_path_that_cannot_be_written_says_what_to_do(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=words):
        write_bytes(tmp_path / name, b"1")
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_a_folder_without_permission() -> None:
    # Not below tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        closed = Path(place) / "closed"
        closed.mkdir(mode=0o555)
        with without_rights():
            with pytest.raises(OutputError, match="no permission"):
                write_bytes(closed / "out.bin", b"1")
            with pytest.raises(OutputError, match="no permission"):
                check_folder(closed)
        assert names(closed) == []


def test_a_folder_is_probed_without_a_trace(tmp_path: Path) -> None:
    check_folder(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(OutputError, match="is not a folder"):
        check_folder(tmp_path / "missing")
    with pytest.raises(OutputError, match=r"missing.cat\.png"):
        check_folder(tmp_path / "missing", "cat.png")
