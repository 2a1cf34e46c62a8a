"""Runs that are killed, interrupted, carried on and branched off end as if nothing had happened."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import ConfigError, NetworkError, RunFolderError, UserError
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from tests import tiny_runs

LONGER = {"search.population": 16, "search.generations": 5, "retrain.epochs": 0}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """Five generations of 16, never interrupted; only read."""
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "long", LONGER)


@pytest.fixture
def finished(tiny_run: ep.Run, tmp_path: Path) -> Path:
    """A copy of the finished run of three generations."""
    folder = tmp_path / "finished"
    shutil.copytree(tiny_run.root, folder)
    return folder


# --- processes


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Returns as soon as it has happened, while the process is at work."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def test_killed_in_the_middle_of_generation_3_and_resumed(long_run: ep.Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "killed")
    config = tiny_runs.config_file(tmp_path, LONGER)
    process = tiny_runs.evoprune("run", config, "--out", folder.root)
    wait_for(process, lambda: folder.snapshot(2).is_file())
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert folder.snapshot_generations() == [0, 1, 2]
    assert not folder.survivors_table.exists()
    status, output, _ = finish(tiny_runs.evoprune("resume", folder.root))
    assert status == 0
    assert str(folder.survivors_table) in output
    resumed = ep.load_run(folder.root)
    assert all(key in output for key in resumed.survivors["key"])
    tiny_runs.check_equal(resumed, long_run)


def test_ctrl_c_prints_the_resume_command(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a run")
    config = tiny_runs.config_file(tmp_path, {"search.generations": 10_000})
    process = tiny_runs.evoprune("run", config, "--out", folder.root, "--quiet")
    wait_for(process, lambda: folder.snapshot(1).is_file())
    process.send_signal(signal.SIGINT)
    status, output, error = finish(process)
    assert (status, output) == (130, "")
    assert error == f"interrupted: go on with: evoprune resume '{folder.root}'\n"
    reached = folder.snapshot_generations()[-1]
    assert folder.candidate_generations()[: reached + 1] == list(range(reached + 1))
    assert not list(folder.root.rglob(f"*{files.TEMPORARY_SUFFIX}"))


# --- interruptions of training


class Interrupting(SilentProgress):
    """Ctrl-C after an epoch of a network's training; keeps what was trained, over several attempts."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []
        self.at: tuple[str, int] | None = None

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        self.trained.append((what, epoch))
        if (what, epoch) == self.at:
            raise KeyboardInterrupt


def test_interrupted_in_training_and_in_retraining(tmp_path: Path) -> None:
    """Three interruptions, each after an epoch of another network: no epoch is trained twice."""
    options = tiny_runs.BRIEF | {
        **{"train.epochs": 2, "retrain.survivors": 2, "retrain.epochs": 2, "data.augment": ["crop"]},
        **{"search.population": 8},
    }
    data = {"data.dataset": options["data.dataset"]}  # code, which is named anew
    whole = tiny_runs.run(tmp_path / "whole", options)
    first, second = whole.survivors["key"]
    folder, progress = tmp_path / "interrupted", Interrupting()
    progress.at = ("baseline", 1)
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(folder, options, progress)
    assert RunFolder(folder).training("baseline").is_file()
    for progress.at in ((first, 1), (second, 2)):
        with pytest.raises(KeyboardInterrupt):
            ep.resume(folder, overrides=data, progress=progress)
    assert RunFolder(folder).survivor(first).is_file() is False  # all survivors are put down together
    progress.at = None
    tiny_runs.check_equal(ep.resume(folder, overrides=data, progress=progress), whole)
    assert progress.trained == [(what, epoch) for what in ("baseline", first, second) for epoch in (1, 2)]
    assert list((folder / "training").iterdir()) == []


class InterruptingScores(SilentProgress):
    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        if (generation, done) == (2, 3):
            raise KeyboardInterrupt


def test_interrupted_between_two_scores(tiny_run: ep.Run, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(folder, progress=InterruptingScores())
    assert RunFolder(folder).candidate_generations() == [0, 1]
    tiny_runs.check_equal(ep.resume(folder), tiny_run)


class AfterScores(SilentProgress):
    def __init__(self, left: int) -> None:
        self.left = left

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


SEQUENTIAL = {"retrain.compensation": "sequential"}
STEADY = LONGER | {"search.steady_state": True}


@pytest.mark.parametrize("after", [5, 30, 75])
def test_steady_state_goes_on_as_if_never_interrupted(after: int, tmp_path: Path, steady_run: ep.Run) -> None:
    """Interrupted after so many scores: candidates of later parts were with the workers then."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(folder, STEADY, AfterScores(after))
    tiny_runs.check_equal(ep.resume(folder), steady_run)


@pytest.fixture(scope="module")
def steady_run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "steady", STEADY)


def test_a_finished_steady_state_search_is_continued(tmp_path: Path, steady_run: ep.Run) -> None:
    """The genomes that a longer run breeds before the third generation's end are bred then, too."""
    folder = tmp_path / "run"
    tiny_runs.run(folder, STEADY | {"search.generations": 3})
    tiny_runs.check_equal(ep.resume(folder, overrides={"search.generations": 5}), steady_run)


def test_steady_state_breeds_other_candidates(steady_run: ep.Run, long_run: ep.Run) -> None:
    """From the same start, as many of them, none of them scored twice."""
    one, other = steady_run.candidates, long_run.candidates
    assert one["key"][:16].tolist() == other["key"][:16].tolist()
    assert len(one) == len(other)
    assert one["key"].tolist() != other["key"].tolist()
    assert one.loc[~one["cached"], "key"].is_unique


def test_candidates_without_their_snapshot_are_scored_again(tiny_run: ep.Run, finished: Path) -> None:
    """As after a kill between the two files, and with half a file of a write that was torn."""
    folder = RunFolder(finished)
    files.remove([folder.snapshot(3), folder.survivors_table])
    torn = folder.candidates(3).with_name(f".gen-0003.parquet.0123abcd{files.TEMPORARY_SUFFIX}")
    torn.write_bytes(b"PAR1")
    tiny_runs.check_equal(ep.resume(finished), tiny_run)
    assert not torn.exists()


def test_a_damaged_snapshot_is_passed_over(tiny_run: ep.Run, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(finished)
    folder.snapshot(3).write_text("{}")
    files.remove([folder.survivors_table])
    tiny_runs.check_equal(ep.resume(finished), tiny_run)
    assert "gen-0003.json is damaged" in caplog.text


# --- going on with what is finished


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = tiny_runs.state_of(finished)
    ep.resume(finished)
    ep.resume(finished, overrides={"workers.backend": "ray", "workers.count": 3})
    result = CliRunner().invoke(app, ["resume", str(finished)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert ep.load_run(finished).survivors["key"].iloc[0] in result.stdout
    assert tiny_runs.state_of(finished) == before


def test_a_finished_search_is_continued(long_run: ep.Run, tmp_path: Path) -> None:
    """From three generations to five; what was retrained after three and is no survivor any more is gone."""
    folder = tmp_path / "run"
    tiny_runs.run(folder, LONGER | {"search.generations": 3})
    carried_on = ep.resume(folder, overrides={"search.generations": 5})
    tiny_runs.check_equal(carried_on, long_run)
    assert carried_on.config == long_run.config


def test_retraining_alone_is_done_again(tiny_run: ep.Run, finished: Path) -> None:
    kept = {name: state for name, state in tiny_runs.state_of(finished).items() if name.startswith("candidates")}
    again = ep.resume(
        finished, overrides={"retrain.epochs": 0, "retrain.survivors": 1, "retrain.compensation": "search"}
    )
    assert again.survivors["mcr_retrained"].tolist() == again.survivors["mcr_search"].tolist()
    assert set(again.survivors["key"]) < set(tiny_run.survivors["key"])
    assert kept.items() <= tiny_runs.state_of(finished).items()
    back = ep.resume(finished, overrides={"retrain.epochs": 1, "retrain.survivors": 2, **SEQUENTIAL})
    tiny_runs.check_equal(back, tiny_run)


def test_given_weights_are_not_needed_again(tiny_run: ep.Run, tmp_path: Path) -> None:
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "run"
    shutil.copy(RunFolder(tiny_run.root).baseline, weights)
    tiny_runs.run(folder, {"model.weights": str(weights), "search.generations": 2})
    weights.unlink()
    tiny_runs.check_equal(ep.resume(folder, overrides={"search.generations": 3}), tiny_run)


def test_a_file_that_only_the_folder_names_is_not_read(tiny_run: ep.Run, tmp_path: Path) -> None:
    """Weights are read again only if the baseline is not there, images always; both only if they are repeated."""
    weights, folder = tmp_path / "weights.safetensors", RunFolder(tmp_path / "run")
    shutil.copy(RunFolder(tiny_run.root).baseline, weights)
    tiny_runs.run(folder.root, {"model.weights": str(weights), "search.generations": 2})
    weights.write_text("read by nobody")
    ep.resume(folder.root, overrides={"search.generations": 3})
    ep.resume(folder.root)
    folder.baseline.unlink()
    folder.survivors_table.unlink()
    with pytest.raises(ConfigError, match=rf"model\.weights is {weights}, .* --set model\.weights={weights}$"):
        ep.resume(folder.root)
    with pytest.raises(NetworkError, match="holds no weights"):
        ep.resume(folder.root, overrides={"model.weights": str(weights)})
    folder.config.write_text(folder.config.read_text().replace("root: null", f"root: {tmp_path}"))
    with pytest.raises(ConfigError, match=rf"data\.root is {tmp_path}, .* --set data\.root={tmp_path} --set model"):
        ep.resume(folder.root)


# --- branches


def test_a_branch_equals_its_source(long_run: ep.Run, tmp_path: Path) -> None:
    before = tiny_runs.state_of(long_run.root)
    branch = ep.resume(long_run.root, generation=1, out=tmp_path / "branch")
    assert branch.root == tmp_path / "branch"
    tiny_runs.check_equal(branch, long_run)
    assert tiny_runs.state_of(long_run.root) == before


def test_a_branch_may_end_earlier(tiny_run: ep.Run, tmp_path: Path) -> None:
    """From generation 0 of a run of three generations to one of two."""
    branch = ep.resume(tiny_run.root, generation=0, out=tmp_path / "branch", overrides={"search.generations": 2})
    candidates = tiny_run.candidates[tiny_run.candidates["generation"] <= 2]
    assert branch.candidates["key"].tolist() == candidates["key"].tolist()


def test_an_interrupted_branch_resumes(tiny_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branch, write = tmp_path / "branch", files.write_bytes

    def write_and_interrupt(path: Path, data: bytes) -> None:
        if path == RunFolder(branch).snapshot(1):
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", write_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        ep.resume(tiny_run.root, generation=2, out=branch)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="holds a run"):
        tiny_runs.run(branch)
    tiny_runs.check_equal(ep.resume(branch), tiny_run)


# --- what is refused, in one line, before anything changes


REFUSED: dict[str, tuple[dict[str, Any], type[UserError], str]] = {
    "another search": (
        {"overrides": {"search.population": 8}},
        ConfigError,
        "search.population cannot change in a run that is resumed: it is 6 there, not 8; "
        "start another run with `evoprune run` and --out",
    ),
    "another seed": ({"overrides": {"seed": 1}}, ConfigError, "seed cannot change in a run that is resumed"),
    "another name": ({"overrides": {"name": "b"}}, ConfigError, "name cannot change"),
    "another rounding": ({"overrides": {"workers.threads": 2}}, ConfigError, "workers.threads cannot change"),
    "more and other": (
        {"overrides": {"search.generations": 9, "data.validation": 9}},
        ConfigError,
        "data.validation cannot change",
    ),
    "fewer generations": (
        {"overrides": {"search.generations": 2}},
        ConfigError,
        "search.generations must be at least 3, which this run has reached, not 2; "
        "branch off from an earlier generation with --generation and --out",
    ),
    "unknown key": ({"overrides": {"search.generatons": 9}}, ConfigError, "did you mean 'search.generations'"),
    "no such generation": (
        {"generation": 7, "out": "{other}", "overrides": {"search.generations": 9}},
        RunFolderError,
        "has no snapshot of generation 7; there are: 0, 1, 2, 3",
    ),
    "a branch that ends before it begins": (
        {"generation": 2, "out": "{other}", "overrides": {"search.generations": 1}},
        ConfigError,
        "search.generations must be at least 2",
    ),
    "a branch into itself": ({"generation": 1, "out": "{folder}"}, RunFolderError, "choose another folder with --out"),
    "a branch without a folder": ({"generation": 1}, ConfigError, "generation and out go together"),
    "a folder without a branch": ({"out": "{other}"}, ConfigError, "generation and out go together"),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_before_anything_changes(
    options: dict[str, Any], kind: type[UserError], message: str, finished: Path, tmp_path: Path
) -> None:
    other, before = tmp_path / "other", tiny_runs.state_of(finished)
    if "out" in options:
        options = options | {"out": options["out"].format(folder=finished, other=other)}
    with pytest.raises(kind) as error:
        ep.resume(finished, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert tiny_runs.state_of(finished) == before
    assert not other.exists()


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\n")
    with pytest.raises(RunFolderError, match="holds no run"):
        ep.resume(tmp_path)
