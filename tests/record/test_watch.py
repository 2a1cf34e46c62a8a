"""Following a run by its folder: what is told, in order, whenever one begins to look."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import RunFolderError
from evoprune.progress import GenerationSummary, SilentProgress
from evoprune.record import watch as watching
from evoprune.record.folder import RunFolder
from evoprune.record.watch import watch
from tests import tiny_runs


class Told(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.summaries: list[GenerationSummary] = []

    def stage(self, name: str, detail: str = "") -> None:
        self.events.append(f"{detail} is {name}" if name == "retrained" else name)

    def generation(self, summary: GenerationSummary) -> None:
        self.events.append(f"generation {summary.generation}")
        self.summaries.append(summary)


def never() -> float:
    raise AssertionError("there is nothing to wait for")


def notes(run: ep.Run) -> list[str]:
    return [f"{key} is retrained" for key in sorted(run.survivors["key"])]


GENERATIONS = [f"generation {number}" for number in range(4)]


def test_a_finished_run_is_reported_at_once(tiny_run: ep.Run) -> None:
    told = Told()
    before = tiny_runs.state_of(tiny_run.root)
    run = watch(tiny_run.root, told, never)
    assert run.survivors.equals(tiny_run.survivors)
    assert told.events == ["baseline", "search", *GENERATIONS, "retrain", *notes(tiny_run), "done"]
    assert tiny_runs.state_of(tiny_run.root) == before


def test_summaries_are_those_of_the_run_itself(tmp_path: Path) -> None:
    original, told = Told(), Told()
    run = tiny_runs.run(tmp_path / "run", progress=original)
    watch(run.root, told, never)
    timeless = [
        [(s.generation, s.generations, s.evaluated, s.cached, s.feasible, s.candidates) for s in one.summaries]
        for one in (original, told)
    ]
    assert timeless[0] == timeless[1]
    best = [[(s.best_cost, s.full_cost, s.cost_name, s.best_mcr) for s in one.summaries] for one in (original, told)]
    assert best[0] == best[1]
    assert all(summary.evaluations_per_second > 0 for summary in told.summaries)


def generation_files(number: int) -> list[str]:
    return [f"candidates/gen-{number:04d}.parquet", f"checkpoints/gen-{number:04d}.json"]


def test_files_are_reported_as_they_appear(tiny_run: ep.Run, tmp_path: Path) -> None:
    source, target = tiny_run.root, tmp_path / "run"
    target.mkdir()
    [survivor, *others] = [f"survivors/{key}.safetensors" for key in tiny_run.survivors["key"]]
    steps: list[tuple[list[str], list[str]]] = [
        (["baseline.safetensors"], []),
        (["space.json"], ["search"]),
        (["candidates/gen-0000.parquet"], []),  # it counts once its snapshot is there
        (["checkpoints/gen-0000.json"], ["generation 0"]),
        ([name for n in (1, 2) for name in generation_files(n)], ["generation 1", "generation 2"]),
        (generation_files(3), ["generation 3", "retrain"]),
        ([survivor], [f"{Path(survivor).stem} is retrained"]),
        ([*others, "survivors.parquet"], [*(f"{Path(other).stem} is retrained" for other in others), "done"]),
    ]
    for name in ("config.yaml", "environment.json"):
        shutil.copy(source / name, target / name)
    told = Told()
    expected = [["baseline"], *(events for _, events in steps)]
    seen: list[list[str]] = []

    def wait() -> float:
        seen.append(told.events[sum(map(len, seen)) :])
        names, _ = steps[len(seen) - 1]
        for name in names:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, target / name)
        return 1.0

    watch(target, told, wait)
    seen.append(told.events[sum(map(len, seen)) :])
    assert seen == expected


def test_rounds_are_followed_one_after_the_other(tmp_path: Path) -> None:
    rounds = [{"search": {"generations": 1}}, {"search": {"generations": 2}}]
    run = tiny_runs.run(tmp_path / "run", {"search.rounds": rounds, "retrain.epochs": 0})
    told = Told()
    watch(run.root, told, never)
    assert [event for event in told.events if " is retrained" not in event] == [
        *("round", "baseline", "search", "generation 0", "generation 1", "retrain"),
        *("round", "baseline", "search", "generation 0", "generation 1", "generation 2", "retrain", "done"),
    ]


@pytest.fixture
def unfinished(tiny_run: ep.Run, tmp_path: Path) -> Path:
    copy = shutil.copytree(tiny_run.root, tmp_path / "run")
    (copy / "survivors.parquet").unlink()
    return copy


def waits(then: Callable[[], object], times: int) -> Callable[[], float]:
    """Waits of 200 seconds; after so many of them, `then`."""
    count = [0]

    def wait() -> float:
        count[0] += 1
        if count[0] == times:
            then()
        return 200.0

    return wait


def test_a_long_quiet_time_is_one_warning(unfinished: Path, tiny_run: ep.Run, caplog: pytest.LogCaptureFixture) -> None:
    assert watching.QUIET_SECONDS == 600
    watch(unfinished, Told(), waits(lambda: shutil.copy(tiny_run.root / "survivors.parquet", unfinished), 9))
    assert caplog.messages == [f"nothing new for 10 min 00 s: if the run has stopped, evoprune resume {unfinished}"]


def test_a_run_that_goes_away_is_an_error(unfinished: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        watch(unfinished, Told(), waits(lambda: shutil.rmtree(unfinished), 2))


class TestCommand:
    def test_it_ends_with_the_survivors(self, tiny_run: ep.Run) -> None:
        result = CliRunner().invoke(app, ["watch", str(tiny_run.root)])
        assert result.exit_code == 0
        assert all(key in result.stdout for key in tiny_run.survivors["key"])
        assert "generation 3/3" in result.stderr

    def test_a_bad_folder_is_one_line(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["watch", str(tmp_path / "nowhere")])
        assert result.exit_code == 2
        assert result.output.startswith(f"error: {tmp_path / 'nowhere'} holds no run")
        assert result.output.count("\n") == 1

    def test_ctrl_c_leaves_quietly(self, unfinished: Path) -> None:
        process = tiny_runs.evoprune("watch", unfinished)
        assert process.stderr is not None
        line = ""
        while not line.startswith("retrain"):  # the last that there is to tell
            line = process.stderr.readline()
            assert line, process.wait()
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0
        assert out == ""
        assert "interrupt" not in err.lower()
        assert "Traceback" not in err
        assert not RunFolder(unfinished).survivors_table.exists()
