"""SynFlow: what flows through a network's weights, without any data, taken anew as it is pruned."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from evoprune.config.schedules import exponential
from evoprune.criteria.importance import WeightScores, of_filters, of_genes, of_kernels
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied
from evoprune.surgery.apply import mask

STEPS = 100
"""Tanaka et al. 2020, section 6: 100 iterations."""

LEAST_KEPT = 0.01
"""The share that is left after the last iteration; what is left then is ranked by its last scores."""


def linearised(model: nn.Module) -> nn.Module:
    """A copy with |W|, no biases, and batch norms as positive factors |gamma| / sqrt(variance + eps).

    In float64 and eval mode. Of convolutions, ReLU (also ReLU6, without its bound) and pooling this computes a sum over
    paths of products of weights, so that no unit is ever dead. Tanaka et al. 2020, algorithm 1 (|W|); there batch
    norm's shift stays, with which the scores into a unit and out of it differ.
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
            elif isinstance(module, nn.Hardtanh):  # ReLU6 too: where it is full, nothing would flow
                module.max_val = math.inf
    return network.requires_grad_(True)


def synaptic_flow(network: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> WeightScores:
    """dR/dw x w of every layer's weights, for the sum R of the outputs of an image of ones.

    network: of `linearised`. Into a hidden unit flows as much as out of it. Tanaka et al. 2020, section 5, theorem 1.
    """
    weights = {layer.weight: network.get_parameter(layer.weight) for layer in space.layers}
    flow = network(torch.ones(1, *image_shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {
        name: (weight.detach() * gradient) for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def synflow_maps(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> np.ndarray:
    """The order in which feature maps go, the first ones low: float64 (maps,). Each scores what flows into it.

    Every group keeps its least width in every iteration. Tanaka et al. 2020, algorithm 1, on maps.
    """
    return _of_places(model, space, image_shape, np.arange(space.maps), lambda scores: _flow_of_maps(space, scores))


def synflow_kernels(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> list[np.ndarray]:
    """The same of kernel genes, for every entry of `space.kernels`: each scores the mean flow through its weights."""
    places = np.concatenate([np.arange(kernels.start, kernels.start + kernels.size) for kernels in space.kernels])
    importance = np.zeros(space.genes)
    importance[places] = _of_places(
        model, space, image_shape, places, lambda scores: np.concatenate(of_kernels(space, scores))
    )
    return [importance[kernels.genes] for kernels in space.kernels]


def synflow_weights(model: nn.Module, space: SearchSpace, image_shape: tuple[int, ...]) -> WeightScores:
    """The order in which single weights go, the first ones low. Tanaka et al. 2020, algorithm 1."""
    network = linearised(model)
    whole = {layer.weight: network.get_parameter(layer.weight).detach().clone() for layer in space.layers}
    sizes = [weight.numel() for weight in whole.values()]

    def flow(alive: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            for (name, weight), stays in zip(whole.items(), torch.from_numpy(alive).split(sizes), strict=True):
                network.get_parameter(name).copy_(weight * stays.reshape(weight.shape))
        scores = synaptic_flow(network, space, image_shape)
        return torch.cat([scores[name].reshape(-1) for name in whole]).numpy()

    def select(scores: np.ndarray, count: int) -> np.ndarray:
        stays = np.zeros(len(scores), dtype=bool)
        stays[np.argsort(-scores, kind="stable")[:count]] = True
        return stays

    order = torch.from_numpy(iterated(sum(sizes), flow, select)).split(sizes)
    return {name: part.reshape(weight.shape) for (name, weight), part in zip(whole.items(), order, strict=True)}


def iterated(
    size: int, score: Callable[[np.ndarray], np.ndarray], select: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """The order in which things go when they are scored anew after each of STEPS steps down to LEAST_KEPT of them.

    score: which are there, bool (size,) -> float (size,), 0 or more. select: scores (negative of those that are gone)
    and how many are to stay -> which do, bool (size,). Returns float64 (size,), the first ones to go low, in 0..1.
    """
    alive, order = np.ones(size, dtype=bool), np.zeros(size)
    for step, kept in enumerate((*exponential(STEPS, LEAST_KEPT), 0.0)):
        scores = np.where(alive, score(alive), -1.0)
        stays = select(scores, math.ceil(kept * size)) if kept else np.zeros(size, dtype=bool)
        gone = np.flatnonzero(alive & ~stays)
        order[gone[np.argsort(scores[gone], kind="stable")]] = step + np.linspace(0, 1, len(gone), endpoint=False)
        alive = stays
    return order / (STEPS + 1)


def _of_places(
    model: nn.Module,
    space: SearchSpace,
    image_shape: tuple[int, ...],
    places: np.ndarray,
    values: Callable[[WeightScores], np.ndarray],
) -> np.ndarray:
    """`iterated` over genes at these places; values: of weights' scores, one a place."""
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

    return iterated(len(places), score, select)


def _flow_of_maps(space: SearchSpace, scores: WeightScores) -> np.ndarray:
    return np.nan_to_num(of_genes(space, of_filters(space, scores, additive=True), "none", additive=True))
