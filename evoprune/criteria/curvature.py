"""Optimal Brain Damage: the curvature of the loss, approximated by the diagonal of the Gauss-Newton matrix."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.gradients import weight_gradients
from evoprune.criteria.importance import LayerValues, WeightScores, layer_weights
from evoprune.criteria.observation import observe
from evoprune.plugins.kinds import criterion
from evoprune.space.search_space import SearchSpace
from evoprune.tasks.trees import Tree, map_tensors, tensors_in

DRAWS = 4
"""Number of draws of random signs for the curvature of every example."""

CURVATURE_BATCH = 16
"""Images whose signs are drawn together for single weights: the fewer, the less noise, and the more passes."""

CurvatureRoot = Callable[[Tree, Tree], Tree]
"""(outputs, random signs) -> H^(1/2) z, a tree as both, for the Hessian H of the loss by an image's outputs."""


@criterion("obd")
class OptimalBrainDamage(WeightCriterion):
    """h u^2 / 2: the second-order change of the mean loss if u is set to zero.

    Of maps, u = 1 is a gate on the map at each layer that reads it. Of weights, u is the weight. h, the second
    derivative of the mean loss by u, is taken from the Gauss-Newton approximation, which is never negative. For maps,
    each example has its own draws of signs; for weights see `gauss_newton_diagonal`.

    References:
        LeCun, Denker and Solla 1990, section 2 (weights; there, too, with the approximation, after Levenberg and
        Marquardt); Theis et al. 2018 (gates).
    """

    additive = True

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        network, generator = context.network(), torch.Generator().manual_seed(context.draw_seed())

        def target(outputs: Tree, places: slice) -> Tensor:
            return projection(outputs, generator, context.task.curvature_root)

        draws = [
            observe(
                network,
                context.space,
                context.device_images,
                lambda maps, gradients: maps * gradients,
                lambda sums, pixels: sums.square() / 2,
                target,
            )
            for _ in range(DRAWS)
        ]
        return [
            LayerValues(layers[0].gene, np.mean([layer.values for layer in layers], axis=0))
            for layers in zip(*draws, strict=True)
        ]

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        space, generator = context.space, torch.Generator().manual_seed(context.draw_seed())
        network, images = context.network(), context.device_images
        diagonal = gauss_newton_diagonal(network, space, images, generator, context.task.curvature_root)
        weights = layer_weights(context.model, space)
        return {name: h * weights[name].square() / 2 for name, h in diagonal.items()}


def gauss_newton_diagonal(
    network: nn.Module, space: SearchSpace, images: Tensor, generator: torch.Generator, root: CurvatureRoot
) -> dict[str, Tensor]:
    """The diagonal of the Gauss-Newton matrix of the mean loss, (1/n) sum of J^T H J, for every layer's weight.

    J is the derivative of the outputs by the weights, H the Hessian of the loss by the outputs. With v = H^(1/2) z and
    random signs z, the mean of (J^T v)^2 is that diagonal: terms that mix examples or outputs cancel. There are `DRAWS`
    draws of signs for each example. The matrix is the Hessian without the second derivatives of the network itself.

    Args:
        network: in eval mode, on the images' device, its parameters taking gradients.
        space: its search space.
        images: float (n, c, h, w).
        generator: of the signs.
        root: H^(1/2) z of the loss.

    Returns:
        Weight name -> diagonal, float64 of the weight's shape, on the CPU.

    References:
        Hutchinson 1990 (random signs); Martens, Sutskever and Swersky 2012 (through the outputs alone).
    """
    diagonal = {name: torch.zeros_like(weight) for name, weight in layer_weights(network, space).items()}
    for _ in range(DRAWS):
        for batch in images.split(CURVATURE_BATCH):
            target = projection(network(batch), generator, root)
            for name, gradient in weight_gradients(network, space, target).items():
                diagonal[name] += gradient.square() / (DRAWS * len(images))
    return diagonal


def projection(outputs: Tree, generator: torch.Generator, root: CurvatureRoot) -> Tensor:
    """The scalar outputs . H^(1/2) z for random signs z; floats alone count."""
    signs = map_tensors(lambda tensor: signs_like(tensor, generator), outputs)
    pairs = zip(tensors_in(outputs), tensors_in(root(outputs, signs)), strict=True)
    products = [(tensor * other).sum() for tensor, other in pairs if tensor.is_floating_point()]
    return torch.stack(products).sum() if len(products) > 1 else products[0]


def signs_like(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1, each with probability 1/2, of the shape, device and type of the outputs."""
    drawn = torch.randint(0, 2, outputs.shape, generator=generator)
    return (2 * drawn - 1).to(outputs.device, outputs.dtype)
