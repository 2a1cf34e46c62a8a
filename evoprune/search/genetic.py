"""A genetic algorithm with one objective: the best fitness at a target cost, or least cost within the tolerance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from deap import base, tools

from evoprune.scoring.candidate import Candidate
from evoprune.search.breeding import Breeding
from evoprune.search.objective import Objective
from evoprune.search.selection import feasible_front, shortfall
from evoprune.space.plan import Genome


class Genetic:
    """Elitist: parents and children compete (mu + lambda). One population a target; a child may get into any of them.

    Parents are drawn by binary tournament. Holland 1975; plus selection as in Baeck and Schwefel 1993.
    """

    def __init__(self, breeder: Breeding, objective: Objective, population: int, rng: np.random.Generator):
        self._breeder = breeder
        self._objective = objective
        self._targets: tuple[float | None, ...] = objective.targets or (None,)
        self._size = max(2, population // len(self._targets))
        self._rng = rng
        self._asked = 0
        self._populations: list[list[Candidate]] = [[] for _ in self._targets]
        self.front: list[Candidate] = []

    def known(self) -> tuple[tuple[float, float], ...]:
        """What gets into no population: more errors, or divergence, than the last one in it, at a cost for it or more.

        What costs just as much as the next target is for that one's population.
        """
        if not self._objective.targets:
            return ()
        targets = self._objective.targets
        above = [*(float(np.nextafter(target, np.inf)) for target in targets[1:]), 0.0]
        return tuple(
            (least, self._objective.fitness_of(population[-1]))
            for target, least, population in zip(targets, above, self._populations, strict=True)
            if len(population) == self._size and self._is_in(population[-1], target)
        )

    def ask(self, count: int) -> list[Genome]:
        """So many genomes to be scored next, the populations' in turn; the first time, the whole network first."""
        if not self._populations[0]:
            starts = self._breeder.starts(count - 1, self._rng)
            genomes = [self._breeder.whole, *(self._at(start, place) for place, start in enumerate(starts))]
        else:
            genomes = [self._child(self._asked + place) for place in range(count)]
        self._asked += count
        return genomes

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        for place, target in enumerate(self._targets):
            pool = {candidate.key: candidate for candidate in (*self._populations[place], *candidates)}
            ranked = tools.selBest(
                [_Ranked(candidate, target, self._objective) for candidate in pool.values()], self._size
            )
            self._populations[place] = [one.candidate for one in ranked]
        self.front = feasible_front([*self.front, *candidates], self._objective)

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "rng": self._rng.bit_generator.state,
            "asked": self._asked,
            "populations": [[candidate.key for candidate in population] for population in self._populations],
            "front": [candidate.key for candidate in self.front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._rng.bit_generator.state = state["rng"]
        self._asked = state["asked"]
        self._populations = [[candidates[key] for key in population] for population in state["populations"]]
        self.front = [candidates[key] for key in state["front"]]

    def _is_in(self, candidate: Candidate, target: float) -> bool:
        """Whether the candidate is one that the target asks for, scored to its end."""
        return candidate.score.exact and self._objective.cost_of(candidate) <= target

    def _child(self, place: int) -> Genome:
        population = self._populations[place % len(self._targets)]

        def parent() -> Genome:  # the population is sorted: the better of two is the first of them
            return population[int(self._rng.integers(len(population), size=2).min())].genome

        return self._breeder.child_at(parent, self._target_of(place), self._rng)

    def _at(self, genome: Genome, place: int) -> Genome:
        """The genome brought to the target of the population whose turn it is."""
        target = self._target_of(place)
        return genome if target is None else self._breeder.fitted(genome, target, self._rng)

    def _target_of(self, place: int) -> float | None:
        return self._targets[place % len(self._targets)]


class _LastFirst(base.Fitness):
    """Compared in this order, all minimised: what is not allowed, then what is sought, then the tie's."""

    weights = (-1.0, -1.0, -1.0)


class _Ranked:
    """A candidate as one population ranks it.

    With a target: what costs more than it last, by how much; then what was not scored to its end; then by fitness.
    Without: the feasible first, by cost; the others by how far they are from it.
    """

    def __init__(self, candidate: Candidate, target: float | None, objective: Objective):
        self.candidate = candidate
        cost, fitness = objective.cost_of(candidate), float(objective.fitness_of(candidate))
        kind, rate = shortfall(candidate, objective)
        if target is None:
            values = (float(kind), cost if kind == 0 else rate, fitness)
        elif cost > target:
            values = (3 + cost / target, fitness, cost)
        else:
            values = (float(kind), fitness if kind == 0 else rate, cost)
        self.fitness = _LastFirst(values)
