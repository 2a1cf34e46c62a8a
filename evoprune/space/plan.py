"""The plan of a search space: its genes, and the tensor positions that each gene removes. Plain data."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from evoprune.space.kernel_genes import KernelGenes, StrideGenes

Genome = np.ndarray
"""uint8 (genes,): what stays. A gene of feature maps or kernels is 1 where they stay; a stride gene is a table's index.

Feature maps come first, then kernels, then strides.
"""


@dataclass(frozen=True)
class Group:
    """Feature maps of the same layers, one gene each; `minimum` of them stay, and a multiple of `round_to`."""

    name: str
    start: int
    size: int
    layers: tuple[str, ...]
    minimum: int = 1
    round_to: int = 1

    @property
    def genes(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of one tensor: the gene of each position, -1 where it always stays. gene: int32 (size,)."""

    tensor: str
    dim: int
    gene: np.ndarray

    def kept(self, genome: Genome) -> np.ndarray:
        """Positions that stay. Returns int64 (kept,)."""
        return np.flatnonzero((self.gene < 0) | (genome[self.gene] != 0))


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer. Its weight is applied at `positions` places an image (MACs: elements x positions).

    out_dim, in_dim: the weight's dimensions of output and input maps. channels_per_group: 0, or where whole
    groups of a grouped convolution are genes, how many of the weight's first dimension make one group.
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
    def taps(self) -> int:
        """Weights in one kernel; 1 for a linear layer."""
        return math.prod(self.shape[2:])


@dataclass(frozen=True)
class Norm:
    """A normalisation over maps (layer or group norm), whose statistics are those of the maps that stay.

    dim: the dimension of the module's input that the maps lie along. channels_per_group: as for a layer.
    """

    module: str
    weight: str
    dim: int
    channels_per_group: int = 0


@dataclass(frozen=True)
class TensorInfo:
    """A parameter or buffer: its shape, bytes an element, and whether it is a parameter."""

    name: str
    shape: tuple[int, ...]
    itemsize: int
    parameter: bool


@dataclass(frozen=True)
class Frozen:
    """A part that stays whole, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """The genes of one network and the positions they remove: plain data, picklable, without the network.

    groups: feature maps that may go. axes: the positions of tensors that go with them. layers: what costs MACs.
    norms: normalisations over maps. tensors: everything the network stores. frozen: what stays whole, with reasons.
    fixed_macs: multiply-accumulates of one image outside of layers (attention's products). kernels, strides: genes of
    kernels and of kernel-stride masks, a layer each.
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

    @cached_property
    def maps(self) -> int:
        """How many genes are feature maps: the first ones."""
        return sum(group.size for group in self.groups)

    @property
    def parts(self) -> tuple[Group | KernelGenes | StrideGenes, ...]:
        """What has genes of one kind: groups of maps, layers' kernels, layers' strides, in the genome's order."""
        return (*self.groups, *self.inside_layers)

    @property
    def inside_layers(self) -> tuple[KernelGenes | StrideGenes, ...]:
        """Genes of kernels, then of strides: a part a layer each."""
        return self.kernels + self.strides

    @cached_property
    def genes(self) -> int:
        """How many genes a genome has."""
        return sum(part.size for part in self.parts)

    @cached_property
    def cardinality(self) -> np.ndarray:
        """How many values each gene can take. Returns uint8 (genes,)."""
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
    def axes_alike(self) -> tuple[tuple[Axis, ...], ...]:
        """Axes whose positions have the same genes, which thus always keep the same positions, together."""
        alike: dict[bytes, list[Axis]] = {}
        for axis in self.axes:
            alike.setdefault(axis.gene.tobytes(), []).append(axis)
        return tuple(tuple(axes) for axes in alike.values())

    def genes_along(self, tensor: str, dim: int) -> np.ndarray | None:
        """The map gene of each position along a dimension, -1 where it stays; None where all stay. int32 (size,)."""
        return self._genes_of_place.get((tensor, dim))

    def full(self) -> Genome:
        """The genome in which everything stays."""
        genome = np.ones(self.genes, dtype=np.uint8)
        for strides in self.strides:
            genome[strides.genes] = 0
        return genome

    def widths(self, genome: Genome) -> np.ndarray:
        """How many maps each group keeps. Returns int64 (groups,)."""
        return np.array([int(genome[group.genes].sum()) for group in self.groups], dtype=np.int64)

    def with_minimum(self, groups: frozenset[str], minimum: int) -> Self:
        """The search space in which these groups (by name) keep at least so many maps, where they have more."""
        raised = (
            replace(group, minimum=minimum) if group.name in groups and group.minimum < minimum < group.size else group
            for group in self.groups
        )
        return replace(self, groups=tuple(raised))

    def without(self, groups: frozenset[str], reason: str) -> Self:
        """The search space in which these groups (by name) stay whole, for a reason."""
        stays = [group for group in self.groups if group.name not in groups]
        renumber = np.full(self.maps + 1, -1, dtype=np.int32)  # last: index -1, which stays -1
        moved, start = [], 0
        for group in stays:
            renumber[group.genes] = np.arange(start, start + group.size)
            moved.append(replace(group, start=start))
            start += group.size
        axes = (Axis(axis.tensor, axis.dim, renumber[axis.gene]) for axis in self.axes)
        gone = (group for group in self.groups if group.name in groups)
        frozen = tuple(Frozen(layer, reason) for group in gone for layer in group.layers)
        return replace(
            self,
            groups=tuple(moved),
            axes=tuple(axis for axis in axes if (axis.gene >= 0).any()),
            frozen=self.frozen + frozen,
        )
