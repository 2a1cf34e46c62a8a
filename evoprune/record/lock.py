"""One process at a time on a run folder."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evoprune.errors import RunFolderError, printable
from evoprune.record.folder import RunFolder

_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
_LONGEST_NAME = 300


@contextmanager
def locked(folder: RunFolder, note: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder's lock file, which is made where it is missing, folder included, and stays.

    The system lets go of the lock when the process ends, however it ends. Where the disk knows no locks, `note` is
    told, and nothing is held.
    Raises RunFolderError where another process holds it, the file cannot be made, or the folder has somebody else's.
    """
    folder.refuse_strangers()
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"run folder {folder.root} cannot be written: {error.strerror}; choose another with --out"
        ) from error
    try:
        _take(descriptor, folder, note)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: RunFolder, note: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD_BY_ANOTHER:
            note(f"{folder.root} cannot be locked ({error.strerror}): see that no other process works on it")
            return
        holder = os.read(descriptor, _LONGEST_NAME).decode(errors="replace").strip()
        raise RunFolderError(
            f"{folder.root} is worked on by another evoprune ({printable(holder) or 'unknown'}); "
            f"wait for it, follow it by `evoprune watch {folder.root}`, or choose another folder with --out"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError:  # a full disk: it is held all the same
        pass
