"""The plan of a search space: its genes and the tensor positions that each gene removes. Plain data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from evoprune.space.kernel_genes import KernelGenes, StrideGenes
from evoprune.space.outside_tensors import OutsideTensors, Product, Reduction, Size, kept

Genome = np.ndarray
"""uint8 (genes,): feature maps first, then kernels, then strides.

A gene of a feature map or of kernels is 1 if they stay; a stride gene is an index into the layer's table of masks.
"""


@dataclass(frozen=True)
class Group:
    """Feature maps of the same layers, one gene each.

    Attributes:
        name: A name that is unique among the groups.
        start: Place of the first gene in the genome.
        size: Number of genes.
        layers: Layers that make these maps.
        minimum: Smallest number of maps that stay.
        round_to: The number of maps that stay is a multiple of this, or all of them.
    """

    name: str
    start: int
    size: int
    layers: tuple[str, ...]
    minimum: int = 1
    round_to: int = 1

    @property
    def genes(self) -> slice:
        """Places of the genes in the genome."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of one tensor. gene: int32 (size,), the gene of each position, -1 if it always stays."""

    tensor: str
    dim: int
    gene: np.ndarray

    def kept(self, genome: Genome) -> np.ndarray:
        """Positions that stay under a genome: int64 (kept,)."""
        return kept(self.gene, genome)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: Name of the module (or of the weight, if it is a plain parameter).
        weight: Name of the weight.
        kind: `convolution`, `transposed convolution` or `linear`; after `computed`, if the filter is computed from the
            weight, or `normalised`, if the filter depends on all its rows or columns.
        shape: Shape of the weight.
        positions: Number of places per image at which the weight is applied: MACs = elements x positions.
        groups: Groups of a grouped convolution.
        out_dim: Dimension of the weight along which the output maps lie.
        in_dim: Dimension of the weight along which the input maps lie.
        channels_per_group: If whole groups of a grouped convolution are genes, the number of positions along the first
            dimension of the weight per group; otherwise 0.
    """

    name: str
    weight: str
    kind: str
    shape: tuple[int, ...]
    positions: int
    groups: int = 1
    out_dim: int = 0
    in_dim: int = 1
    channels_per_group: int = 0

    @property
    def computed(self) -> bool:
        """Whether the filter is computed from the weight, so that its values are not the weight's."""
        return self.kind.startswith("computed ") or self.normalised

    @property
    def normalised(self) -> bool:
        """Whether the filter is computed over the maps that stay."""
        return self.kind.startswith("normalised ")

    @property
    def taps(self) -> int:
        """Number of weights in one kernel; 1 for a linear layer."""
        return math.prod(self.shape[2:])


@dataclass(frozen=True)
class Norm:
    """A normalisation over maps (layer or group norm), computed over the maps that stay.

    Attributes:
        module: Name of the module.
        weight: Name of its weight.
        dim: Dimension of the module's input along which the maps lie.
        channels_per_group: As of `Layer`.
    """

    module: str
    weight: str
    dim: int
    channels_per_group: int = 0


@dataclass(frozen=True)
class TensorInfo:
    """A parameter or buffer.

    Attributes:
        name: Its name.
        shape: Its shape.
        itemsize: Stored bytes per element; 0 for a buffer that is not persistent.
        parameter: Whether it is a parameter.
    """

    name: str
    shape: tuple[int, ...]
    itemsize: int
    parameter: bool


@dataclass(frozen=True)
class Frozen:
    """A part that stays whole, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """The genes of one network and the positions they remove: plain data, picklable, without the network.

    Attributes:
        groups: Feature maps that can be removed.
        axes: Tensor positions that are removed with them.
        layers: Convolutions and linear layers, in the order of the forward pass.
        norms: Normalisations over maps.
        tensors: All parameters and buffers.
        frozen: Parts that stay whole, with reasons.
        fixed_macs: Multiply-accumulates per image outside of layers that no gene changes.
        kernels: Genes of kernels, one entry per layer.
        strides: Genes of kernel-stride masks, one entry per layer.
        reductions: Computations over maps, which run over the maps that stay.
        products: Matrix products of maps, which cost less without some of them.
        sizes: Attributes of modules that hold numbers of maps.
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...]
    tensors: tuple[TensorInfo, ...]
    frozen: tuple[Frozen, ...] = ()
    fixed_macs: int = 0
    kernels: tuple[KernelGenes, ...] = ()
    strides: tuple[StrideGenes, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    products: tuple[Product, ...] = ()
    sizes: tuple[Size, ...] = ()

    @cached_property
    def maps(self) -> int:
        """Number of genes of feature maps, which are the first ones."""
        return sum(group.size for group in self.groups)

    @property
    def parts(self) -> tuple[Group | KernelGenes | StrideGenes, ...]:
        """Groups of maps, then kernels and strides of layers, in the order of the genome."""
        return (*self.groups, *self.inside_layers)

    @property
    def inside_layers(self) -> tuple[KernelGenes | StrideGenes, ...]:
        """Genes of kernels, then of strides, one entry per layer."""
        return self.kernels + self.strides

    @cached_property
    def genes(self) -> int:
        """Number of genes of a genome."""
        return sum(part.size for part in self.parts)

    @cached_property
    def cardinality(self) -> np.ndarray:
        """Number of values that each gene can take: uint8 (genes,)."""
        cardinality = np.full(self.genes, 2, dtype=np.uint8)
        for strides in self.strides:
            cardinality[strides.genes] = len(strides.table)
        return cardinality

    @cached_property
    def _layer_of_weight(self) -> dict[str, Layer]:
        return {layer.weight: layer for layer in self.layers}

    def layer(self, weight: str) -> Layer:
        """The layer of a weight, by the weight's name."""
        return self._layer_of_weight[weight]

    @cached_property
    def _genes_of_place(self) -> dict[tuple[str, int], np.ndarray]:
        return {(axis.tensor, axis.dim): axis.gene for axis in self.axes}

    @cached_property
    def axes_with_equal_genes(self) -> tuple[tuple[Axis, ...], ...]:
        """Axes in sets whose positions have the same genes, and so always keep the same positions."""
        equal: dict[bytes, list[Axis]] = {}
        for axis in self.axes:
            equal.setdefault(axis.gene.tobytes(), []).append(axis)
        return tuple(tuple(axes) for axes in equal.values())

    def genes_along(self, tensor: str, dim: int) -> np.ndarray | None:
        """The map gene of each position along a dimension, int32 (size,), -1 if it stays; None if all stay."""
        return self._genes_of_place.get((tensor, dim))

    def full(self) -> Genome:
        """The genome in which everything stays."""
        genome = np.ones(self.genes, dtype=np.uint8)
        for strides in self.strides:
            genome[strides.genes] = 0
        return genome

    def macs_outside_layers(self, genome: Genome) -> int:
        """Multiply-accumulates per image of matrix products that are no layers."""
        return self.fixed_macs + sum(product.macs * len(kept(product.gene, genome)) for product in self.products)

    def widths(self, genome: Genome) -> np.ndarray:
        """Number of maps that each group keeps: int64 (groups,)."""
        return np.array([int(genome[group.genes].sum()) for group in self.groups], dtype=np.int64)

    def with_minimum(self, groups: frozenset[str], minimum: int) -> Self:
        """The plan in which these groups (by name) keep at least so many maps, if they have more."""
        raised = (
            replace(group, minimum=minimum) if group.name in groups and group.minimum < minimum < group.size else group
            for group in self.groups
        )
        return replace(self, groups=tuple(raised))

    def without(self, groups: frozenset[str], reason: str) -> Self:
        """The plan in which these groups (by name) stay whole, for a reason."""
        stays = [group for group in self.groups if group.name not in groups]
        renumber = np.full(self.maps + 1, -1, dtype=np.int32)  # the last entry is index -1, which stays -1
        moved, start = [], 0
        for group in stays:
            renumber[group.genes] = np.arange(start, start + group.size)
            moved.append(replace(group, start=start))
            start += group.size
        axes = (Axis(axis.tensor, axis.dim, renumber[axis.gene]) for axis in self.axes)
        gone = (group for group in self.groups if group.name in groups)
        frozen = tuple(Frozen(layer, reason) for group in gone for layer in group.layers)
        outside: tuple[OutsideTensors, ...] = (*self.reductions, *self.products, *self.sizes)
        return replace(
            self,
            groups=tuple(moved),
            axes=tuple(axis for axis in axes if (axis.gene >= 0).any()),
            frozen=self.frozen + frozen,
        ).with_outside_tensors(replace(record, gene=renumber[record.gene]) for record in outside)

    def with_outside_tensors(self, records: Iterable[OutsideTensors]) -> Self:
        """The plan with these records of places outside of tensors. Those without genes are left out.

        The multiply-accumulates of products that never change are part of the fixed ones.
        """
        found = list(records)
        live = [record for record in found if (record.gene >= 0).any()]
        settled = [record for record in found if isinstance(record, Product) and not (record.gene >= 0).any()]
        return replace(
            self,
            reductions=tuple(record for record in live if isinstance(record, Reduction)),
            products=tuple(record for record in live if isinstance(record, Product)),
            sizes=tuple(record for record in live if isinstance(record, Size)),
            fixed_macs=self.fixed_macs + sum(record.macs * len(record.gene) for record in settled),
        )
