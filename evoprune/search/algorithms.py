"""Search algorithms by name. Importing this file registers the built-in ones."""

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.errors import ConfigError
from evoprune.plugins.guard import is_own
from evoprune.plugins.kinds import ALGORITHMS
from evoprune.search import genetic, nsga2, particle_filter, random_search, ranking_search, width_search
from evoprune.search.algorithm import Algorithm
from evoprune.search.fit_to_cost import CostOf, smallest_genome
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.search.own_algorithm import OwnAlgorithm
from evoprune.space.search_space import SearchSpace

__all__ = [
    "ALGORITHMS",
    "genetic",
    "make_algorithm",
    "nsga2",
    "particle_filter",
    "random_search",
    "ranking_search",
    "width_search",
]


def make_algorithm(
    space: SearchSpace,
    config: SearchConfig,
    preferences: Preferences,
    cost_of: CostOf,
    rng: np.random.Generator,
    full_cost: float | None = None,
) -> Algorithm:
    """The algorithm that the config names.

    Args:
        space: search space of the genomes.
        config: names the algorithm and its settings.
        preferences: which parts rather stay.
        cost_of: cost of a genome, by `config.cost`.
        rng: all random draws of the algorithm come from it.
        full_cost: cost of the unpruned network, of which targets are shares. None: that of the space's whole network.

    Raises:
        ConfigError: there is no such algorithm, or even the smallest network costs more than a target.
        PluginError: an algorithm of the user's own fails.
    """
    objective = Objective.of(config, cost_of(space.full()) if full_cost is None else full_cost)
    _check_reachable(space, config, objective, cost_of)
    inputs = SearchInputs(space, objective, cost_of, preferences, config, rng)
    make = ALGORITHMS.find(config.algorithm)
    if is_own(config.algorithm):
        return OwnAlgorithm(config.algorithm, make, inputs)
    algorithm: Algorithm = make(inputs)
    return algorithm


def _check_reachable(space: SearchSpace, config: SearchConfig, objective: Objective, cost_of: CostOf) -> None:
    cheapest = cost_of(smallest_genome(space))
    for share, target in zip(config.targets, objective.targets, strict=True):
        if cheapest > target:
            reachable = cheapest * share / target
            raise ConfigError(
                f"search.target_cost must be at least {np.ceil(1000 * reachable) / 1000:g} here (the parts that cannot "
                f"be pruned cost that share of the {config.cost}), not {share:g}; raise it, or let more layers go"
            )
