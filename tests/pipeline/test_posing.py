"""Problems are posed without a run folder, and costs have one rule by name."""

from pathlib import Path
from typing import get_args

import pytest

import evoprune as ep
from evoprune.config.choices import CostName
from evoprune.costs import predicted_latency
from evoprune.errors import ConfigError
from evoprune.latency.prediction import LatencyTable, LayerTimeGrid
from evoprune.pipeline.posing import pose
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.scoring.candidate_costs import cost_in
from evoprune.scoring.scorer import Problem
from tests import tiny_runs


def posed(tiny_run: ep.Run, cost: str) -> Problem:
    return pose(tiny_runs.config({"model.weights": str(RunFolder(tiny_run.root).baseline), "search.cost": cost}))


def by_outputs(model: object, space: ep.SearchSpace, image: object) -> LatencyTable:
    """A millisecond for every output of a layer."""
    layers = [
        LayerTimeGrid(layer.weight, (0, rows), (0, 1), ((0.0, 0.0), (float(rows), float(rows))))
        for layer in space.layers
        for rows in [layer.shape[0]]
    ]
    return LatencyTable(tuple(layers), ((0.0, 0.0),))


def test_posing_with_latency_reads_and_writes_nothing(
    tiny_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A latency.json in the current directory is somebody else's: it is neither believed nor replaced."""
    monkeypatch.chdir(tmp_path)
    files.write_json(Path("latency.json"), {"space": tiny_run.space.fingerprint, "table": "lies"})
    before = tiny_runs.state_of(tmp_path)
    monkeypatch.setattr(predicted_latency, "latency_table", by_outputs)
    problem = posed(tiny_run, "latency_ms")
    assert problem.cost_of(problem.space.full()) == 4 + 8 + 16 + 10
    assert tiny_runs.state_of(tmp_path) == before


@pytest.mark.parametrize("name", get_args(CostName))
def test_genomes_and_their_scores_cost_the_same(
    name: CostName, tiny_run: ep.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicted_latency, "latency_table", by_outputs)
    problem = posed(tiny_run, name)
    genome = problem.space.full()
    genome[:2] = 0
    score = problem.failed(genome).score
    assert problem.cost_of(genome) == cost_in(problem.cost.column, score) > 0


def test_a_config_without_weights_poses_no_problem() -> None:
    with pytest.raises(ConfigError, match=r"model\.weights must name trained weights here"):
        pose(tiny_runs.config())
