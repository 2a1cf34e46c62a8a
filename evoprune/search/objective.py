"""The objectives of a search: the errors or the divergence of a candidate, and its cost down to a target."""

from collections.abc import Sequence
from dataclasses import dataclass

from evoprune.config.choices import FitnessName
from evoprune.config.schema import SearchConfig
from evoprune.costs.costs_by_name import find_cost
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.candidate_costs import cost_in


@dataclass(frozen=True)
class Objective:
    """The two quantities that a search minimises: the fitness and the cost.

    Below the lowest target, a lower cost is no improvement: there the fitness alone counts.

    Attributes:
        column: the column of the minimised cost.
        targets: target costs in the unit of the cost, highest first. Empty: the lowest cost within the tolerance.
        fitness: name of the minimised fitness.
    """

    column: str
    targets: tuple[float, ...] = ()
    fitness: FitnessName = "errors"

    @classmethod
    def of(cls, config: SearchConfig, full_cost: float) -> "Objective":
        """The objectives that a config names.

        Args:
            config: names the cost, the fitness, and the targets as shares of `full_cost`.
            full_cost: cost of the unpruned network, also if a later round starts from a smaller one.
        """
        return cls(
            find_cost(config.cost).column, tuple(share * full_cost for share in config.targets), config.judged_by
        )

    @property
    def floor(self) -> float:
        """The cost below which a lower cost is no improvement; 0 without targets."""
        return min(self.targets, default=0.0)

    def cost_of(self, candidate: Candidate) -> float:
        """The candidate's cost."""
        return cost_in(self.column, candidate.score)

    def floored_cost(self, candidate: Candidate) -> float:
        """The candidate's cost, or the floor if the candidate costs less."""
        return max(self.cost_of(candidate), self.floor)

    def fitness_of(self, candidate: Candidate) -> float:
        """The candidate's errors, or the sum of its divergences, on the images it was scored on; lower is better."""
        value: float | None = getattr(candidate.score, self.fitness)
        assert value is not None, f"scores of this search have no {self.fitness}"
        return value

    def dominance_bounds(self, front: Sequence[Candidate]) -> tuple[tuple[float, float], ...]:
        """The bounds above which the candidates of a front dominate another one.

        Returns:
            (cost, fitness) of each candidate of the front: a candidate of that cost or more, with a higher fitness, is
            dominated. The cost is 0 if the front's candidate is at the floor or below.
        """
        return tuple(
            (0.0 if self.cost_of(candidate) <= self.floor else self.cost_of(candidate), self.fitness_of(candidate))
            for candidate in front
        )
