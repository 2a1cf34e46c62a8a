"""Search algorithms by name: what all have in common, and which one a config asks for."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.errors import ConfigError
from evoprune.scoring.candidate import Candidate
from evoprune.search.breeding import Breeder
from evoprune.search.fit_to_cost import CostOf, least
from evoprune.search.genetic import Genetic
from evoprune.search.nsga2 import NSGA2
from evoprune.search.objective import Objective
from evoprune.search.operators import Operators
from evoprune.search.particle_filter import ParticleFilter
from evoprune.search.pre_selection import PreSelection
from evoprune.search.random_search import RandomSearch
from evoprune.search.ranking import ranking
from evoprune.search.ranking_search import RankingSearch
from evoprune.search.surrogate import Surrogate
from evoprune.search.width_operators import WidthOperators, share_of_maps
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


class Algorithm(Protocol):
    """Ask for genomes, tell their candidates; whoever evaluates in between is free."""

    @property
    def front(self) -> list[Candidate]:
        """All feasible candidates so far that no other one beats, cheapest first."""

    def known(self) -> tuple[tuple[float, float], ...]:
        """(cost, fitness): a candidate of this cost or more that has more (by the objective) cannot matter any more."""

    def ask(self, count: int) -> list[Genome]:
        """So many genomes to be scored next; at first, the whole network is among them."""

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked for, in its order; the first time, of the whole first population."""

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""


class Learning:
    """An algorithm whose breeding goes by a surrogate, which is told what the algorithm is told."""

    def __init__(self, algorithm: Algorithm, surrogate: Surrogate):
        self._algorithm = algorithm
        self._surrogate = surrogate

    @property
    def front(self) -> list[Candidate]:
        return self._algorithm.front

    def known(self) -> tuple[tuple[float, float], ...]:
        """As the algorithm's."""
        return self._algorithm.known()

    def ask(self, count: int) -> list[Genome]:
        """As the algorithm's."""
        return self._algorithm.ask(count)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        self._surrogate.tell(candidates)
        self._algorithm.tell(candidates)

    def state(self) -> dict[str, Any]:
        """The algorithm's, and by which candidates the surrogate goes."""
        return self._algorithm.state() | {"surrogate": self._surrogate.keys}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._algorithm.restore(state, candidates)
        self._surrogate.restore(state["surrogate"], candidates)


def make_algorithm(
    space: SearchSpace,
    config: SearchConfig,
    preferences: Preferences,
    cost_of: CostOf,
    rng: np.random.Generator,
    whole_cost: float | None = None,
) -> Algorithm:
    """The algorithm that the config names. cost_of: what a genome costs, by `config.cost`.

    whole_cost: the unpruned network's, which targets are shares of; None: that of the space's whole network.

    Raises ConfigError where even the least network costs more than a target.
    """
    objective = Objective.of(config, cost_of(space.full()) if whole_cost is None else whole_cost)
    _check_reachable(space, config, objective, cost_of)
    maps = Operators(space, preferences, config)
    by_maps = Breeder(space, maps, preferences, cost_of, config.crossover_rate)
    match config.algorithm:
        case "random":
            return RandomSearch(space, objective, cost_of, rng)
        case "ranking":
            return RankingSearch(space, ranking(space, preferences.importance, config.scope), objective, cost_of)
        case "particle_filter":
            return ParticleFilter(by_maps, objective, config.generations, rng)
        case "genetic":
            return Genetic(by_maps, objective, config.population, rng)
        case "nsga2":
            return NSGA2(by_maps, objective, config.population, rng)
        case "widths":
            by_widths = Breeder(space, WidthOperators(maps), preferences, cost_of, config.crossover_rate)
            surrogate = Surrogate(space, objective)
            refinement = share_of_maps(space, config.refinement)
            litters = PreSelection(by_widths, by_maps, refinement, config.litter, surrogate)
            if not objective.targets:  # nor litters
                return NSGA2(litters, objective, config.population, rng)
            return Learning(Genetic(litters, objective, config.population, rng), surrogate)


def _check_reachable(space: SearchSpace, config: SearchConfig, objective: Objective, cost_of: CostOf) -> None:
    cheapest = cost_of(least(space))
    for share, target in zip(config.targets, objective.targets, strict=True):
        if cheapest > target:
            reachable = cheapest * share / target
            raise ConfigError(
                f"search.target_cost must be at least {np.ceil(1000 * reachable) / 1000:g} here (what stays "
                f"whole costs that share of the {config.cost}), not {share:g}; raise it, or let more layers go"
            )
