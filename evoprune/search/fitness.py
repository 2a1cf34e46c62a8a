"""Candidates as DEAP's selection sees them: two objectives, and feasible before infeasible."""

from collections.abc import Sequence

from deap import base, tools

from evoprune.config import CostName
from evoprune.fitness.candidate import Candidate, Score


class ConstrainedFitness(base.Fitness):
    """(errors, cost), both minimised, under the tolerance: a feasible candidate dominates every infeasible one.

    Two infeasible ones compare by how near to feasible they are: by the share of images that were seen before the
    allowed errors were used up (a candidate that lasts longer makes fewer), then by errors on as many images.
    Deb 2000 (feasible first); Deb et al. 2002, definition 1 (constrained domination).
    """

    weights = (-1.0, -1.0)

    def __init__(self, candidate: Candidate, cost: CostName):
        score = candidate.score
        super().__init__((score.errors, candidate_cost(candidate, cost)))
        self.feasible = bool(score.feasible)
        self.violation = 0.0 if self.feasible else score.errors / score.images_seen

    def __hash__(self) -> int:
        return hash((self.feasible, self.violation, self.wvalues))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConstrainedFitness):
            return NotImplemented
        mine = self.feasible, self.violation, self.wvalues
        return mine == (other.feasible, other.violation, other.wvalues)

    def dominates(self, other: "ConstrainedFitness", obj: slice = slice(None)) -> bool:
        if self.feasible != other.feasible:
            return self.feasible
        if not self.feasible:
            return self.violation < other.violation
        return super().dominates(other, obj)


class Individual:
    """A candidate with its fitness, for DEAP's functions."""

    def __init__(self, candidate: Candidate, cost: CostName):
        self.candidate = candidate
        self.fitness = ConstrainedFitness(candidate, cost)


def candidate_cost(candidate: Candidate, cost: CostName) -> float:
    """What the search minimises besides errors."""
    return score_cost(candidate.score, cost)


def score_cost(score: Score, cost: CostName) -> float:
    """The field of a score that a cost names."""
    value: float | None = getattr(score, cost)
    assert value is not None, f"scores of this search have no {cost}"
    return value


def select(candidates: Sequence[Candidate], count: int, cost: CostName) -> list[Candidate]:
    """The best `count`: front by front, the last one by crowding. Deb et al. 2002, NSGA-II."""
    individuals = [Individual(candidate, cost) for candidate in candidates]
    return [individual.candidate for individual in tools.selNSGA2(individuals, count)]


def feasible_front(candidates: Sequence[Candidate], cost: CostName) -> list[Candidate]:
    """The feasible candidates that no other one beats in errors and cost, cheapest first, one a phenotype."""
    unique = {candidate.key: candidate for candidate in reversed(candidates) if candidate.score.feasible}
    if not unique:
        return []
    individuals = [Individual(candidate, cost) for candidate in reversed(unique.values())]
    front = tools.sortNondominated(individuals, len(individuals), first_front_only=True)[0]
    found = [individual.candidate for individual in front]
    return sorted(found, key=lambda c: (candidate_cost(c, cost), c.score.errors, c.key))
