"""The search space: a plan, and the genomes that belong to it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any, Self

import numpy as np

from evoprune.errors import SearchSpaceError
from evoprune.space.kernel_genes import KernelGenes
from evoprune.space.masks import FeatureMapMask, KernelMask, LayerStrides
from evoprune.space.phenotype import Phenotype, develop, masks_of
from evoprune.space.plan import Genome, Group, Plan
from evoprune.space.serialization import plan_from_dict, plan_to_dict


class SearchSpace(Plan):
    """A plan with its genomes: draws them, repairs them, checks them, and gives each one its key.

    Phenotypes and files need the plan alone, so they import `Plan` and this class stands above both.
    """

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the whole plan: genomes of spaces with the same one mean the same."""
        plan = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(plan.encode()).hexdigest()[:16]

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

    def phenotype(self, genome: Genome) -> Phenotype:
        """What the genome leaves of the network. Raises SearchSpaceError where it is not one of this space."""
        return develop(self, self._check_values(genome))

    def key(self, genome: Genome) -> str:
        """A stable name of what is left of the network (its phenotype): 16 hexadecimal digits."""
        return self.check(genome).key

    def check(self, genome: Genome) -> Phenotype:
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
        return masks_of(self, self.check(genome))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for JSON."""
        return plan_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The way back from `to_dict`. Raises SearchSpaceError where something is missing or of the wrong kind."""
        plan = plan_from_dict(data)
        return cls(**{field.name: getattr(plan, field.name) for field in fields(plan)})


def _most_important(importance: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-importance, kind="stable")[:count]
