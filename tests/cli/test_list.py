"""`evoprune list`: one line for each built-in plug-in."""

import pytest
from typer.testing import CliRunner

from evoprune.cli.explaining_commands import PluginKind
from evoprune.cli.main import app

SOME = {
    "criteria": "l1",
    "algorithms": "widths",
    "costs": "latency_ms",
    "recipes": "adamw",
    "tasks": "classification",
    "networks": "resnet20",
    "datasets": "mnist5k",
}


@pytest.mark.parametrize("kind", PluginKind)
def test_every_plug_in_has_a_line_that_describes_it(kind: PluginKind) -> None:
    result = CliRunner().invoke(app, ["list", kind])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(line.startswith(f"{SOME[kind]} ") for line in lines)
    assert lines == sorted(lines)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
