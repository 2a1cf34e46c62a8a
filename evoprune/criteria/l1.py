"""The criterion l1."""

from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import WeightScores, magnitude
from evoprune.plugins.kinds import criterion


@criterion("l1")
class L1(WeightCriterion):
    """Mean absolute weight of each filter; |w| of single weights.

    References:
        Li et al. 2017, section 3.1 (the sum instead of the mean, within one layer); Han et al. 2015, section 3.
    """

    normalisation = "largest"

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        return magnitude(context.model, context.space)
