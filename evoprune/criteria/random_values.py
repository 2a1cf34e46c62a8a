"""The criterion random."""

import numpy as np
import torch

from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import LayerValues, WeightScores
from evoprune.plugins.kinds import criterion


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
