"""One process at a time on a run folder, or on a table that grows.

`fcntl.flock` and not the package filelock: that one empties the lock file when it opens it, which loses the holder's
name, and its releases before 3.20.1 do so through a link, too.
"""

import errno
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evoprune.errors import RunFolderError, printable
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import refuse_strangers

try:
    import fcntl
except ImportError:  # Windows: as on a disk without locks, a second process is found by the file's content alone
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
_LONGEST_CONTENT = 300


@contextmanager
def locked(folder: RunFolder) -> Iterator[RunFolder]:
    """Holds the folder's lock file, which is made if it is missing, folder included, and stays.

    The system releases the lock when the process ends, however it ends. On a disk without locks, a warning is logged,
    and a second process is noticed by the content of the file alone.

    Yields:
        The folder to write to: it gives no path any more once the lock file was removed or replaced, so that two
        processes never write to one run.

    Raises:
        RunFolderError: another process holds the lock, the file cannot be made, a place of the run is a link, or the
            folder has files of somebody else's.
    """
    folder.refuse_links()
    refuse_strangers(folder)
    descriptor = _opened(folder.lock, f"run folder {folder.root}")
    try:
        _take(descriptor, folder.root, f"follow it by `evoprune watch {folder.root}`, or choose another folder")
        yield replace(folder, check_lock=_HeldLock(folder.lock, descriptor, _sign(descriptor)).check)
    finally:
        os.close(descriptor)


@contextmanager
def locked_table(table: Path) -> Iterator[None]:
    """Holds a lock file beside a table, which is made if it is missing, folder included, and stays.

    Raises:
        RunFolderError: another process holds the lock, or the file cannot be made.
    """
    descriptor = _opened(table.with_name(f"{table.name}.lock"), f"table {table}")
    try:
        _take(descriptor, table, "or choose another table")
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _opened(lock: Path, protected: str) -> int:
    """The descriptor of a lock file, which is made if it is missing. protected: what it locks, for the message."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        return os.open(lock, flags, 0o644)
    except OSError as error:
        raise RunFolderError(f"{protected} cannot be written: {error.strerror}; choose another with --out") from error


@dataclass(frozen=True)
class _HeldLock:
    """A lock file as this process took it: open as `descriptor`, with `content` in it."""

    path: Path
    descriptor: int
    content: bytes

    def check(self) -> None:
        """Raises RunFolderError if the file at the path is another one, or another process has signed it."""
        try:
            same = os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor)) and self._as_signed()
        except OSError:
            same = False
        if not same:
            root = self.path.parent
            raise RunFolderError(
                f"{root} is no longer held by this process: its lock file was removed or replaced, and another "
                f"process may work there, so nothing more is written; see that none does, then go on with "
                f"`evoprune resume {root}`"
            )

    def _as_signed(self) -> bool:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.read(self.descriptor, _LONGEST_CONTENT) == self.content


def _take(descriptor: int, protected: Path, remedy: str) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOLCK, "this system has no flock")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD_BY_ANOTHER:
            _log.warning(
                "%s cannot be locked (%s): see that no other process works on it",
                printable(str(protected)),
                error.strerror,
            )
            return
        holder = os.read(descriptor, _LONGEST_CONTENT).decode(errors="replace").strip().partition(", token")[0]
        raise RunFolderError(
            f"{protected} is worked on by another evoprune ({printable(holder) or 'unknown'}); "
            f"wait for it, {remedy} with --out"
        ) from None


def _sign(descriptor: int) -> bytes:
    """Writes who holds the lock. Returns the content of the file then: on a full disk, not all of it is written."""
    signature = f"process {os.getpid()} on {socket.gethostname()}, token {secrets.token_hex(8)}\n"
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, signature.encode())
    except OSError:
        pass
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, _LONGEST_CONTENT)
