"""Genomes straight from a ranking: the most important feature maps stay, as many as a cost allows."""

from collections.abc import Callable

import numpy as np

from evoprune.config.schema import Scope
from evoprune.errors import ConfigError
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


def ranked_genome(
    space: SearchSpace, importance: np.ndarray, cost_target: float, scope: Scope, cost_of: Callable[[Genome], float]
) -> Genome:
    """The genome of the most important maps whose cost is at most `cost_target`, and nearest to it.

    importance: float (maps,), higher stays; a longer vector's first `space.maps` count. For global scope values have
    to be comparable over groups: see `criteria.Criterion`. cost_of: the cost of a genome, which must not fall when a
    map comes back. Kernels and taps all stay; widths are those that the groups' `minimum` and `round_to` allow.
    Raises ConfigError where even the least widths cost more.
    """
    order = ranking(space, importance[: space.maps], scope)
    return most_important(space, order, most_within(space, order, cost_target, cost_of))


def most_within(space: SearchSpace, order: np.ndarray, cost_target: float, cost_of: Callable[[Genome], float]) -> int:
    """How many maps of a ranking may stay, before repair, for the cost to be at most `cost_target`: the most.

    Raises ConfigError as `ranked_genome`.
    """
    fewest, most = 0, space.maps
    if (least := cost_of(most_important(space, order, fewest))) > cost_target:
        raise ConfigError(
            f"a ranking cannot reach a cost of {cost_target:g}: at the least widths allowed it is {least:g}; "
            "raise the target, or lower space.min_maps and space.round_to"
        )
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if cost_of(most_important(space, order, middle)) <= cost_target:
            fewest = middle
        else:
            most = middle - 1
    return fewest


def ranking(space: SearchSpace, importance: np.ndarray, scope: Scope) -> np.ndarray:
    """Feature maps, the most important first. importance: float (maps,). Returns int64 (maps,).

    scope: local: the same share of every group stays, to one map, for it goes through the groups' own ranks in step;
    global: all groups are ranked together.
    """
    values = ranks_within_groups(space, importance) if scope == "local" else importance
    return np.argsort(-values, kind="stable")


def most_important(space: SearchSpace, order: np.ndarray, count: int) -> Genome:
    """The genome in which the first `count` maps of a ranking stay, and what the least widths need besides."""
    genome = space.full()
    genome[order[count:]] = 0
    wanted = np.zeros(space.genes)
    wanted[order] = np.arange(len(order), 0, -1)
    return space.repair(genome, wanted)


def ranks_within_groups(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each map's rank within its group as a share: the least important has half a map's share. float64 (maps,)."""
    ranks = np.zeros(space.maps)
    for group in space.groups:
        order = np.argsort(importance[group.genes], kind="stable")
        ranks[group.start + order] = (np.arange(group.size) + 0.5) / group.size
    return ranks
