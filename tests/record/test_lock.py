"""One holder at a time, and none when its process is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from evoprune.errors import RunFolderError
from evoprune.record.folder import RunFolder
from evoprune.record.lock import locked


def unexpected(note: str) -> None:
    raise AssertionError(note)


def test_the_second_one_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    with (
        locked(folder, unexpected),
        pytest.raises(RunFolderError, match=r"run is worked on by another evoprune \(process \d+ on .*\); wait for it"),
        locked(folder, unexpected),
    ):
        pass
    with locked(folder, unexpected):
        pass


def test_what_stands_in_the_file_of_somebody_else_is_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with locked(folder, unexpected):
        folder.lock.write_bytes(b"\x1b[2J\nevil\xff" * 1000)
        with pytest.raises(RunFolderError) as error, locked(folder, unexpected):
            pass
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    folder.lock.symlink_to(precious)
    with pytest.raises(RunFolderError, match="cannot be written"), locked(folder, unexpected):
        pass
    assert precious.read_text() == "mine"


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from evoprune.record.folder import RunFolder\n"
        "from evoprune.record.lock import locked\n"
        f"with locked(RunFolder(Path({str(tmp_path)!r})), print): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with locked(RunFolder(tmp_path), unexpected):
        pass
