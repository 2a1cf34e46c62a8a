"""The search over widths: a genetic algorithm whose children are pre-selected by a surrogate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm
from evoprune.search.breeding import Breeder
from evoprune.search.genetic import Genetic
from evoprune.search.inputs import SearchInputs
from evoprune.search.nsga2 import NSGA2
from evoprune.search.objective import Objective
from evoprune.search.pre_selection import PreSelection
from evoprune.search.surrogate import Surrogate
from evoprune.search.width_operators import WidthOperators, gene_mutation_share


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


@algorithm("widths")
def make_width_search(inputs: SearchInputs) -> Algorithm:
    """Evolves the number of maps per group with a surrogate, and refines single maps."""
    space, settings, objective = inputs.space, inputs.settings, inputs.objective
    operators = WidthOperators(inputs.gene_operators)
    breeder = PreSelection(
        width_breeder=Breeder(space, operators, inputs.preferences, inputs.cost_of, settings.crossover_rate),
        map_breeder=inputs.map_breeder,
        map_share=gene_mutation_share(space, settings.refinement),
        brood_size=settings.litter,
        surrogate=Surrogate(space, objective),
    )
    # Without a target, children have different costs: nothing for the surrogate to choose among.
    make = WidthSearch if objective.targets else NSGA2
    return make(breeder, objective, settings.population, inputs.rng)
