"""From a criterion's values of layers or single weights to the importance of genes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.plan import Axis
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import weight_tensors

Normalisation = Literal["none", "largest", "l2"]
"""How the values of a layer are made comparable with another layer's: divided by 1, the largest, or the L2 norm."""

WeightScores = Mapping[str, Tensor]
"""Weight name -> importance of each of its elements: float64 of the weight's shape, on the CPU, 0 or more."""


@dataclass(frozen=True, eq=False)
class LayerValues:
    """A criterion's values of one layer's feature maps.

    Attributes:
        gene: int64 (n,), gene of each map, each one once.
        values: float64 (n,).

    Example:
        >>> ep.LayerValues(np.arange(group.start, group.start + group.size), np.random.rand(group.size))
    """

    gene: np.ndarray
    values: np.ndarray


def merge_positions(gene: np.ndarray, values: np.ndarray, additive: bool = False) -> LayerValues:
    """Values of genes from those of positions along an axis: the mean (or the sum) over a gene's positions.

    Args:
        gene: int (positions,), -1 for positions that stay.
        values: float (positions,).
        additive: sum instead of mean.
    """
    movable = gene >= 0
    genes, place = np.unique(gene[movable], return_inverse=True)
    sums = np.bincount(place, values[movable], minlength=len(genes))
    return LayerValues(genes, sums if additive else sums / np.bincount(place, minlength=len(genes)))


def producing_axes(space: SearchSpace) -> Iterator[Axis]:
    """The output axes of the layers that produce prunable feature maps."""
    outputs = {(layer.weight, layer.out_dim) for layer in space.layers}
    return (axis for axis in space.axes if (axis.tensor, axis.dim) in outputs)


def filter_values(space: SearchSpace, scores: WeightScores, additive: bool = False) -> list[LayerValues]:
    """The mean (or the sum) of the scores of each map's incoming weights, layer by layer."""
    values = []
    for axis in producing_axes(space):
        flat = scores[axis.tensor].movedim(axis.dim, 0).flatten(1)  # (maps, weights of a map)
        values.append(merge_positions(axis.gene, (flat.sum(1) if additive else flat.mean(1)).numpy(), additive))
    return values


def normalised(values: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """A layer's values made comparable with another layer's.

    References:
        Molchanov et al. 2017, section 2.3 (L2 norm).
    """
    scale = {
        "none": 1.0,
        "largest": np.abs(values).max(initial=0),
        "l2": float(np.linalg.norm(values)),
    }[normalisation]
    return values / scale if scale > 0 else values


def merge_layers(
    space: SearchSpace, layers: Iterable[LayerValues], normalisation: Normalisation, additive: bool = False
) -> np.ndarray:
    """The importance of every map: the mean (or the sum) over the layers with a value of it.

    Returns:
        float64 (maps,), NaN for maps of which no layer has a value.
    """
    total, count = np.zeros(space.maps), np.zeros(space.maps)
    for layer in layers:
        total[layer.gene] += normalised(layer.values, normalisation)
        count[layer.gene] += 1
    merged = np.divide(total, 1 if additive else count, out=np.zeros(space.maps), where=count > 0)
    return np.where(count > 0, merged, np.nan)


def kernel_values(space: SearchSpace, scores: WeightScores) -> list[np.ndarray]:
    """The mean score of each kernel gene's weights: float64 (genes,) for every entry of `space.kernels`."""
    importance = []
    for genes in space.kernels:
        means = weight_by_kernel(space, scores, genes.weight).mean(2).numpy()  # (outputs, inputs)
        sums = np.bincount(genes.of_kernel.reshape(-1), means.reshape(-1), minlength=genes.size)
        importance.append(sums / np.bincount(genes.of_kernel.reshape(-1), minlength=genes.size))
    return importance


def mask_shares(space: SearchSpace, scores: WeightScores) -> list[np.ndarray]:
    """The share of the scores that each stride mask keeps, for every entry of `space.strides`.

    Returns:
        float64 (genes, masks) each, in 0..1. Column 0, the dense mask, is 1 (0 if all scores are 0).
    """
    kept = []
    for genes in space.strides:
        taps = weight_by_kernel(space, scores, genes.weight).numpy()  # (outputs, inputs, taps)
        flat, gene = taps.reshape(-1, taps.shape[2]), genes.of_kernel.reshape(-1)
        sums = np.stack([np.bincount(gene, column, minlength=genes.size) for column in flat.T], axis=1)
        total = sums.sum(1, keepdims=True)
        shares = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
        kept.append(shares @ genes.tap_table.T)
    return kept


def weight_by_kernel(space: SearchSpace, scores: WeightScores, weight: str) -> Tensor:
    """A weight's scores as (outputs, inputs, taps)."""
    layer = space.layer(weight)
    return scores[weight].movedim((layer.out_dim, layer.in_dim), (0, 1)).flatten(2)


def layer_weights(model: nn.Module, space: SearchSpace) -> dict[str, Tensor]:
    """The weights of all layers by name, detached, float64 on the CPU."""
    weights = weight_tensors(model, space)
    return {name: weight.detach().to("cpu", torch.float64) for name, weight in weights.items()}


def magnitude(model: nn.Module, space: SearchSpace) -> WeightScores:
    """|w| of every weight.

    References:
        Han et al. 2015, section 3 (weights below a threshold are removed).
    """
    return {name: weight.abs() for name, weight in layer_weights(model, space).items()}


def filter_l1(model: nn.Module, space: SearchSpace) -> list[LayerValues]:
    """The mean absolute weight of each filter, layer by layer."""
    return filter_values(space, magnitude(model, space))
