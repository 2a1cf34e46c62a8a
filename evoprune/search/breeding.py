"""From parents to children: variation operators, and the step that brings a child to a target cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evoprune.criteria.preferences import Preferences
from evoprune.search.fit_to_cost import CostOf, fit_to_cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

FIT_NOISE = 0.1
"""Standard deviation of the noise on ranks (0..1) that decide which genes go or come back to meet a target."""

DrawParent = Callable[[], Genome]
"""Draws one parent."""


class Variation(Protocol):
    """Variation operators. Each takes the generator that it draws from."""

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """Genomes of a first population, at several costs."""

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A child with parts of both parents."""

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome that differs from this one."""


class Breeding(Protocol):
    """The source of an algorithm's genomes."""

    @property
    def unpruned(self) -> Genome:
        """The genome of the unpruned network."""

    @property
    def cost_of(self) -> CostOf:
        """Cost of a genome."""

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """Genomes of a first population, at several costs."""

    def breed(self, draw_parent: DrawParent, target: float | None, rng: np.random.Generator) -> Genome:
        """A child of one or two parents, brought to the target cost if there is one."""

    def fit_to_cost(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """The genome brought to a target: it costs no more, and hardly less."""


@dataclass(frozen=True, eq=False)
class Breeder:
    """Breeds with one set of variation operators.

    Attributes:
        space: search space of the genomes.
        operators: variation operators.
        preferences: which parts go or come back first to meet a target.
        cost_of: cost of a genome.
        crossover_rate: share of children with two parents, 0..1.
    """

    space: SearchSpace
    operators: Variation
    preferences: Preferences
    cost_of: CostOf
    crossover_rate: float

    @property
    def unpruned(self) -> Genome:
        """The genome of the unpruned network."""
        return self.space.full()

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """As `Breeding.initial_genomes`, by the operators."""
        return self.operators.initial_genomes(count, rng)

    def breed(self, draw_parent: DrawParent, target: float | None, rng: np.random.Generator) -> Genome:
        """As `Breeding.breed`: crossover at the crossover rate, then mutation."""
        genome = draw_parent()
        if rng.random() < self.crossover_rate:
            genome = self.operators.crossover(genome, draw_parent(), rng)
        child = self.operators.mutate(genome, rng)
        return child if target is None else self.fit_to_cost(child, target, rng)

    def fit_to_cost(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """As `Breeding.fit_to_cost`: by the preferences, with noise."""
        noise = FIT_NOISE * rng.standard_normal(self.space.genes)
        return fit_to_cost(self.space, genome, target, self.cost_of, self.preferences.genes + noise)
