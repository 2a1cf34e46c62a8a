"""The criterion taylor."""

from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import LayerValues, WeightScores, layer_weights
from evoprune.criteria.observation import BackwardTarget, observe
from evoprune.plugins.kinds import criterion
from evoprune.tasks.trees import moved, select


@criterion("taylor")
class Taylor(WeightCriterion):
    """First-order change of an example's loss if a map (or a weight) is set to zero.

    Of maps: |mean over pixels of gradient x activation|, averaged over examples. Of weights: |w dL/dw| of the mean
    loss.

    References:
        Molchanov et al. 2017, eq. 8 (maps); Lee, Ajanthan and Torr 2019 (weights; SNIP, there before training).
    """

    normalisation = "l2"
    needs_labels = True

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return observe(
            context.network(),
            context.space,
            context.device_images,
            lambda maps, gradients: maps * gradients,
            lambda sums, pixels: (sums / pixels).abs(),
            _summed_loss(context),
        )

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        weights = layer_weights(context.model, context.space)
        return {name: (weights[name] * gradient).abs() for name, gradient in context.gradients().items()}


def _summed_loss(context: CriterionContext) -> BackwardTarget:
    targets = moved(context.targets, context.device)
    return lambda outputs, places: context.task.summed_loss(outputs, select(targets, places))
