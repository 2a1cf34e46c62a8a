"""The input of search algorithms."""

from dataclasses import dataclass

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.search.breeding import Breeder
from evoprune.search.fit_to_cost import CostOf
from evoprune.search.objective import Objective
from evoprune.search.operators import GeneOperators, MutationRates
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class SearchInputs:
    """The inputs that an algorithm is made from.

    Attributes:
        space: search space of the genomes.
        objective: by which candidates are compared: fitness, cost and target costs.
        cost_of: cost of a genome (uint8 (genes,)), by `search.cost`.
        preferences: which parts rather stay, by `search.criterion`.
        settings: section `search` of the config: population, generations, rates.
        rng: all random draws come from it. Its state is part of the algorithm's.

    Example:
        >>> class HalfOfTheMaps(ep.Algorithm):
        ...     def __init__(self, inputs: ep.SearchInputs):
        ...         super().__init__(inputs.objective)
        ...         self.space, self.rng = inputs.space, inputs.rng
    """

    space: SearchSpace
    objective: Objective
    cost_of: CostOf
    preferences: Preferences
    settings: SearchConfig
    rng: np.random.Generator

    @property
    def gene_operators(self) -> GeneOperators:
        """Crossover and mutation of single genes."""
        settings = self.settings
        rates = MutationRates(settings.mutation_rate, settings.kernel_mutation_rate, settings.stride_mutation_rate)
        return GeneOperators(self.space, self.preferences, rates)

    @property
    def map_breeder(self) -> Breeder:
        """Children by crossover and mutation of single genes, brought to a target cost if there is one."""
        return Breeder(self.space, self.gene_operators, self.preferences, self.cost_of, self.settings.crossover_rate)
