"""The search space: a plan with the operations on its genomes."""

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
from evoprune.space.phenotype import Phenotype, masks_of, phenotype_of
from evoprune.space.plan import Genome, Group, Plan
from evoprune.space.serialization import plan_from_dict, plan_to_dict


class SearchSpace(Plan):
    """A plan with the operations on its genomes: drawing, repairing and checking them, and their keys.

    `ep.search_space` makes one from a network. It is plain data: it can be pickled, and holds no network.

    Example:
        >>> space = ep.search_space(model, torch.zeros(1, 3, 32, 32))
        >>> genome = space.random(numpy.random.default_rng(0), keep=0.5)
        >>> space.key(genome), space.widths(genome)
    """

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the plan: genomes of spaces with the same fingerprint mean the same.

        The reasons for which parts stay whole have no part in it.
        """
        plan = json.dumps({name: value for name, value in self.to_dict().items() if name != "frozen"}, sort_keys=True)
        return hashlib.sha256(plan.encode()).hexdigest()[:16]

    def random(self, rng: np.random.Generator, keep: float = 0.5) -> Genome:
        """Draws a random genome.

        Args:
            rng: Source of all randomness.
            keep: Share of the maps of each group, and of the kernels of each layer, that stays (0..1). Each stride gene
                is one of the masks of its table, all equally likely.

        Returns:
            A valid genome, uint8 (genes,).

        Raises:
            SearchSpaceError: If keep is not between 0 and 1.
        """
        if not 0 <= keep <= 1:
            raise SearchSpaceError(f"keep must be a fraction between 0 and 1, not {keep}")
        importance = rng.random(self.genes)
        genome = self.most_important(importance, np.full(len(self.groups), keep))
        for kernels in self.kernels:
            goes = _most_important(-importance[kernels.genes], kernels.size - round(keep * kernels.size))
            genome[kernels.start + goes] = 0
        for strides in self.strides:
            genome[strides.genes] = rng.integers(len(strides.table), size=strides.size)
        return self.repair(genome, importance)

    def most_important(self, importance: np.ndarray, keep: np.ndarray) -> Genome:
        """The genome that keeps the most important maps of each group, and all kernels and taps.

        Args:
            importance: float (genes,); higher stays.
            keep: float (groups,), the share of each group that stays.
        """
        genome = self.full()
        for group, share in zip(self.groups, keep, strict=True):
            genes = genome[group.genes]  # a view
            genes[:] = 0
            genes[_most_important(importance[group.genes], round(share * group.size))] = 1
        return self.repair(genome, importance)

    def repair(self, genome: Genome, importance: np.ndarray) -> Genome:
        """A copy of a genome in which each group has an allowed width: missing maps are restored.

        The most important maps are restored first. A map that was removed because it had no kernels left gets all of
        its kernels back.

        Args:
            genome: uint8 (genes,), not changed.
            importance: float (genes,).
        """
        genome = genome.copy()
        if self.kernels:  # maps without kernels stay removed when others are restored
            genome[: self.maps] = self.phenotype(genome).genome[: self.maps]
        for group in self.groups:
            width = int(genome[group.genes].sum())
            missing = self.allowed_width(group, width) - width
            if not missing:
                continue
            of_removed = np.where(genome[group.genes] == 0, importance[group.genes], -np.inf)
            restored = np.zeros(self.maps, dtype=bool)
            restored[group.start + _most_important(of_removed, missing)] = True
            genome[: self.maps][restored] = 1
            for kernels in self.kernels:
                self.restore_kernels(genome, restored, kernels)
        return genome

    def restore_kernels(self, genome: Genome, maps: np.ndarray, kernels: KernelGenes) -> None:
        """Sets the genes of a layer's kernels that make or read one of these maps, in place.

        A restored map needs its kernels, because the genes of a removed map's kernels are 0.

        Args:
            genome: uint8 (genes,), changed in place.
            maps: bool (maps,).
            kernels: The genes of the layer's kernels.
        """
        layer = self.layer(kernels.weight)
        for dim, of_map in ((layer.out_dim, kernels.of_kernel), (layer.in_dim, kernels.of_kernel.T)):
            along = self.genes_along(kernels.weight, dim)
            if along is not None:
                genome[kernels.start + of_map[(along >= 0) & maps[along]].reshape(-1)] = 1

    def with_restored_kernels(self, genome: Genome, before: Genome) -> Genome:
        """A copy of a genome with all kernels of the maps that `before` had removed and this genome keeps."""
        genome, maps = genome.copy(), self.restored_maps(genome, before)
        for kernels in self.kernels:
            self.restore_kernels(genome, maps, kernels)
        return genome

    def restored_maps(self, genome: Genome, before: Genome) -> np.ndarray:
        """Maps that a genome keeps and `before` had removed: bool (maps,)."""
        return (genome[: self.maps] != 0) & (before[: self.maps] == 0)

    @staticmethod
    def allowed_width(group: Group, width: int) -> int:
        """The smallest allowed width of a group that is at least `width`."""
        width = max(width, group.minimum)
        return min(-(-width // group.round_to) * group.round_to, group.size)

    def canonical(self, genome: Genome) -> Genome:
        """The genome with genes without effect set to 0, so that equal networks have equal genomes."""
        return self.phenotype(genome).genome

    def phenotype(self, genome: Genome) -> Phenotype:
        """The network that a genome leaves. Raises SearchSpaceError if the genome is not one of this space."""
        return phenotype_of(self, self._check_values(genome))

    def key(self, genome: Genome) -> str:
        """A stable name of the network that is left (the phenotype): 16 hexadecimal digits."""
        return self.check(genome).key

    def check(self, genome: Genome) -> Phenotype:
        """The phenotype of a valid genome.

        Raises:
            SearchSpaceError: If the genome is not one of this space, or leaves a group fewer maps than it must keep.
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
                f"a genome of this search space has {self.genes} genes, not shape {genome.shape}; it is of another one"
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
        """The genome as masks of maps, kernels and taps, layer by layer; only for layers that lose something."""
        return masks_of(self, self.check(genome))

    def to_dict(self) -> dict[str, Any]:
        """The search space as plain lists, strings and numbers, for JSON."""
        return plan_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The search space that `to_dict` wrote. Raises SearchSpaceError if a value is missing or of the wrong type."""
        plan = plan_from_dict(data)
        return cls(**{field.name: getattr(plan, field.name) for field in fields(plan)})


def _most_important(importance: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-importance, kind="stable")[:count]
