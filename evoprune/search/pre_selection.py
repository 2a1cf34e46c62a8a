"""Pre-selection: several children are bred, and a surrogate chooses the one to score."""

from dataclasses import dataclass

import numpy as np

from evoprune.search.breeding import Breeder, DrawParent
from evoprune.search.fit_to_cost import CostOf
from evoprune.search.surrogate import Surrogate
from evoprune.space.plan import Genome


@dataclass(frozen=True, eq=False)
class PreSelection:
    """Breeds children of other widths, pre-selected by a surrogate at a target, and children of other maps.

    Attributes:
        width_breeder: breeds children of other widths.
        map_breeder: breeds children of other maps at about the same widths.
        map_share: share of the latter, 0..1. They are not pre-selected, since the surrogate knows widths alone.
        brood_size: number of children from which one is chosen; 1: no choice.
        surrogate: predicts the fitness of children.

    References:
        Jin 2011 (pre-selection by a surrogate).
    """

    width_breeder: Breeder
    map_breeder: Breeder
    map_share: float
    brood_size: int
    surrogate: Surrogate

    @property
    def unpruned(self) -> Genome:
        """The genome of the unpruned network."""
        return self.width_breeder.unpruned

    @property
    def cost_of(self) -> CostOf:
        """Cost of a genome."""
        return self.width_breeder.cost_of

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """As `Breeding.initial_genomes`: several widths."""
        return self.width_breeder.initial_genomes(count, rng)

    def breed(self, draw_parent: DrawParent, target: float | None, rng: np.random.Generator) -> Genome:
        """As `Breeding.breed`."""
        if rng.random() < self.map_share:
            return self.map_breeder.breed(draw_parent, target, rng)
        if target is None or self.brood_size == 1:
            return self.width_breeder.breed(draw_parent, target, rng)
        brood = [self.width_breeder.breed(draw_parent, target, rng) for _ in range(self.brood_size)]
        return self.surrogate.most_promising(brood)

    def fit_to_cost(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """As `Breeding.fit_to_cost`."""
        return self.width_breeder.fit_to_cost(genome, target, rng)
