"""What a search minimises: errors, or what foretells them; and a cost down to where it is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

from evoprune.config.schema import CostName, FitnessName, SearchConfig
from evoprune.scoring.candidate import Candidate, Score


@dataclass(frozen=True)
class Objective:
    """cost: which of a score's costs. targets: such costs, the highest first; none: as cheap as the tolerance allows.

    fitness: what is minimised besides. What lies below the least target is no better than what lies at it: there, the
    fitness alone counts.
    """

    cost: CostName
    targets: tuple[float, ...] = ()
    fitness: FitnessName = "errors"

    @classmethod
    def of(cls, config: SearchConfig, full_cost: float) -> "Objective":
        """The config's. full_cost: the unpruned network's, also where a later round begins with a smaller one."""
        return cls(config.cost, tuple(share * full_cost for share in config.targets), config.judged_by)

    @property
    def floor(self) -> float:
        """The cost below which cheaper is no better."""
        return min(self.targets, default=0.0)

    def cost_of(self, candidate: Candidate) -> float:
        """What the candidate costs."""
        return score_cost(candidate.score, self.cost)

    def price(self, candidate: Candidate) -> float:
        """What the candidate costs as far as it matters: at least the floor."""
        return max(self.cost_of(candidate), self.floor)

    def fitness_of(self, candidate: Candidate) -> float:
        """What is minimised besides the cost: the candidate's errors, or their divergence, on the images seen."""
        value: float | None = getattr(candidate.score, self.fitness)
        assert value is not None, f"scores of this search have no {self.fitness}"
        return value

    def known(self, front: Sequence[Candidate]) -> tuple[tuple[float, float], ...]:
        """What a front says of others, as `Conditions.known`: (cost from which on, fitness)."""
        return tuple(
            (0.0 if self.cost_of(candidate) <= self.floor else self.cost_of(candidate), self.fitness_of(candidate))
            for candidate in front
        )


def score_cost(score: Score, cost: CostName) -> float:
    """The field of a score that a cost names."""
    value: float | None = getattr(score, cost)
    assert value is not None, f"scores of this search have no {cost}"
    return value
