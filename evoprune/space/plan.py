"""The search space as plain data: which genes there are, and which positions of which tensors each one takes along."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import SearchSpaceError

if TYPE_CHECKING:
    from torch import nn

Genome = np.ndarray
"""uint8 (genes,): what stays. A feature-map gene is 1 where its map stays and 0 where it goes."""


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
    fixed_macs: multiply-accumulates of one image outside of layers (attention's products).
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    layers: tuple[Layer, ...]
    norms: tuple[Norm, ...]
    tensors: tuple[TensorInfo, ...]
    frozen: tuple[Frozen, ...] = ()
    fixed_macs: int = 0

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
    ) -> "SearchSpace":
        """The search space of any network, proved on it: see `evoprune.space.discovery.discover`."""
        from evoprune.space.discovery import Options, discover

        options = Options(feature_maps, keep, keep_first_conv, min_maps, round_to)
        if kernels or strides:
            raise SearchSpaceError("space.kernels and space.strides are not available yet; set them to false")
        return discover(model, example_input, options)

    @cached_property
    def genes(self) -> int:
        """How many genes a genome has."""
        return sum(group.size for group in self.groups)

    @cached_property
    def cardinality(self) -> np.ndarray:
        """How many values each gene can take. Returns uint8 (genes,)."""
        return np.full(self.genes, 2, dtype=np.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the whole plan: genomes of spaces with the same one mean the same."""
        plan = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(plan.encode()).hexdigest()[:16]

    def full(self) -> Genome:
        """The genome in which everything stays."""
        return np.ones(self.genes, dtype=np.uint8)

    def random(self, rng: np.random.Generator, keep: float = 0.5) -> Genome:
        """A genome that keeps a share `keep` (0..1) of every group's maps, drawn at random."""
        if not 0 <= keep <= 1:
            raise SearchSpaceError(f"keep must be a fraction between 0 and 1, not {keep}")
        return self.top(rng.random(self.genes), np.full(len(self.groups), keep))

    def top(self, importance: np.ndarray, keep: np.ndarray) -> Genome:
        """The genome that keeps each group's most important maps.

        importance: float (genes,), higher stays. keep: float (groups,), the share of each group that stays.
        """
        genome = np.zeros(self.genes, dtype=np.uint8)
        for group, share in zip(self.groups, keep, strict=True):
            genome[group.genes][_most_important(importance[group.genes], round(share * group.size))] = 1
        return self.repair(genome, importance)

    def repair(self, genome: Genome, importance: np.ndarray) -> Genome:
        """The genome with every group's width allowed: missing maps come back, most important first.

        importance: float (genes,), higher comes back first. Returns a new genome.
        """
        genome = genome.copy()
        for group in self.groups:
            genes = genome[group.genes]  # a view
            width = self.allowed_width(group, int(genes.sum()))
            if width > genes.sum():
                back = np.where(genes == 0, importance[group.genes], -np.inf)
                genes[_most_important(back, width - int(genes.sum()))] = 1
        return genome

    @staticmethod
    def allowed_width(group: Group, width: int) -> int:
        """The least width of a group that is allowed and not below `width`."""
        width = max(width, group.minimum)
        return min(-(-width // group.round_to) * group.round_to, group.size)

    def canonical(self, genome: Genome) -> Genome:
        """The genome with genes that can have no effect set to a fixed value, so that equal networks are equal."""
        return self.check(genome)

    def key(self, genome: Genome) -> str:
        """A stable name of what is left of the network (its phenotype): 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical(genome).tobytes()).hexdigest()[:16]

    def check(self, genome: Genome) -> Genome:
        """The genome as uint8 (genes,). Raises SearchSpaceError where it is not one of this space."""
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
        for group in self.groups:
            if (width := np.count_nonzero(genome[group.genes])) < group.minimum:
                raise SearchSpaceError(
                    f"group {group.name} must keep at least {group.minimum} feature maps, and this genome keeps {width}"
                )
        return genome.astype(np.uint8, copy=False)

    def kept(self, genome: Genome) -> dict[tuple[str, int], np.ndarray]:
        """Positions that stay, for every (tensor, dimension) that loses some. Values int64 (kept,)."""
        kept = {(axis.tensor, axis.dim): axis.kept(genome) for axis in self.axes}
        sizes = {(axis.tensor, axis.dim): len(axis.gene) for axis in self.axes}
        return {place: index for place, index in kept.items() if len(index) < sizes[place]}

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
        renumber = np.full(self.genes + 1, -1, dtype=np.int32)  # last: index -1, which stays -1
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
        return {
            "groups": [vars(group) | {"layers": list(group.layers)} for group in self.groups],
            "axes": [{"tensor": axis.tensor, "dim": axis.dim, "gene": axis.gene.tolist()} for axis in self.axes],
            "layers": [vars(layer) | {"shape": list(layer.shape)} for layer in self.layers],
            "norms": [dict(vars(norm)) for norm in self.norms],
            "tensors": [vars(tensor) | {"shape": list(tensor.shape)} for tensor in self.tensors],
            "frozen": [dict(vars(frozen)) for frozen in self.frozen],
            "fixed_macs": self.fixed_macs,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchSpace":
        """The way back from `to_dict`. Raises SearchSpaceError where something is missing or of the wrong kind."""
        try:
            return cls(
                groups=tuple(Group(**row | {"layers": tuple(row["layers"])}) for row in data["groups"]),
                axes=tuple(Axis(row["tensor"], row["dim"], np.array(row["gene"], np.int32)) for row in data["axes"]),
                layers=tuple(Layer(**row | {"shape": tuple(row["shape"])}) for row in data["layers"]),
                norms=tuple(Norm(**row) for row in data["norms"]),
                tensors=tuple(TensorInfo(**row | {"shape": tuple(row["shape"])}) for row in data["tensors"]),
                frozen=tuple(Frozen(**row) for row in data["frozen"]),
                fixed_macs=int(data["fixed_macs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SearchSpaceError(f"this is no search space of evoprune's: {error!r}") from None


def _most_important(importance: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-importance, kind="stable")[:count]
