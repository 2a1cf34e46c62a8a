"""NSGA-II: the front of fitness against cost within the tolerance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm, keys_of
from evoprune.search.breeding import Breeding
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.search.selection import dominates, select_population
from evoprune.space.plan import Genome


class NSGA2(Algorithm):
    """Elitist multi-objective search: parents and children compete for the next population.

    Parents are drawn by binary tournament. With targets, the front ends at the lowest one: below it, the fitness alone
    counts.

    References:
        Deb, Pratap, Agarwal and Meyarivan 2002.
    """

    def __init__(self, breeder: Breeding, objective: Objective, population: int, rng: np.random.Generator):
        """Starts without a population.

        Args:
            breeder: makes first genomes and children.
            objective: by which candidates are compared.
            population: number of candidates that survive a generation.
            rng: all random draws come from it.
        """
        super().__init__(objective)
        self._breeder = breeder
        self._size = population
        self._rng = rng
        self._population: list[Candidate] = []

    def ask(self, count: int) -> list[Genome]:
        """Children of the population; before the first `tell`, a first population."""
        if not self._population:
            initial = self._breeder.initial_genomes(count - 1, self._rng)
            return [self._breeder.unpruned, *(self._raised_to_floor(genome) for genome in initial)]
        return [self._child() for _ in range(count)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Selects the next population from the present one and the candidates."""
        super().tell(candidates)
        pool = {candidate.key: candidate for candidate in (*self._population, *candidates)}
        self._population = select_population(list(pool.values()), self._size, self._objective)

    def state(self) -> dict[str, Any]:
        """The generator's state, and the keys of the population and of the front."""
        return {
            "rng": self._rng.bit_generator.state,
            "population": keys_of(self._population),
            **super().state(),
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._rng.bit_generator.state = state["rng"]
        self._population = [candidates[key] for key in state["population"]]

    def _child(self) -> Genome:
        return self._raised_to_floor(self._breeder.breed(lambda: self._parent().genome, None, self._rng))

    def _raised_to_floor(self, genome: Genome) -> Genome:
        """The genome, with parts added if it costs less than the lowest target."""
        floor, breeder = self._objective.floor, self._breeder
        below = floor > 0 and breeder.cost_of(genome) < floor
        return breeder.fit_to_cost(genome, floor, self._rng) if below else genome

    def _parent(self) -> Candidate:
        """The better one of two random candidates; the first one if neither dominates the other."""
        one, other = (self._population[index] for index in self._rng.integers(len(self._population), size=2).tolist())
        return other if dominates(other, one, self._objective) else one


@algorithm("nsga2")
def make_nsga2(inputs: SearchInputs) -> Algorithm:
    """NSGA-II over single maps: the front of fitness and cost."""
    return NSGA2(inputs.map_breeder, inputs.objective, inputs.settings.population, inputs.rng)
