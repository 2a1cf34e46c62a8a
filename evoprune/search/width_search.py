"""The search over widths: a genetic algorithm whose children are pre-selected by a surrogate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.genetic import Genetic
from evoprune.search.objective import Objective
from evoprune.search.pre_selection import PreSelection


class WidthSearch(Genetic):
    """The genetic algorithm over a breeder with pre-selection, whose surrogate learns from every candidate."""

    def __init__(self, breeder: PreSelection, objective: Objective, population: int, rng: np.random.Generator):
        """Starts with empty populations; arguments as of `Genetic`."""
        super().__init__(breeder, objective, population, rng)
        self._surrogate = breeder.surrogate

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """As `Genetic.tell`; the surrogate learns from the candidates, too."""
        super().tell(candidates)
        self._surrogate.tell(candidates)

    def state(self) -> dict[str, Any]:
        """The state of the genetic algorithm, and the keys of the surrogate's examples."""
        return {**super().state(), "surrogate": self._surrogate.keys}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._surrogate.restore(state["surrogate"], candidates)
