"""The search space as plain data: which genes there are, and which positions of which tensors each one takes along."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import SearchSpaceError
from evoprune.space.kernel_genes import KernelGenes, Sharing, StrideGenes
from evoprune.space.masks import FeatureMapMask, KernelMask, LayerStrides

if TYPE_CHECKING:
    from torch import nn

    from evoprune.space.phenotype import Phenotype

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
class SearchSpace:
    """What may go of one network: plain data, picklable, without the network.

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

    @classmethod
    def from_model(
        cls,
        model: "nn.Module",
        example_input: Any,
        feature_maps: bool = True,
        kernels: bool = False,
        strides: bool = False,
        *,
        keep: tuple[str, ...] = (),
        keep_first_conv: bool = False,
        min_maps: int = 1,
        round_to: int = 1,
        kernel_block: int = 1,
        stride_sharing: Sharing = "input_map",
        strides_allowed: tuple[tuple[int, int], ...] | None = None,
    ) -> "SearchSpace":
        """The search space of any network, proved on it: see `discovery.discover` and `discovery.Options`."""
        from evoprune.space.discovery import Options, discover

        options = Options(
            feature_maps=feature_maps,
            keep=keep,
            keep_first_conv=keep_first_conv,
            min_maps=min_maps,
            round_to=round_to,
            kernels=kernels,
            kernel_block=kernel_block,
            strides=strides,
            stride_sharing=stride_sharing,
            strides_allowed=strides_allowed,
        )
        return discover(model, example_input, options)

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

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the whole plan: genomes of spaces with the same one mean the same."""
        plan = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(plan.encode()).hexdigest()[:16]

    def full(self) -> Genome:
        """The genome in which everything stays."""
        genome = np.ones(self.genes, dtype=np.uint8)
        for strides in self.strides:
            genome[strides.genes] = 0
        return genome

    def random(self, rng: np.random.Generator, keep: float = 0.5) -> Genome:
        """A random genome that keeps a share `keep` (0..1) of every group's maps and of every layer's kernels.

        Each stride gene is one of its table's masks, all equally likely.
        """
        if not 0 <= keep <= 1:
            raise SearchSpaceError(f"keep must be a fraction between 0 and 1, not {keep}")
        importance = rng.random(self.genes)
        genome = self.top(importance, np.full(len(self.groups), keep))
        for kernels in self.kernels:
            goes = _most_important(-importance[kernels.genes], kernels.size - round(keep * kernels.size))
            genome[kernels.start + goes] = 0
        for strides in self.strides:
            genome[strides.genes] = rng.integers(len(strides.table), size=strides.size)
        return self.repair(genome, importance)

    def top(self, importance: np.ndarray, keep: np.ndarray) -> Genome:
        """The genome that keeps each group's most important maps, all kernels and all taps.

        importance: float (genes,), higher stays. keep: float (groups,), the share of each group that stays.
        """
        genome = self.full()
        for group, share in zip(self.groups, keep, strict=True):
            genes = genome[group.genes]  # a view
            genes[:] = 0
            genes[_most_important(importance[group.genes], round(share * group.size))] = 1
        return self.repair(genome, importance)

    def repair(self, genome: Genome, importance: np.ndarray) -> Genome:
        """The genome with every group's width allowed: missing maps come back, most important first.

        A map that is missing since its kernels are gone gets them all back.
        importance: float (genes,), higher comes back first. Returns a new genome.
        """
        genome = genome.copy()
        if self.kernels:  # what has died stays dead when others come back
            genome[: self.maps] = self.phenotype(genome).genome[: self.maps]
        for group in self.groups:
            width = int(genome[group.genes].sum())
            missing = self.allowed_width(group, width) - width
            if not missing:
                continue
            back = np.where(genome[group.genes] == 0, importance[group.genes], -np.inf)
            returns = np.zeros(self.maps, dtype=bool)
            returns[group.start + _most_important(back, missing)] = True
            genome[: self.maps][returns] = 1
            for kernels in self.kernels:
                self.bring_kernels_back(genome, returns, kernels)
        return genome

    def bring_kernels_back(self, genome: Genome, maps: np.ndarray, kernels: KernelGenes) -> None:
        """Sets the genes of a layer's kernels that make or read one of these maps, in place. maps: bool (maps,).

        A map that comes back needs that: kernels of one that has gone are gone.
        """
        layer = self.layer(kernels.weight)
        for dim, of_map in ((layer.out_dim, kernels.of_kernel), (layer.in_dim, kernels.of_kernel.T)):
            along = self.genes_along(kernels.weight, dim)
            if along is not None:
                genome[kernels.start + of_map[(along >= 0) & maps[along]].reshape(-1)] = 1

    def returned(self, genome: Genome, before: Genome) -> Genome:
        """The genome with all kernels of the maps that stay in it and had gone before. Returns a new genome."""
        genome, maps = genome.copy(), self.come_back(genome, before)
        for kernels in self.kernels:
            self.bring_kernels_back(genome, maps, kernels)
        return genome

    def come_back(self, genome: Genome, before: Genome) -> np.ndarray:
        """Whether each map stays in a genome and had gone before. Returns bool (maps,)."""
        return (genome[: self.maps] != 0) & (before[: self.maps] == 0)

    @staticmethod
    def allowed_width(group: Group, width: int) -> int:
        """The least width of a group that is allowed and not below `width`."""
        width = max(width, group.minimum)
        return min(-(-width // group.round_to) * group.round_to, group.size)

    def canonical(self, genome: Genome) -> Genome:
        """The genome with genes that can have no effect set to a fixed value, so that equal networks are equal."""
        return self.phenotype(genome).genome

    def phenotype(self, genome: Genome) -> "Phenotype":
        """What the genome leaves of the network. Raises SearchSpaceError where it is not one of this space."""
        from evoprune.space.phenotype import develop

        return develop(self, self._check_values(genome))

    def key(self, genome: Genome) -> str:
        """A stable name of what is left of the network (its phenotype): 16 hexadecimal digits."""
        return self.check(genome).key

    def check(self, genome: Genome) -> "Phenotype":
        """The phenotype of a genome that leaves a whole network: every group keeps its least number of maps.

        Raises SearchSpaceError where the genome is not one of this space, or leaves too little.
        """
        phenotype = self.phenotype(genome)
        for group in self.groups:
            if (width := np.count_nonzero(phenotype.genome[group.genes])) < group.minimum:
                raise SearchSpaceError(
                    f"group {group.name} must keep at least {group.minimum} feature maps, and this genome keeps {width}"
                )
        return phenotype

    def _check_values(self, genome: Genome) -> Genome:
        """The genome as uint8 (genes,)."""
        genome = np.asarray(genome)
        if genome.shape != (self.genes,):
            raise SearchSpaceError(
                f"a genome of this search space has {self.genes} genes, not shape {genome.shape}: it is of another"
            )
        if not np.issubdtype(genome.dtype, np.integer) and genome.dtype != bool:
            raise SearchSpaceError(f"a genome is a vector of uint8, not of {genome.dtype}; use genome.astype('uint8')")
        if (genome < 0).any() or (genome >= self.cardinality).any():
            gene = int(np.flatnonzero((genome < 0) | (genome >= self.cardinality))[0])
            raise SearchSpaceError(
                f"gene {gene} must be below its cardinality {self.cardinality[gene]}, not {genome[gene]}"
            )
        return genome.astype(np.uint8, copy=False)

    def masks(self, genome: Genome) -> tuple[FeatureMapMask | KernelMask | LayerStrides, ...]:
        """The genome as masks, layer by layer: of feature maps, of kernels, of taps. Only what loses something."""
        from evoprune.space.phenotype import masks_of

        return masks_of(self, self.check(genome))

    def widths(self, genome: Genome) -> np.ndarray:
        """How many maps each group keeps. Returns int64 (groups,)."""
        return np.array([int(genome[group.genes].sum()) for group in self.groups], dtype=np.int64)

    def with_minimum(self, groups: frozenset[str], minimum: int) -> "SearchSpace":
        """The search space in which these groups (by name) keep at least so many maps, where they have more."""
        raised = (
            replace(group, minimum=minimum) if group.name in groups and group.minimum < minimum < group.size else group
            for group in self.groups
        )
        return replace(self, groups=tuple(raised))

    def without(self, groups: frozenset[str], reason: str) -> "SearchSpace":
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

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for JSON."""
        from evoprune.space.storage import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchSpace":
        """The way back from `to_dict`. Raises SearchSpaceError where something is missing or of the wrong kind."""
        from evoprune.space.storage import from_dict

        return from_dict(data)


def _most_important(importance: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-importance, kind="stable")[:count]
