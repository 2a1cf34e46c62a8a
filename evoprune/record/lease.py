"""One machine at a time on a stored run: a lease in the store, renewed by a heartbeat while its holder lives."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evoprune.errors import RunFolderError
from evoprune.record.copies import LEASE
from evoprune.record.remote import Remote, StoreError

HEARTBEAT_S = 20.0
EXPIRES_S = 90.0
"""The time after its last heartbeat at which a holder counts as dead."""

WATCH_S = 30.0
"""The time for which an expired lease is watched before it is taken: the two machines' clocks may differ."""

SETTLE_S = 2.0
"""The wait before a lease is read back, on stores without conditional writes."""


class LeaseError(RunFolderError):
    """Another machine works on the run."""


class LeaseRecord(BaseModel):
    """The content of the lease. token: names the holder's copy; time: of the last heartbeat, seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    token: str = Field(max_length=64)
    holder: str = Field(max_length=300)
    time: float = Field(allow_inf_nan=False)


class Lease:
    """A lease on the run at a URL. token: names this machine's copy of it, so that a crashed run's lease is its own."""

    def __init__(self, remote: Remote, token: str):
        self._remote = remote
        self._token = token
        self._confirmed = float("-inf")
        self._lost: LeaseError | None = None
        self._guard = threading.Lock()
        self._ending = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lease, and gives it up at the end.

        Raises:
            LeaseError: another machine holds it.
            StoreError: the store does not answer.
        """
        self._take()
        beating = threading.Thread(target=self._beat_on, name="evoprune-lease", daemon=True)
        beating.start()
        try:
            yield
        finally:
            self._ending.set()
            with contextlib.suppress(StoreError, LeaseError):
                self._give_up()

    def confirm(self) -> None:
        """Raises LeaseError if the lease is lost, StoreError if that cannot be told. Cheap after a heartbeat."""
        with self._guard:
            if self._lost is None and _now() - self._confirmed > 1.5 * HEARTBEAT_S:
                self._beat()
            if self._lost is not None:
                raise self._lost

    def _take(self) -> None:
        tag = self._remote.tag(LEASE)  # before the content: what is written in between makes the condition fail
        found = self._read()
        if found is not None and found.token != self._token and self._is_alive(found):
            raise LeaseError(
                f"{self._remote.url} is worked on by {found.holder}; wait for it, or choose another URL with --out "
                f"(if it is dead, its lease ends {EXPIRES_S:.0f} seconds after its last heartbeat)"
            )
        try:
            self._write(is_new=found is None, tag=tag)
        except StoreError:
            if (now := self._read()) is None or now.token == (found.token if found else None):
                raise  # it is not the condition that failed
        if not self._remote.is_conditional:
            time.sleep(SETTLE_S)
        now = self._read()
        if now is None or now.token != self._token:
            holder = "another evoprune, which was faster" if now is None else now.holder
            raise LeaseError(f"{self._remote.url} is worked on by {holder}; wait for it, or choose another URL")
        self._confirmed = _now()

    def _is_alive(self, found: LeaseRecord) -> bool:
        if abs(time.time() - found.time) <= EXPIRES_S:
            return True
        time.sleep(WATCH_S)
        now = self._read()
        return now is not None and now != found

    def _beat_on(self) -> None:
        while not self._ending.wait(HEARTBEAT_S):
            with self._guard, contextlib.suppress(StoreError):  # the next beat may get through
                if self._lost is None and not self._ending.is_set():
                    self._beat()

    def _beat(self) -> None:
        tag = self._remote.tag(LEASE)
        found = self._read()
        if found is not None and found.token != self._token:
            self._lost = LeaseError(
                f"{self._remote.url} was taken over by {found.holder}, since nothing was heard from here for "
                f"{EXPIRES_S:.0f} seconds"
            )
            return
        self._write(is_new=found is None, tag=tag)
        self._confirmed = _now()

    def _give_up(self) -> None:
        with self._guard:
            found = self._read()
            if found is not None and found.token == self._token:
                self._remote.remove(LEASE)

    def _read(self) -> LeaseRecord | None:
        data = self._remote.read(LEASE)
        try:
            return None if data is None else LeaseRecord.model_validate_json(data)
        except ValidationError:  # half-written, by a store that does not replace files in one step
            return LeaseRecord(token="", holder="an unknown process (its lease.json is damaged)", time=0.0)

    def _write(self, is_new: bool, tag: str | None) -> None:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        data = LeaseRecord(token=self._token, holder=holder[:300], time=time.time()).model_dump_json().encode()
        if is_new:
            self._remote.create(LEASE, data)
        else:
            self._remote.replace(LEASE, data, tag)


def _now() -> float:
    """Seconds that go on while the machine sleeps, if the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
