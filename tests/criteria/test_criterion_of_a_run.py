"""The criterion that a config names is what its first candidates are ranked by."""

from pathlib import Path

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.config.choices import CriterionName
from evoprune.criteria.importance_by_name import map_importance
from evoprune.networks.weights import load_weights
from evoprune.networks.zoo import build_network
from evoprune.pipeline.posing import criterion_context, problem_of
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.workers.workers import SerialPool
from tests import tiny_runs

CPU = torch.device("cpu")
NETWORK = "6C3-MP2-8C3-MP7-16FC-10"


@pytest.mark.parametrize("criterion", ["oracle", "taylor"])
def test_first_candidates_keep_the_maps_of_highest_importance(criterion: CriterionName, tmp_path: Path) -> None:
    settings = {"search.criterion": criterion, "model.network": NETWORK, "retrain.epochs": 0}
    run = tiny_runs.run(tmp_path / "run", tiny_runs.BRIEF | settings)
    space = ep.SearchSpace.from_dict(files.read_json(RunFolder(run.root).space))
    model = build_network(NETWORK, (1, 14, 14), 10, torch.Generator())
    load_weights(model, files.read_tensors(RunFolder(run.root).baseline)[0], "baseline")
    data = tiny_runs.data(run)
    problem = problem_of(run.config, data, model.eval(), space, CPU)
    workers = SerialPool(CPU, 1).workers(problem)
    criterion_inputs = criterion_context(problem, workers, data.calibration, run.config.seed, CPU, 2**30)
    importance = map_importance(criterion, criterion_inputs)
    key = run.candidates[run.candidates.generation == 0].key.iloc[1]  # the first one by rank alone
    stays = run.genome(key)[: space.maps] != 0
    assert not stays.all()
    for group in space.groups:
        kept = stays[group.genes]
        if not kept.all():
            assert importance[group.genes][kept].min() >= importance[group.genes][~kept].max()
    by_norm = map_importance("l1", criterion_inputs)
    assert (np.argsort(by_norm) != np.argsort(importance)).any()
