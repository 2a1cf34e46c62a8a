"""From parents to children: operators, and what brings their genomes to a target cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evoprune.criteria.preferences import Preferences
from evoprune.search.fit_to_cost import CostOf, fitted
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

FIT_NOISE = 0.1
"""Standard deviation of what is added to ranks (0..1) when genes go or come back to meet a target."""


class Variation(Protocol):
    """Starts, crossover and mutation. Every one takes the generator that it draws from."""

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """So many genomes at several costs."""

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A child with parts of both."""

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome that differs from this one."""


class Breeding(Protocol):
    """From what algorithms get their genomes."""

    @property
    def whole(self) -> Genome:
        """The whole network's genome."""

    @property
    def cost_of(self) -> CostOf:
        """What a genome costs."""

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """So many genomes to begin with, of several costs."""

    def child_at(self, parent: Callable[[], Genome], target: float | None, rng: np.random.Generator) -> Genome:
        """A child of one parent or of two, brought to a target where there is one. parent: draws one."""

    def fitted(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """The genome brought to a target: it costs no more, and hardly less."""


@dataclass(frozen=True, eq=False)
class Breeder:
    """Breeds by some operators; what is bred for a target costs no more than it, and hardly less."""

    space: SearchSpace
    operators: Variation
    preferences: Preferences
    cost_of: CostOf
    crossover_rate: float

    @property
    def whole(self) -> Genome:
        return self.space.full()

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """As `Breeding.starts`: by the operators."""
        return self.operators.starts(size, rng)

    def child(self, parent: Callable[[], Genome], rng: np.random.Generator) -> Genome:
        """A child of one parent or of two. parent: draws one."""
        genome = parent()
        if rng.random() < self.crossover_rate:
            genome = self.operators.crossover(genome, parent(), rng)
        return self.operators.mutate(genome, rng)

    def child_at(self, parent: Callable[[], Genome], target: float | None, rng: np.random.Generator) -> Genome:
        """As `Breeding.child_at`."""
        child = self.child(parent, rng)
        return child if target is None else self.fitted(child, target, rng)

    def fitted(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """As `Breeding.fitted`: what goes and comes back is of low and high importance, with noise."""
        noise = FIT_NOISE * rng.standard_normal(self.space.genes)
        return fitted(self.space, genome, target, self.cost_of, self.preferences.genes + noise)
