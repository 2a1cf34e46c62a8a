"""How important each gene is: short pure functions over weights and the plan."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evoprune.space.plan import SearchSpace


def filter_l1(model: nn.Module, space: SearchSpace) -> np.ndarray:
    """Mean absolute weight of each gene's feature maps, as a share of its group's largest.

    A gene that takes several layers along has the mean of their shares. Returns float64 (maps,), in 0..1.
    Li et al. 2017, section 3.1 (sum of absolute weights of a filter).
    """
    parameters = dict(model.named_parameters())
    outputs = {(layer.weight, layer.out_dim) for layer in space.layers}
    total, axes = np.zeros(space.maps), np.zeros(space.maps)
    for axis in space.axes:
        if (axis.tensor, axis.dim) not in outputs:
            continue
        weight = parameters[axis.tensor].detach().to("cpu", torch.float64)
        norms = weight.movedim(axis.dim, 0).flatten(1).abs().mean(1).numpy()
        movable = axis.gene >= 0
        gene = axis.gene[movable]
        sums = np.bincount(gene, norms[movable], minlength=space.maps)
        counts = np.bincount(gene, minlength=space.maps)
        largest = norms[movable].max()
        total += np.divide(sums, counts * largest, out=np.zeros(space.maps), where=counts * largest > 0)
        axes += counts > 0
    return total / np.maximum(axes, 1)


def group_ranks(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each gene's rank within its group as a share: 0 the least important, 1 the most. float64 (maps,)."""
    ranks = np.zeros(space.maps)
    for group in space.groups:
        ranks[group.genes] = _ranks(importance[group.genes])
    return ranks


def _ranks(importance: np.ndarray) -> np.ndarray:
    """Ranks as shares, 0..1, of a vector."""
    ranks = np.zeros(len(importance))
    ranks[np.argsort(importance, kind="stable")] = np.linspace(0, 1, len(importance))
    return ranks


def kernel_l1(model: nn.Module, space: SearchSpace) -> list[np.ndarray]:
    """Mean absolute weight of each kernel gene's kernels, for every entry of `space.kernels`. float64 (genes,) each.

    Anwar, Hwang and Sung 2017, section 3 (pruning at the level of kernels); ranked by L1 as filters in Li et al. 2017.
    """
    importance = []
    for genes in space.kernels:
        norms = _kernels(model, space, genes.weight).abs().mean(2).numpy()  # (outputs, inputs)
        sums = np.bincount(genes.of_kernel.reshape(-1), norms.reshape(-1), minlength=genes.size)
        importance.append(sums / np.bincount(genes.of_kernel.reshape(-1), minlength=genes.size))
    return importance


def stride_l1(model: nn.Module, space: SearchSpace) -> list[np.ndarray]:
    """Share of the absolute weights that each stride mask would keep, for every entry of `space.strides`.

    Returns float64 (genes, values) each, in 0..1; column 0, the dense mask, is 1 (0 where all weights are 0).
    """
    kept = []
    for genes in space.strides:
        absolute = _kernels(model, space, genes.weight).abs().numpy()  # (outputs, inputs, taps)
        flat, gene = absolute.reshape(-1, absolute.shape[2]), genes.of_kernel.reshape(-1)
        sums = np.stack([np.bincount(gene, column, minlength=genes.size) for column in flat.T], axis=1)
        total = sums.sum(1, keepdims=True)
        shares = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
        kept.append(shares @ genes.tap_table.T)
    return kept


def _kernels(model: nn.Module, space: SearchSpace, weight: str) -> torch.Tensor:
    """A weight as (outputs, inputs, taps), float64."""
    layer = space.layer(weight)
    tensor = model.get_parameter(weight).detach().to("cpu", torch.float64)
    return tensor.movedim((layer.out_dim, layer.in_dim), (0, 1)).flatten(2)


@dataclass(frozen=True, eq=False)
class Preferences:
    """What operators should rather keep. Ranks are within a group or layer: 0 the least important, 1 the most.

    maps: float (maps,). kernels, strides: one array for each entry of `space.kernels` and `space.strides`:
    float (genes,), and float (genes, values), what share of a kernel's norm each mask keeps.
    """

    maps: np.ndarray
    kernels: tuple[np.ndarray, ...]
    strides: tuple[np.ndarray, ...]

    @property
    def genes(self) -> np.ndarray:
        """Importance of every gene, for `SearchSpace.repair`. float (genes,); strides, which repair leaves, have 0."""
        return np.concatenate((self.maps, *self.kernels, *(np.zeros(len(values)) for values in self.strides)))


def magnitude_preferences(model: nn.Module, space: SearchSpace) -> Preferences:
    """Preferences by the weights' magnitude: filters and kernels of large L1 norm, masks that keep most of it."""
    return Preferences(
        maps=group_ranks(space, filter_l1(model, space)),
        kernels=tuple(_ranks(norms) for norms in kernel_l1(model, space)),
        strides=tuple(stride_l1(model, space)),
    )
