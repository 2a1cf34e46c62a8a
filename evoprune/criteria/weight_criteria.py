"""Criteria that look at a trained network's parameters alone."""

import numpy as np
import torch
from torch import nn

from evoprune.criteria.criterion import Criterion, CriterionContext, WeightCriterion
from evoprune.criteria.importance import (
    LayerValues,
    WeightScores,
    filter_values,
    layer_weights,
    magnitude,
    merge_positions,
)
from evoprune.errors import ConfigError
from evoprune.plugins.kinds import criterion
from evoprune.space.search_space import SearchSpace


@criterion("l1")
class L1(WeightCriterion):
    """Mean absolute weight of each filter; |w| of single weights.

    References:
        Li et al. 2017, section 3.1 (the sum instead of the mean, within one layer); Han et al. 2015, section 3.
    """

    normalisation = "largest"

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return filter_l1(context.model, context.space)

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        return magnitude(context.model, context.space)


def filter_l1(model: nn.Module, space: SearchSpace) -> list[LayerValues]:
    """The mean absolute weight of each filter, layer by layer."""
    return filter_values(space, magnitude(model, space))


@criterion("l2")
class L2(WeightCriterion):
    """Root mean square of each filter's weights; w^2 of single weights, which ranks them as |w| does.

    References:
        Li et al. 2017 (the L2 norm, there as good as L1).
    """

    normalisation = "largest"

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        values = filter_values(context.space, self.weights(context))
        return [LayerValues(layer.gene, np.sqrt(layer.values)) for layer in values]

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        return {name: weight.square() for name, weight in layer_weights(context.model, context.space).items()}


@criterion("batch_norm_scale")
class BatchNormScale(Criterion):
    """|gamma|, the factor of each map's batch norm. There is none for maps without batch norm.

    References:
        Liu et al. 2017, section 3.2 (network slimming; there the network is trained with an L1 penalty on gamma).
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`.

        Raises:
            ConfigError: no prunable map has a batch norm.
        """
        scales = {
            f"{name}.weight": module.weight.detach().to("cpu", torch.float64).abs().numpy()
            for name, module in context.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        }
        space = context.space
        values = [merge_positions(axis.gene, scales[axis.tensor]) for axis in space.axes if axis.tensor in scales]
        if not values and space.maps:
            raise ConfigError(
                "the criterion batch_norm_scale needs batch norms behind prunable feature maps, "
                "and this network has none; take l1"
            )
        return values


@criterion("random")
class Random(WeightCriterion):
    """Uniform draws: the reference that any criterion has to beat.

    References:
        Anwar and Sung 2016.
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return [
            LayerValues(np.arange(group.start, group.start + group.size), context.rng.random(group.size))
            for group in context.space.groups
        ]

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        return {layer.weight: torch.from_numpy(context.rng.random(layer.shape)) for layer in context.space.layers}
