"""Run folders on object stores: in memory, and on an S3 of this machine's own."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

import evoprune as ep
from evoprune.errors import RunFolderError
from evoprune.progress import SilentProgress
from evoprune.record import lease, pushing
from evoprune.record.copies import NOT_OF_THE_RUN, LocalCopy, folder_of
from evoprune.record.folder import RunFolder
from evoprune.record.places import is_remote
from evoprune.record.remote import Remote
from tests import tiny_runs
from tests.record import stores

OPTIONS = tiny_runs.BRIEF | {"search.generations": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("runs")
        yield "s3://runs/brief"
    server.stop()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://runs/brief"
    stores.forget()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "here", OPTIONS)


class StopAt(SilentProgress):
    """Ctrl-C after a generation, and a look at what the store has by then."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self.there: list[str] = []

    def generation(self, summary: Any) -> None:
        if summary.generation == 1:
            while "gen-0001.json" not in self.there:  # it is brought there in the background
                self._files.invalidate_cache()
                self.there = sorted(Path(path).name for path in self._files.find(self._root))
            raise KeyboardInterrupt


def resume(url: str, **options: Any) -> ep.Run:
    return ep.resume(url, overrides={"data.dataset": OPTIONS["data.dataset"]}, **options)


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_a_run_goes_on_from_the_store(store: str, here: ep.Run, request: pytest.FixtureRequest) -> None:
    """Interrupted, its copy on this machine thrown away, and gone on with: the tables of a run on disk."""
    url = request.getfixturevalue(store)
    progress = StopAt(url)
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(url, OPTIONS, progress)
    assert {"config.yaml", "gen-0000.json", "gen-0001.json", "gen-0001.parquet"} <= set(progress.there)
    assert "lock" not in progress.there
    run = resume(url)
    tiny_runs.check_equal(run, here)
    tiny_runs.check_equal(ep.load_run(url), here)
    files, root = fsspec.core.url_to_fs(url)
    stored = {path[len(root.rstrip("/")) + 1 :] for path in files.find(root)}
    kept = {path.relative_to(here.root).as_posix() for path in here.root.rglob("*") if path.is_file()}
    assert stored == kept - {"lock"} | {"manifest.json"}
    with pytest.raises(RunFolderError, match=f"^{url} holds a run; go on with it by `evoprune resume {url}`"):
        tiny_runs.run(url, OPTIONS)
    with pytest.raises(RunFolderError, match=f"^{url}-typo holds no run"):
        resume(f"{url}-typo")
    assert not files.find(f"{root}-typo")


def test_a_file_url_is_a_folder(here: ep.Run, tmp_path: Path) -> None:
    run = tiny_runs.run(f"file://{tmp_path}/run", OPTIONS)  # type: ignore[arg-type]
    assert run.root == tmp_path / "run"
    tiny_runs.check_equal(ep.load_run(f"file://{tmp_path}/run"), here)


class Outage(SilentProgress):
    """The store stops answering at the beginning of the search, and answers again after the generation `until`."""

    def __init__(self, patch: pytest.MonkeyPatch, until: int | None) -> None:
        self._patch = patch
        self._until = until

    def stage(self, name: str, detail: str = "") -> None:
        if name == "search":
            for operation in ("pipe_file", "cat_file", "rm_file", "find", "info"):
                self._patch.setattr(fsspec.get_filesystem_class("memory"), operation, refuse)

    def generation(self, summary: Any) -> None:
        if summary.generation == self._until:
            self._patch.undo()


def refuse(*_: object, **__: object) -> None:
    raise OSError("Please reduce your request rate.")


def test_a_store_that_does_not_answer_for_a_while(
    here: ep.Run, memory: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "FIRST_PAUSE_S", 0.01)
    with pytest.MonkeyPatch.context() as patch:
        tiny_runs.run(memory, OPTIONS, Outage(patch, until=2))  # type: ignore[arg-type]
    began, ended = caplog.messages
    assert re.fullmatch(  # by the call that the outage met first
        r"memory://runs/brief cannot be (read|written): Please reduce your request rate\.; see that it is there and "
        r"that you may write there; the run goes on here, and what it writes is brought there later",
        began,
    )
    assert ended == "memory://runs/brief answers again, and has what the run has written by now"
    tiny_runs.check_equal(ep.load_run(memory), here)


def test_an_outage_to_the_end_and_beyond(here: ep.Run, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes to its end; resuming without the store leaves it alone, and with it brings it there."""
    monkeypatch.setattr(pushing, "FIRST_PAUSE_S", 0.01)
    copy = LocalCopy(folder_of(memory)).root
    with pytest.MonkeyPatch.context() as patch:
        rest = rf"; all of the run is in {copy}, and `evoprune resume {memory}` brings it there once the store answers$"
        with pytest.raises(RunFolderError, match=rest):
            tiny_runs.run(memory, OPTIONS, Outage(patch, until=None))  # type: ignore[arg-type]
        finished = tiny_runs.state_of(copy)
        untouched = (
            r"this machine's copy stays as it is \(finished, generation 3\): go on once the store answers, "
            rf"or without it by `evoprune resume {copy}`$"
        )
        for attempt in (resume, ep.load_run):
            with pytest.raises(RunFolderError, match=untouched):
                attempt(memory)
        assert tiny_runs.state_of(copy) == finished
    with pytest.raises(RunFolderError, match="holds no run"):  # what the store has is not what it had
        ep.load_run("memory://runs/other")
    tiny_runs.check_equal(resume(memory), here)
    after = tiny_runs.state_of(copy)
    assert all(after[name] == state for name, state in finished.items() if name not in NOT_OF_THE_RUN)
    tiny_runs.check_equal(ep.load_run(memory), here)


def test_the_copy_goes_on_by_its_path_while_the_store_is_away(
    here: ep.Run, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(memory, OPTIONS, StopAt(memory))  # type: ignore[arg-type]
    copy = LocalCopy(folder_of(memory)).root
    ep.resume(copy, overrides={"data.dataset": OPTIONS["data.dataset"]})
    assert not (ep.load_run(memory).root / "survivors.parquet").exists()
    tiny_runs.check_equal(resume(memory), here)
    tiny_runs.check_equal(ep.load_run(memory), here)


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_two_machines_on_one_url(store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused while the first one lives, and takes over once nothing is heard of it."""
    url = request.getfixturevalue(store) + "-of-two"

    class Second(SilentProgress):
        """Another machine, once this one has brought its first generation there and is not heard of any more."""

        def generation(self, summary: Any) -> None:
            if summary.generation > 0:
                return
            wait_until(lambda: b"gen-0000.json" in (Remote(url).read("manifest.json") or b""))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", f"{folder_of(url)}-elsewhere")
                with pytest.raises(RunFolderError, match=rf"^{url} is worked on by process {os.getpid()} on .*; wait"):
                    resume(url)
                patch.setattr(lease, "EXPIRES_S", -1.0)
                patch.setattr(lease, "WATCH_S", 0.0)
                resume(url)
            monkeypatch.setattr(lease, "HEARTBEAT_S", 0.0)  # here, the lease is looked at again

    lost = (
        rf"^{url} was written by another evoprune meanwhile; what this run has computed stays in {folder_of(url)}/run$"
    )
    with pytest.raises(RunFolderError, match=lost):
        tiny_runs.run(url, OPTIONS, Second())
    assert len(ep.load_run(url).survivors) == 1


def test_a_holder_that_lost_its_lease_names_the_new_holder(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (lease.Lease(Remote(memory), token) for token in ("a", "b"))
    with first.held():
        monkeypatch.setattr(lease, "EXPIRES_S", -1.0)
        monkeypatch.setattr(lease, "WATCH_S", 0.0)
        with second.held():
            first.confirm()  # its heartbeat was a moment ago
            monkeypatch.setattr(lease, "HEARTBEAT_S", 0.0)
            for _ in range(2):
                with pytest.raises(lease.LeaseError, match=rf"^{memory} was taken over by process {os.getpid()} on "):
                    first.confirm()
            second.confirm()


def test_a_lease_is_kept_by_its_heartbeat_and_left_by_a_crash_to_its_own_machine(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)
    first, second = (lease.Lease(Remote(memory), token) for token in ("a", "b"))
    with first.held():
        begun = Remote(memory).read("lease.json")
        wait_until(lambda: Remote(memory).read("lease.json") != begun)
        monkeypatch.setattr(lease, "EXPIRES_S", 0.0)  # as clocks that differ have it: it is watched, and seen to live
        monkeypatch.setattr(lease, "WATCH_S", 0.2)
        with pytest.raises(lease.LeaseError, match="is worked on by process"), second.held():
            pass
    assert Remote(memory).read("lease.json") is None
    monkeypatch.setattr(lease, "EXPIRES_S", 90.0)
    first._take()  # and no more is heard of it
    with pytest.raises(lease.LeaseError), second.held():
        pass
    with lease.Lease(Remote(memory), "a").held():
        pass


def wait_until(condition: Any) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_only_one_of_many_takes_a_free_lease(memory: str, s3: str) -> None:
    for url in (memory, f"{s3}-leased"):
        takers = [lease.Lease(Remote(url), str(number)) for number in range(6)]
        with ThreadPoolExecutor(len(takers)) as threads:
            taken = list(threads.map(takes, takers))
        assert sum(taken) == 1


def takes(taker: lease.Lease) -> bool:
    try:
        taker._take()
    except lease.LeaseError:
        return False
    return True


@pytest.mark.parametrize(("url", "message"), [("nonsense://a/b", "cannot be used: Protocol not known: nonsense")])
def test_urls_of_stores_that_do_not_exist(url: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message):
        ep.load_run(url)


@pytest.mark.parametrize("name", ["../../../escaped", "a/../../escaped", "/escaped", "a//escaped", "a\\escaped", "a\0"])
def test_names_in_a_store_stay_inside_of_the_copy(name: str, memory: str, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/runs/brief/config.yaml", b"x")
    files.store[f"/runs/brief/{name}"] = files.store["/runs/brief/config.yaml"]
    for read in (ep.load_run, resume):
        with pytest.raises(RunFolderError, match="leads out of the run folder; remove it"):
            read(memory)
    assert not list(tmp_path.rglob("*escaped"))
    files.store.clear()


def test_urls_and_paths_are_told_apart() -> None:
    assert [is_remote(place) for place in ("s3://a", "memory://a", "file:///a", "a/b", Path("c"), None)] == [
        *(True, True, False, False, False, False)
    ]
    assert RunFolder(Path("a")).lock == Path("a/lock")
