"""SynFlow: the flow through a network's weights without any data, computed anew as the network is pruned."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from evoprune.config.schedules import exponential
from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import LayerValues, WeightScores, filter_values, kernel_values, merge_layers
from evoprune.plugins.kinds import criterion
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, weight_tensors
from evoprune.surgery.apply import mask

STEPS = 100
"""Number of pruning iterations, as in Tanaka et al. 2020, section 6."""

LEAST_KEPT = 0.01
"""Share of the parts left after the last iteration; these are ranked by their last scores."""


@criterion("synflow")
class SynFlow(WeightCriterion):
    """The order in which SynFlow removes maps, kernels or weights, as values; maps of one group member share a value.

    References:
        Tanaka et al. 2020, algorithm 1.
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        order = synflow_maps(context.model, context.space, context.image_shape)
        return [LayerValues(np.arange(context.space.maps), order)]

    def kernels(self, context: CriterionContext) -> list[np.ndarray]:
        """As `Criterion.kernels`."""
        return synflow_kernels(context.model, context.space, context.image_shape)

    def weights(self, context: CriterionContext) -> WeightScores:
        """As `WeightCriterion.weights`."""
        return synflow_weights(context.model, context.space, context.image_shape)


def linearised(model: nn.Module) -> nn.Module:
    """A copy with |W|, no biases, and batch norms as positive factors |gamma| / sqrt(variance + eps).

    With convolutions, ReLU (also ReLU6, without its bound) and pooling, this network computes sums over paths of
    products of weights, so that no unit is ever dead.

    Returns:
        The copy, in float64 and eval mode, its parameters taking gradients.

    References:
        Tanaka et al. 2020, algorithm 1 (|W|; there the shift of batch norm stays, with which the scores into a unit and
        out of it differ).
    """
    network = copied(model).cpu().to(torch.float64).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.abs_()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
            elif isinstance(module, nn.Hardtanh):  # ReLU6, too: beyond its bound, nothing would flow
                module.max_val = math.inf
    return network.requires_grad_(True)


def synaptic_flow(network: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> WeightScores:
    """dR/dw x w of every layer's weights, with R the sum of the outputs for an image of ones.

    The sum over the weights into a hidden unit equals that over the weights out of it.

    Args:
        network: of `linearised`.
        space: its search space.
        image_shape: (c, h, w).

    References:
        Tanaka et al. 2020, section 5, theorem 1.
    """
    weights = {name: weight.requires_grad_() for name, weight in weight_tensors(network, space).items()}
    flow = network(torch.ones(1, *image_shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {
        name: (weight.detach() * gradient) for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def synflow_maps(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> np.ndarray:
    """The order in which feature maps go, by the flow into them: float64 (maps,), lowest first.

    Every group keeps its minimum width in every iteration.

    References:
        Tanaka et al. 2020, algorithm 1, on maps.
    """
    return _gene_order(model, space, image_shape, np.arange(space.maps), lambda scores: _flow_into_maps(space, scores))


def synflow_kernels(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> list[np.ndarray]:
    """The order in which kernel genes go, by the mean flow through them, for every entry of `space.kernels`."""
    places = np.concatenate([np.arange(kernels.start, kernels.start + kernels.size) for kernels in space.kernels])
    importance = np.zeros(space.genes)
    importance[places] = _gene_order(
        model, space, image_shape, places, lambda scores: np.concatenate(kernel_values(space, scores))
    )
    return [importance[kernels.genes] for kernels in space.kernels]


def synflow_weights(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> WeightScores:
    """The order in which single weights go, lowest first.

    References:
        Tanaka et al. 2020, algorithm 1.
    """
    network = linearised(model)
    weights = weight_tensors(network, space)
    unpruned = {name: weight.detach().clone() for name, weight in weights.items()}
    sizes = [weight.numel() for weight in unpruned.values()]

    def flow(alive: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            for (name, weight), stays in zip(unpruned.items(), torch.from_numpy(alive).split(sizes), strict=True):
                weights[name].copy_(weight * stays.reshape(weight.shape))
        scores = synaptic_flow(network, space, image_shape)
        return torch.cat([scores[name].reshape(-1) for name in unpruned]).numpy()

    def select(scores: np.ndarray, count: int) -> np.ndarray:
        stays = np.zeros(len(scores), dtype=bool)
        stays[np.argsort(-scores, kind="stable")[:count]] = True
        return stays

    order = torch.from_numpy(iterative_order(sum(sizes), flow, select)).split(sizes)
    return {name: part.reshape(weight.shape) for (name, weight), part in zip(unpruned.items(), order, strict=True)}


def iterative_order(
    size: int, score: Callable[[np.ndarray], np.ndarray], select: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """The order in which parts go if they are scored anew after each of `STEPS` steps down to `LEAST_KEPT` of them.

    Args:
        size: number of parts.
        score: present parts, bool (size,) -> scores, float (size,), 0 or more.
        select: scores (negative for removed parts) and the number that stays -> parts that stay, bool (size,).

    Returns:
        float64 (size,), in 0..1; parts that go first have the lowest values.
    """
    alive, order = np.ones(size, dtype=bool), np.zeros(size)
    for step, kept in enumerate((*exponential(STEPS, LEAST_KEPT), 0.0)):
        scores = np.where(alive, score(alive), -1.0)
        stays = select(scores, math.ceil(kept * size)) if kept else np.zeros(size, dtype=bool)
        gone = np.flatnonzero(alive & ~stays)
        order[gone[np.argsort(scores[gone], kind="stable")]] = step + np.linspace(0, 1, len(gone), endpoint=False)
        alive = stays
    return order / (STEPS + 1)


def _gene_order(
    model: nn.Module,
    space: SearchSpace,
    image_shape: tuple[int, ...],
    places: np.ndarray,
    values: Callable[[WeightScores], np.ndarray],
) -> np.ndarray:
    """As `iterative_order`, over the genes at these places. values: from scores of weights to one value a place."""
    network = linearised(model)

    def score(alive: np.ndarray) -> np.ndarray:
        genome = space.full()
        genome[places] = alive
        return values(synaptic_flow(mask(network, space, genome), space, image_shape))

    def select(scores: np.ndarray, count: int) -> np.ndarray:
        genome, importance = space.full(), np.full(space.genes, np.inf)
        importance[places] = scores
        genome[places] = 0
        genome[places[np.argsort(-scores, kind="stable")[:count]]] = 1
        stays: np.ndarray = space.repair(genome, importance)[places] != 0
        return stays

    return iterative_order(len(places), score, select)


def _flow_into_maps(space: SearchSpace, scores: WeightScores) -> np.ndarray:
    return np.nan_to_num(merge_layers(space, filter_values(space, scores, additive=True), "none", additive=True))
