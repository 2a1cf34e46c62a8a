"""Errors of files: what happened to which file, and the remedy, in one line."""

import errno
from pathlib import Path

from evoprune.errors import RunFolderError

_LONGEST = 300


class DamagedFileError(RunFolderError):
    """A file is truncated, altered, or not of the format that its name says."""


def damaged(path: Path, how: str) -> DamagedFileError:
    """The error of a file whose content is wrong; `how` says in what way, and is cut if the content made it long."""
    return DamagedFileError(f"{path} is damaged: {how[:_LONGEST]}; put it back from a copy, or remove it")


def cannot_be(done: str, path: Path, error: OSError) -> RunFolderError:
    """The error of a file that the system refuses; `done` is what was to be done: read, written, removed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "make space on its disk, then go on with `evoprune resume` and the run's folder"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "give yourself the right to, or choose another folder with --out"
    else:
        remedy = "see that the folder is there and its disk in order"
    return RunFolderError(f"{path} cannot be {done}: {error.strerror or error}; {remedy}")
