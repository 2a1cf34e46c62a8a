"""Where a run folder is: a path, or a URL."""

from pathlib import Path

_LOCAL = "file://"
_MARK = "://"


def is_remote(place: str | Path | None) -> bool:
    """Whether this is the URL of a place that is not on this machine's disk."""
    return place is not None and _MARK in str(place) and not str(place).startswith(_LOCAL)


def local_path(place: str | Path) -> Path:
    """A path, or what a file:// URL says, as a path."""
    return Path(str(place).removeprefix(_LOCAL))


def place_of(text: str) -> str | Path:
    """What somebody typed: a URL as it is, anything else as a path."""
    return text if is_remote(text) else local_path(text)
