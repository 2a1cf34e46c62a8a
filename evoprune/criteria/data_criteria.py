"""Criteria that look at what a network does on examples: activations, gradients, curvature, the loss itself."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.criteria.elimination import eliminations
from evoprune.criteria.importance import CriterionContext, LayerValues, WeightScores, weights_of
from evoprune.criteria.observation import BATCH_SIZE, Objective, observe
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, named_tensors
from evoprune.surgery.compensation import gram_statistics

DRAWS = 4
"""How often signs are drawn for the curvature of every example."""

CURVATURE_BATCH = 16
"""Images whose signs are drawn together for single weights: the fewer, the less noise, and the more passes."""


CurvatureRoot = Callable[[Tensor, Tensor], Tensor]
"""(logits, random signs) -> H^(1/2) z, both (b, classes), for the Hessian H of the loss by an image's logits."""


def mean_activation(context: CriterionContext) -> list[LayerValues]:
    """Mean |activation| over pixels and examples. Molchanov et al. 2017, section 2.2 ("activation").

    Taken where the map is read, as all criteria here: after ReLU, where |.| changes nothing, and after pooling.
    """
    return observe(context.network(), context.space, _images(context), lambda maps, _: maps.abs(), _mean)


def nonzero_share(context: CriterionContext) -> list[LayerValues]:
    """Share of activations that are not zero: 1 - APoZ. Hu et al. 2016, eq. 1 (average percentage of zeros)."""
    return observe(context.network(), context.space, _images(context), lambda maps, _: maps != 0, _mean)


def taylor(context: CriterionContext) -> list[LayerValues]:
    """|mean over pixels of gradient x activation|, averaged over examples. Molchanov et al. 2017, eq. 8.

    The first-order change of an example's loss where the map is set to zero.
    """
    return observe(
        context.network(),
        context.space,
        _images(context),
        lambda maps, gradients: maps * gradients,
        lambda sums, pixels: (sums / pixels).abs(),
        _cross_entropy(context),
    )


def taylor_of_weights(context: CriterionContext) -> WeightScores:
    """|w dL/dw| of the mean loss. Lee, Ajanthan and Torr 2019 (SNIP; there before training)."""
    network, images, labels = context.network(), _images(context), context.labels.to(context.device)
    totals = {name: torch.zeros_like(weight) for name, weight in weights_of(context.model, context.space).items()}
    for batch, wanted in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        loss = F.cross_entropy(network(batch), wanted, reduction="sum") / len(images)
        for name, gradient in weight_gradients(network, context.space, loss).items():
            totals[name] += gradient
    weights = weights_of(context.model, context.space)
    return {name: (weights[name] * total).abs() for name, total in totals.items()}


def obd(context: CriterionContext) -> list[LayerValues]:
    """h u^2 / 2 of a gate u = 1 on each map. LeCun, Denker and Solla 1990; on gates: Theis et al. 2018.

    h, the second derivative of the mean loss by the gate, is the Gauss-Newton approximation that LeCun et al. take
    (after Levenberg and Marquardt), which is never negative: see `gauss_newton_diagonal`;
    here examples are not mixed. A map has a gate at each layer that reads it.
    """
    network, generator = context.network(), torch.Generator().manual_seed(context.draw_seed())

    def objective(logits: Tensor, places: slice) -> Tensor:
        return (logits * cross_entropy_root(logits, signs_like(logits, generator))).sum()

    draws = [
        observe(
            network,
            context.space,
            _images(context),
            lambda maps, gradients: maps * gradients,
            lambda sums, pixels: sums.square() / 2,
            objective,
        )
        for _ in range(DRAWS)
    ]
    return [
        LayerValues(layers[0].gene, np.mean([layer.values for layer in layers], axis=0))
        for layers in zip(*draws, strict=True)
    ]


def obd_of_weights(context: CriterionContext) -> WeightScores:
    """h_kk u_k^2 / 2 of every weight. LeCun, Denker and Solla 1990, section 2."""
    generator = torch.Generator().manual_seed(context.draw_seed())
    diagonal = gauss_newton_diagonal(context.network(), context.space, _images(context), generator, cross_entropy_root)
    weights = weights_of(context.model, context.space)
    return {name: h * weights[name].square() / 2 for name, h in diagonal.items()}


def gauss_newton_diagonal(
    network: nn.Module, space: SearchSpace, images: Tensor, generator: torch.Generator, root: CurvatureRoot
) -> dict[str, Tensor]:
    """The diagonal of the Gauss-Newton matrix (1/n) sum of J^T H J of the mean loss, for every layer's weight.

    J: logits by weights, H: the loss by logits. Of v = H^(1/2) z with random signs z, (J^T v)^2 has that diagonal
    for its mean: examples and outputs mix into terms that cancel. DRAWS signs an example. It is the Hessian without
    the second derivatives of the network itself. Hutchinson 1990 (random signs); Martens, Sutskever and Swersky 2012
    (through the outputs alone).
    """
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights_of(network, space).items()}
    for _ in range(DRAWS):
        for batch in images.split(CURVATURE_BATCH):
            logits = network(batch)
            target = (logits * root(logits, signs_like(logits, generator))).sum()
            for name, gradient in weight_gradients(network, space, target).items():
                diagonal[name] += gradient.square() / (DRAWS * len(images))
    return diagonal


def cross_entropy_root(logits: Tensor, signs: Tensor) -> Tensor:
    """H^(1/2) z for H = diag(p) - p p^T, the Hessian of cross entropy by logits. Both (b, classes); no gradient."""
    shares = logits.detach().softmax(1)
    root = shares.sqrt() * signs
    return root - shares * root.sum(1, keepdim=True)


def signs_like(logits: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1, each with probability 1/2."""
    drawn = torch.randint(0, 2, logits.shape, generator=generator)
    return (2 * drawn - 1).to(logits.device, logits.dtype)


def oracle(context: CriterionContext) -> list[LayerValues]:
    """|change of the loss| where the map is removed, nothing else changed. Molchanov et al. 2017, section 2.1.

    Every map is removed in turn: one evaluation each. Maps of groups that may lose none have 0.
    """
    space = context.space
    maps = [np.arange(group.start, group.start + group.size) for group in space.groups]
    may_go = [genes for genes, group in zip(maps, space.groups, strict=True) if group.size > group.minimum]
    change = _changes(context, np.concatenate(may_go or [np.empty(0, np.int64)]), space.maps)
    return [LayerValues(genes, change[genes]) for genes in maps]


def oracle_of_kernels(context: CriterionContext) -> list[np.ndarray]:
    """The same of every kernel gene, for each entry of `space.kernels`: one evaluation each, many where all may go."""
    space = context.space
    genes = np.concatenate([np.arange(kernels.start, kernels.start + kernels.size) for kernels in space.kernels])
    change = _changes(context, genes, space.genes)
    return [change[kernels.genes] for kernels in space.kernels]


def _changes(context: CriterionContext, genes: np.ndarray, size: int) -> np.ndarray:
    """|change of the loss| where one of these genes is 0, at its place. Returns float64 (size,)."""
    whole = context.space.full()
    genomes = [whole]
    for gene in genes:
        genome = whole.copy()
        genome[gene] = 0
        genomes.append(genome)
    reference, *losses = context.losses(genomes)
    change = np.zeros(size)
    change[genes] = np.abs(np.array(losses) - reference)
    return change


def weight_gradients(network: nn.Module, space: SearchSpace, target: Tensor) -> dict[str, Tensor]:
    """The gradient of a scalar by every layer's weight: float64 on the CPU."""
    weights = {layer.weight: network.get_parameter(layer.weight) for layer in space.layers}
    found = torch.autograd.grad(target, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {name: gradient.to("cpu", torch.float64) for name, gradient in zip(weights, found, strict=True)}


def _cross_entropy(context: CriterionContext) -> Objective:
    labels = context.labels.to(context.device)
    return lambda logits, places: F.cross_entropy(logits, labels[places], reduction="sum")


def _images(context: CriterionContext) -> Tensor:
    return context.images.to(context.device)


def _mean(sums: Tensor, pixels: Tensor) -> Tensor:
    return sums / pixels


def elimination(context: CriterionContext) -> list[LayerValues]:
    """How much of their readers' outputs is lost by when a map is eliminated: the one that goes first has the least.

    A share of the outputs' variance, after compensation, with all maps gone that are missed less: 0 to 1, comparable
    over groups. See `surgery.elimination`, and there the sources.
    """
    model, space = context.model, context.space
    statistics = context.statistics
    if statistics is None:
        images = context.images.to(context.device)
        statistics = gram_statistics(copied(model).to(context.device), space, images, context.most_gram_bytes)
    tensors = {name: tensor.detach().to(context.device) for name, tensor in named_tensors(model)}
    values = []
    for group, found in zip(space.groups, eliminations(space, tensors, statistics), strict=True):
        if found is not None:
            ties = np.arange(group.size) * np.finfo(float).eps  # what goes later is never worth less
            values.append(LayerValues(group.start + found.order, found.error[1:] + ties))
    return values
