"""Files from the web, whole or not at all."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_SECONDS = 20
_CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where data sets are kept that are downloaded without data.root: $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "evoprune" / "data"


def download(urls: Sequence[str], target: Path, md5: str) -> None:
    """Writes the file of the first address that answers with the right checksum to `target`.

    urls: at least one, tried in order. Raises OSError, the last address' failure, where none does.
    """
    failure: OSError | None = None
    for url in urls:
        try:
            return _download_one(url, target, md5)
        except OSError as error:
            failure = error
    raise failure or OSError("there is no address to download from")


def _download_one(url: str, target: Path, md5: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, part.open("wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != md5:
            raise OSError(f"{url} has another checksum than it should")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
