"""The criterion zeros."""

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.criteria.observation import mean_over_pixels, observe
from evoprune.plugins.kinds import criterion


@criterion("zeros")
class NonzeroShare(Criterion):
    """Share of activations that are not zero: 1 - APoZ (average percentage of zeros).

    References:
        Hu et al. 2016, eq. 1.
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return observe(
            context.network(), context.space, context.device_images, lambda maps, _: maps != 0, mean_over_pixels
        )
