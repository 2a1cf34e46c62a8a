"""Sweeps: every combination once, on the same workers, and what was interrupted goes on."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import ConfigError
from evoprune.pipeline.sweep import configs_of, folder_name, parse_choices, sweep
from evoprune.progress import SilentProgress
from tests import tiny_runs

CHOICES: dict[str, list[object]] = {"seed": [0, 1], "search.tolerance": [0.4, 0.5]}
NAMES = [f"seed={seed},search.tolerance={tolerance}" for seed in (0, 1) for tolerance in (0.4, 0.5)]


class Told(SilentProgress):
    def __init__(self, stop_at: int | None = None) -> None:
        self.stages: list[str] = []
        self._stop_at = stop_at

    def stage(self, name: str, detail: str = "") -> None:
        self.stages.append(name)
        if name == "search" and self.stages.count("search") == self._stop_at:
            raise KeyboardInterrupt


def run_sweep(config: Path, out: Path, progress: Any) -> list[dict[str, Any]]:
    return sweep(config, CHOICES, out, progress)[0]


def test_every_combination_runs_once_and_an_interrupted_sweep_resumes(tmp_path: Path) -> None:
    """Interrupted in the third of four runs; the second time, the first two are as they were."""
    config, out = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, out, Told(stop_at=3))
    assert len(pd.read_csv(out / "sweep.csv")) == 2
    before = {name: tiny_runs.state_of(out / name) for name in NAMES[:2]}
    progress = Told()
    rows = run_sweep(config, out, progress)
    assert progress.stages.count("search") == 2
    assert {name: tiny_runs.state_of(out / name) for name in NAMES[:2]} == before
    assert [row["run"] for row in rows] == NAMES
    table = pd.read_csv(out / "sweep.csv")
    assert table["run"].tolist() == NAMES
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert table["search.tolerance"].tolist() == [0.4, 0.5, 0.4, 0.5]
    for name, row in zip(NAMES, rows, strict=True):
        run = ep.load_run(out / name)
        assert run.config.search.tolerance == row["search.tolerance"]
        assert row["macs_ratio"] == run.survivors["macs_ratio"].iloc[0]
    alone = tiny_runs.run(tmp_path / "alone", tiny_runs.BRIEF | {"seed": 1, "search.tolerance": 0.5})
    tiny_runs.check_equal(ep.load_run(out / NAMES[3]), alone)


def test_one_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    config = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF)
    arguments = [
        "sweep",
        str(config),
        "--set",
        "train.learning_rate=1000",
        "--set",
        "train.batch_size=4",
        "--set",
        "train.weight_decay=100,0",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "failed" in done.stdout
    *warnings, error = done.stderr.splitlines()
    assert any(line.startswith("warning: train.weight_decay=100: training: the loss is ") for line in warnings)
    assert error.startswith("error: 1 of 2 runs failed; the first: training: the loss is ")
    assert pd.read_csv(tmp_path / "out" / "sweep.csv")["error"].isna().tolist() == [False, True]


def test_values_are_yaml() -> None:
    assert parse_choices(["seed=0,1", "data.augment=[crop],[crop, flip]", "model.weights=null", "name=a"]) == {
        "seed": [0, 1],
        "data.augment": [["crop"], ["crop", "flip"]],
        "model.weights": [None],
        "name": ["a"],
    }


def test_names_of_folders_stay_in_the_folder() -> None:
    assert folder_name({"model.weights": "../../a b.pt", "seed": 1}) == "model.weights=..-..-a-b.pt,seed=1"
    assert folder_name({}) == "run"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["seed"], "must be KEY=VALUE,VALUE"),
        (["seed="], "must be KEY=VALUE,VALUE"),
        (["seed=0,[1"], "not valid YAML"),
        (["seed=0", "seed=1"], "seed is there twice"),
        (["seed=0,0"], "two combinations are both seed=0"),
        (["sed=0,1"], "did you mean 'seed'"),
        (["seed=0,-1"], "seed must be a whole number"),
        (["workers.count=1,2"], "workers.count must have one value in a sweep"),
        (["device=cpu,cuda"], "device must have one value"),
        (
            ["seed=" + ",".join(map(str, range(101))), "search.generations=" + ",".join(map(str, range(1, 101)))],
            "at most",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_run(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        configs_of(tiny_runs.config_file(tmp_path), parse_choices(texts))
