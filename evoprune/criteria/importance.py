"""From what a criterion says of a network's layers or single weights to the importance of genes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.plan import Axis, Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied
from evoprune.surgery.compensation import Statistics

Normalisation = Literal["none", "largest", "l2"]
"""How the values of a layer are made comparable with another layer's: not at all, over the largest, over their norm."""

WeightScores = Mapping[str, Tensor]
"""Weight name -> importance of each of its elements: float64 of the weight's shape, on the CPU, 0 or more."""

Losses = Callable[[Sequence[Genome]], list[float]]
"""The mean cross entropy of each genome's network on the subject's images: see `workers.Workers.losses`."""


@dataclass(frozen=True, eq=False)
class CriterionContext:
    """What criteria may look at.

    model: trained, in eval mode. images: float (n, c, h, w), labels: int64 (n,): examples out of the training split.
    rng: of what is drawn. losses: of whole networks, who computes them is free. device: where gradients are computed.
    statistics: of the layers' inputs, where they are known already; else, what they may take (None: no bound).
    """

    model: nn.Module
    space: SearchSpace
    images: Tensor
    labels: Tensor
    rng: np.random.Generator
    losses: Losses
    device: torch.device
    statistics: Statistics | None = None
    most_gram_bytes: int | None = None

    def network(self) -> nn.Module:
        """A copy of the model on the device, all of whose parameters take gradients."""
        return copied(self.model).to(self.device).eval().requires_grad_(True)

    def draw_seed(self) -> int:
        """A seed for PyTorch's generators, drawn from `rng`."""
        return int(self.rng.integers(2**63))


@dataclass(frozen=True, eq=False)
class LayerValues:
    """What a criterion says of one layer's maps. gene: int64 (n,), each map's, every one once. values: float64 (n,)."""

    gene: np.ndarray
    values: np.ndarray


def of_positions(gene: np.ndarray, values: np.ndarray, additive: bool = False) -> LayerValues:
    """Values of positions along an axis, as those of its genes: the mean (or the sum) where several have one gene.

    gene: int (positions,), -1 where nothing may go. values: float (positions,).
    """
    movable = gene >= 0
    genes, place = np.unique(gene[movable], return_inverse=True)
    sums = np.bincount(place, values[movable], minlength=len(genes))
    return LayerValues(genes, sums if additive else sums / np.bincount(place, minlength=len(genes)))


def makers(space: SearchSpace) -> Iterator[Axis]:
    """The output axes of the layers that make maps which may go."""
    outputs = {(layer.weight, layer.out_dim) for layer in space.layers}
    return (axis for axis in space.axes if (axis.tensor, axis.dim) in outputs)


def of_filters(space: SearchSpace, scores: WeightScores, additive: bool = False) -> list[LayerValues]:
    """The mean (or the sum) of the scores of each map's incoming weights, layer by layer."""
    values = []
    for axis in makers(space):
        flat = scores[axis.tensor].movedim(axis.dim, 0).flatten(1)  # (maps, weights a map)
        values.append(of_positions(axis.gene, (flat.sum(1) if additive else flat.mean(1)).numpy(), additive))
    return values


def normalised(values: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """A layer's values made comparable with another's. L2: Molchanov et al. 2017, section 2.3."""
    scale = {
        "none": 1.0,
        "largest": np.abs(values).max(initial=0),
        "l2": float(np.linalg.norm(values)),
    }[normalisation]
    return values / scale if scale > 0 else values


def of_genes(
    space: SearchSpace, layers: Iterable[LayerValues], normalisation: Normalisation, additive: bool = False
) -> np.ndarray:
    """The importance of every map: the mean (or the sum) over the layers that its gene takes along.

    Returns float64 (maps,), NaN for maps of which no layer says anything.
    """
    total, count = np.zeros(space.maps), np.zeros(space.maps)
    for layer in layers:
        total[layer.gene] += normalised(layer.values, normalisation)
        count[layer.gene] += 1
    said = np.divide(total, 1 if additive else count, out=np.zeros(space.maps), where=count > 0)
    return np.where(count > 0, said, np.nan)


def of_kernels(space: SearchSpace, scores: WeightScores) -> list[np.ndarray]:
    """The mean score of each kernel gene's weights, for every entry of `space.kernels`. float64 (genes,) each."""
    importance = []
    for genes in space.kernels:
        means = kernels_of(space, scores, genes.weight).mean(2).numpy()  # (outputs, inputs)
        sums = np.bincount(genes.of_kernel.reshape(-1), means.reshape(-1), minlength=genes.size)
        importance.append(sums / np.bincount(genes.of_kernel.reshape(-1), minlength=genes.size))
    return importance


def of_strides(space: SearchSpace, scores: WeightScores) -> list[np.ndarray]:
    """Share of the scores that each stride mask would keep, for every entry of `space.strides`.

    Returns float64 (genes, values) each, in 0..1; column 0, the dense mask, is 1 (0 where all scores are 0).
    """
    kept = []
    for genes in space.strides:
        taps = kernels_of(space, scores, genes.weight).numpy()  # (outputs, inputs, taps)
        flat, gene = taps.reshape(-1, taps.shape[2]), genes.of_kernel.reshape(-1)
        sums = np.stack([np.bincount(gene, column, minlength=genes.size) for column in flat.T], axis=1)
        total = sums.sum(1, keepdims=True)
        shares = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
        kept.append(shares @ genes.tap_table.T)
    return kept


def kernels_of(space: SearchSpace, scores: WeightScores, weight: str) -> Tensor:
    """A weight's scores as (outputs, inputs, taps)."""
    layer = space.layer(weight)
    return scores[weight].movedim((layer.out_dim, layer.in_dim), (0, 1)).flatten(2)


def weights_of(model: nn.Module, space: SearchSpace) -> dict[str, Tensor]:
    """The weights of all layers by name, detached, float64 on the CPU."""
    return {layer.weight: model.get_parameter(layer.weight).detach().to("cpu", torch.float64) for layer in space.layers}
