"""Whatever happens to a store, and whenever: nothing that a run has computed is lost, and it ends as if undisturbed."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evoprune as ep
from evoprune.errors import RunFolderError
from evoprune.record.copies import LocalCopy, folder_of
from evoprune.record.remote import StoreError
from tests import tiny_runs
from tests.record import stores
from tests.record.stores import URL, WHOLE, Killed, answer_lost, away, done, faulty, in_copy, in_store, killed, session

machine = stores.machine

FAULTS: dict[str, Callable[[int], Any]] = {
    "one call fails": lambda place: away(place, 1),
    "five calls fail": lambda place: away(place, 5),
    "away to the end": lambda place: away(place, 10_000),
    "an answer is lost": answer_lost,
    "killed before": lambda place: killed(place, takes_effect=False),
    "killed after": lambda place: killed(place, takes_effect=True),
}


def operations_of_a_session() -> int:
    with faulty(lambda number, operation: operation()) as operations:
        session()
    stores.forget()
    shutil.rmtree(folder_of(URL))
    return operations.count


def disturbed(fault: Any) -> None:
    """A session that the fault may end."""
    with faulty(fault), contextlib.suppress(RunFolderError, Killed):
        session()


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_every_operation_on_the_store(
    kind: str, machine: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gone on with on the same machine; on another one, by what the store has; and then on the first one again."""
    count = operations_of_a_session()
    assert count >= 40
    here, as_it_was = tmp_path / "here", tmp_path / "as-it-was"
    for place in range(count):
        disturbed(FAULTS[kind](place))
        computed, stored = in_copy(), stores.content()
        for name, needed in stores.NEEDS.items():
            assert name not in stored or set(needed) <= stored.keys(), (place, name)
        shutil.copytree(here, as_it_was)

        assert session() == done(computed)
        check_whole()

        stores.restore(stored)
        machine("elsewhere")
        assert session() == done(stored)
        check_whole()

        shutil.rmtree(here)
        shutil.copytree(as_it_was, here)
        machine("here")
        session()
        check_whole()
        assert results(computed) <= everywhere()
        stores.forget()
        for folder in (here, as_it_was, tmp_path / "elsewhere"):
            shutil.rmtree(folder)


def check_whole() -> None:
    """The run is at its end on both sides. (A crash may leave the state of a training behind, as in a folder.)"""
    assert in_copy() == in_store()
    assert {name: data for name, data in in_copy().items() if "training/" not in name} == WHOLE


def results(computed: dict[str, bytes]) -> set[bytes]:
    """The computed files without states of trainings, which are worth nothing once a training is done."""
    return {data for name, data in computed.items() if "training/" not in name}


def everywhere() -> set[bytes]:
    """Whatever this machine has of the run, copies that were kept included."""
    return {path.read_bytes() for path in folder_of(URL).rglob("*") if path.is_file()}


def session_that_loses_the_store(steps: int) -> None:
    """It answers at the beginning, and no more."""
    with faulty(away(10, 10_000)), contextlib.suppress(StoreError):
        session(steps)


@pytest.mark.parametrize("steps", range(1, len(stores.STEPS) + 1))
@pytest.mark.parametrize("others", range(1, len(stores.STEPS) + 1))
def test_two_machines_that_went_on_from_the_same_generation(
    steps: int, others: int, machine: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Here without the store, elsewhere with it: the one that is further wins, and the other's files are kept."""
    session(1)
    session_that_loses_the_store(steps)
    computed = in_copy()
    machine("elsewhere")
    session(others)
    machine("here")
    begun = session(0)
    assert begun == max(done(computed), others)
    assert in_copy() == in_store()
    assert results(computed) <= everywhere()
    session()
    check_whole()


def test_a_store_that_is_away_leaves_the_copy_as_it_is(machine: Callable[[str], None]) -> None:
    session(5)
    before = tiny_runs.state_of(LocalCopy(folder_of(URL)).root)
    with faulty(away(0, 10**6)), pytest.raises(StoreError, match="the store is away"):
        session()
    assert tiny_runs.state_of(LocalCopy(folder_of(URL)).root) == before


class Local:
    """Operations on this machine's disk; the process dies at the n-th."""

    def __init__(self, patch: pytest.MonkeyPatch, place: int) -> None:
        self.count = 0
        self._place = place
        for owner, name in ((os, "replace"), (os, "rename"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, operation: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count > self._place:
                raise Killed
            return operation(*arguments, **options)

        return counted


@pytest.mark.parametrize("further", [False, True])
def test_a_crash_at_every_step_of_a_replacement(
    further: bool, machine: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy is the old one or the new one, whole, whatever the process was doing when it died."""
    session(3)
    if further:  # the copy has something of its own, too, and is kept
        session_that_loses_the_store(4)
    computed = in_copy()
    machine("elsewhere")
    session(5)
    machine("here")
    place, ended = 0, False
    shutil.copytree(tmp_path / "here", tmp_path / "before")
    before = stores.content()
    while not ended:
        shutil.rmtree(tmp_path / "here")
        shutil.copytree(tmp_path / "before", tmp_path / "here")
        stores.restore(before)
        with pytest.MonkeyPatch.context() as patch:
            Local(patch, place)
            try:
                session(0)
                ended = True
            except Killed:
                pass
        place += 1
        assert session(0) == 5
        assert results(computed) <= everywhere()
    assert place > 10


# --- real runs


RUN = "memory://runs/real"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "undisturbed", tiny_runs.BRIEF)


def go_on() -> ep.Run:
    """Begins the run, or goes on with it if there is one."""
    try:
        return ep.resume(RUN, overrides={"data.dataset": tiny_runs.BRIEF["data.dataset"]})
    except RunFolderError as error:
        if "holds no run" not in str(error):
            raise
        return tiny_runs.run(RUN, tiny_runs.BRIEF)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [9, 17, 33])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_a_real_run(
    kind: str, place: int, undisturbed: ep.Run, machine: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with faulty(FAULTS[kind](place)), contextlib.suppress(RunFolderError, Killed):
        go_on()
    root = LocalCopy(folder_of(RUN)).root
    computed = [path.name for path in root.rglob("gen-*.json")]
    assert "away" not in kind or place < 17 or "gen-0001.json" in computed  # an outage does not end the search
    run = go_on()
    tiny_runs.check_equal(run, undisturbed)
    tiny_runs.check_equal(ep.load_run(RUN), undisturbed)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    stores.forget()
