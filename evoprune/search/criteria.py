"""How important each gene is, from the weights alone or from data: short pure functions over the plan."""

import numpy as np
import torch
from torch import nn

from evoprune.space.plan import SearchSpace


def filter_l1(model: nn.Module, space: SearchSpace) -> np.ndarray:
    """Mean absolute weight of each gene's feature maps, as a share of its group's largest.

    A gene that takes several layers along has the mean of their shares. Returns float64 (genes,), in 0..1.
    Li et al. 2017, section 3.1 (sum of absolute weights of a filter).
    """
    parameters = dict(model.named_parameters())
    outputs = {(layer.weight, layer.out_dim) for layer in space.layers}
    total, axes = np.zeros(space.genes), np.zeros(space.genes)
    for axis in space.axes:
        if (axis.tensor, axis.dim) not in outputs:
            continue
        weight = parameters[axis.tensor].detach().to("cpu", torch.float64)
        norms = weight.movedim(axis.dim, 0).flatten(1).abs().mean(1).numpy()
        movable = axis.gene >= 0
        gene = axis.gene[movable]
        sums = np.bincount(gene, norms[movable], minlength=space.genes)
        counts = np.bincount(gene, minlength=space.genes)
        largest = norms[movable].max()
        total += np.divide(sums, counts * largest, out=np.zeros(space.genes), where=counts * largest > 0)
        axes += counts > 0
    return total / np.maximum(axes, 1)


def group_ranks(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each gene's rank within its group as a share: 0 the least important, 1 the most. float64 (genes,)."""
    ranks = np.zeros(space.genes)
    for group in space.groups:
        order = np.argsort(importance[group.genes], kind="stable")
        ranks[group.start + order] = np.linspace(0, 1, group.size)
    return ranks
