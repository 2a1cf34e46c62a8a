"""Run folders on object stores: in memory, and on an S3 of this machine's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import evoprune as ep
from evoprune.errors import RunFolderError
from evoprune.progress import SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.record.places import is_remote
from tests import tiny_runs

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
    fsspec.filesystem("memory").rm("/runs", recursive=True)


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
    with pytest.raises(RunFolderError, match="holds a run"):
        tiny_runs.run(url, OPTIONS)


def test_a_file_url_is_a_folder(here: ep.Run, tmp_path: Path) -> None:
    run = tiny_runs.run(f"file://{tmp_path}/run", OPTIONS)  # type: ignore[arg-type]
    assert run.root == tmp_path / "run"
    tiny_runs.check_equal(ep.load_run(f"file://{tmp_path}/run"), here)


class Failing(SilentProgress):
    """The store does not answer while the first generation is brought there."""

    def __init__(self, patch: pytest.MonkeyPatch, url: str) -> None:
        self._patch = patch
        self._store = type(fsspec.core.url_to_fs(url)[0])
        self.notes: list[str] = []

    def stage(self, name: str, detail: str = "") -> None:
        if name == "search":
            self._patch.setattr(self._store, "pipe_file", refuse)

    def generation(self, summary: Any) -> None:
        self._patch.undo()

    def note(self, text: str) -> None:
        self.notes.append(text)


def refuse(*_: object, **__: object) -> None:
    raise OSError("Please reduce your request rate.")


def test_a_store_that_does_not_answer_for_a_while(here: ep.Run, memory: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        progress = Failing(patch, memory)
        tiny_runs.run(memory, OPTIONS, progress)  # type: ignore[arg-type]
    assert "memory://runs/brief cannot be written: Please reduce your request rate.; see that" in progress.notes[0]
    tiny_runs.check_equal(ep.load_run(memory), here)


@pytest.mark.parametrize(("url", "message"), [("nonsense://a/b", "cannot be used: Protocol not known: nonsense")])
def test_urls_that_lead_nowhere(url: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message):
        ep.load_run(url)


def test_names_in_a_store_do_not_lead_out_of_the_copy(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/evil/../../../escaped", b"x")
    memory.pipe_file("/evil/config.yaml", b"x")
    with pytest.raises(RunFolderError):
        ep.load_run("memory://evil")
    assert not list(tmp_path.rglob("escaped"))
    memory.rm("/evil", recursive=True)


def test_what_is_a_url() -> None:
    assert [is_remote(place) for place in ("s3://a", "memory://a", "file:///a", "a/b", Path("c"), None)] == [
        *(True, True, False, False, False, False)
    ]
    assert RunFolder(Path("a")).lock == Path("a/lock")
