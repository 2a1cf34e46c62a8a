"""A run folder on an object store, by an fsspec URL such as s3://bucket/run.

The run works on a copy on this machine's disk. After every epoch, generation and stage, what has changed is brought to
the store, in the order in which it was written, so that the store holds at any time what a run folder holds after a
crash. An object store knows no locks: the copy is locked, which keeps processes of one machine apart, and no others.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evoprune.errors import RunFolderError
from evoprune.progress import GenerationSummary, Progress
from evoprune.record.files import TEMPORARY_SUFFIX
from evoprune.record.folder import RunFolder
from evoprune.record.lock import locked


@contextmanager
def stored(url: str, progress: Progress) -> Iterator[tuple[Path, Progress]]:
    """The folder to work in, as the store has it, and the progress to tell, which brings what changes to the store.

    At the end, however it comes, what is left is brought there. Raises RunFolderError where the store cannot be reached
    then, or another process of this machine works on the same URL.
    """
    store = Store(url)
    with locked(RunFolder(store.copy.parent)):
        store.fetch()
        try:
            yield store.copy, StoringProgress(progress, store)
        finally:
            store.push()


def fetched(url: str) -> Path:
    """A copy of the run folder at the URL, to be read. Raises RunFolderError."""
    store = Store(url)
    with locked(RunFolder(store.copy.parent)):
        store.fetch()
    return store.copy


class Store:
    """A folder at a URL, and its copy on this machine."""

    def __init__(self, url: str):
        import fsspec

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RunFolderError(
                f"{url} cannot be used: {error}; install what it needs (for s3:// pip install 'evoprune[s3]')"
            ) from error
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
        self.copy = cache / "evoprune" / name / "run"
        self._there: dict[str, tuple[int, int]] = {}  # files that the store has as the copy does: time and size

    def fetch(self) -> None:
        """Makes the copy what the store has."""
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir(parents=True)
        with self._doing("read"):
            names = self._names()
        for name in names:
            path = self.copy / name
            if not path.resolve().is_relative_to(self.copy.resolve()):
                raise RunFolderError(f"{self.url} has a file {name!r} that leads out of it; remove that")
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._doing("read"):
                self._files.get_file(self._remote(name), str(path))
        self._there = self._here()

    def push(self) -> None:
        """Brings to the store what has changed in the copy since."""
        here = self._here()
        for name in self._there.keys() - here.keys():
            with self._doing("written"):
                self._files.rm_file(self._remote(name))
            del self._there[name]
        changed = [name for name, state in here.items() if self._there.get(name) != state]
        for name in sorted(changed, key=lambda name: here[name]):
            with self._doing("written"):
                self._put(name)
            self._there[name] = here[name]

    def _put(self, name: str) -> None:
        remote = self._remote(name)
        self._files.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(remote, (self.copy / name).read_bytes())

    def _names(self) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.exists(self._root):
            return []
        start = len(self._root.rstrip("/")) + 1
        return [str(path)[start:] for path in self._files.find(self._root)]

    def _here(self) -> dict[str, tuple[int, int]]:
        paths = [path for path in self.copy.rglob("*") if path.is_file() and not path.is_symlink()]
        return {
            path.relative_to(self.copy).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in paths
            if not path.name.endswith(TEMPORARY_SUFFIX) and path != RunFolder(self.copy).lock
        }

    def _remote(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _doing(self, done: str) -> Iterator[None]:
        """Makes whatever the store raises a RunFolderError."""
        try:
            yield
        except RunFolderError:
            raise
        except Exception as error:  # each kind of store has its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunFolderError(
                f"{self.url} cannot be {done}: {reason}; see that it is there and you have the right to, then go on "
                f"with `evoprune resume {self.url}`"
            ) from error


class StoringProgress:
    """Passes everything on to `progress`, and brings to the store what has been written by then.

    Where the store does not answer, that is noted, and tried again the next time.
    """

    def __init__(self, progress: Progress, store: Store):
        self._progress = progress
        self._store = store

    def stage(self, name: str, detail: str = "") -> None:
        self._push()
        self._progress.stage(name, detail)

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        self._push()
        self._progress.epoch(what, epoch, epochs, loss)

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        self._progress.scored(generation, generations, done, total)

    def generation(self, summary: GenerationSummary) -> None:
        self._push()
        self._progress.generation(summary)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def _push(self) -> None:
        try:
            self._store.push()
        except RunFolderError as error:
            self._progress.note(str(error))
