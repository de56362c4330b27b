"""Names of the Hugging Face hub, found in the local cache that its tools keep; nothing is fetched unless asked.

The cache: ``models--<org>--<name>/refs/<revision>`` holds a commit, ``snapshots/<commit>/`` the files, as links into
``blobs/``. See https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sfumato.errors import MissingExtra, WeightsError

_NAME = re.compile(
    r"^(?P<org>[\w][\w.-]{0,95})/(?P<name>[\w][\w.-]{0,95})(@(?P<revision>[\w][\w./-]{0,127}))?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


def cache_folder() -> Path:
    """Where the hub's tools keep models: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, or the default."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if place := os.environ.get(variable):
            return Path(place).expanduser()
    if place := os.environ.get("HF_HOME"):
        return Path(place).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def resolve(name: str | Path, *, download: bool = False) -> Path:
    """The file or folder that ``name`` means: an existing path, else ``org/name`` or ``org/name@revision``.

    Hub names are looked up in the local cache (the revision is ``main`` if none is given); with ``download`` a model
    that is not there is fetched, which needs the extra ``hub``. Raises WeightsError that says where was looked.
    """
    path = Path(name).expanduser()
    try:
        if str(name) and path.exists():
            return path
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot look at {str(name)!r}: {error}") from error
    found = _NAME.match(str(name))
    if not found or ".." in str(name):
        raise WeightsError(
            f"there are no weights at {str(name)!r}: no such file or folder, nor a name as org/model"
        )
    revision = found["revision"] or "main"
    repository = f"{found['org']}/{found['name']}"
    if snapshot := cached(repository, revision):
        return snapshot
    if download:
        return fetch(repository, revision)
    raise WeightsError(
        f"there are no weights at {name}: no such file or folder, and the hub's cache in {cache_folder()} has no "
        f"{repository} at {revision!r}; --download (with the extra: pip install 'sfumato[hub]') would fetch it"
    )


def cached(repository: str, revision: str = "main") -> Path | None:
    """The cached snapshot of ``repository`` (org/name) at a branch, tag or commit; None if there is none."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    commit = revision
    try:
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        if not _COMMIT.match(revision):
            return None
    if not _COMMIT.match(commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def fetch(repository: str, revision: str = "main") -> Path:
    """Download the safetensors files, configurations and tokenizers of ``repository``; returns the snapshot.

    Raises MissingExtra without the extra ``hub``, WeightsError if it cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("huggingface-hub", "hub", "downloading a model") from error
    wanted = ["*.safetensors", "*.json", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"cannot download {repository} at {revision!r}: {first}") from error
