"""Search algorithms by name."""

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.errors import ConfigError
from evoprune.search.algorithm import Algorithm
from evoprune.search.breeding import Breeder
from evoprune.search.fit_to_cost import CostOf, smallest_genome
from evoprune.search.genetic import Genetic
from evoprune.search.nsga2 import NSGA2
from evoprune.search.objective import Objective
from evoprune.search.operators import GeneOperators, MutationRates
from evoprune.search.particle_filter import ParticleFilter
from evoprune.search.pre_selection import PreSelection
from evoprune.search.random_search import RandomSearch
from evoprune.search.ranking import rank_maps
from evoprune.search.ranking_search import RankingSearch
from evoprune.search.surrogate import Surrogate
from evoprune.search.width_operators import WidthOperators, gene_mutation_share
from evoprune.search.width_search import WidthSearch
from evoprune.space.search_space import SearchSpace


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
        ConfigError: even the smallest network costs more than a target.
    """
    objective = Objective.of(config, cost_of(space.full()) if full_cost is None else full_cost)
    _check_reachable(space, config, objective, cost_of)
    rates = MutationRates(config.mutation_rate, config.kernel_mutation_rate, config.stride_mutation_rate)
    gene_operators = GeneOperators(space, preferences, rates)
    map_breeder = Breeder(space, gene_operators, preferences, cost_of, config.crossover_rate)
    match config.algorithm:
        case "random":
            return RandomSearch(space, objective, cost_of, rng)
        case "ranking":
            return RankingSearch(space, rank_maps(space, preferences.importance, config.scope), objective, cost_of)
        case "particle_filter":
            return ParticleFilter(map_breeder, objective, config.generations, rng)
        case "genetic":
            return Genetic(map_breeder, objective, config.population, rng)
        case "nsga2":
            return NSGA2(map_breeder, objective, config.population, rng)
        case "widths":
            breeder = PreSelection(
                width_breeder=Breeder(
                    space, WidthOperators(gene_operators), preferences, cost_of, config.crossover_rate
                ),
                map_breeder=map_breeder,
                map_share=gene_mutation_share(space, config.refinement),
                brood_size=config.litter,
                surrogate=Surrogate(space, objective),
            )
            # Without a target, children have different costs: nothing for the surrogate to choose among.
            algorithm = WidthSearch if objective.targets else NSGA2
            return algorithm(breeder, objective, config.population, rng)


def _check_reachable(space: SearchSpace, config: SearchConfig, objective: Objective, cost_of: CostOf) -> None:
    cheapest = cost_of(smallest_genome(space))
    for share, target in zip(config.targets, objective.targets, strict=True):
        if cheapest > target:
            reachable = cheapest * share / target
            raise ConfigError(
                f"search.target_cost must be at least {np.ceil(1000 * reachable) / 1000:g} here (the parts that cannot "
                f"be pruned cost that share of the {config.cost}), not {share:g}; raise it, or let more layers go"
            )
