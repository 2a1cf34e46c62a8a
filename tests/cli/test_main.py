"""Commands, their output and their exit statuses; the pipeline is a stub, the processes are real."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import evoprune
from evoprune.cli import printed_tables as display
from evoprune.cli.main import app
from evoprune.errors import Interrupted, TrainingError

SURVIVOR = {
    "key": "3fa1",
    "mcr_search": 0.031,
    "mcr_retrained": 0.029,
    "mcr_test": 0.0312,
    "baseline_mcr_test": 0.0275,
    "baseline_mcr_validation": 0.025,
    "macs": 300_000,
    "macs_ratio": 0.25,
    "params": 9_000,
    "params_ratio": 0.3,
    "latency_ms": 0.5,
    "baseline_latency_ms": 1.25,
    "weights": "survivors/3fa1.safetensors",
}


@dataclass(frozen=True)
class Frame:
    records: list[dict[str, object]]

    def to_dict(self, orient: str) -> list[dict[str, object]]:
        assert orient == "records"
        return self.records


@dataclass(frozen=True)
class StubRun:
    root: Path
    survivors: Frame
    other_cost: tuple[str, float] | None = None


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    maps: int
    genes: int
    macs: int
    params: int


@dataclass(frozen=True)
class Part:
    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    network: str = "16C5-10"
    layers: tuple[Row, ...] = (Row("0", "conv 5x5", 16, 16, 230_400, 416),)
    genes: int = 16
    groups: int = 1
    macs: int = 253_440
    params: int = 23_466
    frozen: tuple[Part, ...] = (Part("3", "it gives the classes"),)
    reasons: tuple[object, ...] = ()


@dataclass
class Pipeline:
    """Stands for evoprune.pipeline.run: keeps what it was called with and does as it is told."""

    calls: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    effect: Callable[[Path], None] = lambda folder: None

    def run(self, config: object, **options: object) -> StubRun:
        self.calls.append(("run", {"config": config, **options}))
        return self._result(options["out"])

    def resume(self, path: Path, **options: object) -> StubRun:
        self.calls.append(("resume", {"path": path, **options}))
        return self._result(options["out"] or path)

    def inspect(self, config: object) -> Report:
        return Report()

    def _result(self, folder: object) -> StubRun:
        assert isinstance(folder, Path)
        self.effect(folder)
        return StubRun(folder, Frame([dict(SURVIVOR)]))


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    stub = Pipeline()
    module = ModuleType("evoprune.pipeline.run")
    vars(module).update(run=stub.run, resume=stub.resume, inspect=stub.inspect)
    monkeypatch.setitem(sys.modules, "evoprune.pipeline.run", module)
    monkeypatch.setattr("evoprune.pipeline.run", module, raising=False)  # for `from evoprune.pipeline import run`
    return stub


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text("name: a\n")
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: a\n")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_passes_config_folder_and_overwrite(pipeline: Pipeline, config: Path, tmp_path: Path) -> None:
    result = call("run", config, "--set", "search.population=16", "--out", tmp_path / "o", "--overwrite", "--quiet")
    assert result.exit_code == 0
    [(command, options)] = pipeline.calls
    assert command == "run"
    assert options["config"].search.population == 16  # type: ignore[attr-defined]
    assert (options["out"], options["overwrite"]) == (tmp_path / "o", True)


def test_run_writes_below_results_by_default(pipeline: Pipeline, config: Path) -> None:
    assert call("run", config).exit_code == 0
    assert pipeline.calls[0][1]["out"] == Path("results/a")


def test_run_prints_baseline_survivors_and_paths(pipeline: Pipeline, config: Path, tmp_path: Path) -> None:
    lines = call("run", config, "--out", tmp_path / "o").stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "baseline 2.50% - 2.75% 1.20 M 100.00% 30.0 k 100.00% 1.25" in rows
    assert "3fa1 3.10% 2.90% 3.12% 300.0 k 25.00% 9.00 k 30.00% 0.50" in rows
    assert f"survivors {tmp_path / 'o/survivors.parquet'}" in rows


def test_resume_passes_overrides_and_branch(pipeline: Pipeline, run_folder: Path, tmp_path: Path) -> None:
    branch = tmp_path / "b"
    result = call("resume", run_folder, "--set", "search.generations=20", "--generation", 5, "--out", branch, "--quiet")
    assert result.exit_code == 0
    [(command, options)] = pipeline.calls
    assert (command, options["path"], options["generation"], options["out"]) == (
        "resume",
        run_folder,
        5,
        branch,
    )
    assert options["overrides"] == {"search.generations": 20}


def test_inspect_prints_layers_totals_and_frozen_groups(pipeline: Pipeline, config: Path) -> None:
    result = call("inspect", config)
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert "0 conv 5x5 16 16 230.4 k 416" in rows
    assert "total 16 253.4 k 23.5 k" in rows
    assert "3 stays whole: it gives the classes" in result.stdout
    assert "16C5-10: 16 genes in 1 groups" in result.stdout


BAD_CALLS = {
    "no config": (["run", "no.yaml"], "no.yaml: config file not found"),
    "bad override": (["run", "{config}", "--set", "search.populaton=3"], "did you mean 'search.population'?"),
    "override without value": (["run", "{config}", "--set", "seed"], "--set must be KEY=VALUE"),
    "inspect": (["inspect", "{config}", "--set", "seed=-1"], "seed must be a whole number from 0"),
    "no run folder": (["resume", "nowhere"], "nowhere: not a run folder"),
    "branch without folder": (
        ["resume", "{folder}", "--generation", "2"],
        "--generation and --out go together",
    ),
    "folder without branch": (["resume", "{folder}", "--out", "b"], "--generation and --out go together"),
    "bad override of a run": (["resume", "{folder}", "--set", "seed=x"], "--set: seed must be"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_the_users_mistakes_exit_2_with_one_line(
    arguments: list[str], message: str, config: Path, run_folder: Path, pipeline: Pipeline
) -> None:
    result = call(*(argument.format(config=config, folder=run_folder) for argument in arguments))
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert result.stdout == ""
    assert pipeline.calls == []


@pytest.mark.parametrize(
    "arguments", [["prune"], ["run"], ["run", "x", "--frobnicate"], ["resume", "d", "--generation", "x"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2


def test_a_mistake_found_by_the_pipeline_exits_2(pipeline: Pipeline, config: Path) -> None:
    def fail(folder: Path) -> None:
        raise TrainingError("the loss is not finite at step 7; lower train.learning_rate from 3.0")

    pipeline.effect = fail
    result = call("run", config, "--quiet")
    assert result.exit_code == 2
    assert result.stderr == "error: the loss is not finite at step 7; lower train.learning_rate from 3.0\n"


@pytest.mark.parametrize("interruption", [Interrupted, KeyboardInterrupt])
def test_an_interruption_says_how_to_resume(
    interruption: type[BaseException], pipeline: Pipeline, config: Path, run_folder: Path
) -> None:
    def interrupt(folder: Path) -> None:
        raise interruption

    pipeline.effect = interrupt
    result = call("run", config, "--out", run_folder, "--quiet")
    assert result.exit_code == 130
    assert result.stderr == f"interrupted: go on with: evoprune resume {run_folder}\n"


def test_an_interruption_before_the_first_file_has_its_own_message(
    pipeline: Pipeline, config: Path, tmp_path: Path
) -> None:
    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    pipeline.effect = interrupt
    result = call("run", config, "--out", tmp_path / "new", "--quiet")
    assert (result.exit_code, result.stderr) == (130, "interrupted: nothing was written yet; run it again\n")


def test_a_bug_exits_1(pipeline: Pipeline, config: Path) -> None:
    def fail(folder: Path) -> None:
        raise ZeroDivisionError

    pipeline.effect = fail
    result = call("run", config, "--quiet")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def process(
    *arguments: str, code: str = "from evoprune.cli.main import main; main()"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_real_process_exits_2_without_a_traceback(config: Path) -> None:
    done = process("run", str(config), "--set", "search.tolerance=4")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --set: search.tolerance must be between 0 and 1 (a fraction: 0.02 is two percentage points), not 4\n"
    )


def test_a_real_process_exits_1_with_a_traceback(config: Path) -> None:
    code = (
        "import evoprune.cli.run_commands as commands; commands.load_config = lambda *_: 1 / 0; "
        "from evoprune.cli.main import main; main()"
    )
    done = process("run", str(config), code=code)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_help_and_version_exit_0() -> None:
    assert process("--help").returncode == 0
    done = subprocess.run([sys.executable, "-m", "evoprune", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"evoprune {evoprune.__version__}\n"


def shown(width: int) -> str:
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(display.survivors_table(console, [SURVIVOR]))
    return capture.get()


def test_a_wide_terminal_gets_a_table_and_a_narrow_one_paragraphs() -> None:
    for width in (100, 80):
        assert "MACs ratio" not in shown(width)
        assert "baseline 2.50% - 2.75% 1.20 M" in " ".join(shown(width).split())
    narrow = shown(40).splitlines()
    assert max(len(line.rstrip()) for line in narrow) <= 40
    ratios = [line.split() for line in narrow if "MACs ratio" in line]
    assert ratios == [["MACs", "ratio", "100.00%"], ["MACs", "ratio", "25.00%"]]


@pytest.mark.parametrize(
    ("number", "text"), [(950, "950"), (12_345, "12.3 k"), (4_560_000, "4.56 M"), (1.2e9, "1.20 G")]
)
def test_counts_are_short(number: float, text: str) -> None:
    assert display.count(number) == text
