"""The example of an experiment, and the width of explanations in a pipe."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evoprune.cli.main import app
from evoprune.config.loading import load_config


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_init_writes_an_experiment_that_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    done = call("init", path)
    assert done.exit_code == 0
    assert f"run: evoprune run {path}" in done.output
    config = load_config(path)
    assert (config.name, config.data.dataset, config.search.generations) == ("experiment", "mnist5k", 24)
    assert call("inspect", path).exit_code == 0


def test_init_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    done = call("init", path)
    assert done.exit_code == 2
    assert "exists already; give the name of a new file" in done.output
    assert path.read_text() == "mine"
    assert call("init", tmp_path / "nowhere" / "x.yaml").exit_code == 2


@pytest.mark.parametrize("columns", [60, 150])
def test_a_pipe_is_as_wide_as_columns_say(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = call("help", "config").output.splitlines()
    assert columns - 20 < max(map(len, lines)) <= columns


def test_a_pipe_without_columns_folds_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, call("help", "config").output.splitlines())) > 200


def test_a_sweep_needs_values(tmp_path: Path) -> None:
    call("init", tmp_path / "x.yaml")
    done = call("sweep", tmp_path / "x.yaml", "--out", tmp_path / "runs")
    assert done.exit_code == 2
    assert "a sweep needs --set KEY=VALUE,..." in done.output
    assert not (tmp_path / "runs").exists()
