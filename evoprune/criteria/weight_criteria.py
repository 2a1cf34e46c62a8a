"""Criteria that look at a trained network's parameters alone."""

import numpy as np
import torch
from torch import nn

from evoprune.criteria.importance import LayerValues, WeightScores, of_filters, of_positions, weights_of
from evoprune.errors import ConfigError
from evoprune.space.search_space import SearchSpace


def magnitude(model: nn.Module, space: SearchSpace) -> WeightScores:
    """|w|. Han et al. 2015, section 3 (weights below a threshold go)."""
    return {name: weight.abs() for name, weight in weights_of(model, space).items()}


def squared_magnitude(model: nn.Module, space: SearchSpace) -> WeightScores:
    """w^2: ranks single weights as |w| does, and kernels by their L2 norm."""
    return {name: weight.square() for name, weight in weights_of(model, space).items()}


def filter_l1(model: nn.Module, space: SearchSpace) -> list[LayerValues]:
    """Mean absolute weight of each filter. Li et al. 2017, section 3.1 (there the sum, within one layer)."""
    return of_filters(space, magnitude(model, space))


def filter_l2(model: nn.Module, space: SearchSpace) -> list[LayerValues]:
    """Root mean square of each filter's weights. Li et al. 2017 (L2 norm, there as good as L1)."""
    values = of_filters(space, squared_magnitude(model, space))
    return [LayerValues(layer.gene, np.sqrt(layer.values)) for layer in values]


def batch_norm_scale(model: nn.Module, space: SearchSpace) -> list[LayerValues]:
    """|gamma|, the factor that each map's batch norm puts on it. Liu et al. 2017, section 3.2 (network slimming).

    There the network is trained with an L1 penalty on gamma; here it is ranked by what training left. Says nothing of
    maps without batch norm. Raises ConfigError where the network has none.
    """
    scales = {
        f"{name}.weight": module.weight.detach().to("cpu", torch.float64).abs().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
    }
    values = [of_positions(axis.gene, scales[axis.tensor]) for axis in space.axes if axis.tensor in scales]
    if not values and space.maps:
        raise ConfigError(
            "the criterion batch_norm_scale needs batch norms after feature maps that may go, "
            "and this network has none; take l1"
        )
    return values


def random_maps(space: SearchSpace, rng: np.random.Generator) -> list[LayerValues]:
    """Uniform draws: what any criterion has to beat (Anwar and Sung 2016)."""
    return [
        LayerValues(np.arange(group.start, group.start + group.size), rng.random(group.size)) for group in space.groups
    ]


def random_weights(space: SearchSpace, rng: np.random.Generator) -> WeightScores:
    """Uniform draws for single weights."""
    return {layer.weight: torch.from_numpy(rng.random(layer.shape)) for layer in space.layers}
