"""Genes of kernels and of kernel-stride masks, and the kernels that each gene controls.

A kernel is a pair (output map, input map): a place in the first two dimensions of the weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evoprune.config.choices import StrideSharing
from evoprune.errors import SearchSpaceError
from evoprune.space.masks import StrideMask, stride_table


@dataclass(frozen=True)
class KernelGenes:
    """One bit per pair of `block` output maps and one input map. shape: (outputs, inputs) of the weight."""

    weight: str
    start: int
    shape: tuple[int, int]
    block: int = 1

    @property
    def size(self) -> int:
        """Number of genes."""
        return -(-self.shape[0] // self.block) * self.shape[1]

    @property
    def genes(self) -> slice:
        """Places of the genes in the genome."""
        return slice(self.start, self.start + self.size)

    @cached_property
    def of_kernel(self) -> np.ndarray:
        """The gene of each kernel, counted from `start`: int64 (outputs, inputs)."""
        outputs, inputs = self.shape
        return (np.arange(outputs) // self.block)[:, None] * inputs + np.arange(inputs)


@dataclass(frozen=True)
class StrideGenes:
    """Indices into `table`, one per set of kernels that share a mask. table[0] is dense.

    Attributes:
        weight: Name of the layer's weight.
        start: Place of the first gene in the genome.
        shape: (outputs, inputs) of the weight.
        kernel_size: Size of a kernel along each dimension.
        table: The masks to choose from.
        sharing: `input_map`: all kernels that read one input map share a mask; `layer`: all kernels share one;
            `kernel`: each kernel has its own.
        groups: Groups of a grouped convolution; each group has its own input maps.

    References:
        Anwar, Hwang and Sung 2017, section 4 (one mask per input map).
    """

    weight: str
    start: int
    shape: tuple[int, int]
    kernel_size: tuple[int, ...]
    table: tuple[StrideMask, ...]
    sharing: StrideSharing = "input_map"
    groups: int = 1

    @cached_property
    def size(self) -> int:
        """Number of genes."""
        return int(self.of_kernel.max()) + 1

    @property
    def genes(self) -> slice:
        """Places of the genes in the genome."""
        return slice(self.start, self.start + self.size)

    @cached_property
    def of_kernel(self) -> np.ndarray:
        """The gene of each kernel, counted from `start`: int64 (outputs, inputs)."""
        outputs, inputs = self.shape
        if self.sharing == "layer":
            return np.zeros(self.shape, dtype=np.int64)
        if self.sharing == "kernel":
            return np.arange(outputs * inputs).reshape(self.shape)
        group = np.arange(outputs) * self.groups // outputs
        return group[:, None] * inputs + np.arange(inputs)

    @cached_property
    def tap_table(self) -> np.ndarray:
        """The taps that each value keeps: bool (values, taps)."""
        taps = int(np.prod(self.kernel_size))
        table = np.zeros((len(self.table), taps), dtype=bool)
        for value, mask in enumerate(self.table):
            table[value, list(mask.taps(self.kernel_size))] = True
        return table


@dataclass(frozen=True)
class KernelLayer:
    """The kernels of one convolution. shape: (outputs, inputs per group)."""

    name: str
    weight: str
    shape: tuple[int, int]
    kernel_size: tuple[int, ...]
    groups: int


def kernel_genes(layers: Sequence[KernelLayer], start: int, block: int) -> tuple[KernelGenes, ...]:
    """Genes of all layers in which a map is read from more than one input map.

    Args:
        layers: The convolutions, in the order of the genome.
        start: Place of the first gene in the genome.
        block: Number of output maps that share a gene.

    Raises:
        SearchSpaceError: If a block is larger than a layer.
    """
    genes = []
    for layer in layers:
        if layer.shape[1] == 1:  # the only kernel of a map is the map itself
            continue
        if block > layer.shape[0]:
            raise SearchSpaceError(
                f"space.kernel_block must be at most {layer.shape[0]}, the output maps of {layer.name}, not {block}; "
                "lower it, or leave the layer whole with space.keep"
            )
        genes.append(KernelGenes(layer.weight, start, layer.shape, block))
        start += genes[-1].size
    return tuple(genes)


def stride_genes(
    layers: Sequence[KernelLayer], start: int, sharing: StrideSharing, allowed: Sequence[tuple[int, int]] | None
) -> tuple[StrideGenes, ...]:
    """Genes of all layers whose kernels have more than one tap. Raises SearchSpaceError like `stride_table`."""
    genes = []
    for layer in layers:
        if int(np.prod(layer.kernel_size)) == 1:
            continue
        table = stride_table(layer.kernel_size, allowed)
        groups = layer.groups
        genes.append(StrideGenes(layer.weight, start, layer.shape, layer.kernel_size, table, sharing, groups))
        start += genes[-1].size
    return tuple(genes)
