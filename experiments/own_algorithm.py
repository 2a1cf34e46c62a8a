"""A search algorithm of one's own: ask and tell in a file of one's own.

    python experiments/own_algorithm.py

Early stop, the record, resuming and Ray come from evoprune. In a config it is
`search: {algorithm: "own_algorithm:Annealing"}`, if the folder of this file is where Python looks for modules (the
current directory is).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import evoprune as ep

COOLING = 0.9
"""Factor of the temperature from one generation to the next."""


class Annealing(ep.Algorithm):
    """Simulated annealing: neighbours of one genome, each with a fifth of its genes drawn anew as the search is hot.

    References:
        Kirkpatrick, Gelatt and Vecchi 1983.
    """

    def __init__(self, inputs: ep.SearchInputs):
        super().__init__(inputs.objective)
        self.space, self.objective, self.rng = inputs.space, inputs.objective, inputs.rng
        self.temperature = 1.0
        self.current: Any = None

    def ask(self, count: int) -> list[np.ndarray]:
        """Neighbours of the present candidate; the first genome of all is the unpruned network."""
        if self.current is None:
            return [self.space.full(), *(self.neighbour(self.space.full()) for _ in range(count - 1))]
        return [self.neighbour(self.current.genome) for _ in range(count)]

    def neighbour(self, genome: np.ndarray) -> np.ndarray:
        """The genome with some genes drawn anew, and repaired, so that every group keeps a map."""
        drawn = self.rng.integers(self.space.cardinality)
        changed = self.rng.random(self.space.genes) < 0.2 * self.temperature + 1 / self.space.genes
        return self.space.repair(np.where(changed, drawn, genome).astype(np.uint8), self.rng.random(self.space.genes))

    def tell(self, candidates: Sequence[Any]) -> None:
        """Moves to a cheaper candidate within the tolerance, or by chance to one that costs a little more."""
        super().tell(candidates)
        for candidate in candidates:
            if candidate.score.feasible:
                self.current = self.current or candidate
                change = self.objective.cost_of(candidate) / self.objective.cost_of(self.current) - 1
                if change < 0 or self.rng.random() < np.exp(-10 * change / self.temperature):
                    self.current = candidate
        self.temperature *= COOLING

    def state(self) -> dict[str, Any]:
        """Everything that the next generation depends on, as plain JSON; candidates by their keys."""
        return {
            "rng": self.rng.bit_generator.state,
            "temperature": self.temperature,
            "current": self.current and self.current.key,
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Any]) -> None:
        """Continues from a state."""
        self.rng.bit_generator.state = state["rng"]
        self.temperature = state["temperature"]
        self.current = candidates.get(state["current"])


if __name__ == "__main__":
    run = ep.run(
        "experiments/quickstart.yaml",
        overrides={"search.algorithm": "own_algorithm:Annealing"},
        out="results/own_algorithm",
    )
    print(run.survivors[["key", "macs_ratio", "mcr_test", "baseline_mcr_test"]].to_string(index=False))
