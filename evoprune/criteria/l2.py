"""The criterion l2."""

import numpy as np

from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import LayerValues, WeightScores, filter_values, layer_weights
from evoprune.plugins.kinds import criterion


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
