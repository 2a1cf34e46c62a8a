"""Genomes straight from a ranking: the most important feature maps stay, as many as a cost allows."""

import numpy as np

from evoprune.config.choices import Scope
from evoprune.errors import ConfigError
from evoprune.search.fit_to_cost import CostOf
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


def ranked_genome(
    space: SearchSpace, importance: np.ndarray, cost_target: float, scope: Scope, cost_of: CostOf
) -> Genome:
    """The genome of as many of the most important maps as the target cost allows.

    Kernels and taps all stay. Widths are those that the groups' `minimum` and `round_to` allow.

    Args:
        space: search space of the genome.
        importance: float (maps,), higher stays; of a longer vector the first `space.maps` values count. For global
            scope, values must be comparable between groups: see `Criterion`.
        cost_target: highest cost allowed.
        scope: how maps are ranked, see `rank_maps`.
        cost_of: cost of a genome; must not fall when a map comes back.

    Raises:
        ConfigError: even the minimum widths cost more than the target.
    """
    order = rank_maps(space, importance[: space.maps], scope)
    return top_ranked(space, order, most_maps_within(space, order, cost_target, cost_of))


def most_maps_within(space: SearchSpace, order: np.ndarray, cost_target: float, cost_of: CostOf) -> int:
    """The highest number of maps of a ranking (before repair) whose genome costs no more than the target.

    Raises:
        ConfigError: even the minimum widths cost more than the target.
    """
    fewest, most = 0, space.maps
    if (lowest := cost_of(top_ranked(space, order, fewest))) > cost_target:
        raise ConfigError(
            f"a ranking cannot reach a cost of {cost_target:g}: at the minimum widths it is {lowest:g}; "
            "raise the target, or lower space.min_maps and space.round_to"
        )
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if cost_of(top_ranked(space, order, middle)) <= cost_target:
            fewest = middle
        else:
            most = middle - 1
    return fewest


def rank_maps(space: SearchSpace, importance: np.ndarray, scope: Scope) -> np.ndarray:
    """Feature maps by importance, highest first.

    Args:
        space: search space of the maps.
        importance: float (maps,).
        scope: local: by the rank within each group, so that every group keeps the same share, to one map; global: all
            groups are ranked together.

    Returns:
        int64 (maps,), indices of maps.
    """
    values = ranks_within_groups(space, importance) if scope == "local" else importance
    return np.argsort(-values, kind="stable")


def top_ranked(space: SearchSpace, order: np.ndarray, count: int) -> Genome:
    """The genome that keeps the first `count` maps of a ranking, and as many more as the minimum widths need."""
    genome = space.full()
    genome[order[count:]] = 0
    importance = np.zeros(space.genes)
    importance[order] = np.arange(len(order), 0, -1)
    return space.repair(genome, importance)


def ranks_within_groups(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each map's rank within its group as a share, centred: (rank + 0.5) / size. Returns float64 (maps,)."""
    ranks = np.zeros(space.maps)
    for group in space.groups:
        order = np.argsort(importance[group.genes], kind="stable")
        ranks[group.start + order] = (np.arange(group.size) + 0.5) / group.size
    return ranks
