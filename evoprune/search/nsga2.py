"""NSGA-II over pruning genomes: the front of errors against cost, under the tolerance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.config import SearchConfig
from evoprune.fitness.candidate import Candidate
from evoprune.search.criteria import Preferences
from evoprune.search.fitness import dominates, feasible_front, select
from evoprune.search.operators import Operators
from evoprune.space.plan import Genome, SearchSpace


class NSGA2:
    """Ask for genomes, tell their candidates; whoever evaluates in between is free.

    Elitist: parents and children compete for the next population. Parents are drawn by binary tournament.
    Deb, Pratap, Agarwal and Meyarivan 2002.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig, preferences: Preferences, rng: np.random.Generator):
        self._operators = Operators(space, preferences, config)
        self._config = config
        self._rng = rng
        self._population: list[Candidate] = []
        self._front: list[Candidate] = []

    @property
    def front(self) -> list[Candidate]:
        """All feasible candidates so far that no other one beats, cheapest first."""
        return self._front

    def ask(self, count: int) -> list[Genome]:
        """So many genomes to be scored next; before anything was told, a first population, the whole network first."""
        if not self._population:
            return self._operators.first_population(count, self._rng)
        return [self._child() for _ in range(count)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        pool = {candidate.key: candidate for candidate in (*self._population, *candidates)}
        self._population = select(list(pool.values()), self._config.population, self._config.cost)
        self._front = feasible_front([*self._front, *candidates], self._config.cost)

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "rng": self._rng.bit_generator.state,
            "population": [candidate.key for candidate in self._population],
            "front": [candidate.key for candidate in self._front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._rng.bit_generator.state = state["rng"]
        self._population = [candidates[key] for key in state["population"]]
        self._front = [candidates[key] for key in state["front"]]

    def _child(self) -> Genome:
        genome = self._parent().genome
        if self._rng.random() < self._config.crossover_rate:
            genome = self._operators.crossover(genome, self._parent().genome, self._rng)
        return self._operators.mutate(genome, self._rng)

    def _parent(self) -> Candidate:
        """The better of two; of two that do not dominate each other, the first."""
        one, other = (self._population[index] for index in self._rng.integers(len(self._population), size=2).tolist())
        cost = self._config.cost
        return other if dominates(other, one, cost) else one
