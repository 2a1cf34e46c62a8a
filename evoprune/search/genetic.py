"""A genetic algorithm with one objective: the best fitness at each target cost, or the lowest cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from deap import base, tools

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm, keys_of
from evoprune.search.breeding import Breeding
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.search.selection import violation
from evoprune.space.plan import Genome


class Genetic(Algorithm):
    """Elitist search with one population for each target: parents and children compete (mu + lambda).

    Without targets there is one population, ranked by cost within the tolerance. A child bred for one target may get
    into the population of any other. Parents are drawn by binary tournament.

    References:
        Holland 1975; Baeck and Schwefel 1993 (plus selection).
    """

    def __init__(self, breeder: Breeding, objective: Objective, population: int, rng: np.random.Generator):
        """Starts with empty populations.

        Args:
            breeder: makes first genomes and children.
            objective: by which candidates are compared, and the targets.
            population: number of candidates that survive a generation, over all targets together.
            rng: all random draws come from it.
        """
        super().__init__(objective)
        self._breeder = breeder
        self._targets: tuple[float | None, ...] = objective.targets or (None,)
        self._size = max(2, population // len(self._targets))
        self._rng = rng
        self._asked = 0
        self._populations: list[list[Candidate]] = [[] for _ in self._targets]

    def dominance_bounds(self) -> tuple[tuple[float, float], ...]:
        """The fitness of the last candidate in each full population: a worse one does not get into it.

        A bound holds from just above the next lower target, since a candidate of exactly that cost may get into the
        next population. Without targets there are none.
        """
        if not self._objective.targets:
            return ()
        targets = self._objective.targets
        just_above_next = [*(float(np.nextafter(target, np.inf)) for target in targets[1:]), 0.0]
        return tuple(
            (least_cost, self._objective.fitness_of(population[-1]))
            for target, least_cost, population in zip(targets, just_above_next, self._populations, strict=True)
            if len(population) == self._size and self._belongs_to(population[-1], target)
        )

    def ask(self, count: int) -> list[Genome]:
        """Children of the populations in turn; before the first `tell`, first populations."""
        if not self._populations[0]:
            initial = self._breeder.initial_genomes(count - 1, self._rng)
            genomes = [self._breeder.unpruned, *(self._at_target(each, place) for place, each in enumerate(initial))]
        else:
            genomes = [self._child(self._asked + place) for place in range(count)]
        self._asked += count
        return genomes

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Selects every target's next population from the present one and the candidates."""
        super().tell(candidates)
        for place, target in enumerate(self._targets):
            pool = {candidate.key: candidate for candidate in (*self._populations[place], *candidates)}
            ranked = tools.selBest(
                [_Ranked(candidate, target, self._objective) for candidate in pool.values()], self._size
            )
            self._populations[place] = [one.candidate for one in ranked]

    def state(self) -> dict[str, Any]:
        """The generator's state, the number of genomes asked for, and the keys of the populations and of the front."""
        return {
            "rng": self._rng.bit_generator.state,
            "asked": self._asked,
            "populations": [keys_of(population) for population in self._populations],
            **super().state(),
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._rng.bit_generator.state = state["rng"]
        self._asked = state["asked"]
        self._populations = [[candidates[key] for key in population] for population in state["populations"]]

    def _belongs_to(self, candidate: Candidate, target: float) -> bool:
        """Whether the candidate costs no more than the target and was scored on all images."""
        return candidate.score.exact and self._objective.cost_of(candidate) <= target

    def _child(self, place: int) -> Genome:
        population = self._populations[place % len(self._targets)]

        def draw_parent() -> Genome:  # The population is sorted: of two candidates, the one at the lower index wins.
            return population[int(self._rng.integers(len(population), size=2).min())].genome

        return self._breeder.breed(draw_parent, self._target_of(place), self._rng)

    def _at_target(self, genome: Genome, place: int) -> Genome:
        """The genome brought to the target of the population whose turn it is."""
        target = self._target_of(place)
        return genome if target is None else self._breeder.fit_to_cost(genome, target, self._rng)

    def _target_of(self, place: int) -> float | None:
        return self._targets[place % len(self._targets)]


class _Rank(base.Fitness):
    """DEAP's fitness of three values, compared in their order, all minimised."""

    weights = (-1.0, -1.0, -1.0)


class _Ranked:
    """A candidate with its rank in the population of one target, for DEAP's selection.

    With a target: candidates that cost more come last, by their cost; before them those that were not scored on all
    images; the others by fitness. Without one: feasible candidates by cost, then the others by `violation`.
    """

    def __init__(self, candidate: Candidate, target: float | None, objective: Objective):
        self.candidate = candidate
        cost, fitness = objective.cost_of(candidate), float(objective.fitness_of(candidate))
        kind, rate = violation(candidate, objective)
        if target is None:
            values = (float(kind), cost if kind == 0 else rate, fitness)
        elif cost > target:
            values = (3 + cost / target, fitness, cost)
        else:
            values = (float(kind), fitness if kind == 0 else rate, cost)
        self.fitness = _Rank(values)


@algorithm("genetic")
def make_genetic(inputs: SearchInputs) -> Algorithm:
    """A genetic algorithm over single maps with one objective: the fitness at each target, or the cost."""
    return Genetic(inputs.map_breeder, inputs.objective, inputs.settings.population, inputs.rng)
