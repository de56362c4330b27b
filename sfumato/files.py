"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sfumato.errors import OutputError


def write_atomic(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    """Call ``write`` with an open temporary file beside ``path``; sync it and rename it to ``path``.

    After a crash at any moment ``path`` is either the old file or the complete new one. Permissions follow
    the umask. Raises OutputError (and leaves nothing behind) if the folder is missing or cannot be written,
    or the disk is full.
    """
    target = Path(path)
    if "\0" in str(target) or target.name in ("", ".."):
        raise OutputError(f"cannot write {str(target)!r}: it does not name a file; choose another output")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise OutputError(why_unwritable(target, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` whole or not at all (see write_atomic)."""
    return write_atomic(path, lambda file: file.write(data))


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable, where the system allows opening a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def why_unwritable(target: Path, error: OSError) -> str:
    """One sentence on why ``target`` could not be written and what to do."""
    folder = target.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {target}: the disk is full; free some space or choose another folder"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot write {target}: {folder} is not a folder; create it or choose another output"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {target}: no permission to write in {folder}; choose another output"
    if error.errno == errno.EISDIR:
        return f"cannot write {target}: it is a folder; give a file name"
    if error.errno == errno.ENAMETOOLONG:
        return f"cannot write {target}: the name is too long; choose a shorter one"
    return f"cannot write {target}: {error.strerror or error}; choose another output"


def check_folder(folder: Path, name: str = "picture.png") -> None:
    """Raise OutputError unless a file can be made in ``folder`` now; asked before long work begins.

    ``name`` is the file that the error speaks of.
    """
    probe = folder / f".{secrets.token_hex(6)}.part"
    try:
        with open(probe, "xb"):
            pass
    except OSError as error:
        raise OutputError(why_unwritable(folder / name, error)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
