"""The criterion mean_activation."""

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.criteria.observation import mean_over_pixels, observe
from evoprune.plugins.kinds import criterion


@criterion("mean_activation")
class MeanActivation(Criterion):
    """Mean |activation| over pixels and examples, where the map is read: after activation and pooling.

    References:
        Molchanov et al. 2017, section 2.2 ("activation").
    """

    normalisation = "l2"

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return observe(
            context.network(), context.space, context.device_images, lambda maps, _: maps.abs(), mean_over_pixels
        )
