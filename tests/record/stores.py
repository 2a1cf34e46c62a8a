"""A store in memory that fails when it is told to, and a made-up run that works on it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from evoprune.record import files, lease, pushing
from evoprune.record.copies import LocalCopy, folder_of, sizes_of_run
from evoprune.record.lease import Lease
from evoprune.record.remote import Remote, StoreError
from evoprune.record.store import Store

URL = "memory://runs/made-up"

OPERATIONS = ("cat_file", "pipe_file", "rm_file", "find", "info")


class Killed(BaseException):
    """The process is dead from here on."""


class Operations:
    """The operations on the store in memory; `fault` is called with the number of each and what carries it out."""

    def __init__(self, patch: pytest.MonkeyPatch, fault: Callable[[int, Callable[[], Any]], Any]) -> None:
        self.count = 0
        self._fault = fault
        self._inside = False
        memory = fsspec.get_filesystem_class("memory")
        for name in OPERATIONS:
            patch.setattr(memory, name, self._counted(getattr(memory, name)))

    def _counted(self, operation: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return operation(*arguments, **options)
            number, self.count = self.count, self.count + 1
            self._inside = True
            try:
                return self._fault(number, lambda: operation(*arguments, **options))
            finally:
                self._inside = False

        return counted


def away(first: int, length: int) -> Callable[[int, Callable[[], Any]], Any]:
    """The store does not answer from the operation `first` on, for `length` operations."""

    def fault(number: int, operation: Callable[[], Any]) -> Any:
        if first <= number < first + length:
            raise OSError("the store is away")
        return operation()

    return fault


def answer_lost(place: int) -> Callable[[int, Callable[[], Any]], Any]:
    """One operation takes effect, and its answer never comes."""

    def fault(number: int, operation: Callable[[], Any]) -> Any:
        answer = operation()
        if number == place:
            raise TimeoutError("no answer")
        return answer

    return fault


def killed(place: int, takes_effect: bool) -> Callable[[int, Callable[[], Any]], Any]:
    """The process dies at one operation, before or after it takes effect."""

    def fault(number: int, operation: Callable[[], Any]) -> Any:
        if number == place and takes_effect:
            operation()
        if number >= place:
            raise Killed
        return operation()

    return fault


@contextmanager
def faulty(fault: Callable[[int, Callable[[], Any]], Any]) -> Iterator[Operations]:
    with pytest.MonkeyPatch.context() as patch:
        yield Operations(patch, fault)


def put(name: str, content: str = "") -> Callable[[Path], None]:
    return lambda root: files.write_bytes(root / name, f"{name} {content}".encode())


def drop(name: str) -> Callable[[Path], None]:
    return lambda root: files.remove([root / name])


STEPS: list[tuple[str, list[Callable[[Path], None]]]] = [
    ("config.yaml", [put("environment.json"), put("config.yaml")]),
    ("training/baseline.safetensors", [put("training/baseline.safetensors", "epoch 1")]),
    ("space.json", [put("baseline.safetensors"), drop("training/baseline.safetensors"), put("space.json")]),
    ("checkpoints/gen-0000.json", [put("candidates/gen-0000.parquet"), put("checkpoints/gen-0000.json")]),
    ("checkpoints/gen-0001.json", [put("candidates/gen-0001.parquet"), put("checkpoints/gen-0001.json")]),
    ("checkpoints/gen-0002.json", [put("candidates/gen-0002.parquet"), put("checkpoints/gen-0002.json")]),
    ("survivors/ab.safetensors", [put("training/ab.safetensors"), put("survivors/ab.safetensors")]),
    ("survivors.parquet", [drop("training/ab.safetensors"), put("layers.parquet"), put("survivors.parquet")]),
]
"""The steps of a made-up run: the file by which each is known to be done, and what it does."""

WHOLE = {
    name: f"{name} ".encode()
    for name in (
        "environment.json",
        "config.yaml",
        "baseline.safetensors",
        "space.json",
        *(f"candidates/gen-000{n}.parquet" for n in range(3)),
        *(f"checkpoints/gen-000{n}.json" for n in range(3)),
        "survivors/ab.safetensors",
        "layers.parquet",
        "survivors.parquet",
    )
}
"""The made-up run's files at its end."""

NEEDS = {
    "config.yaml": ["environment.json"],
    "space.json": ["baseline.safetensors"],
    **{f"checkpoints/gen-000{n}.json": [f"candidates/gen-000{n}.parquet", "space.json"] for n in range(3)},
    "survivors.parquet": ["layers.parquet", "survivors/ab.safetensors", "checkpoints/gen-0002.json"],
}


def done(names: Any) -> int:
    """The number of steps that somebody with these files goes on after."""
    return max((number for number, (mark, _) in enumerate(STEPS, 1) if mark in names), default=0)


def session(steps: int = len(STEPS)) -> int:
    """One process that goes on with the made-up run up to a step. Returns the step that it went on from."""
    copy = LocalCopy(folder_of(URL))
    lease = Lease(Remote(URL), copy.token())
    with lease.held():
        store = Store(Remote(URL), copy, lease)
        store.open()
        begun = done(copy.listing())
        for _, actions in STEPS[begun:steps]:
            for action in actions:
                action(copy.root)
            with contextlib.suppress(StoreError):
                store.push(copy.listing())
        store.push(copy.listing())
    return begun


def in_copy() -> dict[str, bytes]:
    copy = LocalCopy(folder_of(URL))
    return {name: (copy.root / name).read_bytes() for name in copy.listing()}


def in_store() -> dict[str, bytes]:
    remote = Remote(URL)
    return {name: remote.read(name) or b"" for name in sizes_of_run(remote.sizes())}


def content() -> dict[str, bytes]:
    """Everything below URL in the store, to be put back by `restore`."""
    remote = Remote(URL)
    return {name: remote.read(name) or b"" for name in remote.sizes()}


def restore(stored: dict[str, bytes]) -> None:
    forget()
    for name, data in stored.items():
        Remote(URL).write(name, data)


def forget() -> None:
    memory = fsspec.filesystem("memory")
    if memory.exists("/runs"):
        memory.rm("/runs", recursive=True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Changes to a machine by its name; leases of the others expire at once, and pauses take no time."""

    def change(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    monkeypatch.setattr(lease, "EXPIRES_S", -1.0)
    monkeypatch.setattr(lease, "WATCH_S", 0.0)
    monkeypatch.setattr(pushing, "FIRST_PAUSE_S", 0.01)
    change("here")
    forget()
    yield change
    forget()
