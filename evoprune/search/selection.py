"""Candidates as DEAP's selection sees them: two objectives, and feasible before infeasible."""

from collections.abc import Sequence

from deap import base, tools

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective


class FeasibleFitness(base.Fitness):
    """(errors or divergence, price), both minimised."""

    weights = (-1.0, -1.0)


class Individual:
    """A candidate with its fitness, for DEAP's functions."""

    def __init__(self, candidate: Candidate, objective: Objective):
        self.candidate = candidate
        self.fitness = FeasibleFitness((objective.fitness_of(candidate), objective.price(candidate)))


def dominates(one: Candidate, other: Candidate, objective: Objective) -> bool:
    """Whether one is better under the tolerance: feasible before the others, those then by `shortfall`.

    Deb 2000 (feasible first); Deb et al. 2002, definition 1 (constrained domination).
    """
    if one.score.feasible and other.score.feasible:
        better = objective.fitness_of(one) - objective.fitness_of(other)
        cheaper = objective.price(one) - objective.price(other)
        return better <= 0 and cheaper <= 0 and (better < 0 or cheaper < 0)
    return shortfall(one, objective) < shortfall(other, objective)


def shortfall(candidate: Candidate, objective: Objective) -> tuple[int, float]:
    """How far from feasible: 0 where it is; then what was stopped since a known one beats it; then the infeasible.

    Two of either kind compare by what they were stopped for (the fitness; the errors) among the images that were seen
    before that was used up: one that lasts longer has less.
    """
    score = candidate.score
    if score.feasible:
        return 0, 0.0
    if score.feasible is None:
        return 1, objective.fitness_of(candidate) / score.images_seen
    return 2, score.errors / score.images_seen


def select(candidates: Sequence[Candidate], count: int, objective: Objective) -> list[Candidate]:
    """The best `count`: the feasible front by front, the last one by crowding; then the others by `shortfall`.

    Deb et al. 2002, NSGA-II; the fronts by Fortin, Grenier and Parizeau 2013.
    """
    feasible = [Individual(candidate, objective) for candidate in candidates if candidate.score.feasible]
    chosen = tools.selNSGA2(feasible, count, nd="log") if feasible else []
    others = sorted((one for one in candidates if not one.score.feasible), key=lambda one: shortfall(one, objective))
    return [individual.candidate for individual in chosen] + others[: count - len(chosen)]


def feasible_front(candidates: Sequence[Candidate], objective: Objective) -> list[Candidate]:
    """The feasible candidates that no other one beats in fitness and cost, cheapest first, one a phenotype."""
    unique = {candidate.key: candidate for candidate in reversed(candidates) if candidate.score.feasible}
    if not unique:
        return []
    individuals = [Individual(candidate, objective) for candidate in reversed(unique.values())]
    front = tools.sortLogNondominated(individuals, len(individuals), first_front_only=True)
    found = [individual.candidate for individual in front]
    return sorted(found, key=lambda c: (objective.price(c), objective.fitness_of(c), objective.cost_of(c), c.key))
