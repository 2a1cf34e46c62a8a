"""What happens to a run in a week: signals, a second process, a full disk, a crash at any write, damaged files."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evoprune as ep
from evoprune.errors import RunFolderError
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from tests import tiny_runs
from tests.pipeline.test_resuming import finish, wait_for
from tests.tiny_runs import BRIEF

ENDLESS = {"search.generations": 10_000}


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "brief", BRIEF)


def resume(folder: Path) -> ep.Run:
    """The user names code and what the run was started with again: it is theirs."""
    return ep.resume(folder, overrides={"data.dataset": BRIEF["data.dataset"]})


# --- a second process


def test_a_second_process_is_refused_and_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    process = tiny_runs.evoprune("run", tiny_runs.config_file(tmp_path, ENDLESS), "--out", folder.root, "--quiet")
    wait_for(process, lambda: folder.snapshot(1).is_file())
    refusal = rf"run is worked on by another evoprune \(process {process.pid} on .*\); wait for it"
    with pytest.raises(RunFolderError, match=refusal):
        ep.resume(folder.root)
    with pytest.raises(RunFolderError, match=refusal):
        tiny_runs.run(folder.root, overwrite=True)
    process.kill()
    finish(process)
    reached = folder.snapshot_generations()[-1]
    with pytest.raises(KeyboardInterrupt):
        ep.resume(folder.root, progress=StopAt(reached + 1))
    assert folder.snapshot_generations()[-1] == reached + 1


class StopAt(SilentProgress):
    def __init__(self, generation: int) -> None:
        self._generation = generation

    def generation(self, summary: Any) -> None:
        if summary.generation == self._generation:
            raise KeyboardInterrupt


def test_a_disk_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    tiny_runs.run(tmp_path / "run", BRIEF)
    assert "cannot be locked (No locks available): see that no other process works on it" in caplog.messages[0]


# --- signals


def test_sigterm_is_as_ctrl_c(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    process = tiny_runs.evoprune("run", tiny_runs.config_file(tmp_path, ENDLESS), "--out", folder.root, "--quiet")
    wait_for(process, lambda: folder.snapshot(1).is_file())
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (143, "", f"interrupted: go on with: evoprune resume {folder.root}\n")
    assert not list(folder.root.rglob(f"*{files.TEMPORARY_SUFFIX}"))


@pytest.mark.parametrize(("status", "printed"), [(130, ""), (143, ""), (2, "on the way out\n")])
def test_an_interrupted_command_skips_the_exit_handlers_of_the_interpreter(status: int, printed: str) -> None:
    """Exit handlers do not run after an interruption, because threads of native libraries could crash in them."""
    program = (
        "import atexit, sys\n"
        "from evoprune.cli import main as cli\n"
        "atexit.register(print, 'on the way out')\n"
        f"cli.app = lambda: sys.exit({status})\n"
        "cli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, printed, "")


RAY = {"workers.backend": "ray", "workers.count": 1}


def test_ctrl_c_ends_retraining_on_ray(tmp_path: Path) -> None:
    """In the middle of an epoch that would take hours: nobody waits for its end."""
    folder = RunFolder(tmp_path / "run")
    long_epochs = {"search.generations": 1, "retrain.epochs": 10_000, "retrain.batch_size": 1, "retrain.survivors": 1}
    config = tiny_runs.config_file(tmp_path, RAY | long_epochs)
    process = tiny_runs.evoprune("run", config, "--out", folder.root, "--quiet")
    wait_for(process, lambda: bool(list((folder.root / "training").glob("[0-9a-f]*[0-9a-f].safetensors"))))
    process.send_signal(signal.SIGINT)
    status, _, error = finish(process)
    assert status == 130
    assert f"interrupted: go on with: evoprune resume {folder.root}\n" in error


def test_ctrl_c_twice_ends_at_once(brief: ep.Run, tmp_path: Path) -> None:
    """While the first one is being answered: nothing is torn, and the run goes on to the same end."""
    folder = RunFolder(tmp_path / "run")
    config = tiny_runs.config_file(tmp_path, BRIEF | RAY)
    process = tiny_runs.evoprune("run", config, "--out", folder.root, "--quiet")
    wait_for(process, lambda: folder.snapshot(0).is_file())
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(signal.SIGINT)
    status, _, error = finish(process)
    assert status == 130
    assert "interrupted twice: ended at once\n" in error
    serial = {"workers.backend": "serial", "data.dataset": BRIEF["data.dataset"]}
    tiny_runs.check_equal(ep.resume(folder.root, overrides=serial), brief)


# --- moments at random


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 20))])
def test_killed_at_random_moments(seed: int, brief: ep.Run, tmp_path: Path) -> None:
    """Three processes, each killed somewhere within the time that a whole run takes; then undisturbed to the end."""
    rng = np.random.default_rng(seed)
    folder = tmp_path / "run"
    for _ in range(3):
        process = os.fork()
        if not process:
            try:
                go_on(folder)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.02, 0.5))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    tiny_runs.check_equal(go_on(folder), brief)


# --- a crash at every write


class Operations:
    """Counts a run's operations on files; `before` is called with the number of each."""

    def __init__(self, patch: pytest.MonkeyPatch, before: Any) -> None:
        self.count = 0
        self._before = before
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))
        patch.setattr(Path, "open", self._counted_open(Path.open))

    def _counted(self, operation: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._next()
            return operation(*arguments, **options)

        return counted

    def _counted_open(self, operation: Any) -> Any:
        def counted(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if "x" in mode or "w" in mode:
                self._next()
            return operation(path, mode, *arguments, **options)

        return counted

    def _next(self) -> None:
        number, self.count = self.count, self.count + 1
        self._before(number)


def test_a_crash_at_every_file_operation(brief: ep.Run, tmp_path: Path) -> None:
    """A crash before the n-th operation leaves what the first n - 1 did: that is copied for every n, and resumed."""
    folder, states = tmp_path / "run", list[Path]()

    def keep(number: int) -> None:
        states.append(tmp_path / f"{number}")
        if folder.exists():
            with pytest.MonkeyPatch.context() as quiet:
                operations.pause(quiet)
                shutil.copytree(folder, states[-1])

    with pytest.MonkeyPatch.context() as patch:
        operations = Pausing(patch, keep)
        tiny_runs.run(folder, BRIEF)
    assert len(states) > 50
    contents = {tuple(content_of(state)): state for state in states if state.exists()}
    assert len(contents) > 15
    for state in contents.values():
        tiny_runs.check_equal(go_on(state), brief)


def go_on(folder: Path) -> ep.Run:
    return resume(folder) if RunFolder(folder).holds_run() else tiny_runs.run(folder, BRIEF)


class Pausing(Operations):
    def __init__(self, patch: pytest.MonkeyPatch, before: Any) -> None:
        self._paused = False
        super().__init__(patch, before)

    def pause(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(self, "_paused", True)

    def _next(self) -> None:
        if not self._paused:
            super()._next()


def content_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


# --- a full disk


def test_a_disk_that_fills_up_repeatedly(brief: ep.Run, tmp_path: Path) -> None:
    """At the first operation, at the second one of what then goes on, and so on: a line each time, and it goes on."""
    folder, messages, done = tmp_path / "run", list[str](), False
    while not done:
        with pytest.MonkeyPatch.context() as patch:
            Operations(patch, FullAt(len(messages)))
            try:
                done = bool(go_on(folder))
            except RunFolderError as error:
                messages.append(str(error))
    assert len(messages) >= 8
    assert all("No space left on device" in message and "\n" not in message for message in messages)
    tiny_runs.check_equal(ep.load_run(folder), brief)


class FullAt:
    """The n-th operation, counted from 0, finds the disk full."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, number: int) -> None:
        if number == self._number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_small_disk(tiny_run: ep.Run, tmp_path: Path) -> None:
    """A real one, of some pages: the run ends with a line, its snapshots are whole, and with space it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(RunFolderError, match=r"No space left on device; make space on its disk, then go on with"):
            tiny_runs.run(disk / "run")
        folder = RunFolder(disk / "run")
        assert folder.baseline.is_file()
        assert not list(folder.root.rglob(f"*{files.TEMPORARY_SUFFIX}"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        tiny_runs.check_equal(ep.resume(folder.root), tiny_run)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- damaged files


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "altered": lambda data: data[:200] + b"\xff\x00" + data[202:],
}
NEWEST = ["checkpoints/gen-0003.json", "candidates/gen-0003.parquet", "survivors"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", NEWEST)
def test_a_damaged_file_is_named_and_done_again(
    place: str, damage: str, tiny_run: ep.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.root, folder)
    path = folder / place if place != "survivors" else next((folder / place).iterdir())
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    files.remove([RunFolder(folder).survivors_table])
    tiny_runs.check_equal(ep.resume(folder), tiny_run)
    assert any(f"{path} is damaged" in message for message in caplog.messages)


def test_a_damaged_state_of_training_is_named_and_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = BRIEF | {"train.epochs": 2}
    whole = tiny_runs.run(tmp_path / "whole", options)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(folder.root, options, AfterAnEpoch())
    folder.training("baseline").write_bytes(b"half of it")
    tiny_runs.check_equal(resume(folder.root), whole)
    assert caplog.messages == [
        f"{folder.training('baseline')} is damaged: no safetensors; put it back from a copy, or remove it; "
        "its training begins again"
    ]


class AfterAnEpoch(SilentProgress):
    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        raise KeyboardInterrupt


def test_damaged_candidates_of_an_earlier_generation_are_not_thrown_away(tiny_run: ep.Run, tmp_path: Path) -> None:
    """Later generations stay, because nothing is deleted without being asked."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(tiny_run.root, folder.root)
    folder.candidates(1).write_bytes(b"PAR1")
    files.remove([folder.survivors_table])
    with pytest.raises(files.DamagedFileError, match=r"gen-0001\.parquet is damaged"):
        ep.resume(folder.root)
    assert folder.snapshot_generations() == [0, 1, 2, 3]
