"""A run folder at an fsspec URL such as s3://bucket/run.

The run works on a copy on this machine's disk, and a thread in the background brings what changes to the store after
every epoch, generation and stage (`pushing`). The store thus holds what a run folder holds after a crash. A manifest on
both sides decides which one a run goes on from (`manifest`), and a lease in the store keeps other machines away
(`lease`). Nothing on this machine is removed before its replacement is here as a whole.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from evoprune.errors import shown
from evoprune.progress import Progress
from evoprune.record.copies import LocalCopy, Sighting, entry_of, folder_of, sizes_of_run
from evoprune.record.folder import RunFolder
from evoprune.record.lease import Lease, LeaseError
from evoprune.record.lock import locked
from evoprune.record.manifest import (
    MANIFEST,
    STAGES,
    FileEntry,
    Manifest,
    Side,
    is_own,
    newer_side,
    order_of_changes,
    parsed,
    reached,
)
from evoprune.record.pushing import Pusher, PushingProgress
from evoprune.record.remote import Remote, StoreError

_READING = "reading"
_IDENTITY = ("environment.json", "config.yaml")
_UNKNOWN = ""

_log = logging.getLogger(__name__)


@contextmanager
def stored(url: str, progress: Progress) -> Iterator[tuple[Path, Progress]]:
    """The folder to work in, and the progress to report to, which brings what changes to the store.

    At the end, however it comes, the rest is brought there.

    Raises:
        RunFolderError: the store does not answer at the beginning or at the end, another process works on the run, or
            another machine took it over. The copy is then whole, and the message says where it is.
    """
    copy = LocalCopy(folder_of(url))
    with locked(RunFolder(copy.folder)), ExitStack() as stack:
        with _naming(copy):
            lease = Lease(Remote(url), copy.token())
            stack.enter_context(lease.held())
            store = Store(Remote(url), copy, lease)
            store.open()
        pusher = Pusher(url, copy, store.push)
        try:
            yield copy.root, PushingProgress(progress, pusher)
        except BaseException as error:
            left = pusher.close(tries=1)
            if left is not None and left is not error:
                _log.warning("%s", left)
            raise
        if (left := pusher.close()) is not None:
            raise left


def fetched(url: str) -> Path:
    """A copy of the run folder at the URL, to be read; a copy that a run works in is another one.

    Raises:
        RunFolderError: the store does not answer, or another process is reading it just now.
    """
    copy = LocalCopy(folder_of(url) / _READING)
    with locked(RunFolder(copy.folder)), _naming(LocalCopy(folder_of(url))):
        Store(Remote(url), copy, None).refresh()
    return copy.root


@contextmanager
def _naming(copy: LocalCopy) -> Iterator[None]:
    """Adds to the message of a store that does not answer where the copy of the run is."""
    try:
        yield
    except StoreError as error:
        if not RunFolder(copy.root).holds_run():
            raise
        raise StoreError(
            f"{error}; this machine's copy stays as it is ({_state(copy.listing())}): go on once the store answers, or "
            f"without it by `evoprune resume {copy.root}`"
        ) from error.__cause__


class Store:
    """The run's files in a store, kept equal to the copy on this machine.

    lease: confirmed before every write; None for a store that is only read.
    """

    def __init__(self, remote: Remote, copy: LocalCopy, lease: Lease | None):
        self._remote = remote
        self._copy = copy
        self._lease = lease
        self._there: dict[str, FileEntry] = {}  # what the store has
        self._seen: dict[str, Sighting] = {}  # files of the copy that the store has
        self._last = Manifest()  # in the store, and
        self._next_token = ""  # of the one that is to follow it

    def open(self) -> None:
        """Makes the copy what the run goes on from: what the newer side has.

        Raises:
            RunFolderError: the store does not answer, or another process works in the copy. The copy is then untouched.
        """
        with self._copy_locked():
            self._copy.recover()
            listing = self._copy.listing()
            here = {name: entry_of(self._copy.read(name, sighting)) for name, sighting in listing.items()}
            base = self._copy.manifest()
            sizes = sizes_of_run(self._remote.sizes())
            there = self._manifest(sizes)
            side = newer_side(base, here, there, sizes)
            if side is Side.copy:
                self._go_on_with_copy(listing, here, base or Manifest(), there or Manifest(), sizes)
                return
            kept = self._fetch(there or Manifest(), sizes, keep=side is Side.store_and_keep_copy)
        if kept is not None:
            _log.warning(
                "%s went on elsewhere; this machine's own copy (%s) is kept in %s: remove it, or go on with it by "
                "`evoprune resume %s`", *map(shown, (self._remote.url, _state(here), kept, kept)),
            )  # fmt: skip

    def refresh(self) -> None:
        """Makes the copy what the store has. Raises RunFolderError; the copy is then untouched."""
        self._copy.recover()
        sizes = sizes_of_run(self._remote.sizes())
        there = self._manifest(sizes) or Manifest()
        base = self._copy.manifest() or Manifest()
        unmoved = there.token == base.token != "" and {name: entry.size for name, entry in base.files.items()} == sizes
        if not (unmoved and self._copy.entries() == base.files):
            self._fetch(there, sizes, keep=False)

    def push(self, listing: Mapping[str, Sighting]) -> None:
        """Brings to the store what is in the copy, as it was listed.

        Raises:
            StoreError: the store does not answer; what was brought there is not brought again.
            LeaseError: another machine has taken the run over.
            OvertakenError: the copy has changed since it was listed.
        """
        if self._is_there(listing):
            return
        self._check_last()
        changed = [name for name, sighting in listing.items() if self._seen.get(name) != sighting]
        for name, is_put in order_of_changes(changed, self._there.keys() - listing.keys()):
            if is_put:
                self._put(name, listing[name])
            else:
                self._remove(name)
        if self._there != self._last.files:
            self._conclude()

    def _is_there(self, listing: Mapping[str, Sighting]) -> bool:
        return self._seen == listing and self._there == self._last.files

    def _put(self, name: str, sighting: Sighting) -> None:
        data = self._copy.read(name, sighting)
        entry = entry_of(data)
        if self._there.get(name) != entry:
            self._confirm()
            self._there[name] = FileEntry(sha256=_UNKNOWN, size=0)  # a write that fails may have happened all the same
            self._remote.write(name, data)
            self._there[name] = entry
        self._seen[name] = sighting

    def _remove(self, name: str) -> None:
        self._confirm()
        self._remote.remove(name)
        self._there.pop(name, None)
        self._seen.pop(name, None)

    def _conclude(self) -> None:
        """Writes the manifest of a push that is complete: in the copy first, so that it knows its own in the store."""
        state = reached(self._there)
        self._next_token = self._next_token or secrets.token_hex(16)
        manifest = Manifest(
            counter=self._last.counter + 1,
            token=self._next_token,
            parent=self._last.token,
            stage=STAGES[state.stage],
            generation=state.generation if state.generation >= 0 else None,
            files=dict(self._there),
        )
        self._copy.write_manifest(manifest)
        self._confirm()
        self._remote.write(MANIFEST, manifest.model_dump_json().encode())
        self._last, self._next_token = manifest, ""

    def _confirm(self) -> None:
        if self._lease is not None:
            self._lease.confirm()

    def _check_last(self) -> None:
        """Raises LeaseError if somebody else has pushed since the last push from here."""
        self._confirm()
        there = parsed(self._remote.read(MANIFEST))
        if there is None and self._last.token:  # somebody has removed it, and perhaps more
            _log.warning("%s has lost its %s; the run is brought there anew", shown(self._remote.url), MANIFEST)
            self._there, self._seen = {}, {}
            self._last = self._last.model_copy(update={"files": {}})
        elif there is not None and there.token not in (self._last.token, self._next_token):
            raise LeaseError(f"{self._remote.url} was written by another evoprune meanwhile")

    def _manifest(self, sizes: Mapping[str, int]) -> Manifest | None:
        """The store's manifest; what is known of its files if it has none; None if it has no files either."""
        manifest = parsed(self._remote.read(MANIFEST))
        if manifest is not None or not sizes:
            return manifest
        known = {name: self._remote.read(name) for name in _IDENTITY if name in sizes}
        entries = {name: FileEntry(sha256=_UNKNOWN, size=size) for name, size in sizes.items()}
        return Manifest(files=entries | {name: entry_of(data) for name, data in known.items() if data is not None})

    def _go_on_with_copy(
        self,
        listing: Mapping[str, Sighting],
        here: Mapping[str, FileEntry],
        base: Manifest,
        there: Manifest,
        sizes: Mapping[str, int],
    ) -> None:
        self._last = there.model_copy(update={"counter": max(base.counter, there.counter)})
        for name, size in sizes.items():
            entry = there.files.get(name)
            if entry is not None and entry.size == size:
                self._there[name] = entry
            elif entry is not None or is_own(name):  # brought by a push that was interrupted
                self._there[name] = FileEntry(sha256=_UNKNOWN, size=size)
        self._seen = {name: seen for name, seen in listing.items() if here[name] == self._there.get(name)}

    def _fetch(self, there: Manifest, sizes: Mapping[str, int], keep: bool) -> Path | None:
        """Replaces the copy by what the store has, once all of it is here. Returns where the old one is kept, if so."""
        for name, size in sizes.items():
            data = self._remote.read(name)
            if data is None:  # removed meanwhile
                continue
            if len(data) < size:
                raise StoreError(f"{self._remote.url}: {name} came in part ({len(data)} of {size} bytes); try again")
            self._there[name] = self._copy.arrive(name, data)
        self._last = there.model_copy(update={"files": dict(self._there)})
        kept = self._copy.replace(self._last, keep)
        self._seen = self._copy.listing()
        return kept

    def _copy_locked(self) -> AbstractContextManager[object]:
        folder = RunFolder(self._copy.root)
        return locked(folder) if folder.holds_run() else nullcontext()


def _state(names: Mapping[str, object]) -> str:
    """The progress of a run that has these files, in words."""
    state = reached(names)
    rounds = f"round {state.rounds + 1}, " if any(name.startswith("rounds/") for name in names) else ""
    generation = f", generation {state.generation}" if state.generation >= 0 else ""
    return f"{rounds}{STAGES[state.stage]}{generation}"
