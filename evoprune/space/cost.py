"""What a genome's network costs, counted exactly from the plan."""

import math
from dataclasses import dataclass

import numpy as np

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Cost:
    """macs: multiply-accumulates of one forward pass of one image. params: parameters. bytes: stored size."""

    macs: int
    params: int
    bytes: int


def cost(space: SearchSpace, genome: Genome) -> Cost:
    """MACs, parameters and bytes (as stored: `surgery.packing`) of what the genome leaves. Raises SearchSpaceError."""
    return phenotype_cost(space, space.check(genome))


def phenotype_cost(space: SearchSpace, phenotype: Phenotype) -> Cost:
    """The cost of a phenotype. Weights that a mask takes out cost nothing; lists of what stays cost their bytes."""
    cut = cut_elements(space, phenotype)
    left = cut | {weight: int(np.count_nonzero(kernels)) for weight, kernels in phenotype.kernels.items()}
    macs = sum(left[layer.weight] * layer.positions for layer in space.layers)
    params = sum(left[tensor.name] for tensor in space.tensors if tensor.parameter)
    dense = {tensor.name: cut[tensor.name] * tensor.itemsize for tensor in space.tensors}
    packed = {weight: _packed_bytes(space, phenotype, weight) for weight in packed_layers(space, phenotype)}
    return Cost(macs + space.fixed_macs, params, sum((dense | packed).values()))


def cut_elements(space: SearchSpace, phenotype: Phenotype) -> dict[str, int]:
    """How many elements of every tensor stay when positions that go are cut out; masked weights count."""
    shapes = {tensor.name: list(tensor.shape) for tensor in space.tensors}
    for (tensor, dim), kept in phenotype.kept.items():
        shapes[tensor][dim] = len(kept)
    return {name: math.prod(shape) for name, shape in shapes.items()}


def packed_layers(space: SearchSpace, phenotype: Phenotype) -> frozenset[str]:
    """Weights that are stored as what stays and lists of what that is, since that is smaller than zeros."""
    cut = cut_elements(space, phenotype)
    itemsize = {tensor.name: tensor.itemsize for tensor in space.tensors}
    return frozenset(
        weight
        for weight in phenotype.kernels
        if _packed_bytes(space, phenotype, weight) < cut[weight] * itemsize[weight]
    )


def _packed_bytes(space: SearchSpace, phenotype: Phenotype, weight: str) -> int:
    """Bytes of the weights that stay, 2 a kernel (4 in layers of over 65,536), and 2 a mask (start and stride)."""
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
