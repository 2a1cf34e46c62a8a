"""Places of run folders: paths and URLs."""

from pathlib import Path

from evoprune.errors import RunFolderError, is_utf8

_LOCAL = "file://"
_SCHEME_END = "://"


def is_remote(place: str | Path | None) -> bool:
    """Whether a place is a URL of another scheme than file://."""
    return place is not None and _SCHEME_END in str(place) and not str(place).startswith(_LOCAL)


def local_path(place: str | Path) -> Path:
    """The path of a place on this machine's disk, which may be a file:// URL.

    Raises:
        RunFolderError: the path is not in UTF-8, so that the libraries that read tables and tensors cannot open it.
    """
    if not is_utf8(str(place)):
        raise RunFolderError(f"{place} must be a path in UTF-8; rename it, or choose another folder")
    return Path(str(place).removeprefix(_LOCAL))


def place_of(text: str) -> str | Path:
    """The place that a user typed: a URL as it is, any other text as a path."""
    return text if is_remote(text) else local_path(text)
