"""Standard output and error that are closed, full or a pipe without a reader; warnings; exits of called code."""

import io
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import evoprune as ep
from evoprune.cli import run_commands
from evoprune.cli.main import app
from evoprune.cli.progress_display import LiveProgress
from evoprune.cli.streams import LossyStream, printed_warnings
from tests import tiny_runs

FULL = "error: standard output cannot be written: [Errno 28] No space left on device\n"

LOG = logging.getLogger("evoprune.somewhere")


def run_command(redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`evoprune run` of a brief run in a shell, with standard output and error redirected."""
    config = tiny_runs.config_file(folder, tiny_runs.BRIEF)
    words = [sys.executable, "-m", "tests.brief_measurements", "run", str(config), "--out", str(folder / "out")]
    return subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} {redirection}"], capture_output=True, text=True, check=False
    )


def check_whole(folder: Path) -> None:
    """A finished run, into none of whose files a line was printed."""
    run = ep.load_run(folder)
    assert len(run.candidates) == 8
    for key in run.survivors["key"]:
        run.load_survivor(key)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_closed_or_full_stream_does_not_end_a_run(redirection: str, tmp_path: Path) -> None:
    done = run_command(redirection, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("baseline" in done.stdout) == (redirection == "2>/dev/full")
    check_whole(tmp_path / "out")


def test_a_table_that_cannot_be_printed_exits_1_once_the_run_is_done(tmp_path: Path) -> None:
    done = run_command(">/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines(keepends=True)[-1] == FULL
    check_whole(tmp_path / "out")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    command = command.replace("evoprune", f"{shlex.quote(sys.executable)} -m evoprune", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "status", "stderr"),
    [
        ("evoprune --version >/dev/full", 1, FULL),
        ("evoprune --version >&-", 0, ""),
        ("evoprune run nowhere.yaml 2>/dev/full", 2, ""),
        ("evoprune run nowhere.yaml 2>&-", 2, ""),
        ("evoprune help config | true; exit ${PIPESTATUS[0]}", 1, ""),
        ("PYTHONIOENCODING=ascii evoprune run nöwhere.yaml", 2, None),
    ],
)
def test_exit_status_of_commands_that_cannot_print(command: str, status: int, stderr: str | None) -> None:
    done = shell(command)
    assert done.returncode == status
    if stderr is not None:
        assert done.stderr == stderr
    else:
        assert done.stderr.startswith(r"error: n\xf6where.yaml: config file not found")


def test_a_process_without_memory_for_torch_says_so_in_one_line(tmp_path: Path) -> None:
    config = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF)
    done = shell(f"ulimit -v 800000; exec evoprune run {config} --out {tmp_path / 'out'}")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: a library cannot be loaded (")
    assert line.endswith("; see that it is installed and has the memory (ulimit -v)")
    assert not (tmp_path / "out").exists()


def test_a_lossy_stream_keeps_its_write_error() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        stream = LossyStream(full)
        stream.write("text")
        stream.flush()
        assert isinstance(stream.problem, OSError)
        with pytest.raises(OSError, match="No space"):
            full.close()
    nowhere = LossyStream(None)
    nowhere.write("text")
    nowhere.flush()
    assert nowhere.problem is None
    assert not nowhere.isatty()
    closed = io.StringIO()
    closed.close()
    stream = LossyStream(closed)
    stream.write("text")
    assert isinstance(stream.problem, ValueError)


def test_characters_that_an_encoding_lacks_are_escaped() -> None:
    raw = io.BytesIO()
    stream = LossyStream(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("ü\n")
    stream.flush()
    assert (raw.getvalue(), stream.problem) == (b"\\xfc\n", None)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Has `evoprune run` call a function in the place of everything else."""

    def call(function: Callable[[], object], *options: str) -> Result:
        monkeypatch.setattr(run_commands, "load_config", lambda *_: function())
        return CliRunner().invoke(app, ["run", "x.yaml", *options])

    return call


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_warnings_are_lines_on_standard_error(quiet: tuple[str, ...], called: Callable[..., Result]) -> None:
    def warn() -> None:
        LOG.warning("layer %s stays\x1b[2J uncompensated", "conv1")
        LOG.info("nobody needs this")
        raise ep.UserError("the end")

    assert called(warn, *quiet).stderr == "warning: layer conv1 stays\\x1b[2J uncompensated\nerror: the end\n"
    assert logging.getLogger("evoprune").handlers == []


def test_a_secret_in_a_warning_is_masked(called: Callable[..., Result]) -> None:
    def warn() -> None:
        LOG.warning("sftp://me:secret@host does not answer")
        raise ep.UserError("the end")

    assert "secret" not in called(warn).stderr


def test_warnings_stand_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    with printed_warnings(), LiveProgress(Console(file=terminal, force_terminal=True, width=60)) as progress:
        progress.stage("search")
        LOG.warning("a [strange] candidate is set aside")
    assert "warning: a [strange] candidate is set aside\n" in terminal.getvalue()


def test_a_script_without_logging_setup_shows_warnings() -> None:
    code = "import evoprune, logging; logging.getLogger('evoprune.somewhere').warning('seen')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "seen\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (SystemExit(0), 1, "error: code that was called ended the command (SystemExit: 0); see the keys"),
        (SystemExit("bye"), 1, "error: code that was called ended the command (SystemExit: bye); see the keys"),
        (MemoryError("of 8 GiB"), 1, "error: out of memory (MemoryError: of 8 GiB); see"),
        (OSError(12, "Cannot allocate memory"), 1, "error: out of memory (OSError: [Errno 12] Cannot allocate"),
        (OSError("libx.so: failed to map"), 1, "error: a library cannot be loaded (OSError: libx.so: failed to map)"),
        (ImportError("no x", name="x"), 1, "error: a library cannot be loaded (ImportError: no x); see"),
    ],
)
def test_failures_outside_of_evoprune_are_one_line(
    error: BaseException, status: int, message: str, called: Callable[..., Result]
) -> None:
    def fail() -> None:
        raise error

    result = called(fail)
    assert result.exit_code == status
    [line] = result.stderr.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize("error", [ImportError("no x", name="evoprune.x"), PermissionError(13, "denied"), KeyError(1)])
def test_a_bug_keeps_its_traceback(error: Exception, called: Callable[..., Result]) -> None:
    def fail() -> None:
        raise error

    result = called(fail)
    assert (result.exit_code, result.exception, result.stderr) == (1, error, "")


def test_an_image_set_that_exits_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF | {"data.dataset": "leaving:images"})
    result = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: data.dataset: ")
    assert not (tmp_path / "out").exists()
