"""The npm packages that the corpus is made of: pinned, fetched once into a folder, checked by hash."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, InvalidRequest, OutputError, SfumatoError
from sfumato.files import why_unwritable


@dataclass(frozen=True)
class Package:
    """One npm package at one version, with the SHA-512 of its archive as npm publishes it (base64)."""

    name: str
    version: str
    sha512: str

    @property
    def archive(self) -> str:
        """The file name that ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
EMOJILIB = Package(
    "emojilib",
    "4.0.3",
    "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
)
ICONIFY = Package(
    "@iconify/json",
    "2.2.535",
    "nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
)
NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)


class PackageCache:
    """A folder of package archives; what is missing is fetched with npm, what is damaged is fetched again."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, created if it is missing."""
        self.folder = folder
        self._checked: set[Package] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(why_unwritable(folder, error)) from error

    def read(self, package: Package, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The files of ``package`` whose path inside it is ``wanted``, by that path."""
        files = {}
        with tarfile.open(self._archive(package), "r:gz") as tar:
            for member in tar:
                path = member.name.partition("/")[2]
                if member.isreg() and wanted(path) and (file := tar.extractfile(member)):
                    files[path] = file.read()
        return files

    def read_json(self, package: Package, path: str) -> Any:
        """One JSON file of ``package``, parsed."""
        return json.loads(self.read(package, path.__eq__)[path])

    def _archive(self, package: Package) -> Path:
        path = self.folder / package.archive
        if package in self._checked:
            return path
        if not (path.is_file() and sha512_of(path) == package.sha512):
            _fetch(package, path)
        self._checked.add(package)
        return path


def sha512_of(path: Path) -> str:
    """The SHA-512 of a file in base64, as npm writes it."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _fetch(package: Package, path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InvalidRequest("building the corpus needs npm on the PATH; install Node.js, which brings it")
    wanted = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".npm-") as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, wanted]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        archive = Path(folder, package.archive)
        if run.returncode != 0 or not archive.is_file():
            why = (run.stderr.strip() or "no archive came").splitlines()[-1]
            raise SfumatoError(f"npm could not fetch {wanted}: {why:.300}")
        if sha512_of(archive) != package.sha512:
            raise DataError(
                f"{wanted}: the archive that npm fetched is not the one expected (SHA-512 differs)"
            )
        archive.replace(path)
