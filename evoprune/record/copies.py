"""The copy of a stored run on this machine's disk: what is in it, and how another one takes its place as a whole."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from evoprune.errors import RunFolderError, masked
from evoprune.record import files
from evoprune.record.manifest import MANIFEST, FileEntry, Manifest, parsed

LEASE = "lease.json"
NOT_OF_THE_RUN = (MANIFEST, LEASE, "lock")
"""Files at the top of a copy or a store that are not the run's."""

_TOKEN = "token"
_GROWING = "tensorboard/"


class OvertakenError(Exception):
    """A file has been written anew since it was listed."""


@dataclass(frozen=True)
class Sighting:
    """A file as it was seen. A file written anew is another sighting, whatever the clock did meanwhile."""

    inode: int
    modified_ns: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Sighting":
        """The sighting of a file by its status."""
        return cls(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def folder_of(url: str) -> Path:
    """The folder of everything that this machine keeps of the run at a URL. Secrets in the URL do not matter."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "evoprune" / hashlib.sha256(masked(url).rstrip("/").encode()).hexdigest()[:16]


class LocalCopy:
    """The copy in `folder`/run. Whoever changes it holds the lock of `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "run"
        self._arriving = folder / "arriving"
        self._leaving = folder / "leaving"

    def token(self) -> str:
        """A random name of this copy, the same every time. Raises RunFolderError if it cannot be written."""
        path = self.folder / _TOKEN
        if not path.is_file():
            files.write_text(path, secrets.token_hex(16))
        return files.read_bytes(path).decode(errors="replace")[:64]

    def recover(self) -> None:
        """Ends a replacement that a crash interrupted, and makes the folder if there is none."""
        shutil.rmtree(self._arriving, ignore_errors=True)
        if self._leaving.exists():
            if self.root.exists():
                shutil.rmtree(self._leaving, ignore_errors=True)
            else:
                self._leaving.rename(self.root)
        self.root.mkdir(parents=True, exist_ok=True)

    def manifest(self) -> Manifest | None:
        """The store's manifest when the two last met; None if it is unknown."""
        path = self.root / MANIFEST
        return parsed(path.read_bytes()) if path.is_file() else None

    def write_manifest(self, manifest: Manifest) -> None:
        """Raises RunFolderError if the disk is full."""
        files.write_text(self.root / MANIFEST, manifest.model_dump_json())

    def listing(self) -> dict[str, Sighting]:
        """The run's files by name, without links, locks and half-written files."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if name in NOT_OF_THE_RUN or name.endswith(files.TEMPORARY_SUFFIX) or path.is_symlink():
                continue
            try:
                if path.is_file():
                    found[name] = Sighting.of(path.stat())
            except FileNotFoundError:  # removed while it was looked at
                continue
        return found

    def entries(self) -> dict[str, FileEntry]:
        """The content of all files, by name."""
        return {name: entry_of(self.read(name, sighting)) for name, sighting in self.listing().items()}

    def read(self, name: str, sighting: Sighting) -> bytes:
        """The content of a file as it was seen. Raises OvertakenError if it has been written anew or removed since."""
        try:
            with (self.root / name).open("rb") as file:
                if not name.startswith(_GROWING) and Sighting.of(os.fstat(file.fileno())) != sighting:
                    raise OvertakenError(name)
                return file.read()
        except FileNotFoundError as error:
            raise OvertakenError(name) from error

    def arrive(self, name: str, data: bytes) -> FileEntry:
        """Puts a file into the folder that is to take the copy's place. Raises RunFolderError if it leads out of it."""
        parts = PurePosixPath(name).parts
        if not parts or "/".join(parts) != name or {"..", "/"} & set(parts) or {"\\", "\0"} & set(name):
            raise RunFolderError(f"the store has a file {name!r}, whose name leads out of the run folder; remove it")
        files.write_bytes(self._arriving / name, data)
        return entry_of(data)

    def replace(self, manifest: Manifest, keep: bool) -> Path | None:
        """Puts what has arrived in the copy's place. Returns where the old copy is kept, if it is to be kept."""
        self._arriving.mkdir(parents=True, exist_ok=True)
        files.write_text(self._arriving / MANIFEST, manifest.model_dump_json())
        kept = self._kept() if keep else None
        self.root.rename(kept or self._leaving)
        self._arriving.rename(self.root)
        shutil.rmtree(self._leaving, ignore_errors=True)
        return kept

    def _kept(self) -> Path:
        number = 1
        while (path := self.folder / f"kept-{number}").exists():
            number += 1
        return path


def entry_of(data: bytes) -> FileEntry:
    """The manifest's entry of a file with these bytes."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def sizes_of_run(sizes: Mapping[str, int]) -> dict[str, int]:
    """Of a store's files, those that are the run's."""
    return {name: size for name, size in sizes.items() if name not in NOT_OF_THE_RUN}
