"""One holder at a time, and none when its process is gone."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import evoprune as ep
from evoprune.errors import RunFolderError
from evoprune.progress import GenerationSummary, SilentProgress
from evoprune.record import files, lock
from evoprune.record.folder import RunFolder
from evoprune.record.lock import locked
from tests import tiny_runs


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    with (
        locked(folder),
        pytest.raises(RunFolderError, match=r"run is worked on by another evoprune \(process \d+ on .*\); wait for it"),
        locked(folder),
    ):
        pass
    with locked(folder):
        pass


def test_the_content_of_a_foreign_lock_file_is_shown_in_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with locked(folder):
        folder.lock.write_bytes(b"\x1b[2J\nevil\xff" * 1000)
        with pytest.raises(RunFolderError) as error, locked(folder):
            pass
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    folder.lock.symlink_to(precious)
    with pytest.raises(RunFolderError, match="lock is a link"), locked(folder):
        pass
    assert precious.read_text() == "mine"


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from evoprune.record.folder import RunFolder\n"
        "from evoprune.record.lock import locked\n"
        f"with locked(RunFolder(Path({str(tmp_path)!r}))): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with locked(RunFolder(tmp_path)):
        pass


def remove(folder: RunFolder) -> None:
    folder.lock.unlink()


def remove_all(folder: RunFolder) -> None:
    shutil.rmtree(folder.root)


def replace(folder: RunFolder) -> None:
    shutil.copy(folder.lock, folder.root / "other")
    (folder.root / "other").rename(folder.lock)


def replace_all(folder: RunFolder) -> None:
    folder.root.rename(folder.root.with_name("moved"))
    shutil.copytree(folder.root.with_name("moved"), folder.root)


def sign(folder: RunFolder) -> None:
    """As a second process does where the disk has no locks."""
    folder.lock.write_text("process 1 on another, token 0011223344556677\n")


@pytest.mark.parametrize("change", [remove, remove_all, replace, replace_all, sign])
def test_the_holder_notices_at_its_next_write_that_it_has_lost_the_folder(
    change: Callable[[RunFolder], None], tmp_path: Path
) -> None:
    with locked(RunFolder(tmp_path / "run")) as held:
        files.write_text(held.config, "name: mine\n")
        change(RunFolder(held.root))
        for path in (lambda: held.config, lambda: held.round(1).survivor("0a"), lambda: held.snapshot(3)):
            with pytest.raises(RunFolderError, match=r"run is no longer held by this process.*`evoprune resume .*run`"):
                files.write_text(path(), "name: other\n")


def test_two_writers_never_mix(tmp_path: Path) -> None:
    """The second one gets in over a removed lock file, and from then on writes alone."""
    folder = RunFolder(tmp_path / "run")

    class Usurped(SilentProgress):
        def generation(self, summary: GenerationSummary) -> None:
            if summary.generation == 0:
                shutil.rmtree(folder.root)
                tiny_runs.run(folder.root, tiny_runs.BRIEF | {"seed": 1})

    with pytest.raises(RunFolderError, match="no longer held by this process"):
        tiny_runs.run(folder.root, tiny_runs.BRIEF, Usurped())
    alone = tiny_runs.run(tmp_path / "alone", tiny_runs.BRIEF | {"seed": 1})
    tiny_runs.check_equal(ep.load_run(folder.root), alone)


def test_without_flock_there_is_a_warning_and_a_second_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    with locked(RunFolder(tmp_path)) as first, locked(RunFolder(tmp_path)) as second:
        files.write_text(second.config, "name: second\n")
        with pytest.raises(RunFolderError, match="no longer held"):
            files.write_text(first.config, "name: first\n")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "cannot be locked (this system has no flock): see that no other process works on it" in caplog.text


def test_a_system_without_fcntl_can_import_everything() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import evoprune.record.lock, evoprune.pipeline.run"
    subprocess.run([sys.executable, "-c", code], check=True)
