"""Runs whose criterion, algorithm, cost and recipe are a user's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.cli.printed_tables import survivors_table
from evoprune.errors import ConfigError, PluginError
from evoprune.record.folder import RunFolder
from tests import tiny_runs
from tests.few_images import few
from tests.plugins import own_algorithms, own_costs, own_criteria, own_recipes
from tests.shared_ray import SharedRay

ROOT = Path(__file__).parents[2]
OWN = {
    "search.criterion": "tests.plugins.own_criteria:spread",
    "search.algorithm": "tests.plugins.own_algorithms:HillClimbing",
    "search.cost": "tests.plugins.own_costs:Measured",
    "retrain.recipe": "tests.plugins.own_recipes:Noisy",
}
SETTINGS = {
    **tiny_runs.BRIEF,
    "search.generations": 3,
    "search.population": 6,
    "retrain.epochs": 2,
    "retrain.learning_rate": 0.01,
    "retrain.ema": 0.5,
}


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """A finished run with all plug-ins, which is only read."""
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "own", {**SETTINGS, **OWN, "record.report": True})


def test_the_cost_has_its_column_in_tables_plots_and_report(own_run: ep.Run) -> None:
    run = ep.load_run(own_run.root)
    whole = 4 * 1 * 9 * 14 * 14 * 4 + 10 * (4 * 2 * 2) * 3  # 4 pJ a MAC of the convolution, 3 pJ of the linear layer
    assert run.candidates["measured_energy"].iloc[0] == pytest.approx(whole / 1000)
    assert run.candidates["predicted_latency_ms"].isna().all()
    assert run.corner is not None
    assert (run.corner.column, run.corner.cost) == ("measured_energy", pytest.approx(whole / 1000))
    assert (run.survivors["measured_energy"] < whole / 1000).all()
    report = RunFolder(run.root).report.read_text()
    assert "low measured_energy" in report
    assert "<th>measured energy (nJ)</th>" in report
    energy = run.survivors["measured_energy"].iloc[0]
    assert f'<td data-value="{energy}">{energy:.2f}</td>' in report
    assert "measured_energy" in ep.load_runs(run.root)
    watched = CliRunner().invoke(app, ["watch", str(run.root)])
    assert "best measured_energy" in watched.output


def test_the_survivors_that_are_printed_have_the_cost(own_run: ep.Run) -> None:
    console = Console(width=200)
    with console.capture() as printed:
        console.print(survivors_table(console, own_run.survivors.to_dict("records"), own_run.other_cost))  # type: ignore[arg-type]
    heads, _, baseline, survivor, *_ = printed.get().splitlines()[1:]
    assert own_run.corner is not None
    assert baseline.split()[-1] == f"{own_run.corner.cost:.4g}"
    assert survivor.split()[-1] == f"{own_run.survivors['measured_energy'].iloc[0]:.4g}"
    assert "energy" in heads


def test_workers_on_ray_give_the_same(own_run: ep.Run, tmp_path: Path, shared_ray: SharedRay) -> None:
    shared_ray.start()
    on_ray = {**SETTINGS, **OWN, "workers.backend": "ray", "workers.count": 2}
    tiny_runs.check_equal(tiny_runs.run(tmp_path / "ray", on_ray), own_run)


def test_a_mistake_in_the_third_generation_leaves_a_run_that_goes_on(
    own_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had never been made, once it is mended; every plug-in is named again, or the run is refused."""
    own = {**OWN, "search.algorithm": "tests.plugins.own_algorithms:FailsInTheThird"}
    config, folder = tiny_runs.config_file(tmp_path, {**SETTINGS, **own}), tmp_path / "run"
    failed = CliRunner().invoke(app, ["run", str(config), "--out", str(folder)])
    assert failed.exit_code == 2
    assert [line for line in failed.output.splitlines() if line.startswith("error")] == [
        "error: search.algorithm: tests.plugins.own_algorithms:FailsInTheThird: tell failed (RuntimeError: first "
        "line); correct it; a run that has begun goes on with `evoprune resume`"
    ]
    assert len(ep.load_run(folder).generations) == 2
    monkeypatch.setattr(own_algorithms.FailsInTheThird, "tell", own_algorithms.HillClimbing.tell)
    with pytest.raises(
        ConfigError, match=r"which would run code, .* name it again: --set search\.criterion="
    ) as caught:
        ep.resume(folder)
    assert all(f"--set {key}={value}" in str(caught.value) for key, value in own.items())
    resumed = ep.resume(folder, {**own, "data.dataset": tiny_runs.BRIEF["data.dataset"]})
    tiny_runs.check_equal(resumed, own_run)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("search.cost", "own_costs:FailsLater", r"FailsLater: of failed \(RuntimeError: first line\)"),
        ("search.cost", "own_costs:NameOfAColumn", r"NameOfAColumn\.name must not be mcr, which is another column"),
        ("search.criterion", "own_criteria:raises", r"raises: its call failed \(RuntimeError: no value\)"),
        ("search.criterion", "own_criteria:missing", r"search\.criterion: .* has no 'missing'"),
        ("search.algorithm", "nowhere:any", r"search\.algorithm: cannot import module 'tests\.plugins\.nowhere'"),
        ("retrain.recipe", "own_recipes:Cropped", r"Cropped: augmented returned torch\.float32"),
    ],
)
def test_other_mistakes_end_in_one_line(key: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((PluginError, ConfigError), match=message) as caught:
        tiny_runs.run(tmp_path / "run", {**SETTINGS, key: f"tests.plugins.{name}"})
    assert "\n" not in str(caught.value)
    begun = name in ("own_costs:FailsLater", "own_criteria:raises", "own_recipes:Cropped")
    assert (tmp_path / "run" / "config.yaml").is_file() == begun


def test_a_mistake_on_a_worker_names_the_plug_in(tmp_path: Path, shared_ray: SharedRay) -> None:
    shared_ray.start()
    settings = {**SETTINGS, "workers.backend": "ray", "workers.count": 1}
    with pytest.raises(PluginError, match=r"^retrain\.recipe: .*:NoLoss: update must return the loss before the step"):
        tiny_runs.run(tmp_path / "run", {**settings, "retrain.recipe": "tests.plugins.own_recipes:NoLoss"})


def test_evolve_takes_the_objects_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(6), nn.Flatten(), nn.Linear(24, 10)).eval()
    images, labels, *_ = few()
    arguments: dict[str, Any] = {
        "tolerance": 0.9,
        "train": (images, labels),
        "criterion": own_criteria.Spread,
        "algorithm": own_algorithms.HillClimbing,
        "cost": own_costs.Energy,
        "recipe": own_recipes.Noisy,
        "search": ep.SearchConfig(population=4, generations=1),
        "retrain": ep.RetrainConfig(survivors=1, epochs=1),
        "workers": ep.WorkersConfig(backend="serial"),
        "out": tmp_path / "run",
    }
    run = ep.evolve(model, images[:1], (images, labels), images[:20], **arguments)
    assert run.config.search.criterion == "tests.plugins.own_criteria:Spread"
    assert run.config.search.algorithm == "tests.plugins.own_algorithms:HillClimbing"
    assert run.config.retrain.recipe == "tests.plugins.own_recipes:Noisy"
    assert run.survivors["energy"].iloc[0] < run.candidates["energy"].iloc[0]
    with pytest.raises(ConfigError, match="a criterion must be a function or class at the top level of a module"):
        ep.evolve(model, images[:1], (images, labels), images[:20], **{**arguments, "criterion": lambda context: 1})


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("search.criterion", "experiments.own_criterion:sensitivity"),
        ("search.algorithm", "experiments.own_algorithm:Annealing"),
    ],
)
def test_the_examples_run(key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = tiny_runs.run(tmp_path / "run", {**SETTINGS, key: name})
    assert len(run.survivors) == 1
    assert run.survivors["macs_ratio"].iloc[0] < 1


def test_the_example_of_energy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    small = {**SETTINGS, "workers.backend": "serial", "record.report": False, "train.epochs": 1}
    run = ep.run("experiments/energy.yaml", small, out=tmp_path / "run")
    convolution, linear = 4 * 9, 10 * 16
    whole = (1.5 * (convolution * 14 * 14 + linear) + 5 * convolution + 640 * linear) / 1000
    assert run.candidates["energy"].iloc[0] == pytest.approx(whole)
    assert len(run.survivors) == 1
