"""The base class of search algorithms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.search.selection import feasible_front
from evoprune.space.plan import Genome


class Algorithm(ABC):
    """A search algorithm: proposes genomes (`ask`) and learns from their scores (`tell`).

    Everything else comes from outside: scores by any number of workers, their early stop, the record, and resuming. A
    subclass is made from a `SearchInputs`, and draws random numbers from `inputs.rng` alone; it extends `tell`, `state`
    and `restore`, and calls the base class's.

    Attributes:
        front: all feasible candidates so far that no other one dominates, cheapest first.

    Example:
        >>> class HillClimbing(ep.Algorithm):
        ...     '''Changes one gene of the best candidate at a time.'''
        ...     def __init__(self, inputs):
        ...         super().__init__(inputs.objective)
        ...         self.space, self.rng, self.best = inputs.space, inputs.rng, None
        ...     def ask(self, count):
        ...         if self.best is None:
        ...             return [self.space.full() for _ in range(count)]
        ...         return [self.neighbour() for _ in range(count)]
        ...     def neighbour(self):
        ...         genome, gene = self.best.genome.copy(), self.rng.integers(self.space.genes)
        ...         genome[gene] = self.rng.integers(self.space.cardinality[gene])
        ...         return self.space.repair(genome, self.rng.random(self.space.genes))
        ...     def tell(self, candidates):
        ...         super().tell(candidates)
        ...         self.best = self.front[0]
        ...     def state(self):
        ...         return super().state() | {"rng": self.rng.bit_generator.state, "best": self.best and self.best.key}
        ...     def restore(self, state, candidates):
        ...         super().restore(state, candidates)
        ...         self.rng.bit_generator.state, self.best = state["rng"], candidates.get(state["best"])

        In a config: `search: {algorithm: "my_module:HillClimbing"}`.
    """

    def __init__(self, objective: Objective):
        """Starts with an empty front. objective: by which candidates are compared."""
        self._objective = objective
        self.front: list[Candidate] = []

    @abstractmethod
    def ask(self, count: int) -> list[Genome]:
        """The next `count` genomes to score. The very first one is the unpruned network."""

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Takes the scored candidates of the genomes asked for, in the same order.

        The first call has the candidates of the whole first population.
        """
        self.front = feasible_front([*self.front, *candidates], self._objective)

    def dominance_bounds(self) -> tuple[tuple[float, float], ...]:
        """Bounds above which a candidate cannot matter any more, so that its scoring may stop.

        Returns:
            (cost, fitness) pairs: a candidate of that cost or more does not matter if its fitness is higher. By
            default those of the front.
        """
        return self._objective.dominance_bounds(self.front)

    def state(self) -> dict[str, Any]:
        """The algorithm's state as plain JSON data, for `restore`; candidates are named by their keys."""
        return {"front": keys_of(self.front)}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state.

        Args:
            state: what `state` returned.
            candidates: all candidates told before that state, by key.
        """
        self.front = [candidates[key] for key in state["front"]]


def keys_of(candidates: Sequence[Candidate]) -> list[str]:
    """The candidates' keys, in their order."""
    return [candidate.key for candidate in candidates]
