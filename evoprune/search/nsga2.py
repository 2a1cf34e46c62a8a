"""NSGA-II over pruning genomes: the front of errors, or divergence, against cost, under the tolerance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.breeding import Breeding
from evoprune.search.objective import Objective
from evoprune.search.selection import dominates, feasible_front, select
from evoprune.space.plan import Genome


class NSGA2:
    """Elitist: parents and children compete for the next population. Parents are drawn by binary tournament.

    With targets the front ends at the least of them: below it, errors alone count.
    Deb, Pratap, Agarwal and Meyarivan 2002.
    """

    def __init__(self, breeder: Breeding, objective: Objective, population: int, rng: np.random.Generator):
        self._breeder = breeder
        self._objective = objective
        self._size = population
        self._rng = rng
        self._population: list[Candidate] = []
        self.front: list[Candidate] = []

    def known(self) -> tuple[tuple[float, float], ...]:
        """The front: what it beats cannot get on it."""
        return self._objective.known(self.front)

    def ask(self, count: int) -> list[Genome]:
        """So many genomes to be scored next; before anything was told, a first population, the whole network first."""
        if not self._population:
            starts = self._breeder.starts(count - 1, self._rng)
            return [self._breeder.whole, *(self._not_below(start) for start in starts)]
        return [self._child() for _ in range(count)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        pool = {candidate.key: candidate for candidate in (*self._population, *candidates)}
        self._population = select(list(pool.values()), self._size, self._objective)
        self.front = feasible_front([*self.front, *candidates], self._objective)

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "rng": self._rng.bit_generator.state,
            "population": [candidate.key for candidate in self._population],
            "front": [candidate.key for candidate in self.front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._rng.bit_generator.state = state["rng"]
        self._population = [candidates[key] for key in state["population"]]
        self.front = [candidates[key] for key in state["front"]]

    def _child(self) -> Genome:
        return self._not_below(self._breeder.child_at(lambda: self._parent().genome, None, self._rng))

    def _not_below(self, genome: Genome) -> Genome:
        """The genome, with more in it where it costs less than is asked for."""
        floor, breeder = self._objective.floor, self._breeder
        below = floor > 0 and breeder.cost_of(genome) < floor
        return breeder.fitted(genome, floor, self._rng) if below else genome

    def _parent(self) -> Candidate:
        """The better of two; of two that do not dominate each other, the first."""
        one, other = (self._population[index] for index in self._rng.integers(len(self._population), size=2).tolist())
        return other if dominates(other, one, self._objective) else one
