"""`evoprune help config` says everything there is to say about every key."""

import pytest
from typer.testing import CliRunner

import evoprune.config.help
from evoprune.cli.main import app
from evoprune.config.help import config_help
from evoprune.config.loading import config_from_dict
from evoprune.config.strict_yaml import read_yaml
from evoprune.record.runs import flat_config


def test_every_key_has_a_meaning_and_a_type() -> None:
    rows = config_help()
    assert [row.key for row in rows] == list(flat_config(config_from_dict({"name": "x"})))
    assert [row.key for row in rows if not row.meaning or not row.kind] == []


def test_defaults_are_the_configs_and_read_as_yaml() -> None:
    default = flat_config(config_from_dict({"name": "required"}))
    shown = {row.key: read_yaml(row.default) for row in config_help()}
    assert {key: ",".join(value) if isinstance(value, list) else value for key, value in shown.items()} == default


def test_the_command_prints_a_line_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = CliRunner().invoke(app, ["help", "config"])
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()[2:]]
    assert len(lines) == len(evoprune.config.help.config_help())
    [tolerance] = [line for line in lines if line.startswith("search.tolerance")]
    assert tolerance == (
        "search.tolerance between 0 and 1 (a fraction: 0.02 is two percentage points) 0.02 fraction "
        "maximum rise of a candidate's MCR above that of the baseline"
    )


def test_another_topic_is_a_mistake() -> None:
    result = CliRunner().invoke(app, ["help", "nothing"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
