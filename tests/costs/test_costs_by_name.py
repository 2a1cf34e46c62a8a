"""Costs: every built-in one, and those of a user's own."""

import pickle
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.config.choices import CostName
from evoprune.costs.costs_by_name import COSTS, COUNTED, find_cost
from evoprune.errors import PluginError
from tests.space.blocks import conv_bn, head

OWN = "tests.plugins.own_costs"


@pytest.fixture(scope="module")
def space() -> ep.SearchSpace:
    model = nn.Sequential(conv_bn(3, 4), conv_bn(4, 6), head(6)).eval()
    return ep.search_space(model, torch.randn(1, 3, 8, 8), kernels=True, strides=True)


def test_names_are_those_of_the_config() -> None:
    assert sorted(COSTS.names) == sorted(get_args(CostName))
    assert all(summary for _, summary in COSTS.describe())
    assert {name: find_cost(name).name for name in COSTS.names} == {name: name for name in COSTS.names}


@pytest.mark.parametrize("name", COUNTED)
def test_counted_costs_are_the_counts(space: ep.SearchSpace, name: str) -> None:
    genome = space.random(np.random.default_rng(0), 0.5)
    cost = find_cost(name)
    assert cost.of(space, space.phenotype(genome)) == getattr(ep.cost(space, genome), name)
    assert (cost.column, cost.measures) == (name, False)


def test_remaining_layers_have_the_macs_and_weights_of_the_network(space: ep.SearchSpace) -> None:
    genome = space.random(np.random.default_rng(0), 0.5)
    layers = ep.remaining_layers(space, space.phenotype(genome))
    assert [layer.kind for layer in layers] == ["convolution", "convolution", "linear"]
    assert sum(layer.macs for layer in layers) == ep.cost(space, genome).macs
    whole = ep.remaining_layers(space, space.phenotype(space.full()))
    assert [layer.weights for layer in whole] == [4 * 3 * 9, 6 * 4 * 9, whole[2].weights]
    assert all(layer.weights <= layer.dense_weights for layer in layers)
    assert any(layer.weights < layer.dense_weights for layer in layers)


def test_a_cost_of_ones_own_by_hand(space: ep.SearchSpace) -> None:
    """Of 3x3 convolutions at 64 pixels, 3 to 4 and 4 to 6 maps, and a linear layer from 6 maps."""
    whole = space.phenotype(space.full())
    linear = ep.remaining_layers(space, whole)[2].macs
    energy = find_cost(f"{OWN}:Energy")
    assert energy.of(space, whole) == pytest.approx((2 * 64 * (4 * 27 + 6 * 36) + 3 * linear) / 1000)
    assert (energy.name, energy.column, energy.label, energy.measures) == ("energy", "energy", "energy (nJ)", False)
    measured = find_cost(f"{OWN}:Measured")
    assert measured.measures
    measured.load(measured.measure(nn.Identity(), space, torch.zeros(1, 3, 8, 8)))
    sent = pickle.loads(pickle.dumps(measured))  # as to a worker
    assert sent.of(space, whole) == pytest.approx((4 * 64 * (4 * 27 + 6 * 36) + 3 * linear) / 1000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FailsLater", r"^search\.cost: .*:FailsLater: of failed \(RuntimeError: first line\); correct"),
        ("NotFinite", r":NotFinite: of returned nan, not a finite number, 0 or more"),
        ("Negative", r":Negative: of returned -1, not a finite number, 0 or more"),
        ("Text", r":Text: of returned '5 nJ', not a finite number, 0 or more"),
        ("NoName", r":NoName\.name must be lowercase letters, digits and '_', with a letter first, not None"),
        ("MeasuresObjects", r":MeasuresObjects: measure must return plain JSON data \(Object of type object"),
        ("number", r":number must make an ep\.CostModel, not a int"),
        ("NOT_CALLABLE", r":NOT_CALLABLE must be a subclass of ep\.CostModel, not a int"),
    ],
)
def test_a_mistake_names_the_cost_and_the_call(space: ep.SearchSpace, name: str, message: str) -> None:
    def ask() -> None:
        cost = find_cost(f"{OWN}:{name}")
        cost.measure(nn.Identity(), space, torch.zeros(1, 3, 8, 8))
        cost.of(space, space.phenotype(space.random(np.random.default_rng(0), 0.3)))

    with pytest.raises(PluginError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)
