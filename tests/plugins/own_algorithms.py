"""Algorithms of a user's own: one that works, and one for every mistake."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import evoprune as ep


class HillClimbing(ep.Algorithm):
    """Children of the cheapest candidate of the front, each with one gene drawn anew."""

    def __init__(self, inputs: ep.SearchInputs):
        super().__init__(inputs.objective)
        self.space, self.rng = inputs.space, inputs.rng
        self.asked = 0

    def ask(self, count: int) -> list[np.ndarray]:
        parent = self.front[0].genome if self.front else self.space.full()
        self.asked += count
        return [parent if number == 0 else self.child(parent) for number in range(count)]

    def child(self, parent: np.ndarray) -> np.ndarray:
        genome = parent.copy()
        for gene in self.rng.integers(self.space.genes, size=2):
            genome[gene] = self.rng.integers(self.space.cardinality[gene])
        return self.space.repair(genome, self.rng.random(self.space.genes))

    def state(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "asked": self.asked}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.asked = state["asked"]


class FailsInTheThird(HillClimbing):
    """Fails when it is told the third generation."""

    generation = 0

    def tell(self, candidates: Sequence[Any]) -> None:
        self.generation += 1
        if self.generation == 3:
            raise RuntimeError("first line\nsecond line")


class Mended(FailsInTheThird):
    """Does not fail any more."""

    def tell(self, candidates: Sequence[Any]) -> None:
        return None


class TooFew(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return super().ask(count)[1:]


class Floats(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return [genome.astype(float) for genome in super().ask(count)]


class Longer(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return [np.append(genome, np.uint8(1)) for genome in super().ask(count)]


class Larger(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return [np.full_like(genome, 7) if number else genome for number, genome in enumerate(super().ask(count))]


class Nothing(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return [np.zeros_like(genome) if number else genome for number, genome in enumerate(super().ask(count))]


class OwnComplaint(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        raise ep.UserError("too cold")


class NotWhole(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return super().ask(count)[::-1]


class Lists(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return [genome.tolist() for genome in super().ask(count)]


class NothingAsked(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        return None  # type: ignore[return-value]


class StateOfArrays(HillClimbing):
    def state(self) -> dict[str, Any]:
        return {"genome": self.space.full()}


class StateOfTuples(HillClimbing):
    def state(self) -> dict[str, Any]:
        return {"pair": (1, 2)}


class Leaves(HillClimbing):
    def ask(self, count: int) -> list[np.ndarray]:
        raise SystemExit(0)


class NoAsk(ep.Algorithm):
    """Abstract still."""


def number(inputs: ep.SearchInputs) -> int:
    return 5


NOT_CALLABLE = "text"
