"""Reading of files with a bound on the memory that they take."""

from pathlib import Path
from typing import IO


def read_whole(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: if it has more than `most_bytes`.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return read_at_most(file, most_bytes)


def read_at_most(file: IO[bytes], most_bytes: int) -> bytes:
    """The remaining bytes of an open file. Raises ValueError if there are more than `most_bytes`."""
    content = file.read(most_bytes)
    if file.read(1):
        raise ValueError(f"the file has more than {most_bytes} bytes of data")
    return content
