"""Random search: random masks at given ratios, of which the best are kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm
from evoprune.search.fit_to_cost import CostOf, fit_to_cost
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

LOWEST_SHARE = 0.05
"""Without a target, cost shares are drawn between this and 1."""


class RandomSearch(Algorithm):
    """Every genome keeps random parts, the same share of every group; nothing is learnt from the scores.

    With targets, genomes cost each of them in turn; without one, a share of the unpruned cost is drawn uniformly for
    each genome.

    References:
        Anwar and Sung 2016 (N random masks at a ratio, of which the best is kept).
    """

    def __init__(self, space: SearchSpace, objective: Objective, cost_of: CostOf, rng: np.random.Generator):
        """Starts with nothing asked for.

        Args:
            space: search space of the genomes.
            objective: by which candidates are compared, and the targets.
            cost_of: cost of a genome.
            rng: all random draws come from it.
        """
        super().__init__(objective)
        self._space = space
        self._cost_of = cost_of
        self._rng = rng
        self._asked = 0

    def ask(self, count: int) -> list[Genome]:
        """Random genomes."""
        first, self._asked = self._asked, self._asked + count
        return [self._draw(number) if number else self._space.full() for number in range(first, first + count)]

    def state(self) -> dict[str, Any]:
        """The generator's state, the number of genomes asked for, and the keys of the front."""
        return {"rng": self._rng.bit_generator.state, "asked": self._asked, **super().state()}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._rng.bit_generator.state = state["rng"]
        self._asked = state["asked"]

    def _draw(self, number: int) -> Genome:
        targets = self._objective.targets
        if targets:
            return random_genome_at(self._space, targets[number % len(targets)], self._cost_of, self._rng)
        share = self._rng.uniform(LOWEST_SHARE, 1)
        return random_genome_at(self._space, share * self._cost_of(self._space.full()), self._cost_of, self._rng)


def random_genome_at(space: SearchSpace, target: float, cost_of: CostOf, rng: np.random.Generator) -> Genome:
    """A random genome that costs no more than the target, and hardly less.

    Strides are drawn from their tables, all masks equally likely; then `fit_to_cost` removes random maps and kernels,
    the same share of every group and layer.
    """
    genome = space.full()
    for strides in space.strides:
        genome[strides.genes] = rng.integers(len(strides.table), size=strides.size)
    return fit_to_cost(space, genome, target, cost_of, rng.random(space.genes))


@algorithm("random")
def make_random_search(inputs: SearchInputs) -> Algorithm:
    """Random masks at given costs, of which the best are kept, as by Anwar and Sung."""
    return RandomSearch(inputs.space, inputs.objective, inputs.cost_of, inputs.rng)
