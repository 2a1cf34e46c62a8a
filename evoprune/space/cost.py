"""The cost of the network that a genome leaves, counted exactly from the plan."""

import math
from dataclasses import dataclass

import numpy as np

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        macs: Multiply-accumulates of one forward pass of one image.
        params: Number of parameters.
        bytes: Size of the stored weights.
    """

    macs: int
    params: int
    bytes: int


def cost(space: SearchSpace, genome: Genome) -> Cost:
    """Counts MACs, parameters and bytes (as stored: `surgery.packing`) of the network that a genome leaves.

    Args:
        space: The search space.
        genome: uint8 (genes,).

    Returns:
        The exact cost; no network is built.

    Raises:
        SearchSpaceError: If the genome is not one of this space, or leaves a group fewer maps than it must keep.

    Example:
        >>> whole, half = ep.cost(space, space.full()), ep.cost(space, genome)
        >>> print(f"{half.macs / whole.macs:.0%} of the MACs")
    """
    return phenotype_cost(space, space.check(genome))


def phenotype_cost(space: SearchSpace, phenotype: Phenotype) -> Cost:
    """The cost of a phenotype. Masked weights cost nothing; the stored lists of kernels and masks cost their bytes."""
    cut = cut_elements(space, phenotype)
    left = cut | {weight: int(np.count_nonzero(kernels)) for weight, kernels in phenotype.kernels.items()}
    macs = sum(left[layer.weight] * layer.positions for layer in space.layers)
    params = sum(left[tensor.name] for tensor in space.tensors if tensor.parameter)
    dense = {tensor.name: cut[tensor.name] * tensor.itemsize for tensor in space.tensors}
    packed = {weight: _packed_bytes(space, phenotype, weight) for weight in packed_layers(space, phenotype)}
    return Cost(macs + space.macs_outside_layers(phenotype.genome), params, sum((dense | packed).values()))


def cut_elements(space: SearchSpace, phenotype: Phenotype) -> dict[str, int]:
    """Number of elements of each tensor after removed positions are cut out; masked weights count."""
    shapes = {tensor.name: list(tensor.shape) for tensor in space.tensors}
    for (tensor, dim), kept in phenotype.kept.items():
        shapes[tensor][dim] = len(kept)
    return {name: math.prod(shape) for name, shape in shapes.items()}


def packed_layers(space: SearchSpace, phenotype: Phenotype) -> frozenset[str]:
    """Weights that take fewer bytes as values with lists of their positions than dense, with zeros."""
    cut = cut_elements(space, phenotype)
    itemsize = {tensor.name: tensor.itemsize for tensor in space.tensors}
    return frozenset(
        weight
        for weight in phenotype.kernels
        if _packed_bytes(space, phenotype, weight) < cut[weight] * itemsize[weight]
    )


def _packed_bytes(space: SearchSpace, phenotype: Phenotype, weight: str) -> int:
    """Bytes of the weights that stay, 2 per kernel (4 in layers of over 65,536), and 2 per mask (start and stride)."""
    kernels = phenotype.kernels[weight]
    itemsize = next(tensor.itemsize for tensor in space.tensors if tensor.name == weight)
    total = itemsize * int(np.count_nonzero(kernels))
    present = kernels.any(axis=2)
    if any(genes.weight == weight for genes in space.kernels):
        positions = cut_elements(space, phenotype)[weight] // space.layer(weight).taps
        total += (2 if positions <= np.iinfo(np.uint16).max + 1 else 4) * int(np.count_nonzero(present))
    for genes in space.strides:
        if genes.weight == weight:
            total += 2 * len(np.unique(genes.of_kernel[present]))
    return total
