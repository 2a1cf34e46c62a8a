"""Random search: masks drawn at a given ratio, the best of which is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.fit_to_cost import CostOf, fitted
from evoprune.search.objective import Objective
from evoprune.search.selection import feasible_front
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

LEAST_SHARE = 0.05
"""Without a target, ratios are drawn between this and 1."""


class RandomSearch:
    """Every genome keeps random parts, the same share of every group; nothing is learnt from the scores.

    With targets their ratios in turn, without any a ratio drawn uniformly for each genome.
    Anwar and Sung 2016 (N random masks at a ratio, the best one kept).
    """

    def __init__(self, space: SearchSpace, objective: Objective, cost_of: CostOf, rng: np.random.Generator):
        self._space = space
        self._objective = objective
        self._cost_of = cost_of
        self._rng = rng
        self._asked = 0
        self.front: list[Candidate] = []

    def known(self) -> tuple[tuple[float, float], ...]:
        """The front: what it beats is not kept."""
        return self._objective.known(self.front)

    def ask(self, count: int) -> list[Genome]:
        """So many random genomes; the very first one is the whole network."""
        first, self._asked = self._asked, self._asked + count
        return [self._drawn(place) if place else self._space.full() for place in range(first, first + count)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        self.front = feasible_front([*self.front, *candidates], self._objective)

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "rng": self._rng.bit_generator.state,
            "asked": self._asked,
            "front": [candidate.key for candidate in self.front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._rng.bit_generator.state = state["rng"]
        self._asked = state["asked"]
        self.front = [candidates[key] for key in state["front"]]

    def _drawn(self, place: int) -> Genome:
        targets = self._objective.targets
        if targets:
            return drawn_at(self._space, targets[place % len(targets)], self._cost_of, self._rng)
        share = self._rng.uniform(LEAST_SHARE, 1)
        return drawn_at(self._space, share * self._cost_of(self._space.full()), self._cost_of, self._rng)


def drawn_at(space: SearchSpace, target: float, cost_of: CostOf, rng: np.random.Generator) -> Genome:
    """A genome of random parts that costs the target at most: every group and layer keeps the same share.

    Strides are drawn from their tables, all masks equally likely; `fitted` then comes to the target.
    """
    genome = space.full()
    for strides in space.strides:
        genome[strides.genes] = rng.integers(len(strides.table), size=strides.size)
    return fitted(space, genome, target, cost_of, rng.random(space.genes))
