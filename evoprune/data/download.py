"""Files from the web and out of archives, whole or not at all, and only with the right checksum."""

import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_TIMEOUT_SECONDS = 20
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 1 << 30


class ChecksumError(OSError):
    """A file has another checksum than the published one."""


def cache_folder() -> Path:
    """The folder of data sets that are downloaded without `data.root`: below $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "evoprune" / "data"


def download(urls: Sequence[str], target: Path, md5: str) -> None:
    """Writes the file of the first address that answers with the right checksum to `target`.

    Args:
        urls: at least one, tried in order.
        target: its folder is made if it is missing.
        md5: of the published file, in hexadecimal.

    Raises:
        OSError: the last address's failure, if none gives the file.
    """
    failure: OSError | None = None
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
                return _write_whole(response, target, md5)
        except ChecksumError:
            failure = ChecksumError(f"{url} has another checksum than the published file")
        except OSError as error:
            failure = error
    raise failure or OSError("there is no address to download from")


def extract(archive: Path, md5: str, members: Sequence[str], folder: Path) -> None:
    """Writes files of a tar archive into `folder`, each under its own name without the path in the archive.

    Args:
        archive: nothing of it is looked at before its checksum is found to be right.
        md5: of the published archive, in hexadecimal.
        members: the names in the archive; they must be plain files. Everything else in it is left there.
        folder: made if it is missing.

    Raises:
        ChecksumError: if the archive is not the published one.
        OSError, EOFError, tarfile.TarError: if a member is missing, a link or too large, or the disk fails.
    """
    with archive.open("rb") as file:
        if hashlib.file_digest(file, _md5).hexdigest() != md5:
            raise ChecksumError(f"{archive} has another checksum than the published file")
        file.seek(0)
        with tarfile.open(fileobj=file) as content:
            for name in members:
                try:
                    member = content.getmember(name)
                except KeyError:
                    raise OSError(f"{archive} has no file {name}") from None
                source = content.extractfile(member) if member.isreg() and member.size <= _MOST_BYTES else None
                if source is None:
                    raise OSError(f"{name} in {archive} must be a plain file of at most {_MOST_BYTES} bytes")
                _write_whole(source, folder / Path(name).name)


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _write_whole(source: IO[bytes], target: Path, md5: str | None = None) -> None:
    """Copies to `target`, beside it first, so that it is there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest = _md5()
    try:
        with part.open("wb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if md5 is not None and digest.hexdigest() != md5:
            raise ChecksumError(f"{target.name} has another checksum than the published file")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
