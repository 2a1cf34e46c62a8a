"""The notebook of experiments/ runs from its first cell to its last, on small runs made here."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import tiny_runs

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "analysis.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_on_runs_of_two_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for compensation in ("gram", "none"):
        for seed in (0, 1):
            changes = tiny_runs.BRIEF | {"search.compensation": compensation, "seed": seed, "retrain.epochs": 0}
            tiny_runs.run(tmp_path / "runs" / f"{compensation}-{seed}", changes)
    before = tiny_runs.state_of(tmp_path)
    monkeypatch.setenv("EVOPRUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    executed = NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert "search.compensation gram against search.compensation none" in outputs[-1]["data"]["text/html"]
    assert tiny_runs.state_of(tmp_path) == before  # it only reads


def test_it_is_committed_with_its_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == 4
    assert not any(output.output_type in ("error", "stderr") for cell in cells for output in cell.outputs)
