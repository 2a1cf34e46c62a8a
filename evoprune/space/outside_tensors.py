"""Places outside of tensors where the number of maps matters: reductions over maps, products of maps, attributes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reduction:
    """A computation over maps (a sum, mean, maximum, norm or softmax) that runs over the maps that stay.

    Attributes:
        module: Name of the module whose forward computes it.
        operation: Name of PyTorch's operation.
        call: Number of calls of this operation by this module before it, in one forward pass of the network.
        dim: Dimension of the input along which the maps lie.
        gene: int32 (maps,), the gene of each map, -1 if it always stays. If the input has several places for each map
            (its pixels), they follow each other.
    """

    module: str
    operation: str
    call: int
    dim: int
    gene: np.ndarray


@dataclass(frozen=True, eq=False)
class Size:
    """An attribute of a module that holds a number of maps, or a tuple with this number alone.

    Attributes:
        module: Name of the module.
        attribute: Name of the attribute.
        gene: int32 (maps,), as of `Reduction`.
    """

    module: str
    attribute: str
    gene: np.ndarray


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product of two tensors of maps, such as those of attention.

    Attributes:
        macs: Multiply-accumulates per image and map.
        gene: int32 (maps,), as of `Reduction`.
    """

    macs: int
    gene: np.ndarray


OutsideTensors = Reduction | Size | Product


def kept(gene: np.ndarray, genome: np.ndarray) -> np.ndarray:
    """Positions that stay under a genome: int64 (kept,). gene: of each position, -1 if it always stays."""
    return np.flatnonzero((gene < 0) | (genome[gene] != 0))
