"""SynFlow: conservation, by hand, and what iterating does."""

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.criteria import synflow
from evoprune.criteria.synflow import (
    iterative_order,
    linearised,
    synaptic_flow,
    synflow_kernels,
    synflow_maps,
    synflow_weights,
)
from evoprune.discovery.discover import search_space
from evoprune.space.search_space import SearchSpace
from tests.criteria.contexts import doubles, linear

SHAPE = (2, 8, 8)


def convolutional() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.ReLU()),
            nn.Linear(7, 3),
        )
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    assert tensor is not None
                    nn.init.normal_(tensor)
                assert module.running_var is not None
                nn.init.uniform_(module.running_var, 0.2, 3)
    return model.eval()


def space_of(model: nn.Module, kernels: bool = False) -> SearchSpace:
    return search_space(model, torch.randn(1, *SHAPE), kernels=kernels)


def test_flow_by_hand() -> None:
    """Ones through |1 -2|, |3 4| to hidden 3 and 7, through |-1 5| to 38: each weight's share of the paths it is on."""
    model = nn.Sequential(linear([[1.0, -2.0], [3.0, 4.0]], bias=True), nn.ReLU(), linear([[-1.0, 5.0]], bias=True))
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(100)
    space = search_space(model, doubles([[1.0, 1.0]]))
    flow = synaptic_flow(linearised(model), space, (2,))
    assert flow["0.weight"].tolist() == [[1, 2], [15, 20]]
    assert flow["2.weight"].tolist() == [[3, 35]]


def test_as_much_flows_into_a_unit_as_out_of_it() -> None:
    """Through batch norm, pooling and flattening too; and of layers all the same in sum."""
    model = convolutional()
    space = space_of(model)
    flow = synaptic_flow(linearised(model), space, SHAPE)
    first, second, hidden, out = (flow[layer.weight] for layer in space.layers)
    assert torch.allclose(first.flatten(1).sum(1), second.sum((0, 2, 3)))
    assert torch.allclose(second.flatten(1).sum(1), hidden.reshape(7, 5, 4).sum((0, 2)))
    assert torch.allclose(hidden.sum(1), out.sum(0))
    assert float(first.sum()) == pytest.approx(float(out.sum()))
    assert (first > 0).all()


def test_nothing_is_held_back_by_relu6() -> None:
    """10 and 70 flow through units that would hand on 6."""
    model = nn.Sequential(linear([[10.0], [70.0]]), nn.ReLU6(), linear([[1.0, 1.0]]))
    flow = synaptic_flow(linearised(model), search_space(model, doubles([[1.0]])), (1,))
    assert flow["0.weight"].tolist() == [[10], [70]]
    assert isinstance(model[1], nn.ReLU6)
    assert model[1].max_val == 6


def test_the_model_stays_as_it_was() -> None:
    model = convolutional()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    synflow_maps(model, space_of(model), SHAPE)
    synflow_weights(model, space_of(model), SHAPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_scores_are_recomputed_after_each_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three things; the third is worth most until the first is gone, and then least."""
    monkeypatch.setattr(synflow, "STEPS", 3)
    monkeypatch.setattr(synflow, "LEAST_KEPT", 0.3)  # after the steps 3, 2, 1 stay

    def score(alive: np.ndarray) -> np.ndarray:
        return np.array([1.0, 2.0, 3.0]) if alive[0] else np.array([1.0, 2.0, 0.5])

    def select(scores: np.ndarray, count: int) -> np.ndarray:
        return np.argsort(np.argsort(-scores)) < count

    assert np.argsort(iterative_order(3, score, select)).tolist() == [0, 2, 1]


def test_maps_keep_their_least_widths_to_the_end() -> None:
    model = convolutional()
    space = search_space(model, torch.randn(1, *SHAPE), min_maps=2)
    order = synflow_maps(model, space, SHAPE)
    assert order.shape == (space.maps,)
    assert len(set(order.tolist())) == space.maps
    last = np.argsort(-order)[:6]  # two of each of three groups
    counts = [sum(group.start <= place < group.start + group.size for place in last) for group in space.groups]
    assert counts == [2, 2, 2]


def test_no_layer_is_emptied_before_the_others_are_nearly_empty() -> None:
    """The algorithm's point: at a twentieth of the weights every layer still has some (Tanaka et al. 2020)."""
    model = convolutional()
    space = space_of(model)
    order = synflow_weights(model, space, SHAPE)
    values = torch.cat([order[layer.weight].reshape(-1) for layer in space.layers])
    assert len(values.unique()) == len(values)
    threshold = values.kthvalue(len(values) - len(values) // 20).values
    assert all((order[layer.weight] > threshold).any() for layer in space.layers)


def test_kernels_are_ordered_too() -> None:
    model = convolutional()
    space = space_of(model, kernels=True)
    order = synflow_kernels(model, space, SHAPE)
    assert [len(values) for values in order] == [12, 30]
    assert len(set(np.concatenate(order).tolist())) == 42
