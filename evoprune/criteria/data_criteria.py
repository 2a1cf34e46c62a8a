"""Criteria that look at activations and gradients of a network on examples."""

import torch
from torch import Tensor, nn

from evoprune.criteria.criterion import Criterion, CriterionContext, WeightCriterion
from evoprune.criteria.importance import LayerValues, WeightScores, layer_weights
from evoprune.criteria.observation import BATCH_SIZE, BackwardTarget, observe
from evoprune.plugins.kinds import criterion
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import weight_tensors
from evoprune.tasks.trees import moved, select, split


@criterion("mean_activation")
class MeanActivation(Criterion):
    """Mean |activation| over pixels and examples, where the map is read: after activation and pooling.

    References:
        Molchanov et al. 2017, section 2.2 ("activation").
    """

    normalisation = "l2"

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return observe(context.network(), context.space, context.device_images, lambda maps, _: maps.abs(), _mean)


@criterion("zeros")
class NonzeroShare(Criterion):
    """Share of activations that are not zero: 1 - APoZ (average percentage of zeros).

    References:
        Hu et al. 2016, eq. 1.
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        return observe(context.network(), context.space, context.device_images, lambda maps, _: maps != 0, _mean)


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
        network, images, targets = context.network(), context.device_images, moved(context.targets, context.device)
        weights = layer_weights(context.model, context.space)
        totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for batch, expected in zip(images.split(BATCH_SIZE), split(targets, BATCH_SIZE), strict=True):
            loss = context.task.summed_loss(network(batch), expected) / len(images)
            for name, gradient in weight_gradients(network, context.space, loss).items():
                totals[name] += gradient
        return {name: (weights[name] * total).abs() for name, total in totals.items()}


def weight_gradients(network: nn.Module, space: SearchSpace, target: Tensor) -> dict[str, Tensor]:
    """The gradient of a scalar by every layer's weight: float64 on the CPU."""
    weights = weight_tensors(network, space)
    found = torch.autograd.grad(target, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {name: gradient.to("cpu", torch.float64) for name, gradient in zip(weights, found, strict=True)}


def _summed_loss(context: CriterionContext) -> BackwardTarget:
    targets = moved(context.targets, context.device)
    return lambda outputs, places: context.task.summed_loss(outputs, select(targets, places))


def _mean(sums: Tensor, pixels: Tensor) -> Tensor:
    return sums / pixels
