"""Comparison and selection of candidates: feasible before infeasible, then by fitness and cost."""

from collections.abc import Sequence

import numpy as np
from deap import base, tools

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.search.pareto import non_dominated


class FitnessAndCost(base.Fitness):
    """DEAP's fitness of two values, the fitness and the floored cost, both minimised."""

    weights = (-1.0, -1.0)


class Individual:
    """A candidate as DEAP's functions expect it: with an attribute `fitness`."""

    def __init__(self, candidate: Candidate, objective: Objective):
        self.candidate = candidate
        self.fitness = FitnessAndCost((objective.fitness_of(candidate), objective.floored_cost(candidate)))


def dominates(one: Candidate, other: Candidate, objective: Objective) -> bool:
    """Whether `one` constrained-dominates `other`.

    Of two feasible candidates, the one that is as good in fitness and cost and better in at least one; else the one of
    the lower `violation`.

    References:
        Deb 2000 (feasible before infeasible); Deb et al. 2002, definition 1 (constrained domination).
    """
    if one.score.feasible and other.score.feasible:
        fitness = objective.fitness_of(one) - objective.fitness_of(other)
        cost = objective.floored_cost(one) - objective.floored_cost(other)
        return fitness <= 0 and cost <= 0 and (fitness < 0 or cost < 0)
    return violation(one, objective) < violation(other, objective)


def violation(candidate: Candidate, objective: Objective) -> tuple[int, float]:
    """The distance of a candidate from feasible, as a pair that sorts.

    Returns:
        (0, 0.0) if it is feasible; (1, rate) if its scoring stopped because a known candidate dominates it; (2, rate)
        if it is infeasible. The rate is the mean fitness (for 1) or the mean number of errors (for 2) of the images
        seen: a candidate that used up its allowance later has a lower one.
    """
    score = candidate.score
    if score.feasible:
        return 0, 0.0
    if score.feasible is None:
        return 1, objective.fitness_of(candidate) / score.images_seen
    return 2, score.errors / score.images_seen


def select_population(candidates: Sequence[Candidate], count: int, objective: Objective) -> list[Candidate]:
    """The best `count` candidates.

    Feasible candidates come first, front by front, those of the last front by crowding distance; then the others by
    `violation`.

    References:
        Deb et al. 2002 (NSGA-II); Fortin, Grenier and Parizeau 2013 (the sort into fronts).
    """
    feasible = [Individual(candidate, objective) for candidate in candidates if candidate.score.feasible]
    chosen = tools.selNSGA2(feasible, count, nd="log") if feasible else []
    others = sorted((one for one in candidates if not one.score.feasible), key=lambda one: violation(one, objective))
    return [individual.candidate for individual in chosen] + others[: count - len(chosen)]


def feasible_front(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """The feasible candidates that no other one dominates in fitness and cost, cheapest first.

    Of several candidates with the same phenotype, the first one counts.
    """
    unique = {candidate.key: candidate for candidate in reversed(candidates) if candidate.score.feasible}
    if not unique:
        return []
    points = [(objective.floored_cost(one), objective.fitness_of(one)) for one in unique.values()]
    on_front = non_dominated(np.array(points, dtype=float))
    front = [candidate for candidate, stays in zip(unique.values(), on_front, strict=True) if stays]
    return sorted(
        front, key=lambda one: (objective.floored_cost(one), objective.fitness_of(one), objective.cost_of(one), one.key)
    )
