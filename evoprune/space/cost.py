"""What a genome's network costs, counted exactly from the plan."""

from dataclasses import dataclass

import numpy as np

from evoprune.space.plan import Genome, SearchSpace


@dataclass(frozen=True)
class Cost:
    """macs: multiply-accumulates of one forward pass of one image. params: parameters. bytes: stored size."""

    macs: int
    params: int
    bytes: int


def cost(space: SearchSpace, genome: Genome) -> Cost:
    """MACs, parameters and bytes (parameters and buffers) of what the genome leaves. Raises SearchSpaceError."""
    sizes = kept_elements(space, space.canonical(genome))
    macs = sum(sizes[layer.weight] * layer.positions for layer in space.layers)
    params = sum(sizes[tensor.name] for tensor in space.tensors if tensor.parameter)
    size_bytes = sum(sizes[tensor.name] * tensor.itemsize for tensor in space.tensors)
    return Cost(macs + space.fixed_macs, params, size_bytes)


def kept_elements(space: SearchSpace, genome: Genome) -> dict[str, int]:
    """How many elements of every tensor stay. genome: canonical."""
    shapes = {tensor.name: list(tensor.shape) for tensor in space.tensors}
    for axis in space.axes:
        shapes[axis.tensor][axis.dim] = len(axis.kept(genome))
    return {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
