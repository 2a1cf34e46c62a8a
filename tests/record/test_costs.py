"""Tables, pictures and report of a search for latency, whose cost is predicted."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from evoprune.cli.main import app
from evoprune.latency.prediction import LatencyTable
from evoprune.record import files
from evoprune.record.costs import cost_info, whole_cost
from evoprune.record.folder import RunFolder
from tests import tiny_runs


def test_columns() -> None:
    folder = RunFolder(Path("nowhere"))  # what is built in needs no file
    assert [cost_info(folder, name).column for name in ("macs", "params", "bytes", "latency_ms")] == [
        "macs",
        "params",
        "bytes",
        "predicted_latency_ms",
    ]


def test_a_search_for_latency_has_pictures_and_progress(tmp_path: Path) -> None:
    settings = {"search.cost": "latency_ms", "search.generations": 1, "retrain.epochs": 0, "record.report": True}
    run = tiny_runs.run(tmp_path / "run", settings)
    folder = RunFolder(run.root)
    table = LatencyTable.from_dict(files.read_json(folder.latency)["table"])
    whole = table.predict(run.space, run.space.phenotype(run.space.full()))
    assert whole_cost(folder, folder, run.space, "latency_ms") == whole > 0
    assert run.corner is not None
    assert (run.corner.column, run.corner.cost) == ("predicted_latency_ms", whole)
    first = run.candidates.predicted_latency_ms.iloc[0]  # the whole network
    assert first == pytest.approx(whole)
    assert run.generations.hypervolume.between(0, 1).all()
    assert "predicted latency of one image (ms)" in folder.report.read_text()
    assert (run.root / "plots" / "front.png").is_file()
    watched = CliRunner().invoke(app, ["watch", str(run.root)])
    assert watched.exit_code == 0, watched.output
    assert "latency_ms" in watched.output
