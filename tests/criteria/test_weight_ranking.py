"""Which single weights stay; and that they are the only ones that retraining moves."""

import pytest
import torch
from torch import nn

from evoprune.config.choices import CriterionName
from evoprune.config.schema import TrainConfig
from evoprune.criteria.importance_by_name import weight_importance
from evoprune.criteria.weight_ranking import kept_fraction_for, weight_masks
from evoprune.errors import ConfigError
from evoprune.surgery.weight_masks import sparse_cost, with_masked_weights
from evoprune.training.fit import fit
from tests.criteria.contexts import criterion_context, doubles
from tests.scoring.problems import CPU, digits

SCORES = {"a": doubles([[4.0, 1.0], [3.0, 2.0]]), "b": doubles([0.4, 0.1, 0.3, 0.2])}


def test_local_scope_by_hand() -> None:
    masks = weight_masks(SCORES, 0.5, "local")
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert masks["b"].tolist() == [True, False, True, False]
    assert weight_masks(SCORES, 0.01, "local")["b"].tolist() == [True, False, False, False]  # one is left at least


def test_global_scope_by_hand() -> None:
    """Three of eight: all of them in the first layer; the second one collapses."""
    masks = weight_masks(SCORES, 3 / 8, "global")
    assert masks["a"].tolist() == [[True, False], [True, True]]
    assert not masks["b"].any()


def classifier() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 4, 5, stride=3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(4 * 64, 16), nn.ReLU(), nn.Linear(16, 10)),
        )
    return model.eval()


@pytest.mark.parametrize("criterion", ["l1", "obd", "synflow"])
def test_pruned_trained_and_pruned_again(criterion: CriterionName) -> None:
    """To a quarter and an eighth of the parameters: exactly, masks hold in training, and what was gone stays gone."""
    images, labels = digits().calibration.tensors()
    network = classifier()
    space = criterion_context(network, images, labels).space
    whole = sparse_cost(space, {}).params
    before: dict[str, torch.Tensor] = {}
    for ratio in (4, 8):
        fraction = kept_fraction_for(space, whole // ratio)
        masks = weight_masks(
            weight_importance(criterion, criterion_context(network, images, labels)), fraction, "global"
        )
        assert abs(sparse_cost(space, masks).params - whole // ratio) <= 1
        assert all(not (mask & ~before[name]).any() for name, mask in masks.items() if before)
        network, before = with_masked_weights(network, masks), masks
        started = {name: network.get_parameter(name).detach().clone() for name in masks}
        fit(network, digits().calibration, TrainConfig(epochs=1, batch_size=16), 0, CPU, masks=masks)
        for name, mask in masks.items():
            trained = network.get_parameter(name)
            assert not trained[~mask].any()
            assert (trained[mask] != started[name][mask]).any()


def test_a_budget_of_biases_and_norms_alone_is_refused() -> None:
    """26 biases, 8 numbers of the batch norm."""
    space = criterion_context(classifier(), torch.zeros(1, 1, 28, 28)).space
    with pytest.raises(ConfigError, match="cannot be pruned to 34 parameters: 34 are biases and norms"):
        kept_fraction_for(space, 34)
    assert kept_fraction_for(space, 10**9) == 1
