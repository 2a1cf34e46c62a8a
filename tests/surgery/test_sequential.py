"""Sequential compensation: against least squares done by hand, and against Gram compensation where much is removed."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.surgery.recalibration import recalibrate
from evoprune.surgery.sequential import compensate_sequentially
from tests.scoring.problems import NETWORKS, PIXELS


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    # neighbouring pixels alike, so that maps have something in common
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3


def test_two_linear_layers_by_hand() -> None:
    """Units 0 and 2 of 3 stay: the second layer's weights are the regression of its outputs on those two."""
    torch.manual_seed(0)
    first, model = nn.Linear(4, 3), nn.Sequential()
    model.extend([first, nn.ReLU(), nn.Linear(3, 2)]).double().eval()
    inputs = torch.randn(50, 4, dtype=torch.float64)
    space = ep.search_space(model, inputs[:1])
    genome = np.array([1, 0, 1], np.uint8)
    small = ep.compact(model, space, genome)
    compensate_sequentially(small, model, space, space.check(genome), inputs)
    with torch.no_grad():
        hidden = first(inputs).relu()[:, [0, 2]].numpy()
        expected = model(inputs).numpy()
        found = small(inputs).numpy()
    columns = np.column_stack([hidden, np.ones(50)])
    best = columns @ np.linalg.lstsq(columns, expected, rcond=None)[0]
    np.testing.assert_allclose(found, best, atol=2e-4)
    np.testing.assert_allclose(small.get_parameter("0.weight").detach(), first.weight.detach()[[0, 2]], atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_closer_to_the_unpruned_network_than_by_gram_matrices(name: str) -> None:
    """Half of everything removed: the logits over the calibration set."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETWORKS[name]().double().eval()
    calibration = images(48, 1, PIXELS, PIXELS)
    recalibrate(model, calibration)
    space = ep.search_space(model, calibration[:1])
    genome = space.random(np.random.default_rng(0), 0.5)
    small = ep.compact(model, space, genome, ep.gram_statistics(model, space, calibration))
    recalibrate(small, calibration)
    solved = copy.deepcopy(small)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    compensate_sequentially(solved, model, space, space.check(genome), calibration)
    with torch.no_grad():
        whole, gram, sequential = (network(calibration) for network in (model, small, solved))
    assert ((sequential - whole) ** 2).mean() < ((gram - whole) ** 2).mean()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_that_are_masked_stay_zero() -> None:
    model = NETWORKS["plain"]().double().eval()
    calibration = images(32, 1, PIXELS, PIXELS)
    space = ep.search_space(model, calibration[:1], kernels=True, strides=True)
    genome = space.random(np.random.default_rng(0), 0.7)
    small = ep.compact(model, space, genome)
    zeros = {name: weight == 0 for name, weight in small.named_parameters() if name in space.check(genome).kernels}
    compensate_sequentially(small, model, space, space.check(genome), calibration)
    assert zeros
    for name, was_zero in zeros.items():
        weight = small.get_parameter(name)
        assert (weight[was_zero] == 0).all()
        assert (weight[~was_zero] != 0).any()


@pytest.mark.parametrize("option", ["masked", "compacted"])
def test_masked_and_compacted_agree_with_compensated_weights(option: str) -> None:
    model = NETWORKS["concatenating"]().double().eval()
    calibration = images(32, 1, PIXELS, PIXELS)
    space = ep.search_space(model, calibration[:1])
    genome = space.random(np.random.default_rng(0), 0.6)
    statistics = ep.gram_statistics(model, space, calibration)
    with torch.no_grad():
        masked = ep.mask(model, space, genome, statistics)(calibration)
        small = ep.compact(model, space, genome, statistics)(calibration)
        without = (ep.mask if option == "masked" else ep.compact)(model, space, genome)(calibration)
    assert (masked - small).abs().max() <= 1e-10 * masked.abs().max()
    assert (without - small).abs().max() > 1e-3 * masked.abs().max()
